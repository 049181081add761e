// SPDX-License-Identifier: GPL-2.0

//! Reading from a socket's receive queue.
//!
//! Context: softirq, the socket's spinlock held, not owned. Bytes stay in the queue until they are
//! consumed, so a head that is not complete costs nothing but its place in the receive window.

use super::{
    bindings,
    conn::{
        Conn,
        Session, //
    },
    memory,
    queue::{
        NoMemory,
        OutQueue, //
    },
    softirq::Softirq,
    stats::{
        self,
        Counter, //
    },
    sysctl,
    tx::Direct, //
};
use core::{
    ffi::c_int,
    mem::MaybeUninit,
    ptr::NonNull, //
};

/// Why [`super::Io::splice`] moved no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There are no more, or as many as wanted were moved.
    Done,
    /// The receiver's queue is full; `RESUME` will be posted when it is not.
    Full,
    /// Memory was not to be had; `data_ready` will be called again.
    NoMemory,
    /// The receiver is closed.
    Dead,
    /// The bytes cannot be read by the CPU.
    Unreadable,
}

/// What [`super::Io::splice`] did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spliced {
    /// Bytes moved.
    pub(crate) bytes: u64,
    /// Why there were no more.
    pub(crate) stop: Stop,
    /// Some of them are in the receiver's queue: it has to be pushed, or posted to.
    pub(crate) queued: bool,
}

/// Who looks at bytes as they are moved.
pub(crate) trait Watch {
    /// Says whether the next `count` bytes need no look; if so, they are not shown.
    fn pass(&mut self, count: u32) -> bool;

    /// Looks at the next bytes.
    fn see(&mut self, bytes: &[u8]);
}

/// Nobody looks.
impl Watch for () {
    fn pass(&mut self, _: u32) -> bool {
        true
    }

    fn see(&mut self, _: &[u8]) {}
}

/// Returns the unread bytes at `offset`, as far as they are contiguous and nobody can change them.
///
/// The result lives as long as `_held`, whose owner keeps the socket locked and unread.
pub(super) fn peek<T>(sk: NonNull<bindings::sock>, offset: u32, _held: &T) -> &[u8] {
    let mut len = 0u32;
    // SAFETY: The lock is held.
    let data = unsafe { bindings::squall_sk_peek(sk.as_ptr(), offset, &mut len) };
    if data.is_null() {
        return &[];
    }
    // SAFETY: The helper returns `len` bytes of an skb in the receive queue, which stay there as
    // long as nothing is read and the lock is held, and which nobody changes. On a 64-bit machine
    // all pages are mapped.
    unsafe { core::slice::from_raw_parts(data, len as usize) }
}

/// Copies unread bytes from `offset` on to the front of `buffer`; returns how many.
pub(super) fn copy(sk: NonNull<bindings::sock>, offset: u32, buffer: &mut [u8]) -> usize {
    let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
    // SAFETY: The lock is held, and the buffer has room for `len` bytes.
    let count =
        unsafe { bindings::squall_sk_copy(sk.as_ptr(), offset, buffer.as_mut_ptr().cast(), len) };
    count as usize
}

/// What a pass of `tcp_read_sock()` does with the bytes.
trait Reader {
    /// Takes up to `len` bytes of `skb` from `offset` on; returns how many, 0 to stop.
    fn read(&mut self, skb: NonNull<bindings::sk_buff>, offset: u32, len: usize) -> usize;
}

/// Runs `reader` over the receive queue; acknowledges what it took.
fn read<R: Reader>(sk: NonNull<bindings::sock>, reader: &mut R) {
    /// Hands bytes to the reader.
    ///
    /// # Safety
    ///
    /// Called by `tcp_read_sock()` with the descriptor made below.
    unsafe extern "C" fn actor<R: Reader>(
        desc: *mut bindings::read_descriptor_t,
        skb: *mut bindings::sk_buff,
        offset: u32,
        len: usize,
    ) -> c_int {
        // SAFETY: `read()` put the reader there and calls us while it borrows it.
        let reader = unsafe { &mut *(*desc).arg.data.cast::<R>() };
        match NonNull::new(skb) {
            // An skb is shorter than 2 GiB.
            Some(skb) => reader.read(skb, offset, len).min(len) as c_int,
            None => 0,
        }
    }
    let mut desc = bindings::read_descriptor_t {
        count: 1,
        ..Default::default()
    };
    desc.arg.data = core::ptr::from_mut(reader).cast();
    // SAFETY: The lock is held, the socket not owned, and `actor` fits `desc`.
    unsafe {
        bindings::squall_sk_clear_urgent(sk.as_ptr());
        bindings::tcp_read_sock(sk.as_ptr(), &mut desc, Some(actor::<R>));
    }
}

struct Skip {
    left: u32,
}

impl Reader for Skip {
    fn read(&mut self, _: NonNull<bindings::sk_buff>, _: u32, len: usize) -> usize {
        let take = len.min(self.left as usize);
        self.left -= take as u32;
        take
    }
}

/// Drops up to `count` bytes of the receive queue.
pub(super) fn skip(sk: NonNull<bindings::sock>, count: u32) {
    if count > 0 {
        read(sk, &mut Skip { left: count });
    }
}

struct Splice<'a, S: Session, W: Watch> {
    softirq: Softirq<'a>,
    watch: &'a mut W,
    from: &'a Conn<S>,
    to: &'a Conn<S>,
    /// The receiver's socket, as long as it takes everything at once.
    direct: Option<Direct<'a, S>>,
    queued: bool,
    /// Bytes that are dropped first.
    skip: u32,
    left: u64,
    /// Unread bytes that are not looked at yet.
    unread: u64,
    splice_min: u32,
    stop: Stop,
    by_reference: u64,
    copied: u64,
}

impl<S: Session, W: Watch> Reader for Splice<'_, S, W> {
    fn read(&mut self, skb: NonNull<bindings::sk_buff>, offset: u32, len: usize) -> usize {
        if self.skip > 0 {
            let drop = len.min(self.skip as usize);
            self.skip -= drop as u32;
            return drop;
        }
        let want = self.left.min(len as u64) as u32;
        if want == 0 {
            return 0;
        }
        let mut done = self.send(skb, offset, want);
        if done < want && self.stop == Stop::Done {
            // From here on through the queue.
            self.direct = None;
            done = self.queue(skb, offset, done, want);
        }
        self.left -= u64::from(done);
        self.unread = self.unread.saturating_sub(u64::from(done));
        done as usize
    }
}

/// Returns the contiguous bytes of `skb` from `offset` on.
fn piece(skb: NonNull<bindings::sk_buff>, offset: u32) -> Option<bindings::squall_piece> {
    let mut piece = bindings::squall_piece::default();
    // SAFETY: The skb is in a receive queue, whose lock is held.
    let found = unsafe { bindings::squall_skb_piece(skb.as_ptr(), offset, &mut piece) };
    (found && piece.len > 0).then_some(piece)
}

/// Pieces of an skb that are sent in one call, at most.
const BATCH: usize = 8;

impl<S: Session, W: Watch> Splice<'_, S, W> {
    /// Hands up to `want` bytes of `skb` from `offset` on to the receiver's TCP; returns how many it took.
    fn send(&mut self, skb: NonNull<bindings::sk_buff>, offset: u32, want: u32) -> u32 {
        let mut done = 0;
        while done < want {
            let (at, left) = (offset.wrapping_add(done), want - done);
            // Bytes that there are from there on, to be sent now or behind these.
            let all = self.left.min(self.unread).saturating_sub(u64::from(done));
            let by_reference = match left < self.splice_min {
                true => None,
                false => self.send_pages(skb, at, left, all),
            };
            let sent = by_reference.unwrap_or_else(|| self.send_copy(skb, at, left, all));
            if sent == 0 {
                break;
            }
            done += sent;
        }
        done
    }

    /// Hands the first piece of `skb` at `offset`, as far as it is wanted, to the receiver's TCP as a copy; returns how many
    /// bytes it took. `all`: how many bytes there are from there on.
    fn send_copy(
        &mut self,
        skb: NonNull<bindings::sk_buff>,
        offset: u32,
        want: u32,
        all: u64,
    ) -> u32 {
        let Some(direct) = &mut self.direct else {
            return 0;
        };
        let Some(piece) = piece(skb, offset) else {
            self.stop = Stop::Unreadable;
            return 0;
        };
        let take = piece.len.min(want);
        // SAFETY: The helper returned `piece.len >= take` readable bytes, which no one frees while the lock is held.
        let sent = unsafe { direct.send_copy(piece.data.cast(), take, u64::from(take) < all) };
        self.copied += u64::from(sent);
        if sent > 0 {
            show(self.watch, &piece, sent);
        }
        sent
    }

    /// Hands pieces of `skb` from `offset` on, up to `want` bytes, to the receiver's TCP by reference; returns how many it
    /// took, and nothing if the first piece has to be copied. `all`: as for `send_copy()`.
    #[inline(never)] // Small messages need no room for the pieces.
    fn send_pages(
        &mut self,
        skb: NonNull<bindings::sk_buff>,
        offset: u32,
        want: u32,
        all: u64,
    ) -> Option<u32> {
        let direct = self.direct.as_mut()?;
        let mut room = [const { MaybeUninit::<bindings::bio_vec>::uninit() }; BATCH];
        let mut bytes = 0;
        // SAFETY: The skb is in a receive queue, whose lock is held, and there is room for so many pieces.
        let count = unsafe {
            bindings::squall_skb_pieces(
                skb.as_ptr(),
                offset,
                want,
                self.splice_min,
                room.as_mut_ptr().cast(),
                BATCH as u32,
                &mut bytes,
            )
        };
        if count == 0 {
            return None;
        }
        // SAFETY: The helper has written so many, no more than there is room for.
        let pieces = unsafe { core::slice::from_raw_parts(room.as_ptr().cast(), count as usize) };
        // SAFETY: The helper vouches for the pages, which the skb keeps.
        let sent = unsafe { direct.send_pages(pieces, bytes, u64::from(bytes) < all) };
        self.by_reference += u64::from(sent);
        let mut seen = 0;
        for vector in pieces {
            let now = vector.bv_len.min(sent - seen);
            if !self.watch.pass(now) {
                // It was found a moment ago.
                let piece = piece(skb, offset.wrapping_add(seen));
                piece.inspect(|piece| look_at(self.watch, piece, now));
            }
            seen += now;
        }
        Some(sent)
    }

    /// Queues the bytes of `skb` from `done` to `want`, counted from `offset`; returns how far it came.
    fn queue(
        &mut self,
        skb: NonNull<bindings::sk_buff>,
        offset: u32,
        mut done: u32,
        want: u32,
    ) -> u32 {
        let mut inbox = self.to.inbox.lock();
        if inbox.queue.is_closed() {
            self.stop = Stop::Dead;
            return done;
        }
        let high = self.to.queue_high(self.from);
        while done < want {
            if inbox.queue.is_full(high) {
                inbox.waiter = Some(self.from.into());
                self.stop = Stop::Full;
                break;
            }
            let Some(piece) = piece(skb, offset.wrapping_add(done)) else {
                self.stop = Stop::Unreadable;
                break;
            };
            // A page at least, so that it does not come to crumbs.
            let room = inbox.queue.room(high).max(memory::PAGE);
            let take = piece.len.min(want - done).min(room);
            if self.queue_piece(&mut inbox.queue, &piece, take).is_err() {
                stats::inc(Counter::NoMemory);
                self.stop = Stop::NoMemory;
                break;
            }
            self.queued = true;
            show(self.watch, &piece, take);
            done += take;
        }
        done
    }

    /// Queues the first `take` bytes of `piece`: by reference if that is possible and worth it.
    fn queue_piece(
        &mut self,
        queue: &mut OutQueue,
        piece: &bindings::squall_piece,
        take: u32,
    ) -> Result<(), NoMemory> {
        match NonNull::new(piece.page) {
            Some(page) if take >= self.splice_min => {
                // SAFETY: The helper vouches for the page.
                unsafe { queue.append_page(page, piece.offset, take) }?;
                self.by_reference += u64::from(take);
            }
            _ => {
                let before = queue.len();
                // SAFETY: The helper returned `piece.len >= take` readable bytes, which no one frees
                // while the lock is held.
                let result =
                    unsafe { queue.write_from(piece.data.cast(), take as usize, self.softirq) };
                if result.is_err() {
                    queue.truncate(before);
                    return result;
                }
                self.copied += u64::from(take);
            }
        }
        Ok(())
    }
}

/// Bytes that are copied for a look at them, if they may change.
const GLANCE: usize = 64;

/// Shows the first `count` bytes of a piece.
fn show<W: Watch>(watch: &mut W, piece: &bindings::squall_piece, count: u32) {
    if !watch.pass(count) {
        look_at(watch, piece, count);
    }
}

/// Has the first `count` bytes of a piece looked at.
fn look_at<W: Watch>(watch: &mut W, piece: &bindings::squall_piece, count: u32) {
    let (data, mut left) = (piece.data.cast::<u8>(), count as usize);
    if !piece.shared {
        // SAFETY: The helper returned `piece.len >= count` readable bytes, which no one frees while the
        // lock is held, and which nobody changes.
        return watch.see(unsafe { core::slice::from_raw_parts(data, left) });
    }
    let mut at = 0;
    while left > 0 {
        let mut glance = [0; GLANCE];
        let now = left.min(GLANCE);
        // SAFETY: As above, but for a change; `now` bytes from `at` on are within, and there is room.
        unsafe { core::ptr::copy_nonoverlapping(data.add(at), glance.as_mut_ptr(), now) };
        watch.see(glance.get(..now).unwrap_or(&[]));
        at += now;
        left -= now;
    }
}

/// Drops `skip` bytes of the receive queue of `from`, and moves up to `max` bytes behind them to the socket of
/// `to`, or to its queue.
pub(super) fn splice<S: Session, W: Watch>(
    from: &Conn<S>,
    skip: u32,
    to: &Conn<S>,
    max: u64,
    watch: &mut W,
    softirq: Softirq<'_>,
) -> Spliced {
    // SAFETY: The lock is held.
    let unread = unsafe { bindings::squall_sk_unread(from.sk.as_ptr()) };
    let mut spliced = Spliced {
        bytes: 0,
        stop: Stop::Done,
        queued: false,
    };
    if unread <= skip {
        self::skip(from.sk, skip);
        return spliced;
    }
    let mut pass = Splice {
        softirq,
        watch,
        from,
        to,
        direct: Direct::new(to, softirq),
        queued: false,
        skip,
        left: max,
        unread: u64::from(unread - skip),
        splice_min: sysctl::splice_min(),
        stop: Stop::Done,
        by_reference: 0,
        copied: 0,
    };
    read(from.sk, &mut pass);
    spliced.bytes = max - pass.left;
    spliced.stop = pass.stop;
    spliced.queued = pass.queued;
    if spliced.bytes > 0 {
        stats::add(Counter::RxBytes, spliced.bytes);
        // Mostly it is one of them.
        if pass.by_reference > 0 {
            stats::add(Counter::SplicedBytes, pass.by_reference);
        }
        if pass.copied > 0 {
            stats::add(Counter::CopiedBytes, pass.copied);
        }
    }
    if pass.stop == Stop::Full {
        stats::inc(Counter::Paused);
    }
    spliced
}
