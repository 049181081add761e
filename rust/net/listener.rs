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
        Taken, //
    },
    events::{
        ACCEPTED,
        EV_ABORT, //
    },
    memory,
    softirq::Softirq,
    stats::{
        self,
        Counter, //
    },
    sysctl,
    task::{
        Run,
        Task, //
    }, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            ordering::Relaxed,
            AtomicFlag, //
        }, //
    }, //
};

/// Connections accepted before other softirq work gets its turn.
const BUDGET: usize = 64;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Milliseconds until accepting is tried again when there was no memory for a connection.
const RETRY_MS: u32 = 10;

const SOCK_STREAM: i32 = 1;
const IPPROTO_TCP: i32 = 6;

/// What accepts.
///
/// # Invariants
///
/// `lsk` is a listener's socket, alive until the task is shut down.
struct Acceptor<S: Session> {
    lsk: NonNull<bindings::sock>,
    owner: S::Owner,
    /// Connections are left in the queue because memory is short.
    paused: AtomicFlag,
}

// SAFETY: The socket may be used by any CPU, and the owner is `Send` and `Sync`.
unsafe impl<S: Session> Send for Acceptor<S> {}
// SAFETY: As above.
unsafe impl<S: Session> Sync for Acceptor<S> {}

impl<S: Session> Run for Acceptor<S> {
    /// Accepts what waits.
    fn run(task: &ARef<Task<Self>>, _: Softirq<'_>) {
        if task.pauses() {
            task.kick_after(memory::TICK_MS);
            return;
        }
        for _ in 0..BUDGET {
            let within = super::live() < i64::from(sysctl::connections_max());
            let events = if within { ACCEPTED } else { EV_ABORT };
            // SAFETY: By the invariant.
            match unsafe { Conn::<S>::accept(task.lsk, &task.owner, events) } {
                Ok(Taken::Kept) => stats::inc(if within {
                    Counter::Accepted
                } else {
                    Counter::RefusedLimit
                }),
                // Counted by cause.
                Ok(Taken::Refused) => {}
                Ok(Taken::None) => return,
                Err(_) => {
                    // They wait in the queue, whose length is bounded, as TCP lets them wait.
                    stats::inc(Counter::NoMemory);
                    task.kick_after(RETRY_MS);
                    return;
                }
            }
        }
        task.kick();
    }
}

impl<S: Session> Acceptor<S> {
    /// Says whether what waits has to go on waiting because memory is short.
    fn pauses(&self) -> bool {
        memory::look();
        // SAFETY: By the invariant.
        let waits = unsafe { bindings::squall_accept_pending(self.lsk.as_ptr()) };
        let pauses = waits && memory::is_pressed();
        if pauses && !self.paused.load(Relaxed) {
            stats::inc(Counter::AcceptPauses);
        }
        self.paused.store(pauses, Relaxed);
        pauses
    }
}

/// A listening socket. Stops listening when dropped; connections that were accepted stay.
///
/// # Invariants
///
/// `socket` is a kernel socket of ours, whose user data is `acceptor`.
pub(crate) struct Listener<S: Session> {
    socket: NonNull<bindings::socket>,
    acceptor: ARef<Task<Acceptor<S>>>,
}

// SAFETY: The socket may be closed by any task.
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
        // INVARIANT: Dropping the listener shuts the task down before it releases the socket.
        let acceptor = NonNull::new(lsk).ok_or(EINVAL).and_then(|lsk| {
            Task::new(try_init!(Acceptor::<S> {
                lsk,
                owner,
                paused: AtomicFlag::new(false),
            }))
        });
        let acceptor = match acceptor {
            Ok(acceptor) => acceptor,
            Err(err) => {
                // SAFETY: Ours, and in use nowhere.
                unsafe { bindings::sock_release(socket.as_ptr()) };
                return Err(err);
            }
        };
        // SAFETY: The acceptor stays where it is until the listener is dropped, which first unhooks.
        unsafe {
            bindings::squall_listen_setup(
                lsk,
                (&raw const *acceptor).cast_mut().cast(),
                sysctl::rcvbuf(),
                Some(Self::data_ready_callback),
            );
        }
        // INVARIANT: From here on dropping it undoes all.
        let listener = Listener { socket, acceptor };
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

    /// Says whether it still listens: root may have had the socket closed (`SOCK_DESTROY` of
    /// sock_diag(7), which is `ss -K`).
    pub(crate) fn listens(&self) -> bool {
        // SAFETY: By the invariant; the state may be read at any time.
        let state = unsafe { bindings::squall_sk_state((*self.socket.as_ptr()).sk) };
        state as u32 == bindings::SQUALL_TCP_LISTEN
    }

    /// TCP calls this for the listener, and for children that are not accepted yet, which have
    /// inherited it.
    ///
    /// # Safety
    ///
    /// Called by TCP, with a listener or with a child of one.
    unsafe extern "C" fn data_ready_callback(sk: *mut bindings::sock) {
        // SAFETY: TCP calls, in softirq and so under RCU. Only a child is in another state; its user data is
        // not looked at. A listener's is its acceptor, which is dropped a grace period after the socket was
        // unhooked.
        unsafe {
            if bindings::squall_sk_state(sk) as u32 != bindings::SQUALL_TCP_LISTEN {
                return;
            }
            let acceptor: *const Task<Acceptor<S>> = bindings::squall_sk_user_data(sk).cast();
            if let Some(acceptor) = acceptor.as_ref() {
                acceptor.kick();
            }
        }
    }
}

impl<S: Session> Drop for Listener<S> {
    fn drop(&mut self) {
        let socket = self.socket.as_ptr();
        // SAFETY: By the invariant.
        unsafe { bindings::squall_listen_unhook((*socket).sk) };
        // A callback that still sees the acceptor asks in vain from here on.
        self.acceptor.shutdown();
        // SAFETY: Ours, and the acceptor does not use it any more.
        unsafe {
            bindings::sock_release(socket);
            // Such callbacks are over then, and children between handshake and accept queue have been
            // disposed of, in softirq. No test can show it: the callback has but to read and to queue.
            bindings::synchronize_net();
        }
    }
}
