// SPDX-License-Identifier: GPL-2.0

//! Data on an idle server connection, which ends the connection.
//!
//! A server may announce with a response that it closes the connection, as some do with a 408, in one piece or in
//! several. Anything else is a fault. If the connection was never used and is closed too early, the attempt to connect
//! has failed.
//!
//! Context: softirq, the lock of the upstream connection held.

use super::{
    super::{
        limits,
        pool,
        reading::Reading,
        session::{
            Io,
            Mail,
            STALE, //
        }, //
    },
    By,
    Stage,
    Upstream,
    Why, //
};
use crate::{
    net::{
        stats::{
            self,
            Counter, //
        },
        sysctl,
        Moment, //
    },
    proto::{
        h1::{
            HeadParser,
            Progress, //
        },
        message::{
            BodyFraming,
            Version, //
        },
        response::{
            Asked,
            Response,
            ResponseKind, //
        }, //
    }, //
};

/// Most pieces of a response on an idle connection.
const PIECES_MAX: u8 = 32;

/// The state of a connection on which data arrived while it was idle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Parting {
    /// Pieces so far, besides the first.
    pieces: u8,
    /// It was never used and closed too early, and that was not counted.
    is_short: bool,
}

impl Upstream {
    /// An idle connection: any data ends it.
    pub(super) fn advance_idle(&mut self, io: &mut Io<'_>) {
        match self.stage {
            Stage::Last if io.unread() > 0 || io.fin_received() => return io.release(),
            Stage::Last => return,
            Stage::Parting(parting) => {
                let said = farewell(io);
                return self.part(io, parting, said);
            }
            Stage::Connecting | Stage::Open => {}
        }
        if io.unread() == 0 && !io.fin_received() {
            return;
        }
        // A job may have arrived just now, but it has not begun. No further one arrives.
        if let Some(Mail::Job(mut job)) = io.shut_inbox() {
            job.verdict = STALE;
            job.end(By::Server, Why::Fin);
        }
        let said = farewell(io);
        let is_short = match said {
            Some(true) => {
                let _ = pool::left(&self.pool, io.conn(), self.unused_since());
                false
            }
            // It can only be judged when the rest has arrived.
            None if may_go_on(io) => pool::left(&self.pool, io.conn(), self.unused_since()),
            _ => {
                self.closed_idle(io);
                false
            }
        };
        let parting = Parting {
            pieces: 0,
            is_short,
        };
        io.set_deadline(sysctl::linger_timeout_ms());
        self.part(io, parting, said);
    }

    /// Continues with a connection on which data has arrived. `said`: the result of [`farewell`].
    fn part(&mut self, io: &mut Io<'_>, mut parting: Parting, said: Option<bool>) {
        match said {
            Some(true) => {
                stats::inc(Counter::IdleClosed);
                io.release();
            }
            None if may_go_on(io) && parting.pieces < PIECES_MAX => {
                parting.pieces = parting.pieces.saturating_add(1);
                self.stage = Stage::Parting(parting);
            }
            // There is nothing but a FIN.
            None if io.unread() == 0 => io.release(),
            _ => self.part_badly(io, parting),
        }
    }

    /// Ends a connection on which something arrived that is not a response with which the server closes.
    pub(super) fn part_badly(&mut self, io: &mut Io<'_>, parting: Parting) {
        stats::inc(Counter::BadResponses);
        if parting.is_short {
            pool::attempt_failed(&self.pool);
        }
        io.reset();
    }

    /// Takes the connection, which is closing, from the pool's idle ones.
    pub(super) fn closed_idle(&self, io: &Io<'_>) {
        pool::closed(&self.pool, io.conn(), self.unused_since());
    }

    /// Returns when the connection was established, if it was never used.
    fn unused_since(&self) -> Option<Moment> {
        (!self.used).then_some(self.since)
    }
}

/// Returns whether something has arrived, and more may arrive.
fn may_go_on(io: &Io<'_>) -> bool {
    io.unread() > 0 && !io.fin_received() && !io.is_closed()
}

/// Returns whether the data on an idle connection is a response with which the server closes; `None` if it is not
/// complete.
#[inline(never)] // Keeps its stack frame off the path of every segment.
fn farewell(io: &Io<'_>) -> Option<bool> {
    if io.unread() == 0 {
        return None;
    }
    let asked = Asked {
        head_method: false,
        upgrade: false,
        version: Version::Http11,
        keep_alive: false,
        via: false,
    };
    let mut reading = Reading::new(HeadParser::response()).ok()?;
    match reading.look(0, io, &limits::response()) {
        Ok(Progress::NeedMore | Progress::Full) => return None,
        Ok(Progress::Done { .. }) => {}
        Err(_) => return Some(false),
    }
    let (head, bytes) = reading.complete(io).ok()?;
    let Ok(response) = Response::from_head(head, &asked, &bytes) else {
        return Some(false);
    };
    if response.kind != ResponseKind::Final || response.keep_alive {
        return Some(false);
    }
    let behind = u64::from(io.unread().saturating_sub(u32::from(head.len)));
    match response.framing {
        BodyFraming::None => Some(behind == 0),
        BodyFraming::Length(length) if behind < length => None,
        BodyFraming::Length(length) => Some(behind == length),
        // It ends with the connection, and nobody waits for it.
        BodyFraming::Chunked | BodyFraming::UntilClose => Some(true),
    }
}
