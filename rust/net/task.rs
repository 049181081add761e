// SPDX-License-Identifier: GPL-2.0

//! Something that is done in softirq, at once or after a while, and never twice at a time.
//!
//! The kernel crate's delayed work cannot be cancelled, so an object with one pending could not go
//! before its time has come; hence this small pair of BH work and timer.

use super::{
    bindings,
    softirq::Softirq,
    time::Moment, //
};
use core::{
    mem,
    ops::Deref,
    ptr::{
        addr_of_mut,
        NonNull, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            ordering::Relaxed,
            AtomicFlag, //
        },
        Refcount, //
    },
    types::Opaque, //
};

/// What a [`Task`] does.
pub(crate) trait Run: Send + Sync + Sized + 'static {
    /// Softirq, no lock held. Called as often as asked for, but not concurrently.
    fn run(task: &ARef<Task<Self>>, softirq: Softirq<'_>);
}

/// A reference-counted object with work to do in softirq.
///
/// # Invariants
///
/// A queued `work` and a pending `timer` each come with a counted reference.
#[repr(C)]
pub(crate) struct Task<T: Run> {
    work: Opaque<bindings::work_struct>,
    timer: Opaque<bindings::timer_list>,
    refs: Refcount,
    /// It is not to run any more.
    is_shut: AtomicFlag,
    data: T,
}

// SAFETY: The C parts lock for themselves; the data is `Sync` by its bound.
unsafe impl<T: Run> Sync for Task<T> {}
// SAFETY: Nothing in it is bound to a CPU or a task.
unsafe impl<T: Run> Send for Task<T> {}

// SAFETY: The count starts at one, and `dec_ref` frees when it reaches zero.
unsafe impl<T: Run> AlwaysRefCounted for Task<T> {
    fn inc_ref(&self) {
        self.refs.inc();
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference.
        if unsafe { obj.as_ref() }.refs.dec_and_test() {
            // SAFETY: That was the last one, and the memory came from a box. By the invariant
            // neither work nor timer is pending.
            drop(unsafe { KBox::from_raw(obj.as_ptr()) });
            super::release();
        }
    }
}

impl<T: Run> Deref for Task<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T: Run> Task<T> {
    /// Makes a task around `data`. Process context.
    pub(crate) fn new(data: impl PinInit<T, Error>) -> Result<ARef<Self>> {
        let mut uninit = KBox::<Self>::new_uninit(GFP_KERNEL)?;
        let place = uninit.as_mut_ptr();
        // SAFETY: The place is ours, every field is written once, and it does not move: `ARef`
        // keeps it where it is. If `data` fails it is uninitialised, as are the other fields.
        let task = unsafe {
            pin_init::raw_try_init(addr_of_mut!((*place).data), data)?;
            addr_of_mut!((*place).refs).write(Refcount::new(1));
            addr_of_mut!((*place).is_shut).write(AtomicFlag::new(false));
            bindings::squall_work_setup(
                Opaque::cast_into(addr_of_mut!((*place).work)),
                Some(Self::work_callback),
            );
            bindings::squall_timer_setup(
                Opaque::cast_into(addr_of_mut!((*place).timer)),
                Some(Self::timer_callback),
            );
            uninit.assume_init()
        };
        super::acquire();
        // SAFETY: A box is never null, and its count of one is now ours.
        Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(KBox::into_raw(task))) })
    }

    /// Has the task run soon. Any context.
    pub(crate) fn kick(&self) {
        let own: ARef<Self> = self.into();
        // SAFETY: The work is set up.
        if unsafe { bindings::squall_queue_bh(self.work.get()) } {
            // INVARIANT: It was not queued and is now.
            mem::forget(own);
        }
    }

    /// Has the task run in `ms` milliseconds instead of when it was asked to before. Any context.
    pub(crate) fn kick_after(&self, ms: u32) {
        let own: ARef<Self> = self.into();
        let when = Moment::now().after_ms(ms);
        // SAFETY: The timer is set up.
        if unsafe { bindings::mod_timer(self.timer.get(), when.jiffies()) } == 0 {
            // INVARIANT: It was not pending and is now.
            mem::forget(own);
        }
        // Timers have a lock. If `shutdown()` had it after us, it has found the timer; else the flag is seen here.
        if self.is_shut.load(Relaxed) {
            self.cancel();
        }
    }

    /// Forgets a [`Self::kick_after`]. Any context.
    pub(crate) fn cancel(&self) {
        // SAFETY: The timer is set up.
        if unsafe { bindings::timer_delete(self.timer.get()) } != 0 {
            // SAFETY: By the invariant the pending timer had a reference; the caller has another.
            drop(unsafe { ARef::from_raw(NonNull::from(self)) });
        }
    }

    /// Has the task not run any more, whatever is asked of it. Process context: waits for a run that is
    /// under way.
    pub(crate) fn shutdown(&self) {
        // Not `timer_shutdown_sync()`: it leaves who arms the timer later without a word that it is not armed. Such a one takes
        // that back; should it fire before, it finds the work disabled.
        self.is_shut.store(true, Relaxed);
        // SAFETY: Work and timer are set up, and we may sleep.
        let pending = unsafe {
            [
                bindings::disable_work_sync(self.work.get()),
                bindings::timer_delete_sync(self.timer.get()) != 0,
            ]
        };
        for _ in pending.into_iter().filter(|&pending| pending) {
            // SAFETY: By the invariant what was pending had a reference; the caller has another.
            drop(unsafe { ARef::from_raw(NonNull::from(self)) });
        }
    }

    /// Runs the task.
    ///
    /// # Safety
    ///
    /// Called for the work of a task.
    unsafe extern "C" fn work_callback(work: *mut bindings::work_struct) {
        // SAFETY: `work` is the first field of the `repr(C)` struct, and came with a reference.
        let task = unsafe { ARef::from_raw(NonNull::new_unchecked(work.cast::<Self>())) };
        super::count_context();
        // SAFETY: BH work runs in softirq.
        T::run(&task, unsafe { Softirq::assume() });
    }

    /// Has the task run.
    ///
    /// # Safety
    ///
    /// Called for the timer of a task.
    unsafe extern "C" fn timer_callback(timer: *mut bindings::timer_list) {
        let field: *mut Opaque<bindings::timer_list> = timer.cast();
        // SAFETY: The timer is the field of a task, and came with a reference to it.
        let task = unsafe {
            let task: *mut Self = kernel::container_of!(field, Self, timer);
            ARef::from_raw(NonNull::new_unchecked(task))
        };
        task.kick();
    }
}
