// SPDX-License-Identifier: GPL-2.0

//! Parses lines of the usual form in one go if they have arrived whole.
//!
//! Each of these functions returns how many bytes of the window it took. If a line is cut or has another form, the
//! parser is left in the state that it would have reached byte by byte. It continues from there and finds all errors
//! there.
//!
//! A window ends at or before [`Limits::head`], so no offset and no length in it exceeds 16 bits.

use super::{
    HeadParser,
    State, //
};
use crate::proto::field::{
    KnownField,
    NameMatcher, //
};
use crate::proto::h1::scan;
use crate::proto::head::{
    Field,
    Head,
    Limits, //
};
use crate::proto::message::Version;
use crate::proto::span::Span;

impl HeadParser {
    /// Takes a request line, from its first byte on.
    pub(super) fn request_line(&mut self, window: &[u8], head: &mut Head) -> usize {
        let (method, rest) = split(window, scan::token(window));
        if method.is_empty() {
            return 0;
        }
        self.state = State::Method;
        let [b' ', rest @ ..] = rest else {
            return method.len();
        };
        head.method = span(self.mark, method);
        self.state = State::Target;
        self.mark = behind(head.method).wrapping_add(1);
        let (target, rest) = split(rest, scan::target(rest));
        let used = method.len().wrapping_add(1).wrapping_add(target.len());
        let version = match rest.first_chunk::<11>() {
            Some(b" HTTP/1.1\r\n") => Version::Http11,
            Some(b" HTTP/1.0\r\n") => Version::Http10,
            _ => return used,
        };
        if target.is_empty() {
            return used;
        }
        head.target = span(self.mark, target);
        head.version = version;
        self.end_start_line(used.wrapping_add(11))
    }

    /// Takes a status line, from its first byte on.
    pub(super) fn status_line(&mut self, window: &[u8], head: &mut Head) -> usize {
        const REASON: usize = "HTTP/1.1 200 ".len();
        let Some((start, rest)) = window.split_first_chunk::<REASON>() else {
            return 0;
        };
        let (version, code) = match start {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b' ', code @ .., b' '] => {
                (Version::Http11, code)
            }
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b' ', code @ .., b' '] => {
                (Version::Http10, code)
            }
            _ => return 0,
        };
        let [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = code else {
            return 0;
        };
        head.version = version;
        head.status = [hundreds, tens, ones].iter().fold(0, |number: u16, digit| {
            number
                .wrapping_mul(10)
                .wrapping_add(u16::from(*digit & 0x0f))
        });
        self.state = State::Reason;
        self.mark = self.place(REASON);
        let (reason, rest) = split(rest, scan::value(rest));
        let used = REASON.wrapping_add(reason.len());
        let [b'\r', b'\n', ..] = rest else {
            return used;
        };
        head.reason = span(self.mark, reason);
        self.end_start_line(used.wrapping_add(2))
    }

    /// Goes on to the first field line, behind a start line of `len` bytes. Returns `len`.
    fn end_start_line(&mut self, len: usize) -> usize {
        self.line = self.place(len);
        self.state = State::FieldBegin;
        len
    }

    /// Takes field lines of the form name, colon, space, value, CR LF, which is nearly all of them, and the empty line
    /// behind them.
    pub(super) fn plain_lines(&mut self, window: &[u8], head: &mut Head, limits: &Limits) -> usize {
        let mut places = head.places(limits.fields);
        // The line that is looked at, and the offset of its first byte.
        let mut line = window;
        let mut start = self.pos;
        let end = loop {
            let Some((text, rest)) = line.split_at_checked(scan::token(line)) else {
                break start;
            };
            let name = span(start, text);
            let colon = behind(name);
            let rest = match rest {
                [b':', rest @ ..] if !text.is_empty() => rest,
                [b'\r', b'\n', ..] if text.is_empty() => {
                    self.state = State::Done;
                    break start.wrapping_add(2);
                }
                _ if text.is_empty() => break start,
                _ => {
                    self.begin_name(start, text);
                    break colon;
                }
            };
            let known = KnownField::of_token(text);
            let [b' ', rest @ ..] = rest else {
                self.await_value(name, known);
                break colon.wrapping_add(1);
            };
            let Some((text, rest)) = rest.split_at_checked(scan::value(rest)) else {
                break start;
            };
            let value = span(colon.wrapping_add(2), text);
            match rest {
                [b'\r', b'\n', next @ ..]
                    if text.first() > Some(&b' ') && text.last() > Some(&b' ') =>
                {
                    let Some(place) = places.next() else {
                        break start;
                    };
                    *place = Field {
                        name,
                        value,
                        known,
                        plain: true,
                    };
                    line = next;
                    start = behind(value).wrapping_add(2);
                }
                _ => {
                    self.await_value(name, known);
                    self.begin_value(value.start, text);
                    break behind(value);
                }
            }
        };
        let left = places.len();
        head.use_places(left, limits.fields);
        self.line = start;
        usize::from(end.wrapping_sub(self.pos))
    }

    /// Goes on in a name that begins with `text` at the offset `mark`.
    fn begin_name(&mut self, mark: u16, text: &[u8]) {
        self.mark = mark;
        self.name_matcher = NameMatcher::new();
        self.name_matcher.feed(text);
        self.state = State::Name;
    }

    /// Goes on to a value; no white space before it was seen.
    fn await_value(&mut self, name: Span, known: KnownField) {
        self.name = name;
        self.known = known;
        self.spaces = 0;
        self.state = State::ValueBegin;
    }

    /// Goes on in a value that begins with `text` at the offset `start`, behind one space.
    fn begin_value(&mut self, start: u16, text: &[u8]) {
        let visible = text.trim_ascii_start();
        let spaces = text.len().wrapping_sub(visible.len()) as u16;
        self.spaces = if spaces == 0 { 1 } else { 2 };
        if !visible.is_empty() {
            self.mark = start.wrapping_add(spaces);
            self.value_end = behind(span(self.mark, visible.trim_ascii_end()));
            self.state = State::Value;
        }
    }
}

/// Splits the bytes at `at`.
#[inline]
fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

/// Returns the span of bytes that begin at the offset `start`.
#[inline]
fn span(start: u16, bytes: &[u8]) -> Span {
    Span {
        start,
        len: bytes.len() as u16,
    }
}

/// Returns the offset behind a span within the window.
#[inline]
fn behind(span: Span) -> u16 {
    span.start.wrapping_add(span.len)
}
