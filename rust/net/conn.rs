// SPDX-License-Identifier: GPL-2.0

//! A TCP connection whose every event is handled in softirq.
//!
//! # Context and locks
//!
//! A [`Conn`] has a socket, the session that its owner keeps with it, and an inbox. The session is
//! touched only while the socket's spinlock is held in softirq and no process owns the socket; [`Io`]
//! is the proof of that, and no second one exists meanwhile: a BPF program may have TCP call `data_ready`
//! from inside a call of ours, which finds a mark then and posts. One way in is TCP's `data_ready`; the
//! other is [`Conn::serve`], run by this CPU's BH work for connections that were [posted](Conn::post)
//! an event. TCP's other callbacks come in the middle of TCP's own work, some of them from inside
//! our own calls, so they do nothing but post.
//!
//! Lock order: one socket's spinlock, then one inbox (or another [`BhLock`]). A second socket's
//! spinlock is only ever tried, by [`Io::push`] and by [`Direct`](super::tx::Direct); where it is not
//! free, what one connection wants from another goes into its inbox, and is posted.
//!
//! # Life
//!
//! A session ends by [`Io::release`]: what is queued goes out, then a FIN, and what still arrives is
//! thrown away until both FINs are through. When the socket has reached `TCP_CLOSE` it is destroyed, from
//! the BH work and never inside a callback. A peer that has acknowledged everything and does not close for
//! `linger_timeout` is left to TCP, as `close()` of a process leaves it: a worker calls `tcp_close()`, since
//! that may sleep. The memory goes when the last reference does.

pub(crate) use super::io::Io;
use super::{
    addr::{
        self,
        SocketAddr, //
    },
    bindings,
    events::{
        Events,
        EV_ABORT,
        EV_SCHEDULED, //
    },
    lock::{
        new_bh_lock,
        BhLock, //
    },
    memory::Account,
    queue::OutQueue,
    softirq::Softirq,
    spare::{
        Keep,
        KINDS, //
    },
    stats::{
        self,
        Counter, //
    },
    sysctl,
    time::Moment, //
};
use core::{
    cell::UnsafeCell,
    mem,
    net::IpAddr,
    ptr::{
        addr_of_mut,
        NonNull, //
    }, //
};
use kernel::{
    ffi::c_void,
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            ordering::{
                Full,
                Relaxed, //
            },
            Atomic, //
        },
        Refcount, //
    },
    types::Opaque, //
};

/// What an owner of connections keeps with each of them.
///
/// The default value is what a connection has that nobody owns any more: it must hold no reference
/// to another connection.
pub(crate) trait Session: Default + Send + Sized + 'static {
    /// What one connection may put into another's inbox, besides bytes and events.
    type Mail: Send + Unpin;
    /// What accepts connections.
    type Owner: Clone + Send + Sync + 'static;

    /// Returns what keeps memory for connections, as long as there are any.
    fn spares() -> [&'static dyn Keep; KINDS];

    /// Takes what has to stay until the connection is gone, when the session is over and it lingers.
    fn rest(&mut self) -> Self;

    /// Returns the client for whom it counts what `conn`, which this is the session of, holds.
    fn client(&self, conn: &Conn<Self>) -> Option<IpAddr>;

    /// Makes the session of a new downstream connection, whose peer has the address that `peer` returns. Softirq, no
    /// lock held.
    fn accepted(owner: &Self::Owner, peer: impl FnOnce() -> IpAddr) -> Accepted<Self>;
}

/// What becomes of a connection that was accepted.
pub(crate) struct Accepted<S: Session> {
    pub(crate) session: S,
    pub(crate) hooks: &'static Hooks<S>,
    /// It is reset at once.
    pub(crate) refused: bool,
}

/// What came of accepting.
pub(super) enum Taken {
    /// No connection waits.
    None,
    /// A connection, which is served.
    Kept,
    /// A connection that the session refused.
    Refused,
}

/// What a connection's events mean now: replaced, by [`Io::set_hooks`], when they change meaning.
///
/// All are called in softirq with the connection's lock held.
pub(crate) struct Hooks<S: Session> {
    /// There are bytes to read, or the end of them.
    pub(crate) data_ready: fn(&mut S, &mut Io<'_, S>),
    /// Events were posted, or mail was put into the inbox.
    pub(crate) events: fn(&mut S, &mut Io<'_, S>, Events),
    /// The time set with [`Io::set_deadline`] has come.
    pub(crate) timer: fn(&mut S, &mut Io<'_, S>),
    /// The connection is closed and everything is read; the argument is 0 or the (positive) errno
    /// that ended it. The session is replaced by its default when this returns.
    pub(crate) closed: fn(&mut S, &mut Io<'_, S>, i32),
    /// What the peer had sent before it reset the connection is still wanted: while reading pauses, `closed` waits.
    pub(crate) reads_on: bool,
}

/// How far the way out is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fin {
    Open,
    /// A FIN goes behind what is queued.
    Wanted,
    Sent,
    /// A reset goes out when all that is queued has been acknowledged.
    Reset,
    /// TCP is to wait alone for the peer's FIN: ours and everything before it is acknowledged.
    Left,
    /// TCP has closed the connection: nothing goes out any more.
    Closed,
}

/// Why bytes are unread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// They are of no use without those behind them, or nobody has looked yet.
    Not,
    /// The session waits for something, and reads on when it has come.
    Waits,
    /// Memory was not to be had: they are looked at again soon.
    Retry,
}

/// What this module keeps under the socket's lock.
pub(super) struct Control<S: Session> {
    pub(super) hooks: &'static Hooks<S>,
    pub(super) deadline: Option<Moment>,
    pub(super) armed: Option<Moment>,
    pub(super) received_at: Moment,
    pub(super) sent_at: Moment,
    /// The sequence number up to which the peer had acknowledged when the timer fired last.
    pub(super) acked: u32,
    pub(super) error: i32,
    pub(super) fin: Fin,
    /// How often a FIN or a reset found no memory.
    pub(super) tries: u16,
    pub(super) connecting: bool,
    pub(super) reset: bool,
    pub(super) released: bool,
    pub(super) gone: bool,
    pub(super) pause: Pause,
    /// TCP had no memory: nothing is sent before this.
    pub(super) tx_not_before: Option<Moment>,
}

impl<S: Session> Control<S> {
    /// Says whether bytes can be sent: the connection is open that way, and TCP has not run out of memory.
    pub(super) fn may_send(&self) -> bool {
        let closed = self.connecting || self.reset || self.gone || self.fin != Fin::Open;
        !closed && self.tx_not_before.is_none()
    }

    /// Notes that TCP took bytes.
    pub(super) fn sent_now(&mut self) {
        self.sent_at = Moment::now();
    }
}

pub(super) struct Locked<S: Session> {
    pub(super) session: S,
    pub(super) control: Control<S>,
}

/// What others may put something into, under a lock of its own.
pub(super) struct Inbox<S: Session> {
    pub(super) queue: OutQueue,
    pub(super) mail: Option<S::Mail>,
    /// Who found the queue full and waits for room.
    pub(super) waiter: Option<ARef<Conn<S>>>,
}

/// The receiver of bytes or mail is closed, or does not take any: what it was to get comes back.
pub(crate) struct Undelivered<M>(pub(crate) M);

/// What a connection is made of: its socket with a reference, its session, and the session's hooks.
type Made<S> = (NonNull<bindings::sock>, S, &'static Hooks<S>);

/// A TCP connection; see the head of this file.
///
/// # Invariants
///
/// - `sk` is a socket on which a reference is held until the memory is freed.
/// - While `locked.control.gone` is false, `sk`'s user data is a counted reference to this
///   connection, its callbacks are this module's, its `sk_socket` is `socket`, and `registry` is on
///   the list of connections.
/// - `run` is on a run list, together with a counted reference, exactly while `EV_SCHEDULED` is set.
/// - A pending `timer` comes with a counted reference.
#[repr(C)]
#[pin_data]
pub(crate) struct Conn<S: Session> {
    pub(super) run: UnsafeCell<bindings::llist_node>,
    refs: Refcount,
    pub(super) events: Atomic<u32>,
    pub(super) account: Account,
    pub(super) sk: NonNull<bindings::sock>,
    /// Under the socket's lock. Whoever makes a reference to it marks that by [`Account::enter`], as TCP may call back
    /// from inside the calls that are made meanwhile: so the mark is not in here.
    pub(super) locked: UnsafeCell<Locked<S>>,
    #[pin]
    pub(super) inbox: BhLock<Inbox<S>>,
    #[pin]
    pub(super) timer: Opaque<bindings::timer_list>,
    #[pin]
    socket: Opaque<bindings::squall_socket>,
    /// Its place in the list of connections, and in that of what is freed after a grace period.
    #[pin]
    pub(super) registry: Opaque<bindings::list_head>,
}

/// Memory for a connection, given back unless it becomes one.
struct Memory(NonNull<c_void>);

impl Memory {
    fn new() -> Result<Self> {
        // SAFETY: The cache exists as long as the runtime does, and so as long as anything connects.
        NonNull::new(unsafe { bindings::squall_conn_alloc() })
            .map(Memory)
            .ok_or(ENOMEM)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: From there, and not in use.
        unsafe { bindings::squall_conn_free(self.0.as_ptr()) };
    }
}

// SAFETY: `locked` is accessed under the socket's lock, `run` by the owner of `EV_SCHEDULED`, the
// inbox has its lock, and the rest is atomic or handled by C code that locks.
unsafe impl<S: Session> Sync for Conn<S> {}
// SAFETY: Nothing in it is bound to a CPU or a task; sessions and mail are `Send`.
unsafe impl<S: Session> Send for Conn<S> {}

// SAFETY: The count starts at one, and `dec_ref` frees when it reaches zero.
unsafe impl<S: Session> AlwaysRefCounted for Conn<S> {
    #[inline]
    fn inc_ref(&self) {
        self.refs.inc();
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference, so the connection is alive.
        if unsafe { obj.as_ref() }.refs.dec_and_test() {
            // SAFETY: That was the last one.
            unsafe { Self::free(obj.as_ptr()) };
        }
    }
}

impl<S: Session> Conn<S> {
    /// Makes the cache from which connections are allocated. Process context, once.
    pub(super) fn create_cache() -> Result {
        const {
            assert!(align_of::<Self>() <= align_of::<u64>());
            assert!(size_of::<bindings::list_head>() == size_of::<bindings::callback_head>());
        }
        // SAFETY: Process context.
        kernel::error::to_result(unsafe { bindings::squall_conns_create(size_of::<Self>() as u32) })
    }

    /// Makes a connection around a socket that is not hooked yet.
    ///
    /// `make` is called once there is memory, with the embedded socket, which is zeroed. It
    /// returns the socket with a reference that is taken over, the session and its hooks.
    fn new(
        make: impl FnOnce(*mut bindings::squall_socket) -> Result<Made<S>>,
    ) -> Result<ARef<Self>> {
        let memory = Memory::new()?;
        let place = memory.0.as_ptr().cast::<Self>();
        // SAFETY: The place is ours, and of the size by which `create_cache` made the cache. All zeros
        // are a valid socket to begin with.
        let socket = unsafe {
            addr_of_mut!((*place).socket).write_bytes(0, 1);
            addr_of_mut!((*place).socket)
        };
        let (sk, session, hooks) = make(socket.cast())?;
        let inbox = new_bh_lock!(Inbox {
            queue: OutQueue::counted(),
            mail: None,
            waiter: None,
        });
        // SAFETY: Every field but `socket`, which is initialised, is written, once. The memory does
        // not move: `ARef` keeps it where it is, which is what pinning asks for.
        unsafe {
            addr_of_mut!((*place).run).write_bytes(0, 1);
            addr_of_mut!((*place).refs).write(Refcount::new(1));
            addr_of_mut!((*place).events).write(Atomic::new(0));
            addr_of_mut!((*place).account).write(Account::new());
            // INVARIANT: We were given the reference.
            addr_of_mut!((*place).sk).write(sk);
            addr_of_mut!((*place).locked).write(UnsafeCell::new(Locked {
                session,
                control: Control {
                    hooks,
                    deadline: None,
                    armed: None,
                    received_at: Moment::now(),
                    sent_at: Moment::now(),
                    acked: 0,
                    error: 0,
                    fin: Fin::Open,
                    tries: 0,
                    connecting: false,
                    reset: false,
                    released: false,
                    gone: false,
                    pause: Pause::Not,
                    tx_not_before: None,
                },
            }));
            pin_init::raw_init(addr_of_mut!((*place).inbox), inbox);
            let timer = Opaque::cast_into(addr_of_mut!((*place).timer));
            bindings::squall_timer_setup(timer, Some(Self::timer_callback));
            addr_of_mut!((*place).registry).write_bytes(0, 1);
        }
        let conn = memory.0.cast();
        mem::forget(memory);
        super::acquire();
        // SAFETY: All fields are initialised, and the count of one is now ours.
        Ok(unsafe { ARef::from_raw(conn) })
    }

    /// Frees a connection nobody refers to.
    ///
    /// # Safety
    ///
    /// The last reference is gone.
    unsafe fn free(conn: *mut Self) {
        // SAFETY: We are alone with it. The socket is destroyed or was never hooked: its user data
        // would be a reference. Readers under RCU may still look at its `socket`, which is
        // plain memory that dropping does not change, until the grace period is over.
        unsafe {
            bindings::squall_sock_put((*conn).sk.as_ptr());
            core::ptr::drop_in_place(conn);
            // On the list of connections it is not any more, and the entry is as large as a head.
            let head = addr_of_mut!((*conn).registry).cast();
            bindings::squall_kfree_rcu(head, conn.cast());
        }
        super::release();
    }

    /// Installs the callbacks.
    ///
    /// # Safety
    ///
    /// The socket's lock is held, and the callbacks are not installed yet.
    unsafe fn hook(conn: &ARef<Self>) {
        let sk = conn.sk.as_ptr();
        let user_data = ARef::into_raw(conn.clone()).as_ptr();
        // SAFETY: The caller holds the lock. INVARIANT: the user data is a counted reference.
        unsafe {
            bindings::squall_registry_add(conn.registry.get());
            let (rcvbuf, sndbuf) = (sysctl::rcvbuf(), sysctl::sndbuf());
            bindings::squall_sk_limits(sk, rcvbuf, sndbuf, sysctl::unsent_max());
            bindings::squall_sk_hook(
                sk,
                user_data.cast(),
                Some(Self::data_ready_callback),
                Some(Self::write_space_callback),
                Some(Self::state_callback),
                Some(Self::state_callback),
            );
        }
    }

    /// Takes the next connection from the accept queue of `lsk`.
    ///
    /// Softirq, no lock held. It is served with `events`: `ACCEPTED` or [`EV_ABORT`]. Fails with `ENOMEM`;
    /// then it is still in the queue. Memory is got first because a socket that was taken and cannot be
    /// kept may be owned by a process just then, and there would be nowhere to keep it until it is not.
    ///
    /// # Safety
    ///
    /// `lsk` is a listener.
    pub(super) unsafe fn accept(
        lsk: NonNull<bindings::sock>,
        owner: &S::Owner,
        events: Events,
    ) -> Result<Taken> {
        // SAFETY: The listener is alive.
        if !unsafe { bindings::squall_accept_pending(lsk.as_ptr()) } {
            return Ok(Taken::None);
        }
        let mut refused = false;
        let conn = Self::new(|_| {
            // SAFETY: Softirq, no socket lock held; the listener is alive.
            let child = NonNull::new(unsafe { bindings::squall_accept(lsk.as_ptr()) });
            let child = child.ok_or(EAGAIN)?;
            let accepted = S::accepted(owner, || addr::peer(child).ip());
            refused = accepted.refused;
            Ok((child, accepted.session, accepted.hooks))
        });
        let conn = match conn {
            Ok(conn) => conn,
            Err(EAGAIN) => return Ok(Taken::None),
            Err(err) => return Err(err),
        };
        let sk = conn.sk.as_ptr();
        // SAFETY: The socket is alive and in nobody's hands but ours and TCP's; we are in softirq
        // and hold no other socket's lock. The embedded socket is zeroed and stays where it is.
        unsafe {
            bindings::squall_bh_lock_sock(sk);
            bindings::squall_sk_attach(sk, conn.socket.get());
            Self::hook(&conn);
            bindings::squall_bh_unlock_sock(sk);
        }
        conn.serve_now(if refused { EV_ABORT } else { events });
        Ok(if refused { Taken::Refused } else { Taken::Kept })
    }

    /// Starts connecting to `addr`; the session gets `CONNECTED` or `closed`.
    ///
    /// No socket's lock is held. The session's deadline is `timeout` milliseconds from now.
    pub(crate) fn connect(
        addr: &SocketAddr,
        session: S,
        hooks: &'static Hooks<S>,
        timeout: u32,
        _: Softirq<'_>,
    ) -> Result<ARef<Self>> {
        let conn = Self::new(|socket| {
            // SAFETY: `socket` is zeroed and lives as long as the connection.
            let sk = NonNull::new(unsafe {
                bindings::squall_sk_create(bindings::squall_init_net(), addr.family(), socket)
            });
            Ok((sk.ok_or(ENOMEM)?, session, hooks))
        })?;
        let sk = conn.sk.as_ptr();
        // SAFETY: A fresh socket, unlocked; we are in softirq and hold no other socket's lock.
        unsafe { bindings::squall_bh_lock_sock(sk) };
        conn.account.enter();
        // SAFETY: The lock is held, and there is no other reference to what it guards, nor will TCP's callbacks make one.
        let locked = unsafe { &mut *conn.locked.get() };
        locked.control.connecting = true;
        // SAFETY: The lock is held; the callbacks are not installed.
        unsafe {
            Self::hook(&conn);
            bindings::squall_sk_keepalive(sk, sysctl::tcp_keepalive_ms());
        }
        // SAFETY: The lock is held and no process knows the socket; the address is one of its
        // family.
        let result = kernel::error::to_result(unsafe {
            bindings::squall_sk_connect(sk, addr.as_ptr(), addr.size())
        });
        let session = if result.is_ok() {
            conn.arm(&mut locked.control, Moment::now().after_ms(timeout));
            locked.control.deadline = locked.control.armed;
            None
        } else {
            locked.control.released = true;
            // SAFETY: The lock is held.
            unsafe { bindings::squall_sk_disconnect(sk) };
            Some(conn.destroy(locked))
        };
        conn.account.exit();
        // SAFETY: Taken above.
        unsafe { bindings::squall_bh_unlock_sock(sk) };
        drop(session);
        result.map(|()| conn)
    }

    /// Posts events and has the connection served soon, on this CPU. Any context.
    pub(crate) fn post(&self, events: Events) {
        let old = self.raise(events | EV_SCHEDULED);
        if old & EV_SCHEDULED == 0 {
            self.inc_ref();
            // SAFETY: The bit was clear, so the node is on no list; it is ours until served.
            // INVARIANT: The reference was just taken.
            unsafe { bindings::squall_run_kick(self.run.get()) };
        }
    }

    /// Says whether one of these events was posted and not been served yet. Any context.
    pub(crate) fn is_posted(&self, events: Events) -> bool {
        Events::from_bits(self.events.load(Relaxed)) & events != 0
    }

    /// Sets bits of `events`; returns what was there.
    pub(super) fn raise(&self, events: Events) -> Events {
        let mut old = self.events.load(Relaxed);
        loop {
            match self.events.cmpxchg(old, old | events.bits(), Full) {
                Ok(old) => return Events::from_bits(old),
                Err(now) => old = now,
            }
        }
    }

    /// Says whether the connection is closed or closing, and takes nothing any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.inbox.lock().queue.is_closed()
    }

    /// Has events served along with the next that are posted. Any context.
    pub(crate) fn note(&self, events: Events) {
        self.raise(events);
    }

    /// Says whether the peer has sent its FIN, and everything before it has come. May be called with another
    /// connection's lock held.
    pub(crate) fn fin_received(&self) -> bool {
        // SAFETY: The socket is there as long as the connection is. This reads one bit of its flags, at once.
        unsafe { bindings::squall_sk_fin_received(self.sk.as_ptr()) }
    }

    /// Says whether the receiver holds senders back: its queue is full, or has been, and not become short again
    /// since.
    pub(crate) fn holds_back(&self) -> bool {
        let inbox = self.inbox.lock();
        inbox.waiter.is_some() || inbox.queue.is_full(self.queue_high(self))
    }

    /// Puts `bytes` behind what is queued to be sent, and `mail` into the inbox, or neither.
    ///
    /// The caller posts. Softirq; may be called with another connection's lock held.
    pub(crate) fn deliver(
        &self,
        bytes: &mut OutQueue,
        mail: Option<S::Mail>,
    ) -> Result<(), Undelivered<Option<S::Mail>>> {
        let mut inbox = self.inbox.lock();
        if inbox.queue.is_closed() || (mail.is_some() && inbox.mail.is_some()) {
            return Err(Undelivered(mail));
        }
        if inbox.queue.append_queue(bytes).is_err() {
            stats::inc(Counter::NoMemory);
            return Err(Undelivered(mail));
        }
        if mail.is_some() {
            inbox.mail = mail;
        }
        Ok(())
    }

    /// Posts events to every connection. Process context: takes as long as there are connections.
    pub(crate) fn post_all(events: Events) {
        /// Posts to one connection.
        ///
        /// # Safety
        ///
        /// `entry` is on the list of connections, whose lock is held.
        unsafe extern "C" fn post<S: Session>(entry: *mut bindings::list_head, events: u32) {
            // SAFETY: What is on the list is the field of a connection that is not gone yet, and so
            // is referred to by its socket.
            let conn = unsafe { &*Conn::<S>::of_registry(entry) };
            conn.post(Events::from_bits(events));
        }
        // SAFETY: The function takes no lock.
        unsafe { bindings::squall_registry_each(Some(post::<S>), events.bits()) };
    }

    /// Has every connection ended, without a FIN. Process context.
    pub(super) fn abort_all() {
        Self::post_all(EV_ABORT);
    }

    /// Returns the connection of a registry entry.
    ///
    /// # Safety
    ///
    /// `entry` is the field `registry` of a connection.
    pub(super) unsafe fn of_registry(entry: *mut bindings::list_head) -> *const Self {
        let field: *mut Opaque<bindings::list_head> = entry.cast();
        // SAFETY: By the caller's promise.
        unsafe { kernel::container_of!(field, Self, registry) }
    }
}
