// SPDX-License-Identifier: GPL-2.0

//! Memory that connections need for a moment: each CPU keeps one block for who needs it next.
//!
//! An allocation is zeroed by the allocator and then written by who asked for it. What was in use before can
//! be made ready by less, as its type knows. Any context: the exchange is atomic on its CPU.

use super::{
    bindings,
    conn::{
        Conn,
        Session, //
    }, //
};
use core::ptr::NonNull;
use kernel::prelude::*;

impl<S: Session> Conn<S> {
    /// Takes what was kept on this CPU.
    #[inline]
    pub(crate) fn take_spare() -> Option<KBox<S::Spare>> {
        // SAFETY: No preconditions.
        let spare = NonNull::new(unsafe { bindings::squall_spare_take() })?;
        // SAFETY: What is kept comes from `keep_spare`, whose box it was; there is one kind of session, as
        // there is one runtime.
        Some(unsafe { KBox::from_raw(spare.as_ptr().cast()) })
    }

    /// Keeps `spare` for who needs one next; what was kept before is freed.
    #[inline]
    pub(crate) fn keep_spare(spare: KBox<S::Spare>) {
        // SAFETY: It is not used any more.
        let before = unsafe { bindings::squall_spare_keep(KBox::into_raw(spare).cast()) };
        if let Some(before) = NonNull::new(before) {
            // SAFETY: As in `take_spare`.
            drop(unsafe { KBox::<S::Spare>::from_raw(before.as_ptr().cast()) });
        }
    }

    /// Frees what is kept on any CPU. Process context, when nothing else runs any more.
    pub(super) fn drop_spares() {
        /// Frees one.
        ///
        /// # Safety
        ///
        /// `spare` comes from `keep_spare`, and is in no use.
        unsafe extern "C" fn free<S: Session>(spare: *mut kernel::ffi::c_void) {
            // SAFETY: As in `take_spare`.
            drop(unsafe { KBox::<S::Spare>::from_raw(spare.cast()) });
        }
        // SAFETY: What is kept is freed by its own type.
        unsafe { bindings::squall_spare_each(Some(free::<S>)) };
    }
}
