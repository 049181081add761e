// SPDX-License-Identifier: GPL-2.0

//! The connections to one server.
//!
//! An exchange takes one out with a [`Checkout`] and puts it back; a tunnel keeps it. Requests that find none wait in
//! order, and one connection is opened for each of them. Returned connections are kept for a while, up to a maximum
//! number. Connections ahead of need are opened only for `connections`: a server that serves one connection at a time
//! would wait for a request on an unused connection and serve nobody else.
//!
//! A server to which no connection can be made counts as down. Its requests are refused at once, and attempts follow
//! one at a time, with exponential backoff and jitter, in softirq. A server that accepts connections and fails requests
//! can count as down, too; see [`Record`].
//!
//! Context: softirq. The pool's lock is a leaf: no other lock is taken under it.

use super::{
    drain::Tunnels,
    record::{
        backoff,
        Record, //
    },
    session::{
        Conn,
        Mail,
        Session,
        GONE,
        GRANTED,
        REFUSED_502,
        REFUSED_504, //
    },
    upstream::{
        self,
        Upstream, //
    }, //
};
use crate::net::{
    lock::{
        new_bh_lock,
        BhLock, //
    },
    stats::{
        self,
        Counter,
        Tally, //
    },
    sysctl,
    Events,
    Moment,
    OutQueue,
    Pace,
    Run,
    SocketAddr,
    Softirq,
    Task, //
};
use core::cmp;
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            ordering::Relaxed,
            AtomicFlag, //
        },
        Arc, //
    }, //
};

mod checkout;
mod idle;
mod waiters;

pub(crate) use self::checkout::{
    Checkout,
    Own, //
};
use self::{
    idle::{
        Idle,
        Keep, //
    },
    waiters::Waiters, //
};

/// Attempts to connect that may be under way to one server.
const CONNECTING_MAX: u32 = 128;

/// Attempts started by one run of the task; more follow in the next tick.
const CONNECTS_PER_RUN: u32 = 16;

/// The pace of attempts to connect to all servers together, so that a fleet of servers that comes back is not flooded.
static CONNECTS: Pace = Pace::new();

/// Milliseconds until the next run when there is more to connect.
const PACE_MS: u32 = 1;

/// An unused connection that the server closes earlier than this, in milliseconds, counts as a failed attempt.
/// Otherwise a server that accepts and closes would be connected to in a loop.
const SHORT_LIVED_MS: u32 = 1000;

/// A pool: the task that opens connections.
pub(crate) type Pool = Task<Server>;

/// What is known about a server.
#[pin_data]
pub(crate) struct Server {
    addr: SocketAddr,
    #[pin]
    shared: BhLock<Shared>,
    /// The tunnels of the server, which gets another pool when its address changes.
    pub(crate) tunnels: Arc<Tunnels>,
    /// A request has failed since the last one was answered.
    failing: AtomicFlag,
    pub(crate) counts: Counts,
}

/// Events of one server, since it was configured.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connects: Tally,
    pub(crate) connected: Tally,
    pub(crate) connect_failed: Tally,
    pub(crate) requests: Tally,
    pub(crate) tunnels_opened: Tally,
    pub(crate) tunnels_closed: Tally,
    pub(crate) requests_failed: Tally,
    pub(crate) responses_refused: Tally,
    pub(crate) checks: Tally,
    pub(crate) checks_failed: Tally,
}

struct Shared {
    /// Connections ready for a request.
    idle: Idle,
    /// Connections of this pool: connecting, idle and checked out, without those of tunnels.
    owned: u32,
    connecting: u32,
    size: Size,
    /// The server has kept a connection open after a response.
    keeps: bool,
    /// Downstream connections that want one.
    waiters: Waiters,
    /// Failed attempts in a row.
    failures: u32,
    /// Milliseconds of the last backoff, jitter included.
    backoff: u32,
    /// The time before which no attempt is made.
    not_before: Option<Moment>,
    /// The turns that were reserved from [`CONNECTS`]: from when on, and how many.
    turns: Option<(Moment, u32)>,
    record: Record,
    /// The task's timer is set. Its run finds what is due by then.
    timed: bool,
    /// It is set for the next tick, to replace connections.
    replacing: bool,
    stopped: bool,
}

/// The sizes of a pool, without tunnels.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Connections that are kept ready ahead of need (`connections`), and not more than `most`.
    pub(crate) connections: u32,
    /// The most connections (`connections_max`).
    pub(crate) most: u32,
    /// The most used connections that are kept for a while (`idle_max`).
    pub(crate) idle_most: u32,
    /// That while, in milliseconds.
    pub(crate) idle_ms: u32,
}

/// A snapshot of a pool for its `stats` file.
pub(crate) struct Snapshot {
    pub(crate) idle: u32,
    pub(crate) busy: u32,
    pub(crate) connecting: u32,
    pub(crate) waiting: u32,
    pub(crate) failures: u32,
    pub(crate) backoff: u32,
    pub(crate) fails: u32,
    pub(crate) up: bool,
    pub(crate) healthy: bool,
}

/// Whether a server can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is up.
    Up,
    /// Its checks fail.
    Unhealthy,
    /// No connection to it can be made, or it is paused.
    Down,
}

/// The result of asking for a connection.
pub(crate) enum Answer {
    /// Here is one.
    Ready(Checkout),
    /// It will come by mail, or an event `REFUSED_…` will.
    Queued,
    /// None; answer with this status.
    Refused(u16),
}

impl Shared {
    fn busy(&self) -> u32 {
        (self.owned.saturating_sub(self.connecting)).saturating_sub(self.idle.len())
    }

    /// Returns whether the server counts as down.
    fn is_down(&self) -> bool {
        self.failures > 0 && self.owned == self.connecting
    }

    /// Returns the standing of the server.
    fn standing(&self) -> Standing {
        if self.is_down() || self.record.is_paused() {
            Standing::Down
        } else if self.record.is_unhealthy() {
            Standing::Unhealthy
        } else {
            Standing::Up
        }
    }

    fn keep(&self) -> Keep {
        Keep {
            always: self.size.connections,
            most: self.size.idle_most,
            ms: self.size.idle_ms,
        }
    }

    /// Adds a connection to the idle ones if there is room for it. `used`: it has served a request.
    fn add_idle(&mut self, conn: &ARef<Conn>, used: bool) -> bool {
        self.keeps |= used;
        if self.idle.len() >= self.keep().room(self.keeps) {
            return false;
        }
        match used {
            true => self.idle.add(conn),
            false => self.idle.add_unused(conn),
        }
    }

    /// Removes a connection from the idle ones, and from the pool; `false` if it is not idle.
    fn remove_idle(&mut self, conn: &Conn) -> bool {
        let removed = self.idle.remove(conn);
        self.owned = self.owned.saturating_sub(u32::from(removed));
        removed
    }

    /// Returns the milliseconds until the next attempt may be made.
    fn backoff_left(&self) -> u32 {
        match self.not_before {
            Some(at) if !self.stopped => Moment::now().ms_until(at),
            _ => 0,
        }
    }

    /// Returns how many requests wait without a connection being opened for them.
    fn demand(&self) -> u32 {
        self.waiters.count().saturating_sub(self.connecting)
    }

    /// Returns how many attempts are to be started now.
    fn wanted(&self) -> u32 {
        if self.stopped || self.backoff_left() > 0 {
            return 0;
        }
        // A server without connections to keep also has to be tried, to find out when it is back.
        let target = self.size.connections.max(u32::from(self.is_down()));
        let missing = target.saturating_sub(self.owned);
        let most = if self.is_down() { 1 } else { CONNECTING_MAX };
        let room = self.size.most.saturating_sub(self.owned);
        cmp::max(missing, self.demand())
            .min(room)
            .min(most.saturating_sub(self.connecting))
    }

    /// Takes one of the turns to connect, of which `wanted` are needed, and returns 0. If it has not come yet, returns
    /// the milliseconds until then.
    fn take_turn(&mut self, wanted: u32) -> u32 {
        let (due, left) = self.turns.unwrap_or_else(|| {
            let rate = sysctl::connects_per_second();
            let count = wanted.min(CONNECTS_PER_RUN).min(Pace::per_tick(rate));
            (CONNECTS.reserve(count, rate), count)
        });
        let wait = Moment::now().ms_until(due);
        let left = left.saturating_sub(u32::from(wait == 0));
        self.turns = (left > 0).then_some((due, left));
        wait
    }

    /// Notes a failed attempt.
    fn back_off(&mut self) {
        if self.backoff_left() > 0 {
            // Attempts that were under way together count as one.
            return;
        }
        self.backoff = backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Moment::now().after_ms(self.backoff));
    }

    /// Makes the task run when something is due: after `wait` milliseconds if that is not 0, and when an idle
    /// connection has been kept long enough. Called under the lock, so that stopping the pool finds the timer.
    fn set_timer(&mut self, pool: &Pool, wait: u32) {
        let idle = self.idle.due_in(&self.keep());
        let wait = (wait > 0).then_some(wait);
        let next = [wait, idle].into_iter().flatten().min();
        self.timed = next.is_some() && !self.stopped;
        self.replacing = false;
        if let (Some(ms), true) = (next, self.timed) {
            pool.kick_after(ms);
        }
    }
}

/// Reserves a turn to connect, for a connection that is not the pool's, and returns its time.
pub(crate) fn turn_to_connect() -> Moment {
    CONNECTS.reserve(1, sysctl::connects_per_second())
}

/// Makes a pool, which begins to connect. Process context.
pub(crate) fn start(addr: SocketAddr, size: Size, tunnels: Arc<Tunnels>) -> Result<ARef<Pool>> {
    let pool = Task::new(try_pin_init!(Server {
        addr,
        shared <- new_bh_lock!(Shared {
            idle: Idle::new(),
            owned: 0,
            connecting: 0,
            size,
            keeps: false,
            waiters: Waiters::new(),
            failures: 0,
            backoff: 0,
            not_before: None,
            turns: None,
            record: Record::default(),
            timed: false,
            replacing: false,
            stopped: false,
        }),
        tunnels,
        failing: AtomicFlag::new(false),
        counts: Counts::default(),
    }))?;
    pool.kick();
    Ok(pool)
}

impl Server {
    /// Returns the server's address.
    pub(crate) fn addr(&self) -> &SocketAddr {
        &self.addr
    }

    /// Returns a snapshot of the pool.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let shared = self.shared.lock();
        Snapshot {
            idle: shared.idle.len(),
            busy: shared.busy(),
            connecting: shared.connecting,
            waiting: shared.waiters.count(),
            failures: shared.failures,
            backoff: shared.backoff,
            fails: shared.record.fails,
            up: shared.standing() == Standing::Up,
            healthy: !shared.record.is_unhealthy(),
        }
    }

    /// Returns the load of the server: exchanges, waiting requests and tunnels.
    pub(crate) fn load(&self) -> u32 {
        let shared = self.shared.lock();
        let exchanges = shared.busy().saturating_add(shared.waiters.count());
        drop(shared);
        exchanges.saturating_add(self.tunnels_open())
    }

    /// Returns how many tunnels to this address are open.
    fn tunnels_open(&self) -> u32 {
        // Reads the later counter first, so that the difference is never negative.
        let closed = self.counts.tunnels_closed.get();
        let opened = self.counts.tunnels_opened.get();
        u32::try_from(opened.saturating_sub(closed)).unwrap_or(u32::MAX)
    }

    /// Returns whether the server can be chosen.
    pub(crate) fn standing(&self) -> Standing {
        self.shared.lock().standing()
    }

    /// Returns the part of its weight that the server has now, in 256ths.
    pub(crate) fn part(&self) -> u32 {
        self.shared.lock().record.part()
    }

    /// Sets the milliseconds over which the server's share grows when it comes back; 0: at once.
    pub(crate) fn set_slow_start(&self, ms: u32) {
        self.shared.lock().record.slow_start = ms;
    }

    /// Notes a request sent to the server.
    pub(crate) fn count_request(&self) {
        self.counts.requests.inc();
    }

    /// Notes that a tunnel was opened.
    pub(crate) fn tunnel_opened(&self) {
        self.tunnels.opened();
        self.counts.tunnels_opened.inc();
    }

    /// Notes that a tunnel's server connection is closed.
    pub(crate) fn tunnel_closed(&self) {
        self.tunnels.closed();
        self.counts.tunnels_closed.inc();
    }

    /// Sets how many requests in a row may fail from here on; 0: any number.
    pub(crate) fn set_fails_max(&self, fails_max: u32) {
        let mut shared = self.shared.lock();
        shared.record.fails_max = fails_max;
        shared.record.answered();
    }

    /// Begins a series of checks: `rise` in a row have to succeed for the server to become healthy, and `fall` to fail
    /// for it to become unhealthy. Returns the number of the series; results of earlier series are ignored.
    pub(crate) fn begin_checks(&self, rise: u32, fall: u32) -> u32 {
        self.shared.lock().record.begin_checks(rise, fall)
    }

    /// Ends the checks: the server counts as healthy.
    pub(crate) fn end_checks(&self) {
        self.shared.lock().record.end_checks();
    }

    /// Notes how a check of this number ended.
    pub(crate) fn checked(&self, number: u32, good: bool) {
        self.counts.checks.inc();
        if !good {
            self.counts.checks_failed.inc();
        }
        self.shared.lock().record.checked(number, good);
    }

    /// Notes that a request was answered with a response that is not forwarded.
    pub(crate) fn refused_response(&self) {
        self.counts.responses_refused.inc();
        self.answered();
    }

    /// Notes that a request was answered.
    pub(crate) fn answered(&self) {
        // Usually there is no failure to forget, and then the lock is not needed.
        if self.failing.load(Relaxed) {
            self.failing.store(false, Relaxed);
            self.shared.lock().record.answered();
        }
    }

    /// Returns whether the server was removed, or given another address.
    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.lock().stopped
    }
}

/// Notes that a connection has left the pool. The pool opens another one if it needs one.
///
/// It is opened in the next tick, because a response is on its way that should not wait for it. It is opened at once if
/// a request waits for a connection, or if the pool lacks as many as one run opens.
fn replace(pool: &ARef<Pool>) {
    let mut shared = pool.shared.lock();
    shared.owned = shared.owned.saturating_sub(1);
    let wanted = shared.wanted();
    if shared.demand() > 0 || wanted >= CONNECTS_PER_RUN {
        drop(shared);
        return pool.kick();
    }
    if wanted > 0 && !shared.replacing {
        // Only once, or each connection that leaves would delay it again.
        shared.replacing = true;
        shared.timed = true;
        pool.kick_after(PACE_MS);
    }
}

/// Asks for a connection to the pool's server, for the request that `conn` wants to send.
pub(crate) fn checkout(pool: &ARef<Pool>, conn: &Conn) -> Answer {
    let mut shared = pool.shared.lock();
    if !shared.record.admit() {
        return Answer::Refused(502);
    }
    if let Some(idle) = shared.idle.take() {
        drop(shared);
        return Answer::Ready(Checkout::new(idle, pool.clone()));
    }
    if shared.stopped || shared.waiters.places() >= sysctl::waiters_max() as usize {
        return Answer::Refused(503);
    }
    if shared.is_down() {
        return Answer::Refused(502);
    }
    if !shared.waiters.add(conn) {
        stats::inc(Counter::NoMemory);
        return Answer::Refused(503);
    }
    drop(shared);
    pool.kick();
    Answer::Queued
}

/// Notes that `conn` no longer waits.
pub(crate) fn cancel(pool: &ARef<Pool>, conn: &Conn) {
    let waiter = pool.shared.lock().waiters.cancel(conn);
    drop(waiter);
}

/// Takes a connection that became ready: for the request that has waited longest, or as an idle one. `used`: it has
/// served a request.
fn hand_out(pool: &ARef<Pool>, conn: ARef<Conn>, used: bool) {
    let mut conn = conn;
    loop {
        let mut shared = pool.shared.lock();
        if shared.stopped {
            break;
        }
        let Some(waiter) = shared.waiters.next() else {
            if !shared.add_idle(&conn, used) {
                break;
            }
            if !shared.timed && shared.idle.len() > shared.size.connections {
                let wait = shared.backoff_left();
                shared.set_timer(pool, wait);
            }
            drop(shared);
            // It may have closed before it was on the list, and then nobody else removes it.
            if conn.is_dead() && pool.shared.lock().remove_idle(&conn) {
                pool.kick();
            }
            return;
        };
        drop(shared);
        let mail = Mail::Checkout(Checkout::new(conn, pool.clone()));
        match waiter.deliver(&mut OutQueue::new(), Some(mail)) {
            Ok(()) => {
                waiter.post(GRANTED);
                return;
            }
            // It is closed, or already has a connection: try the next.
            Err(undelivered) => match undelivered.0 {
                Some(Mail::Checkout(checkout)) => match checkout.take() {
                    Some(back) => conn = back,
                    None => return,
                },
                _ => return,
            },
        }
    }
    // Requests that asked meanwhile saw no room for another connection.
    replace(pool);
    conn.post(GONE);
}

/// Notes that a connection is established.
pub(crate) fn connected(pool: &ARef<Pool>, conn: &Conn) {
    stats::inc(Counter::Connected);
    pool.counts.connected.inc();
    let mut shared = pool.shared.lock();
    if shared.is_down() {
        shared.record.back();
    }
    shared.connecting = shared.connecting.saturating_sub(1);
    shared.failures = 0;
    shared.backoff = 0;
    shared.not_before = None;
    drop(shared);
    hand_out(pool, conn.into(), false);
    // While the server counted as down there was one attempt; now the others follow.
    pool.kick();
}

/// Notes that an attempt to connect failed; `answer` is the event for the requests that wait.
pub(crate) fn connect_failed(pool: &ARef<Pool>, answer: Events) {
    stats::inc(Counter::ConnectFailed);
    pool.counts.connect_failed.inc();
    let mut shared = pool.shared.lock();
    shared.connecting = shared.connecting.saturating_sub(1);
    shared.owned = shared.owned.saturating_sub(1);
    failed(pool, shared, answer);
}

/// Backs off, and refuses the waiting requests if there is no connection to wait for.
fn failed(pool: &ARef<Pool>, mut shared: crate::net::lock::BhGuard<'_, Shared>, answer: Events) {
    shared.back_off();
    let mut refused = KVec::new();
    if shared.is_down() {
        refused = shared.waiters.take_all();
    }
    let wait = shared.backoff_left();
    shared.set_timer(pool, wait);
    drop(shared);
    for waiter in refused.iter().flatten() {
        waiter.post(answer);
    }
}

/// Notes that a request was not answered: the connection was closed, or what arrived was not a response, or nothing
/// arrived in time.
pub(crate) fn request_failed(pool: &ARef<Pool>) {
    pool.counts.requests_failed.inc();
    let mut shared = pool.shared.lock();
    pool.failing.store(true, Relaxed);
    let mut refused = KVec::new();
    if shared.record.failed() {
        refused = shared.waiters.take_all();
    }
    drop(shared);
    for waiter in refused.iter().flatten() {
        waiter.post(REFUSED_502);
    }
}

/// Returns whether a never used connection, established at `since`, was closed too early.
fn is_short(since: Option<Moment>) -> bool {
    since.is_some_and(|at| Moment::now().is_before(at.after_ms(SHORT_LIVED_MS)))
}

/// Notes that the server closed a connection, if the connection was idle.
///
/// `since`: when it was established, if it was never used.
pub(crate) fn closed(pool: &ARef<Pool>, conn: &Conn, since: Option<Moment>) {
    let mut shared = pool.shared.lock();
    if !shared.remove_idle(conn) {
        // Its checkout accounts for it.
        return;
    }
    if is_short(since) {
        failed(pool, shared, REFUSED_502);
    } else {
        drop(shared);
        pool.kick();
    }
}

/// Notes that the server closes an idle connection and says so in a response. The server is up, so this is not a
/// failure. But if it does so at once, it is not connected to in a loop.
///
/// `since`: when it was established, if it was never used. Returns whether it was idle, never used, and closed too
/// early. If what arrived turns out not to be such a response, the caller calls [`attempt_failed`].
pub(crate) fn left(pool: &ARef<Pool>, conn: &Conn, since: Option<Moment>) -> bool {
    let mut shared = pool.shared.lock();
    if !shared.remove_idle(conn) {
        return false;
    }
    let is_short = is_short(since);
    if is_short && shared.backoff_left() == 0 {
        let pause = backoff(0);
        shared.not_before = Some(Moment::now().after_ms(pause));
        shared.set_timer(pool, pause);
        return true;
    }
    drop(shared);
    pool.kick();
    is_short
}

/// Notes that a connection that [`left`] was called for was closed for another reason: the attempt to connect has
/// failed.
pub(crate) fn attempt_failed(pool: &ARef<Pool>) {
    let mut shared = pool.shared.lock();
    if shared.failures == 0 {
        // The pause so far was not due to a failure.
        shared.not_before = None;
    }
    failed(pool, shared, REFUSED_502);
}

/// Changes how many connections are kept, and how many there may be.
pub(crate) fn resize(pool: &ARef<Pool>, size: Size) {
    pool.shared.lock().size = size;
    pool.kick();
}

/// Closes idle connections and opens no more. Exchanges and tunnels continue. Any context.
pub(crate) fn stop(pool: &ARef<Pool>) {
    let mut shared = pool.shared.lock();
    shared.stopped = true;
    shared.owned = shared.owned.saturating_sub(shared.idle.len());
    let idle = shared.idle.take_all();
    let waiters = shared.waiters.take_all();
    drop(shared);
    pool.cancel();
    for conn in idle {
        conn.post(GONE);
    }
    for waiter in waiters.iter().flatten() {
        waiter.post(REFUSED_502);
    }
}

impl Run for Server {
    /// Opens missing connections and closes surplus ones.
    fn run(pool: &ARef<Pool>, softirq: Softirq<'_>) {
        for _ in 0..CONNECTS_PER_RUN {
            let mut shared = pool.shared.lock();
            let keep = shared.keep();
            if let Some(surplus) = shared.idle.take_surplus(&keep) {
                shared.owned = shared.owned.saturating_sub(1);
                drop(shared);
                stats::inc(Counter::IdleSurplus);
                surplus.post(GONE);
                continue;
            }
            let wanted = shared.wanted();
            let wait = match wanted {
                // The request for this run may have replaced the timer that ends a backoff.
                0 => {
                    shared.turns = None;
                    shared.backoff_left()
                }
                _ => shared.take_turn(wanted),
            };
            if wanted == 0 || wait > 0 {
                return shared.set_timer(pool, wait);
            }
            shared.connecting = shared.connecting.saturating_add(1);
            shared.owned = shared.owned.saturating_add(1);
            drop(shared);
            stats::inc(Counter::Connects);
            pool.counts.connects.inc();
            let session = Session::Upstream(Upstream::new(pool.clone()));
            let timeout = sysctl::connect_timeout_ms();
            if Conn::connect(&pool.addr, session, &upstream::HOOKS, timeout, softirq).is_err() {
                connect_failed(pool, REFUSED_502);
            }
        }
        let mut shared = pool.shared.lock();
        shared.timed = true;
        shared.replacing = true;
        pool.kick_after(PACE_MS);
    }
}

/// The event that tells waiting requests why connecting failed.
pub(crate) const fn failure_event(timed_out: bool) -> Events {
    if timed_out {
        REFUSED_504
    } else {
        REFUSED_502
    }
}
