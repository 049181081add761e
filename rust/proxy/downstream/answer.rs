// SPDX-License-Identifier: GPL-2.0

//! Squall's own responses, and the end of the requests that get them.
//!
//! Context: softirq, the lock of the downstream connection held.

use super::{
    super::{
        admission,
        log::{
            By,
            Record,
            Why, //
        },
        pool::Own,
        session::{
            count_request_error,
            Io, //
        }, //
    },
    exchange::route_of_offer,
    Downstream,
    State, //
};
use crate::{
    net::{
        date,
        stats::{
            self,
            Counter, //
        },
        OutQueue, //
    },
    proto::{
        self,
        h1::encode,
        message::Version,
        response::Asked, //
    }, //
};
use kernel::sync::Arc;

/// Returns whether the connection can have another request after Squall's own response. With HTTP/1.0 it cannot, since
/// the response does not say that the connection persists (RFC 9112 section 9.3).
pub(super) fn may_go_on(asked: &Asked) -> bool {
    asked.keep_alive && asked.version == Version::Http11
}

impl Downstream {
    /// A malformed request: the rest of the connection cannot be trusted.
    pub(super) fn refuse(&mut self, io: &mut Io<'_>, error: proto::Error) {
        count_request_error(error);
        self.site.refused(error);
        if error.is_of_offer() {
            let reading = self.reading.as_deref_mut();
            if let Some(route) = reading.and_then(|it| route_of_offer(&self.site, it, io)) {
                admission::failed(&self.site, &route, io.peer());
            }
        }
        self.answer_last(io, error.status());
    }

    pub(super) fn no_memory(&mut self, io: &mut Io<'_>) {
        stats::inc(Counter::NoMemory);
        self.answer_last(io, 503);
    }

    /// Answers the current request. Continues with the next one if the whole request has been read.
    pub(super) fn answer(&mut self, io: &mut Io<'_>, status: u16) {
        self.answer_after(io, status, 0);
    }

    /// As [`Self::answer`]. `seconds`: when the request may be repeated; 0: not stated.
    pub(super) fn answer_after(&mut self, io: &mut Io<'_>, status: u16, seconds: u32) {
        let go_on = self.exchange.as_ref().is_some_and(|exchange| {
            // The whole request has been read.
            let whole = self.state == State::Response;
            may_go_on(&exchange.asked) && (whole || exchange.request.framing.is_empty())
        });
        let head_method = self.head_method(io);
        self.answer_as(io, status, go_on, head_method, seconds);
    }

    /// Answers and closes.
    pub(super) fn answer_last(&mut self, io: &mut Io<'_>, status: u16) {
        let head_method = self.head_method(io);
        self.answer_as(io, status, false, head_method, 0);
    }

    /// Answers, and continues or closes. `seconds`: when the request may be repeated; 0: not stated.
    pub(super) fn answer_as(
        &mut self,
        io: &mut Io<'_>,
        status: u16,
        go_on: bool,
        head_method: bool,
        seconds: u32,
    ) {
        // A connection that was not idle when a drain began learns of the drain now.
        let go_on = go_on && !self.site.drain.is_on();
        let log = self.record(io);
        let own = self.end_exchange(status);
        let reading = self.reading.take();
        if let Some(reading) = reading.filter(|_| go_on) {
            io.consume(reading.len());
        }
        let sent = self.send_error(io, status, !go_on, head_method, seconds);
        if let Some(log) = &log {
            log.answered(status, sent);
        }
        match go_on {
            true if sent => {
                if let Some(own) = own {
                    self.keep_own(io, own);
                }
                self.next(io);
            }
            false if sent => io.release(),
            _ => {}
        }
    }

    /// Ends an exchange with Squall's own response. Returns the client connection's own server connection, if the
    /// request was for another one.
    fn end_exchange(&mut self, status: u16) -> Option<Own> {
        let mut exchange = self.exchange.take()?;
        if let Some(mut offer) = exchange.offer.take() {
            // No server answered it.
            if status >= 500 {
                offer.excuse();
            }
        }
        exchange.own.take()
    }

    /// Returns the log record of the request, whose head may be incomplete.
    pub(super) fn record(&mut self, io: &Io<'_>) -> Option<Arc<Record>> {
        match (&self.exchange, &mut self.reading) {
            (Some(exchange), _) => exchange.log.clone(),
            (None, Some(reading)) => Record::new(reading, io, &self.site, None),
            (None, None) => None,
        }
    }

    /// Notes what ended the request.
    pub(super) fn log_end(&self, by: By, why: Why) {
        if let Some(log) = self.exchange.as_ref().and_then(|it| it.log.as_ref()) {
            log.end(by, why);
        }
    }

    /// Returns whether the request under way is a HEAD, whose responses have no content.
    pub(super) fn head_method(&mut self, io: &Io<'_>) -> bool {
        match (&self.exchange, &mut self.reading) {
            (Some(exchange), _) => exchange.asked.head_method,
            // Refused before its meaning was decided.
            (None, Some(reading)) => reading.is_head_request(io),
            (None, None) => false,
        }
    }

    pub(super) fn send_error(
        &self,
        io: &mut Io<'_>,
        status: u16,
        close: bool,
        head_method: bool,
        seconds: u32,
    ) -> bool {
        let mut bytes = OutQueue::new();
        let retry = (seconds > 0).then_some(seconds);
        let (date, mut writer) = (date(io.softirq()), bytes.writer(0, io.softirq()));
        let written = encode::error(status, close, head_method, retry, &date, &mut writer).is_ok();
        drop(writer);
        let sent = written && io.send(&mut bytes).is_ok();
        if sent {
            stats::inc(Counter::ErrorResponses);
        } else {
            stats::inc(Counter::NoMemory);
            io.reset();
        }
        sent
    }
}
