// SPDX-License-Identifier: GPL-2.0

//! A tunnel: bytes relayed between two connections after `101`, neither parsed nor changed.
//!
//! Each connection is an end with the other as its peer. An end reads from its socket into the
//! peer's queue and pauses while that is full. A FIN is passed on as a FIN behind the bytes before
//! it, so that the other direction stays open; a reset is passed on as a reset.
//!
//! Context: softirq, the lock of the end's own socket held; the peer is reached through its inbox.

use super::{
    pool::Pool,
    session::{
        Conn,
        Io,
        Mail,
        Session,
        ABORTED,
        GONE,
        GRANTED,
        PEER_FIN,
        REMOVED, //
    },
    site::Site, //
};
use crate::net::{
    stats::{
        self,
        Counter, //
    },
    Events,
    Hooks,
    Stop,
    RESUME, //
};
use kernel::sync::{
    aref::ARef,
    Arc, //
};

/// Whose statistics an end counts for.
enum Owner {
    Listener(Arc<Site>),
    Server(ARef<Pool>),
}

/// One end of a tunnel.
pub(crate) struct Tunnel {
    peer: ARef<Conn>,
    owner: Owner,
    /// The FIN of this end's peer came and was passed on.
    read_done: bool,
    /// A FIN was sent on this end.
    write_done: bool,
}

impl Tunnel {
    /// Makes the server's end.
    pub(crate) fn upstream(peer: ARef<Conn>, pool: ARef<Pool>) -> Tunnel {
        stats::inc(Counter::Tunnels);
        pool.tunnel_opened();
        Tunnel {
            peer,
            owner: Owner::Server(pool),
            read_done: false,
            write_done: false,
        }
    }

    /// Makes the client's end.
    pub(crate) fn downstream(peer: ARef<Conn>, site: Arc<Site>) -> Tunnel {
        site.tunnel_opened();
        Tunnel {
            peer,
            owner: Owner::Listener(site),
            read_done: false,
            write_done: false,
        }
    }

    fn is_removed(&self) -> bool {
        matches!(&self.owner, Owner::Listener(site) if site.is_removed())
    }

    fn relay(&mut self, io: &mut Io<'_>) {
        if self.read_done {
            return;
        }
        let spliced = io.splice(&self.peer, u64::MAX);
        if spliced.queued {
            self.peer.push(0);
        }
        match spliced.stop {
            Stop::Done if io.eof() => {
                self.read_done = true;
                self.peer.post(PEER_FIN);
                self.end_if_done(io);
            }
            // A peer that is dead says what has to become of this end.
            Stop::Done | Stop::Full | Stop::NoMemory | Stop::Dead => {}
            Stop::Unreadable => self.abort(io),
        }
    }

    fn end_if_done(&self, io: &mut Io<'_>) {
        if self.read_done && self.write_done {
            io.release();
        }
    }

    fn abort(&self, io: &mut Io<'_>) {
        self.peer.post(ABORTED);
        io.reset();
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Listener(site) => site.tunnel_closed(),
            Owner::Server(pool) => {
                stats::inc(Counter::TunnelsClosed);
                pool.tunnel_closed();
            }
        }
    }
}

/// What the events of a tunnel's connection mean, at both ends.
pub(crate) static HOOKS: Hooks<Session> = Hooks {
    data_ready,
    events,
    timer: |_, _| {},
    closed,
};

/// Relays what has arrived.
pub(crate) fn data_ready(session: &mut Session, io: &mut Io<'_>) {
    if let Session::Tunnel(tunnel) = session {
        tunnel.relay(io);
    }
}

/// Follows what the other end says.
pub(crate) fn events(session: &mut Session, io: &mut Io<'_>, events: Events) {
    let Session::Tunnel(tunnel) = session else {
        return;
    };
    if events & GRANTED != 0 {
        // Asked for by a request before the one that made the tunnel.
        if let Some(Mail::Checkout(checkout)) = io.take_mail() {
            checkout.put_back();
        }
    }
    if events & (ABORTED | GONE) != 0 {
        io.reset();
        return;
    }
    if events & REMOVED != 0 && tunnel.is_removed() {
        // Cut in the middle, it must not look complete to either end.
        tunnel.abort(io);
        return;
    }
    if events & PEER_FIN != 0 {
        tunnel.write_done = true;
        io.finish();
        tunnel.end_if_done(io);
    }
    if events & RESUME != 0 {
        tunnel.relay(io);
    }
}

fn closed(session: &mut Session, _: &mut Io<'_>, _: i32) {
    if let Session::Tunnel(tunnel) = session {
        // Both FINs would have released the session: this is a reset, or a peer that vanished.
        tunnel.peer.post(ABORTED);
    }
}
