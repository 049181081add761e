// SPDX-License-Identifier: GPL-2.0

//! Heads and trailer sections: lines, and what is on them. RFC 9112 sections 2 to 5.

use super::grammar::{
    is_target_byte,
    is_text,
    is_token,
    trim,
    Field, //
};
use super::Stop;

/// How long a head or a trailer section may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in the head, with the empty line that ends it.
    pub head: usize,
    /// Bytes in the start line with CR LF, which a trailer section has not.
    pub start_line: usize,
    /// Bytes in a field line with CR LF.
    pub field_line: usize,
    /// Field lines; never more than 256.
    pub fields: usize,
}

/// A request line and the fields below it.
#[derive(Clone, Debug)]
pub struct RequestHead {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub minor: u8,
    pub fields: Vec<Field>,
    /// Bytes in the head.
    pub len: usize,
}

/// A status line and the fields below it.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub minor: u8,
    pub status: u16,
    pub reason: Vec<u8>,
    pub fields: Vec<Field>,
    /// Bytes in the head.
    pub len: usize,
}

/// Returns the place of the first `pattern` in `bytes`.
pub fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

/// Reads a request head at the front of `bytes`. RFC 9112 section 3.
pub fn request(bytes: &[u8], limits: &Limits) -> Result<RequestHead, Stop> {
    let (line, fields, len) = with_start_line(bytes, limits)?;
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let &[method, target, version] = &words[..] else {
        return Err(Stop::Refused("request line is not three words"));
    };
    if !is_token(method) {
        return Err(Stop::Refused("method is not a token"));
    }
    if target.is_empty() || !target.iter().all(|&byte| is_target_byte(byte)) {
        return Err(Stop::Refused("byte in the target"));
    }
    Ok(RequestHead {
        method: method.to_vec(),
        target: target.to_vec(),
        minor: minor_version(version)?,
        fields,
        len,
    })
}

/// Reads a response head at the front of `bytes`. RFC 9112 section 4.
///
/// The space before a reason phrase that is empty may be missing.
pub fn response(bytes: &[u8], limits: &Limits) -> Result<ResponseHead, Stop> {
    let (line, fields, len) = with_start_line(bytes, limits)?;
    if line.len() < 12 || line[8] != b' ' {
        return Err(Stop::Refused("status line"));
    }
    let minor = minor_version(&line[..8])?;
    let digits = std::str::from_utf8(&line[9..12]).unwrap_or("");
    let status = match digits.parse::<u16>() {
        Ok(status @ 100..=999) if line[9].is_ascii_digit() => status,
        _ => return Err(Stop::Refused("status code")),
    };
    let reason = match &line[12..] {
        [] => b"",
        [b' ', reason @ ..] if reason.iter().all(|&byte| is_text(byte)) => reason,
        _ => return Err(Stop::Refused("reason phrase")),
    };
    Ok(ResponseHead {
        minor,
        status,
        reason: reason.to_vec(),
        fields,
        len,
    })
}

/// Reads a trailer section at the front of `bytes`, which do not begin with an empty line; returns its
/// fields and length. RFC 9112 section 7.1.2.
pub fn trailers(bytes: &[u8], limits: &Limits) -> Result<(Vec<Field>, usize), Stop> {
    let end = find(bytes, b"\r\n\r\n").ok_or(Stop::Incomplete)?;
    let lines = lines(&bytes[..end]);
    let len = end + 4;
    Ok((fields(&lines, len, limits)?, len))
}

/// Reads a head at the front of `bytes`; returns its start line, the fields, and the length.
fn with_start_line(bytes: &[u8], limits: &Limits) -> Result<(Vec<u8>, Vec<Field>, usize), Stop> {
    let end = find(bytes, b"\r\n\r\n").ok_or(Stop::Incomplete)?;
    let len = end + 4;
    let lines = lines(&bytes[..end]);
    let (line, rest) = lines
        .split_first()
        .ok_or(Stop::Refused("head without lines"))?;
    if line.len() + 2 > limits.start_line {
        return Err(Stop::Refused("start line is too long"));
    }
    if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(Stop::Refused("lone CR or LF in the start line"));
    }
    Ok((line.clone(), fields(rest, len, limits)?, len))
}

/// The lines of `text`, which CR LF separates.
fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = find(rest, b"\r\n") {
        lines.push(rest[..end].to_vec());
        rest = &rest[end + 2..];
    }
    lines.push(rest.to_vec());
    lines
}

/// Reads field lines. RFC 9112 section 5.
fn fields(lines: &[Vec<u8>], len: usize, limits: &Limits) -> Result<Vec<Field>, Stop> {
    if len > limits.head || lines.len() > limits.fields.min(256) {
        return Err(Stop::Refused("head is too large"));
    }
    if lines.iter().any(|line| line.len() + 2 > limits.field_line) {
        return Err(Stop::Refused("field line is too long"));
    }
    let field = |line: &Vec<u8>| -> Result<Field, Stop> {
        // A line that is folded begins with white space, which no token does.
        let colon = line
            .iter()
            .position(|&byte| byte == b':')
            .ok_or(Stop::Refused("field line without colon"))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) {
            return Err(Stop::Refused("field name is not a token"));
        }
        if !value.iter().all(|&byte| is_text(byte)) {
            return Err(Stop::Refused("byte in a field value"));
        }
        Ok((name.to_vec(), trim(value).to_vec()))
    };
    lines.iter().map(field).collect()
}

/// The minor version: 0, or 1 for all above, which are for a recipient of HTTP/1.1 what that is. RFC 9110 section 2.5.
fn minor_version(text: &[u8]) -> Result<u8, Stop> {
    match text {
        b"HTTP/1.0" => Ok(0),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok(1),
        _ => Err(Stop::Refused("version")),
    }
}
