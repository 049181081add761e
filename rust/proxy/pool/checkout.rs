// SPDX-License-Identifier: GPL-2.0

//! The right to use a server connection.
//!
//! Context: softirq; the lock of the downstream connection that has the right may be held.

use super::{
    super::session::{
        Conn,
        GONE, //
    },
    hand_out,
    replace,
    Pool, //
};
use crate::net::stats::{
    self,
    Counter, //
};
use kernel::sync::aref::ARef;

/// The exclusive right to use one server connection. Dropping it closes the connection.
pub(crate) struct Checkout {
    conn: Option<ARef<Conn>>,
    pool: ARef<Pool>,
}

impl Checkout {
    pub(super) fn new(conn: ARef<Conn>, pool: ARef<Pool>) -> Checkout {
        Checkout {
            conn: Some(conn),
            pool,
        }
    }

    /// Returns the connection.
    pub(crate) fn conn(&self) -> Option<&ARef<Conn>> {
        self.conn.as_ref()
    }

    /// Returns the pool.
    pub(crate) fn pool(&self) -> &ARef<Pool> {
        &self.pool
    }

    /// Gives the connection back after a complete response, ready for another request.
    pub(crate) fn put_back(mut self) {
        if let Some(conn) = self.conn.take() {
            hand_out(&self.pool, conn, true);
        }
    }

    /// Gives back a connection that was not used.
    pub(crate) fn put_back_unused(mut self) {
        if let Some(conn) = self.conn.take() {
            hand_out(&self.pool, conn, false);
        }
    }

    /// Keeps the connection for a tunnel. The pool opens another one if it needs one.
    pub(crate) fn into_tunnel(mut self) -> Option<ARef<Conn>> {
        replace(&self.pool);
        self.conn.take()
    }

    /// Keeps the connection for the client connection that used it, until that has another request. Meanwhile it does
    /// not count as one of the pool's, so it takes no place away from others.
    pub(crate) fn into_own(mut self) -> Own {
        replace(&self.pool);
        stats::inc(Counter::Kept);
        Own {
            conn: self.conn.take(),
            pool: self.pool.clone(),
        }
    }

    /// Returns the connection without a change to the pool.
    pub(super) fn take(mut self) -> Option<ARef<Conn>> {
        self.conn.take()
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            replace(&self.pool);
            conn.post(GONE);
        }
    }
}

/// A server connection that belongs to one client connection and has no request now. Dropping it closes the connection.
pub(crate) struct Own {
    conn: Option<ARef<Conn>>,
    pool: ARef<Pool>,
}

impl Own {
    /// Returns the pool that the connection comes from.
    pub(crate) fn pool(&self) -> &ARef<Pool> {
        &self.pool
    }

    /// Uses the connection for a request, which waits for no other request. `None` if the server gets no requests now.
    pub(crate) fn resume(mut self) -> Option<Checkout> {
        let mut shared = self.pool.shared.lock();
        if shared.stopped || !shared.record.admit() {
            return None;
        }
        shared.owned = shared.owned.saturating_add(1);
        drop(shared);
        Some(Checkout {
            conn: self.conn.take(),
            pool: self.pool.clone(),
        })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            conn.post(GONE);
        }
    }
}
