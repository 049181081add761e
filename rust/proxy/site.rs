// SPDX-License-Identifier: GPL-2.0

//! What a listener serves, as the data path sees it: a route and its servers.
//!
//! Configuration changes it while connections use it: each request looks anew, and what it found it
//! keeps to its end.

use super::{
    network::Networks,
    pool::Pool,
    session::{
        Conn,
        REMOVED, //
    }, //
};
use crate::{
    net::{
        lock::{
            new_bh_lock,
            BhLock, //
        },
        stats::Tally, //
    },
    proto, //
};
use core::{
    fmt,
    net::IpAddr, //
};
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            ordering::{
                Acquire,
                Release, //
            },
            AtomicFlag, //
        },
        Arc, //
    }, //
};

/// Servers that a route may have.
pub(crate) const SERVERS_MAX: usize = 64;

/// What a listener serves.
#[pin_data]
pub(crate) struct Site {
    #[pin]
    route: BhLock<Option<Arc<Route>>>,
    #[pin]
    origin: BhLock<Origin>,
    removed: AtomicFlag,
    pub(crate) counts: Counts,
}

/// What requests say of where they come from.
#[derive(Default)]
struct Origin {
    /// Clients that are believed what they say of whom they act for.
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
}

/// A set of servers that answer the same requests.
#[pin_data]
pub(crate) struct Route {
    #[pin]
    servers: BhLock<Servers>,
}

#[derive(Default)]
struct Servers {
    pools: KVec<ARef<Pool>>,
    next: usize,
}

impl Route {
    /// Makes a route without servers.
    pub(crate) fn new() -> Result<Arc<Route>> {
        Arc::pin_init(
            try_pin_init!(Route {
                servers <- new_bh_lock!(Servers::default()),
            }),
            GFP_KERNEL,
        )
    }

    /// Adds a server. Fails with `ENOSPC` if there are [`SERVERS_MAX`].
    pub(crate) fn add(&self, pool: ARef<Pool>) -> Result {
        // Memory is got before the lock is taken, where waiting for it is allowed.
        let mut pools = KVec::with_capacity(SERVERS_MAX, GFP_KERNEL)?;
        let mut servers = self.servers.lock();
        if servers.pools.len() >= SERVERS_MAX {
            return Err(ENOSPC);
        }
        for pool in &servers.pools {
            pools
                .push_within_capacity(pool.clone())
                .map_err(|_| ENOSPC)?;
        }
        pools.push_within_capacity(pool).map_err(|_| ENOSPC)?;
        core::mem::swap(&mut servers.pools, &mut pools);
        Ok(())
    }

    /// Takes a server away.
    pub(crate) fn remove(&self, pool: &Pool) {
        let mut servers = self.servers.lock();
        let found = servers
            .pools
            .as_slice()
            .iter()
            .position(|known| core::ptr::eq(&raw const **known, pool));
        let removed = found.and_then(|place| servers.pools.remove(place).ok());
        drop(servers);
        drop(removed);
    }

    /// Returns how many servers there are, and how many of them are not known to be down.
    pub(crate) fn count(&self) -> (usize, usize) {
        let mut place = 0;
        let mut up = 0;
        loop {
            let Some(pool) = self.servers.lock().pools.as_slice().get(place).cloned() else {
                return (place, up);
            };
            place += 1;
            up += usize::from(pool.is_up());
        }
    }

    /// Chooses a server: the next in turn that is not known to be down, or else the next in turn.
    fn choose(&self) -> Option<ARef<Pool>> {
        let (count, first) = {
            let mut servers = self.servers.lock();
            let count = servers.pools.len();
            let first = servers.next;
            servers.next = first.wrapping_add(1);
            (count, first)
        };
        let mut chosen = None;
        for turn in 0..count {
            let place = first.wrapping_add(turn).checked_rem(count)?;
            let Some(pool) = self.servers.lock().pools.as_slice().get(place).cloned() else {
                break;
            };
            if pool.is_up() {
                return Some(pool);
            }
            chosen = chosen.or(Some(pool));
        }
        chosen
    }
}

impl Site {
    /// Makes a site without a route.
    pub(crate) fn new() -> Result<Arc<Site>> {
        Arc::pin_init(
            try_pin_init!(Site {
                route <- new_bh_lock!(None),
                origin <- new_bh_lock!(Origin::default()),
                removed: AtomicFlag::new(false),
                counts: Counts::default(),
            }),
            GFP_KERNEL,
        )
    }

    /// Sets the route. Fails with `EEXIST` if there is one.
    pub(crate) fn set_route(&self, route: Arc<Route>) -> Result {
        let mut place = self.route.lock();
        if place.is_some() {
            return Err(EEXIST);
        }
        *place = Some(route);
        Ok(())
    }

    /// Takes the route away.
    pub(crate) fn clear_route(&self) {
        let route = self.route.lock().take();
        drop(route);
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

    /// Says whether a Forwarded field is written, after changing that if `change` is given.
    pub(crate) fn forwarded(&self, change: Option<bool>) -> bool {
        let mut origin = self.origin.lock();
        origin.forwarded = change.unwrap_or(origin.forwarded);
        origin.forwarded
    }

    /// Says whether a client of this address is trusted, and whether a Forwarded field is written.
    pub(crate) fn origin(&self, addr: IpAddr) -> (bool, bool) {
        let origin = self.origin.lock();
        (origin.trusted.contain(addr), origin.forwarded)
    }

    /// Ends the site: its connections are to end as soon as no exchange is under way. Process context.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Release);
        Conn::post_all(REMOVED);
    }

    /// Says whether the listener was removed.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Acquire)
    }

    /// Chooses a server for a request; `None` if there is none.
    pub(crate) fn choose(&self) -> Option<ARef<Pool>> {
        let route = self.route.lock().clone()?;
        route.choose()
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
