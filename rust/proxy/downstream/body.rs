// SPDX-License-Identifier: GPL-2.0

//! The body of a request: forwarded as it arrives, within its time limits, and discarded after an early response.
//!
//! A server may answer before it has the whole request, and its connection ends then. If this was known when the
//! response's head was written, the head says `Connection: close`. Otherwise the client expects to continue, and may
//! already have sent its next request. The rest of the request is then read and discarded, up to [`REST_MAX`] bytes
//! within `linger_timeout`, as Go's server does. If there is more, a FIN follows the response, and what still arrives
//! is discarded for a while. A reset could take the response from the client.
//!
//! Context: softirq, the lock of the downstream connection held.

use super::{
    super::{
        body::{
            Failure,
            Forwarded, //
        },
        log::{
            By,
            Why, //
        },
        pool::Checkout,
        session::{
            count_request_error,
            Io,
            BEGUN, //
        },
        settings::Setting, //
    },
    exchange::Exchange,
    Downstream,
    State, //
};
use crate::net::{
    stats::{
        self,
        Counter, //
    },
    sysctl,
    Events,
    Moment, //
};
use kernel::prelude::*;

/// Most bytes of content that are discarded so that the connection can be used again.
const REST_MAX: u64 = 256 << 10;

impl Exchange {
    /// Returns whether the rest of the request can be discarded, so that the next one is found behind it.
    pub(super) fn may_skip_rest(&self) -> bool {
        // A client that waits for a 100 (Continue) may have decided to send nothing.
        let comes = self.coming || !self.request.expect_continue;
        comes && self.body.left().is_none_or(|left| left <= REST_MAX)
    }
}

impl Downstream {
    /// Discards the rest of the request.
    pub(super) fn await_rest(&mut self, io: &mut Io<'_>, mut exchange: KBox<Exchange>) {
        exchange.measured.1 = exchange.body.forwarded();
        self.exchange = Some(exchange);
        self.state = State::Rest;
        io.set_deadline(sysctl::linger_timeout_ms());
        self.skip_rest(io);
    }

    pub(super) fn skip_rest(&mut self, io: &mut Io<'_>) {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return;
        };
        let whole = exchange.body.discard(io) == Forwarded::All;
        let skipped = exchange
            .body
            .forwarded()
            .saturating_sub(exchange.measured.1);
        let ends = !exchange.may_skip_rest() || skipped > REST_MAX || io.fin_received();
        match self.exchange.take_if(|_| whole || ends) {
            Some(exchange) if whole && !self.site.drain.is_on() => {
                Exchange::end(exchange);
                self.next(io);
            }
            Some(_) => io.release(),
            None => {}
        }
    }

    /// Forwards the part of the request's body that has arrived, and pushes it and `events` to the server's side.
    pub(super) fn forward_body(&mut self, io: &mut Io<'_>, events: Events) {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return;
        };
        let Some(conn) = exchange.upstream.as_ref().and_then(Checkout::conn) else {
            return;
        };
        let conn = conn.clone();
        if !exchange.coming {
            // Until a part of it arrives, the client may be waiting for a 100 (Continue).
            exchange.measured.0 = Moment::now();
            exchange.coming = io.unread() > 0;
        }
        match exchange.body.forward(io, &conn) {
            Ok(Forwarded::All) => {
                self.await_response(io);
                io.set_flag(true);
                io.push(&conn, events);
            }
            Ok(Forwarded::Part) => {
                exchange.held_back = true;
                io.push(&conn, events);
            }
            Ok(Forwarded::Starved) => io.push(&conn, events),
            Err(Failure::ReceiverGone) => {
                // The server's side will report the result. The server may have answered, and a client that first sends
                // its whole request reads the response then.
                if exchange.body.discard(io) == Forwarded::All {
                    self.await_response(io);
                }
                conn.post(events);
            }
            Err(failure) => {
                let (status, by, why) = match failure {
                    Failure::Protocol(error) => {
                        count_request_error(error);
                        (error.status(), By::Client, Why::Protocol)
                    }
                    _ => (503, By::Proxy, Why::Memory),
                };
                // The server's side has to know that the request will not be complete.
                conn.post(events);
                self.fail_body(io, status, by, why);
            }
        }
    }

    /// The body cannot be completed. The server must not take it for a complete one, and a response that has begun
    /// cannot be completed either.
    fn fail_body(&mut self, io: &mut Io<'_>, status: u16, by: By, why: Why) {
        let begun = self.exchange.as_ref().is_some_and(|it| it.begun);
        self.log_end(by, why);
        // Dropping the checkout, with the exchange, resets the server connection.
        if begun || io.conn().is_posted(BEGUN) {
            self.exchange = None;
            return io.reset();
        }
        self.answer_last(io, status);
        // The response may have begun before the answer was queued as the last thing.
        if io.conn().is_posted(BEGUN) {
            io.reset();
        }
    }

    /// Checks how fast the body of the request arrives.
    pub(super) fn body_due(&mut self, io: &mut Io<'_>) {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return;
        };
        let now = Moment::now();
        let settings = &exchange.route.settings;
        let timeout = settings.get(Setting::BodyTimeout);
        let conn = exchange.upstream.as_ref().and_then(Checkout::conn);
        let full = conn.is_some_and(|conn| conn.holds_back());
        if conn.is_some_and(|conn| conn.is_dead()) {
            // The server takes no more of the request, and its response is still on its way.
            return self.response_due(io);
        }
        // A slow server is not the client's fault.
        let held_back = core::mem::replace(&mut exchange.held_back, false) || full;
        let (since, before) = exchange.measured;
        let forwarded = exchange.body.forwarded();
        if held_back {
            exchange.measured = (now, forwarded);
            return io.set_deadline(timeout);
        }
        let pause = io.activity().after_ms(timeout);
        if !now.is_before(pause) {
            stats::inc(Counter::RequestTimeouts);
            return self.fail_body(io, 408, By::Client, Why::Timeout);
        }
        let mut due = since.after_ms(timeout);
        if !now.is_before(due) {
            let came = forwarded.saturating_sub(before);
            let wanted = u64::from(settings.get(Setting::BodyRateMin))
                .saturating_mul(u64::from(since.ms_until(now)))
                .wrapping_div(1000);
            if came < wanted {
                stats::inc(Counter::BodyRateTimeouts);
                return self.fail_body(io, 408, By::Client, Why::Rate);
            }
            exchange.measured = (now, forwarded);
            due = now.after_ms(timeout);
        }
        let next = if pause.is_before(due) { pause } else { due };
        io.set_deadline(now.ms_until(next));
    }
}
