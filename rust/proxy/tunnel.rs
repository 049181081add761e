// SPDX-License-Identifier: GPL-2.0

//! A tunnel: bytes relayed between two connections after `101`, neither judged nor changed.
//!
//! Each connection is an end with the other as its peer. An end reads from its socket into the peer's queue and pauses
//! while that is full. It passes on a FIN behind the bytes before it, so that the other direction stays open. It passes
//! on a reset when the bytes before it have been delivered.
//!
//! Each end follows the headers of frames, so that Squall can close a tunnel itself: each end relays up to the end of a
//! frame, and then sends its peer a Close frame and a FIN. A tunnel that is not closed after `ws_close_timeout_ms` is
//! reset.
//!
//! An idle tunnel costs nothing. A timer is armed for the earliest moment at which a timeout could be due, and recent
//! activity is checked only then. The client's end has all timeouts but that of a silent server.
//!
//! Context: softirq, the lock of the end's own socket held. The peer is reached directly while its lock is free and its
//! queue empty (`Direct` in `net/tx.rs`), else by push and its inbox.

mod shared;

pub(crate) use self::shared::Shared;

use self::shared::End;
use super::{
    admission::{
        self,
        Lingering, //
    },
    session::{
        Conn,
        Io,
        Mail,
        Session,
        ABORTED,
        CLOSING,
        DRAIN,
        GONE,
        GRANTED,
        PEER_FIN,
        PEER_RESET, //
    },
    settings::Setting, //
};
use crate::{
    net::{
        clients::Seat,
        random,
        stats::{
            self,
            Counter, //
        },
        sysctl,
        Events,
        Hooks,
        Moment,
        OutQueue,
        Stop,
        Watch,
        RESUME, //
    },
    proto::frame::{
        self,
        Frames, //
    }, //
};
use core::net::IpAddr;
use kernel::{
    error::code::{
        ECONNABORTED,
        ECONNRESET,
        ENOMEM,
        EPIPE, //
    },
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

/// Bytes that are relayed before the rates are checked again.
const RATED_PASS: u64 = 4096;

/// Status codes of RFC 6455 section 7.4.1 and of the registry it founded.
const GOING_AWAY: u16 = 1001;
const POLICY_VIOLATION: u16 = 1008;
const SERVICE_RESTART: u16 = 1012;

/// Values of `ws_rate_action` for a client that exceeds its rates; any other makes it wait.
const RATE_CLOSE: u32 = 1;
const RATE_RESET: u32 = 2;

/// The side of an end: whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// One end of a tunnel.
pub(crate) struct Tunnel {
    peer: ARef<Conn>,
    shared: Arc<Shared>,
    /// The position in the frames that this end reads.
    frames: Frames,
    side: Side,
    /// This end has sent its peer everything, the FIN included.
    read_done: bool,
    /// A FIN was sent on this end.
    write_done: bool,
    /// Squall is closing the tunnel, and this end knows.
    closing: bool,
}

// Each connection has room for its session.
const _: () = assert!(size_of::<Tunnel>() <= 32);

/// Follows the frames that pass.
struct Follower<'a> {
    frames: &'a mut Frames,
    begun: u32,
}

impl Watch for Follower<'_> {
    fn pass(&mut self, count: u32) -> bool {
        self.frames.pass(u64::from(count))
    }

    fn see(&mut self, bytes: &[u8]) {
        self.begun = self.begun.saturating_add(self.frames.follow(bytes));
    }
}

impl Tunnel {
    /// Makes the end of one side; `peer` is the other.
    pub(crate) fn new(side: Side, peer: ARef<Conn>, shared: Arc<Shared>) -> Tunnel {
        match side {
            Side::Server => {
                stats::inc(Counter::Tunnels);
                shared.opened();
                shared.pool.tunnel_opened();
            }
            Side::Client => {
                shared.site.tunnel_opened();
                shared.route.tunnel_opened();
            }
        }
        Tunnel {
            peer,
            shared,
            frames: Frames::default(),
            side,
            read_done: false,
            write_done: false,
            closing: false,
        }
    }

    /// Makes the tunnel count for its client, as a connection and as a tunnel, until that end is closed.
    pub(crate) fn seated(self, seats: [Option<Seat>; 2]) -> Tunnel {
        self.shared.set_seats(seats);
        self
    }

    /// Returns the client that the memory of `conn`, the connection of this end, counts for.
    pub(crate) fn client(&self, conn: &Conn) -> Option<IpAddr> {
        let client = match self.side {
            Side::Client => conn,
            Side::Server => &*self.peer,
        };
        admission::counted(&self.shared.site, client.peer_ip())
    }

    /// The session is over. The client's connection counts until it is gone.
    pub(crate) fn linger(&mut self) -> Option<Lingering> {
        match self.side {
            Side::Client => {
                let (site, seat) = (self.shared.site.clone(), self.shared.take_seat());
                Some(Lingering::new(site, seat, false))
            }
            Side::Server => None,
        }
    }

    /// Begins to relay, and arms the timer.
    pub(crate) fn start(&mut self, io: &mut Io<'_>) {
        io.set_user_timeout(self.shared.setting(Setting::WsSendTimeout));
        io.limit_memory(self.shared.setting(Setting::WsMemoryMaxKib));
        self.rearm(io);
        self.relay(io);
    }

    fn relay(&mut self, io: &mut Io<'_>) {
        io.resume();
        while !self.read_done {
            let rated = self.side == Side::Client && self.shared.is_rated();
            let most = if self.shared.is_closing() {
                match self.frames.rest() {
                    0 => return self.close_peer(io),
                    rest => rest,
                }
            } else if rated {
                if self.is_ahead(io) {
                    return;
                }
                RATED_PASS
            } else {
                u64::MAX
            };
            let mut follower = Follower {
                frames: &mut self.frames,
                begun: 0,
            };
            let spliced = io.splice(&self.peer, most, &mut follower);
            let frames = follower.begun;
            if spliced.bytes > 0 {
                stats::add(Counter::Frames, u64::from(frames));
                self.shared.passed(self.side, spliced.bytes, frames);
                if rated {
                    self.shared.charge(spliced.bytes, frames);
                }
                if self.frames.is_closed() {
                    self.shared.ended(match self.side {
                        Side::Client => End::ClientClose,
                        Side::Server => End::ServerClose,
                    });
                }
            }
            if spliced.queued {
                io.push(&self.peer, Events::NONE);
            }
            if self.frames.is_broken() {
                stats::inc(Counter::BadFrames);
                return self.abort(io, End::BadFrame);
            }
            match spliced.stop {
                Stop::Done if io.eof() => {
                    self.shared.ended(match self.side {
                        Side::Client => End::ClientFin,
                        Side::Server => End::ServerFin,
                    });
                    return self.read_to_end(io);
                }
                Stop::Done if spliced.bytes > 0 && most != u64::MAX => {}
                // A dead peer tells this end what to do.
                Stop::Done | Stop::Full | Stop::NoMemory | Stop::Dead => return,
                Stop::Unreadable => return self.abort(io, End::NoMemory),
            }
        }
    }

    /// Nothing more is read from this end: the peer has to send its FIN.
    fn read_to_end(&mut self, io: &mut Io<'_>) {
        self.read_done = true;
        self.peer.post(PEER_FIN);
        self.end_if_done(io);
    }

    fn end_if_done(&mut self, io: &mut Io<'_>) {
        if self.read_done && self.write_done {
            self.keep_client(io);
            io.release();
        } else if !self.shared.is_closing() {
            // A tunnel that is open in one direction only has less time.
            self.rearm(io);
        }
    }

    fn abort(&self, io: &mut Io<'_>, end: End) {
        self.shared.ended(end);
        self.peer.post(ABORTED);
        self.keep_client(io);
        io.reset();
    }

    /// The tunnel ends. This is the last moment at which the client's address is known.
    fn keep_client(&self, io: &Io<'_>) {
        if self.side == Side::Client {
            self.shared.keep_client(io);
        }
    }

    /// Begins to close the tunnel.
    fn close(&mut self, io: &mut Io<'_>, code: u16, end: End) {
        if self.shared.close(code, end) {
            self.peer.post(CLOSING);
            self.begin_closing(io);
        }
    }

    /// The tunnel is being closed: continues up to the end of a frame.
    fn begin_closing(&mut self, io: &mut Io<'_>) {
        self.closing = true;
        io.set_deadline(self.shared.setting(Setting::WsCloseTimeout));
        self.relay(io);
    }

    /// Sends the peer a Close frame, unless this end has sent one, and its FIN. Called between two frames.
    fn close_peer(&mut self, io: &mut Io<'_>) {
        if !self.frames.is_closed() {
            // Frames to a server are masked.
            let key = (self.side == Side::Client).then(|| random(u32::MAX).to_ne_bytes());
            let mut buffer = [0; frame::MASKED_CLOSE_LEN];
            let frame = frame::close(self.shared.code(), key, &mut buffer);
            let mut queue = OutQueue::new();
            let queued = queue
                .write(frame, io.softirq())
                .is_ok_and(|()| self.peer.deliver(&mut queue, None).is_ok());
            // A dead peer reports that itself.
            if !queued && !self.peer.is_dead() {
                return self.abort(io, End::NoMemory);
            }
        }
        self.read_to_end(io);
    }

    /// Returns whether the client exceeds its rates, after taking the configured action.
    fn is_ahead(&mut self, io: &mut Io<'_>) -> bool {
        let Some(until) = self.shared.ahead_until(Moment::now()) else {
            return false;
        };
        match self.shared.setting(Setting::WsRateAction) {
            RATE_CLOSE => {
                stats::inc(Counter::RateCloses);
                self.close(io, POLICY_VIOLATION, End::Rate);
            }
            RATE_RESET => {
                stats::inc(Counter::RateCloses);
                self.abort(io, End::Rate);
            }
            // Nothing has to wait, and there may be a FIN to pass on.
            _ if io.unread() == 0 => return false,
            _ => {
                stats::inc(Counter::RateDelays);
                io.pause();
                io.set_deadline_before(until);
            }
        }
        true
    }

    /// Returns the timeout that is due first if nothing else happens.
    fn next_due(&self, io: &Io<'_>) -> Option<(Moment, Counter, End)> {
        let after = |from: Moment, setting, counter, end| match self.shared.setting(setting) {
            0 => None,
            ms => Some((from.after_ms(ms), counter, end)),
        };
        // Unread input counts as activity now; a FIN alone does not.
        let heard_at = match io.unread() {
            0 => io.received_at(),
            _ => Moment::now(),
        };
        let quiet = !self.read_done;
        if self.side == Side::Server {
            let idle = after(
                heard_at,
                Setting::WsServerIdleTimeout,
                Counter::ServerIdleTimeouts,
                End::ServerIdle,
            );
            return idle.filter(|_| quiet);
        }
        let half_closed = (self.read_done || self.write_done).then(|| {
            after(
                io.activity(),
                Setting::WsHalfClosedTimeout,
                Counter::HalfClosedTimeouts,
                End::HalfClosed,
            )
        });
        let all = [
            half_closed.flatten(),
            after(
                heard_at,
                Setting::WsClientIdleTimeout,
                Counter::ClientIdleTimeouts,
                End::ClientIdle,
            )
            .filter(|_| quiet),
            after(
                io.activity(),
                Setting::WsIdleTimeout,
                Counter::IdleTimeouts,
                End::Idle,
            ),
            self.shared
                .lifetime_end()
                .map(|at| (at, Counter::Lifetimes, End::Lifetime)),
            self.shared
                .drained_at()
                .map(|at| (at, Counter::Drained, End::Drained)),
        ];
        all.into_iter()
            .flatten()
            .reduce(|first, other| match other.0.is_before(first.0) {
                true => other,
                false => first,
            })
    }

    /// Arms the timer for the earliest moment at which a timeout could be due.
    #[inline(never)] // Keeps its stack frame off the path of every segment.
    fn rearm(&self, io: &mut Io<'_>) {
        match self.next_due(io) {
            Some((at, ..)) => io.set_deadline(Moment::now().ms_until(at)),
            None => io.clear_deadline(),
        }
        if self.side == Side::Client && !self.read_done && self.shared.is_rated() {
            // Data that waits for the rates is checked then, whatever else is pending.
            if let Some(until) = self.shared.ahead_until(Moment::now()) {
                io.set_deadline_before(until);
            }
        }
    }

    fn timer(&mut self, io: &mut Io<'_>) {
        if self.shared.is_closing() {
            if !self.closing {
                // This end is about to be told, and its timeout starts then.
                return self.begin_closing(io);
            }
            stats::inc(Counter::CloseTimeouts);
            return self.abort(io, End::Drained);
        }
        match self.next_due(io) {
            Some((at, counter, end)) if !Moment::now().is_before(at) => {
                stats::inc(counter);
                if end == End::HalfClosed {
                    return self.abort(io, end);
                }
                let restart = end == End::Drained && sysctl::drain_restart() != 0;
                let code = if restart { SERVICE_RESTART } else { GOING_AWAY };
                self.close(io, code, end);
            }
            _ => {
                self.rearm(io);
                // The rates may allow more by now.
                self.relay(io);
            }
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.gone();
        match self.side {
            Side::Client => {
                self.shared.set_seats([None, None]);
                self.shared.site.tunnel_closed();
                self.shared.route.tunnel_closed();
            }
            Side::Server => {
                stats::inc(Counter::TunnelsClosed);
                self.shared.pool.tunnel_closed();
            }
        }
    }
}

/// The hooks of a tunnel's connection, at both ends.
pub(crate) static HOOKS: Hooks<Session> = Hooks {
    data_ready: |session, io| {
        if let Session::Tunnel(tunnel) = session {
            tunnel.relay(io);
        }
    },
    events,
    timer: |session, io| {
        if let Session::Tunnel(tunnel) = session {
            tunnel.timer(io);
        }
    },
    closed,
    reads_on: true,
};

/// Handles the events from the other end.
pub(crate) fn events(session: &mut Session, io: &mut Io<'_>, events: Events) {
    let Session::Tunnel(tunnel) = session else {
        return;
    };
    if events & GRANTED != 0 {
        // A request before the one that made the tunnel has asked for it.
        if let Some(Mail::Checkout(checkout)) = io.take_mail() {
            checkout.put_back_unused();
        }
    }
    if events & (ABORTED | GONE) != 0 {
        tunnel.keep_client(io);
        io.reset();
        return;
    }
    if events & PEER_FIN != 0 {
        tunnel.write_done = true;
        io.finish();
        tunnel.end_if_done(io);
    }
    if events & PEER_RESET != 0 && !io.is_released() {
        tunnel.keep_client(io);
        io.reset_behind();
    }
    if io.is_released() {
        return;
    }
    if events & CLOSING != 0 {
        tunnel.begin_closing(io);
    } else if events & DRAIN != 0 && !tunnel.shared.is_closing() {
        tunnel.rearm(io);
    }
    if events & RESUME != 0 && !io.is_released() {
        tunnel.relay(io);
    }
}

fn closed(session: &mut Session, io: &mut Io<'_>, errno: i32) {
    if let Session::Tunnel(tunnel) = session {
        // Two FINs would have released the session, so this is a reset or a peer that vanished. TCP gives an end up
        // with ETIMEDOUT, or with the last error it received, mostly that the host is unreachable.
        let resets = [ECONNRESET, EPIPE, ECONNABORTED].map(|code| -code.to_errno());
        let memory = errno == -ENOMEM.to_errno();
        let stalled = errno != 0 && !memory && !resets.contains(&errno);
        if stalled {
            stats::inc(Counter::TunnelSendTimeouts);
        }
        // Without an error it is Squall's own reset: its reason is already noted, or the module is being unloaded.
        if memory {
            tunnel.shared.ended(End::NoMemory);
        } else if errno != 0 {
            tunnel.shared.ended(match (tunnel.side, stalled) {
                (Side::Client, false) => End::ClientReset,
                (Side::Server, false) => End::ServerReset,
                (Side::Client, true) => End::ClientStalled,
                (Side::Server, true) => End::ServerStalled,
            });
        }
        // The peer still gets what was relayed before it, unless memory is short.
        tunnel.peer.post(if memory { ABORTED } else { PEER_RESET });
        tunnel.keep_client(io);
    }
}
