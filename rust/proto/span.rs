// SPDX-License-Identifier: GPL-2.0

//! Offsets into received bytes, and access to these bytes across fragments.

/// The received, not yet consumed bytes of a connection.
pub trait Source {
    /// Returns the contiguous piece that begins `offset` bytes after the first unconsumed byte.
    ///
    /// Empty if nothing has arrived there yet; otherwise at least one byte long, and as long as the
    /// fragment lasts.
    fn bytes_at(&self, offset: u32) -> &[u8];
}

impl Source for [u8] {
    fn bytes_at(&self, offset: u32) -> &[u8] {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or(&[])
    }
}

/// A [`Sink`] has no room for the bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Takes encoded bytes.
pub trait Sink {
    /// Appends all of `bytes`. On failure, a part of them may have been appended.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full>;
}

/// A range of bytes within a message, as offsets from the message's first byte.
///
/// `start + len` is at most 65535, because a head is (see [`crate::proto::head::MAX_HEAD`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u16,
    /// Number of bytes.
    pub len: u16,
}

impl Span {
    /// The empty span at the start of the message.
    pub const EMPTY: Span = Span { start: 0, len: 0 };

    /// Returns the span from offset `start` to offset `end`, exclusive; empty if `end` is not behind `start`.
    pub const fn between(start: u16, end: u16) -> Span {
        Span {
            start,
            len: end.saturating_sub(start),
        }
    }

    /// Returns the offset behind the last byte.
    pub const fn end(self) -> u16 {
        self.start.saturating_add(self.len)
    }

    /// Returns whether there are no bytes in the span.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Iterates over the contiguous pieces of the span, in order, none of them empty.
    pub fn pieces<S: Source + ?Sized>(self, src: &S) -> Pieces<'_, S> {
        Pieces {
            src,
            next: u32::from(self.start),
            left: usize::from(self.len),
        }
    }

    /// Iterates over the bytes of the span.
    pub fn bytes<S: Source + ?Sized>(self, src: &S) -> Bytes<'_, S> {
        Bytes {
            pieces: self.pieces(src),
            piece: [].iter(),
        }
    }

    /// Returns the span's bytes if they lie in one fragment.
    pub fn contiguous<S: Source + ?Sized>(self, src: &S) -> Option<&[u8]> {
        src.bytes_at(u32::from(self.start))
            .get(..usize::from(self.len))
    }

    /// Compares the span's bytes with `bytes`.
    pub fn eq<S: Source + ?Sized>(self, src: &S, bytes: &[u8]) -> bool {
        self.matches(src, bytes, |a, b| a == b)
    }

    /// Compares the span's bytes with `bytes`, ignoring the case of ASCII letters.
    pub fn eq_ignore_case<S: Source + ?Sized>(self, src: &S, bytes: &[u8]) -> bool {
        self.matches(src, bytes, <[u8]>::eq_ignore_ascii_case)
    }

    /// Compares the bytes of two spans of the same source.
    pub fn same<S: Source + ?Sized>(self, src: &S, other: Span) -> bool {
        self.len == other.len && self.bytes(src).eq(other.bytes(src))
    }

    /// Compares the bytes of two spans of the same source, ignoring the case of ASCII letters.
    pub fn same_ignore_case<S: Source + ?Sized>(self, src: &S, other: Span) -> bool {
        self.len == other.len
            && self
                .bytes(src)
                .zip(other.bytes(src))
                .all(|(a, b)| a.eq_ignore_ascii_case(&b))
    }

    /// Copies the span's bytes to the front of `buffer` and returns them; `None` if they do not fit
    /// or have not all arrived.
    pub fn copy_to<'b, S: Source + ?Sized>(
        self,
        src: &S,
        buffer: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        let mut at = 0usize;
        for piece in self.pieces(src) {
            let end = at.checked_add(piece.len())?;
            buffer.get_mut(at..end)?.copy_from_slice(piece);
            at = end;
        }
        if at != usize::from(self.len) {
            return None;
        }
        buffer.get(..at)
    }

    /// Appends the span's bytes to `sink`.
    pub fn put<S: Source + ?Sized, K: Sink + ?Sized>(
        self,
        src: &S,
        sink: &mut K,
    ) -> Result<(), Full> {
        self.pieces(src).try_for_each(|piece| sink.put(piece))
    }

    /// Compares piece by piece with a function that compares slices of equal length.
    fn matches<S: Source + ?Sized>(
        self,
        src: &S,
        bytes: &[u8],
        same: impl Fn(&[u8], &[u8]) -> bool,
    ) -> bool {
        if usize::from(self.len) != bytes.len() {
            return false;
        }
        let mut rest = bytes;
        for piece in self.pieces(src) {
            match rest.split_at_checked(piece.len()) {
                Some((head, tail)) if same(piece, head) => rest = tail,
                _ => return false,
            }
        }
        rest.is_empty()
    }
}

/// The contiguous pieces of a [`Span`]; see [`Span::pieces`].
pub struct Pieces<'a, S: Source + ?Sized> {
    src: &'a S,
    next: u32,
    left: usize,
}

impl<'a, S: Source + ?Sized> Iterator for Pieces<'a, S> {
    type Item = &'a [u8];

    #[inline] // Mostly there is one piece, and next to nothing to do for it.
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let piece = self.src.bytes_at(self.next);
        let piece = piece.get(..self.left).unwrap_or(piece);
        if piece.is_empty() {
            return None;
        }
        self.left = self.left.saturating_sub(piece.len());
        // A span ends below 64 KiB, so neither the conversion nor the sum can exceed a u32.
        self.next = self
            .next
            .saturating_add(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        Some(piece)
    }
}

/// The bytes of a [`Span`]; see [`Span::bytes`].
pub struct Bytes<'a, S: Source + ?Sized> {
    pieces: Pieces<'a, S>,
    piece: core::slice::Iter<'a, u8>,
}

impl<S: Source + ?Sized> Iterator for Bytes<'_, S> {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        match self.piece.next() {
            Some(byte) => Some(*byte),
            None => {
                self.piece = self.pieces.next()?.iter();
                self.piece.next().copied()
            }
        }
    }
}
