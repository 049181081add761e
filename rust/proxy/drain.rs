// SPDX-License-Identifier: GPL-2.0

//! Drain: the end of what is disabled or removed. Nothing new begins, exchanges are completed, and tunnels are closed
//! one after the other, spread evenly over `net.squall.drain_ms`.
//!
//! Each listener, route and server has one. Context: any.

use super::session::{
    Conn,
    DRAIN, //
};
use crate::net::{
    stats::Tally,
    sysctl,
    AtomicMoment,
    Moment, //
};
use kernel::sync::atomic::{
    ordering::Relaxed,
    Atomic, //
};

/// The state of a drain, and the turns of its tunnels.
pub(crate) struct Drain {
    since: AtomicMoment,
    /// Milliseconds over which tunnels are spread.
    over: Atomic<u32>,
    /// Tunnels that were open when it began.
    tunnels: Atomic<u32>,
    /// Tunnels that have got their turn.
    given: Atomic<u32>,
}

impl Drain {
    /// Makes a drain that is not under way.
    pub(crate) const fn new() -> Drain {
        Drain {
            since: AtomicMoment::none(),
            over: Atomic::new(0),
            tunnels: Atomic::new(0),
            given: Atomic::new(0),
        }
    }

    /// Begins, with this many tunnels open. Process context. The caller tells the connections.
    pub(crate) fn begin(&self, tunnels: u32) {
        self.over.store(sysctl::drain_ms(), Relaxed);
        self.tunnels.store(tunnels, Relaxed);
        self.given.store(0, Relaxed);
        self.since.set(Some(Moment::now()));
    }

    /// Ends it: tunnels whose turn has not come stay open.
    pub(crate) fn end(&self) {
        self.since.set(None);
    }

    /// Returns whether it is under way.
    pub(crate) fn is_on(&self) -> bool {
        self.since.get().is_some()
    }

    /// Takes the next turn and returns when its tunnel is to be closed; `None` if it is not.
    pub(crate) fn turn(&self) -> Option<Moment> {
        let since = self.since.get()?;
        let over = u64::from(self.over.load(Relaxed));
        let tunnels = u64::from(self.tunnels.load(Relaxed));
        let turn = u64::from(self.given.fetch_add(1, Relaxed));
        // Tunnels that have been opened since come last.
        let after = over
            .saturating_mul(turn)
            .checked_div(tunnels)
            .unwrap_or(0)
            .min(over);
        Some(since.after_ms(u32::try_from(after).unwrap_or(u32::MAX)))
    }
}

/// The tunnels of a server, whichever of its addresses they were opened to.
#[derive(Default)]
pub(crate) struct Tunnels {
    /// The server is disabled or removed.
    pub(crate) drain: Drain,
    opened: Tally,
    closed: Tally,
}

impl Default for Drain {
    fn default() -> Self {
        Drain::new()
    }
}

impl Tunnels {
    /// Notes that a tunnel was opened.
    pub(super) fn opened(&self) {
        self.opened.inc();
    }

    /// Notes that a tunnel is closed.
    pub(super) fn closed(&self) {
        self.closed.inc();
    }

    /// Returns how many are open.
    pub(crate) fn open(&self) -> u32 {
        // Reads the later counter first, so that the difference is never negative.
        let closed = self.closed.get();
        let open = self.opened.get().saturating_sub(closed);
        u32::try_from(open).unwrap_or(u32::MAX)
    }

    /// Lets them end in their turn. Process context.
    pub(crate) fn drain(&self) {
        self.drain.begin(self.open());
        Conn::post_all(DRAIN);
    }
}
