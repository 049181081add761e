// SPDX-License-Identifier: GPL-2.0

//! Points in time and spans of time, counted in jiffies, and the time of day.

use super::{
    bindings,
    softirq::Softirq, //
};
use core::num::NonZeroUsize;
use kernel::sync::atomic::{
    ordering::Relaxed,
    Atomic, //
};

/// A point in time. Comparable as long as two points are less than half of the counter's range apart.
///
/// The tick 0 is told as 1, so that there is a value for none: each connection keeps several of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(NonZeroUsize);

impl Moment {
    /// Returns the present.
    #[inline]
    pub(crate) fn now() -> Moment {
        // SAFETY: Reading the clock has no preconditions.
        Moment::from_jiffies(unsafe { bindings::squall_jiffies() })
    }

    pub(super) const fn from_jiffies(jiffies: usize) -> Moment {
        match NonZeroUsize::new(jiffies) {
            Some(jiffies) => Moment(jiffies),
            None => Moment(NonZeroUsize::MIN),
        }
    }

    /// Returns the point `ms` milliseconds later, rounded up to a tick.
    pub(crate) fn after_ms(self, ms: u32) -> Moment {
        let ticks = u64::from(ms)
            .saturating_mul(u64::from(bindings::SQUALL_HZ))
            .div_ceil(1000);
        self.after_ticks(ticks as usize)
    }

    /// Returns the point `ticks` jiffies later.
    pub(crate) const fn after_ticks(self, ticks: usize) -> Moment {
        Moment::from_jiffies(self.jiffies().wrapping_add(ticks))
    }

    /// Says whether this point is before `other`.
    pub(crate) const fn is_before(self, other: Moment) -> bool {
        (self.jiffies().wrapping_sub(other.jiffies()) as isize) < 0
    }

    /// Returns the later one of two points.
    pub(crate) const fn later(self, other: Moment) -> Moment {
        if self.is_before(other) {
            other
        } else {
            self
        }
    }

    /// Returns the milliseconds from this point to `other`, rounded up; 0 if that is not later.
    pub(crate) fn ms_until(self, other: Moment) -> u32 {
        if !self.is_before(other) {
            return 0;
        }
        let ticks = other.jiffies().wrapping_sub(self.jiffies()) as u64;
        let ms = ticks
            .saturating_mul(1000)
            .div_ceil(u64::from(bindings::SQUALL_HZ));
        u32::try_from(ms).unwrap_or(u32::MAX)
    }

    /// Returns the value for `mod_timer()`.
    pub(super) const fn jiffies(self) -> usize {
        self.0.get()
    }
}

/// Returns the nanoseconds since the machine started, for rates: jiffies are too coarse to count what comes at a high one, and
/// stand still while the processor that counts them is held up. Any context.
pub(crate) fn ns() -> u64 {
    // SAFETY: Reading the clock has no preconditions.
    unsafe { bindings::squall_ns() }
}

/// A point in time that several may set and look at, or none.
pub(crate) struct AtomicMoment(Atomic<usize>);

impl AtomicMoment {
    /// Makes none.
    pub(crate) const fn none() -> AtomicMoment {
        AtomicMoment(Atomic::new(0))
    }

    /// Returns the point.
    pub(crate) fn get(&self) -> Option<Moment> {
        NonZeroUsize::new(self.0.load(Relaxed)).map(Moment)
    }

    /// Sets the point.
    pub(crate) fn set(&self, moment: Option<Moment>) {
        self.0.store(moment.map_or(0, Moment::jiffies), Relaxed);
    }
}

/// Returns the time of day as the field Date has it. RFC 9110 section 5.6.7.
pub(crate) fn date(_: Softirq<'_>) -> [u8; bindings::SQUALL_DATE_LEN as usize] {
    let mut date = [0; bindings::SQUALL_DATE_LEN as usize];
    // SAFETY: Softirq, by the proof, and the place has that length.
    unsafe { bindings::squall_date(date.as_mut_ptr()) };
    date
}
