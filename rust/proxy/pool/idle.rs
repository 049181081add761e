// SPDX-License-Identifier: GPL-2.0

//! The idle connections of a pool: which one is used next, and how long each is kept.
//!
//! Context: the lock of the pool held.

use super::super::session::Conn;
use crate::net::Moment;
use kernel::{
    prelude::*,
    sync::aref::ARef, //
};

/// How many idle connections are kept, and how long.
#[derive(Clone, Copy)]
pub(super) struct Keep {
    /// The number that is kept without a time limit.
    pub(super) always: u32,
    /// The number that is kept for a while.
    pub(super) most: u32,
    /// That while, in milliseconds.
    pub(super) ms: u32,
}

impl Keep {
    /// Returns how many may be idle at a time. `served`: the server keeps connections open.
    pub(super) fn room(&self, served: bool) -> u32 {
        match served && self.ms > 0 {
            true => self.always.max(self.most),
            false => self.always,
        }
    }
}

/// A connection that is ready for a request.
struct Ready {
    conn: ARef<Conn>,
    /// Since when it is idle.
    since: Moment,
}

/// The idle connections, in the order in which they became idle. The last one is used next, so surplus ones stay at the
/// front and grow old.
pub(super) struct Idle(KVec<Ready>);

impl Idle {
    pub(super) const fn new() -> Idle {
        Idle(KVec::new())
    }

    pub(super) fn len(&self) -> u32 {
        self.0.len() as u32
    }

    /// Takes the connection that is to be used next.
    pub(super) fn take(&mut self) -> Option<ARef<Conn>> {
        self.0.pop().map(|ready| ready.conn)
    }

    /// Adds a connection that has served a request. Returns `false` and does not add it if there is no memory.
    pub(super) fn add(&mut self, conn: &ARef<Conn>) -> bool {
        self.push(conn, Moment::now())
    }

    /// Adds an unused connection. It is used last: a server that serves one connection at a time may not notice it
    /// before others are closed.
    pub(super) fn add_unused(&mut self, conn: &ARef<Conn>) -> bool {
        // It gets the time of the oldest one, so that the order stays one of time.
        let since = self.0.first().map_or_else(Moment::now, |first| first.since);
        let added = self.push(conn, since);
        if added {
            self.0.as_mut_slice().rotate_right(1);
        }
        added
    }

    fn push(&mut self, conn: &ARef<Conn>, since: Moment) -> bool {
        let ready = Ready {
            conn: conn.clone(),
            since,
        };
        self.0.push(ready, GFP_ATOMIC | __GFP_NOWARN).is_ok()
    }

    /// Removes a connection; `false` if it is not idle.
    pub(super) fn remove(&mut self, conn: &Conn) -> bool {
        let mut all = self.0.as_slice().iter();
        let found = all.position(|ready| core::ptr::eq(&raw const *ready.conn, conn));
        found.is_some_and(|place| self.0.remove(place).is_ok())
    }

    /// Takes the oldest connection if it is no longer to be kept.
    pub(super) fn take_surplus(&mut self, keep: &Keep) -> Option<ARef<Conn>> {
        let due = self.len() > keep.room(true) || self.due_in(keep) == Some(0);
        let oldest = due.then(|| self.0.remove(0).ok()).flatten();
        oldest.map(|ready| ready.conn)
    }

    /// Returns the milliseconds until [`Self::take_surplus`] will find something; `None` if it never will.
    pub(super) fn due_in(&self, keep: &Keep) -> Option<u32> {
        let oldest = self.0.first().filter(|_| self.len() > keep.always)?;
        Some(Moment::now().ms_until(oldest.since.after_ms(keep.ms)))
    }

    /// Takes all.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = ARef<Conn>> {
        let all = core::mem::take(&mut self.0);
        all.into_iter().map(|ready| ready.conn)
    }
}
