// SPDX-License-Identifier: GPL-2.0

//! The requests that wait for a connection of a pool, in order.
//!
//! Context: the lock of the pool held.

use super::super::session::Conn;
use core::mem;
use kernel::{
    prelude::*,
    sync::aref::ARef, //
};

/// Downstream connections that want a connection of the pool.
pub(super) struct Waiters {
    /// The first is at `first`. `None` no longer waits.
    places: KVec<Option<ARef<Conn>>>,
    first: usize,
    /// The number of those that still wait.
    waiting: usize,
}

impl Waiters {
    pub(super) const fn new() -> Waiters {
        Waiters {
            places: KVec::new(),
            first: 0,
            waiting: 0,
        }
    }

    /// Returns how many wait.
    pub(super) fn count(&self) -> u32 {
        self.waiting as u32
    }

    /// Returns how many places are in use. A cancelled place may stay in use for a while.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// Adds one; `false` if there is no memory for it.
    pub(super) fn add(&mut self, conn: &Conn) -> bool {
        let waiter = Some(conn.into());
        let added = self.places.push(waiter, GFP_ATOMIC | __GFP_NOWARN).is_ok();
        self.waiting = self.waiting.saturating_add(usize::from(added));
        added
    }

    /// Takes the one that has waited longest.
    pub(super) fn next(&mut self) -> Option<ARef<Conn>> {
        loop {
            let place = self.places.as_mut_slice().get_mut(self.first)?;
            let waiter = place.take();
            self.first = self.first.saturating_add(1);
            self.drop_served();
            if waiter.is_some() {
                self.waiting = self.waiting.saturating_sub(1);
                return waiter;
            }
        }
    }

    fn drop_served(&mut self) {
        // Served places are dropped when they are the larger half, so that the cost of moving is amortised.
        if self.first.saturating_mul(2) >= self.places.len() {
            let served = mem::take(&mut self.first);
            self.places.as_mut_slice().rotate_left(served);
            let left = self.places.len().saturating_sub(served);
            self.places.truncate(left);
        }
    }

    /// Takes out one that no longer waits. Those that have waited longest give up first, so it is found soon. Drop the
    /// returned reference without the lock.
    pub(super) fn cancel(&mut self, conn: &Conn) -> Option<ARef<Conn>> {
        let waiters = self.places.as_mut_slice().get_mut(self.first..);
        let place = waiters.unwrap_or(&mut []).iter_mut().find(|place| {
            place
                .as_ref()
                .is_some_and(|waiter| core::ptr::eq(&raw const **waiter, conn))
        });
        let waiter = place.and_then(Option::take);
        if waiter.is_some() {
            self.waiting = self.waiting.saturating_sub(1);
            self.drop_cancelled();
        }
        waiter
    }

    /// Frees the cancelled places when they are the larger half.
    fn drop_cancelled(&mut self) {
        if self.waiting.saturating_mul(2) < self.places.len() {
            self.places.retain(|waiter| waiter.is_some());
            self.first = 0;
        }
    }

    /// Takes all.
    pub(super) fn take_all(&mut self) -> KVec<Option<ARef<Conn>>> {
        (self.first, self.waiting) = (0, 0);
        mem::take(&mut self.places)
    }
}
