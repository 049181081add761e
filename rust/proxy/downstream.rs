// SPDX-License-Identifier: GPL-2.0

//! The client's side of HTTP/1: one request after the other.
//!
//! A head stays in the receive queue until there is a server connection for it. The bytes behind the request stay there
//! until the response is complete. So pipelined requests are answered in order, and the bytes behind an offer to
//! upgrade are neither parsed nor lost.
//!
//! Context: softirq, the lock of the downstream connection held.

use super::{
    admission::{
        self,
        Lingering, //
    },
    body::Failure,
    limits,
    log::{
        self,
        By,
        Record,
        Why, //
    },
    pool::{
        self,
        Answer,
        Checkout, //
    },
    reading::Reading,
    session::{
        Conn,
        Io,
        Mail,
        Session,
        ABORTED,
        ASSIGNED,
        BEGUN,
        CLOSE_AFTER,
        DRAIN,
        ENDED,
        ENDED_LAST,
        FAILED_502,
        FAILED_503,
        FAILED_504,
        GRANTED,
        REFUSED_502,
        REFUSED_504,
        STALE,
        SWITCHED, //
    },
    settings::Setting,
    site::Site,
    tunnel::{
        self,
        Shared,
        Side,
        Tunnel, //
    },
    upstream::{
        Job,
        Rest, //
    }, //
};
use crate::{
    net::{
        clients::Seat,
        stats::{
            self,
            Counter, //
        },
        sysctl,
        Events,
        Hooks,
        Moment,
        OutQueue,
        RESUME, //
    },
    proto::{
        self,
        h1::{
            HeadParser,
            Progress, //
        },
        message::{
            BodyFraming,
            Method, //
        },
        response::Asked, //
    }, //
};
use core::net::IpAddr;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// How often a server is chosen for one request if servers refuse, or close connections before they answer.
pub(super) const TRIES_MAX: u8 = 3;

mod admit;
mod answer;
mod blank;
mod body;
pub(super) mod exchange;
mod own;

use self::exchange::{
    encode,
    find_route,
    judge,
    Exchange, //
};

/// What a downstream connection is waiting for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A request.
    Head,
    /// A request of a client with too many connections, which will be refused.
    Refused,
    /// The time at which an early request may be served; its head is still in the receive queue.
    Delayed,
    /// A server connection; the request's head is still in the receive queue.
    Connection,
    /// The rest of the request's body, and the response.
    Body,
    /// The response.
    Response,
    /// The rest of the request, which is discarded: the response is complete.
    Rest,
    /// The client, which has to read some of its responses before it gets another.
    Room,
}

/// The special kinds of connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// It counts as one that is turned away.
    TurnedAway,
    /// It owns a server connection, which is in the mail slot between requests. See [`Mail::Bound`].
    Bound,
}

/// The bits of [`Downstream::counts`] that count requests; also the upper bound of `net.squall.requests_max`.
const REQUESTS: u32 = (1 << REQUESTS_BITS) - 1;

const REQUESTS_BITS: u32 = 28;

/// A connection to a client.
pub(crate) struct Downstream {
    site: Arc<Site>,
    state: State,
    /// The number of requests so far in the lower bits, see [`REQUESTS`]. Above them, the number of empty lines skipped
    /// before the next one.
    counts: u32,
    /// The number of requests in a row that arrived before the previous response was complete.
    pipelined: u16,
    kind: Kind,
    reading: Option<KBox<Reading>>,
    exchange: Option<KBox<Exchange>>,
}

impl Downstream {
    /// Returns the client that the memory of `conn`, the connection of this session, counts for.
    pub(crate) fn client(&self, conn: &Conn) -> Option<IpAddr> {
        admission::counted(&self.site, conn.peer_ip())
    }

    /// Makes the session of an accepted connection.
    ///
    /// `turned_away`: its client has too many connections, so its first request is refused.
    pub(crate) fn new(site: Arc<Site>, turned_away: bool) -> Downstream {
        site.connection_opened();
        Downstream {
            site,
            state: match turned_away {
                true => State::Refused,
                false => State::Head,
            },
            counts: 0,
            pipelined: 0,
            kind: match turned_away {
                true => Kind::TurnedAway,
                false => Kind::Plain,
            },
            reading: None,
            exchange: None,
        }
    }

    /// The session is over. The connection counts until it is gone.
    pub(crate) fn linger(&mut self, seat: Option<Seat>) -> Lingering {
        let turned_away = self.kind == Kind::TurnedAway;
        self.kind = Kind::Plain;
        Lingering::new(self.site.clone(), seat, turned_away)
    }

    fn is_idle(&self) -> bool {
        matches!(self.state, State::Head | State::Refused) && self.reading.is_none()
    }

    fn advance(&mut self, io: &mut Io<'_>) {
        match self.state {
            State::Head | State::Refused => self.read_head(io),
            State::Body => self.forward_body(io, Events::NONE),
            State::Rest => self.skip_rest(io),
            State::Room => {
                self.state = State::Head;
                self.read_head(io);
            }
            // What has arrived stays where it is.
            State::Delayed | State::Connection | State::Response => {}
        }
    }

    fn read_head(&mut self, io: &mut Io<'_>) {
        if self.reading.is_none() && !self.skip_empty_lines(io) {
            if io.fin_received() {
                io.release();
            } else if !io.has_deadline() {
                io.set_deadline(sysctl::first_byte_timeout_ms());
            }
            return;
        }
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            // Otherwise small requests with large responses would fill the queue without a bound.
            None if io.wait_for_room() => {
                self.state = State::Room;
                io.set_deadline(sysctl::send_timeout_ms());
                return;
            }
            None => {
                // A client that is turned away has one timeout for everything.
                if self.state != State::Refused {
                    io.set_deadline(sysctl::head_timeout_ms());
                } else if !io.has_deadline() {
                    io.set_deadline(sysctl::first_byte_timeout_ms());
                }
                match Reading::new(HeadParser::request()) {
                    Ok(reading) => reading,
                    Err(_) => return io.reset(),
                }
            }
        };
        let result = reading.resume(io, &limits::request());
        self.reading = Some(reading);
        match result {
            Ok(Progress::Done { .. }) => self.begin(io),
            Ok(Progress::NeedMore) if io.fin_received() => io.release(),
            Ok(Progress::NeedMore | Progress::Full) => {}
            Err(Failure::Protocol(error)) => self.refuse(io, error),
            Err(_) => self.answer_last(io, 503),
        }
    }

    /// A head is complete: decides what it means, and asks for a server connection.
    #[inline(never)] // Keeps its stack frame off the path of every segment.
    fn begin(&mut self, io: &mut Io<'_>) {
        let Some(reading) = &mut self.reading else {
            return;
        };
        let (request, awaiting) = match judge(reading, io) {
            Ok(judged) => judged,
            Err(Failure::Protocol(error)) => return self.refuse(io, error),
            Err(_) => return self.answer_last(io, 503),
        };
        if self.state == State::Refused {
            let seconds = admission::connect_again(&self.site, io.peer());
            return self.answer_as(io, 429, false, request.method == Method::Head, seconds);
        }
        let route = match find_route(&self.site, reading, &request, io) {
            Ok(route) => route,
            Err(Failure::Protocol(error)) => return self.refuse(io, error),
            Err(_) => return self.answer_last(io, 503),
        };
        self.site.requested();
        let mut asked = Asked::from(&request);
        asked.via = self.site.via();
        asked.keep_alive = asked.keep_alive && self.may_go_on();
        let Some(route) = route else {
            self.site.unrouted();
            let go_on = answer::may_go_on(&asked) && request.framing.is_empty();
            return self.answer_as(io, 404, go_on, asked.head_method, 0);
        };
        route.requests.inc();
        if let Some(flaw) = awaiting.as_ref().and_then(|awaiting| awaiting.flaw()) {
            if route.settings.get(Setting::WsStrict) != 0 {
                return self.refuse(io, flaw);
            }
            stats::inc(Counter::ToleratedRequests);
        }
        let most = limits::content(route.settings.get(Setting::BodyMaxKib));
        if matches!(request.framing, BodyFraming::Length(length) if length > most) {
            return self.refuse(io, proto::Error::BodyTooLarge);
        }
        match Exchange::new(request, asked, awaiting, route) {
            Ok(mut exchange) => {
                if let Some(reading) = self.reading.as_deref_mut() {
                    exchange.log = Record::new(reading, io, &self.site, Some(&exchange.route));
                }
                self.exchange = Some(exchange);
            }
            Err(_) => return self.no_memory(io),
        }
        let disabled = |exchange: &Exchange| exchange.route.drain.is_on();
        if self.exchange.as_deref().is_some_and(disabled) {
            return self.answer(io, 503);
        }
        self.admit(io);
    }

    /// Returns the setting for the request under way, or its default without one.
    fn setting(&self, setting: Setting) -> u32 {
        match &self.exchange {
            Some(exchange) => exchange.route.settings.get(setting),
            None => setting.default(),
        }
    }

    /// Counts a request. Returns whether the connection may have another one.
    fn may_go_on(&mut self) -> bool {
        self.counts = self.counts & !REQUESTS | self.counts.saturating_add(1) & REQUESTS;
        if self.counts & REQUESTS >= sysctl::requests_max() {
            stats::inc(Counter::RequestsLimit);
            return false;
        }
        if u32::from(self.pipelined) >= sysctl::pipelined_max() {
            stats::inc(Counter::PipelinedLimit);
            return false;
        }
        true
    }

    /// Asks for a server connection.
    fn ask(&mut self, io: &mut Io<'_>) {
        self.state = State::Connection;
        if self.kind == Kind::Bound && self.ask_own(io) {
            return;
        }
        loop {
            let Some(exchange) = &mut self.exchange else {
                return;
            };
            let Some(pool) = exchange.choose(self.reading.as_deref_mut(), io) else {
                let status = exchange.status;
                return self.answer(io, status);
            };
            match pool::checkout(&pool, io.conn()) {
                Answer::Ready(checkout) => {
                    if self.dispatch(io, checkout) {
                        return;
                    }
                }
                Answer::Queued => {
                    exchange.waits_at = Some(pool);
                    io.set_deadline(self.setting(Setting::QueueTimeout));
                    return;
                }
                Answer::Refused(status) => exchange.refused(&pool, status),
            }
        }
    }

    /// Sends the request on a server connection; `false` if that is already closed.
    fn dispatch(&mut self, io: &mut Io<'_>, checkout: Checkout) -> bool {
        let Some(exchange) = &mut self.exchange else {
            return true;
        };
        exchange.status = 502;
        exchange.waits_at = None;
        let mut bytes = OutQueue::new();
        let encoded = match (&exchange.again, &mut self.reading) {
            (Some(again), _) => exchange
                .write_again(again, &checkout, &mut bytes, io.softirq())
                .is_ok(),
            (None, Some(reading)) => encode(
                reading,
                &exchange.request,
                io,
                &self.site,
                &checkout,
                &mut bytes,
            )
            .is_ok(),
            (None, None) => false,
        };
        if !encoded {
            self.no_memory(io);
            return true;
        }
        exchange.keep(self.reading.as_deref_mut(), io, &self.site, &bytes);
        if let Some(log) = &exchange.log {
            log.asks(checkout.pool().addr().get());
        }
        if exchange.request.upgrade.is_some() {
            let (route, pool) = (exchange.route.clone(), checkout.pool().clone());
            match Shared::new(self.site.clone(), route, pool, exchange.log.clone()) {
                Ok(shared) => exchange.tunnel = Some(shared),
                Err(_) => {
                    self.no_memory(io);
                    return true;
                }
            }
        }
        let whole = exchange.request.framing.is_empty();
        let job = match Job::new(
            io.conn().into(),
            exchange.route.clone(),
            exchange.asked,
            exchange.awaiting.take(),
            exchange.tunnel.clone(),
            match (whole, exchange.request.expect_continue) {
                (true, _) => Rest::Nothing,
                (false, false) => Rest::Body,
                (false, true) => Rest::Expected,
            },
            exchange.log.clone(),
        ) {
            Ok(job) => job,
            Err(_) => {
                self.no_memory(io);
                return true;
            }
        };
        let Some(conn) = checkout.conn() else {
            return false;
        };
        io.set_flag(false);
        if let Err(undelivered) = conn.deliver(&mut bytes, Some(Mail::Job(job))) {
            if let Some(Mail::Job(job)) = undelivered.0 {
                exchange.awaiting = job.cancel();
            }
            return false;
        }
        stats::inc(Counter::Requests);
        checkout.pool().count_request();
        if let Some(reading) = self.reading.take() {
            if whole && io.unread() == reading.len() {
                io.acknowledge_by_answer();
            }
            io.consume(reading.len());
            Reading::end(reading);
        }
        let conn = conn.clone();
        exchange.upstream = Some(checkout);
        if whole {
            self.await_response(io);
            io.push(&conn, ASSIGNED);
            return true;
        }
        self.state = State::Body;
        exchange.measured = (Moment::now(), 0);
        let settings = &exchange.route.settings;
        let mut timeout = settings.get(Setting::BodyTimeout);
        if exchange.request.expect_continue {
            // It first waits for the server, which has a timeout of its own.
            timeout = timeout.saturating_add(settings.get(Setting::ResponseTimeout));
        }
        io.set_deadline(timeout);
        self.forward_body(io, ASSIGNED);
        true
    }

    fn await_response(&mut self, io: &mut Io<'_>) {
        self.state = State::Response;
        io.set_deadline(self.setting(Setting::SendTimeout));
    }

    /// The response is complete.
    fn ended(&mut self, io: &mut Io<'_>, events: Events) {
        let whole = self.state == State::Response;
        let Some(mut exchange) = self.exchange.take() else {
            return;
        };
        let last = events & CLOSE_AFTER != 0 || self.site.drain.is_on();
        let last = last || !exchange.asked.keep_alive || !whole && !exchange.may_skip_rest();
        let own = exchange.let_go(events, whole, last);
        if last {
            io.release();
            return;
        }
        if let Some(own) = own {
            self.keep_own(io, own);
        }
        if !whole {
            return self.await_rest(io, exchange);
        }
        Exchange::end(exchange);
        self.next(io);
    }

    /// Continues with the next request, which may already be there.
    fn next(&mut self, io: &mut Io<'_>) {
        self.state = State::Head;
        self.reading = None;
        self.counts &= REQUESTS;
        io.set_deadline(sysctl::keepalive_timeout_ms());
        let begun = self.skip_empty_lines(io);
        self.pipelined = match begun {
            true => self.pipelined.saturating_add(1),
            false => 0,
        };
        if begun || io.fin_received() {
            // In a pass of its own, since a call from here would be a recursion that the client controls.
            io.conn().post(RESUME);
        }
    }

    fn timer(&mut self, io: &mut Io<'_>) {
        match self.state {
            State::Head | State::Refused if self.is_idle() => {
                stats::inc(match self.counts & REQUESTS {
                    0 => Counter::FirstByteTimeouts,
                    _ => Counter::KeepaliveTimeouts,
                });
                io.release();
            }
            State::Head | State::Refused => {
                stats::inc(Counter::RequestTimeouts);
                self.answer_last(io, 408);
            }
            State::Delayed => self.offer(io),
            State::Connection => {
                stats::inc(Counter::ResponseTimeouts);
                let pool = self
                    .exchange
                    .as_mut()
                    .and_then(|exchange| exchange.waits_at.take());
                if let Some(pool) = pool {
                    pool::cancel(&pool, io.conn());
                }
                self.answer(io, 504);
            }
            State::Body => self.body_due(io),
            State::Rest => io.release(),
            State::Response | State::Room => self.response_due(io),
        }
    }

    /// Checks whether the client takes the response.
    fn response_due(&mut self, io: &mut Io<'_>) {
        let timeout = self.setting(Setting::SendTimeout);
        let (now, due) = (Moment::now(), io.taken_at().after_ms(timeout));
        if !io.unsent() {
            io.set_deadline(timeout);
        } else if now.is_before(due) {
            io.set_deadline(now.ms_until(due));
        } else {
            stats::inc(Counter::SendTimeouts);
            self.log_end(By::Client, Why::Stalled);
            self.exchange = None;
            io.reset();
        }
    }

    /// The server connection was closed before it answered.
    fn stale(&mut self, io: &mut Io<'_>) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        exchange.upstream = None;
        if exchange.again.is_some() && exchange.may_try() {
            exchange.failed();
            stats::inc(Counter::Retried);
            self.ask(io);
        } else {
            self.failed(io, 502);
        }
    }

    /// There will be no response.
    fn failed(&mut self, io: &mut Io<'_>, status: u16) {
        if let Some(exchange) = &mut self.exchange {
            exchange.upstream = None;
        }
        match self.state {
            State::Head | State::Refused | State::Delayed | State::Room => {}
            State::Connection | State::Rest => {}
            State::Response => self.answer(io, status),
            State::Body => self.answer_last(io, status),
        }
    }

    /// The pool has no connection for the waiting request. Nothing was sent, so any request may go to another server.
    fn refused(&mut self, io: &mut Io<'_>, status: u16) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        if self.state != State::Connection {
            return;
        }
        if let Some(pool) = exchange.waits_at.take() {
            exchange.refused(&pool, status);
            // It no longer waits, unless this is a late event from another pool.
            pool::cancel(&pool, io.conn());
        }
        self.ask(io);
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        if self.kind == Kind::TurnedAway {
            self.site.door.gone();
        }
        self.site.connection_closed();
    }
}

/// The hooks of a downstream connection.
pub(crate) static HOOKS: Hooks<Session> = Hooks {
    data_ready: |session, io| {
        if let Session::Downstream(downstream, _) = session {
            downstream.advance(io);
        }
    },
    events,
    timer: |session, io| {
        if let Session::Downstream(downstream, _) = session {
            downstream.timer(io);
        }
    },
    // Dropping the session drops the exchange, which tells the server's side.
    closed: |session, io, errno| {
        if let Session::Downstream(downstream, _) = session {
            let (by, why) = log::closed(By::Client, errno);
            downstream.log_end(by, why);
            let exchange = downstream.exchange.as_mut();
            if let Some(pool) = exchange.and_then(|exchange| exchange.waits_at.take()) {
                // Otherwise it would keep a place that others could use.
                pool::cancel(&pool, io.conn());
            }
        }
    },
    // Nobody is left to get a response.
    reads_on: false,
};

fn events(session: &mut Session, io: &mut Io<'_>, events: Events) {
    let Session::Downstream(downstream, seat) = session else {
        return;
    };
    if events & SWITCHED != 0 {
        let ends = downstream.exchange.take().and_then(|mut exchange| {
            let peer = exchange.upstream.take()?.into_tunnel()?;
            Some((peer, exchange.tunnel.take()?, exchange.offer.take()))
        });
        let Some((peer, shared, offer)) = ends else {
            return io.reset();
        };
        let tunnel = Tunnel::new(Side::Client, peer, shared);
        // After that, so that it counts as a tunnel before it stops counting as an offer.
        let place = offer.and_then(|offer| KBox::into_inner(offer).accepted());
        let mut tunnel = tunnel.seated([seat.take(), place]);
        io.set_hooks(&tunnel::HOOKS);
        // The bytes behind the request have waited for this.
        tunnel.start(io);
        *session = Session::Tunnel(tunnel);
        tunnel::events(session, io, events);
        return;
    }
    if let (Some(exchange), true) = (&mut downstream.exchange, events & BEGUN != 0) {
        exchange.begun = true;
    }
    if events & ABORTED != 0 {
        downstream.exchange = None;
        io.reset_behind();
        return;
    }
    if events & DRAIN != 0 && downstream.is_idle() && downstream.site.drain.is_on() {
        return io.release();
    }
    if events & (ENDED | ENDED_LAST) != 0 {
        downstream.ended(io, events);
    } else if events & STALE != 0 {
        downstream.stale(io);
    } else if events & FAILED_502 != 0 {
        downstream.failed(io, 502);
    } else if events & FAILED_503 != 0 {
        downstream.failed(io, 503);
    } else if events & FAILED_504 != 0 {
        downstream.failed(io, 504);
    } else if events & REFUSED_502 != 0 {
        downstream.refused(io, 502);
    } else if events & REFUSED_504 != 0 {
        downstream.refused(io, 504);
    }
    if events & GRANTED != 0 && !io.is_released() {
        downstream.granted(io);
    }
    if events & RESUME != 0 && !io.is_released() {
        downstream.advance(io);
    }
}
