// SPDX-License-Identifier: GPL-2.0

//! A rate that many share: each is told when its turn is.

use super::{
    bindings::SQUALL_HZ,
    time::Moment, //
};
use core::cmp;
use kernel::sync::atomic::{
    ordering::Relaxed,
    Atomic, //
};

/// Bits of a tick's fractions.
const FRACTION: u32 = 20;

/// Turns one behind the other, at a rate. Who comes first is served first, and who has a turn comes
/// behind all others with the next one: nobody starves. Turns that nobody asked for in time are gone.
pub(crate) struct Pace {
    /// When the next turn is, in fractions of a tick.
    next: Atomic<u64>,
}

impl Pace {
    /// Makes a rate of which nothing is used.
    pub(crate) const fn new() -> Pace {
        Pace {
            next: Atomic::new(0),
        }
    }

    /// Returns how many turns there are in a tick, at least 1.
    pub(crate) fn per_tick(per_second: u32) -> u32 {
        cmp::max(per_second / SQUALL_HZ, 1)
    }

    /// Reserves `count` turns in a row, of `per_second`; returns when the first is, which is not before the
    /// present. Any context.
    pub(crate) fn reserve(&self, count: u32, per_second: u32) -> Moment {
        let second = u64::from(SQUALL_HZ) << FRACTION;
        let step = second
            .checked_div(u64::from(per_second))
            .unwrap_or(second)
            .saturating_mul(u64::from(count));
        let present = (Moment::now().jiffies() as u64) << FRACTION;
        let mut next = self.next.load(Relaxed);
        loop {
            let first = cmp::max(next, present);
            match self.next.cmpxchg(next, first.saturating_add(step), Relaxed) {
                Ok(_) => return Moment::from_jiffies((first >> FRACTION) as usize),
                Err(now) => next = now,
            }
        }
    }
}
