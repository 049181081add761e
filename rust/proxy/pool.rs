// SPDX-License-Identifier: GPL-2.0

//! The connections to one server.
//!
//! An exchange takes one out for itself with a [`Checkout`] and puts it back; a tunnel keeps it. Requests that
//! find none wait in order while more are connected, one for each that waits. What is put back is kept for a while,
//! up to a number. Nothing is connected ahead of need unless `connections` says so: a server that serves
//! one connection at a time would wait for a request on a connection that has none, and serve nobody.
//!
//! When no connection can be made the server counts as down: requests are refused at once, and
//! attempts follow each other with exponential backoff and jitter, one at a time, in softirq. So does a
//! server that accepts connections and fails requests; see [`Record`].
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

/// When attempts to connect may be made, to all servers together: a fleet that comes back is not met by a
/// storm.
static CONNECTS: Pace = Pace::new();

/// Milliseconds until the next run when there is more to connect.
const PACE_MS: u32 = 1;

/// A connection that the server closes earlier than this, in milliseconds, without having been used
/// counts as a failed attempt: else a server that accepts and closes is connected to in a loop.
const SHORT_LIVED_MS: u32 = 1000;

/// Largest value of `connections` and of `idle_max`.
pub(crate) const CONNECTIONS_MAX: u32 = 4096;

/// Largest value of `connections_max`.
pub(crate) const MOST_MAX: u32 = 65536;

/// A pool: a task that provisions connections.
pub(crate) type Pool = Task<Server>;

/// What is known about a server.
#[pin_data]
pub(crate) struct Server {
    addr: SocketAddr,
    #[pin]
    shared: BhLock<Shared>,
    /// Those of the server, which has other pools when its address is replaced.
    pub(crate) tunnels: Arc<Tunnels>,
    /// A request failed since one was answered.
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
    /// Connections of this pool: connecting, idle, and checked out; not those of tunnels.
    owned: u32,
    connecting: u32,
    size: Size,
    /// The server has kept a connection open behind a response.
    keeps: bool,
    /// Downstream connections that want one.
    waiters: Waiters,
    /// Failed attempts in a row.
    failures: u32,
    /// Milliseconds of the last backoff, jitter included.
    backoff: u32,
    /// No attempt before this.
    not_before: Option<Moment>,
    /// The attempts that are ours by [`CONNECTS`]: from when on, and how many.
    turns: Option<(Moment, u32)>,
    record: Record,
    /// The task's timer is set: its run will find what is due by then.
    timed: bool,
    /// It is set for the next tick, to replace connections.
    replacing: bool,
    stopped: bool,
}

/// How many connections a pool has, those of tunnels aside.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Kept ready, also before they are needed: up to [`CONNECTIONS_MAX`], and not more than `most`.
    pub(crate) connections: u32,
    /// At most, while more are wanted than are ready: up to [`MOST_MAX`].
    pub(crate) most: u32,
    /// Kept for a while, of those that have served a request: up to [`CONNECTIONS_MAX`].
    pub(crate) idle_most: u32,
    /// That while, in milliseconds.
    pub(crate) idle_ms: u32,
}

/// What a pool looks like at a moment, for its `stats` file.
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
    /// Nothing is known against it.
    Up,
    /// Its checks fail.
    Unhealthy,
    /// No connection to it can be made, or it is paused.
    Down,
}

/// What came of asking for a connection.
pub(crate) enum Answer {
    /// Here is one.
    Ready(Checkout),
    /// It will come by mail, or an event `FAILED_…`.
    Queued,
    /// None; answer with this status.
    Refused(u16),
}

impl Shared {
    fn busy(&self) -> u32 {
        (self.owned.saturating_sub(self.connecting)).saturating_sub(self.idle.len())
    }

    /// Returns whether no connection can be had, as far as is known.
    fn is_down(&self) -> bool {
        self.failures > 0 && self.owned == self.connecting
    }

    /// Returns what is known of the server.
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

    /// Adds a connection to the idle ones if there is room for it; one that is not `used` has not served a request.
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

    /// Returns the milliseconds before which no attempt is to be made.
    fn backoff_left(&self) -> u32 {
        match self.not_before {
            Some(at) if !self.stopped => Moment::now().ms_until(at),
            _ => 0,
        }
    }

    /// Returns how many wait for whom nothing is being connected.
    fn demand(&self) -> u32 {
        self.waiters.count().saturating_sub(self.connecting)
    }

    /// Returns how many attempts are to be started now.
    fn wanted(&self) -> u32 {
        if self.stopped || self.backoff_left() > 0 {
            return 0;
        }
        // Also a server to which none are kept has to be tried, to know when it is back.
        let target = self.size.connections.max(u32::from(self.is_down()));
        let missing = target.saturating_sub(self.owned);
        let most = if self.is_down() { 1 } else { CONNECTING_MAX };
        let room = self.size.most.saturating_sub(self.owned);
        cmp::max(missing, self.demand())
            .min(room)
            .min(most.saturating_sub(self.connecting))
    }

    /// Takes one of the turns to connect, of `wanted`, if it has come; else returns the milliseconds until then.
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

    /// Has the task run when something is due: `wait` milliseconds from now if that is not 0, and when an idle
    /// connection has been kept long enough. Under the lock, so that who stops the pool finds the timer.
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

/// Reserves a turn to connect, for a connection that is not the pool's; returns when it is.
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

    /// Returns what the pool looks like.
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

    /// Returns how much the server has to do: exchanges, requests that wait, and tunnels.
    pub(crate) fn load(&self) -> u32 {
        let shared = self.shared.lock();
        let exchanges = shared.busy().saturating_add(shared.waiters.count());
        drop(shared);
        exchanges.saturating_add(self.tunnels_open())
    }

    /// Returns how many tunnels to this address are open.
    fn tunnels_open(&self) -> u32 {
        // The later one first, so that the difference is never negative.
        let closed = self.counts.tunnels_closed.get();
        let opened = self.counts.tunnels_opened.get();
        u32::try_from(opened.saturating_sub(closed)).unwrap_or(u32::MAX)
    }

    /// Says whether the server can be chosen.
    pub(crate) fn standing(&self) -> Standing {
        self.shared.lock().standing()
    }

    /// Returns which part of its weight the server has now, in 256ths.
    pub(crate) fn part(&self) -> u32 {
        self.shared.lock().record.part()
    }

    /// Sets the milliseconds in which the server's share grows when it is back; 0 for none.
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

    /// Sets how many requests in a row may fail, from now on; 0 for any number.
    pub(crate) fn set_fails_max(&self, fails_max: u32) {
        let mut shared = self.shared.lock();
        shared.record.fails_max = fails_max;
        shared.record.answered();
    }

    /// Begins to expect results of checks: so many in a row must succeed or fail for the server to count as
    /// healthy or not. Returns the number of these checks; what those before tell is not heard any more.
    pub(crate) fn begin_checks(&self, rise: u32, fall: u32) -> u32 {
        self.shared.lock().record.begin_checks(rise, fall)
    }

    /// Ends that: the server counts as healthy.
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

    /// Notes that a request was answered with a response that is not passed on.
    pub(crate) fn refused_response(&self) {
        self.counts.responses_refused.inc();
        self.answered();
    }

    /// Notes that a request was answered.
    pub(crate) fn answered(&self) {
        // Mostly there is nothing to forgive, and then no need for the lock.
        if self.failing.load(Relaxed) {
            self.failing.store(false, Relaxed);
            self.shared.lock().record.answered();
        }
    }

    /// Says whether the server was removed, or given another address.
    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.lock().stopped
    }
}

/// Notes that a connection is not the pool's any more; the pool makes another if it wants one.
///
/// That one is connected in the next tick, because an answer is on its way that should not wait for it. But who waits for a
/// connection gets it at once, and so does a pool that lacks as many as one run connects.
fn replace(pool: &ARef<Pool>) {
    let mut shared = pool.shared.lock();
    shared.owned = shared.owned.saturating_sub(1);
    let wanted = shared.wanted();
    if shared.demand() > 0 || wanted >= CONNECTS_PER_RUN {
        drop(shared);
        return pool.kick();
    }
    if wanted > 0 && !shared.replacing {
        // Once only: else each connection that goes would put it off again.
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

/// Notes that `conn` waits no more.
pub(crate) fn cancel(pool: &ARef<Pool>, conn: &Conn) {
    let waiter = pool.shared.lock().waiters.cancel(conn);
    drop(waiter);
}

/// Takes a connection that became ready: for who waits longest, or as an idle one. One that is not `used` has not
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
            // It may have closed before it was on the list, and then nobody else takes it off.
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
            // It is closed, or was given one already: try the next.
            Err(undelivered) => match undelivered.0 {
                Some(Mail::Checkout(checkout)) => match checkout.take() {
                    Some(back) => conn = back,
                    None => return,
                },
                _ => return,
            },
        }
    }
    // Who has asked meanwhile saw no room for another one.
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
    // One attempt was made while the server counted as down; now the rest.
    pool.kick();
}

/// Notes that an attempt to connect failed; `answer` is the event for those who wait for it.
pub(crate) fn connect_failed(pool: &ARef<Pool>, answer: Events) {
    stats::inc(Counter::ConnectFailed);
    pool.counts.connect_failed.inc();
    let mut shared = pool.shared.lock();
    shared.connecting = shared.connecting.saturating_sub(1);
    shared.owned = shared.owned.saturating_sub(1);
    failed(pool, shared, answer);
}

/// Backs off, and refuses those who wait if there is no connection to wait for.
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

/// Notes that a request was not answered: the connection was closed, or what came was no response, or nothing
/// came in time.
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

/// Says whether a connection that was never used, and was established then, has not lasted.
fn is_short(since: Option<Moment>) -> bool {
    since.is_some_and(|at| Moment::now().is_before(at.after_ms(SHORT_LIVED_MS)))
}

/// Notes that the server closed a connection, if the connection was idle.
///
/// `since`: when it was established, if it was never used.
pub(crate) fn closed(pool: &ARef<Pool>, conn: &Conn, since: Option<Moment>) {
    let mut shared = pool.shared.lock();
    if !shared.remove_idle(conn) {
        // Whoever checked it out accounts for it.
        return;
    }
    if is_short(since) {
        failed(pool, shared, REFUSED_502);
    } else {
        drop(shared);
        pool.kick();
    }
}

/// Notes that the server closes a connection and says so in a response, if the connection was idle. It is there, so
/// this is no failure; but one that does so at once is not connected to in a loop.
///
/// `since`: when it was established, if it was never used. Says whether it was idle, was never used, and has not lasted:
/// [`attempt_failed`] is due if it turns out that it is no such response.
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

/// Notes that a connection which [`left`] is told of was closed for another reason: the attempt to connect has failed.
pub(crate) fn attempt_failed(pool: &ARef<Pool>) {
    let mut shared = pool.shared.lock();
    if shared.failures == 0 {
        // The pause so far was not that of a failure.
        shared.not_before = None;
    }
    failed(pool, shared, REFUSED_502);
}

/// Changes how many connections are kept, and how many there may be.
pub(crate) fn resize(pool: &ARef<Pool>, size: Size) {
    pool.shared.lock().size = size;
    pool.kick();
}

/// Closes what is idle and makes no more connections; exchanges and tunnels go on. Any context.
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
    /// Connects what is missing, closes what is too many.
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
                // Whoever asked for this run may have put off the one that ends a backoff.
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
            let timeout = sysctl::connect_timeout();
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

/// The event that tells those who wait why connecting failed.
pub(crate) const fn failure_event(timed_out: bool) -> Events {
    if timed_out {
        REFUSED_504
    } else {
        REFUSED_502
    }
}
