// SPDX-License-Identifier: GPL-2.0

//! Bytes on their way out: references to pages, in order.
//!
//! Everything that is queued can be handed to TCP by reference (send.c), so the memory is
//! page fragments and never `kmalloc()`. Small pieces are copied into fragments, large ones keep the
//! page they arrived in. An empty queue owns no memory.

use super::{
    bindings,
    memory::PAGE,
    softirq::Softirq,
    stats::{
        self,
        Counter, //
    }, //
};
use core::{
    mem::{
        self,
        ManuallyDrop,
        MaybeUninit, //
    },
    ptr::NonNull, //
};
use kernel::prelude::*;

/// Most chunks that a queue may hold before its writer has to wait, besides the high-water mark in
/// bytes: bounds the descriptors that many tiny pieces need.
pub(crate) const MAX_CHUNKS: usize = 512;

/// Size of the fragments that small pieces are gathered in, bytes, once a queue is not empty.
pub(super) const GATHER: u32 = 1024;

/// Largest fragment taken at once, bytes: what is behind it goes to the next one.
pub(super) const FRAGMENT_MAX: usize = 4096;

/// Room made for descriptors when a queue stops being empty.
const FIRST_CHUNKS: usize = 4;

/// Why bytes could not be queued: memory was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// A range of bytes in a page.
///
/// # Invariants
///
/// Owns a reference to `page`, and the page (compound or not) holds the bytes from `offset` on for
/// `len`.
struct Chunk {
    page: NonNull<bindings::page>,
    /// Where the bytes are, below [`GATHERED`], and that bit if they were copied.
    place: u32,
    len: u32,
}

/// The bytes of a chunk were copied into a piece of a page that others have the rest of.
const GATHERED: u32 = 1 << 31;

impl Chunk {
    fn offset(&self) -> u32 {
        self.place & !GATHERED
    }

    fn is_gathered(&self) -> bool {
        self.place & GATHERED != 0
    }

    /// Returns how many bytes of memory the chunk keeps from being freed: of what was copied the part of a page that
    /// was taken for it, else the pages that it touches.
    fn held(&self) -> u32 {
        let (from, unit) = match self.is_gathered() {
            true => (0, GATHER),
            false => (self.offset() % PAGE, PAGE),
        };
        let end = from.saturating_add(self.len);
        end.checked_next_multiple_of(unit).unwrap_or(u32::MAX)
    }
}

// SAFETY: A page reference may be given back on any CPU and in any context.
unsafe impl Send for Chunk {}
// SAFETY: A shared chunk can only be read.
unsafe impl Sync for Chunk {}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        // SAFETY: By the invariant the page is alive.
        unsafe { bindings::squall_get_page(self.page.as_ptr()) };
        // INVARIANT: The reference was just taken; the range is the same.
        Self {
            page: self.page,
            place: self.place,
            len: self.len,
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: By the invariant we own a reference.
        unsafe { bindings::squall_put_page(self.page.as_ptr()) };
    }
}

/// A piece of this CPU's fragment page, to be filled.
///
/// # Invariants
///
/// Owns a reference to `page`, in which the bytes asked for are at `offset` and `at`, and nobody else's.
pub(super) struct Fragment {
    pub(super) page: NonNull<bindings::page>,
    pub(super) offset: u32,
    pub(super) at: NonNull<u8>,
}

impl Fragment {
    /// Gets `size` bytes, at most [`FRAGMENT_MAX`].
    pub(super) fn new(size: u32, _: Softirq<'_>) -> Option<Fragment> {
        let mut page = core::ptr::null_mut();
        let mut offset = 0;
        // SAFETY: Both places may be written; we are in softirq, by the proof.
        let data = unsafe { bindings::squall_frag_alloc(size, &mut page, &mut offset) };
        // INVARIANT: The allocation came with a reference.
        Some(Fragment {
            page: NonNull::new(page)?,
            offset,
            at: NonNull::new(data.cast())?,
        })
    }
}

impl Drop for Fragment {
    fn drop(&mut self) {
        // SAFETY: By the invariant we own a reference.
        unsafe { bindings::squall_put_page(self.page.as_ptr()) };
    }
}

/// A first-in first-out queue of bytes. Every connection has one, so it is packed.
///
/// # Invariants
///
/// `spare` points to `left` bytes that belong to nobody else, in the page of the last chunk and directly
/// behind its bytes: room that this queue may fill.
#[derive(Default)]
pub(crate) struct OutQueue {
    /// The first chunk of a queue that was empty: a queue of one chunk needs no memory of its own.
    first: Option<Chunk>,
    /// What is behind it: `None` before `head`, `Some` from it on. Mostly there was none, and then the allocator
    /// need not be called to free nothing.
    chunks: ManuallyDrop<KVec<Option<Chunk>>>,
    /// What it holds is bounded far below 4 GiB: its writers wait, or write a head.
    bytes: u32,
    /// Bytes of memory that all chunks together keep from being freed.
    held: u32,
    spare: Option<NonNull<u8>>,
    /// At most as many as there are chunks.
    head: u32,
    /// At most [`FRAGMENT_MAX`].
    left: u16,
    /// What is in here counts as queued: it is a connection's.
    counted: bool,
    /// Whose queue it is takes nothing any more.
    closed: bool,
}

const _: () = assert!(FRAGMENT_MAX <= u16::MAX as usize);

// SAFETY: The spare room is owned through the page reference of the last chunk.
unsafe impl Send for OutQueue {}
// SAFETY: Writing needs `&mut`.
unsafe impl Sync for OutQueue {}

impl Drop for OutQueue {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What [`OutQueue::fill`] found.
pub(super) struct Filled {
    /// Bytes that the pieces have.
    pub(super) bytes: usize,
    /// There is more in the queue.
    pub(super) more: bool,
}

impl OutQueue {
    /// Returns an empty queue.
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            chunks: ManuallyDrop::new(KVec::new()),
            bytes: 0,
            held: 0,
            spare: None,
            head: 0,
            left: 0,
            counted: false,
            closed: false,
        }
    }

    /// Returns the empty queue of a connection.
    pub(super) const fn counted() -> Self {
        let mut queue = Self::new();
        queue.counted = true;
        queue
    }

    fn count_in(&self, bytes: usize) {
        if self.counted {
            stats::add(Counter::QueuedBytes, bytes as u64);
        }
    }

    fn count_out(&self, bytes: usize) {
        if self.counted && bytes > 0 {
            stats::sub(Counter::QueuedBytes, bytes as u64);
        }
    }

    /// Returns the number of bytes in the queue.
    pub(crate) fn len(&self) -> usize {
        self.bytes as usize
    }

    /// Says whether the queue is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns the bytes of memory that the queue keeps from being freed.
    pub(super) fn held(&self) -> u32 {
        self.held
    }

    /// Returns the bytes of memory that are missing to `high`.
    pub(super) fn room(&self, high: usize) -> u32 {
        u32::try_from(high)
            .unwrap_or(u32::MAX)
            .saturating_sub(self.held)
    }

    /// Has the queue, as that of a connection, take nothing any more. Who fills it looks for that.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Says whether the queue takes nothing any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Says whether a writer that can wait should: memory of `high` bytes or [`MAX_CHUNKS`] are reached.
    pub(crate) fn is_full(&self, high: usize) -> bool {
        self.held as usize >= high
            || self.chunks.len().saturating_sub(self.head as usize) >= MAX_CHUNKS
    }

    /// Iterates over the chunks in order.
    fn live(&self) -> impl Iterator<Item = &Chunk> {
        let behind = self
            .chunks
            .as_slice()
            .get(self.head as usize..)
            .unwrap_or(&[]);
        Iterator::chain(self.first.iter(), behind.iter().flatten())
    }

    /// Returns the first chunk.
    fn front(&mut self) -> Option<&mut Chunk> {
        match &mut self.first {
            Some(first) => Some(first),
            None => self
                .chunks
                .as_mut_slice()
                .get_mut(self.head as usize)?
                .as_mut(),
        }
    }

    /// Drops the first chunk.
    fn pop_front(&mut self) {
        if self.first.take().is_some() {
            return;
        }
        if let Some(place) = self.chunks.as_mut_slice().get_mut(self.head as usize) {
            *place = None;
            self.head += 1;
        }
    }

    /// Returns the last chunk of a queue with these members.
    fn last<'a>(
        first: &'a mut Option<Chunk>,
        chunks: &'a mut KVec<Option<Chunk>>,
    ) -> Option<&'a mut Chunk> {
        match chunks.as_mut_slice().last_mut() {
            Some(last) => last.as_mut(),
            None => first.as_mut(),
        }
    }

    /// Appends a copy of `bytes`. On failure nothing or a part is appended. The fragments come from this CPU's cache.
    pub(crate) fn write(&mut self, bytes: &[u8], softirq: Softirq<'_>) -> Result<(), NoMemory> {
        // SAFETY: A slice can be read.
        unsafe { self.write_from(bytes.as_ptr(), bytes.len(), softirq) }
    }

    /// Appends a copy of the `len` bytes at `from`, like [`Self::write`].
    ///
    /// # Safety
    ///
    /// They can be read, and are none of this queue's. They may change meanwhile: then it is open
    /// which of their values are copied.
    pub(super) unsafe fn write_from(
        &mut self,
        mut from: *const u8,
        mut len: usize,
        softirq: Softirq<'_>,
    ) -> Result<(), NoMemory> {
        while len > 0 {
            let room = match self.left {
                0 => self.grow(len, softirq)?,
                left => left as usize,
            };
            let now = len.min(room);
            // SAFETY: `now <= len`, so the bytes are among the caller's, and `from` ends up behind
            // them.
            unsafe {
                self.fill_spare(from, now);
                from = from.add(now);
            }
            len -= now;
        }
        Ok(())
    }

    /// Gets memory for about `bytes` if nothing is queued yet, and takes what is written in pieces; of 0, memory is got as they come.
    ///
    /// Without memory nothing happens: writing will find out.
    pub(crate) fn writer<'a>(&'a mut self, bytes: usize, softirq: Softirq<'a>) -> Writer<'a> {
        if self.is_empty() && bytes > 0 {
            let _ = self.grow(bytes, softirq);
        }
        let mut writer = Writer {
            queue: self,
            softirq,
            at: NonNull::dangling(),
            left: 0,
            written: 0,
        };
        writer.look();
        writer
    }

    /// Copies `len` bytes, no more than there is room for, behind the last chunk.
    ///
    /// # Safety
    ///
    /// As for [`Self::write_from`].
    unsafe fn fill_spare(&mut self, from: *const u8, len: usize) {
        let Some(spare) = self.spare else {
            return;
        };
        let count = len.min(self.left as usize);
        // SAFETY: By the invariant the `left >= count` bytes are ours alone, and the caller's are
        // elsewhere.
        unsafe { core::ptr::copy_nonoverlapping(from, spare.as_ptr(), count) };
        // SAFETY: They were just written, and are no more than there was room for.
        unsafe { self.take_spare(count) };
    }

    /// Takes the first `count` bytes of the spare room into the last chunk.
    ///
    /// # Safety
    ///
    /// They were written, and are at most `left`.
    unsafe fn take_spare(&mut self, count: usize) {
        let last = Self::last(&mut self.first, &mut self.chunks);
        let (Some(spare), Some(last)) = (&mut self.spare, last) else {
            return;
        };
        // INVARIANT: Both move by the bytes that the chunk takes over. `count` is the size of a fragment
        // at most.
        // SAFETY: `count <= left`, so the result is in the same fragment or one behind its end.
        *spare = unsafe { spare.add(count) };
        self.left = self.left.saturating_sub(count as u16);
        // What was copied holds whole units.
        let before = last.len.div_ceil(GATHER);
        last.len = last.len.saturating_add(count as u32);
        let begun = last.len.div_ceil(GATHER).saturating_sub(before);
        self.held = self.held.saturating_add(begun.saturating_mul(GATHER));
        self.bytes = self.bytes.saturating_add(count as u32);
        self.count_in(count);
    }

    /// Adds an empty chunk with spare room for `wanted` bytes or a part of them; returns the room.
    fn grow(&mut self, wanted: usize, softirq: Softirq<'_>) -> Result<usize, NoMemory> {
        let least = if self.is_empty() { 0 } else { GATHER as usize };
        let size = wanted.clamp(least, FRAGMENT_MAX);
        let fragment = Fragment::new(size as u32, softirq).ok_or(NoMemory)?;
        let (page, offset, at) = (fragment.page, fragment.offset, fragment.at);
        // INVARIANT: The chunk takes over the fragment's reference; it is empty so far.
        mem::forget(fragment);
        let chunk = Chunk {
            page,
            place: offset | GATHERED,
            len: 0,
        };
        self.append(chunk)?;
        // INVARIANT: The fragment is `size` bytes at `at`, and the last chunk is empty and there.
        (self.spare, self.left) = (Some(at), size as u16);
        Ok(size)
    }

    /// Makes sure that one more chunk fits.
    fn reserve(&mut self) -> Result<(), NoMemory> {
        if self.chunks.len() < self.chunks.capacity() {
            return Ok(());
        }
        // Descriptors already used up are at the front: close the gap instead of growing.
        let head = self.head as usize;
        if head >= FIRST_CHUNKS && head >= self.chunks.len() / 2 {
            self.compact();
            return Ok(());
        }
        self.chunks
            .reserve(FIRST_CHUNKS, GFP_ATOMIC | __GFP_NOWARN)
            .map_err(|_| NoMemory)
    }

    /// Closes the gap that used-up descriptors leave at the front.
    fn compact(&mut self) {
        let head = (self.head as usize).min(self.chunks.len());
        self.chunks.as_mut_slice().rotate_left(head);
        let left = self.chunks.len().saturating_sub(head);
        self.chunks.truncate(left);
        self.head = 0;
    }

    fn append(&mut self, chunk: Chunk) -> Result<(), NoMemory> {
        let (len, held) = (chunk.len, chunk.held());
        if self.first.is_none() && self.chunks.is_empty() {
            self.first = Some(chunk);
        } else {
            self.reserve()?;
            self.chunks
                .push_within_capacity(Some(chunk))
                .map_err(|_| NoMemory)?;
        }
        self.bytes = self.bytes.saturating_add(len);
        self.held = self.held.saturating_add(held);
        self.left = 0;
        self.count_in(len as usize);
        Ok(())
    }

    /// Appends `len` bytes of `page` from `offset` on, by reference.
    ///
    /// # Safety
    ///
    /// The page must be alive, may be sent (`sendpage_ok()`), and hold these bytes.
    pub(super) unsafe fn append_page(
        &mut self,
        page: NonNull<bindings::page>,
        offset: u32,
        len: u32,
    ) -> Result<(), NoMemory> {
        if self.extend(page, offset, len) {
            return Ok(());
        }
        // SAFETY: The caller promises that the page is alive.
        unsafe { bindings::squall_get_page(page.as_ptr()) };
        // INVARIANT: The reference was just taken, and the caller vouches for the range. A page is not so large that an
        // offset has the highest bit.
        let place = offset & !GATHERED;
        self.append(Chunk { page, place, len })
    }

    /// Takes `len` bytes of `page` into the last chunk if they are right behind it: small segments of one page hold
    /// that once.
    fn extend(&mut self, page: NonNull<bindings::page>, offset: u32, len: u32) -> bool {
        let Some(last) = Self::last(&mut self.first, &mut self.chunks) else {
            return false;
        };
        let end = last.offset().checked_add(last.len);
        let Some(all) = last.len.checked_add(len) else {
            return false;
        };
        if last.page != page || last.is_gathered() || end != Some(offset) {
            return false;
        }
        let before = last.held();
        // INVARIANT: The reference is to the page, which has these bytes too.
        last.len = all;
        self.held = self.held.saturating_sub(before).saturating_add(last.held());
        self.bytes = self.bytes.saturating_add(len);
        self.count_in(len as usize);
        true
    }

    /// Moves everything from `other` behind what is here. On failure `self` is as it was and
    /// `other` too.
    pub(crate) fn append_queue(&mut self, other: &mut OutQueue) -> Result<(), NoMemory> {
        let count = other.live().count();
        if self.is_empty() {
            mem::swap(self, other);
            mem::swap(&mut self.counted, &mut other.counted);
            mem::swap(&mut self.closed, &mut other.closed);
            self.count_in(self.len());
            other.clear();
            return Ok(());
        }
        if self.head > 0 {
            self.compact();
        }
        self.chunks
            .reserve(count, GFP_ATOMIC | __GFP_NOWARN)
            .map_err(|_| NoMemory)?;
        let first = core::iter::once(&mut other.first);
        for chunk in Iterator::chain(first, other.chunks.as_mut_slice()) {
            if let Some(chunk) = chunk.take() {
                // Room was made above, so this does not fail.
                self.append(chunk)?;
            }
        }
        // A sender may still append to the tail; the other queue's room came with its last chunk.
        (self.spare, self.left) = (other.spare.take(), mem::take(&mut other.left));
        other.clear();
        Ok(())
    }

    /// Drops everything behind the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.count_out(self.len().saturating_sub(len));
        while self.len() > len {
            let excess = (self.len() - len) as u32;
            let Some(last) = Self::last(&mut self.first, &mut self.chunks) else {
                return;
            };
            let count = last.len;
            let before = last.held();
            self.held = self.held.saturating_sub(before);
            if count > excess {
                last.len -= excess;
                self.held = self.held.saturating_add(last.held());
                self.bytes -= excess;
            } else {
                self.bytes -= count;
                if self.chunks.pop().is_none() {
                    self.first = None;
                }
            }
            // What was cut off may be in flight: it is not room to write to.
            self.left = 0;
        }
    }

    /// Returns a queue of the same bytes, sharing the pages.
    pub(crate) fn try_clone(&self) -> Result<OutQueue, NoMemory> {
        let mut clone = OutQueue::new();
        for chunk in self.live() {
            clone.append(chunk.clone())?;
        }
        Ok(clone)
    }

    /// Drops everything, descriptors included.
    pub(crate) fn clear(&mut self) {
        self.count_out(self.len());
        self.first = None;
        if self.chunks.capacity() > 0 {
            drop(mem::take(&mut *self.chunks));
        }
        self.bytes = 0;
        self.held = 0;
        self.spare = None;
        self.head = 0;
        self.left = 0;
    }

    /// Describes the first bytes of the queue in `room`; returns the pieces. They stay alive until [`Self::advance`].
    pub(super) fn fill<'a>(
        &self,
        room: &'a mut [MaybeUninit<bindings::bio_vec>],
    ) -> (&'a [bindings::bio_vec], Filled) {
        let (mut count, mut bytes) = (0, 0);
        for (chunk, place) in self.live().zip(room.iter_mut()) {
            place.write(bindings::bio_vec {
                bv_page: chunk.page.as_ptr(),
                bv_offset: chunk.offset(),
                bv_len: chunk.len,
            });
            count += 1;
            bytes += chunk.len as usize;
        }
        // SAFETY: The first `count` were written.
        let pieces = unsafe { core::slice::from_raw_parts(room.as_ptr().cast(), count) };
        let more = self.len() > bytes;
        (pieces, Filled { bytes, more })
    }

    /// Drops the first `count` bytes, which are no more than there are.
    pub(super) fn advance(&mut self, mut count: usize) {
        self.count_out(count.min(self.len()));
        while let Some(chunk) = self.front() {
            let len = chunk.len as usize;
            let held = chunk.held();
            if count < len {
                // INVARIANT: The range shrinks from its front. `count` fits, being below `len`.
                chunk.place += count as u32;
                chunk.len -= count as u32;
                let rest = chunk.held();
                self.held = self.held.saturating_sub(held).saturating_add(rest);
                self.bytes -= count as u32;
                return;
            }
            self.held = self.held.saturating_sub(held);
            count -= len;
            self.bytes -= len as u32;
            self.pop_front();
        }
        self.clear();
    }
}

/// Writes bytes that come in many small pieces, as those of a head do: the queue takes them over in one step, when this is
/// dropped or a fragment is full.
///
/// # Invariants
///
/// `at` points to `left` bytes of the queue's spare room, the first `written` of which are in front of it and written.
pub(crate) struct Writer<'a> {
    queue: &'a mut OutQueue,
    softirq: Softirq<'a>,
    at: NonNull<u8>,
    left: usize,
    written: usize,
}

impl Writer<'_> {
    /// Appends a copy of `bytes`, like [`OutQueue::write`].
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), NoMemory> {
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            self.settle();
            let result = self.queue.write(bytes, self.softirq);
            self.look();
            return result;
        };
        // SAFETY: By the invariant there is room for the bytes, which is this queue's alone, and `at` ends up in it or one
        // behind its end.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.as_ptr(), bytes.len());
            self.at = self.at.add(bytes.len());
        }
        // INVARIANT: These bytes went from what is left to what is written.
        self.left = left;
        self.written = self.written.wrapping_add(bytes.len());
        Ok(())
    }

    /// Looks at what room there is.
    fn look(&mut self) {
        // INVARIANT: Nothing of it is written.
        if let Some(spare) = self.queue.spare {
            (self.at, self.left) = (spare, self.queue.left as usize);
        }
    }

    /// Has the queue take over what was written.
    fn settle(&mut self) {
        if self.written > 0 {
            // SAFETY: By the invariant they were written, in the room that there was.
            unsafe { self.queue.take_spare(self.written) };
            self.written = 0;
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}
