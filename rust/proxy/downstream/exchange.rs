// SPDX-License-Identifier: GPL-2.0

//! A request on its way to a server: its state, and how it is judged and written.
//!
//! Context: softirq, the lock of the downstream connection held.

use super::super::{
    admission::Offer,
    body::{
        Body,
        Failure, //
    },
    limits,
    log::Record,
    pool::{
        Checkout,
        Own,
        Pool, //
    },
    reading::{
        HeadBytes,
        Reading, //
    },
    route::{
        Balance,
        Client,
        Places,
        Route, //
    },
    session::{
        Io,
        DIGESTS, //
    },
    settings::Setting,
    site::Site,
    tunnel::Shared, //
};
use super::TRIES_MAX;
use crate::{
    net::{
        spare::Spares,
        stats::{
            self,
            Counter, //
        },
        Digest,
        Moment,
        OutQueue,
        Softirq,
        Writer, //
    },
    proto::{
        field::KnownField,
        h1::encode,
        head::Head,
        message::Method,
        request::Request,
        response::Asked,
        span::Full,
        sticky::{
            self,
            Named, //
        },
        target::Target,
        ws::AwaitingAccept, //
    }, //
};
use core::{
    mem::MaybeUninit,
    net::IpAddr,
    num::NonZeroU64, //
};
use kernel::{
    prelude::*,
    str::Formatter,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

/// Room for an address as text.
const ADDR_MAX: usize = 64;

/// Memory for the next exchange.
pub(in super::super) static SPARES: Spares<MaybeUninit<Exchange>> = Spares::new();

/// A request on its way.
pub(in super::super) struct Exchange {
    pub(super) request: Request,
    pub(super) asked: Asked,
    /// Whose server it is for.
    pub(super) route: Arc<Route>,
    pub(super) awaiting: Option<KBox<AwaitingAccept>>,
    /// The shared state of the tunnel that the request offers.
    pub(super) tunnel: Option<Arc<Shared>>,
    pub(super) upstream: Option<Checkout>,
    /// `upstream` is the client connection's own one.
    pub(super) is_own: bool,
    /// The client connection's own server connection, if this request is for another one.
    pub(super) own: Option<Own>,
    pub(super) body: Body,
    /// A copy of the request, if it may be sent again.
    pub(super) again: Option<OutQueue>,
    /// The part behind the host, if the server's address takes the place of the host.
    rest: Option<KBox<OutQueue>>,
    /// The pool that the request waits at.
    pub(super) waits_at: Option<ARef<Pool>>,
    /// The number of times a server was chosen.
    tries: u8,
    /// The place in the route of the server that was chosen last.
    place: usize,
    /// The hash of the value that keeps the client's requests together, once it was needed.
    digest: Option<NonZeroU64>,
    /// Servers that refused.
    refused: Places,
    /// Servers that closed a connection before they answered, and servers that did so twice: the first time they may
    /// just have closed an idle one.
    failed: (Places, Places),
    /// The status of the response if there is no server to choose.
    pub(super) status: u16,
    /// The start of the period in which the rate of the body is measured, and the bytes of it that had been forwarded
    /// then.
    pub(super) measured: (Moment, u64),
    /// The body has begun to arrive, or at least its framing.
    pub(super) coming: bool,
    /// In that period, the server was not ready to take the body.
    pub(super) held_back: bool,
    /// The client has got a part of the response.
    pub(super) begun: bool,
    /// Its log record, if somebody follows the log.
    pub(super) log: Option<Arc<Record>>,
    /// The offer to upgrade, if limits apply to it.
    pub(super) offer: Option<KBox<Offer>>,
}

impl Exchange {
    /// Makes the exchange of a judged request.
    pub(super) fn new(
        request: Request,
        asked: Asked,
        awaiting: Option<KBox<AwaitingAccept>>,
        route: Arc<Route>,
    ) -> Result<KBox<Exchange>> {
        let place = SPARES.room()?;
        let content = limits::content(route.settings.get(Setting::BodyMaxKib));
        let exchange = Exchange {
            request,
            asked,
            route,
            awaiting,
            tunnel: None,
            upstream: None,
            is_own: false,
            own: None,
            body: Body::new(
                request.framing,
                request.framing,
                request.trailers,
                &limits::request_body(content),
            ),
            again: None,
            rest: None,
            waits_at: None,
            tries: 0,
            place: 0,
            digest: None,
            refused: Places::default(),
            failed: Default::default(),
            status: 503,
            measured: (Moment::now(), 0),
            coming: false,
            held_back: false,
            begun: false,
            log: None,
            offer: None,
        };
        Ok(KBox::write(place, exchange))
    }

    /// Ends an exchange that went well. Its memory is kept for the next one on this CPU.
    pub(super) fn end(exchange: KBox<Self>) {
        SPARES.empty(exchange);
    }

    /// Returns whether a server may be chosen once more.
    pub(super) fn may_try(&self) -> bool {
        self.tries < TRIES_MAX
    }

    /// Chooses a server that has not refused, if possible one that has not failed.
    ///
    /// `reading`: the request's head, which exists until it is sent for the first time.
    pub(super) fn choose(
        &mut self,
        mut reading: Option<&mut Reading>,
        io: &Io<'_>,
    ) -> Option<ARef<Pool>> {
        if !self.may_try() {
            return None;
        }
        self.tries = self.tries.saturating_add(1);
        self.is_own = false;
        let (route, digest) = (&self.route, &mut self.digest);
        let mut client = |balance| match balance {
            Balance::RoundRobin | Balance::LeastConnections => Client::Any,
            Balance::AddressHash => Client::Address(io.peer()),
            Balance::CookieHash | Balance::HeaderHash => {
                if let (None, Some(reading)) = (&*digest, &mut reading) {
                    *digest = digest_of(route, balance, reading, io);
                }
                digest.map_or(Client::Any, |digest| Client::Digest(digest.get()))
            }
        };
        let fine = self.refused.with(self.failed.1);
        let chosen = route
            .choose(&mut client, fine)
            .or_else(|| route.choose(&mut client, self.refused));
        let (place, pool) = chosen?;
        if self.refused.contains(self.place) {
            stats::inc(Counter::Moved);
        }
        self.place = place;
        Some(pool)
    }

    /// Notes that the request goes to the server at this place, on a connection that is the client's own.
    pub(super) fn chosen(&mut self, place: usize) {
        self.place = place;
        self.is_own = true;
    }

    /// Keeps the request, whose head is `bytes`, for a retry. Without memory for it there is no retry.
    pub(super) fn keep(
        &mut self,
        reading: Option<&mut Reading>,
        io: &Io<'_>,
        site: &Site,
        bytes: &OutQueue,
    ) {
        if self.again.is_some() || !may_repeat(&self.request) {
            return;
        }
        self.again = match (self.request.host, reading) {
            (None, Some(reading)) => self.keep_parts(reading, io, site).ok(),
            _ => bytes.try_clone().ok(),
        };
    }

    /// Keeps the part behind the host, and returns the part before it.
    #[inline(never)] // Requests have a host.
    fn keep_parts(
        &mut self,
        reading: &mut Reading,
        io: &Io<'_>,
        site: &Site,
    ) -> Result<OutQueue, Failure> {
        let (mut start, mut rest) = (OutQueue::new(), OutQueue::new());
        let request = &self.request;
        encode_with(
            reading,
            io,
            site,
            &[],
            &mut start,
            |head, bytes, _, queue| encode::request_start(head, request, bytes, queue),
        )?;
        encode_with(
            reading,
            io,
            site,
            &[],
            &mut rest,
            |head, bytes, forward, queue| {
                encode::request_rest(head, request, bytes, forward, queue)
            },
        )?;
        let rest = KBox::new(rest, GFP_ATOMIC | __GFP_NOWARN).map_err(|_| Failure::NoMemory)?;
        self.rest = Some(rest);
        Ok(start)
    }

    /// Writes the kept request for the server of `checkout`.
    pub(super) fn write_again(
        &self,
        again: &OutQueue,
        checkout: &Checkout,
        queue: &mut OutQueue,
        softirq: Softirq<'_>,
    ) -> Result<(), Failure> {
        let copy = |kept: &OutQueue| kept.try_clone().map_err(|_| Failure::NoMemory);
        *queue = copy(again)?;
        if let Some(rest) = &self.rest {
            let mut host = [0; ADDR_MAX];
            let mut rest = copy(rest)?;
            queue
                .write(address(&mut host, checkout.pool()), softirq)
                .and_then(|()| queue.append_queue(&mut rest))
                .map_err(|_| Failure::NoMemory)?;
        }
        Ok(())
    }

    /// Notes that `pool`, which was chosen, has no connection for the request. Its place may belong to another pool by
    /// now.
    pub(super) fn refused(&mut self, pool: &Pool, status: u16) {
        self.status = status;
        if self.route.has_at(self.place, pool) {
            self.refused.insert(self.place);
        }
    }

    /// Notes that the chosen server closed the connection.
    pub(super) fn failed(&mut self) {
        if self.failed.0.contains(self.place) {
            self.failed.1.insert(self.place);
        }
        self.failed.0.insert(self.place);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.received(self.body.forwarded());
        }
    }
}

/// Returns whether a request may be sent twice: it has no body, and its method is idempotent (RFC 9110 9.2.2). An offer
/// to upgrade is a GET, but its tunnel might already have begun.
pub(super) fn may_repeat(request: &Request) -> bool {
    let idempotent = matches!(
        request.method,
        Method::Get | Method::Head | Method::Options | Method::Trace | Method::Put | Method::Delete
    );
    idempotent && request.framing.is_empty() && request.upgrade.is_none()
}

/// Decides what the complete head means, and what the response to an offer in it must match.
pub(super) fn judge(
    reading: &mut Reading,
    io: &Io<'_>,
) -> Result<(Request, Option<KBox<AwaitingAccept>>), Failure> {
    let (head, bytes) = reading.complete(io)?;
    let request = Request::from_head(head, &bytes).map_err(Failure::Protocol)?;
    let awaiting = await_accept(&request, head, &bytes)?;
    Ok((request, awaiting))
}

/// Finds the route of the request; `None` if the listener has none for it.
pub(super) fn find_route(
    site: &Site,
    reading: &mut Reading,
    request: &Request,
    io: &Io<'_>,
) -> Result<Option<Arc<Route>>, Failure> {
    let (_, bytes) = reading.complete(io)?;
    site.router.find(request, &bytes).map_err(Failure::Protocol)
}

/// Finds the route of an offer to upgrade that is not valid.
pub(super) fn route_of_offer(
    site: &Site,
    reading: &mut Reading,
    io: &Io<'_>,
) -> Option<Arc<Route>> {
    let (head, bytes) = reading.complete(io).ok()?;
    // Offers are GET requests.
    let target = Target::parse(head.target, Method::Get, &bytes).ok()?;
    let host = match target {
        Target::Absolute { authority, .. } => Some(authority),
        _ => head
            .fields()
            .iter()
            .find(|field| field.known == KnownField::Host)
            .map(|field| field.value),
    };
    site.router.find_by(host, target, &bytes).ok()?
}

/// Hashes the value of the cookie or field by which the route keeps requests together; `None` unless the request has
/// exactly one.
#[inline(never)] // Keeps the name buffer out of the common frame.
fn digest_of(
    route: &Route,
    balance: Balance,
    reading: &mut Reading,
    io: &Io<'_>,
) -> Option<NonZeroU64> {
    let name = route.balance_name(None);
    if name.as_bytes().is_empty() {
        return None;
    }
    let named = match balance {
        Balance::CookieHash => Named::Cookie(name.as_bytes()),
        _ => Named::Field(name.as_bytes()),
    };
    // Without memory for it, servers take turns.
    let (head, bytes) = reading.complete(io).ok()?;
    let value = sticky::value(head, named, &bytes)?;
    let mut digest = Digest::default();
    value.pieces(&bytes).for_each(|piece| digest.update(piece));
    Some(NonZeroU64::new(digest.finish()).unwrap_or(NonZeroU64::MAX))
}

/// Keeps what the server's response to an offer to upgrade must match.
fn await_accept(
    request: &Request,
    head: &Head,
    bytes: &HeadBytes<'_>,
) -> Result<Option<KBox<AwaitingAccept>>, Failure> {
    let Some(offer) = &request.upgrade else {
        return Ok(None);
    };
    let mut awaiting =
        KBox::new(AwaitingAccept::EMPTY, GFP_ATOMIC | __GFP_NOWARN).map_err(|_| {
            stats::inc(Counter::NoMemory);
            Failure::NoMemory
        })?;
    awaiting.remember_offer(offer, head, bytes, &DIGESTS);
    Ok(Some(awaiting))
}

/// Writes the request's head for the server.
pub(super) fn encode(
    reading: &mut Reading,
    request: &Request,
    io: &Io<'_>,
    site: &Site,
    checkout: &Checkout,
    queue: &mut OutQueue,
) -> Result<(), Failure> {
    let mut host = [0; ADDR_MAX];
    let host = match request.host {
        Some(_) => &[],
        None => address(&mut host, checkout.pool()),
    };
    encode_with(
        reading,
        io,
        site,
        host,
        queue,
        |head, bytes, forward, queue| encode::request(head, request, bytes, forward, queue),
    )
}

/// Writes a part of the request's head with `write`; `host` is for a request without one.
fn encode_with(
    reading: &mut Reading,
    io: &Io<'_>,
    site: &Site,
    host: &[u8],
    queue: &mut OutQueue,
    write: impl FnOnce(&Head, &HeadBytes<'_>, &encode::Forward<'_>, &mut Writer<'_>) -> Result<(), Full>,
) -> Result<(), Failure> {
    let mut client = [0; ADDR_MAX];
    let peer = io.peer();
    let (trusted, forwarded) = site.origin(peer);
    let forward = encode::Forward {
        client: plain(&mut client, peer),
        scheme: b"http",
        default_host: host,
        trusted,
        forwarded,
        via: site.via(),
    };
    let room = reading.room();
    let (head, bytes) = reading.complete(io)?;
    write(
        head,
        &bytes,
        &forward,
        &mut queue.writer(room, io.softirq()),
    )
    .map_err(|_| Failure::NoMemory)
}

/// Formats a server's address.
fn address<'a>(buffer: &'a mut [u8], pool: &Pool) -> &'a [u8] {
    format(buffer, format_args!("{}", pool.addr().get()))
}

/// Writes an address into a buffer that is large enough.
fn plain(buffer: &mut [u8], addr: IpAddr) -> &[u8] {
    let IpAddr::V4(addr) = addr else {
        return format(buffer, format_args!("{addr}"));
    };
    // Every request needs this, and the formatter is slow.
    let mut len = 0usize;
    let mut put = |byte| {
        if let Some(place) = buffer.get_mut(len) {
            *place = byte;
            len = len.wrapping_add(1);
        }
    };
    for (at, octet) in addr.octets().into_iter().enumerate() {
        if at > 0 {
            put(b'.');
        }
        if octet >= 100 {
            put(b'0'.wrapping_add(octet / 100));
        }
        if octet >= 10 {
            put(b'0'.wrapping_add(octet / 10 % 10));
        }
        put(b'0'.wrapping_add(octet % 10));
    }
    buffer.get(..len).unwrap_or(&[])
}

/// Formats into a buffer that is large enough.
fn format<'a>(buffer: &'a mut [u8], args: core::fmt::Arguments<'_>) -> &'a [u8] {
    use core::fmt::Write;

    let mut formatter = Formatter::new(buffer);
    let _ = formatter.write_fmt(args);
    let len = formatter.bytes_written();
    buffer.get(..len).unwrap_or(&[])
}
