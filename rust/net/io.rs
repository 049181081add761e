// SPDX-License-Identifier: GPL-2.0

//! What a session may do with its socket while it holds the lock: [`Io`].

use super::{
    addr,
    bindings,
    conn::{
        Conn,
        Control,
        Fin,
        Hooks,
        Pause,
        Session, //
    },
    events::{
        Events,
        EV_TX,
        RESUME, //
    },
    memory,
    queue::{
        NoMemory,
        OutQueue, //
    },
    rx::{
        self,
        Spliced,
        Stop,
        Watch, //
    },
    softirq::Softirq,
    sysctl,
    time::Moment, //
};

/// A connection's socket, while its lock is held in softirq and no process owns it.
pub(crate) struct Io<'a, S: Session> {
    pub(super) conn: &'a Conn<S>,
    pub(super) control: &'a mut Control<S>,
    /// The hook was called from inside that of another connection, which pushed to this one.
    pub(super) pushed: bool,
}

impl<'a, S: Session> Io<'a, S> {
    /// Returns the proof of what this is one of, too.
    #[inline]
    pub(crate) fn softirq(&self) -> Softirq<'a> {
        // SAFETY: `Io` exists in softirq only, and hooks are called with one that lives as long as `'a`, which does not outlive the call.
        unsafe { Softirq::assume() }
    }
}

impl<S: Session> Io<'_, S> {
    /// Returns the connection.
    pub(crate) fn conn(&self) -> &Conn<S> {
        self.conn
    }

    /// Has another connection served with `events`: at once if its lock is free, else soon.
    ///
    /// From inside a hook that was called for a push it is soon in any case: pushes go one deep, whatever hooks do.
    pub(crate) fn push(&self, to: &Conn<S>, events: Events) {
        match self.pushed {
            true => to.post(events | EV_TX),
            false => to.try_serve(events, true),
        }
    }

    /// Gives the connection's events another meaning.
    pub(crate) fn set_hooks(&mut self, hooks: &'static Hooks<S>) {
        self.control.hooks = hooks;
    }

    /// Returns the received, unconsumed bytes at `offset`, as far as they are contiguous.
    ///
    /// Empty also where there are bytes that may change, because a process of this host sends them by
    /// `sendfile()` or the like: [`Self::copy`] has them. Bytes that were returned once can be of that
    /// kind later, when TCP has put others into the same buffer; but those do not change.
    pub(crate) fn peek(&self, offset: u32) -> &[u8] {
        rx::peek(self.conn.sk, offset, self)
    }

    /// Copies received, unconsumed bytes from `offset` on to the front of `buffer`; returns how many.
    pub(crate) fn copy(&self, offset: u32, buffer: &mut [u8]) -> usize {
        rx::copy(self.conn.sk, offset, buffer)
    }

    /// Drops the first `count` bytes of what was received, or all if there are fewer.
    pub(crate) fn consume(&mut self, count: u32) {
        self.control.received_at = Moment::now();
        rx::skip(self.conn.sk, count);
    }

    /// Has what is consumed next acknowledged along with the answer to it: by a segment of its own only if there is none within
    /// TCP's time for that, some 40 ms. Not for a peer that has more to send before it expects an answer: it may wait for the
    /// acknowledgement, as RFC 896 (Nagle) has it.
    pub(crate) fn acknowledge_by_answer(&mut self) {
        // SAFETY: `Io` exists while the lock is held.
        unsafe { bindings::squall_sk_delay_ack(self.conn.sk.as_ptr()) };
    }

    /// Moves up to `max` received bytes to another connection, past who looks; see [`Spliced`].
    pub(crate) fn splice<W: Watch>(&mut self, to: &Conn<S>, max: u64, watch: &mut W) -> Spliced {
        self.splice_behind(0, to, max, watch)
    }

    /// As [`Self::splice`], behind `skip` received bytes, which are consumed in any case.
    pub(crate) fn splice_behind<W: Watch>(
        &mut self,
        skip: u32,
        to: &Conn<S>,
        max: u64,
        watch: &mut W,
    ) -> Spliced {
        let spliced = rx::splice(self.conn, skip, to, max, watch, self.softirq());
        if spliced.bytes > 0 || skip > 0 {
            self.control.received_at = Moment::now();
        }
        self.control.pause = match spliced.stop {
            Stop::Full => Pause::Waits,
            Stop::NoMemory => {
                // Nobody will call when there is memory again.
                self.conn.arm(self.control, Moment::now().after_ticks(2));
                Pause::Retry
            }
            Stop::Done | Stop::Dead | Stop::Unreadable => Pause::Not,
        };
        spliced
    }

    /// Notes that bytes are left unread until something has come that the session waits for: a connection that the peer
    /// resets meanwhile stays until they are read.
    pub(crate) fn pause(&mut self) {
        self.control.pause = Pause::Waits;
    }

    /// Notes that the session reads on.
    pub(crate) fn resume(&mut self) {
        self.control.pause = Pause::Not;
    }

    /// Says whether TCP has closed the connection: what is not consumed is all that will ever come, and nothing can be
    /// sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.control.fin == Fin::Closed
    }

    /// Returns the number of received bytes that were not consumed.
    pub(crate) fn unread(&self) -> u32 {
        // SAFETY: `Io` exists while the lock is held.
        unsafe { bindings::squall_sk_unread(self.conn.sk.as_ptr()) }
    }

    /// Returns about how many bytes can still come before something is consumed.
    pub(crate) fn room(&self) -> u32 {
        // SAFETY: `Io` exists while the lock is held.
        unsafe { bindings::squall_sk_room(self.conn.sk.as_ptr()) }
    }

    /// Says whether the peer has sent its FIN: what is not consumed is all that will ever come.
    pub(crate) fn fin_received(&self) -> bool {
        // SAFETY: `Io` exists while the lock is held.
        unsafe { bindings::squall_sk_fin_received(self.conn.sk.as_ptr()) }
    }

    /// Says whether the peer has sent its FIN and everything before it is consumed.
    pub(crate) fn eof(&self) -> bool {
        self.fin_received() && self.unread() == 0
    }

    /// Queues bytes to be sent on this connection.
    ///
    /// Does nothing once the session is over.
    pub(crate) fn send(&mut self, bytes: &mut OutQueue) -> Result<(), NoMemory> {
        if self.control.released {
            return Ok(());
        }
        self.conn.inbox.lock().queue.append_queue(bytes)?;
        self.conn.post(EV_TX);
        Ok(())
    }

    /// Says whether this connection's own queue is full; if so, `RESUME` is posted when it is not.
    pub(crate) fn wait_for_room(&mut self) -> bool {
        self.wait_for_room_of(self.conn)
    }

    /// Says whether the queue of `to`, for which nobody else waits, is full; if so, `RESUME` is posted to this connection
    /// when it is not, or `to` is closed. The caller pushes what it has queued.
    pub(crate) fn wait_for_room_of(&self, to: &Conn<S>) -> bool {
        let mut inbox = to.inbox.lock();
        let full = inbox.queue.is_full(to.queue_high(self.conn));
        if full {
            inbox.waiter = Some(self.conn.into());
        }
        full
    }

    /// Says whether there is something queued that was not handed to TCP.
    pub(crate) fn unsent(&self) -> bool {
        !self.conn.inbox.lock().queue.is_empty()
    }

    /// Sets a flag that others can read, by [`Conn::flag`].
    pub(crate) fn set_flag(&mut self, on: bool) {
        self.conn.account.set_flag(on);
    }

    /// Takes the mail.
    pub(crate) fn take_mail(&mut self) -> Option<S::Mail> {
        self.conn.inbox.lock().mail.take()
    }

    /// Takes nothing from others any more. Returns mail that nobody has looked at; what was queued with it is not sent.
    pub(crate) fn shut_inbox(&mut self) -> Option<S::Mail> {
        let mut inbox = self.conn.inbox.lock();
        inbox.queue.close();
        let mail = inbox.mail.take();
        if mail.is_some() {
            inbox.queue.clear();
        }
        mail
    }

    /// Sends a FIN behind what is queued; reading goes on.
    pub(crate) fn finish(&mut self) {
        if self.control.fin == Fin::Open {
            self.control.fin = Fin::Wanted;
        }
    }

    /// Ends the connection with a reset. The session is over.
    pub(crate) fn reset(&mut self) {
        self.control.reset = true;
        self.end();
    }

    /// Ends the connection with a reset as soon as the peer has acknowledged all that it is sent. The session is over.
    pub(crate) fn reset_behind(&mut self) {
        if self.control.fin != Fin::Closed {
            self.control.fin = Fin::Reset;
        }
        self.end();
        self.set_deadline(sysctl::linger_timeout_ms());
    }

    /// Ends the connection gracefully. The session is over.
    pub(crate) fn release(&mut self) {
        self.finish();
        self.end();
        self.set_deadline(sysctl::linger_timeout_ms());
    }

    /// Ends a connection on which nothing is under way, so that no TIME_WAIT keeps its port: by a reset, unless the
    /// peer has sent its FIN, or something is unread or not acknowledged. Then, as [`Self::release`]. The session
    /// is over.
    pub(crate) fn discard(&mut self) {
        // SAFETY: `Io` exists while the lock is held.
        let acked = unsafe { bindings::squall_sk_write_queue_empty(self.conn.sk.as_ptr()) };
        if !acked || self.unsent() || self.unread() > 0 || self.fin_received() {
            return self.release();
        }
        self.reset();
    }

    fn end(&mut self) {
        self.control.released = true;
        let mut inbox = self.conn.inbox.lock();
        inbox.queue.close();
        let mail = inbox.mail.take();
        let waiter = inbox.waiter.take();
        drop(inbox);
        drop(mail);
        if let Some(waiter) = waiter {
            waiter.post(RESUME);
        }
        self.conn.post(EV_TX);
    }

    /// Calls `timer` in `ms` milliseconds, unless the deadline is set anew before.
    pub(crate) fn set_deadline(&mut self, ms: u32) {
        let when = Moment::now().after_ms(ms);
        self.control.deadline = Some(when);
        self.conn.arm(self.control, when);
    }

    /// Calls `timer` at `when`, unless that is to happen earlier.
    pub(crate) fn set_deadline_before(&mut self, when: Moment) {
        if self.control.deadline.is_none_or(|at| when.is_before(at)) {
            self.control.deadline = Some(when);
            self.conn.arm(self.control, when);
        }
    }

    /// Says whether the session is over.
    pub(crate) fn is_released(&self) -> bool {
        self.control.released
    }

    /// Returns when TCP last took bytes, or this found that the peer had acknowledged some since the call before.
    pub(crate) fn taken_at(&mut self) -> Moment {
        self.conn.look_at_acked(self.control);
        self.control.sent_at
    }

    /// Says whether a deadline is set.
    pub(crate) fn has_deadline(&self) -> bool {
        self.control.deadline.is_some()
    }

    /// Forgets the deadline.
    pub(crate) fn clear_deadline(&mut self) {
        self.control.deadline = None;
    }

    /// Returns when bytes were last consumed, or taken by TCP.
    pub(crate) fn activity(&self) -> Moment {
        self.control.received_at.later(self.control.sent_at)
    }

    /// Returns when bytes were last consumed.
    pub(crate) fn received_at(&self) -> Moment {
        self.control.received_at
    }

    /// Has TCP end the connection with `ETIMEDOUT` if the peer acknowledges nothing, or takes nothing, for
    /// `ms` milliseconds while there is something to send; 0 for TCP's own patience. RFC 5482.
    pub(crate) fn set_user_timeout(&mut self, ms: u32) {
        let ms = i32::try_from(ms).unwrap_or(i32::MAX);
        // SAFETY: `Io` exists while the lock is held. It fails for negative numbers only.
        let _ = unsafe { bindings::tcp_sock_set_user_timeout(self.conn.sk.as_ptr(), ms) };
    }

    /// Has this end of a tunnel keep to its part of `kib` KiB that the tunnel may hold; 0 for what a connection may.
    pub(crate) fn limit_memory(&mut self, kib: u32) {
        if kib > 0 {
            let parts = memory::parts(kib);
            // SAFETY: `Io` exists while the lock is held.
            unsafe {
                bindings::squall_sk_buffers(self.conn.sk.as_ptr(), parts.receive, parts.send)
            };
        }
    }

    /// Returns the peer's address, without the port.
    pub(crate) fn peer(&self) -> core::net::IpAddr {
        addr::peer(self.conn.sk).ip()
    }

    /// Returns the peer's address and port.
    pub(crate) fn peer_addr(&self) -> core::net::SocketAddr {
        addr::peer(self.conn.sk)
    }
}
