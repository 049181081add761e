// SPDX-License-Identifier: GPL-2.0

//! A request at the limits of its client and its route.
//!
//! Its head stays in the receive queue meanwhile, and the exchange that was made for it waits.
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
    /// Looks whether the request comes too early.
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

    /// The request is in time: looks whether a tunnel that it offers would be one too many.
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
