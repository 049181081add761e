// SPDX-License-Identifier: GPL-2.0

//! The server connection in the mail slot: granted by a pool, or owned by this client connection.
//!
//! With NTLM or Negotiate, a server authenticates its connection and not a request. From the first challenge or
//! credentials on, no other client may use that connection, and it ends with the client's. Between requests it is in
//! the client connection's own mail slot, so the end of the client connection drops it.
//!
//! A request whose route has the server uses that connection, whatever the route's balance. While a request goes
//! elsewhere, the connection waits. There is only one: if another server authenticates the client, the new connection
//! replaces it. If it is closed, or its server gets no requests, the request is served as any other, and its server
//! asks the client to authenticate again.
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
    /// Releases the server connection when the response is complete, and returns the client connection's own one.
    /// `whole`: the request is complete, too. `last`: the client's connection ends.
    pub(super) fn let_go(&mut self, events: Events, whole: bool, last: bool) -> Option<Own> {
        let binds = self.is_own || self.request.binds || events & BOUND != 0;
        let own = self.own.take();
        let Some(checkout) = self.upstream.take() else {
            return own;
        };
        match binds {
            // Dropping it closes the server connection, unless it is closed.
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
        // Anything in the mail slot came too late for the previous request. There are no bytes that would need memory.
        self.put_back_mail(io);
        let _ = io
            .conn()
            .deliver(&mut OutQueue::new(), Some(Mail::Bound(own)));
    }

    /// Returns a connection that was granted for a request that has been answered. If the slot contains this
    /// connection's own one instead, that ends.
    fn put_back_mail(&mut self, io: &mut Io<'_>) {
        if let Some(Mail::Checkout(late)) = io.take_mail() {
            late.put_back_unused();
        }
    }

    /// Sends the request on the connection's own server connection; `false` if there is none for this request.
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
            // It is for another route. The mail slot has to be free for what a pool may grant.
            None => {
                exchange.own = Some(own);
                false
            }
        }
    }

    /// A server connection has arrived in the mail slot.
    pub(super) fn granted(&mut self, io: &mut Io<'_>) {
        let checkout = match io.take_mail() {
            Some(Mail::Checkout(checkout)) => checkout,
            // The granted connection is gone.
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
            // It was for an earlier request, and its server is not one for this request.
            checkout.put_back_unused();
            if let Some(pool) = waits_at {
                // With that in the mail slot it may have missed its turn.
                pool::cancel(&pool, io.conn());
            }
            return self.ask(io);
        }
        if !self.dispatch(io, checkout) {
            self.ask(io);
        }
    }
}
