// SPDX-License-Identifier: GPL-2.0

//! Applies the limits of the client and the route to a request.
//!
//! The head stays in the receive queue meanwhile, and the exchange waits.
//!
//! Context: softirq, the lock of the downstream connection held.

use super::{
    super::{
        admission::{
            self,
            Verdict, //
        },
        session::Io, //
    },
    Downstream,
    State, //
};

impl Downstream {
    /// Checks whether the request comes too early.
    pub(super) fn admit(&mut self, io: &mut Io<'_>) {
        let Some(exchange) = &self.exchange else {
            return;
        };
        let offers = exchange.request.upgrade.is_some();
        let route = &exchange.route;
        match admission::request(&self.site, route, || io.peer(), offers) {
            Verdict::Serve if offers => self.offer(io),
            Verdict::Serve => self.ask(io),
            Verdict::Later(ms) => {
                self.state = State::Delayed;
                io.set_deadline(ms);
            }
            refused => self.deny(io, refused),
        }
    }

    /// The request is within its rates. Checks whether its tunnel would be one too many.
    pub(super) fn offer(&mut self, io: &mut Io<'_>) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        if exchange.request.upgrade.is_some() {
            match admission::offer(&self.site, &exchange.route, || io.peer()) {
                Ok(offer) => exchange.offer = offer,
                Err(refused) => return self.deny(io, refused),
            }
        }
        self.ask(io);
    }

    /// A limit is reached.
    fn deny(&mut self, io: &mut Io<'_>, verdict: Verdict) {
        if let Verdict::Refuse(status, seconds) = verdict {
            return self.answer_after(io, status, seconds);
        }
        self.exchange = None;
        io.reset();
    }
}
