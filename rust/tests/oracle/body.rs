// SPDX-License-Identifier: GPL-2.0

//! Bodies: how they are framed and what is in them. RFC 9112 sections 6 and 7.

use super::grammar::{
    is_text,
    is_token,
    number,
    trim,
    values,
    Field, //
};
use super::head::{
    self,
    find,
    trailers, //
};
use super::Stop;

/// Largest length of a body and of a chunk.
const MAX_LENGTH: u128 = (1 << 63) - 1;

/// How large a body and its framing may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of content in chunks.
    pub content: u128,
    /// Bytes in the line of a chunk size with CR LF.
    pub chunk_line: usize,
    /// Bytes by which such lines may outweigh the content: each is worth 16, and two for each byte of its chunk. What
    /// one line leaves of that is of no use to another.
    pub chunk_excess: u128,
    /// White space may stand at the end of the line of a chunk size.
    pub blanks: bool,
    /// Those of the trailer section.
    pub trailers: head::Limits,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u128),
    Chunked,
    UntilClose,
}

impl std::fmt::Display for Framing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Framing::None => f.write_str("none"),
            Framing::Length(length) => write!(f, "length={length}"),
            Framing::Chunked => f.write_str("chunked"),
            Framing::UntilClose => f.write_str("until-close"),
        }
    }
}

/// What the fields declare: nothing, a length, or chunks. RFC 9112 sections 6.1 to 6.3.
pub fn declared(fields: &[Field], minor: u8) -> Result<Framing, Stop> {
    let lengths = values(fields, "content-length");
    let codings = values(fields, "transfer-encoding");
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::None),
        ([length], []) => match number(length) {
            Some(number) if number <= MAX_LENGTH => Ok(Framing::Length(number)),
            _ => Err(Stop::Refused("Content-Length")),
        },
        ([], [coding]) if minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked)
        }
        _ => Err(Stop::Refused(
            "several lengths or codings, or an unknown one",
        )),
    }
}

/// What was read of a body, complete or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    pub content: Vec<u8>,
    /// Bytes that are missing of the last chunk's content, or of the body if its length is known.
    pub missing: u128,
    /// The trailer section, if there is one.
    pub trailers: Option<Vec<Field>>,
}

/// Reads a body at the front of `bytes`. Returns how long it is, or why it has no end; and what was read.
///
/// `closed`: behind the bytes the sender closed the connection.
pub fn body(
    bytes: &[u8],
    framing: Framing,
    closed: bool,
    limits: &Limits,
) -> (Result<usize, Stop>, Body) {
    let mut body = Body::default();
    let cut_short = match closed {
        true => Stop::Refused("closed before the end"),
        false => Stop::InContent,
    };
    let end = match framing {
        Framing::None => Ok(0),
        Framing::Length(length) => {
            let have = bytes
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            body.content = bytes[..have].to_vec();
            body.missing = length - have as u128;
            match body.missing {
                0 => Ok(have),
                _ => Err(cut_short),
            }
        }
        Framing::UntilClose => {
            body.content = bytes.to_vec();
            match closed {
                true => Ok(bytes.len()),
                false => Err(Stop::InContent),
            }
        }
        Framing::Chunked => match chunks(bytes, limits, &mut body) {
            Err(Stop::Incomplete | Stop::InContent) if closed => Err(cut_short),
            end => end,
        },
    };
    (end, body)
}

/// Reads chunks up to the end of the trailer section; returns how many bytes that are.
fn chunks(bytes: &[u8], limits: &Limits, body: &mut Body) -> Result<usize, Stop> {
    let mut at = 0;
    let mut excess = 0;
    let mut total = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n").ok_or(Stop::Incomplete)?;
        if line + 2 > limits.chunk_line {
            return Err(Stop::Refused("line of a chunk size is too long"));
        }
        let text = &bytes[at..at + line];
        let size = chunk_size(if limits.blanks { trim_end(text) } else { text })?;
        at += line + 2;
        excess = (excess + line as u128 + 2).saturating_sub(16 + 2 * size);
        if excess > limits.chunk_excess {
            return Err(Stop::Refused("too many chunk extensions"));
        }
        total += size;
        if total > limits.content {
            return Err(Stop::Refused("too much content"));
        }
        if size == 0 {
            break;
        }
        let left = bytes.len() - at;
        let have = left.min(usize::try_from(size).unwrap_or(usize::MAX));
        body.content.extend_from_slice(&bytes[at..at + have]);
        body.missing = size - have as u128;
        if body.missing > 0 {
            return Err(Stop::InContent);
        }
        at += have;
        match &bytes[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [] => return Err(Stop::InContent),
            [b'\r'] => return Err(Stop::Incomplete),
            _ => return Err(Stop::Refused("no CR LF behind a chunk")),
        }
    }
    match &bytes[at..] {
        [b'\r', b'\n', ..] => Ok(at + 2),
        [] | [b'\r'] => Err(Stop::Incomplete),
        [b'\r', ..] => Err(Stop::Refused("no LF behind the last chunk")),
        section => {
            let (fields, len) = trailers(section, &limits.trailers).map_err(|stop| match stop {
                Stop::Incomplete => Stop::InTrailers,
                stop => stop,
            })?;
            body.trailers = Some(fields);
            Ok(at + len)
        }
    }
}

/// Reads the line of a chunk size: 1 to 16 hexadecimal digits, extensions. RFC 9112 section 7.1.
fn chunk_size(line: &[u8]) -> Result<u128, Stop> {
    let digits = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (size, extensions) = line.split_at(digits);
    if !(1..=16).contains(&size.len()) {
        return Err(Stop::Refused("digits of a chunk size"));
    }
    let size = std::str::from_utf8(size)
        .ok()
        .and_then(|size| u128::from_str_radix(size, 16).ok())
        .filter(|&size| size <= MAX_LENGTH)
        .ok_or(Stop::Refused("chunk of 2^63 bytes"))?;
    match are_extensions(extensions) {
        true => Ok(size),
        false => Err(Stop::Refused("chunk extension")),
    }
}

/// chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ). RFC 9112 section 7.1.1.
fn are_extensions(text: &[u8]) -> bool {
    if text.is_empty() {
        return true;
    }
    let Some((before, extensions)) = split_unquoted(text, b';').and_then(|parts| {
        let (before, extensions) = parts.split_first()?;
        Some((before.clone(), extensions.to_vec()))
    }) else {
        return false;
    };
    // White space at the end of the line belongs to nothing.
    let last = extensions.last().unwrap_or(&before);
    if !trim(&before).is_empty() || trim_start(last) != trim(last) {
        return false;
    }
    !extensions.is_empty()
        && extensions
            .iter()
            .all(|extension| is_extension(trim(extension)))
}

/// chunk-ext-name [ BWS "=" BWS ( token / quoted-string ) ].
fn is_extension(text: &[u8]) -> bool {
    match text.iter().position(|&byte| byte == b'=') {
        None => is_token(text),
        Some(at) => {
            let value = trim(&text[at + 1..]);
            is_token(trim(&text[..at])) && (is_token(value) || is_quoted_string(value))
        }
    }
}

/// DQUOTE *( qdtext / quoted-pair ) DQUOTE. RFC 9110 section 5.6.4.
fn is_quoted_string(text: &[u8]) -> bool {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        return false;
    };
    loop {
        rest = match rest {
            [b'"'] => return true,
            [b'\\', byte, rest @ ..] if is_text(*byte) => rest,
            [b'\\' | b'"', ..] => return false,
            [byte, rest @ ..] if is_text(*byte) => rest,
            _ => return false,
        };
    }
}

/// Splits at separators that are not in quoted strings; `None` if a quoted string has no end.
pub fn split_unquoted(text: &[u8], separator: u8) -> Option<Vec<Vec<u8>>> {
    let mut parts = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let part = parts.last_mut()?;
        if byte == separator && !quoted {
            parts.push(Vec::new());
            continue;
        }
        part.push(byte);
        if byte == b'"' {
            quoted = !quoted;
        } else if byte == b'\\' && quoted {
            part.push(*bytes.next()?);
        }
    }
    (!quoted).then_some(parts)
}

/// Removes SP and HTAB at the end.
fn trim_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| !matches!(byte, b' ' | b'\t'));
    &text[..end.map_or(0, |at| at + 1)]
}

/// Removes SP and HTAB at the front.
fn trim_start(text: &[u8]) -> &[u8] {
    let start = text
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t'))
        .unwrap_or(text.len());
    &text[start..]
}
