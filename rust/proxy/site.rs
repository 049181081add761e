// SPDX-License-Identifier: GPL-2.0

//! The data path's view of a listener.
//!
//! Configuration changes it while connections use it. Each request looks at it once and keeps what it found until it
//! ends. [`super::router`] selects the route.

use super::{
    access::{
        Access,
        Rules, //
    },
    admission::Door,
    drain::Drain,
    network::Networks,
    router::Router,
    session::{
        Conn,
        DRAIN, //
    }, //
};
use crate::{
    net::{
        lock::{
            new_bh_lock,
            BhLock, //
        },
        stats::{
            self,
            Counter,
            Tally, //
        }, //
    },
    proto, //
};
use core::{
    fmt,
    net::IpAddr, //
};
use kernel::{
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            ordering::{
                Acquire,
                Relaxed,
                Release, //
            },
            AtomicFlag, //
        },
        Arc, //
    }, //
};

/// What a listener serves.
#[pin_data]
pub(crate) struct Site {
    /// The name of its listener.
    pub(crate) name: CString,
    /// Its routes.
    #[pin]
    pub(crate) router: Router,
    #[pin]
    origin: BhLock<Origin>,
    /// The listener is disabled or removed.
    pub(crate) drain: Drain,
    #[pin]
    rules: BhLock<Rules>,
    /// There are access rules.
    ruled: AtomicFlag,
    /// A Via field is added to requests and responses.
    via: AtomicFlag,
    pub(crate) counts: Counts,
    pub(crate) door: Door,
}

/// The fields about the origin of requests.
#[derive(Default)]
struct Origin {
    /// Networks of trusted proxies.
    trusted: Networks,
    /// A Forwarded field is written.
    forwarded: bool,
}

/// Events of one listener, since it was created.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) opened: Tally,
    pub(crate) closed: Tally,
    pub(crate) requests: Tally,
    pub(crate) refused: Tally,
    pub(crate) tunnels_opened: Tally,
    pub(crate) tunnels_closed: Tally,
    pub(crate) lingers: Tally,
    pub(crate) lingers_ended: Tally,
    pub(crate) no_route: Tally,
}

impl Site {
    /// Makes the site of the listener `name`, without routes.
    pub(crate) fn new(name: CString) -> Result<Arc<Site>> {
        Arc::pin_init(
            try_pin_init!(Site {
                name,
                router <- Router::new(),
                origin <- new_bh_lock!(Origin::default()),
                drain: Drain::new(),
                rules <- new_bh_lock!(Rules::default()),
                ruled: AtomicFlag::new(false),
                via: AtomicFlag::new(false),
                counts: Counts::default(),
                door: Door::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Sets the networks whose clients are trusted.
    pub(crate) fn set_trusted(&self, networks: Networks) {
        let old = core::mem::replace(&mut self.origin.lock().trusted, networks);
        drop(old);
    }

    /// Writes the trusted networks.
    pub(crate) fn show_trusted(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        write!(text, "{}", self.origin.lock().trusted)
    }

    /// Returns whether a Forwarded field is written, after changing that if `change` is given.
    pub(crate) fn forwarded(&self, change: Option<bool>) -> bool {
        let mut origin = self.origin.lock();
        origin.forwarded = change.unwrap_or(origin.forwarded);
        origin.forwarded
    }

    /// Sets whether a Via field is added to requests and responses, from the next request on.
    pub(crate) fn set_via(&self, via: bool) {
        self.via.store(via, Relaxed);
    }

    /// Returns whether a Via field is added to requests and responses.
    pub(crate) fn via(&self) -> bool {
        self.via.load(Relaxed)
    }

    /// Returns whether a client of this address is trusted, and whether a Forwarded field is written.
    pub(crate) fn origin(&self, addr: IpAddr) -> (bool, bool) {
        let origin = self.origin.lock();
        (origin.trusted.contain(addr), origin.forwarded)
    }

    /// Sets the access rules.
    pub(crate) fn set_rules(&self, rules: Rules) {
        let ruled = !rules.is_empty();
        let old = core::mem::replace(&mut *self.rules.lock(), rules);
        self.ruled.store(ruled, Release);
        drop(old);
    }

    /// Writes the access rules.
    pub(crate) fn show_rules(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        write!(text, "{}", *self.rules.lock())
    }

    /// Returns whether there are access rules.
    pub(crate) fn has_rules(&self) -> bool {
        self.ruled.load(Acquire)
    }

    /// Returns what the access rules do with a client.
    pub(crate) fn access(&self, client: IpAddr) -> Access {
        self.rules.lock().of(client)
    }

    /// Returns how many connections there are, tunnels included, and those that linger.
    pub(crate) fn connections(&self) -> u64 {
        let counts = &self.counts;
        // Reads the counters of ended ones first, so that no difference is negative.
        let (closed, ended) = (counts.closed.get(), counts.tunnels_closed.get());
        let gone = counts.lingers_ended.get();
        let (opened, tunnels) = (counts.opened.get(), counts.tunnels_opened.get());
        let lingering = counts.lingers.get().saturating_sub(gone);
        let plain = opened.saturating_sub(closed);
        plain
            .saturating_add(tunnels.saturating_sub(ended))
            .saturating_add(lingering)
    }

    /// Makes connections end when no exchange is under way on them, and tunnels in their turn. Process context.
    pub(crate) fn drain(&self) {
        if !self.drain.is_on() {
            let closed = self.counts.tunnels_closed.get();
            let open = self.counts.tunnels_opened.get().saturating_sub(closed);
            self.drain.begin(u32::try_from(open).unwrap_or(u32::MAX));
        }
        Conn::post_all(DRAIN);
    }

    /// Notes an accepted connection.
    pub(crate) fn connection_opened(&self) {
        self.counts.opened.inc();
    }

    /// Notes that a connection is closed or became a tunnel.
    pub(crate) fn connection_closed(&self) {
        self.counts.closed.inc();
    }

    /// Notes a request.
    pub(crate) fn requested(&self) {
        self.counts.requests.inc();
    }

    /// Notes a request that no route takes.
    pub(crate) fn unrouted(&self) {
        self.counts.no_route.inc();
        stats::inc(Counter::NoRoute);
    }

    /// Notes a malformed request.
    pub(crate) fn refused(&self, error: proto::Error) {
        self.counts.refused.inc();
        kernel::pr_debug!("request refused: {}\n", error.name());
    }

    /// Notes a tunnel.
    pub(crate) fn tunnel_opened(&self) {
        self.counts.tunnels_opened.inc();
    }

    /// Notes that a tunnel's downstream connection is closed.
    pub(crate) fn tunnel_closed(&self) {
        self.counts.tunnels_closed.inc();
    }
}
