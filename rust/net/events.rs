// SPDX-License-Identifier: GPL-2.0

//! What is posted to a connection: a set of events.
//!
//! A session can name its own events and those that are meant for it. The others, such as the one that says that a
//! connection is on a run list, are this module's.

use core::ops::{
    BitAnd,
    BitOr, //
};

/// A set of events. They are bits: the lower byte and the highest one are this module's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events(u32);

/// Place of the first event that sessions may use as they like, and how many there are.
const SESSION: u32 = 8;
const SESSION_COUNT: u32 = 23;

/// There may be something to read.
pub(super) const EV_RX: Events = Events(1 << 0);
/// There may be room to send.
pub(super) const EV_TX: Events = Events(1 << 1);
/// The TCP state or the error changed.
pub(super) const EV_STATE: Events = Events(1 << 2);
/// The timer fired.
pub(super) const EV_TIMER: Events = Events(1 << 3);
/// The module is being unloaded.
pub(super) const EV_ABORT: Events = Events(1 << 4);
/// It is one of those that hold most, while memory is short.
pub(super) const EV_SHED: Events = Events(1 << 7);
/// What is posted to a new connection: bytes and even a FIN may have come before the callbacks.
pub(super) const ACCEPTED: Events = Events(EV_RX.0 | EV_STATE.0);
/// The connection is on a run list.
pub(super) const EV_SCHEDULED: Events = Events(1 << 31);

/// A connection that was asked for with `Conn::connect` is established. Only this module tells.
pub(crate) const CONNECTED: Events = Events(1 << 5);
/// A queue that was full has room again.
pub(crate) const RESUME: Events = Events(1 << 6);

/// What sessions are told.
const TOLD: u32 = ((1 << SESSION_COUNT) - 1) << SESSION | RESUME.0;

impl Events {
    /// No event: to push a connection whose queue was written to.
    pub(crate) const NONE: Events = Events(0);

    /// Returns the event of that number, from 0 to 22, which sessions may use as they like.
    pub(crate) const fn session<const NUMBER: u32>() -> Events {
        const { assert!(NUMBER < SESSION_COUNT) };
        Events(1 << (SESSION + NUMBER))
    }

    /// Says whether there is none.
    pub(crate) const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns those that sessions are told.
    pub(super) const fn told(self) -> Events {
        Events(self.0 & TOLD)
    }

    /// Returns the others.
    pub(super) const fn without(self, others: Events) -> Events {
        Events(self.0 & !others.0)
    }

    pub(super) const fn from_bits(bits: u32) -> Events {
        Events(bits)
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Events {
    type Output = Events;

    #[inline]
    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

impl BitAnd for Events {
    /// Not 0 if both have an event.
    type Output = u32;

    #[inline]
    fn bitand(self, other: Events) -> u32 {
        self.0 & other.0
    }
}
