// SPDX-License-Identifier: GPL-2.0

//! Admission: limits on connections, requests, offers to upgrade and tunnels, per client and per route.
//!
//! A client is the address of its TCP connection, cut to a prefix. Fields from a proxy in front make no difference
//! here. A connection is checked when it is accepted, a request when its head is complete. Without a limit, the check
//! is one read. [`net::clients`](crate::net::clients) keeps the counts of clients. If it has no room for a client, the
//! client is refused wherever a limit is set.
//!
//! Context: softirq. No lock but that of a connection is held.

use super::{
    access::Access,
    route::Route,
    settings::{
        Setting,
        Settings, //
    },
    site::Site, //
};
use crate::net::{
    clients::{
        self,
        Key,
        Refused,
        Scope,
        Seat, //
    },
    lock::{
        new_bh_lock,
        BhLock, //
    },
    memory,
    ns,
    stats::{
        self,
        Counter,
        Tally, //
    },
    sysctl,
    Bucket,
    Rate, //
};
use core::{
    fmt,
    net::IpAddr, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            ordering::{
                Full,
                Relaxed, //
            },
            Atomic, //
        },
        Arc, //
    }, //
};

/// Buckets of a client of a listener.
const CONNECTIONS: usize = 0;
/// Buckets of a client of a route.
const REQUESTS: usize = 0;
const UPGRADES: usize = 1;
const FAILURES: usize = 2;

/// The limit that refuses or delays something.
pub(crate) type Cause = Counter;

/// Causes for which a listener refuses connections.
const OF_LISTENER: [Cause; 6] = [
    Cause::AccessDenied,
    Cause::ConnectionsLimit,
    Cause::ClientConnectionsLimit,
    Cause::ClientConnectionsRateLimit,
    Cause::ClientMemoryLimit,
    Cause::TurnedAwayLimit,
];

/// Causes for which a route refuses or delays requests.
const OF_ROUTE: [Cause; 8] = [
    Cause::ClientRequestsLimit,
    Cause::ClientUpgradesLimit,
    Cause::ClientTunnelsLimit,
    Cause::ClientFailuresLimit,
    Cause::UpgradesLimit,
    Cause::TunnelsLimit,
    Cause::ClientMemoryLimit,
    Cause::Delayed,
];

/// How often each cause refused something.
struct Tallies<const N: usize>([(Cause, Tally); N]);

impl<const N: usize> Tallies<N> {
    fn new(causes: [Cause; N]) -> Self {
        Tallies(causes.map(|cause| (cause, Tally::default())))
    }

    fn inc(&self, cause: Cause) {
        stats::inc(cause);
        if let Some((_, tally)) = self.0.iter().find(|(known, _)| *known == cause) {
            tally.inc();
        }
    }
}

impl<const N: usize> fmt::Display for Tallies<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(cause, tally)| writeln!(f, "{} {}", cause.name(), tally.get()))
    }
}

/// The limits of a listener.
pub(crate) struct Door {
    scope: Scope,
    /// Connections that the listener may have, tunnels included; 0 for any number.
    connections_max: Atomic<u32>,
    /// Connections that are turned away with an answer, from when they are accepted until they are gone.
    turned_away: Atomic<u32>,
    refused: Tallies<6>,
}

impl Door {
    /// Makes the door of a new listener.
    pub(crate) fn new() -> Door {
        Door {
            scope: Scope::new(),
            connections_max: Atomic::new(0),
            turned_away: Atomic::new(0),
            refused: Tallies::new(OF_LISTENER),
        }
    }

    /// Returns how many connections there may be, after changing that if `change` is given.
    pub(crate) fn connections_max(&self, change: Option<u32>) -> u32 {
        if let Some(most) = change {
            self.connections_max.store(most, Relaxed);
        }
        self.connections_max.load(Relaxed)
    }

    /// Returns whether a connection may be turned away with an answer. It then counts until it is [`Self::gone`].
    fn turn_away(&self) -> bool {
        if self.turned_away.fetch_add(1, Full) < sysctl::turned_away_max() {
            return true;
        }
        self.gone();
        self.refused.inc(Cause::TurnedAwayLimit);
        false
    }

    /// Notes that a connection that was turned away with an answer is gone.
    pub(crate) fn gone(&self) {
        self.turned_away.fetch_sub(1, Full);
    }

    /// Writes what was refused.
    pub(crate) fn show(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        write!(text, "{}", self.refused)
    }
}

/// The limits of a route.
#[pin_data]
pub(crate) struct Gate {
    scope: Scope,
    /// Counted offers under way: each may become a tunnel.
    offers: Atomic<u32>,
    #[pin]
    upgrades: BhLock<Bucket>,
    refused: Tallies<8>,
}

impl Gate {
    /// Makes the gate of a new route.
    pub(crate) fn new() -> impl PinInit<Gate> {
        pin_init!(Gate {
            scope: Scope::new(),
            offers: Atomic::new(0),
            upgrades <- new_bh_lock!(Bucket::FULL),
            refused: Tallies::new(OF_ROUTE),
        })
    }

    /// Writes what was refused.
    pub(crate) fn show(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        write!(text, "{}", self.refused)
    }
}

/// The decision on a new connection.
pub(crate) enum Connection {
    /// It is served; the seat is held as long as it is open.
    Welcome(Option<Seat>),
    /// Its first request is answered with 429; see [`Door::gone`].
    TurnedAway,
    /// It is reset.
    Reset,
}

/// A client's connection that lingers after its session. It counts until it is gone.
pub(crate) struct Lingering {
    site: Arc<Site>,
    _seat: Option<Seat>,
    turned_away: bool,
}

impl Lingering {
    /// Begins to count it, before its session stops counting.
    ///
    /// `turned_away`: it is turned away with an answer.
    pub(crate) fn new(site: Arc<Site>, seat: Option<Seat>, turned_away: bool) -> Lingering {
        site.counts.lingers.inc();
        Lingering {
            site,
            _seat: seat,
            turned_away,
        }
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.turned_away {
            self.site.door.gone();
        }
        self.site.counts.lingers_ended.inc();
    }
}

/// Decides on a new connection of the client with the address that `peer` returns.
pub(crate) fn connection(site: &Site, peer: impl FnOnce() -> IpAddr) -> Connection {
    let most = site.door.connections_max(None);
    if most > 0 && site.connections() >= u64::from(most) {
        site.door.refused.inc(Cause::ConnectionsLimit);
        return Connection::Reset;
    }
    let most = sysctl::client_connections_max();
    let rate = sysctl::client_connections_rate();
    let bounded = sysctl::client_memory_max_kib() > 0;
    if most == 0 && rate == 0 && !bounded && !site.has_rules() {
        return Connection::Welcome(None);
    }
    let peer = peer();
    match site.access(peer) {
        Access::Allow => {}
        Access::Exempt => return Connection::Welcome(None),
        Access::Deny => {
            site.door.refused.inc(Cause::AccessDenied);
            return Connection::Reset;
        }
    }
    if bounded && memory::is_client_tight(peer) {
        site.door.refused.inc(Cause::ClientMemoryLimit);
        return turn_away(site);
    }
    let rate = connections_rate().map(|rate| (CONNECTIONS, rate));
    if most == 0 && rate.is_none() {
        return Connection::Welcome(None);
    }
    let refused = match clients::open(&Key::new(site.door.scope, peer), most, rate) {
        Ok(seat) => return Connection::Welcome(Some(seat)),
        Err(refused) => refused,
    };
    match refused {
        Refused::Many => site.door.refused.inc(Cause::ClientConnectionsLimit),
        Refused::Early(_) => site.door.refused.inc(Cause::ClientConnectionsRateLimit),
        // Without an entry, the number of its connections is unknown.
        Refused::Untracked => return Connection::Reset,
    }
    turn_away(site)
}

/// Returns the decision on a client's connection beyond a limit.
fn turn_away(site: &Site) -> Connection {
    match sysctl::client_connections_action() {
        0 => Connection::Reset,
        _ if site.door.turn_away() => Connection::TurnedAway,
        _ => Connection::Reset,
    }
}

/// Returns whether this client is exempt from all limits per client.
fn is_exempt(site: &Site, client: IpAddr) -> bool {
    site.has_rules() && site.access(client) == Access::Exempt
}

/// Returns the client that the memory of a connection counts for, by the peer's address; `None` if the client is
/// exempt.
pub(crate) fn counted(site: &Site, client: IpAddr) -> Option<IpAddr> {
    (!is_exempt(site, client)).then_some(client)
}

fn connections_rate() -> Option<Rate> {
    Rate::per_second(
        sysctl::client_connections_rate(),
        sysctl::client_connections_burst(),
    )
}

/// Returns the seconds after which a client that was turned away may connect again.
pub(crate) fn connect_again(site: &Site, peer: IpAddr) -> u32 {
    let key = Key::new(site.door.scope, peer);
    let wait = connections_rate().map(|rate| clients::wait(&key, CONNECTIONS, &rate));
    seconds(wait.unwrap_or(0))
}

/// Returns milliseconds as the value of Retry-After: whole seconds, at least 1.
fn seconds(ms: u32) -> u32 {
    ms.div_ceil(1000).max(1)
}

/// The decision on a request.
pub(crate) enum Verdict {
    /// It is served.
    Serve,
    /// It is served after this many milliseconds.
    Later(u32),
    /// It is answered with this status, and may be repeated after this many seconds.
    Refuse(u16, u32),
    /// Its connection is reset.
    Reset,
}

/// Values of the setting `limit_action`: what happens to a request that comes too early.
const DELAY: u32 = 1;
const RESET: u32 = 2;

/// Decides whether a request comes too early; `offers`: it offers to upgrade.
pub(crate) fn request(
    site: &Site,
    route: &Route,
    peer: impl FnOnce() -> IpAddr,
    offers: bool,
) -> Verdict {
    if !offers && route.settings.get(Setting::ClientRequestsRate) == 0 {
        return Verdict::Serve;
    }
    rates(site, route, peer(), offers)
}

/// A request for which there may be limits.
struct Asking<'a> {
    site: &'a Site,
    route: &'a Route,
    peer: IpAddr,
    offers: bool,
}

impl Asking<'_> {
    fn settings(&self) -> &Settings {
        &self.route.settings
    }

    fn get(&self, setting: Setting) -> u32 {
        self.settings().get(setting)
    }

    fn key(&self) -> Key {
        Key::new(self.route.gate.scope, self.peer)
    }

    fn rate(&self, rate: Setting, burst: Setting) -> Option<Rate> {
        Rate::per_second(self.get(rate), self.get(burst))
    }

    fn is_exempt(&self) -> bool {
        is_exempt(self.site, self.peer)
    }

    /// Refuses the request with `status`, for `cause`. An offer then counts as failed.
    fn refuse(&self, cause: Cause, status: u16, ms: u32) -> Verdict {
        self.route.gate.refused.inc(cause);
        if self.offers && cause != Cause::ClientFailuresLimit {
            failed(self.site, self.route, self.peer);
        }
        match self.get(Setting::LimitAction) {
            RESET => Verdict::Reset,
            _ => Verdict::Refuse(status, seconds(ms)),
        }
    }

    /// Refuses the request of a client; `cause` is the reason if it is a limit.
    fn refuse_client(&self, cause: Cause, refused: Refused) -> Verdict {
        match refused {
            Refused::Many => self.refuse(cause, 429, 0),
            Refused::Early(ms) => self.refuse(cause, 429, ms),
            Refused::Untracked => Verdict::Refuse(503, 1),
        }
    }
}

#[inline(never)] // Keeps its stack frame off the path without limits.
fn rates(site: &Site, route: &Route, peer: IpAddr, offers: bool) -> Verdict {
    let asking = Asking {
        site,
        route,
        peer,
        offers,
    };
    let upgrades = match offers {
        true => asking.rate(Setting::UpgradesRate, Setting::UpgradesBurst),
        false => None,
    };
    let patience = match asking.get(Setting::LimitAction) {
        DELAY => asking.get(Setting::LimitDelayMax),
        _ => 0,
    };
    let waited = match of_client(&asking, patience) {
        Ok(wait) => wait,
        Err(verdict) => return verdict,
    };
    let mut wait = waited;
    if let Some(rate) = upgrades {
        let taken = route.gate.upgrades.lock().take(&rate, ns(), patience);
        match taken {
            Ok(until) => wait = wait.max(until),
            Err(ms) => return asking.refuse(Cause::UpgradesLimit, 503, ms),
        }
    }
    if wait == 0 {
        return Verdict::Serve;
    }
    route.gate.refused.inc(Cause::Delayed);
    Verdict::Later(wait)
}

/// Takes the tokens that a request needs. Returns the milliseconds until they are there, or the verdict that refuses
/// the request.
fn of_client(asking: &Asking<'_>, patience: u32) -> Result<u32, Verdict> {
    let offer = |rate| asking.offers.then_some(rate).flatten();
    let requests = asking.rate(Setting::ClientRequestsRate, Setting::ClientRequestsBurst);
    let upgrades = offer(asking.rate(Setting::ClientUpgradesRate, Setting::ClientUpgradesBurst));
    let failures = offer(Rate::per_minute(
        asking.get(Setting::ClientHandshakeFailuresMax),
    ));
    if (requests.is_none() && upgrades.is_none() && failures.is_none()) || asking.is_exempt() {
        return Ok(0);
    }
    let key = asking.key();
    if let Some(rate) = failures {
        let ms = clients::wait(&key, FAILURES, &rate);
        if ms > 0 {
            return Err(asking.refuse(Cause::ClientFailuresLimit, 429, ms));
        }
    }
    let mut wait = 0;
    let buckets = [
        (requests, REQUESTS, Cause::ClientRequestsLimit),
        (upgrades, UPGRADES, Cause::ClientUpgradesLimit),
    ];
    for (rate, bucket, cause) in buckets {
        let Some(rate) = rate else { continue };
        let until = clients::take(&key, bucket, &rate, patience)
            .map_err(|refused| asking.refuse_client(cause, refused))?;
        wait = wait.max(until);
    }
    Ok(wait)
}

/// Notes an offer that failed: it opened no tunnel.
pub(crate) fn failed(site: &Site, route: &Route, peer: IpAddr) {
    let most = route.settings.get(Setting::ClientHandshakeFailuresMax);
    let Some(rate) = Rate::per_minute(most) else {
        return;
    };
    if !is_exempt(site, peer) {
        clients::charge(&Key::new(route.gate.scope, peer), FAILURES, &rate);
    }
}

/// An offer to upgrade that is counted. Dropping it counts as the client's failure, unless it was accepted or excused.
pub(crate) struct Offer {
    site: Arc<Site>,
    route: Arc<Route>,
    peer: IpAddr,
    /// The seat of the tunnel that it may become.
    seat: Option<Seat>,
    excused: bool,
}

impl Offer {
    /// The offer has become a tunnel, which holds the returned seat.
    pub(crate) fn accepted(mut self) -> Option<Seat> {
        self.excused = true;
        self.seat.take()
    }

    /// It is not the client's fault that there is no tunnel.
    pub(crate) fn excuse(&mut self) {
        self.excused = true;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.route.gate.offers.fetch_sub(1, Full);
        if !self.excused {
            failed(&self.site, &self.route, self.peer);
        }
    }
}

/// Decides whether there may be one more tunnel, for an offer within its rates. `None`: it need not be counted.
pub(crate) fn offer(
    site: &Arc<Site>,
    route: &Arc<Route>,
    peer: impl FnOnce() -> IpAddr,
) -> Result<Option<KBox<Offer>>, Verdict> {
    let settings = &route.settings;
    let of_client = settings.get(Setting::ClientTunnelsMax);
    let failures = settings.get(Setting::ClientHandshakeFailuresMax);
    let most = settings.get(Setting::TunnelsMax);
    let bounded = sysctl::client_memory_max_kib() > 0;
    if of_client == 0 && failures == 0 && most == 0 && !bounded {
        return Ok(None);
    }
    let asking = Asking {
        site,
        route,
        peer: peer(),
        offers: true,
    };
    if bounded && !asking.is_exempt() && memory::is_client_tight(asking.peer) {
        return Err(asking.refuse(Cause::ClientMemoryLimit, 429, 0));
    }
    if of_client == 0 && failures == 0 && most == 0 {
        return Ok(None);
    }
    let mut seat = None;
    if of_client > 0 && !asking.is_exempt() {
        let opened = clients::open(&asking.key(), of_client, None);
        seat = Some(opened.map_err(|why| asking.refuse_client(Cause::ClientTunnelsLimit, why))?);
    }
    let offer = Offer {
        site: site.clone(),
        route: route.clone(),
        peer: asking.peer,
        seat,
        excused: true,
    };
    // An offer that becomes a tunnel is counted twice for a moment, but never missed.
    let before = route.gate.offers.fetch_add(1, Full);
    // From here on, dropping it undoes this.
    let mut offer = KBox::new(offer, GFP_ATOMIC | __GFP_NOWARN).map_err(|_| {
        stats::inc(Counter::NoMemory);
        Verdict::Refuse(503, 1)
    })?;
    if most > 0 && before.saturating_add(route.tunnels_open()) >= most {
        return Err(asking.refuse(Cause::TunnelsLimit, 503, 0));
    }
    offer.excused = false;
    Ok(Some(offer))
}
