// SPDX-License-Identifier: GPL-2.0

//! A head that arrives: parsed where it lies in the receive queue.
//!
//! A head is read twice: when it is judged, and when it is written for the other side. Both must see the same bytes. A
//! process on this host can still change memory that it sends by `sendfile()` or `vmsplice()`. A head in such memory is
//! copied before it is judged.
//!
//! Finding a piece takes a walk along the receive queue. A head in more than [`PIECES_MAX`] pieces is therefore copied
//! as well, each byte once, so that the cost of a segment does not grow with the segments before it.
//!
//! Data in the receive queue reduces the window, and by more than its length: an skb counts until all of it is read,
//! and TCP joins skbs. The rest of a head might have no room. A head is taken out of the queue before that happens.
//!
//! Context: softirq, the lock of the reading connection held.

use super::{
    body::Failure,
    session::Io, //
};
use crate::{
    net::{
        spare::Spares,
        stats::{
            self,
            Counter, //
        }, //
    },
    proto::{
        h1::{
            HeadParser,
            Progress, //
        },
        head::{
            Field,
            Head,
            HeadOf,
            LargeHead,
            Limits,
            UsualHead, //
        },
        message::Version,
        span::{
            Source,
            Span, //
        }, //
    }, //
};
use core::cell::Cell;
use kernel::prelude::*;

/// Most pieces of a head that is read where it lies. Most heads have one or two.
const PIECES_MAX: u8 = 16;

/// Bytes that a head usually grows by when it is written for the other side.
const ADDED: usize = 160;

/// Memory for the next reading; it contains one that has ended.
pub(super) static SPARES: Spares<Reading> = Spares::new();

/// A head or trailer section that is being read. It is boxed and exists only meanwhile.
pub(crate) struct Reading {
    parser: HeadParser,
    head: UsualHead,
    /// The head instead, if it has too many field lines for the other one. Rare, too.
    large: Option<KBox<LargeHead>>,
    /// The first bytes of the head, if they are not read where they lie. Rare, so not in here.
    copy: Option<KBox<KVec<u8>>>,
    /// Pieces that may still be looked for before the head is copied.
    pieces: u8,
    /// Bytes of the copy that are no longer in the receive queue.
    taken: u32,
}

// The next larger size class of the allocator is twice as large, and memory is zeroed when it is allocated.
const _: () = assert!(size_of::<Reading>() <= 1024);

/// The bytes of a head.
pub(crate) struct HeadBytes<'a> {
    io: &'a Io<'a>,
    /// Bytes before the head in the receive queue.
    before: u32,
    copy: &'a [u8],
    /// The last piece that was used, and its offset: most heads lie in one piece.
    last: Cell<(u32, &'a [u8])>,
    /// Pieces that may still be looked up; `None` if there are known to be few.
    left: Cell<Option<u8>>,
}

impl<'a> HeadBytes<'a> {
    fn new(io: &'a Io<'a>, copy: &'a [u8], left: Option<u8>) -> Self {
        HeadBytes {
            io,
            before: 0,
            copy,
            last: Cell::new((0, copy)),
            left: Cell::new(left),
        }
    }

    /// Looks up the piece at `offset`, unless it would be one too many.
    fn look(&self, offset: u32) -> &'a [u8] {
        if self.left.get() == Some(0) {
            return &[];
        }
        let piece = self.io.peek(self.before.saturating_add(offset));
        if !piece.is_empty() {
            self.left
                .set(self.left.get().map(|left| left.saturating_sub(1)));
            self.last.set((offset, piece));
        }
        piece
    }
}

impl Source for HeadBytes<'_> {
    fn bytes_at(&self, offset: u32) -> &[u8] {
        let (start, piece) = self.last.get();
        let within = offset.wrapping_sub(start) as usize;
        match piece.get(within..) {
            Some(bytes) if !bytes.is_empty() => bytes,
            _ if !self.copy.is_empty() => &[],
            _ => self.look(offset),
        }
    }
}

impl Reading {
    /// Starts reading with a parser at its beginning.
    #[inline(never)]
    pub(crate) fn new(parser: HeadParser) -> Result<KBox<Reading>, Failure> {
        if let Some(mut spare) = SPARES.take() {
            spare.parser = parser;
            spare.pieces = PIECES_MAX;
            spare.taken = 0;
            spare.head.clear();
            return Ok(spare);
        }
        let reading = init!(Reading {
            parser,
            head <- empty_head(),
            large: None,
            copy: None,
            pieces: PIECES_MAX,
            taken: 0,
        }? Error);
        KBox::init(reading, GFP_ATOMIC | __GFP_NOWARN).map_err(|_| no_memory())
    }

    /// Ends the reading. Its memory is kept for the next one on this CPU.
    pub(crate) fn end(mut reading: KBox<Self>) {
        reading.copy = None;
        reading.large = None;
        SPARES.keep(reading);
    }

    /// Returns whether a byte of the head has been seen.
    pub(crate) fn has_begun(&self) -> bool {
        self.parser.has_begun()
    }

    /// Returns the head, as far as it was read.
    fn head(&self) -> &Head {
        match &self.large {
            Some(large) => &**large,
            None => &self.head,
        }
    }

    /// Continues in a larger head. Without memory for it the message cannot be read.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) -> Result<(), Failure> {
        let mut large = KBox::<LargeHead>::init(empty_head(), GFP_ATOMIC | __GFP_NOWARN)
            .map_err(|_| no_memory())?;
        let head: &mut Head = &mut *large;
        head.take_over(&self.head);
        self.large = Some(large);
        Ok(())
    }

    /// Returns how many bytes of the complete head are to be consumed; 0 before that.
    pub(crate) fn len(&self) -> u32 {
        u32::from(self.head().len).saturating_sub(self.taken)
    }

    /// Returns about how many bytes the complete head takes when it is written for the other side.
    pub(crate) fn room(&self) -> usize {
        usize::from(self.head().len).saturating_add(ADDED)
    }

    /// Reads what has arrived. Never returns [`Progress::Full`].
    pub(crate) fn resume(&mut self, io: &mut Io<'_>, limits: &Limits) -> Result<Progress, Failure> {
        let progress = self.look(0, io, limits)?;
        if progress == Progress::NeedMore {
            let rest = limits.head.saturating_sub(self.parser.position());
            if io.room() <= u32::from(rest) {
                self.take(io)?;
            }
        }
        Ok(progress)
    }

    /// As [`Self::resume`], behind the first `before` bytes that are unread. Nothing is consumed: this is to look ahead.
    pub(crate) fn look(
        &mut self,
        before: u32,
        io: &Io<'_>,
        limits: &Limits,
    ) -> Result<Progress, Failure> {
        loop {
            let mut bytes = HeadBytes::new(io, copied(&self.copy), Some(self.pieces));
            bytes.before = before;
            let head: &mut Head = match &mut self.large {
                Some(large) => &mut **large,
                None => &mut self.head,
            };
            let progress = self
                .parser
                .resume(&bytes, head, limits)
                .map_err(Failure::Protocol)?;
            self.pieces = bytes.left.get().unwrap_or(0);
            if progress == Progress::Full {
                self.grow()?;
                continue;
            }
            let come = self
                .taken
                .saturating_add(io.unread().saturating_sub(before));
            if progress != Progress::NeedMore || u32::from(self.parser.position()) >= come {
                return Ok(progress);
            }
            // The other bytes cannot be read where they lie. One byte over the limit is enough to detect a head that is
            // too large.
            let most = u32::from(limits.head).saturating_add(1);
            self.copy_up_to(io, before, come.min(most))?;
        }
    }

    /// Takes the bytes of an incomplete head out of the receive queue.
    #[cold]
    #[inline(never)]
    fn take(&mut self, io: &mut Io<'_>) -> Result<(), Failure> {
        let unread = io.unread();
        let come = self.taken.saturating_add(unread);
        if (copied(&self.copy).len() as u32) < come {
            self.copy_up_to(io, 0, come)?;
        }
        self.taken = come;
        io.consume(unread);
        Ok(())
    }

    /// Returns the complete head and its bytes.
    pub(crate) fn complete<'a>(
        &'a mut self,
        io: &'a Io<'a>,
    ) -> Result<(&'a Head, HeadBytes<'a>), Failure> {
        if self.copy.is_none() {
            let bytes = HeadBytes::new(io, &[], Some(PIECES_MAX));
            if self.is_readable(&bytes) {
                bytes.left.set(None);
                return Ok((self.head(), bytes));
            }
            self.copy_up_to(io, 0, u32::from(self.head().len))?;
        }
        Ok((self.head(), HeadBytes::new(io, copied(&self.copy), None)))
    }

    /// Returns whether the head, complete or not, is that of a HEAD request.
    pub(crate) fn is_head_request(&mut self, io: &Io<'_>) -> bool {
        let method = self.head().method;
        self.complete(io)
            .is_ok_and(|(_, bytes)| method.eq(&bytes, b"HEAD"))
    }

    /// Returns whether all bytes of the complete head can be read where they lie.
    fn is_readable(&self, bytes: &HeadBytes<'_>) -> bool {
        let all = Span::between(0, self.head().len);
        let readable: usize = all.pieces(bytes).map(<[u8]>::len).sum();
        readable == usize::from(all.len)
    }

    /// Extends the copy to the first `len` bytes behind `before`. Fails unless it becomes longer.
    #[cold]
    fn copy_up_to(&mut self, io: &Io<'_>, before: u32, len: u32) -> Result<(), Failure> {
        let copy = match &mut self.copy {
            Some(copy) => copy,
            none => none.insert(
                KBox::new(KVec::new(), GFP_ATOMIC | __GFP_NOWARN).map_err(|_| no_memory())?,
            ),
        };
        let had = copy.len();
        let more = (len as usize).saturating_sub(had);
        copy.extend_with(more, 0, GFP_ATOMIC | __GFP_NOWARN)
            .map_err(|_| no_memory())?;
        let room = copy.as_mut_slice().get_mut(had..).unwrap_or(&mut []);
        let offset = (had as u32).saturating_sub(self.taken);
        let copied = io.copy(before.saturating_add(offset), room);
        copy.truncate(had.saturating_add(copied));
        if copied == 0 {
            return Err(no_memory());
        }
        Ok(())
    }
}

/// Returns the bytes of a copy, if there is one.
fn copied(copy: &Option<KBox<KVec<u8>>>) -> &[u8] {
    copy.as_ref().map_or(&[], |copy| copy.as_slice())
}

/// Makes an empty head where it is to lie: it is too large for the stack.
fn empty_head<const N: usize>() -> impl Init<HeadOf<[Field; N]>, Error> {
    init!(HeadOf::<[Field; N]> {
        method: Span::EMPTY,
        target: Span::EMPTY,
        reason: Span::EMPTY,
        version: Version::Http11,
        status: 0,
        len: 0,
        count: 0,
        fields <- pin_init::init_array_from_fn(|_| Field::UNUSED),
    }? Error)
}

fn no_memory() -> Failure {
    stats::inc(Counter::NoMemory);
    Failure::NoMemory
}
