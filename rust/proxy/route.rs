// SPDX-License-Identifier: GPL-2.0

//! A route: servers that answer the same requests, and how one of them is chosen.
//!
//! A server with weight 0 gets nothing new. Backups are chosen if no other server is up; then servers whose checks
//! fail, since they may answer nevertheless; and last those that are down, so that there is some answer.
//!
//! Context: softirq for the choice, process for changes. The lock is a leaf, so the pools' states, which have locks of
//! their own, are read without holding it. A change in between may lead to another choice, but never to none while
//! there is a server that may be chosen.

use super::{
    admission::Gate,
    drain::Drain,
    pool::{
        Pool,
        Standing, //
    },
    session::{
        Conn,
        DRAIN, //
    },
    settings::Settings, //
};
use crate::{
    attributes::{
        number_file,
        SERVER, //
    },
    net::{
        hash,
        keyed_hash,
        lock::{
            new_bh_lock,
            BhLock, //
        },
        log2,
        stats::Tally,
        SocketAddr, //
    },
    proto::sticky::{
        is_name,
        NAME_MAX, //
    }, //
};
use core::net::IpAddr;
use kernel::{
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            ordering::Relaxed,
            AtomicFlag, //
        },
        Arc, //
    }, //
};

/// Servers that a route may have.
pub(crate) const SERVERS_MAX: usize = 64;

/// How a route chooses among its servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Balance {
    /// In turn, in proportion to the weights, spread evenly.
    #[default]
    RoundRobin,
    /// The one with the fewest exchanges, waiting requests and tunnels relative to its weight.
    LeastConnections,
    /// The same server for each client address, as long as it is up.
    AddressHash,
    /// The same server for each value of a cookie, as long as it is up; in turn without a value.
    CookieHash,
    /// The same by the value of a field.
    HeaderHash,
}

impl Balance {
    /// All of them, with the names by which they are configured.
    pub(crate) const ALL: [(Balance, &'static str); 5] = [
        (Balance::RoundRobin, "round-robin"),
        (Balance::LeastConnections, "least-connections"),
        (Balance::AddressHash, "address-hash"),
        (Balance::CookieHash, "cookie-hash"),
        (Balance::HeaderHash, "header-hash"),
    ];

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(balance, _)| *balance == self)
            .map_or("", |(_, name)| name)
    }
}

/// The name of the cookie or field by whose value servers are chosen.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    bytes: [u8; NAME_MAX],
    len: u8,
}

impl Name {
    /// No name: nothing has it.
    const NONE: Name = Name {
        bytes: [0; NAME_MAX],
        len: 0,
    };

    /// Makes a name, or none if `text` is empty. Fails with `EINVAL` if it is not a token, or longer than [`NAME_MAX`].
    pub(crate) fn new(text: &[u8]) -> Result<Name> {
        let mut name = Name::NONE;
        if !text.is_empty() && !is_name(text) {
            return Err(EINVAL);
        }
        let place = name.bytes.get_mut(..text.len()).ok_or(EINVAL)?;
        place.copy_from_slice(text);
        name.len = text.len() as u8;
        Ok(name)
    }

    /// Returns its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

/// What identifies a client in the choice.
#[derive(Clone, Copy)]
pub(crate) enum Client {
    /// Nothing: servers take turns.
    Any,
    /// Its address.
    Address(IpAddr),
    /// The hash of the value that its requests share.
    Digest(u64),
}

/// What the choice knows of a server besides its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Its weight: 0 gets nothing.
    pub(crate) weight: u32,
    /// It is used only when no other server is up.
    pub(crate) backup: bool,
}

impl Default for Share {
    fn default() -> Self {
        Share {
            weight: number_file(SERVER, 4).default,
            backup: false,
        }
    }
}

/// A set of servers that answer the same requests.
#[pin_data]
pub(crate) struct Route {
    /// Its configured name.
    pub(crate) name: CString,
    #[pin]
    servers: BhLock<Servers>,
    pub(crate) settings: Settings,
    /// The route is disabled or removed.
    pub(crate) drain: Drain,
    tunnels_opened: Tally,
    tunnels_closed: Tally,
    /// Requests that took the route.
    pub(crate) requests: Tally,
    retired: AtomicFlag,
    #[pin]
    pub(crate) gate: Gate,
}

#[derive(Default)]
struct Servers {
    entries: KVec<Entry>,
    balance: Balance,
    name: Name,
    next: usize,
}

impl Default for Name {
    fn default() -> Self {
        Name::NONE
    }
}

struct Entry {
    pool: ARef<Pool>,
    share: Share,
    /// What the turns so far owe the server; less than the sum of all weights.
    owed: i64,
}

/// A set of places among the servers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Places(u64);

const _: () = assert!(SERVERS_MAX <= u64::BITS as usize);

impl Places {
    /// Adds a place.
    pub(crate) fn insert(&mut self, place: usize) {
        self.0 |= 1u64.checked_shl(place as u32).unwrap_or(0);
    }

    /// Returns whether a place is in the set.
    pub(crate) fn contains(self, place: usize) -> bool {
        self.0.checked_shr(place as u32).unwrap_or(0) & 1 != 0
    }

    /// Returns the places of both sets.
    pub(crate) fn with(self, other: Places) -> Places {
        Places(self.0 | other.0)
    }

    /// Returns this set, or `other` if this one is empty.
    fn or(self, other: Places) -> Places {
        if self.0 == 0 {
            other
        } else {
            self
        }
    }
}

impl Servers {
    fn position(&self, pool: &Pool) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| core::ptr::eq(&raw const *entry.pool, pool))
    }

    /// Chooses in turn: the server that is owed most is next, and pays all others.
    fn in_turn(&mut self, among: Places, weights: &[u32; SERVERS_MAX]) -> Option<usize> {
        let mut total = 0i64;
        let mut best: Option<(usize, i64)> = None;
        for (place, entry) in self.entries.iter_mut().enumerate() {
            if !among.contains(place) {
                continue;
            }
            let weight = weights.get(place).map_or(0, |weight| i64::from(*weight));
            entry.owed = entry.owed.saturating_add(weight);
            total = weight.saturating_add(total);
            if best.is_none_or(|(_, owed)| entry.owed > owed) {
                best = Some((place, entry.owed));
            }
        }
        let (place, owed) = best?;
        self.entries.get_mut(place)?.owed = owed.saturating_sub(total);
        Some(place)
    }

    /// Chooses the server with the least load relative to its weight; among equals the next in turn.
    fn least_loaded(
        &mut self,
        among: Places,
        loads: &[u32; SERVERS_MAX],
        weights: &[u32; SERVERS_MAX],
    ) -> Option<usize> {
        let count = self.entries.len();
        let first = self.next;
        self.next = first.wrapping_add(1);
        let mut best: Option<(usize, u64, u64)> = None;
        for turn in 0..count {
            let place = first.wrapping_add(turn).checked_rem(count)?;
            let (Some(weight), Some(load)) = (weights.get(place), loads.get(place)) else {
                continue;
            };
            if !among.contains(place) {
                continue;
            }
            // With this request; both factors have 32 bits at most.
            let load = u64::from(*load).saturating_add(1);
            let weight = u64::from(*weight);
            let less = best.is_none_or(|(_, least, of)| {
                load.saturating_mul(of) < least.saturating_mul(weight)
            });
            if less {
                best = Some((place, load, weight));
            }
        }
        best.map(|(place, ..)| place)
    }

    /// Chooses by the client: the server whose hash with the client is nearest for its weight. A server that is added
    /// or removed moves only its own clients, and a changed weight moves no more than it has to.
    fn hashed(
        &self,
        among: Places,
        weights: &[u32; SERVERS_MAX],
        hash: impl Fn(&SocketAddr) -> u32,
    ) -> Option<usize> {
        let entries = self.entries.iter().enumerate();
        let among = entries.filter(|(place, _)| among.contains(*place));
        let far = among.filter_map(|(place, entry)| {
            let weight = weights.get(place).copied()?;
            Some((place, distance(hash(entry.pool.addr()), weight)?))
        });
        far.min_by_key(|(_, distance)| *distance)
            .map(|(place, _)| place)
    }
}

/// Returns the distance of a hash from the best one, for a weight; `None` if the weight is 0.
///
/// It is the negative logarithm of the hash, taken as a fraction, divided by the weight: each server is then nearest in
/// proportion to its weight.
fn distance(hash: u32, weight: u32) -> Option<u64> {
    let distance = u64::from(log2(u32::MAX).saturating_sub(log2(hash)));
    // Shifted, so that dividing by a weight keeps different distances apart.
    (distance << 24).checked_div(u64::from(weight))
}

impl Route {
    /// Makes the route `name`, without servers.
    pub(crate) fn new(name: CString) -> Result<Arc<Route>> {
        Arc::pin_init(
            try_pin_init!(Route {
                name,
                servers <- new_bh_lock!(Servers::default()),
                settings: Settings::new(),
                drain: Drain::new(),
                tunnels_opened: Tally::default(),
                tunnels_closed: Tally::default(),
                requests: Tally::default(),
                retired: AtomicFlag::new(false),
                gate <- Gate::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Makes tunnels end in their turn; exchanges are completed. Process context.
    pub(crate) fn drain(&self) {
        self.drain.begin(self.tunnels_open());
        Conn::post_all(DRAIN);
    }

    /// Returns how many tunnels are open.
    pub(crate) fn tunnels_open(&self) -> u32 {
        // Reads the later counter first, so that the difference is never negative.
        let closed = self.tunnels_closed.get();
        let opened = self.tunnels_opened.get();
        u32::try_from(opened.saturating_sub(closed)).unwrap_or(u32::MAX)
    }

    /// Notes that a tunnel was opened.
    pub(crate) fn tunnel_opened(&self) {
        self.tunnels_opened.inc();
    }

    /// Notes that a tunnel's downstream connection is closed.
    pub(crate) fn tunnel_closed(&self) {
        self.tunnels_closed.inc();
    }

    /// Notes that the route was removed: no request takes it any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Returns whether the route was removed.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Adds a server. Fails with `ENOSPC` if there are [`SERVERS_MAX`].
    pub(crate) fn add(&self, pool: ARef<Pool>, share: Share) -> Result {
        // Allocates before the lock is taken, where the allocation may sleep.
        let mut entries = KVec::with_capacity(SERVERS_MAX, GFP_KERNEL)?;
        let mut servers = self.servers.lock();
        if servers.entries.len() >= SERVERS_MAX {
            return Err(ENOSPC);
        }
        for entry in &servers.entries {
            entries
                .push_within_capacity(Entry {
                    pool: entry.pool.clone(),
                    share: entry.share,
                    owed: entry.owed,
                })
                .map_err(|_| ENOSPC)?;
        }
        entries
            .push_within_capacity(Entry {
                pool,
                share,
                owed: 0,
            })
            .map_err(|_| ENOSPC)?;
        core::mem::swap(&mut servers.entries, &mut entries);
        drop(servers);
        Ok(())
    }

    /// Replaces the pool `old` by `pool`.
    pub(crate) fn replace(&self, old: &Pool, pool: ARef<Pool>) {
        let mut servers = self.servers.lock();
        let found = servers.position(old);
        let entry = found.and_then(|place| servers.entries.get_mut(place));
        let replaced = entry.map(|entry| core::mem::replace(&mut entry.pool, pool));
        drop(servers);
        drop(replaced);
    }

    /// Removes a server.
    pub(crate) fn remove(&self, pool: &Pool) {
        let mut servers = self.servers.lock();
        let found = servers.position(pool);
        let removed = found.and_then(|place| servers.entries.remove(place).ok());
        drop(servers);
        drop(removed);
    }

    /// Changes the share of a server.
    pub(crate) fn set_share(&self, pool: &Pool, share: Share) {
        let mut servers = self.servers.lock();
        let found = servers.position(pool);
        if let Some(entry) = found.and_then(|place| servers.entries.get_mut(place)) {
            entry.share = share;
            entry.owed = 0;
        }
    }

    /// Returns how servers are chosen, after changing that if `change` is given.
    pub(crate) fn balance(&self, change: Option<Balance>) -> Balance {
        let mut servers = self.servers.lock();
        servers.balance = change.unwrap_or(servers.balance);
        servers.balance
    }

    /// Returns the name of the cookie or field by whose value servers are chosen, after changing that if `change` is
    /// given.
    pub(crate) fn balance_name(&self, change: Option<Name>) -> Name {
        let mut servers = self.servers.lock();
        servers.name = change.unwrap_or(servers.name);
        servers.name
    }

    fn at(&self, place: usize) -> Option<(ARef<Pool>, Share)> {
        let servers = self.servers.lock();
        let entry = servers.entries.get(place)?;
        Some((entry.pool.clone(), entry.share))
    }

    /// Returns whether `pool` is the server at a place.
    pub(crate) fn has_at(&self, place: usize, pool: &Pool) -> bool {
        let servers = self.servers.lock();
        let entry = servers.entries.get(place);
        entry.is_some_and(|entry| core::ptr::eq(&raw const *entry.pool, pool))
    }

    /// Returns the place and the weight of the server `pool`; `None` if the route does not have it.
    pub(crate) fn place_of(&self, pool: &Pool) -> Option<(usize, u32)> {
        let servers = self.servers.lock();
        let mut entries = servers.entries.iter().enumerate();
        let found = entries.find(|(_, entry)| core::ptr::eq(&raw const *entry.pool, pool));
        found.map(|(place, entry)| (place, entry.share.weight))
    }

    /// Returns how many servers there are, and how many of them are up.
    pub(crate) fn count(&self) -> (usize, usize) {
        let mut place = 0;
        let mut up = 0;
        while let Some((pool, _)) = self.at(place) {
            place += 1;
            up += usize::from(pool.standing() == Standing::Up);
        }
        (place, up)
    }

    /// Chooses a server for a request, none of `avoid`, and returns its place and its pool. `None` if no server is
    /// left, or all have weight 0. `client` is called only if it makes a difference.
    ///
    /// Places change when a server is removed. A caller that then avoids the wrong one may get a server that it has
    /// tried.
    pub(crate) fn choose(
        &self,
        client: impl FnOnce(Balance) -> Client,
        avoid: Places,
    ) -> Option<(usize, ARef<Pool>)> {
        let servers = self.servers.lock();
        match servers.entries.as_slice() {
            [] => None,
            [only] => {
                let may = only.share.weight > 0 && !avoid.contains(0);
                may.then(|| (0, only.pool.clone()))
            }
            [..] => {
                let (count, balance) = (servers.entries.len(), servers.balance);
                drop(servers);
                self.choose_among(count, balance, client(balance), avoid)
            }
        }
    }

    /// Chooses one of several servers.
    #[inline(never)] // Keeps its stack frame off the path of routes with one server.
    fn choose_among(
        &self,
        count: usize,
        balance: Balance,
        client: Client,
        avoid: Places,
    ) -> Option<(usize, ARef<Pool>)> {
        let (mut usual, mut backup, mut unhealthy, mut down) = Default::default();
        let mut loads = [0; SERVERS_MAX];
        let mut weights = [0; SERVERS_MAX];
        let places = loads.iter_mut().zip(weights.iter_mut());
        for (place, (load, weight)) in places.enumerate().take(count) {
            let Some((pool, share)) = self.at(place) else {
                break;
            };
            if share.weight == 0 || avoid.contains(place) {
                continue;
            }
            let set: &mut Places = match (pool.standing(), share.backup) {
                (Standing::Up, false) => &mut usual,
                (Standing::Up, true) => &mut backup,
                (Standing::Unhealthy, _) => &mut unhealthy,
                (Standing::Down, _) => &mut down,
            };
            set.insert(place);
            *weight = share.weight.saturating_mul(pool.part());
            if balance == Balance::LeastConnections {
                *load = pool.load();
            }
        }
        let among = usual.or(backup).or(unhealthy).or(down);
        let mut servers = self.servers.lock();
        let place = match (balance, client) {
            (Balance::LeastConnections, _) => servers.least_loaded(among, &loads, &weights),
            (_, Client::Any) => servers.in_turn(among, &weights),
            (_, Client::Address(client)) => {
                servers.hashed(among, &weights, |server| hash(server, client))
            }
            (_, Client::Digest(digest)) => {
                servers.hashed(among, &weights, |server| keyed_hash(server, digest))
            }
        };
        let chosen = place.and_then(|place| Some((place, servers.entries.get(place)?)));
        // Servers were removed meanwhile.
        let any = || {
            let mut entries = servers.entries.iter().enumerate();
            entries.find(|(place, entry)| entry.share.weight > 0 && !avoid.contains(*place))
        };
        let (place, entry) = chosen.or_else(any)?;
        Some((place, entry.pool.clone()))
    }
}
