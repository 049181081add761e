// SPDX-License-Identifier: GPL-2.0

//! Request targets and authorities. RFC 9112 section 3.2, RFC 9110 section 4.2.

use core::net::Ipv6Addr;

use super::error::Error;
use super::field::{
    class,
    HOST, //
};
use super::message::Method;
use super::span::{
    Source,
    Span, //
};

/// The forms of a request target that this gateway serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A path and perhaps a query: begins with `/`.
    Origin(Span),
    /// A whole URI of scheme http, https, ws or wss.
    Absolute {
        /// host[:port], valid and without an empty port.
        authority: Span,
        /// Path and query: empty, or begins with `/` or `?`.
        path: Span,
    },
    /// `*`: the server itself. OPTIONS only.
    Asterisk,
    /// A whole URI without path and query, which means `*` in OPTIONS. RFC 9112 section 3.2.4.
    AbsoluteAsterisk {
        /// host[:port], valid and without an empty port.
        authority: Span,
    },
}

impl Target {
    /// Returns path and query: empty, or begins with `/` or `?`. Those of `*` are empty.
    pub fn path(self) -> Span {
        match self {
            Target::Origin(path) | Target::Absolute { path, .. } => path,
            Target::Asterisk | Target::AbsoluteAsterisk { .. } => Span::EMPTY,
        }
    }

    /// Reads the request target of a request with this method.
    pub fn parse<S: Source + ?Sized>(
        target: Span,
        method: Method,
        src: &S,
    ) -> Result<Target, Error> {
        match target.bytes(src).next() {
            Some(b'/') => Ok(Target::Origin(target)),
            Some(b'*') if target.len == 1 && method == Method::Options => Ok(Target::Asterisk),
            Some(_) => match Target::absolute(target, src)? {
                Target::Absolute { authority, path }
                    if path.is_empty() && method == Method::Options =>
                {
                    Ok(Target::AbsoluteAsterisk { authority })
                }
                target => Ok(target),
            },
            None => Err(Error::BadTarget),
        }
    }

    /// Reads a request target in absolute form. RFC 9112 section 3.2.2, RFC 3986 section 3.
    fn absolute<S: Source + ?Sized>(target: Span, src: &S) -> Result<Target, Error> {
        let (scheme, rest) = cut(target, src, |byte| byte == b':');
        let Some(rest) = without_prefix(rest, src, b"://") else {
            return Err(Error::BadTarget);
        };
        if !SCHEMES
            .iter()
            .any(|known| scheme.eq_ignore_case(src, known))
        {
            return Err(Error::BadScheme);
        }
        let (authority, path) = cut(rest, src, |byte| byte == b'/' || byte == b'?');
        let authority = authority_of(authority, src)?;
        Ok(Target::Absolute { authority, path })
    }
}

/// The schemes of an absolute request target. Whether there is TLS depends on the connection alone.
const SCHEMES: [&[u8]; 4] = [b"http", b"https", b"ws", b"wss"];

/// Longest text of an IPv6 address: six groups of four digits and an IPv4 address.
const MAX_IPV6: usize = 45;

/// Reads host [ ":" port ] and returns it. The colon of an empty port, which means the default port, is left out, so
/// that all recipients read the same host. RFC 3986 sections 3.2 and 6.2.3.
///
/// There must be a host. A port is 1 to 65535. User information is refused as RFC 9110 section 4.2.4 advises.
pub fn authority_of<S: Source + ?Sized>(authority: Span, src: &S) -> Result<Span, Error> {
    let port = match without_prefix(authority, src, b"[") {
        Some(rest) => {
            let (literal, rest) = cut(rest, src, |byte| byte == b']');
            if ipv6(authority, src).is_none() && !is_future_literal(literal, src) {
                return Err(Error::BadAuthority);
            }
            without_prefix(rest, src, b"]").ok_or(Error::BadAuthority)?
        }
        None => {
            let (host, rest) = cut(authority, src, |byte| byte == b':');
            if !is_registered_name(host, src) {
                return Err(Error::BadAuthority);
            }
            rest
        }
    };
    if port.is_empty() {
        return Ok(authority);
    }
    match without_prefix(port, src, b":") {
        Some(number) if number.is_empty() => Ok(Span::between(authority.start, port.start)),
        Some(number) if is_port(number, src) => Ok(authority),
        _ => Err(Error::BadAuthority),
    }
}

/// Returns whether the span is an IPvFuture address: `v`, hexadecimal digits, a dot, and bytes of a name or `:`. RFC
/// 3986 section 3.2.2. No route can name it.
fn is_future_literal<S: Source + ?Sized>(literal: Span, src: &S) -> bool {
    let (version, rest) = cut(literal, src, |byte| byte == b'.');
    let mut version = version.bytes(src);
    let mut address = rest.bytes(src).skip(1).peekable();
    matches!(version.next(), Some(b'v' | b'V'))
        && version.next().is_some_and(|byte| byte.is_ascii_hexdigit())
        && version.all(|byte| byte.is_ascii_hexdigit())
        && address.peek().is_some()
        && address.all(|byte| byte == b':' || class(byte) & HOST != 0)
}

/// Returns the IPv6 address in brackets with which `authority` begins. RFC 3986 section 3.2.2.
pub(super) fn ipv6<S: Source + ?Sized>(authority: Span, src: &S) -> Option<Ipv6Addr> {
    let rest = without_prefix(authority, src, b"[")?;
    let (address, _) = cut(rest, src, |byte| byte == b']');
    let mut buffer = [0u8; MAX_IPV6];
    let text = address.copy_to(src, &mut buffer)?;
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// Returns whether the span is a name or IPv4 address. RFC 3986 section 3.2.2, without the comma: see [`HOST`].
fn is_registered_name<S: Source + ?Sized>(host: Span, src: &S) -> bool {
    let mut encoded = 0u8;
    for byte in host.bytes(src) {
        encoded = match (encoded, byte) {
            (0, b'%') => 2,
            (0, _) if class(byte) & HOST != 0 => 0,
            (1.., _) if byte.is_ascii_hexdigit() => encoded.saturating_sub(1),
            _ => return false,
        };
    }
    encoded == 0 && !host.is_empty()
}

/// Returns whether the span is a decimal number from 1 to 65535.
fn is_port<S: Source + ?Sized>(port: Span, src: &S) -> bool {
    let number = port.bytes(src).try_fold(0u16, |number, byte| {
        number
            .checked_mul(10)?
            .checked_add(u16::from(byte.wrapping_sub(b'0')))
            .filter(|_| byte.is_ascii_digit())
    });
    port.len <= 5 && number.is_some_and(|number| number > 0)
}

/// Splits the span before the first byte for which `ends` is true; the second part is empty if there is none.
fn cut<S: Source + ?Sized>(span: Span, src: &S, ends: impl Fn(u8) -> bool) -> (Span, Span) {
    let len = span.bytes(src).take_while(|&byte| !ends(byte)).count();
    let middle = span
        .start
        .saturating_add(u16::try_from(len).unwrap_or(u16::MAX));
    (
        Span::between(span.start, middle),
        Span::between(middle, span.end()),
    )
}

/// Returns what follows `prefix` in the span; `None` if it does not begin with it.
fn without_prefix<S: Source + ?Sized>(span: Span, src: &S, prefix: &[u8]) -> Option<Span> {
    let len = u16::try_from(prefix.len()).ok()?;
    let rest = Span {
        start: span.start.saturating_add(len),
        len: span.len.checked_sub(len)?,
    };
    Span { len, ..span }.eq(src, prefix).then_some(rest)
}
