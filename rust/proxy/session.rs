// SPDX-License-Identifier: GPL-2.0

//! The uses of a connection, and the messages between connections.

use super::{
    admission::{
        self,
        Connection,
        Lingering, //
    },
    downstream::{
        self,
        exchange,
        Downstream, //
    },
    health::Check,
    pool::{
        Checkout,
        Own, //
    },
    reading,
    site::Site,
    tunnel::Tunnel,
    upstream::{
        self,
        Job,
        Upstream, //
    }, //
};
use crate::{
    net::{
        self,
        clients::Seat,
        spare::{
            Keep,
            KINDS, //
        },
        stats::{
            self,
            Counter, //
        },
        Accepted,
        Events,
        Writer, //
    },
    proto::{
        self,
        span::{
            Full,
            Sink, //
        },
        ws::Digests, //
    }, //
};
use core::net::IpAddr;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// A connection with a session of this module.
pub(crate) type Conn = net::Conn<Session>;
/// A connection whose lock is held.
pub(crate) type Io<'a> = net::Io<'a, Session>;

/// The use of a connection.
pub(crate) enum Session {
    /// No longer used. While a client's connection lingers, it counts for the limits on connections.
    Released(Option<Lingering>),
    /// A client speaks HTTP/1 on it.
    ///
    /// Beside it, where there is room, its seat in the limits of clients.
    Downstream(Downstream, Option<Seat>),
    /// A server speaks HTTP/1 on it.
    Upstream(Upstream),
    /// One end of a tunnel.
    Tunnel(Tunnel),
    /// A health check of a server.
    Check(Check),
}

/// What is handed from one connection to another.
pub(crate) enum Mail {
    /// To a downstream connection that waits: a server connection.
    Checkout(Checkout),
    /// To a downstream connection, from itself: its own server connection between requests, because the server has
    /// authenticated that connection.
    Bound(Own),
    /// To an upstream connection: what to do with the response.
    Job(KBox<Job>),
}

impl Default for Session {
    fn default() -> Self {
        Session::Released(None)
    }
}

impl net::Session for Session {
    type Mail = Mail;
    type Owner = Arc<Site>;

    fn spares() -> [&'static dyn Keep; KINDS] {
        [&reading::SPARES, &exchange::SPARES, &upstream::SPARES]
    }

    fn rest(&mut self) -> Self {
        Session::Released(match self {
            Session::Released(lingering) => lingering.take(),
            Session::Downstream(downstream, seat) => Some(downstream.linger(seat.take())),
            Session::Tunnel(tunnel) => tunnel.linger(),
            Session::Upstream(_) | Session::Check(_) => None,
        })
    }

    fn client(&self, conn: &Conn) -> Option<IpAddr> {
        match self {
            Session::Downstream(downstream, _) => downstream.client(conn),
            Session::Tunnel(tunnel) => tunnel.client(conn),
            Session::Released(_) | Session::Upstream(_) | Session::Check(_) => None,
        }
    }

    fn accepted(site: &Arc<Site>, peer: impl FnOnce() -> IpAddr) -> Accepted<Self> {
        let make = |turned_away| Downstream::new(site.clone(), turned_away);
        let (session, refused) = match admission::connection(site, peer) {
            Connection::Welcome(seat) => (Session::Downstream(make(false), seat), false),
            Connection::TurnedAway => (Session::Downstream(make(true), None), false),
            Connection::Reset => (Session::default(), true),
        };
        Accepted {
            session,
            hooks: &downstream::HOOKS,
            refused,
        }
    }
}

/// To downstream: a server connection is in the mail slot.
pub(crate) const GRANTED: Events = Events::session::<0>();
/// To downstream: the response is complete and the server connection ready for the next request.
pub(crate) const ENDED: Events = Events::session::<1>();
/// To downstream: the response is complete and the server connection is not to be used again.
pub(crate) const ENDED_LAST: Events = Events::session::<2>();
/// To downstream: the connection has to be closed behind this response.
pub(crate) const CLOSE_AFTER: Events = Events::session::<3>();
/// To downstream, with [`ENDED`]: the server has authenticated the connection, so no other client may have it.
pub(crate) const BOUND: Events = Events::session::<21>();
/// To downstream, before the response: the final response begins although the request is not complete.
pub(crate) const BEGUN: Events = Events::session::<18>();
/// To downstream: the server switched protocols, and its connection is a tunnel now.
pub(crate) const SWITCHED: Events = Events::session::<4>();
/// To downstream: there will be no response, answer 502.
pub(crate) const FAILED_502: Events = Events::session::<5>();
/// To downstream: there will be no response, answer 503.
pub(crate) const FAILED_503: Events = Events::session::<6>();
/// To downstream: there will be no response in time, answer 504.
pub(crate) const FAILED_504: Events = Events::session::<7>();
/// To downstream: the server closed an idle connection just as the request arrived.
pub(crate) const STALE: Events = Events::session::<8>();
/// To downstream: the pool at which it waits has no connection; answer 502.
pub(crate) const REFUSED_502: Events = Events::session::<14>();
/// To downstream: the pool at which it waits got no connection in time; answer 504.
pub(crate) const REFUSED_504: Events = Events::session::<15>();
/// To all: the exchange or tunnel cannot be completed, so reset. What was already sent to a client is delivered first.
pub(crate) const ABORTED: Events = Events::session::<9>();
/// To upstream: there is a job in the mail slot.
pub(crate) const ASSIGNED: Events = Events::session::<10>();
/// To upstream: nobody wants this connection any more.
pub(crate) const GONE: Events = Events::session::<11>();
/// To a tunnel: the other end got a FIN; pass it on behind what is queued.
pub(crate) const PEER_FIN: Events = Events::session::<12>();
/// To all: a listener, a route or a server is being drained. The connections of the drained one end.
pub(crate) const DRAIN: Events = Events::session::<13>();
/// To a tunnel: the other end was reset; pass it on when everything relayed has been delivered.
pub(crate) const PEER_RESET: Events = Events::session::<19>();
/// To a tunnel: Squall is closing it.
pub(crate) const CLOSING: Events = Events::session::<17>();

impl Sink for Writer<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.write(bytes).map_err(|_| Full)
    }
}

/// The digests for the protocol code.
pub(crate) const DIGESTS: Digests = Digests {
    sha1_base64: net::sha1_base64,
    keyed: |pieces| {
        let mut digest = net::Digest::default();
        pieces.for_each(|piece| digest.update(piece));
        digest.finish()
    },
};

/// Notes which rule a client's message broke.
pub(crate) fn count_request_error(error: proto::Error) {
    stats::inc(Counter::BadRequests);
    stats::inc_numbered(error.index());
}

/// Notes which rule a server's message broke.
pub(crate) fn count_response_error(error: proto::Error) {
    stats::inc(Counter::BadResponses);
    stats::inc_numbered(RULES.saturating_add(error.index()));
}

/// The number of rules. The numbered counters of requests come first, then those of responses.
const RULES: usize = proto::Error::ALL.len();

const _: () = assert!(2 * RULES <= stats::NUMBERED_MAX);

// There is one per connection, and there are many connections.
const _: () = assert!(size_of::<Session>() <= 40);

/// Returns how often a rule was broken by clients, and how often by servers.
pub(crate) fn broken(error: proto::Error) -> (u64, u64) {
    (
        stats::sum_numbered(error.index()),
        stats::sum_numbered(RULES.saturating_add(error.index())),
    )
}
