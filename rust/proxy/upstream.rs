// SPDX-License-Identifier: GPL-2.0

//! The server's side: connections to a server, and responses.
//!
//! A connection is connecting, then idle, then has a [`Job`] for each exchange. After a valid `101` it becomes a
//! tunnel. Unrequested data is never used: bytes on an idle connection end it.
//!
//! Context: softirq, the lock of the upstream connection held.

use super::{
    body::{
        Body,
        Failure,
        Forwarded, //
    },
    limits,
    log::{
        self,
        By,
        Record,
        Why, //
    },
    pool::{
        self,
        Pool, //
    },
    reading::Reading,
    route::Route,
    session::{
        count_response_error,
        Conn,
        Io,
        Mail,
        Session,
        ABORTED,
        ASSIGNED,
        BEGUN,
        BOUND,
        CLOSE_AFTER,
        DIGESTS,
        ENDED,
        ENDED_LAST,
        FAILED_502,
        FAILED_503,
        FAILED_504,
        GONE,
        STALE,
        SWITCHED, //
    },
    settings::Setting,
    tunnel::{
        self,
        Shared,
        Side,
        Tunnel, //
    }, //
};
use crate::{
    net::{
        date,
        spare::Spares,
        stats::{
            self,
            Counter, //
        },
        sysctl,
        Events,
        Hooks,
        Moment,
        OutQueue,
        CONNECTED,
        RESUME, //
    },
    proto::{
        h1::{
            encode,
            HeadParser,
            Progress, //
        },
        message::{
            BodyFraming,
            Version, //
        },
        response::{
            Asked,
            Delivery,
            Response,
            ResponseKind, //
        },
        ws::AwaitingAccept, //
    }, //
};
use core::mem::MaybeUninit;
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

mod parting;

use self::parting::Parting;

/// A connection to a server.
pub(crate) struct Upstream {
    pool: ARef<Pool>,
    job: Option<KBox<Job>>,
    stage: Stage,
    /// It has served an exchange.
    used: bool,
    since: Moment,
}

/// The state of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// It is idle, or has a job.
    Open,
    /// It has served its last exchange; the server should close it.
    Last,
    /// Data arrived while it was idle. It is out of use, and the data may be a response that says why.
    Parting(Parting),
}

/// Memory for the next job.
pub(super) static SPARES: Spares<MaybeUninit<Job>> = Spares::new();

/// What to do with a response: the client and the facts about its request.
///
/// Dropping it tells the downstream connection how it ended, unless that was already told.
pub(crate) struct Job {
    client: ARef<Conn>,
    route: Arc<Route>,
    asked: Asked,
    awaiting: Option<KBox<AwaitingAccept>>,
    /// The shared state of the tunnel that the request offers.
    tunnel: Option<Arc<Shared>>,
    reading: Option<KBox<Reading>>,
    body: Option<Body>,
    interim: u16,
    rest: Rest,
    /// A part of the final response was forwarded.
    started: bool,
    /// So far, the connection can be used for another request.
    may_reuse: bool,
    /// The server authenticates connections, so this one belongs to the client from here on.
    binds: bool,
    close_after: bool,
    /// Its log record, if somebody follows the log.
    log: Option<Arc<Record>>,
    /// The event to post when this is dropped.
    verdict: Events,
}

impl Job {
    /// Makes the job for a request of `client`. If a rest of the request is still to come, the client's flag says when
    /// all of it has been queued. An event could arrive when the connection already has another job.
    pub(crate) fn new(
        client: ARef<Conn>,
        route: Arc<Route>,
        asked: Asked,
        awaiting: Option<KBox<AwaitingAccept>>,
        tunnel: Option<Arc<Shared>>,
        rest: Rest,
        log: Option<Arc<Record>>,
    ) -> Result<KBox<Job>> {
        Ok(KBox::write(
            SPARES.room()?,
            Job {
                client,
                route,
                asked,
                awaiting,
                tunnel,
                reading: None,
                body: None,
                interim: 0,
                rest,
                started: false,
                may_reuse: true,
                binds: false,
                close_after: false,
                log,
                verdict: FAILED_502,
            },
        ))
    }

    /// Returns the milliseconds that the server has for its next bytes.
    fn timeout(&self) -> u32 {
        let offered = self.tunnel.is_some() && self.body.is_none();
        self.route.settings.get(match offered {
            true => Setting::WsHandshakeTimeout,
            false => Setting::ResponseTimeout,
        })
    }

    /// Returns whether the whole request has been queued.
    fn is_whole(&self) -> bool {
        self.rest == Rest::Nothing || self.client.flag()
    }

    /// Returns whether the server waits for the client, so that no response can be expected.
    fn waits_for_client(&self, io: &Io<'_>) -> bool {
        let asked_for = self.rest != Rest::Expected || self.interim > 0;
        !self.is_whole() && asked_for && !io.unsent()
    }

    /// Returns whether a slow client holds the server back.
    fn is_held_back(&self, io: &Io<'_>) -> bool {
        self.client.holds_back() || io.conn().is_posted(RESUME)
    }

    /// Takes back a job that could not be assigned, without an event.
    pub(crate) fn cancel(mut self: KBox<Self>) -> Option<KBox<AwaitingAccept>> {
        self.verdict = Events::NONE;
        self.awaiting.take()
    }

    /// Notes what ended the exchange.
    fn end(&self, by: By, why: Why) {
        if let Some(log) = &self.log {
            log.end(by, why);
        }
    }

    /// Queues bytes of the response. The caller pushes.
    fn send(&mut self, bytes: &mut OutQueue) -> Result<(), Failure> {
        self.client
            .deliver(bytes, None)
            .map_err(|_| Failure::ReceiverGone)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let (Some(log), Some(body)) = (&self.log, &self.body) {
            log.sent(body.forwarded());
        }
        if !self.verdict.is_none() {
            self.client
                .post(if self.started { ABORTED } else { self.verdict });
        }
    }
}

/// The rest of a request when the server gets its head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing: the whole request has been queued.
    Nothing,
    /// The body, which the client sends.
    Body,
    /// The body, which the client sends after the server has asked for it: 100-continue.
    Expected,
}

/// The result of reading a response head.
enum Outcome {
    /// The head is not complete.
    NeedMore,
    /// The client has to read some of the interim responses first.
    Held,
    /// Continue with the bytes that follow.
    Again,
    /// The body follows.
    Body,
    /// The server switched protocols.
    Switch,
}

impl Upstream {
    /// Makes the session of a connection that is being opened.
    pub(crate) fn new(pool: ARef<Pool>) -> Upstream {
        Upstream {
            pool,
            job: None,
            stage: Stage::Connecting,
            used: false,
            since: Moment::now(),
        }
    }

    /// Reads on; `true` if the connection has to become a tunnel.
    fn advance(&mut self, io: &mut Io<'_>) -> bool {
        // TCP may be faster than the event that announces the job.
        self.assigned(io);
        let Some(job) = self.job.as_deref_mut() else {
            self.advance_idle(io);
            return false;
        };
        let mut interim = false;
        io.resume();
        loop {
            let result = match &mut job.body {
                None => head(job, io),
                Some(body) => match body.forward(io, &job.client) {
                    Ok(Forwarded::All) => {
                        self.ended(io);
                        return false;
                    }
                    Ok(Forwarded::Part | Forwarded::Starved) => {
                        io.push(&job.client, Events::NONE);
                        return false;
                    }
                    Err(failure) => Err(failure),
                },
            };
            match result {
                Ok(Outcome::Again) => interim = true,
                Ok(Outcome::Body) => {}
                Ok(Outcome::Switch) => return true,
                Ok(outcome @ (Outcome::NeedMore | Outcome::Held)) => {
                    if interim {
                        io.push(&job.client, Events::NONE);
                    }
                    if matches!(outcome, Outcome::Held) {
                        io.pause();
                    } else if io.fin_received() {
                        self.lost(io);
                    }
                    return false;
                }
                Err(failure) => {
                    self.failed(io, failure);
                    return false;
                }
            }
        }
    }

    /// The response is complete.
    fn ended(&mut self, io: &mut Io<'_>) {
        let Some(mut job) = self.job.take() else {
            return;
        };
        // Bytes behind the response belong to no message.
        let reuse = job.may_reuse && io.unread() == 0 && !io.eof() && !io.is_closed();
        let whole = job.is_whole();
        let bound = match job.binds {
            true => BOUND,
            false => Events::NONE,
        };
        let close = if job.close_after {
            CLOSE_AFTER
        } else {
            Events::NONE
        };
        job.verdict = Events::NONE;
        job.end(By::Nobody, Why::Done);
        self.used = true;
        self.pool.answered();
        io.clear_deadline();
        if reuse {
            // This comes last: the new holder of the connection may assign the next job at once.
            io.push(&job.client, ENDED | close | bound);
        } else {
            self.close_last(io, whole);
            io.push(&job.client, ENDED_LAST | close);
        }
        SPARES.empty(job);
    }

    /// Closes the connection behind its last response. A server that got the whole request will close it, and gets time
    /// to do so: the end that closes first has the TIME_WAIT.
    fn close_last(&mut self, io: &mut Io<'_>, whole: bool) {
        if !whole || io.unread() > 0 || io.fin_received() || io.is_closed() {
            return io.release();
        }
        self.stage = Stage::Last;
        io.set_deadline(sysctl::linger_timeout_ms());
    }

    /// The server closed the connection instead of answering.
    fn lost(&mut self, io: &mut Io<'_>) {
        if let Some(mut job) = self.job.take() {
            // The server may have given up waiting for the rest.
            if job.is_whole() {
                pool::request_failed(&self.pool);
            }
            let fin = io.fin_received();
            job.end(By::Server, if fin { Why::Fin } else { Why::Reset });
            let nothing = job
                .reading
                .as_ref()
                .is_none_or(|reading| !reading.has_begun());
            if nothing && job.interim == 0 {
                job.verdict = STALE;
            }
        }
        io.reset();
    }

    /// The exchange cannot be completed.
    fn failed(&mut self, io: &mut Io<'_>, failure: Failure) {
        if let Some(mut job) = self.job.take() {
            match failure {
                Failure::Protocol(error) => {
                    count_response_error(error);
                    match error.is_failure() {
                        true => pool::request_failed(&self.pool),
                        false => self.pool.refused_response(),
                    }
                    job.end(By::Server, Why::Protocol);
                }
                Failure::NoMemory => {
                    job.end(By::Proxy, Why::Memory);
                    job.verdict = FAILED_503;
                }
                Failure::ReceiverGone => {}
            }
        }
        io.reset();
    }

    /// Takes the job from the mail.
    fn assigned(&mut self, io: &mut Io<'_>) {
        if self.job.is_some() {
            // There is no other before this one has ended.
            return;
        }
        if let Some(Mail::Job(job)) = io.take_mail() {
            io.set_deadline(job.timeout());
            self.job = Some(job);
        }
    }

    fn timer(&mut self, io: &mut Io<'_>) {
        if self.stage == Stage::Connecting {
            self.stage = Stage::Open;
            pool::connect_failed(&self.pool, pool::failure_event(true));
            io.reset();
            return;
        }
        let Some(job) = &mut self.job else {
            match self.stage {
                Stage::Last => io.discard(),
                Stage::Parting(parting) => self.part_badly(io, parting),
                Stage::Connecting | Stage::Open => {}
            }
            return;
        };
        let timeout = job.timeout();
        let (now, due) = (Moment::now(), io.activity().after_ms(timeout));
        if now.is_before(due) {
            return io.set_deadline(now.ms_until(due));
        }
        // A slow client is not the server's fault. It has timeouts of its own.
        if job.is_held_back(io) || job.waits_for_client(io) {
            return io.set_deadline(timeout);
        }
        // A client that has closed its side may still read. While the server is silent, nothing shows whether it does.
        if job.started && job.client.fin_received() {
            stats::inc(Counter::ClientsLeft);
            job.end(By::Client, Why::Fin);
        } else {
            stats::inc(match &job.body {
                None if job.tunnel.is_some() => Counter::HandshakeTimeouts,
                _ => Counter::ResponseTimeouts,
            });
            pool::request_failed(&self.pool);
            job.verdict = FAILED_504;
            job.end(By::Server, Why::Timeout);
        }
        self.job = None;
        io.reset();
    }

    fn closed(&mut self, io: &mut Io<'_>, errno: i32) {
        self.assigned(io);
        if self.stage == Stage::Connecting {
            let timed_out = errno == -(kernel::error::code::ETIMEDOUT.to_errno());
            pool::connect_failed(&self.pool, pool::failure_event(timed_out));
        } else if self.job.is_some() && errno == -ENOMEM.to_errno() {
            self.failed(io, Failure::NoMemory);
        } else if let Some(job) = &self.job {
            if !io.fin_received() {
                let (by, why) = log::closed(By::Server, errno);
                job.end(by, why);
            }
            self.lost(io);
        } else if let Stage::Parting(parting) = self.stage {
            self.part_badly(io, parting);
        } else {
            self.closed_idle(io);
        }
    }
}

/// Reads the next response head and forwards it.
fn head(job: &mut Job, io: &mut Io<'_>) -> Result<Outcome, Failure> {
    if io.unread() == 0 {
        return Ok(Outcome::NeedMore);
    }
    let mut reading = match job.reading.take() {
        Some(reading) => reading,
        // Otherwise interim responses would fill the queue of a client that does not read.
        None if job.interim > 0 && io.wait_for_room_of(&job.client) => return Ok(Outcome::Held),
        None => Reading::new(HeadParser::response())?,
    };
    if reading.resume(io, &limits::response())? == Progress::NeedMore {
        job.reading = Some(reading);
        return Ok(Outcome::NeedMore);
    }
    let (room, len) = (reading.room(), reading.len());
    let (head, bytes) = reading.complete(io)?;
    let response = Response::from_head(head, &job.asked, &bytes).map_err(Failure::Protocol)?;
    let whole = job.is_whole();
    let mut delivery = Delivery::new(&response, &job.asked, true);
    if let (Some(log), true) = (&job.log, response.kind != ResponseKind::Interim) {
        log.status(response.status);
    }
    if response.contradicts {
        stats::inc(Counter::ToleratedResponses);
        job.may_reuse = false;
    }
    let outcome = match response.kind {
        ResponseKind::Interim => {
            job.interim = job.interim.saturating_add(1);
            if u32::from(job.interim) > sysctl::interim_max() {
                return Err(Failure::Protocol(crate::proto::Error::TooManyInterim));
            }
            Outcome::Again
        }
        ResponseKind::Switch => {
            let awaiting = job
                .awaiting
                .take()
                .ok_or(Failure::Protocol(crate::proto::Error::UnaskedSwitch))?;
            let accepted = awaiting
                .accept(head, &response, &bytes, &DIGESTS)
                .map_err(Failure::Protocol)?;
            if let Some(flaw) = accepted.flaw() {
                if job.route.settings.get(Setting::WsStrict) != 0 {
                    return Err(Failure::Protocol(flaw));
                }
                stats::inc(Counter::ToleratedResponses);
            }
            Outcome::Switch
        }
        ResponseKind::Final => {
            job.may_reuse &= response.keep_alive && response.framing != BodyFraming::UntilClose;
            job.binds = response.binds;
            let body = Body::new(
                response.framing,
                delivery.framing,
                response.trailers,
                &limits::response_body(),
            );
            let body = body.behind(len);
            // As long as nothing was forwarded, the client can get an error response.
            let complete = body.look_ahead(io)?;
            // The request is still arriving, and the server will probably not wait for the rest of it. The connection
            // is then closed behind the response, and the response has to say so. RFC 9112 section 9.6. A response
            // without an end so far may depend on the rest of the request.
            let early = !whole && (response.status >= 300 || complete);
            delivery.keep_alive &= !early;
            job.close_after = !delivery.keep_alive;
            job.body = Some(body);
            Outcome::Body
        }
    };
    // HTTP/1.0 has no interim responses.
    let wanted = response.kind != ResponseKind::Interim || job.asked.version != Version::Http10;
    if wanted {
        let mut queue = OutQueue::new();
        let mut writer = queue.writer(room, io.softirq());
        encode::response(
            head,
            &response,
            &bytes,
            &delivery,
            || date(io.softirq()),
            &mut writer,
        )
        .map_err(|_| {
            stats::inc(Counter::NoMemory);
            Failure::NoMemory
        })?;
        drop(writer);
        let starts = response.kind != ResponseKind::Interim;
        if starts && !whole {
            // Set BEGUN before queueing the head: a client that queued its last answer either sees BEGUN or never gets
            // this head.
            job.client.note(BEGUN);
        }
        job.send(&mut queue)?;
        job.started = starts;
    }
    if !matches!(outcome, Outcome::Body) {
        io.consume(reading.len());
    }
    Reading::end(reading);
    Ok(outcome)
}

/// The hooks of an upstream connection.
pub(crate) static HOOKS: Hooks<Session> = Hooks {
    data_ready,
    events,
    timer: |session, io| {
        if let Session::Upstream(upstream) = session {
            upstream.timer(io);
        }
    },
    closed: |session, io, errno| {
        if let Session::Upstream(upstream) = session {
            upstream.closed(io, errno);
        }
    },
    // A server that answers early may close with bytes unread, which causes a reset. Its response counts nevertheless.
    reads_on: true,
};

fn data_ready(session: &mut Session, io: &mut Io<'_>) {
    let Session::Upstream(upstream) = session else {
        return;
    };
    if !upstream.advance(io) {
        return;
    }
    let Some(mut job) = upstream.job.take() else {
        return;
    };
    // An offer always has one; without an offer there is no switch.
    let Some(shared) = job.tunnel.take() else {
        return io.reset();
    };
    job.verdict = Events::NONE;
    if let Some(log) = &job.log {
        log.switched();
    }
    upstream.pool.answered();
    let client = job.client.clone();
    drop(job);
    let mut tunnel = Tunnel::new(Side::Server, client.clone(), shared);
    io.set_hooks(&tunnel::HOOKS);
    // Before any other event of the tunnel.
    io.push(&client, SWITCHED);
    // The bytes behind the 101 follow it into the same queue.
    tunnel.start(io);
    *session = Session::Tunnel(tunnel);
}

fn events(session: &mut Session, io: &mut Io<'_>, events: Events) {
    let Session::Upstream(upstream) = session else {
        return;
    };
    if events & CONNECTED != 0 {
        upstream.stage = Stage::Open;
        upstream.since = Moment::now();
        pool::connected(&upstream.pool, io.conn());
    }
    if events & ASSIGNED != 0 {
        upstream.assigned(io);
    }
    if events & (GONE | ABORTED) != 0 {
        match upstream.job.take() {
            Some(mut job) => {
                // The downstream connection has dropped it and needs no event.
                job.verdict = Events::NONE;
                job.started = false;
                io.reset();
            }
            // The server closes it.
            None if matches!(upstream.stage, Stage::Last | Stage::Parting(_)) => {}
            None => io.discard(),
        }
        return;
    }
    if events & (ASSIGNED | RESUME) != 0 {
        data_ready(session, io);
    }
}
