// SPDX-License-Identifier: GPL-2.0

//! A listening socket whose connections are accepted in softirq.
//!
//! Context: made and dropped in process context. The listener's `data_ready` runs with some child's
//! lock held and the listener's not, so it only queues BH work, which takes children from the accept
//! queue without any socket lock, as `rskq_lock` nests inside a child's.

use super::{
    addr::SocketAddr,
    bindings,
    conn::{
        Conn,
        Session,
        ACCEPTED,
        EV_ABORT, //
    },
    stats::{
        self,
        Counter, //
    },
    sysctl, //
};
use core::{
    marker::PhantomData,
    ptr::{
        addr_of_mut,
        NonNull, //
    }, //
};
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// Connections accepted before other softirq work gets its turn.
const BUDGET: usize = 64;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

const SOCK_STREAM: i32 = 1;
const IPPROTO_TCP: i32 = 6;

#[repr(C)]
struct Acceptor<S: Session> {
    work: Opaque<bindings::work_struct>,
    lsk: NonNull<bindings::sock>,
    owner: S::Owner,
}

/// A listening socket. Stops listening when dropped; connections that were accepted stay.
///
/// # Invariants
///
/// `socket` is a kernel socket of ours that listens, and whose user data is `acceptor`, which is a
/// leaked box.
pub(crate) struct Listener<S: Session> {
    socket: NonNull<bindings::socket>,
    acceptor: NonNull<Acceptor<S>>,
    _owns: PhantomData<S>,
}

// SAFETY: The socket may be closed by any task; the owner is `Send`.
unsafe impl<S: Session> Send for Listener<S> {}

impl<S: Session> Listener<S> {
    /// Starts listening on `addr`. Process context.
    ///
    /// Fails with what `bind()` and `listen()` fail with, such as `EADDRINUSE` and `EADDRNOTAVAIL`.
    pub(crate) fn new(addr: &SocketAddr, owner: S::Owner) -> Result<Self> {
        let mut socket = core::ptr::null_mut();
        // SAFETY: Process context; the place may be written.
        to_result(unsafe {
            bindings::sock_create_kern(
                bindings::squall_init_net(),
                addr.family(),
                SOCK_STREAM,
                IPPROTO_TCP,
                &mut socket,
            )
        })?;
        let socket = NonNull::new(socket).ok_or(ENOMEM)?;
        // SAFETY: The socket was just created, so its sock is there.
        let lsk = unsafe { (*socket.as_ptr()).sk };
        let acceptor = NonNull::new(lsk).ok_or(EINVAL).and_then(|lsk| {
            Ok(KBox::new(
                Acceptor {
                    work: Opaque::uninit(),
                    lsk,
                    owner,
                },
                GFP_KERNEL,
            )?)
        });
        let acceptor = match acceptor {
            Ok(acceptor) => KBox::into_raw(acceptor),
            Err(err) => {
                // SAFETY: Ours, and in use nowhere.
                unsafe { bindings::sock_release(socket.as_ptr()) };
                return Err(err);
            }
        };
        // SAFETY: The acceptor stays where it is until the listener is dropped, which first unhooks.
        unsafe {
            bindings::squall_work_setup(
                Opaque::cast_into(addr_of_mut!((*acceptor).work)),
                Some(Self::accept_work),
            );
            bindings::squall_listen_setup(
                lsk,
                acceptor.cast(),
                sysctl::rcvbuf(),
                Some(Self::data_ready_callback),
            );
        }
        // INVARIANT: From here on dropping it undoes all. A box is never null.
        let listener = Listener {
            socket,
            // SAFETY: As above.
            acceptor: unsafe { NonNull::new_unchecked(acceptor) },
            _owns: PhantomData,
        };
        // SAFETY: Process context; the address is of the socket's family.
        to_result(unsafe {
            bindings::kernel_bind(
                socket.as_ptr(),
                addr.as_ptr().cast_mut().cast(),
                addr.size(),
            )
        })?;
        // SAFETY: Process context.
        to_result(unsafe { bindings::kernel_listen(socket.as_ptr(), BACKLOG) })?;
        Ok(listener)
    }

    /// TCP calls this for the listener, and for children that are not accepted yet, which have
    /// inherited it.
    ///
    /// # Safety
    ///
    /// Called by TCP, with a listener or with a child of one.
    unsafe extern "C" fn data_ready_callback(sk: *mut bindings::sock) {
        // SAFETY: TCP calls, in softirq and so under RCU. Children have no user data.
        unsafe {
            if bindings::squall_sk_state(sk) as u32 != bindings::SQUALL_TCP_LISTEN {
                return;
            }
            let acceptor: *mut Acceptor<S> = bindings::squall_sk_user_data(sk).cast();
            if !acceptor.is_null() {
                bindings::squall_queue_bh(Opaque::cast_into(addr_of_mut!((*acceptor).work)));
            }
        }
    }

    /// Accepts what waits.
    ///
    /// # Safety
    ///
    /// Called for the work of an [`Acceptor`].
    unsafe extern "C" fn accept_work(work: *mut bindings::work_struct) {
        super::count_context();
        // SAFETY: `work` is the first field of the `repr(C)` struct, which outlives the work.
        let acceptor = unsafe { &*work.cast::<Acceptor<S>>() };
        for _ in 0..BUDGET {
            let mut more = false;
            // SAFETY: Softirq, no socket lock held; the listener outlives the work.
            let child = unsafe { bindings::squall_accept(acceptor.lsk.as_ptr(), &mut more) };
            let Some(child) = NonNull::new(child) else {
                return;
            };
            let events = if super::live() < i64::from(sysctl::connections_max()) {
                ACCEPTED
            } else {
                stats::inc(Counter::RefusedLimit);
                EV_ABORT
            };
            // SAFETY: Just taken from the accept queue.
            match unsafe { Conn::<S>::adopt(child, &acceptor.owner, events) } {
                Ok(()) => stats::inc(Counter::Accepted),
                Err(_) => stats::inc(Counter::NoMemory),
            }
        }
        // SAFETY: The work is set up, and may be queued while it runs.
        unsafe { bindings::squall_queue_bh(work) };
    }
}

impl<S: Session> Drop for Listener<S> {
    fn drop(&mut self) {
        let socket = self.socket.as_ptr();
        // SAFETY: By the invariant. After the grace period no callback sees the acceptor, after
        // that no work is queued, and what is running has been waited for.
        unsafe {
            bindings::squall_listen_unhook((*socket).sk);
            bindings::synchronize_net();
            bindings::disable_work_sync(Opaque::cast_into(addr_of_mut!(
                (*self.acceptor.as_ptr()).work
            )));
            bindings::sock_release(socket);
            // Children between handshake and accept queue have been disposed of, in softirq.
            bindings::synchronize_net();
            drop(KBox::from_raw(self.acceptor.as_ptr()));
        }
    }
}
