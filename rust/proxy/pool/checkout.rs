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
    Pool, //
};
use kernel::sync::aref::ARef;

/// The right to use one server connection, alone. Dropping it closes the connection.
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

    /// Gives the connection back, ready for another request: one that it has served has been answered.
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

    /// Keeps the connection for a tunnel: the pool makes another if it wants one.
    pub(crate) fn into_tunnel(mut self) -> Option<ARef<Conn>> {
        self.pool.forget();
        self.pool.kick();
        self.conn.take()
    }

    /// Returns the connection without a change to the pool.
    pub(super) fn take(mut self) -> Option<ARef<Conn>> {
        self.conn.take()
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.forget();
            self.pool.kick();
            conn.post(GONE);
        }
    }
}
