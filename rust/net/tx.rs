// SPDX-License-Identifier: GPL-2.0

//! Sending what is queued.
//!
//! Context: softirq, from the BH work, the socket's spinlock held, not owned. Never from inside one
//! of TCP's callbacks. `tcp_sendmsg_locked()` does not sleep here because of `MSG_DONTWAIT` and the
//! socket's `GFP_ATOMIC`, and `MSG_NOSIGNAL` keeps it from signalling the interrupted task.

use super::{
    bindings,
    conn::{
        Conn,
        Session,
        RESUME, //
    },
    stats::{
        self,
        Counter, //
    },
    sysctl, //
};
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
    if fin_sent {
        conn.inbox.lock().queue.clear();
        return Ok(flushed);
    }
    let sk = conn.sk.as_ptr();
    let mut pieces = [bindings::bio_vec::default(); PIECES];
    loop {
        let filled = conn.inbox.lock().queue.fill(&mut pieces);
        if filled.bytes == 0 {
            break;
        }
        // SAFETY: The lock is held.
        if !unsafe { bindings::squall_sk_can_send(sk) } {
            // Cannot be missed: what frees the space needs the lock too.
            // SAFETY: The lock is held and the socket attached.
            unsafe { bindings::squall_sk_wait_space(sk) };
            break;
        }
        let mut msg = bindings::msghdr {
            msg_flags: bindings::SQUALL_SEND_FLAGS
                | if filled.more {
                    bindings::SQUALL_MSG_MORE
                } else {
                    0
                },
            ..Default::default()
        };
        // SAFETY: The iterator lives as long as `pieces`, which describe pages that the queue keeps
        // until `advance()`: only we take from it, and we hold the socket's lock. The lock is held,
        // the socket attached and not owned.
        let sent = unsafe {
            bindings::iov_iter_bvec(
                &mut msg.msg_iter,
                bindings::SQUALL_ITER_SOURCE,
                pieces.as_ptr(),
                filled.count,
                filled.bytes,
            );
            bindings::tcp_sendmsg_locked(sk, &mut msg, filled.bytes)
        };
        if sent < 0 {
            if sent != EAGAIN.to_errno() {
                return Err(sent.saturating_neg());
            }
            // SAFETY: The lock is held.
            flushed.retry = unsafe { bindings::squall_sk_write_queue_empty(sk) };
            break;
        }
        let sent = (sent as usize).min(filled.bytes);
        conn.inbox.lock().queue.advance(sent);
        flushed.sent = flushed.sent.saturating_add(sent);
    }
    if flushed.sent > 0 {
        stats::add(Counter::TxBytes, flushed.sent as u64);
        resume_waiter(conn);
    }
    Ok(flushed)
}

/// Lets who found the queue full go on if there is room.
fn resume_waiter<S: Session>(conn: &Conn<S>) {
    let mut inbox = conn.inbox.lock();
    if inbox.waiter.is_none() || inbox.queue.is_full(sysctl::queue_low() as usize) {
        return;
    }
    let waiter = inbox.waiter.take();
    drop(inbox);
    if let Some(waiter) = waiter {
        stats::inc(Counter::Resumed);
        waiter.post(RESUME);
    }
}
