// SPDX-License-Identifier: GPL-2.0

//! The decoder of bodies. It separates framing from content without touching the content. RFC 9112 sections 6 and 7.

use crate::proto::error::Error;
use crate::proto::field::{
    class,
    TOKEN,
    VALUE, //
};
use crate::proto::message::BodyFraming;

/// The limits of a body and its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Most bytes of content in all chunks together. The caller checks a declared length.
    pub content: u64,
    /// Most bytes in one chunk-size line, extensions and CR LF included.
    pub chunk_line: u16,
    /// Most bytes by which chunk-size lines may exceed what ordinary chunks of the same content would need, over a
    /// whole body. This ends floods of chunk extensions.
    pub chunk_excess: u16,
    /// White space is allowed at the end of a chunk-size line. Servers that write sizes with a fixed width send it, and
    /// it has only one reading. In a request it stays an error: RFC 9112 section 7.1.1 does not allow it.
    pub blanks: bool,
}

impl BodyLimits {
    /// Limits that the bodies of common senders stay below.
    pub const DEFAULT: BodyLimits = BodyLimits {
        content: i64::MAX.unsigned_abs(),
        chunk_line: 1024,
        chunk_excess: 16384,
        blanks: false,
    };
}

/// The bytes of a chunk-size line that do not count as excess, besides twice the chunk's content.
const FREE_CHUNK_LINE: u64 = 16;

/// Most digits of a chunk size: as many as a 64-bit number has.
const MAX_SIZE_DIGITS: u8 = 16;

/// What comes next in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first `consumed` bytes are framing, to be dropped. Call again with the bytes behind them;
    /// more are needed if there are none.
    Framing {
        /// How many bytes to drop; 0 only if none were given.
        consumed: usize,
    },
    /// As `Framing`, and a chunk with `size` bytes of content begins behind it.
    Chunk {
        /// How many bytes to drop.
        consumed: usize,
        /// Length of the chunk's content in bytes, at least 1.
        size: u64,
    },
    /// Up to `max` content bytes come next. Forward as many as have arrived and fit, then tell the decoder with
    /// [`BodyDecoder::advance`].
    Data {
        /// How many bytes of content are left, of the chunk or of the whole body; `u64::MAX` if the
        /// body lasts until close.
        max: u64,
    },
    /// A trailer section with at least one field begins with the next byte. Parse it with
    /// [`super::HeadParser::trailers`], consume it, then call [`BodyDecoder::trailers_done`].
    Trailers,
    /// The body has ended. The bytes that follow belong to the next message.
    End {
        /// How many bytes of framing to drop first.
        consumed: usize,
    },
}

/// What the decoder awaits. RFC 9112 section 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Content until the connection closes.
    UntilClose,
    /// Content of known length.
    Fixed,
    /// The first digit of a chunk size.
    SizeBegin,
    /// The states from here to `SizeLf` are those of one line.
    Size,
    /// Behind white space that only an extension may follow, or, with [`BodyLimits::blanks`], the end of the line.
    ExtensionOrSpace,
    /// White space or the first byte of an extension's name.
    NameBegin,
    Name,
    /// Behind white space that `=` or another extension must follow.
    NameEnd,
    /// White space or the first byte of an extension's value.
    ValueBegin,
    Value,
    Quoted,
    Escaped,
    QuotedEnd,
    SizeLf,
    ChunkContent,
    ContentCr,
    ContentLf,
    /// Behind the last chunk: the empty line, or a trailer section.
    AfterLast,
    EndLf,
    Trailers,
    Done,
}

/// Decoder of one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyDecoder {
    /// Bytes of content left, of the chunk or of the body; while a size is read, that size.
    left: u64,
    /// Bytes of content that further chunks may have.
    room: u64,
    /// The excess so far; its limit is [`BodyLimits::chunk_excess`].
    excess: u16,
    max_excess: u16,
    max_line: u16,
    /// Bytes of the chunk size's line so far.
    line: u16,
    digits: u8,
    /// See [`BodyLimits::blanks`].
    blanks: bool,
    state: State,
}

impl BodyDecoder {
    /// Returns a decoder at the first byte of a body.
    pub const fn new(framing: BodyFraming, limits: &BodyLimits) -> BodyDecoder {
        let (state, left) = match framing {
            BodyFraming::None | BodyFraming::Length(0) => (State::Done, 0),
            BodyFraming::Length(length) => (State::Fixed, length),
            BodyFraming::Chunked => (State::SizeBegin, 0),
            BodyFraming::UntilClose => (State::UntilClose, u64::MAX),
        };
        BodyDecoder {
            left,
            room: limits.content,
            excess: 0,
            max_excess: limits.chunk_excess,
            max_line: limits.chunk_line,
            line: 0,
            digits: 0,
            blanks: limits.blanks,
            state,
        }
    }

    /// Looks at `bytes`, the next contiguous unconsumed bytes, and returns what they are.
    ///
    /// It never looks at content. `bytes` may be empty. The result is then `Framing { consumed: 0 }` if more bytes are
    /// needed, or `Data`, `Trailers` or `End` if this is already known. After an error the connection cannot be used
    /// any more.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Error> {
        let mut consumed = 0usize;
        loop {
            let known = match self.state {
                State::UntilClose | State::Fixed | State::ChunkContent => {
                    Some(Step::Data { max: self.left })
                }
                State::Trailers => Some(Step::Trailers),
                State::Done => return Ok(Step::End { consumed }),
                _ => None,
            };
            match known {
                Some(step) if consumed == 0 => return Ok(step),
                Some(_) => return Ok(Step::Framing { consumed }),
                None => {}
            }
            let Some(&byte) = bytes.get(consumed) else {
                return Ok(Step::Framing { consumed });
            };
            if self.state == State::AfterLast && byte != b'\r' {
                self.state = State::Trailers;
                continue;
            }
            self.take(byte)?;
            consumed = consumed.saturating_add(1);
            if self.state == State::ChunkContent {
                let size = self.left;
                return Ok(Step::Chunk { consumed, size });
            }
        }
    }

    /// Notes that `count` bytes of content were consumed: no more than the last [`Step::Data`] allowed.
    pub fn advance(&mut self, count: u64) {
        if self.state == State::UntilClose {
            return;
        }
        self.left = self.left.saturating_sub(count);
        self.state = match (self.left, self.state) {
            (0, State::Fixed) => State::Done,
            (0, State::ChunkContent) => State::ContentCr,
            (_, state) => state,
        };
    }

    /// Notes that the trailer section was consumed.
    pub fn trailers_done(&mut self) {
        if self.state == State::Trailers {
            self.state = State::Done;
        }
    }

    /// Returns how many bytes of content are left of a body of known length; `None` for any other body.
    pub const fn left(&self) -> Option<u64> {
        match self.state {
            State::Fixed => Some(self.left),
            _ => None,
        }
    }

    /// Returns whether a chunk begins with the next byte.
    pub const fn awaits_size(&self) -> bool {
        matches!(self.state, State::SizeBegin)
    }

    /// Returns whether the body has ended and nothing of it is left to consume.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Notes that the sender has ended the connection.
    ///
    /// Fails with [`Error::Truncated`] unless the body has ended, or this is how it ends.
    pub fn closed(&mut self) -> Result<(), Error> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Error::Truncated),
        }
    }

    /// Takes one byte of framing.
    fn take(&mut self, byte: u8) -> Result<(), Error> {
        if self.state >= State::Size && self.state <= State::SizeLf {
            self.line = self.line.saturating_add(1);
            if self.line > self.max_line {
                return Err(Error::ChunkLineTooLong);
            }
        }
        let bad_size = Err(Error::BadChunkSize);
        let bad_extension = Err(Error::BadChunkExtension);
        let token = class(byte) & TOKEN != 0;
        let space = byte == b' ' || byte == b'\t';
        self.state = match (self.state, byte) {
            (State::SizeBegin | State::Size, _) if byte.is_ascii_hexdigit() => {
                return self.size_digit(byte)
            }
            (State::Size | State::Name | State::Value | State::QuotedEnd, b'\r') => State::SizeLf,
            (State::ExtensionOrSpace | State::NameEnd, b'\r') if self.blanks => State::SizeLf,
            (State::Size | State::QuotedEnd | State::ExtensionOrSpace, b';')
            | (State::Name | State::NameEnd | State::Value, b';') => State::NameBegin,
            (State::Size | State::Value | State::QuotedEnd | State::ExtensionOrSpace, _)
                if space =>
            {
                State::ExtensionOrSpace
            }
            (State::SizeBegin | State::Size, _) => return bad_size,
            (State::NameBegin, _) if space => State::NameBegin,
            (State::NameBegin | State::Name, _) if token => State::Name,
            (State::Name | State::NameEnd, b'=') => State::ValueBegin,
            (State::Name | State::NameEnd, _) if space => State::NameEnd,
            (State::ValueBegin, _) if space => State::ValueBegin,
            (State::ValueBegin, b'"') => State::Quoted,
            (State::ValueBegin | State::Value, _) if token => State::Value,
            (State::Quoted, b'"') => State::QuotedEnd,
            (State::Quoted, b'\\') => State::Escaped,
            (State::Quoted | State::Escaped, _) if class(byte) & VALUE != 0 => State::Quoted,
            (State::SizeLf, b'\n') => return self.size_done(),
            (State::ContentCr, b'\r') => State::ContentLf,
            (State::ContentLf, b'\n') => State::SizeBegin,
            (State::AfterLast, _) => State::EndLf,
            (State::EndLf, b'\n') => State::Done,
            (State::SizeLf | State::ContentCr | State::ContentLf | State::EndLf, _) => {
                return Err(Error::BadLineEnd)
            }
            _ => return bad_extension,
        };
        Ok(())
    }

    /// Takes one digit of a chunk size.
    fn size_digit(&mut self, byte: u8) -> Result<(), Error> {
        if self.state == State::SizeBegin {
            self.left = 0;
            self.digits = 0;
            self.line = 1;
            self.state = State::Size;
        }
        self.digits = self.digits.saturating_add(1);
        let digit = match byte {
            b'0'..=b'9' => byte & 0x0f,
            _ => (byte & 0x0f).saturating_add(9),
        };
        self.left = self.left << 4 | u64::from(digit);
        if self.digits > MAX_SIZE_DIGITS || self.left > i64::MAX.unsigned_abs() {
            return Err(Error::BadChunkSize);
        }
        Ok(())
    }

    /// Takes the end of a chunk-size line.
    fn size_done(&mut self) -> Result<(), Error> {
        let free = self.left.saturating_mul(2).saturating_add(FREE_CHUNK_LINE);
        let excess = u64::from(self.excess)
            .saturating_add(u64::from(self.line))
            .saturating_sub(free);
        self.excess = u16::try_from(excess)
            .ok()
            .filter(|&excess| excess <= self.max_excess)
            .ok_or(Error::ChunkExcess)?;
        self.room = self
            .room
            .checked_sub(self.left)
            .ok_or(Error::BodyTooLarge)?;
        self.state = match self.left {
            0 => State::AfterLast,
            _ => State::ChunkContent,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cannot_add_up_to_2_to_the_63() {
        const LARGEST: u64 = i64::MAX as u64;
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked, &BodyLimits::DEFAULT);
        assert_eq!(
            decoder.step(b"7fffffffffffffff\r\n"),
            Ok(Step::Chunk {
                consumed: 18,
                size: LARGEST
            })
        );
        decoder.advance(LARGEST);
        assert_eq!(decoder.step(b"\r\n1\r\n"), Err(Error::BodyTooLarge));
    }
}
