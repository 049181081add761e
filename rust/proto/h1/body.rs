// SPDX-License-Identifier: GPL-2.0

//! The decoder of bodies: tells framing from content without touching the content. RFC 9112 sections 6 and 7.

use crate::proto::error::Error;
use crate::proto::message::BodyFraming;

/// Most bytes in the line of one chunk size, extensions and CR LF included.
pub const MAX_CHUNK_LINE: u16 = 1024;

/// Most bytes by which the lines of chunk sizes may exceed what ordinary chunks of the same content
/// would need, over a whole body: ends floods of chunk extensions.
pub const MAX_CHUNK_EXCESS: u16 = 16384;

/// What comes next in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first `consumed` bytes are framing, to be dropped. Call again with the bytes behind them;
    /// more are needed if there are none.
    Framing {
        /// How many bytes to drop; 0 only if none were given.
        consumed: usize,
    },
    /// Like `Framing`, and a chunk with `size` bytes of content begins behind it.
    Chunk {
        /// How many bytes to drop.
        consumed: usize,
        /// Length of the chunk's content in bytes, at least 1.
        size: u64,
    },
    /// Up to `max` content bytes come next. Forward as many of them as are there and as fit, then tell
    /// the decoder by [`BodyDecoder::advance`].
    Data {
        /// How many bytes of content are left, of the chunk or of the whole body; `u64::MAX` if the
        /// body lasts until close.
        max: u64,
    },
    /// A trailer section with at least one field begins with the next byte. Parse it with
    /// [`super::HeadParser::trailers`], consume it, then call [`BodyDecoder::trailers_done`].
    Trailers,
    /// The body has ended: what follows belongs to the next message.
    End {
        /// How many bytes of framing to drop first.
        consumed: usize,
    },
}

/// Decoder of one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyDecoder {
    left: u64,
}

impl BodyDecoder {
    /// Returns a decoder at the first byte of a body.
    pub const fn new(framing: BodyFraming) -> BodyDecoder {
        let _ = framing;
        BodyDecoder { left: 0 }
    }

    /// Looks at `bytes`, the next contiguous bytes that were not consumed, and says what they are.
    ///
    /// Never looks at content. `bytes` may be empty: then the answer is `Framing { consumed: 0 }`
    /// where more bytes are needed to know, and `Data`, `Trailers` or `End` where it is known already.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Error> {
        let _ = bytes;
        Ok(Step::End { consumed: 0 })
    }

    /// Notes that `count` bytes of content were consumed: no more than the last [`Step::Data`] allowed.
    pub fn advance(&mut self, count: u64) {
        self.left = self.left.saturating_sub(count);
    }

    /// Notes that the trailer section was consumed.
    pub fn trailers_done(&mut self) {}

    /// Says whether the body has ended and nothing of it is left to consume.
    pub const fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Notes that the sender has ended the connection.
    ///
    /// Fails with [`Error::Truncated`] unless the body has ended, or this is how it ends.
    pub fn closed(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
