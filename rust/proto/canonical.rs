// SPDX-License-Identifier: GPL-2.0

//! The canonical form of hosts and paths, in which routes are compared with requests.
//!
//! Squall forwards a path unchanged, so a server may read more into it than its bytes say. The comparison therefore
//! reads a path as the most permissive server would. It decodes percent-encodings, takes encoded slashes, repeated
//! slashes and backslashes for one slash, and ignores the parameters of a segment. Some paths have no reading that is
//! safe for all servers, and are errors: those with dot segments in any encoding, with NUL, or with percent signs that
//! encode nothing.

use super::error::Error;
use super::span::{
    Bytes,
    Source,
    Span, //
};
use super::target::ipv6;

/// Longest host that can be compared, in bytes, without a trailing dot. RFC 1035 section 2.3.4.
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

    /// Iterates over the bytes from the last to the first, so that the part that most hosts share comes first.
    pub fn reversed(&self) -> impl Iterator<Item = u8> + '_ {
        self.as_bytes().iter().rev().copied()
    }
}

/// Iterator over the bytes of a path in canonical form. It ends after an error.
pub struct Path<'a, S: Source + ?Sized> {
    bytes: Bytes<'a, S>,
    /// The byte that was returned last; `None` before the first.
    last: Option<u8>,
    /// The number of dots in the segment; `None` if it has any other byte.
    dots: Option<u8>,
    /// The next bytes are parameters of the segment.
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

    /// Checks the whole path. Fails with [`Error::BadPath`] if it cannot be compared.
    pub fn check(mut self) -> Result<(), Error> {
        self.try_for_each(|byte| byte.map(drop))
    }

    /// Returns the next byte, decoded, and whether it was unencoded.
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

/// Reads the two hexadecimal digits behind a percent sign; `None` if they are not digits.
fn encoded(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(bytes.next()?).to_digit(16);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()
}
