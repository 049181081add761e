// SPDX-License-Identifier: GPL-2.0

//! Health checks of a server: requests of Squall's own, each on a connection of its own.
//!
//! The server's [`Record`](super::record::Record) decides what follows from the results. One check is under way at a
//! time. It fails unless a response with an expected status arrives in time.
//!
//! Context: softirq; functions that get an [`Io`] hold the lock of the check's connection.

use super::{
    body::Failure,
    limits,
    pool::{
        turn_to_connect,
        Pool, //
    },
    reading::Reading,
    session::{
        Io,
        Session, //
    }, //
};
use crate::{
    attributes::{
        number_file,
        SERVER, //
    },
    net::{
        lock::{
            new_bh_lock,
            BhLock, //
        },
        random,
        Conn,
        Events,
        Hooks,
        Moment,
        OutQueue,
        Run,
        Softirq,
        Task,
        CONNECTED, //
    },
    proto::{
        h1::{
            HeadParser,
            Progress, //
        },
        message::Version,
        response::{
            Asked,
            Response,
            ResponseKind, //
        }, //
    }, //
};
use kernel::{
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            ordering::Relaxed,
            Atomic, //
        }, //
    }, //
};

/// Interim responses that one check may get.
const INTERIM_MAX: u8 = 16;

/// How a server is checked.
pub(crate) struct Plan {
    /// The request target, a path with or without a query; empty for no checks.
    pub(crate) path: KVec<u8>,
    /// The host[:port] of the request; empty for the server's address.
    pub(crate) host: KVec<u8>,
    /// The least and the largest status code of a healthy server.
    pub(crate) statuses: (u16, u16),
    /// Milliseconds from one check to the next, before jitter.
    pub(crate) interval: u32,
    /// Milliseconds that a check may take, connecting included.
    pub(crate) timeout: u32,
    /// Checks in a row that must succeed for an unhealthy server to count as healthy.
    pub(crate) rise: u32,
    /// Checks in a row that must fail for a healthy server to count as unhealthy.
    pub(crate) fall: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            path: KVec::new(),
            host: KVec::new(),
            statuses: (200, 200),
            interval: number_file(SERVER, 13).default,
            timeout: number_file(SERVER, 14).default,
            rise: number_file(SERVER, 15).default,
            fall: number_file(SERVER, 16).default,
        }
    }
}

/// The checks of one server: the task that begins them.
pub(crate) type Checks = Task<Checker>;

/// What the checks of a server need.
#[pin_data]
pub(crate) struct Checker {
    pool: ARef<Pool>,
    /// The number that the pool gave to these checks.
    number: Atomic<u32>,
    request: KVec<u8>,
    statuses: (u16, u16),
    interval: u32,
    timeout: u32,
    #[pin]
    state: BhLock<State>,
}

struct State {
    /// A check is under way.
    running: bool,
    /// The time at which the next one may connect.
    turn: Option<Moment>,
}

/// Begins to check the server of `pool`; [`Task::shutdown`] ends it. Process context.
pub(crate) fn start(pool: ARef<Pool>, plan: &Plan) -> Result<ARef<Checks>> {
    let request = request(&pool, plan)?;
    let own = pool.clone();
    let checks = Task::new(try_pin_init!(Checker {
        pool: own,
        request,
        number: Atomic::new(0),
        statuses: plan.statuses,
        interval: plan.interval,
        timeout: plan.timeout,
        state <- new_bh_lock!(State {
            running: false,
            turn: None,
        }),
    }))?;
    let number = pool.begin_checks(plan.rise, plan.fall);
    checks.number.store(number, Relaxed);
    checks.kick();
    Ok(checks)
}

/// Writes the request of a check.
fn request(pool: &Pool, plan: &Plan) -> Result<KVec<u8>> {
    let address = CString::try_from_fmt(format_args!("{}", pool.addr().get()))?;
    let host = match plan.host.as_slice() {
        [] => address.to_bytes(),
        host => host,
    };
    let mut text = KVec::new();
    for part in [
        b"GET ",
        plan.path.as_slice(),
        b" HTTP/1.1\r\nHost: ",
        host,
        b"\r\nUser-Agent: squall\r\nConnection: close\r\n\r\n",
    ] {
        text.extend_from_slice(part, GFP_KERNEL)?;
    }
    Ok(text)
}

impl Checker {
    /// Returns the milliseconds to the next check: the interval with a jitter of an eighth, so that checks of many
    /// servers do not come at once.
    fn pause(&self) -> u32 {
        let eighth = self.interval / 8;
        self.interval
            .saturating_sub(eighth)
            .saturating_add(random(eighth.saturating_mul(2).saturating_add(1)))
    }

    fn ended(&self, good: bool) {
        self.state.lock().running = false;
        self.pool.checked(self.number.load(Relaxed), good);
    }
}

impl Run for Checker {
    fn run(checks: &ARef<Checks>, softirq: Softirq<'_>) {
        let mut state = checks.state.lock();
        let due = match state.turn {
            Some(due) => due,
            None => *state.turn.insert(turn_to_connect()),
        };
        let wait = Moment::now().ms_until(due);
        if wait > 0 {
            drop(state);
            return checks.kick_after(wait);
        }
        state.turn = None;
        let begin = !core::mem::replace(&mut state.running, true);
        drop(state);
        checks.kick_after(checks.pause());
        if begin {
            let session = Session::Check(Check::new(checks.clone()));
            // If it does not even begin, dropping the session has reported it.
            let _ = Conn::connect(checks.pool.addr(), session, &HOOKS, checks.timeout, softirq);
        }
    }
}

/// A check under way. Dropping it reports how it ended.
pub(crate) struct Check {
    checks: ARef<Checks>,
    reading: Option<KBox<Reading>>,
    interim: u8,
    /// The time at which it fails.
    due: Moment,
    good: bool,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.checks.ended(self.good);
    }
}

impl Check {
    fn new(checks: ARef<Checks>) -> Check {
        Check {
            due: Moment::now().after_ms(checks.timeout),
            checks,
            reading: None,
            interim: 0,
            good: false,
        }
    }

    fn connected(&mut self, io: &mut Io<'_>) {
        let mut bytes = OutQueue::new();
        if bytes.write(&self.checks.request, io.softirq()).is_err() || io.send(&mut bytes).is_err()
        {
            return io.reset();
        }
        io.set_deadline(Moment::now().ms_until(self.due));
    }

    fn read(&mut self, io: &mut Io<'_>) {
        loop {
            match self.head(io) {
                Ok(Some((ResponseKind::Final, status))) => {
                    let (least, most) = self.checks.statuses;
                    self.good = (least..=most).contains(&status);
                    return io.release();
                }
                Ok(Some(_)) if self.interim < INTERIM_MAX => {
                    self.interim = self.interim.saturating_add(1);
                }
                Ok(None) if !io.fin_received() => return,
                _ => return io.reset(),
            }
        }
    }

    /// Reads a response head and returns its kind and its status; `None` if it is not complete.
    fn head(&mut self, io: &mut Io<'_>) -> Result<Option<(ResponseKind, u16)>, Failure> {
        if io.unread() == 0 {
            return Ok(None);
        }
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => Reading::new(HeadParser::response())?,
        };
        if reading.resume(io, &limits::response())? == Progress::NeedMore {
            self.reading = Some(reading);
            return Ok(None);
        }
        let asked = Asked {
            head_method: false,
            upgrade: false,
            version: Version::Http11,
            keep_alive: false,
            via: false,
        };
        let (head, bytes) = reading.complete(io)?;
        let kind = match Response::from_head(head, &asked, &bytes) {
            Ok(response) => response.kind,
            Err(error) if error.is_failure() => return Err(Failure::Protocol(error)),
            // It is not forwarded, so only its status counts.
            Err(_) if head.status < 200 => ResponseKind::Interim,
            Err(_) => ResponseKind::Final,
        };
        let status = head.status;
        io.consume(reading.len());
        Reading::end(reading);
        Ok(Some((kind, status)))
    }
}

/// The hooks of a check's connection.
static HOOKS: Hooks<Session> = Hooks {
    data_ready: |session, io| {
        if let Session::Check(check) = session {
            check.read(io);
        }
    },
    events: |session, io, events: Events| {
        if let (Session::Check(check), true) = (session, events & CONNECTED != 0) {
            check.connected(io);
        }
    },
    timer: |_, io| io.reset(),
    // Dropping the session reports that the check failed.
    closed: |_, _, _| {},
    // It never pauses.
    reads_on: false,
};
