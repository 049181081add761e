// SPDX-License-Identifier: GPL-2.0

//! The frames of a tunnel: where each begins and ends, and the only frame that Squall writes, a Close. RFC 6455
//! sections 5.2 and 5.5.1.

/// Opcode of a Close frame.
const CLOSE: u8 = 0x8;
/// In the first byte: the last frame of its message.
const FIN: u8 = 0x80;
/// In the second byte: the payload is masked.
const MASK: u8 = 0x80;
/// Length of a masking key.
const KEY_LEN: u64 = 4;

/// Length of a Close frame with a status code, without and with a masking key.
const CLOSE_LEN: usize = 4;
/// See [`CLOSE_LEN`].
pub const MASKED_CLOSE_LEN: usize = CLOSE_LEN + KEY_LEN as usize;

/// The state: what comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// The first byte of a frame.
    #[default]
    First,
    /// The second byte: mask bit and length.
    Second,
    /// This many bytes of an extended length.
    Extended(u8),
    /// The masking key, if there is one, and the payload.
    Payload,
    /// Nothing that can be followed: a length was not valid.
    Broken,
}

/// Follows the frames of one direction of a tunnel, as its bytes pass.
///
/// Looks at headers only. The two ends judge what they contain besides the length and a Close. It is as small as
/// possible, since each open tunnel has two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    /// The higher and the lower half of a number: the bytes of the frame that are still to come or, while an extended
    /// length is read, the length so far.
    left: [u32; 2],
    next: Next,
    masked: bool,
    closed: bool,
}

impl Frames {
    fn left(&self) -> u64 {
        let [high, low] = self.left;
        u64::from(high).wrapping_shl(32) | u64::from(low)
    }

    fn set_left(&mut self, left: u64) {
        self.left = [left.wrapping_shr(32) as u32, left as u32];
    }

    /// Follows bytes; returns how many frames began in them.
    pub fn follow(&mut self, mut bytes: &[u8]) -> u32 {
        let mut begun = 0u32;
        loop {
            if self.next == Next::Payload {
                let count = (bytes.len() as u64).min(self.left());
                self.pass(count);
                bytes = bytes.get(count as usize..).unwrap_or(&[]);
            }
            let Some((&byte, rest)) = bytes.split_first() else {
                return begun;
            };
            bytes = rest;
            match self.next {
                Next::First => {
                    begun = begun.saturating_add(1);
                    self.closed |= byte & 0xf == CLOSE;
                    self.next = Next::Second;
                }
                Next::Second => {
                    self.masked = byte & MASK != 0;
                    self.set_left(0);
                    match byte & !MASK {
                        126 => self.next = Next::Extended(2),
                        127 => self.next = Next::Extended(8),
                        len => self.measured(u64::from(len)),
                    }
                }
                Next::Extended(more) => {
                    let len = self.left().wrapping_shl(8) | u64::from(byte);
                    self.set_left(len);
                    match more {
                        ..=1 => self.measured(len),
                        more => self.next = Next::Extended(more.saturating_sub(1)),
                    }
                }
                Next::Payload => {}
                Next::Broken => return begun,
            }
        }
    }

    /// The length of the payload is known.
    fn measured(&mut self, len: u64) {
        // The most significant bit must be 0.
        if len > i64::MAX.unsigned_abs() {
            self.next = Next::Broken;
            return;
        }
        let key = if self.masked { KEY_LEN } else { 0 };
        self.set_left(len.saturating_add(key));
        self.next = Next::Payload;
        self.pass(0);
    }

    /// Skips `count` bytes if all of them are payload. Returns whether they are.
    pub fn pass(&mut self, count: u64) -> bool {
        if self.next != Next::Payload {
            return false;
        }
        let Some(left) = self.left().checked_sub(count) else {
            return false;
        };
        self.set_left(left);
        if left == 0 {
            self.next = Next::First;
        }
        true
    }

    /// Returns a lower bound on the bytes of the current frame that are still to come: 0 only between two frames.
    pub fn rest(&self) -> u64 {
        match self.next {
            Next::First => 0,
            Next::Second | Next::Broken => 1,
            Next::Extended(more) => u64::from(more),
            Next::Payload => self.left(),
        }
    }

    /// Returns whether a Close frame has begun: no other may be sent after it.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns whether a frame had a length that is not valid.
    pub fn is_broken(&self) -> bool {
        self.next == Next::Broken
    }
}

/// Writes a Close frame with a status code into `buffer`; returns it.
///
/// `key`: the masking key of a frame to a server; it must be random (RFC 6455 section 5.3).
pub fn close(code: u16, key: Option<[u8; 4]>, buffer: &mut [u8; MASKED_CLOSE_LEN]) -> &[u8] {
    let [high, low] = code.to_be_bytes();
    match key {
        None => {
            let frame: [u8; CLOSE_LEN] = [FIN | CLOSE, 2, high, low];
            for (to, from) in buffer.iter_mut().zip(frame) {
                *to = from;
            }
            buffer.get(..CLOSE_LEN).unwrap_or(&[])
        }
        Some([a, b, c, d]) => {
            *buffer = [FIN | CLOSE, MASK | 2, a, b, c, d, high ^ a, low ^ b];
            buffer
        }
    }
}
