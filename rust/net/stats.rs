// SPDX-License-Identifier: GPL-2.0

//! Event counters, kept per CPU so that the data path shares no cache line. Their table is in `rust/counters.rs`.

pub(crate) use crate::counters::Counter;

use super::bindings;
use kernel::sync::atomic::{
    ordering::Relaxed,
    Atomic, //
};

/// The first counter that the user of this module numbers.
const NUMBERED: usize = 128;

/// How many counters the user of this module may number; see [`inc_numbered`].
pub(crate) const NUMBERED_MAX: usize = bindings::SQUALL_COUNTERS as usize - NUMBERED;

const _: () = assert!(Counter::ALL.len() <= NUMBERED);

/// A counter of one object, for events that are not so frequent that it has to be per CPU.
pub(crate) struct Tally(Atomic<u64>);

impl Tally {
    /// Adds one.
    pub(crate) fn inc(&self) {
        self.0.add(1, Relaxed);
    }

    /// Returns the count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Default for Tally {
    fn default() -> Self {
        Tally(Atomic::new(0))
    }
}

/// Adds `n` to a counter of this CPU. Any context.
#[inline]
pub(crate) fn add(counter: Counter, n: u64) {
    // SAFETY: No preconditions; the helper checks the index.
    unsafe { bindings::squall_count(counter as u32, n) };
}

/// Subtracts `n` from a gauge, on this CPU: only the sum over all CPUs means something. Any context.
#[inline]
pub(crate) fn sub(gauge: Counter, n: u64) {
    add(gauge, n.wrapping_neg());
}

/// Adds one to a counter of this CPU. Any context.
#[inline]
pub(crate) fn inc(counter: Counter) {
    add(counter, 1);
}

/// Returns the sum of a counter over all CPUs.
pub(crate) fn sum(counter: Counter) -> u64 {
    // SAFETY: No preconditions; the helper checks the index.
    unsafe { bindings::squall_count_sum(counter as u32) }
}

/// Adds one to a counter that has a number, below [`NUMBERED_MAX`], instead of a name. Any context.
pub(crate) fn inc_numbered(number: usize) {
    if number < NUMBERED_MAX {
        // SAFETY: No preconditions; the helper checks the index.
        unsafe { bindings::squall_count((NUMBERED + number) as u32, 1) };
    }
}

/// Returns the sum of a numbered counter over all CPUs.
pub(crate) fn sum_numbered(number: usize) -> u64 {
    if number >= NUMBERED_MAX {
        return 0;
    }
    // SAFETY: No preconditions; the helper checks the index.
    unsafe { bindings::squall_count_sum((NUMBERED + number) as u32) }
}
