// SPDX-License-Identifier: GPL-2.0

//! TCP in softirq, as safe types. The only part of Squall with `unsafe`, bindings and C.
//!
//! Knows no HTTP. What is built on it sees a [`Conn`] with a [`Session`] and [`Hooks`], an [`Io`]
//! while the connection's lock is held, an [`OutQueue`] of bytes on their way out, a [`Listener`],
//! and a [`Task`] for what is not about one connection. What may be done in softirq only asks for
//! [`Softirq`], which an [`Io`] has and a running [`Task`] is given.
//!
//! # Contexts
//!
//! Process context makes and drops [`Runtime`], [`Listener`] and [`Task`], and reads counters. All
//! else runs in softirq: TCP's callbacks, and BH work on the CPU that asked for it. Lock order:
//! configuration mutex, one socket's spinlock, one [`BhLock`]; see `conn.rs`.

mod addr;
mod bindings;
mod bucket;
pub(crate) mod clients;
mod conn;
mod crypto;
mod events;
mod io;
mod listener;
pub(crate) mod lock;
pub(crate) mod log;
pub(crate) mod memory;
mod pace;
mod queue;
mod rx;
mod serve;
mod softirq;
pub(crate) mod spare;
pub(crate) mod stats;
pub(crate) mod sysctl;
mod task;
mod time;
mod tx;

pub(crate) use self::{
    addr::{
        hash,
        keyed_hash,
        SocketAddr, //
    },
    bucket::{
        Bucket,
        Rate, //
    },
    conn::{
        Accepted,
        Conn,
        Hooks,
        Session, //
    },
    crypto::{
        log2,
        random,
        sha1_base64,
        Digest, //
    },
    events::{
        Events,
        CONNECTED,
        RESUME, //
    },
    io::Io,
    listener::Listener,
    pace::Pace,
    queue::{
        OutQueue,
        Writer, //
    },
    rx::{
        Stop,
        Watch, //
    },
    softirq::Softirq,
    task::{
        Run,
        Task, //
    },
    time::{
        date,
        ns,
        AtomicMoment,
        Moment, //
    }, //
};

use self::stats::Counter;
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{
        ordering::{
            Acquire,
            Full,
            Relaxed, //
        },
        Atomic, //
    }, //
};

/// Connections served by one pass of a CPU's BH work before other softirqs get their turn.
const BUDGET: usize = 64;

/// Connections and tasks that exist: they run this module's code, and unloading waits for them.
static LIVE: Atomic<i64> = Atomic::new(0);

fn acquire() {
    LIVE.add(1, Relaxed);
}

fn release() {
    LIVE.fetch_sub(1, Full);
}

/// Returns how many connections and tasks exist.
pub(crate) fn live() -> i64 {
    LIVE.load(Acquire)
}

/// Counts an entry of the data path by its context, which has to be softirq.
#[inline]
fn count_context() {
    // SAFETY: No preconditions.
    let softirq = unsafe { bindings::squall_in_softirq() };
    stats::inc(if softirq {
        Counter::EntriesSoftirq
    } else {
        Counter::EntriesOther
    });
}

/// Serves what was posted to on this CPU.
///
/// # Safety
///
/// Called for the per-CPU work.
unsafe extern "C" fn serve_cpu<S: Session>(work: *mut bindings::work_struct) {
    stats::inc(Counter::Passes);
    // SAFETY: Called for the per-CPU work, which is not concurrent with itself.
    let mut node = unsafe { bindings::squall_run_take(work) };
    for _ in 0..BUDGET {
        if node.is_null() {
            return;
        }
        // SAFETY: The node is off the list. Its successor is read first, since serving it may put
        // it on a list again.
        unsafe {
            let next = (*node).next;
            Conn::<S>::serve(node);
            node = next;
        }
    }
    if !node.is_null() {
        // SAFETY: The rest of what was taken.
        unsafe { bindings::squall_run_defer(work, node) };
    }
}

/// The data path's machinery, while it exists. There is at most one.
pub(crate) struct Runtime<S: Session>(PhantomData<S>);

impl<S: Session> Runtime<S> {
    /// Starts the machinery. Process context, from the module's init.
    ///
    /// `clients_max`: clients that are kept account of, at most.
    pub(crate) fn start(clients_max: u32) -> Result<Self> {
        // SAFETY: Process context, once.
        unsafe {
            to_result(bindings::squall_prime()).inspect_err(|err| {
                pr_err!("no connection to 127.0.0.1: {}\n", err.to_errno());
            })?;
            clients::start(clients_max)?;
            memory::start::<S>().inspect_err(|_| clients::stop())?;
            Conn::<S>::create_cache().inspect_err(|_| {
                memory::stop();
                clients::stop();
            })?;
            to_result(bindings::squall_run_start(Some(serve_cpu::<S>))).inspect_err(|_| {
                bindings::squall_conns_destroy();
                memory::stop();
                clients::stop();
            })?;
        }
        // SAFETY: Process context, and there is no connection yet.
        unsafe { bindings::squall_close_start(Some(Conn::<S>::close_callback)) };
        spare::start(S::spares());
        Ok(Runtime(PhantomData))
    }
}

impl<S: Session> Drop for Runtime<S> {
    /// Waits until none of this module's code runs any more. The listeners are gone, the tasks have been
    /// told to stop, and connections come to their end as those of a listener that is removed do; those
    /// that take longer than that may are aborted.
    fn drop(&mut self) {
        let patience = sysctl::drain_ms()
            .saturating_add(sysctl::ws_close_timeout_ms())
            .saturating_add(sysctl::linger_timeout_ms());
        let end = Moment::now().after_ms(patience);
        while live() > memory::TASKS {
            if !Moment::now().is_before(end) {
                Conn::<S>::abort_all();
            }
            // SAFETY: Process context.
            unsafe { bindings::msleep(5) };
        }
        // SAFETY: Process context. Nothing is left that queues work. The grace period waits for
        // callbacks that have dropped the last reference and are about to return.
        unsafe {
            bindings::squall_close_stop();
            bindings::synchronize_rcu();
            memory::stop();
            bindings::squall_run_stop();
            bindings::rcu_barrier();
            bindings::squall_conns_destroy();
            clients::stop();
        }
        // SAFETY: Process context, and no connection is left.
        unsafe { spare::stop(S::spares()) };
    }
}
