// SPDX-License-Identifier: GPL-2.0

//! A spinlock that may be taken in softirq and in process context alike.
//!
//! The kernel crate's `SpinLock` does not disable bottom halves: taken in process context and then
//! again by a softirq on the same CPU, it deadlocks. Leaf locks that configuration shares with the
//! data path are of this kind. Lock order: a socket's lock first, then at most one of these.

use super::bindings;
use kernel::{
    ffi::c_char,
    sync::lock::{
        Backend,
        Guard,
        Lock, //
    }, //
};

/// The backend of [`BhLock`]: `spin_lock_bh()` on a `spinlock_t`.
pub(crate) struct BhBackend;

/// A value behind a `spinlock_t` that is always taken with bottom halves disabled.
pub(crate) type BhLock<T> = Lock<T, BhBackend>;

/// Proof that a [`BhLock`] is held; releases it when dropped.
pub(crate) type BhGuard<'a, T> = Guard<'a, T, BhBackend>;

/// Makes an initialiser of a [`BhLock`] with a lockdep class of its own.
macro_rules! new_bh_lock {
    ($inner:expr) => {
        $crate::net::lock::BhLock::new(
            $inner,
            kernel::optional_name!(),
            kernel::static_lock_class!(),
        )
    };
}
pub(crate) use new_bh_lock;

// SAFETY: A `spinlock_t` gives mutual exclusion between CPUs, and with bottom halves disabled also
// against softirqs on the same CPU. `relock` is the default and so uses the same method.
unsafe impl Backend for BhBackend {
    type State = bindings::spinlock_t;
    type GuardState = ();

    #[inline]
    unsafe fn init(
        ptr: *mut Self::State,
        name: *const c_char,
        key: *mut kernel::bindings::lock_class_key,
    ) {
        // SAFETY: The caller promises that `ptr` may be written, and `name` and `key` live on. Both
        // bindings describe the same C type.
        unsafe { bindings::squall_spin_lock_init(ptr, name, key.cast()) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) {
        // SAFETY: The caller promises an initialised lock.
        unsafe { bindings::squall_spin_lock_bh(ptr) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<()> {
        // SAFETY: The caller promises an initialised lock.
        unsafe { bindings::squall_spin_trylock_bh(ptr) }.then_some(())
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, (): &()) {
        // SAFETY: The caller owns the lock.
        unsafe { bindings::squall_spin_unlock_bh(ptr) }
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: The caller promises an initialised lock.
        unsafe { bindings::squall_assert_spin_locked(ptr) }
    }
}
