// SPDX-License-Identifier: GPL-2.0

//! Sending what is queued.
//!
//! Context: softirq, the socket's spinlock held, not owned; never from inside one of TCP's callbacks
//! of this socket. `tcp_sendmsg_locked()` does not sleep here because of `MSG_DONTWAIT` and the
//! socket's `GFP_ATOMIC`, and `MSG_NOSIGNAL` keeps it from signalling the interrupted task.

use super::{
    bindings,
    conn::{
        Conn,
        Locked,
        Session, //
    },
    events::RESUME,
    queue::{
        Fragment,
        FRAGMENT_MAX,
        GATHER, //
    },
    softirq::Softirq,
    stats::{
        self,
        Counter, //
    },
    sysctl, //
};
use core::mem::MaybeUninit;
use kernel::error::code::EAGAIN;

/// Pieces handed to TCP in one call: as many as an skb has frags.
const PIECES: usize = 16;

/// What [`flush`] did.
pub(super) struct Flushed {
    /// Bytes that TCP took.
    pub(super) sent: usize,
    /// TCP took not all, and will not call when it can: memory was not to be had.
    pub(super) retry: bool,
}

/// Hands the queue to TCP as far as it takes it; throws it away if the FIN is sent already.
///
/// Fails with the (positive) errno that ended the connection.
pub(super) fn flush<S: Session>(conn: &Conn<S>, fin_sent: bool) -> Result<Flushed, i32> {
    let mut flushed = Flushed {
        sent: 0,
        retry: false,
    };
    let mut inbox = conn.inbox.lock();
    if fin_sent {
        inbox.queue.clear();
    }
    if inbox.queue.is_empty() {
        return Ok(flushed);
    }
    drop(inbox);
    send_queue(conn, &mut flushed)?;
    Ok(flushed)
}

/// Hands a queue to TCP that is not empty.
#[inline(never)] // Mostly there is nothing to send, and then no need to make room for the pieces.
fn send_queue<S: Session>(conn: &Conn<S>, flushed: &mut Flushed) -> Result<(), i32> {
    let mut room = [const { MaybeUninit::uninit() }; PIECES];
    loop {
        let (pieces, filled) = conn.inbox.lock().queue.fill(&mut room);
        if filled.bytes == 0 {
            break;
        }
        if filled.bytes < GATHER as usize && is_blocked(conn) {
            // SAFETY: The lock is held.
            unsafe { bindings::squall_sk_wait_space(conn.sk.as_ptr()) };
            conn.account.waits();
            break;
        }
        // SAFETY: The lock is held, the socket attached and not owned. The pieces are pages that the
        // queue keeps until `advance()`: only we take from it, and we hold the socket's lock.
        let sent = match unsafe { send(conn, pieces, filled.bytes, filled.more) } {
            Ok(sent) => sent,
            Err(Unsent::Space) => {
                conn.account.waits();
                break;
            }
            Err(Unsent::Memory) => {
                conn.account.waits();
                flushed.retry = true;
                break;
            }
            Err(Unsent::Dead(error)) => return Err(error),
        };
        flushed.sent = flushed.sent.saturating_add(sent);
        let mut inbox = conn.inbox.lock();
        inbox.queue.advance(sent);
        // Whoever found the queue full may go on when there is room again.
        let has_room = !inbox.queue.is_full(sysctl::queue_low() as usize);
        let waiter = inbox.waiter.take_if(|_| has_room);
        drop(inbox);
        if let Some(waiter) = waiter {
            stats::inc(Counter::Resumed);
            waiter.post(RESUME);
        }
        if !filled.more && sent == filled.bytes {
            break;
        }
    }
    if flushed.sent > 0 {
        stats::add(Counter::TxBytes, flushed.sent as u64);
    }
    Ok(())
}

/// Says whether small pieces had better be gathered in the queue: TCP would only keep them, each with the page that it
/// is in, of which TCP counts no more than the piece.
fn is_blocked<S: Session>(conn: &Conn<S>) -> bool {
    // SAFETY: The lock is held.
    unsafe { bindings::squall_sk_is_blocked(conn.sk.as_ptr()) }
}

/// Why TCP took nothing.
enum Unsent {
    /// It holds as much as it may; it will call when there is space.
    Space,
    /// Memory was not to be had; it will not call.
    Memory,
    /// The connection is closed, by this (positive) errno.
    Dead(i32),
}

/// Hands `pieces`, `bytes` in all, to TCP; returns how many bytes it took. `more`: others follow at
/// once.
///
/// # Safety
///
/// The socket's lock is held in softirq, the socket is attached and not owned. Each of the pieces is a
/// range of a page that may be sent and is alive.
unsafe fn send<S: Session>(
    conn: &Conn<S>,
    pieces: &[bindings::bio_vec],
    bytes: usize,
    more: bool,
) -> Result<usize, Unsent> {
    let sk = conn.sk.as_ptr();
    // Sixteen pieces at most, of which none is larger than a page may be.
    let (count, len) = (pieces.len() as u32, bytes as u32);
    // SAFETY: The caller promises all that is asked for. A wake-up cannot be missed: what frees the space needs the
    // lock too.
    let sent = unsafe { bindings::squall_sk_send(sk, pieces.as_ptr(), count, len, more) };
    if sent >= 0 {
        return Ok((sent as usize).min(bytes));
    }
    if sent != EAGAIN.to_errno() {
        return Err(Unsent::Dead(sent.saturating_neg()));
    }
    // SAFETY: The lock is held.
    match unsafe { bindings::squall_sk_write_queue_empty(sk) } {
        true => Err(Unsent::Memory),
        false => Err(Unsent::Space),
    }
}

/// A connection with an empty queue whose lock was free: what comes for it goes to TCP at once.
///
/// # Invariants
///
/// The lock of `conn` is held, its socket attached and not owned, and `locked` its own.
pub(super) struct Direct<'a, S: Session> {
    conn: &'a Conn<S>,
    locked: &'a mut Locked<S>,
    softirq: Softirq<'a>,
    sent: usize,
}

impl<'a, S: Session> Direct<'a, S> {
    /// Takes the lock if it is free and nothing is in the way.
    ///
    /// Called with the lock of another connection held, of the only one that queues bytes for this one:
    /// so nothing comes in between.
    pub(super) fn new(conn: &'a Conn<S>, softirq: Softirq<'a>) -> Option<Self> {
        // SAFETY: `sk` is alive by the invariant of the connection; softirq. Trying cannot deadlock.
        if !unsafe { bindings::squall_bh_trylock_sock(conn.sk.as_ptr()) } {
            return None;
        }
        conn.account.enter();
        // SAFETY: The lock is held and the socket not owned, so nobody else is in here; what TCP calls from inside our own
        // calls finds the mark.
        let locked = unsafe { &mut *conn.locked.get() };
        // INVARIANT: From here on dropping it unlocks.
        let direct = Direct {
            conn,
            locked,
            softirq,
            sent: 0,
        };
        let inbox = conn.inbox.lock();
        let is_clear =
            inbox.queue.is_empty() && !inbox.queue.is_closed() && direct.locked.control.may_send();
        drop(inbox);
        is_clear.then_some(direct)
    }

    /// Sends `pieces`, `bytes` in all; returns how many TCP took. `more`: others follow at once.
    ///
    /// # Safety
    ///
    /// Each of the pieces is a range of a page that is alive and may be sent (`sendpage_ok()`).
    pub(super) unsafe fn send_pages(
        &mut self,
        pieces: &[bindings::bio_vec],
        bytes: u32,
        more: bool,
    ) -> u32 {
        // SAFETY: By the invariant, and the caller's promise.
        let sent = unsafe { send(self.conn, pieces, bytes as usize, more) };
        // What did not go is queued, and the flush of that finds out why; but what ended a connection TCP tells once.
        let sent = sent.unwrap_or_else(|unsent| {
            let control = &mut self.locked.control;
            if let (Unsent::Dead(error), 0) = (unsent, control.error) {
                control.error = error;
            }
            0
        });
        self.sent = self.sent.saturating_add(sent);
        sent as u32
    }

    /// Sends a copy of `len` bytes, or of the first of them; returns how many TCP took.
    ///
    /// # Safety
    ///
    /// The bytes can be read; see [`OutQueue::write_from`](super::queue::OutQueue).
    pub(super) unsafe fn send_copy(&mut self, from: *const u8, len: u32, more: bool) -> u32 {
        if len < GATHER && is_blocked(self.conn) {
            return 0;
        }
        let now = len.min(FRAGMENT_MAX as u32);
        let Some(fragment) = Fragment::new(now, self.softirq) else {
            return 0;
        };
        // SAFETY: The caller promises `len >= now` bytes, and there is room for `now` in the fragment,
        // which is ours alone, may be sent, and lives until TCP has a reference of its own.
        unsafe {
            core::ptr::copy_nonoverlapping(from, fragment.at.as_ptr(), now as usize);
            let piece = bindings::bio_vec {
                bv_page: fragment.page.as_ptr(),
                bv_offset: fragment.offset,
                bv_len: now,
            };
            self.send_pages(&[piece], now, more || now < len)
        }
    }
}

impl<S: Session> Drop for Direct<'_, S> {
    fn drop(&mut self) {
        if self.sent > 0 {
            self.locked.control.sent_now();
            stats::add(Counter::TxBytes, self.sent as u64);
            self.conn.settle_sent(self.locked);
        }
        self.conn.account.exit();
        // SAFETY: By the invariant.
        unsafe { bindings::squall_bh_unlock_sock(self.conn.sk.as_ptr()) };
    }
}
