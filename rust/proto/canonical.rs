// SPDX-License-Identifier: GPL-2.0

//! Hosts and paths in the form in which a route's are compared with a request's.
//!
//! What is forwarded stays as it was received, so a server may read more into a path than its bytes
//! say. A path is therefore compared as the most generous server would read it: percent-encodings are
//! decoded, a slash may be encoded, repeated or a backslash, and the parameters of a segment are none
//! of its name. What no comparison can be right about is an error: dot segments, however they are
//! written, NUL, and percent signs that encode nothing.

use super::error::Error;
use super::span::{
    Bytes,
    Source,
    Span, //
};
use super::target::ipv6;

/// Longest host that can be compared with, in bytes, a trailing dot not counted. RFC 1035 section 2.3.4.
pub const HOST_MAX: usize = 253;

/// A host in the form in which hosts are compared: decoded, in lower case, without port and trailing
/// dot; an IPv6 address by its value.
pub struct Host {
    bytes: [u8; HOST_MAX + 1],
    len: u8,
}

impl Host {
    /// Reads the host of a valid authority, host[:port].
    ///
    /// `None` if no route can name it: it is too long, has an empty label, or a byte that is neither
    /// an ASCII letter or digit, nor `-`, `_` or `.`.
    pub fn from_authority<S: Source + ?Sized>(authority: Span, src: &S) -> Option<Host> {
        let mut host = Host {
            bytes: [0; HOST_MAX + 1],
            len: 0,
        };
        let mut bytes = authority.bytes(src);
        if let Some(address) = ipv6(authority, src) {
            // Neither a name nor the end of one, whatever the bytes of the address are.
            host.push(b'[')?;
            for octet in address.octets() {
                host.push(octet)?;
            }
            host.push(b']')?;
            return Some(host);
        }
        let mut label = 0usize;
        while let Some(byte) = bytes.next() {
            let byte = match byte {
                b':' => break,
                b'%' => encoded(&mut bytes)?,
                byte => byte,
            };
            label = match byte {
                b'.' if label == 0 => return None,
                b'.' => 0,
                b'-' | b'_' => label.saturating_add(1),
                _ if byte.is_ascii_alphanumeric() => label.saturating_add(1),
                _ => return None,
            };
            host.push(byte.to_ascii_lowercase())?;
        }
        if host.as_bytes().last() == Some(&b'.') {
            host.len = host.len.saturating_sub(1);
        }
        let fits = (1..=HOST_MAX).contains(&usize::from(host.len));
        fits.then_some(host)
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(usize::from(self.len))? = byte;
        self.len = self.len.checked_add(1)?;
        Some(())
    }

    /// Returns the bytes that are compared.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Iterates over the bytes from the last to the first: the part that most hosts share comes first.
    pub fn reversed(&self) -> impl Iterator<Item = u8> + '_ {
        self.as_bytes().iter().rev().copied()
    }
}

/// The bytes of a path in the form in which paths are compared; after an error there is nothing more.
pub struct Path<'a, S: Source + ?Sized> {
    bytes: Bytes<'a, S>,
    /// The byte that was returned last; `None` before the first.
    last: Option<u8>,
    /// Of how many dots the segment consists; `None` if it has something else.
    dots: Option<u8>,
    /// What comes are parameters of the segment.
    parameters: bool,
    ended: bool,
}

impl<'a, S: Source + ?Sized> Path<'a, S> {
    /// Begins with the first byte of `target`, a path and perhaps a query. An empty one is `/`.
    pub fn new(target: Span, src: &'a S) -> Self {
        Path {
            bytes: target.bytes(src),
            last: None,
            dots: Some(0),
            parameters: false,
            ended: false,
        }
    }

    /// Looks at the whole path. Fails with [`Error::BadPath`] if it cannot be compared.
    pub fn check(mut self) -> Result<(), Error> {
        self.try_for_each(|byte| byte.map(drop))
    }

    /// Returns what follows: its byte, and whether it stands for itself.
    fn decoded(&mut self) -> Result<Option<(u8, bool)>, Error> {
        match self.bytes.next() {
            None | Some(b'?') => Ok(None),
            Some(b'%') => match encoded(&mut self.bytes) {
                None | Some(0) => Err(Error::BadPath),
                Some(byte) => Ok(Some((byte, false))),
            },
            Some(byte) => Ok(Some((byte, true))),
        }
    }

    fn advance(&mut self) -> Result<Option<u8>, Error> {
        while let Some((byte, plain)) = self.decoded()? {
            match byte {
                b'/' | b'\\' => {
                    self.end_segment()?;
                    if self.last == Some(b'/') {
                        continue;
                    }
                    return Ok(Some(b'/'));
                }
                _ if self.parameters => {}
                b';' if plain => self.parameters = true,
                _ => {
                    self.dots = match (byte, self.dots) {
                        (b'.', Some(dots)) => Some(dots.saturating_add(1)),
                        _ => None,
                    };
                    return Ok(Some(byte));
                }
            }
        }
        self.ended = true;
        self.end_segment()?;
        Ok(match self.last {
            None => Some(b'/'),
            Some(_) => None,
        })
    }

    fn end_segment(&mut self) -> Result<(), Error> {
        self.parameters = false;
        match self.dots.replace(0) {
            Some(1 | 2) => Err(Error::BadPath),
            _ => Ok(()),
        }
    }
}

impl<S: Source + ?Sized> Iterator for Path<'_, S> {
    type Item = Result<u8, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let byte = self.advance();
        match byte {
            Ok(Some(_)) => self.last = byte.ok().flatten(),
            _ => self.ended = true,
        }
        byte.transpose()
    }
}

/// Reads the two digits behind a percent sign; `None` if they are none.
fn encoded(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(bytes.next()?).to_digit(16);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()
}
