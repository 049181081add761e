// SPDX-License-Identifier: GPL-2.0

//! Finds the value of a cookie or field by which requests are kept on one server.

use super::field::{
    class,
    KnownField,
    TOKEN, //
};
use super::head::Head;
use super::span::{
    Bytes,
    Source,
    Span, //
};

/// Longest name of a cookie or field that can be looked for, in bytes.
pub const NAME_MAX: usize = 64;

/// The place of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// In the cookie of this name; the case of letters counts.
    Cookie(&'a [u8]),
    /// In the field of this name, in any case.
    Field(&'a [u8]),
}

/// Returns whether this can be the name of such a cookie or field: a token of up to [`NAME_MAX`] bytes. RFC 9110
/// section 5.1, RFC 6265 section 4.1.1.
pub fn is_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.iter().all(|byte| class(*byte) & TOKEN != 0)
}

/// Returns the value in a complete head, without the white space around it; `None` if it is missing, empty, or present
/// several times with different values.
///
/// All lines count: a cookie may be in any Cookie line, and several times in one.
pub fn value<S: Source + ?Sized>(head: &Head, named: Named<'_>, src: &S) -> Option<Span> {
    let mut only = None;
    let mut is_same = |value: Span| match only {
        None => {
            only = Some(value);
            true
        }
        Some(first) => value.same(src, first),
    };
    let agree = match named {
        Named::Cookie(name) => head
            .fields()
            .iter()
            .filter(|field| field.known == KnownField::Cookie)
            .flat_map(|field| cookies(field.value, src))
            .filter(|cookie| cookie.0.eq(src, name))
            .all(|cookie| is_same(cookie.1)),
        Named::Field(name) => head
            .fields()
            .iter()
            .filter(|field| field.name.eq_ignore_case(src, name))
            .all(|field| is_same(field.value)),
    };
    only.filter(|value| agree && !value.is_empty())
}

/// The names and values of a Cookie field.
struct Cookies<'a, S: Source + ?Sized> {
    bytes: Bytes<'a, S>,
    at: u16,
    ended: bool,
}

/// Iterates over the cookies of a Cookie field: name and value without the white space around them. A part without `=`
/// is skipped. Like servers, this splits at every semicolon, also within quotes; the quotes are part of the value. RFC
/// 6265 section 5.2.
fn cookies<S: Source + ?Sized>(value: Span, src: &S) -> Cookies<'_, S> {
    Cookies {
        bytes: value.bytes(src),
        at: value.start,
        ended: false,
    }
}

impl<S: Source + ?Sized> Iterator for Cookies<'_, S> {
    type Item = (Span, Span);

    fn next(&mut self) -> Option<(Span, Span)> {
        while !self.ended {
            let mut part = Span::EMPTY;
            let mut name = None;
            self.ended = true;
            for byte in self.bytes.by_ref() {
                let place = self.at;
                self.at = self.at.saturating_add(1);
                match byte {
                    b';' => {
                        self.ended = false;
                        break;
                    }
                    b'=' if name.is_none() => name = Some(core::mem::take(&mut part)),
                    b' ' | b'\t' => {}
                    _ => {
                        let start = if part.is_empty() { place } else { part.start };
                        part = Span::between(start, self.at);
                    }
                }
            }
            if let Some(name) = name {
                return Some((name, part));
            }
        }
        None
    }
}
