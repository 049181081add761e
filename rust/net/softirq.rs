// SPDX-License-Identifier: GPL-2.0

//! A witness of the context: [`Softirq`].

use core::marker::PhantomData;

/// The proof that this runs in softirq, and so on one CPU to the end: what belongs to the CPU may be used, and sockets may be
/// made and locked.
///
/// Who is called in softirq gets it, by [`Io::softirq`](super::Io::softirq) or as an argument. It takes no room.
///
/// # Invariants
///
/// It exists in softirq only. It ends with the call that it was given to, and stays on its CPU.
#[derive(Clone, Copy)]
pub(crate) struct Softirq<'a>(PhantomData<(&'a (), *mut ())>);

const _: () = assert!(size_of::<Softirq<'_>>() == 0);

impl Softirq<'_> {
    /// Says that this is softirq.
    ///
    /// # Safety
    ///
    /// It is, and remains so for the lifetime.
    #[inline]
    pub(super) const unsafe fn assume() -> Self {
        // INVARIANT: By the caller's promise.
        Softirq(PhantomData)
    }
}
