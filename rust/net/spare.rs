// SPDX-License-Identifier: GPL-2.0

//! Memory that connections need for a moment: each CPU keeps one block of each kind for who needs it next.
//!
//! An allocation is zeroed by the allocator and then written by who asked for it; what was in use before need
//! not be zeroed again, and may even be made ready by less, as its type knows. Any context: the exchange is
//! atomic on its CPU.

use super::bindings;
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_void,
    prelude::*,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    }, //
};

/// Kinds of blocks.
pub(crate) const KINDS: usize = bindings::SQUALL_SPARES as usize;

/// No place yet, or none any more.
const NOWHERE: u32 = u32::MAX;

/// Blocks of one kind.
///
/// # Invariants
///
/// `slot` is [`NOWHERE`] or below `SQUALL_SPARES`. No other `Spares` has it, and what is kept there comes from
/// [`KBox::into_raw`] of a `KBox<T>`.
pub(crate) struct Spares<T> {
    slot: Atomic<u32>,
    of: PhantomData<fn(T) -> T>,
}

/// What the [`Runtime`](super::Runtime) does with spares of any kind.
pub(crate) trait Keep: Sync {
    /// Begins to keep blocks, in a slot of its own.
    fn start(&self, slot: Slot);

    /// Frees what is kept on any CPU. Process context.
    fn stop(&self, _: &Over);
}

/// A slot that nobody else has.
pub(crate) struct Slot(u32);

/// Nothing takes or keeps anything any more.
pub(crate) struct Over(());

/// Has each of these keep blocks. Process context, once.
pub(super) fn start(all: [&dyn Keep; KINDS]) {
    for (slot, spares) in (0..).zip(all) {
        spares.start(Slot(slot));
    }
}

/// Has each of these free what it keeps.
///
/// # Safety
///
/// Process context, and nothing takes or keeps anything any more.
pub(super) unsafe fn stop(all: [&dyn Keep; KINDS]) {
    let over = Over(());
    for spares in all {
        spares.stop(&over);
    }
}

impl<T: Send + 'static> Spares<MaybeUninit<T>> {
    /// Takes room for a value, or allocates it. Fails with `ENOMEM`. Softirq.
    pub(crate) fn room(&self) -> Result<KBox<MaybeUninit<T>>> {
        match self.take() {
            Some(room) => Ok(room),
            None => Ok(KBox::new_uninit(GFP_ATOMIC | __GFP_NOWARN)?),
        }
    }

    /// Drops a value and keeps its room.
    pub(crate) fn empty(&self, value: KBox<T>) {
        self.keep(KBox::drop_contents(value));
    }
}

impl<T: Send + 'static> Spares<T> {
    /// Makes spares that keep nothing yet.
    pub(crate) const fn new() -> Self {
        // INVARIANT: There is no slot.
        Spares {
            slot: Atomic::new(NOWHERE),
            of: PhantomData,
        }
    }

    /// Takes what was kept on this CPU.
    #[inline]
    pub(crate) fn take(&self) -> Option<KBox<T>> {
        let slot = self.slot.load(Relaxed);
        if slot == NOWHERE {
            return None;
        }
        // SAFETY: By the invariant there is such a slot.
        let spare = NonNull::new(unsafe { bindings::squall_spare_take(slot) })?;
        // SAFETY: By the invariant it was a box of this type, which is ours now.
        Some(unsafe { KBox::from_raw(spare.as_ptr().cast()) })
    }

    /// Keeps `spare` for who needs one next; what was kept before is freed.
    #[inline]
    pub(crate) fn keep(&self, spare: KBox<T>) {
        let slot = self.slot.load(Relaxed);
        if slot == NOWHERE {
            return;
        }
        // SAFETY: By the invariant there is such a slot. INVARIANT: A box of this type is kept.
        let before = unsafe { bindings::squall_spare_keep(slot, KBox::into_raw(spare).cast()) };
        if let Some(before) = NonNull::new(before) {
            // SAFETY: As in `take`.
            drop(unsafe { KBox::<T>::from_raw(before.as_ptr().cast()) });
        }
    }
}

impl<T: Send + 'static> Keep for Spares<T> {
    fn start(&self, slot: Slot) {
        // INVARIANT: A slot is below `SQUALL_SPARES`, and nobody else has it.
        self.slot.store(slot.0, Relaxed);
    }

    fn stop(&self, _: &Over) {
        /// Frees one.
        ///
        /// # Safety
        ///
        /// `spare` comes from `keep`, and is in no use.
        unsafe extern "C" fn free<T>(spare: *mut c_void) {
            // SAFETY: As in `take`.
            drop(unsafe { KBox::<T>::from_raw(spare.cast()) });
        }
        // INVARIANT: From here on there is no slot.
        let slot = self.slot.xchg(NOWHERE, Relaxed);
        if slot != NOWHERE {
            // SAFETY: By the invariant there is such a slot, and what is kept there is freed by its own type. That
            // it is over says that nobody else is there.
            unsafe { bindings::squall_spare_each(slot, Some(free::<T>)) };
        }
    }
}
