// SPDX-License-Identifier: GPL-2.0

//! The end of what is disabled or removed: nothing new begins, exchanges are completed, and tunnels are
//! closed one after the other, spread evenly over `net.squall.drain_ms`.
//!
//! A listener, a route and a server have one each. Context: any.

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

/// Whether something is being drained, and whose turn it is.
pub(crate) struct Drain {
    since: AtomicMoment,
    /// Milliseconds over which tunnels are spread.
    over: Atomic<u32>,
    /// Tunnels that were open when it began.
    tunnels: Atomic<u32>,
    /// Tunnels that have been given their turn.
    given: Atomic<u32>,
}

impl Drain {
    /// Makes one that is not under way.
    pub(crate) const fn new() -> Drain {
        Drain {
            since: AtomicMoment::none(),
            over: Atomic::new(0),
            tunnels: Atomic::new(0),
            given: Atomic::new(0),
        }
    }

    /// Begins, with so many tunnels open. Process context; whoever calls tells the connections.
    pub(crate) fn begin(&self, tunnels: u32) {
        self.over.store(sysctl::drain(), Relaxed);
        self.tunnels.store(tunnels, Relaxed);
        self.given.store(0, Relaxed);
        self.since.set(Some(Moment::now()));
    }

    /// Ends it: tunnels whose turn has not come stay open.
    pub(crate) fn end(&self) {
        self.since.set(None);
    }

    /// Says whether it is under way.
    pub(crate) fn is_on(&self) -> bool {
        self.since.get().is_some()
    }

    /// Returns when a tunnel is to be closed, which takes the next turn; `None` if not at all.
    pub(crate) fn turn(&self) -> Option<Moment> {
        let since = self.since.get()?;
        let over = u64::from(self.over.load(Relaxed));
        let tunnels = u64::from(self.tunnels.load(Relaxed));
        let turn = u64::from(self.given.fetch_add(1, Relaxed));
        // Those that have been opened since come last.
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
        // The later one first, so that the difference is never negative.
        let closed = self.closed.get();
        let open = self.opened.get().saturating_sub(closed);
        u32::try_from(open).unwrap_or(u32::MAX)
    }

    /// Has them end in their turn. Process context.
    pub(crate) fn drain(&self) {
        self.drain.begin(self.open());
        Conn::post_all(DRAIN);
    }
}
