// SPDX-License-Identifier: GPL-2.0

//! How a connection is served: TCP's callbacks, the BH work's visits, and the way to the end.
//!
//! Context: softirq. `*_callback` are called by TCP with the socket's lock held in one of its two
//! forms; the rest takes the spinlock itself or runs under it. See `conn.rs` for the rules.

use super::{
    bindings,
    conn::{
        Conn,
        Control,
        Fin,
        Inbox,
        Io,
        Locked,
        Pause,
        Session, //
    },
    events::{
        Events,
        CONNECTED,
        EV_ABORT,
        EV_RX,
        EV_SCHEDULED,
        EV_SHED,
        EV_STATE,
        EV_TIMER,
        EV_TX,
        RESUME, //
    },
    lock::BhGuard,
    memory::Space,
    queue::OutQueue,
    rx,
    stats::{
        self,
        Counter, //
    },
    sysctl,
    time::Moment,
    tx, //
};
use core::{
    mem,
    ptr::NonNull, //
};
use kernel::{
    sync::{
        aref::ARef,
        atomic::ordering::Full, //
    },
    types::Opaque, //
};

/// How many times `linger_timeout` a peer may go on to send what nobody reads any more.
const LINGER_ROUNDS: u32 = 6;

/// How often a FIN or a reset is put off because there is no memory for it; some seconds in all.
const CONTROL_TRIES: u16 = 1250;

impl<S: Session> Conn<S> {
    /// Serves the connection whose node this is; consumes the reference that came with it.
    ///
    /// # Safety
    ///
    /// `node` was on a run list and is on none now. Softirq, no lock held.
    pub(super) unsafe fn serve(node: *mut bindings::llist_node) {
        // SAFETY: `run` is the first field of the `repr(C)` struct, and the reference is ours.
        let conn = unsafe { ARef::from_raw(NonNull::new_unchecked(node.cast::<Self>())) };
        conn.serve_one();
    }

    fn serve_one(&self) {
        // Taking the events clears EV_SCHEDULED: from here on the node may be on a list again.
        let events = Events::from_bits(self.events.xchg(0, Full)).without(EV_SCHEDULED);
        super::count_context();
        // SAFETY: `sk` is alive by the invariant; softirq, and no other socket's lock is held.
        unsafe { bindings::squall_bh_lock_sock(self.sk.as_ptr()) };
        let mut remains = None;
        // SAFETY: The lock is held, and no process has the socket if it is not owned.
        if unsafe { bindings::squall_sock_owned(self.sk.as_ptr()) } {
            stats::inc(Counter::EntriesOwned);
            self.put_off(events);
        } else {
            self.account.enter();
            // SAFETY: The lock is held and the socket not owned, so nobody else is in here; what TCP calls from inside our
            // own calls finds the mark.
            let locked = unsafe { &mut *self.locked.get() };
            self.serve_locked(locked, events, false, &mut remains);
            self.account.exit();
        }
        // SAFETY: Taken above.
        unsafe { bindings::squall_bh_unlock_sock(self.sk.as_ptr()) };
        // What the session refers to goes without the lock.
        drop(remains);
    }

    /// Has the connection served with `events`: at once if its lock is free, else soon. Softirq, no lock held.
    pub(super) fn serve_now(&self, events: Events) {
        self.try_serve(events, false);
    }

    /// As [`Self::serve_now`]; `pushed` from inside a hook, with that connection's lock held.
    ///
    /// The two cannot wait for each other, since this one is only tried. What was posted stays for the BH work.
    pub(super) fn try_serve(&self, events: Events, pushed: bool) {
        // SAFETY: `sk` is alive by the invariant; softirq.
        if !unsafe { bindings::squall_bh_trylock_sock(self.sk.as_ptr()) } {
            return self.post(events | EV_TX);
        }
        super::count_context();
        self.account.enter();
        // SAFETY: The lock is held and the socket not owned, so nobody else is in here: a callback of
        // this socket that is under way would have the lock, and one that begins finds the mark.
        let locked = unsafe { &mut *self.locked.get() };
        let mut remains = None;
        self.serve_locked(locked, events, pushed, &mut remains);
        self.account.exit();
        // SAFETY: Taken above.
        unsafe { bindings::squall_bh_unlock_sock(self.sk.as_ptr()) };
        drop(remains);
    }

    /// A process owns the socket: come back in a tick. Spinning would never end on this CPU.
    fn put_off(&self, events: Events) {
        self.raise(events);
        self.start_timer(Moment::now().after_ticks(1));
    }

    /// Does what `events` ask for; the session is among what `remains` if the connection is gone afterwards. The caller
    /// drops that after unlocking.
    ///
    /// `pushed` from inside a hook of another connection: then hooks that are called here push to none.
    fn serve_locked(
        &self,
        locked: &mut Locked<S>,
        events: Events,
        pushed: bool,
        remains: &mut Option<Remains<S>>,
    ) {
        if locked.control.gone {
            return;
        }
        if events & EV_ABORT != 0 {
            match self.may_leave(&locked.control) {
                true => locked.control.fin = Fin::Left,
                false => locked.control.reset = true,
            }
        }
        if events & EV_SHED != 0 {
            self.shed(&mut locked.control);
        }
        if events & EV_TIMER != 0 {
            // Before the hooks, which may arm it anew.
            locked.control.armed = None;
        }
        // The server may have sent its FIN by now.
        let pending = [
            bindings::SQUALL_TCP_SYN_SENT,
            bindings::SQUALL_TCP_SYN_RECV,
            bindings::SQUALL_TCP_CLOSE,
        ];
        if locked.control.connecting && !pending.contains(&self.state()) {
            locked.control.connecting = false;
            locked.control.deadline = None;
            self.call(locked, pushed, |session, io| {
                (io.control.hooks.events)(session, io, CONNECTED)
            });
        }
        if !locked.control.connecting && !locked.control.reset {
            let told = events.told();
            if !told.is_none() {
                self.call(locked, pushed, |session, io| {
                    (io.control.hooks.events)(session, io, told)
                });
            }
            if events & (EV_RX | EV_STATE) != 0 || locked.control.pause == Pause::Retry {
                locked.control.pause = Pause::Not;
                self.call(locked, pushed, |session, io| {
                    (io.control.hooks.data_ready)(session, io)
                });
            }
        }
        if events & EV_TIMER != 0 {
            let control = &locked.control;
            let closed = self.state() == bindings::SQUALL_TCP_CLOSE;
            if !control.connecting && !control.reset && !closed {
                // What can go out now is not late.
                self.flush(&mut locked.control);
            }
            self.timer_fired(locked, pushed);
        }
        self.settle(locked, pushed, remains);
        self.settle_account(locked);
    }

    /// Calls a hook unless the session is over.
    fn call(
        &self,
        locked: &mut Locked<S>,
        pushed: bool,
        hook: impl FnOnce(&mut S, &mut Io<'_, S>),
    ) {
        if locked.control.released {
            return;
        }
        let mut io = Io {
            conn: self,
            control: &mut locked.control,
            pushed,
        };
        hook(&mut locked.session, &mut io);
    }

    fn timer_fired(&self, locked: &mut Locked<S>, pushed: bool) {
        let Some(deadline) = locked.control.deadline else {
            return;
        };
        if Moment::now().is_before(deadline) {
            self.arm(&mut locked.control, deadline);
            return;
        }
        locked.control.deadline = None;
        if locked.control.released {
            self.lingered(&mut locked.control);
        } else {
            self.call(locked, pushed, |session, io| {
                (io.control.hooks.timer)(session, io)
            });
        }
    }

    /// Notes whether the peer has acknowledged something since this was called last: then it takes what it is sent.
    pub(super) fn look_at_acked(&self, control: &mut Control<S>) {
        // SAFETY: Who has `control` holds the lock.
        let acked = unsafe { bindings::squall_sk_acked(self.sk.as_ptr()) };
        if acked != control.acked {
            control.acked = acked;
            control.sent_at = Moment::now();
        }
    }

    /// Says whether all that is left to do is to wait for the peer's FIN: its TCP has acknowledged everything, and nobody
    /// is there to read. A reset could make it throw away what its process has not read yet.
    fn may_leave(&self, control: &Control<S>) -> bool {
        let is_over = control.released && control.fin == Fin::Sent && !control.reset;
        is_over && self.state() == bindings::SQUALL_TCP_FIN_WAIT2
    }

    /// `linger_timeout` has passed since the release, or since this was called last.
    ///
    /// A peer that still acknowledges what it was sent gets the rest, however long that takes; one
    /// that does not has `send_timeout`. When all is acknowledged the peer's FIN is due: one that still sends has some
    /// more time, as a reset would be the answer once TCP waits alone.
    fn lingered(&self, control: &mut Control<S>) {
        let (now, linger) = (Moment::now(), sysctl::linger_timeout_ms());
        if self.may_leave(control) {
            let all = control
                .sent_at
                .after_ms(linger.saturating_mul(LINGER_ROUNDS));
            let quiet = control.received_at.after_ms(linger);
            let until = if quiet.is_before(all) { quiet } else { all };
            if now.is_before(until) {
                control.deadline = Some(until);
                self.arm(control, until);
            } else {
                stats::inc(Counter::LingerTimeouts);
                control.fin = Fin::Left;
            }
            return;
        }
        // SAFETY: The lock is held.
        let all_acked = unsafe { bindings::squall_sk_write_queue_empty(self.sk.as_ptr()) };
        if all_acked && self.inbox.lock().queue.is_empty() {
            // The reset is due, or there was no memory for a FIN.
            control.reset = true;
            return;
        }
        self.look_at_acked(control);
        if now.is_before(control.sent_at.after_ms(sysctl::send_timeout_ms())) {
            let again = now.after_ms(linger);
            control.deadline = Some(again);
            self.arm(control, again);
        } else {
            stats::inc(Counter::SendTimeouts);
            control.reset = true;
        }
    }

    /// Notes that TCP has closed the connection, by both FINs or by an error; what has come before that can still be read.
    fn note_closed(&self, locked: &mut Locked<S>, pushed: bool) {
        let control = &mut locked.control;
        self.note_error(control);
        if control.fin == Fin::Closed {
            return;
        }
        control.fin = Fin::Closed;
        // From here on nothing can be delivered: what a session does about its end relies on it.
        let mut inbox = self.inbox.lock();
        inbox.queue.close();
        inbox.queue.clear();
        let waiter = inbox.waiter.take();
        drop(inbox);
        if let Some(waiter) = waiter {
            waiter.post(RESUME);
        }
        // While a process owned the socket nobody looked, and the FIN may be among what came.
        self.call(locked, pushed, |session, io| {
            (io.control.hooks.data_ready)(session, io)
        });
    }

    /// Takes the socket's error; the first one says why, others only that it is closed.
    fn note_error(&self, control: &mut Control<S>) {
        // SAFETY: Who has `control` holds the lock.
        let error = unsafe { bindings::squall_sk_error(self.sk.as_ptr()) };
        if error != 0 && control.error == 0 {
            control.error = error.saturating_neg();
        }
    }

    /// Says whether the session of a closed connection still has to read. TCP acknowledged it, so it counts as received,
    /// whether FINs or a reset of the peer's came behind it.
    fn is_unread(&self, control: &Control<S>) -> bool {
        if control.reset || control.released {
            return false;
        }
        // SAFETY: Who has `control` holds the lock.
        let unread = unsafe { bindings::squall_sk_unread(self.sk.as_ptr()) };
        let waits = control.hooks.reads_on && control.pause != Pause::Not;
        unread > 0 && (control.error == 0 || waits)
    }

    /// Sends what can be sent, and brings the connection to its end if that has come.
    fn settle(&self, locked: &mut Locked<S>, pushed: bool, remains: &mut Option<Remains<S>>) {
        let sk = self.sk.as_ptr();
        let mut closed = self.state() == bindings::SQUALL_TCP_CLOSE;
        if !locked.control.connecting && !locked.control.reset {
            match closed {
                true => self.note_closed(locked, pushed),
                false if locked.control.fin == Fin::Left => {
                    *remains = Some(self.leave(locked));
                    return;
                }
                false => self.flush(&mut locked.control),
            }
        }
        if locked.control.reset && !closed {
            if !self.control_segment(&mut locked.control, true) {
                return;
            }
            stats::inc(Counter::Resets);
            // SAFETY: The lock is held and the socket not owned.
            unsafe { bindings::squall_sk_disconnect(sk) };
            // What ended the connection is known; that this is a reset is no news.
            // SAFETY: The lock is held.
            let _ = unsafe { bindings::squall_sk_error(sk) };
            closed = true;
        }
        if closed {
            self.note_error(&mut locked.control);
            if self.is_unread(&locked.control) {
                return;
            }
            let error = locked.control.error;
            self.inbox.lock().queue.close();
            self.call(locked, pushed, |session, io| {
                (io.control.hooks.closed)(session, io, error)
            });
            *remains = Some(self.destroy(locked));
            return;
        }
        if locked.control.released {
            self.throw_away(&mut locked.control);
            let rest = locked.session.rest();
            let session = mem::replace(&mut locked.session, rest);
            *remains = Some(Remains::session(session));
        }
    }

    /// Sends from the queue, and the FIN behind it, on a connection that TCP has not closed.
    fn flush(&self, control: &mut Control<S>) {
        if let Some(at) = control.tx_not_before {
            if Moment::now().is_before(at) {
                // TCP has called `write_space` from inside the attempt that failed.
                self.arm(control, at);
                return;
            }
            control.tx_not_before = None;
        }
        match tx::flush(self, control.fin == Fin::Sent) {
            Ok(tx::Flushed { sent, retry }) => {
                if sent > 0 {
                    control.sent_now();
                }
                if retry {
                    let at = Moment::now().after_ticks(2);
                    control.tx_not_before = Some(at);
                    self.arm(control, at);
                }
            }
            Err(error) => {
                // The first one says why, others only that it is closed.
                if control.error == 0 {
                    control.error = error;
                }
                control.reset = true;
                return;
            }
        }
        if control.fin == Fin::Reset {
            return self.reset_if_acked(control);
        }
        if control.fin == Fin::Wanted && self.inbox.lock().queue.is_empty() {
            if !self.control_segment(control, false) {
                return;
            }
            control.fin = Fin::Sent;
            stats::inc(Counter::Fins);
            // SAFETY: The lock is held and the socket not owned.
            if !unsafe { bindings::squall_sk_shutdown_send(self.sk.as_ptr()) } {
                // There is no second try at a FIN.
                control.reset = true;
            }
        }
    }

    /// Has the connection reset if the peer has acknowledged everything; if not, this is looked at with each ACK.
    fn reset_if_acked(&self, control: &mut Control<S>) {
        let sk = self.sk.as_ptr();
        // SAFETY: Who has `control` holds the lock.
        let acked = unsafe { bindings::squall_sk_write_queue_empty(sk) };
        if acked && self.inbox.lock().queue.is_empty() {
            control.reset = true;
            return;
        }
        self.account.ends();
        // SAFETY: As above, and the socket is attached.
        unsafe { bindings::squall_sk_wait_space(sk) };
    }

    /// Says whether a reset, or else a FIN, can be sent now; if not, it is tried again soon, but no more than
    /// [`CONTROL_TRIES`] times.
    fn control_segment(&self, control: &mut Control<S>, reset: bool) -> bool {
        // SAFETY: No preconditions.
        if control.tries >= CONTROL_TRIES || unsafe { bindings::squall_can_send_control(reset) } {
            control.tries = 0;
            return true;
        }
        stats::inc(Counter::NoMemory);
        control.tries = control.tries.saturating_add(1);
        self.arm(control, Moment::now().after_ticks(2));
        false
    }

    /// Throws away what the peer still sends.
    fn throw_away(&self, control: &mut Control<S>) {
        // SAFETY: Who has `control` holds the lock.
        if unsafe { bindings::squall_sk_unread(self.sk.as_ptr()) } > 0 {
            control.received_at = Moment::now();
        }
        // Also the FIN.
        rx::skip(self.sk, u32::MAX);
    }

    /// Gives the closed socket back; the caller drops what remains after unlocking.
    pub(super) fn destroy(&self, locked: &mut Locked<S>) -> Remains<S> {
        let remains = self.detach(locked);
        // SAFETY: The lock is held, the socket closed and unhooked.
        unsafe { bindings::squall_sk_release(self.sk.as_ptr()) };
        remains
    }

    /// Leaves the socket to TCP, in FIN_WAIT2; the caller drops what remains after unlocking.
    fn leave(&self, locked: &mut Locked<S>) -> Remains<S> {
        // TCP would answer by a reset that something is unread.
        self.throw_away(&mut locked.control);
        let mut remains = self.detach(locked);
        if let Some(own) = remains.own.take() {
            // The callback takes the reference over.
            let conn = ARef::into_raw(own);
            // SAFETY: By the reference the connection is alive, and the entry is on no list any more.
            unsafe { bindings::squall_close_later(conn.as_ref().registry.get().cast()) };
        }
        remains
    }

    /// Closes a socket that was left to TCP.
    ///
    /// # Safety
    ///
    /// Called in process context for what was given to `squall_close_later()`.
    pub(super) unsafe extern "C" fn close_callback(node: *mut bindings::llist_node) {
        // SAFETY: The node is the field `registry` of a connection, and came with a reference to it.
        let conn = unsafe {
            let conn = Self::of_registry(node.cast()).cast_mut();
            ARef::from_raw(NonNull::new_unchecked(conn))
        };
        // SAFETY: No lock is held, and the socket is unhooked.
        unsafe { bindings::squall_sk_close(conn.sk.as_ptr()) };
    }

    /// Takes the connection from its socket; the caller drops what remains after unlocking.
    fn detach(&self, locked: &mut Locked<S>) -> Remains<S> {
        let sk = self.sk.as_ptr();
        locked.control.gone = true;
        locked.control.released = true;
        // SAFETY: The lock is held, and the socket hooked by us. The user data's reference
        // is taken over by `Remains`.
        let own = unsafe {
            bindings::squall_sk_unhook(sk);
            bindings::squall_registry_del(self.registry.get());
            self.close_account();
            ARef::from_raw(NonNull::from(self))
        };
        // SAFETY: The timer is set up.
        if unsafe { bindings::timer_delete(self.timer.get()) } != 0 {
            // SAFETY: A pending timer comes with a reference; the caller has another.
            drop(unsafe { ARef::from_raw(NonNull::from(self)) });
        }
        let mut remains = Remains::session(mem::take(&mut locked.session));
        remains.close_inbox(self.inbox.lock());
        remains.own = Some(own);
        remains
    }

    fn state(&self) -> u32 {
        // SAFETY: `sk` is alive by the invariant.
        unsafe { bindings::squall_sk_state(self.sk.as_ptr()) as u32 }
    }

    /// Makes the timer fire at `when` or earlier.
    pub(super) fn arm(&self, control: &mut Control<S>, when: Moment) {
        if control.armed.is_none_or(|armed| when.is_before(armed)) {
            control.armed = Some(when);
            self.start_timer(when);
        }
    }

    fn start_timer(&self, when: Moment) {
        // The reference is taken first: the timer may fire at once on another CPU.
        let own: ARef<Self> = self.into();
        // SAFETY: The timer is set up.
        if unsafe { bindings::mod_timer(self.timer.get(), when.jiffies()) } == 0 {
            // INVARIANT: It was not pending and is now.
            mem::forget(own);
        }
    }

    /// Returns the connection of a hooked socket.
    ///
    /// # Safety
    ///
    /// TCP is calling a callback of `sk`, which means that its lock is held in one of its two forms.
    unsafe fn of<'a>(sk: *mut bindings::sock) -> Option<&'a Self> {
        // SAFETY: By the invariant the user data is a reference, dropped only under the lock.
        unsafe { bindings::squall_sk_user_data(sk).cast::<Self>().as_ref() }
    }

    /// There are bytes, or the end of them: reads at once.
    ///
    /// # Safety
    ///
    /// Called by TCP for a socket with the callbacks of this file.
    pub(super) unsafe extern "C" fn data_ready_callback(sk: *mut bindings::sock) {
        // SAFETY: TCP calls.
        let Some(conn) = (unsafe { Self::of(sk) }) else {
            return;
        };
        // SAFETY: The socket is alive.
        if unsafe { bindings::squall_sock_owned(sk) } {
            stats::inc(Counter::EntriesOwned);
            conn.post(EV_RX);
            return;
        }
        super::count_context();
        if conn.account.is_entered() {
            // TCP is in a call of ours, and a BPF program that it ran set SO_RCVLOWAT, or the like.
            stats::inc(Counter::EntriesNested);
            conn.post(EV_RX);
            return;
        }
        conn.account.enter();
        // SAFETY: TCP holds the spinlock in softirq and no process owns the socket. Whoever of this module had a
        // reference would have left the mark, which every place does that makes one: while a reference exists the mark
        // is there.
        conn.read_locked(unsafe { &mut *conn.locked.get() });
        conn.account.exit();
    }

    /// Has the session read what has come.
    fn read_locked(&self, locked: &mut Locked<S>) {
        if locked.control.connecting || locked.control.gone || locked.control.reset {
            return;
        }
        self.call(locked, false, |session, io| {
            (io.control.hooks.data_ready)(session, io)
        });
        self.settle_account(locked);
        let control = &locked.control;
        let ends = control.released || control.reset || control.fin == Fin::Wanted;
        if ends || control.pause == Pause::Retry {
            self.post(EV_TX);
        }
    }

    /// There may be room to send.
    ///
    /// # Safety
    ///
    /// Called by TCP for a socket with the callbacks of this file.
    pub(super) unsafe extern "C" fn write_space_callback(sk: *mut bindings::sock) {
        // SAFETY: TCP calls.
        let Some(conn) = (unsafe { Self::of(sk) }) else {
            return;
        };
        let may_enter = || {
            // SAFETY: The socket is alive.
            !conn.account.is_entered() && !unsafe { bindings::squall_sock_owned(sk) }
        };
        match conn.space() {
            Space::Nothing => {}
            Space::Counts if may_enter() => {
                conn.account.enter();
                // SAFETY: As in data_ready_callback().
                conn.settle_account(unsafe { &mut *conn.locked.get() });
                conn.account.exit();
            }
            Space::Counts | Space::Wanted => conn.post(EV_TX),
        }
    }

    /// The state or the error has changed.
    ///
    /// # Safety
    ///
    /// Called by TCP for a socket with the callbacks of this file.
    pub(super) unsafe extern "C" fn state_callback(sk: *mut bindings::sock) {
        // SAFETY: TCP calls.
        if let Some(conn) = unsafe { Self::of(sk) } {
            conn.post(EV_STATE);
        }
    }

    /// The timer has fired.
    ///
    /// # Safety
    ///
    /// Called for the timer of a connection.
    pub(super) unsafe extern "C" fn timer_callback(timer: *mut bindings::timer_list) {
        let field: *mut Opaque<bindings::timer_list> = timer.cast();
        // SAFETY: The timer is the field of a connection, and came with a reference to it.
        let conn = unsafe {
            let conn: *mut Self = kernel::container_of!(field, Self, timer);
            ARef::from_raw(NonNull::new_unchecked(conn))
        };
        stats::inc(Counter::Timers);
        conn.post(EV_TIMER);
    }
}

/// What a connection leaves, to be dropped when its lock is released: dropping it may free other
/// connections.
pub(super) struct Remains<S: Session> {
    _session: S,
    _mail: Option<S::Mail>,
    waiter: Option<ARef<Conn<S>>>,
    _queue: OutQueue,
    own: Option<ARef<Conn<S>>>,
}

impl<S: Session> Remains<S> {
    fn session(session: S) -> Self {
        Self {
            _session: session,
            _mail: None,
            waiter: None,
            _queue: OutQueue::new(),
            own: None,
        }
    }

    fn close_inbox(&mut self, mut inbox: BhGuard<'_, Inbox<S>>) {
        self._mail = inbox.mail.take();
        self.waiter = inbox.waiter.take();
        self._queue = mem::take(&mut inbox.queue);
        inbox.queue.close();
    }
}

impl<S: Session> Drop for Remains<S> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.post(RESUME);
        }
    }
}
