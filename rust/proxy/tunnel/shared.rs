// SPDX-License-Identifier: GPL-2.0

//! What the two ends of a tunnel know of it together.
//!
//! Context: softirq. What one end alone writes is read and written without more; the rest is atomic.

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

/// What a tunnel shares.
#[pin_data]
pub(crate) struct Shared {
    pub(super) site: Arc<Site>,
    pub(super) route: Arc<Route>,
    pub(super) pool: ARef<Pool>,
    opened: AtomicMoment,
    /// When it is to be closed because something is being drained.
    closes_at: AtomicMoment,
    /// Bytes and frames from the client, and from the server.
    passed: [[Atomic<u64>; 2]; 2],
    /// The time, in nanoseconds, at which the bytes and the frames so far are paid for by the rates.
    paid: [Atomic<u64>; 2],
    /// The status code with which it is being closed, in the upper half, and its [`End`]; 0 if there is none.
    end: Atomic<u32>,
    /// Ends that are gone.
    gone: Atomic<u32>,
    #[pin]
    kept: BhLock<Kept>,
}

/// What is kept for its end.
struct Kept {
    log: Option<Arc<Record>>,
    /// What it counts for by limits on clients, as their connection and as their tunnel.
    seats: [Option<Seat>; 2],
}

// The next size of memory blocks is half as large again.
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
    /// The client took nothing, or was not there any more.
    ClientStalled,
    /// The server took nothing, or was not there any more.
    ServerStalled,
    /// Nothing came from either end.
    Idle,
    /// Nothing came from the client.
    ClientIdle,
    /// Nothing came from the server.
    ServerIdle,
    /// It was open for long enough.
    Lifetime,
    /// One end was closed, and the other one silent.
    HalfClosed,
    /// The client sent more than it may.
    Rate,
    /// The server, the route or the listener was disabled or removed.
    Drained,
    /// A frame had a length that is not valid.
    BadFrame,
    /// Memory was not to be had, or bytes could not be read.
    NoMemory,
}

impl End {
    /// Returns what `Shared::end` has it as.
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

    /// Returns what the log has it as.
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
    /// One end is gone. When both are, the log is told, whose record goes with the last of them.
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
        // What nobody has noted is the module's unloading.
        let end =
            End::of(self.end.load(Relaxed) & END).map_or((By::Proxy, Why::Unloaded), End::reason);
        log.tunnel_ended(client, server, end.0, end.1);
    }

    /// Makes what the tunnel will share that an offer may lead to.
    ///
    /// `log`: what is kept of the request for the log, if somebody follows that.
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

    /// Keeps who the client is for the log, if somebody follows that now and nobody did before.
    pub(super) fn keep_client(&self, io: &Io<'_>) {
        if !is_followed() || self.opened.get().is_none() || self.kept.lock().log.is_some() {
            return;
        }
        let open = self.opened.get().map_or(0, |at| at.ms_until(Moment::now()));
        let server = self.pool.addr().get();
        let record = Record::of_tunnel(io.peer_addr(), &self.site, &self.route, server, open);
        self.kept.lock().log = record;
    }

    /// Takes what the client's connection counts for.
    pub(super) fn take_seat(&self) -> Option<Seat> {
        let [connection, _] = &mut self.kept.lock().seats;
        connection.take()
    }

    /// Sets what it counts for by limits on clients.
    pub(super) fn set_seats(&self, seats: [Option<Seat>; 2]) {
        let old = core::mem::replace(&mut self.kept.lock().seats, seats);
        drop(old);
    }

    /// Returns what counts for the tunnel's route.
    pub(crate) fn setting(&self, setting: Setting) -> u32 {
        self.route.settings.get(setting)
    }

    /// Notes that the protocol was switched.
    pub(crate) fn opened(&self) {
        self.opened.set(Some(Moment::now()));
    }

    /// Notes why it ended, if that is not known yet.
    pub(crate) fn ended(&self, end: End) {
        self.note(END, end as u32);
    }

    /// Says whether it is being closed by us.
    pub(crate) fn is_closing(&self) -> bool {
        self.code() != 0
    }

    /// Returns the status code with which it is being closed.
    pub(crate) fn code(&self) -> u16 {
        self.end.load(Relaxed).wrapping_shr(16) as u16
    }

    /// Begins to close it with a status code; says whether it was not being closed already.
    pub(crate) fn close(&self, code: u16, end: End) -> bool {
        self.ended(end);
        self.note(!END, u32::from(code).wrapping_shl(16))
    }

    /// Sets the half of `end` that `mask` selects, unless it is set; says whether it did.
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

    /// Counts what passed from one side. Called by that end alone.
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

    /// Returns the part of the lifetime's jitter that this tunnel gets, of [`LUCK_MAX`]: by where it lies, which
    /// spreads those that are opened one after the other.
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

    /// Returns when it is to be closed because something is being drained, if that is so.
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

    /// Says whether a rate limits what comes from the client.
    pub(crate) fn is_rated(&self) -> bool {
        RATES.into_iter().any(|rate| self.setting(rate) != 0)
    }

    /// Returns when the client may be read from again, if it is ahead of its rates. Client's end.
    pub(crate) fn ahead_until(&self, now: Moment) -> Option<Moment> {
        let burst = u64::from(self.setting(Setting::WsRateBurst)).saturating_mul(MILLISECOND);
        // A rate that was taken back since holds nobody back.
        let rated = self.paid.iter().zip(RATES);
        let rated = rated.filter(|(_, rate)| self.setting(*rate) != 0);
        let paid = rated.map(|(paid, _)| paid.load(Relaxed)).max()?;
        let ahead = paid.saturating_sub(ns()).checked_sub(burst);
        // Who has used up what may come at once, and no more, is not ahead.
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
