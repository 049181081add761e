// SPDX-License-Identifier: GPL-2.0

//! The server connection that comes by mail: granted by a pool, or one that belongs to this client connection.
//!
//! With NTLM or Negotiate the server knows its connection and not its request. So from the first challenge or credentials
//! on nobody else may use that connection, and it ends with the client's. Between requests it is in the client connection's
//! own mail: what ends the one drops the other.
//!
//! A request whose route has the server goes there on that connection, however the route balances. While a request goes
//! elsewhere the connection waits aside. There is one: a connection to another server that becomes the client's takes its
//! place. If it is closed, or its server gets no requests, the request goes on as any other does, and the server that
//! gets it asks the client to authenticate anew.
//!
//! Context: softirq, the lock of the downstream connection held.

use super::{
    super::{
        pool::{
            self,
            Own, //
        },
        session::{
            Io,
            Mail,
            BOUND,
            ENDED, //
        }, //
    },
    exchange::Exchange,
    Downstream,
    Kind,
    State, //
};
use crate::net::{
    Events,
    OutQueue, //
};

impl Exchange {
    /// Lets go of the server connection when the response is complete, and returns the one that is the client connection's
    /// own. `whole`: so is the request. `last`: the client's connection ends.
    pub(super) fn let_go(&mut self, events: Events, whole: bool, last: bool) -> Option<Own> {
        let binds = self.is_own || self.request.binds || events & BOUND != 0;
        let own = self.own.take();
        let Some(checkout) = self.upstream.take() else {
            return own;
        };
        match binds {
            // Dropping it closes the server connection, if it is not closed.
            _ if !whole || events & ENDED == 0 => drop(checkout),
            true if last => drop(checkout),
            true => return Some(checkout.into_own()),
            false => checkout.put_back(),
        }
        own
    }
}

impl Downstream {
    /// Keeps a server connection for this connection's next request.
    pub(super) fn keep_own(&mut self, io: &mut Io<'_>, own: Own) {
        self.kind = Kind::Bound;
        // What is in the mail came too late for the request before. There are no bytes for which memory could lack.
        self.put_back_mail(io);
        let _ = io
            .conn()
            .deliver(&mut OutQueue::new(), Some(Mail::Bound(own)));
    }

    /// Returns a connection that was granted for a request that has been answered; one of this connection's own that is
    /// in its place ends.
    fn put_back_mail(&mut self, io: &mut Io<'_>) {
        if let Some(Mail::Checkout(late)) = io.take_mail() {
            late.put_back_unused();
        }
    }

    /// Sends the request on the connection's own server connection; `false` if that is none for it.
    pub(super) fn ask_own(&mut self, io: &mut Io<'_>) -> bool {
        let own = match io.take_mail() {
            Some(Mail::Bound(own)) => own,
            Some(Mail::Checkout(late)) => {
                late.put_back_unused();
                return false;
            }
            _ => return false,
        };
        let Some(exchange) = &mut self.exchange else {
            return true;
        };
        match exchange.route.place_of(own.pool()) {
            // A server of weight 0 gets nothing new.
            Some((_, 0)) => false,
            Some((place, _)) => match own.resume() {
                Some(checkout) => {
                    exchange.chosen(place);
                    self.dispatch(io, checkout)
                }
                None => false,
            },
            None if own.pool().is_stopped() => false,
            // Another route's. There has to be room in the mail for what a pool may grant.
            None => {
                exchange.own = Some(own);
                false
            }
        }
    }

    /// A server connection came by mail.
    pub(super) fn granted(&mut self, io: &mut Io<'_>) {
        let checkout = match io.take_mail() {
            Some(Mail::Checkout(checkout)) => checkout,
            // What was granted is gone.
            Some(Mail::Bound(own)) => return self.keep_own(io, own),
            _ => return,
        };
        let waits_at = self
            .exchange
            .as_ref()
            .and_then(|exchange| exchange.waits_at.clone());
        if self.state != State::Connection {
            // The request has been answered meanwhile.
            return checkout.put_back_unused();
        }
        if !waits_at
            .as_ref()
            .is_some_and(|pool| core::ptr::eq(&raw const **pool, &raw const **checkout.pool()))
        {
            // It was for a request before, whose server is none for this one.
            checkout.put_back_unused();
            if let Some(pool) = waits_at {
                // With that in the mail it may have missed its turn.
                pool::cancel(&pool, io.conn());
            }
            return self.ask(io);
        }
        if !self.dispatch(io, checkout) {
            self.ask(io);
        }
    }
}
