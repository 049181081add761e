// SPDX-License-Identifier: GPL-2.0

//! The state that the two ends of a tunnel share.
//!
//! Context: softirq. Fields that only one end writes need no atomic update; the others are updated atomically.

use super::{
    super::{
        drain::Drain,
        log::{
            By,
            Record,
            Why, //
        },
        pool::Pool,
        route::Route,
        session::Io,
        settings::Setting,
        site::Site, //
    },
    Side, //
};
use crate::net::{
    clients::Seat,
    lock::{
        new_bh_lock,
        BhLock, //
    },
    log::is_followed,
    ns,
    AtomicMoment,
    Moment, //
};
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            ordering::{
                Full,
                Relaxed, //
            },
            Atomic, //
        },
        Arc,
        UniqueArc, //
    }, //
};

/// The half of `Shared::end` that says why.
const END: u32 = 0xffff;

/// The most jitter of a lifetime.
const LUCK_MAX: u64 = 255;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of a millisecond.
const MILLISECOND: u64 = 1_000_000;

/// The rates of bytes and of frames, in the order of `Shared::paid`.
const RATES: [Setting; 2] = [Setting::WsBytesRate, Setting::WsFramesRate];

/// The shared state of a tunnel.
#[pin_data]
pub(crate) struct Shared {
    pub(super) site: Arc<Site>,
    pub(super) route: Arc<Route>,
    pub(super) pool: ARef<Pool>,
    opened: AtomicMoment,
    /// The time at which it is to be closed because of a drain.
    closes_at: AtomicMoment,
    /// Bytes and frames from the client, and from the server.
    passed: [[Atomic<u64>; 2]; 2],
    /// The time, in nanoseconds, at which the rates will have paid for the bytes and the frames so far.
    paid: [Atomic<u64>; 2],
    /// The status code with which it is being closed, in the upper half, and its [`End`]; 0 if there is none.
    end: Atomic<u32>,
    /// The number of ends that are closed.
    gone: Atomic<u32>,
    #[pin]
    kept: BhLock<Kept>,
}

/// What is kept for the end of the tunnel.
struct Kept {
    log: Option<Arc<Record>>,
    /// Its seats in the limits of clients: as a connection and as a tunnel.
    seats: [Option<Seat>; 2],
}

// The next larger size class of the allocator is half as large again.
const _: () = assert!(cfg!(CONFIG_DEBUG_SPINLOCK) || size_of::<Shared>() <= 128 - size_of::<u64>());

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum End {
    /// The client sent a Close frame first.
    ClientClose = 1,
    /// The server sent a Close frame first.
    ServerClose,
    /// The client's FIN came without a Close frame.
    ClientFin,
    /// The server's FIN came without a Close frame.
    ServerFin,
    /// The client's connection was reset.
    ClientReset,
    /// The server's connection was reset.
    ServerReset,
    /// The client accepted nothing, or vanished.
    ClientStalled,
    /// The server accepted nothing, or vanished.
    ServerStalled,
    /// Nothing came from either end.
    Idle,
    /// Nothing came from the client.
    ClientIdle,
    /// Nothing came from the server.
    ServerIdle,
    /// It reached its maximum lifetime.
    Lifetime,
    /// One end was closed, and the other one silent.
    HalfClosed,
    /// The client sent more than it may.
    Rate,
    /// The server, the route or the listener was disabled or removed.
    Drained,
    /// A frame had a length that is not valid.
    BadFrame,
    /// No memory was available, or bytes could not be read.
    NoMemory,
}

impl End {
    /// Returns its value in `Shared::end`.
    fn of(number: u32) -> Option<End> {
        const ALL: [End; 17] = [
            End::ClientClose,
            End::ServerClose,
            End::ClientFin,
            End::ServerFin,
            End::ClientReset,
            End::ServerReset,
            End::ClientStalled,
            End::ServerStalled,
            End::Idle,
            End::ClientIdle,
            End::ServerIdle,
            End::Lifetime,
            End::HalfClosed,
            End::Rate,
            End::Drained,
            End::BadFrame,
            End::NoMemory,
        ];
        ALL.into_iter().find(|&end| end as u32 == number)
    }

    /// Returns its values in the log.
    fn reason(self) -> (By, Why) {
        match self {
            End::ClientClose | End::ClientFin => (By::Client, Why::Fin),
            End::ServerClose | End::ServerFin => (By::Server, Why::Fin),
            End::ClientReset => (By::Client, Why::Reset),
            End::ServerReset => (By::Server, Why::Reset),
            End::ClientStalled => (By::Client, Why::Stalled),
            End::ServerStalled => (By::Server, Why::Stalled),
            End::Idle => (By::Proxy, Why::Idle),
            End::ClientIdle => (By::Client, Why::ClientIdle),
            End::ServerIdle => (By::Server, Why::ServerIdle),
            End::Lifetime => (By::Proxy, Why::Lifetime),
            End::HalfClosed => (By::Proxy, Why::Timeout),
            End::Rate => (By::Client, Why::Rate),
            End::Drained => (By::Proxy, Why::Drained),
            End::BadFrame => (By::Proxy, Why::Frames),
            End::NoMemory => (By::Proxy, Why::Memory),
        }
    }
}

impl Shared {
    /// One end is closed. When both are, the log record is written; the last end drops it.
    pub(super) fn gone(&self) {
        if self.gone.fetch_add(1, Full) == 0 {
            return;
        }
        let Some(log) = self.kept.lock().log.take() else {
            return;
        };
        let [client, server] = &self.passed;
        let [client, server] = [client, server].map(|[bytes, frames]| {
            let bytes: &Atomic<u64> = bytes;
            (bytes.load(Relaxed), frames.load(Relaxed))
        });
        // If nobody noted a reason, the module is being unloaded.
        let end =
            End::of(self.end.load(Relaxed) & END).map_or((By::Proxy, Why::Unloaded), End::reason);
        log.tunnel_ended(client, server, end.0, end.1);
    }

    /// Makes the shared state of the tunnel that an offer may become.
    ///
    /// `log`: the request's log record, if somebody follows the log.
    pub(crate) fn new(
        site: Arc<Site>,
        route: Arc<Route>,
        pool: ARef<Pool>,
        log: Option<Arc<Record>>,
    ) -> Result<Arc<Shared>> {
        let shared = pin_init!(Shared {
            site,
            route,
            pool,
            opened: AtomicMoment::none(),
            closes_at: AtomicMoment::none(),
            passed: [const { [const { Atomic::new(0) }; 2] }; 2],
            paid: [const { Atomic::new(0) }; 2],
            end: Atomic::new(0),
            gone: Atomic::new(0),
            kept <- new_bh_lock!(Kept {
                log,
                seats: [None, None],
            }),
        });
        let place = UniqueArc::<Shared>::new_uninit(GFP_ATOMIC | __GFP_NOWARN)?;
        Ok(Arc::from(place.pin_init_with(shared)?))
    }

    /// Keeps the client's address for the log, if somebody follows the log now and nobody did before.
    pub(super) fn keep_client(&self, io: &Io<'_>) {
        if !is_followed() || self.opened.get().is_none() || self.kept.lock().log.is_some() {
            return;
        }
        let open = self.opened.get().map_or(0, |at| at.ms_until(Moment::now()));
        let server = self.pool.addr().get();
        let record = Record::of_tunnel(io.peer_addr(), &self.site, &self.route, server, open);
        self.kept.lock().log = record;
    }

    /// Takes the seat of the client's connection.
    pub(super) fn take_seat(&self) -> Option<Seat> {
        let [connection, _] = &mut self.kept.lock().seats;
        connection.take()
    }

    /// Sets its seats in the limits of clients.
    pub(super) fn set_seats(&self, seats: [Option<Seat>; 2]) {
        let old = core::mem::replace(&mut self.kept.lock().seats, seats);
        drop(old);
    }

    /// Returns the tunnel's route.
    pub(crate) fn setting(&self, setting: Setting) -> u32 {
        self.route.settings.get(setting)
    }

    /// Notes that the protocol was switched.
    pub(crate) fn opened(&self) {
        self.opened.set(Some(Moment::now()));
    }

    /// Notes why it ended, unless that is already known.
    pub(crate) fn ended(&self, end: End) {
        self.note(END, end as u32);
    }

    /// Returns whether Squall is closing it.
    pub(crate) fn is_closing(&self) -> bool {
        self.code() != 0
    }

    /// Returns the status code with which it is being closed.
    pub(crate) fn code(&self) -> u16 {
        self.end.load(Relaxed).wrapping_shr(16) as u16
    }

    /// Begins to close it with a status code. Returns false if it was already being closed.
    pub(crate) fn close(&self, code: u16, end: End) -> bool {
        self.ended(end);
        self.note(!END, u32::from(code).wrapping_shl(16))
    }

    /// Sets the half of `end` that `mask` selects, unless it is set. Returns whether it did.
    fn note(&self, mask: u32, value: u32) -> bool {
        let mut old = self.end.load(Relaxed);
        while old & mask == 0 {
            match self.end.cmpxchg(old, old | value, Full) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// Counts the bytes and frames from one side. Only that end calls it.
    pub(crate) fn passed(&self, from: Side, bytes: u64, frames: u32) {
        let [of_client, of_server] = &self.passed;
        let [all_bytes, all_frames] = match from {
            Side::Client => of_client,
            Side::Server => of_server,
        };
        all_bytes.store(all_bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        let frames = all_frames.load(Relaxed).wrapping_add(u64::from(frames));
        all_frames.store(frames, Relaxed);
    }

    /// Returns the end of its lifetime, if that is limited.
    pub(crate) fn lifetime_end(&self) -> Option<Moment> {
        let lifetime = match self.setting(Setting::WsLifetime) {
            0 => return None,
            lifetime => u64::from(lifetime),
        };
        let percent = u64::from(self.setting(Setting::WsLifetimeJitter));
        let most = lifetime.saturating_mul(percent).wrapping_div(100);
        let less = most.saturating_mul(self.luck()).wrapping_div(LUCK_MAX);
        let lifetime = u32::try_from(lifetime.saturating_sub(less)).unwrap_or(u32::MAX);
        Some(self.opened.get()?.after_ms(lifetime))
    }

    /// Returns this tunnel's part of the lifetime's jitter, out of [`LUCK_MAX`]. It depends on the tunnel's address in
    /// memory, which spreads tunnels that are opened one after the other.
    fn luck(&self) -> u64 {
        let place = (&raw const *self) as u64;
        place.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_shr(56)
    }

    fn drains(&self) -> [&Drain; 3] {
        [
            &self.site.drain,
            &self.route.drain,
            &self.pool.tunnels.drain,
        ]
    }

    /// Returns when it is to be closed because of a drain, if there is one.
    pub(crate) fn drained_at(&self) -> Option<Moment> {
        let mut drains = self.drains().into_iter().filter(|drain| drain.is_on());
        let Some(drain) = drains.next() else {
            self.closes_at.set(None);
            return None;
        };
        if self.closes_at.get().is_none() {
            self.closes_at.set(drain.turn());
        }
        self.closes_at.get()
    }

    /// Returns whether a rate limits the client.
    pub(crate) fn is_rated(&self) -> bool {
        RATES.into_iter().any(|rate| self.setting(rate) != 0)
    }

    /// Returns when the client may be read again, if it exceeds its rates. Client's end.
    pub(crate) fn ahead_until(&self, now: Moment) -> Option<Moment> {
        let burst = u64::from(self.setting(Setting::WsRateBurst)).saturating_mul(MILLISECOND);
        // A rate that has been removed since holds nobody back.
        let rated = self.paid.iter().zip(RATES);
        let rated = rated.filter(|(_, rate)| self.setting(*rate) != 0);
        let paid = rated.map(|(paid, _)| paid.load(Relaxed)).max()?;
        let ahead = paid.saturating_sub(ns()).checked_sub(burst);
        // A client that has used up exactly its burst does not exceed its rate.
        let ahead = ahead.filter(|&ahead| ahead > 0)?;
        let ms = ahead.wrapping_div(MILLISECOND).saturating_add(1);
        Some(now.after_ms(u32::try_from(ms).unwrap_or(u32::MAX)))
    }

    /// Charges the client for what it sent. Client's end.
    pub(crate) fn charge(&self, bytes: u64, frames: u32) {
        let units = [bytes, u64::from(frames)];
        for ((paid, rate), units) in self.paid.iter().zip(RATES).zip(units) {
            let cost = units
                .saturating_mul(SECOND)
                .checked_div(u64::from(self.setting(rate)))
                .unwrap_or(0);
            let from = paid.load(Relaxed).max(ns());
            paid.store(from.saturating_add(cost), Relaxed);
        }
    }
}
