// SPDX-License-Identifier: GPL-2.0

//! Test vectors: messages as data, with the expected results. Part of the test crates only.
//!
//! A file of vectors is text. `#` begins a comment line, an empty line ends a vector, any other line is
//! `key: value`. Byte strings are quoted, with the escapes `\r \n \t \\ \" \xHH`; several lines of one
//! key are joined, and `key x100: "..."` stands for 100 such lines. The keys:
//!
//! | key | value |
//! |---|---|
//! | `vector` | its name; first line |
//! | `kind` | `request`; `response`; `error`: a response of our own; `chunk`: the line that opens a chunk |
//! | `limits` | `head`, `start_line`, `field_line`, `fields`, `chunk_line`, `chunk_excess`, `trailers`, `trailer_fields` or `content`, `=`, number; any of them, by spaces |
//! | `client` | the address of the client, instead of 192.0.2.7 |
//! | `trusted` | `yes`: the client may say whom it acts for |
//! | `forwarded` | `yes`: a Forwarded field is written |
//! | `via` | `yes`: a Via field is added to requests and responses |
//! | `request` | bytes of the request that a response answers; a plain GET if absent |
//! | `raw` | the bytes that arrive |
//! | `close` | `yes`: then the sender closes the connection; of a response of our own: we do |
//! | `last` | `yes`: the connection to which the message goes ends behind it, for a reason of ours |
//! | `strict` | `yes`: an offer or a 101 that has a flaw is refused |
//! | `status`, `head` | status code of a response of our own; `yes`: it answers HEAD |
//! | `size` | content of a chunk in bytes |
//! | `event` | one line of what the parser must say |
//! | `out` | the bytes that must be forwarded |
//!
//! Events: `request FRAMING keep|close [expect] [upgrade]`, `response STATUS interim|switch|final
//! FRAMING keep|close deliver FRAMING keep|close`, before it `tolerates NAME` if the offer or the 101 has a flaw, and `contradicts
//! itself` if a response without content declares some, `accepted`, `body N`, `trailers N`, `rest N` (bytes
//! left behind an upgrade, a final response, or the last request of a connection), `need more`, `closed`, `error NAME STATUS`.

use core::fmt;

use crate::proto::span::{
    Full,
    Sink,
    Source, //
};

/// The way in which the bytes of a vector arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// All at once, in one fragment.
    Whole,
    /// In two fragments, the first of this length, the second later.
    Cut(usize),
    /// In fragments of one byte, one after the other.
    Bytes,
    /// In fragments of these lengths in turn, one after the other; 0 counts as 256.
    Pieces([u8; 4]),
}

impl Arrival {
    /// Returns the offset behind the fragment with the byte at offset `at`, which may be beyond the last byte.
    fn fragment_end(self, at: usize) -> usize {
        match self {
            Arrival::Whole => usize::MAX,
            Arrival::Cut(first) if at < first => first,
            Arrival::Cut(_) => usize::MAX,
            Arrival::Bytes => at.saturating_add(1),
            Arrival::Pieces(lengths) => {
                let lengths = lengths.map(|len| if len == 0 { 256 } else { usize::from(len) });
                let round: usize = lengths.iter().sum();
                let mut end = at.saturating_sub(at.checked_rem(round).unwrap_or(0));
                for len in lengths {
                    end = end.saturating_add(len);
                    if end > at {
                        break;
                    }
                }
                end
            }
        }
    }
}

/// The bytes of a vector that have arrived and are not consumed.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    raw: &'a [u8],
    arrival: Arrival,
    /// How many of the bytes have arrived.
    visible: usize,
    /// How many of the bytes were consumed.
    consumed: usize,
}

impl<'a> Arrived<'a> {
    /// Returns the state in which the first fragment has arrived.
    pub fn new(raw: &'a [u8], arrival: Arrival) -> Arrived<'a> {
        let first = match arrival {
            Arrival::Cut(first) => first,
            _ => arrival.fragment_end(0),
        };
        Arrived {
            raw,
            arrival,
            visible: first.min(raw.len()),
            consumed: 0,
        }
    }

    /// Lets the next fragment arrive. Returns whether there was one.
    pub fn more(&mut self) -> bool {
        let before = self.visible;
        self.visible = self.arrival.fragment_end(before).min(self.raw.len());
        self.visible > before
    }

    /// Drops the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.consumed = self.consumed.saturating_add(count).min(self.visible);
    }

    /// Returns how many bytes have arrived and were not consumed.
    pub fn len(&self) -> usize {
        self.visible.saturating_sub(self.consumed)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Source for Arrived<'_> {
    fn bytes_at(&self, offset: u32) -> &[u8] {
        let start = self
            .consumed
            .saturating_add(usize::try_from(offset).unwrap_or(usize::MAX));
        let end = self.visible.min(self.arrival.fragment_end(start));
        self.raw.get(start..end).unwrap_or(&[])
    }
}

/// One vector of a file.
#[derive(Clone, Copy, Debug)]
pub struct Vector<'a> {
    /// Its name.
    pub name: &'a str,
    /// All its lines.
    text: &'a str,
}

/// Iterates over the vectors of a file.
pub fn parse(file: &str) -> impl Iterator<Item = Vector<'_>> {
    file.split("\n\n").filter_map(|text| {
        let vector = Vector { name: "", text };
        let name = vector.values("vector").next()?.1;
        Some(Vector { name, ..vector })
    })
}

impl<'a> Vector<'a> {
    /// Iterates over the values of one key, each with its number of repetitions.
    fn values(&self, key: &'a str) -> impl Iterator<Item = (usize, &'a str)> + Clone {
        self.text.lines().filter_map(move |line| {
            let (left, value) = line.split_once(": ")?;
            let (name, times) = match left.split_once(" x") {
                Some((name, times)) => (name, times.parse().ok()?),
                None => (left, 1),
            };
            (name == key).then_some((times, value))
        })
    }

    /// Returns the value of a key that occurs once.
    pub fn value(&self, key: &'a str) -> Option<&'a str> {
        self.values(key).next().map(|(_, value)| value)
    }

    /// Returns whether the vector has the key.
    pub fn has(&self, key: &'a str) -> bool {
        self.value(key).is_some()
    }

    /// Iterates over the bytes of the quoted values of a key, without escapes.
    pub fn bytes(&self, key: &'a str) -> impl Iterator<Item = u8> + 'a {
        self.values(key)
            .flat_map(|(times, value)| core::iter::repeat_n(value, times))
            .flat_map(|value| {
                let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                Unescaped(quoted.unwrap_or("").as_bytes().iter())
            })
    }

    /// Iterates over the bytes of the events that must happen, each line ended by a line feed.
    pub fn events(&self) -> impl Iterator<Item = u8> + 'a {
        self.values("event")
            .flat_map(|(_, line)| line.bytes().chain(core::iter::once(b'\n')))
    }
}

/// Writes what an iterator yields to the front of `buffer` and returns it; `None` if it does not fit.
pub fn collect(bytes: impl Iterator<Item = u8>, buffer: &mut [u8]) -> Option<&[u8]> {
    let mut len = 0usize;
    for byte in bytes {
        *buffer.get_mut(len)? = byte;
        len = len.checked_add(1)?;
    }
    buffer.get(..len)
}

/// The bytes of an escaped string, without escapes.
struct Unescaped<'a>(core::slice::Iter<'a, u8>);

impl Iterator for Unescaped<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let byte = *self.0.next()?;
        if byte != b'\\' {
            return Some(byte);
        }
        match *self.0.next()? {
            b'r' => Some(b'\r'),
            b'n' => Some(b'\n'),
            b't' => Some(b'\t'),
            b'x' => {
                let high = char::from(*self.0.next()?).to_digit(16)?;
                let low = char::from(*self.0.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()
            }
            other => Some(other),
        }
    }
}

/// Compares bytes, as they are written, with the expected ones.
#[derive(Debug)]
pub struct Compare<'a> {
    expected: &'a [u8],
    same: bool,
}

impl<'a> Compare<'a> {
    /// Returns an observer that expects these bytes.
    pub fn new(expected: &'a [u8]) -> Self {
        Compare {
            expected,
            same: true,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match self.expected.strip_prefix(bytes) {
            Some(rest) => self.expected = rest,
            None => self.same = false,
        }
    }

    /// Returns whether exactly the expected bytes were written.
    pub fn complete(self) -> bool {
        self.same && self.expected.is_empty()
    }
}

impl Sink for Compare<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.take(bytes);
        Ok(())
    }
}

impl fmt::Write for Compare<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.take(text.as_bytes());
        Ok(())
    }
}
