// SPDX-License-Identifier: GPL-2.0

//! Authentication that holds for a connection and not for a request: NTLM and Negotiate.
//!
//! A server that has authenticated a client in this way takes every request on the connection for that client's (RFC
//! 4559 section 6). HTTP does not provide for this, but it is in use. A proxy that shares connections has to recognise
//! it.

use super::field::elements;
use super::span::{
    Source,
    Span, //
};

/// The schemes that authenticate a connection, none longer than [`LONGEST`].
const SCHEMES: [&[u8]; 3] = [b"NTLM", b"Negotiate", b"Nego2"];

/// Bytes of the longest of their names.
const LONGEST: u16 = 9;

/// Returns whether credentials, the value of Authorization or Proxy-Authorization, authenticate the connection. RFC
/// 9110 section 11.4.
pub(super) fn credentials_bind<S: Source + ?Sized>(value: Span, src: &S) -> bool {
    // Credentials may be long, and only their first word counts.
    let word = value
        .bytes(src)
        .take(usize::from(LONGEST).saturating_add(1));
    let len = word
        .take_while(|byte| !matches!(byte, b' ' | b'\t'))
        .count();
    let scheme = Span {
        start: value.start,
        len: len as u16,
    };
    SCHEMES.iter().any(|name| scheme.eq_ignore_case(src, name))
}

/// Returns whether one of the challenges in the value of WWW-Authenticate or Proxy-Authenticate is for authentication
/// of the connection. RFC 9110 section 11.6.1.
///
/// Both the challenges and the parameters of each are separated by commas. A parameter has a `=` in the same word as
/// its name or in the next one. Nothing or a token68 follows the name of one of these schemes. A malformed list counts
/// as one with such a challenge: an unnecessary connection of its own for one client does no harm.
pub(super) fn challenges_bind<S: Source + ?Sized>(value: Span, src: &S) -> bool {
    elements(value, src).any(|element| match element {
        Ok(element) => credentials_bind(element, src),
        Err(_) => true,
    })
}
