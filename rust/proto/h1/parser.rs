// SPDX-License-Identifier: GPL-2.0

//! The parser of heads and trailer sections. It can be resumed at every byte and looks at each byte once.
//!
//! [`whole`] takes whole lines of the usual form in one go. The states here handle every form and every split.

mod whole;

use super::scan;
use crate::proto::error::Error;
use crate::proto::field::{
    KnownField,
    NameMatcher, //
};
use crate::proto::head::{
    Field,
    Head,
    Limits, //
};
use crate::proto::message::Version;
use crate::proto::span::{
    Source,
    Span, //
};

/// How far the parser got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All bytes that have arrived were parsed; more are needed.
    NeedMore,
    /// The head has no room for another field line, but the limits allow more. Continue with a larger head that copied
    /// this one.
    Full,
    /// The head is complete. Its `len` bytes, empty line included, can be consumed when they are no longer needed.
    Done {
        /// The length of the head in bytes.
        len: u16,
    },
}

/// The kind of message part that the parser reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    Trailers,
}

/// What the parser awaits, in the order of a message. RFC 9112 section 2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// The first byte of a request.
    Begin,
    Method,
    Target,
    /// `HTTP/1.1`; `matched` bytes of it were seen.
    Version,
    /// The byte behind the version: CR in a request, a space in a response.
    AfterVersion,
    /// Three digits; `matched` of them were seen.
    Status,
    AfterStatus,
    Reason,
    StartLineLf,
    /// The first byte of a field line, or the CR of the empty line.
    FieldBegin,
    Name,
    /// White space before a field value.
    ValueBegin,
    Value,
    /// Room for the field line, at its CR.
    Room,
    FieldLf,
    /// The LF of the empty line that ends the head.
    EndLf,
    Done,
}

/// The version of the start line, with `0` for its digits.
const VERSION: &[u8; 8] = b"HTTP/0.0";

/// Parser of one head. It keeps only offsets, so nothing may be consumed until the head is complete.
#[derive(Clone, Copy, Debug)]
pub struct HeadParser {
    kind: Kind,
    state: State,
    failed: Option<Error>,
    /// Bytes of `VERSION`, or digits of the status code, seen so far.
    matched: u8,
    /// White space before the field value: 2 means anything but exactly one space.
    spaces: u8,
    /// Matcher of a name that arrives in pieces.
    name_matcher: NameMatcher,
    known: KnownField,
    /// Offset of the next byte to look at.
    pos: u16,
    /// Offset of the line's first byte.
    line: u16,
    /// Offset of the element's first byte.
    mark: u16,
    /// Offset behind the field value's last byte that is not white space.
    value_end: u16,
    name: Span,
    /// Digits read as a number: of the version, or of the status code.
    number: u16,
}

impl HeadParser {
    /// Returns a parser of a request head; [`super::blank::skip`] has skipped what comes before it.
    pub const fn request() -> HeadParser {
        HeadParser::new(Kind::Request, State::Begin)
    }

    /// Returns a parser of a response head.
    pub const fn response() -> HeadParser {
        HeadParser::new(Kind::Response, State::Version)
    }

    /// Returns a parser of a trailer section.
    pub const fn trailers() -> HeadParser {
        HeadParser::new(Kind::Trailers, State::FieldBegin)
    }

    const fn new(kind: Kind, state: State) -> HeadParser {
        HeadParser {
            kind,
            state,
            failed: None,
            matched: 0,
            spaces: 0,
            name_matcher: NameMatcher::new(),
            known: KnownField::Other,
            pos: 0,
            line: 0,
            mark: 0,
            value_end: 0,
            name: Span::EMPTY,
            number: 0,
        }
    }

    /// Returns whether a byte of the head was seen (a head's timeout starts with it).
    pub const fn has_begun(&self) -> bool {
        self.pos > 0
    }

    /// Returns how many bytes of the head were parsed.
    pub const fn position(&self) -> u16 {
        self.pos
    }

    /// Parses the bytes that arrived since the last call and notes the result in `head`.
    ///
    /// `head` must be empty at the first call. Further calls need the same `head`, or a copy of it after
    /// [`Progress::Full`], and the same `limits`. After an error the connection cannot be used any more, and a further
    /// call returns the same error.
    pub fn resume<S: Source + ?Sized>(
        &mut self,
        src: &S,
        head: &mut Head,
        limits: &Limits,
    ) -> Result<Progress, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while self.state != State::Done {
            if self.state == State::Room {
                if head.is_full() {
                    return Ok(Progress::Full);
                }
                self.state = State::Value;
            }
            let piece = src.bytes_at(u32::from(self.pos));
            if piece.is_empty() {
                return Ok(Progress::NeedMore);
            }
            if let Err(error) = self.scan(piece, head, limits) {
                self.failed = Some(error);
                return Err(error);
            }
        }
        Ok(Progress::Done { len: head.len })
    }

    /// Parses the bytes of one fragment, line by line, until it or the head ends.
    fn scan(&mut self, piece: &[u8], head: &mut Head, limits: &Limits) -> Result<(), Error> {
        let mut rest = piece;
        while !rest.is_empty() && !matches!(self.state, State::Done | State::Room) {
            // Nothing behind a limit is parsed, so that the outcome is the same for any split.
            let window = rest.get(..self.allowance(limits)?).unwrap_or(rest);
            let whole = match self.state {
                State::Begin => self.request_line(window, head),
                State::Version if self.pos == 0 => self.status_line(window, head),
                State::FieldBegin => self.plain_lines(window, head, limits),
                _ => 0,
            };
            let used = match self.state {
                _ if whole > 0 => whole,
                state if state < State::FieldBegin => self.start_line(window, head)?,
                _ => self.field_line(window, head, limits)?,
            };
            self.pos = self.place(used);
            rest = rest.get(used..).unwrap_or(&[]);
        }
        if self.state == State::Done {
            head.len = self.pos;
        }
        Ok(())
    }

    /// Returns how many more bytes the current line may have, which is at least one.
    fn allowance(&self, limits: &Limits) -> Result<usize, Error> {
        let (line_limit, line_error) = if self.state < State::FieldBegin {
            (limits.start_line, Error::StartLineTooLong)
        } else {
            (limits.field_line, Error::FieldLineTooLong)
        };
        let of_line = line_limit.saturating_sub(self.pos.saturating_sub(self.line));
        let of_head = limits.head.saturating_sub(self.pos);
        match of_line.min(of_head) {
            0 if of_line == 0 => Err(line_error),
            0 => Err(Error::HeadTooLarge),
            allowed => Ok(usize::from(allowed)),
        }
    }

    /// Returns the offset of the window's byte `at`. A window ends at [`Limits::head`], so it fits.
    fn place(&self, at: usize) -> u16 {
        self.pos.wrapping_add(at as u16)
    }

    /// Parses bytes up to the end of the start line and returns their number.
    fn start_line(&mut self, window: &[u8], head: &mut Head) -> Result<usize, Error> {
        let mut at = 0usize;
        while self.state < State::FieldBegin {
            let rest = window.get(at..).unwrap_or(&[]);
            let Some(&byte) = rest.first() else {
                return Ok(at);
            };
            let here = self.place(at);
            let used = match self.state {
                State::Begin => {
                    self.state = State::Method;
                    0
                }
                State::Method => match scan::token(rest) {
                    0 => {
                        head.method = self.element(here);
                        if byte != b' ' || head.method.is_empty() {
                            return Err(Error::BadMethod);
                        }
                        self.begin(State::Target, here)
                    }
                    run => run,
                },
                State::Target => match scan::target(rest) {
                    0 => {
                        head.target = self.element(here);
                        if byte != b' ' || head.target.is_empty() {
                            return Err(Error::BadTargetByte);
                        }
                        self.begin(State::Version, here)
                    }
                    run => run,
                },
                State::Version => {
                    self.version_byte(byte)?;
                    1
                }
                State::AfterVersion => {
                    let (after, next) = match self.kind {
                        Kind::Request => (b'\r', State::StartLineLf),
                        _ => (b' ', State::Status),
                    };
                    expect(byte, after, Error::BadVersion)?;
                    head.version = match self.number {
                        10 => Version::Http10,
                        // A recipient treats a higher minor version as its own. RFC 9110 section 2.5.
                        11..=19 => Version::Http11,
                        _ => return Err(Error::UnsupportedVersion),
                    };
                    self.begin(next, here)
                }
                State::Status => {
                    self.status_digit(byte)?;
                    1
                }
                State::AfterStatus => {
                    head.status = self.number;
                    match byte {
                        b' ' => self.begin(State::Reason, here),
                        // Servers without a reason phrase leave out the space.
                        b'\r' => self.begin(State::StartLineLf, here),
                        _ => return Err(Error::BadStatus),
                    }
                }
                State::Reason => match scan::value(rest) {
                    0 => {
                        head.reason = self.element(here);
                        expect(byte, b'\r', Error::BadReason)?;
                        self.begin(State::StartLineLf, here)
                    }
                    run => run,
                },
                _ => {
                    expect(byte, b'\n', Error::BadLineEnd)?;
                    self.state = State::FieldBegin;
                    self.line = here.saturating_add(1);
                    1
                }
            };
            at = at.saturating_add(used);
        }
        Ok(at)
    }

    /// Parses bytes up to the end of one field line, or of the empty line, and returns their number. The blocks are in
    /// the order of the states, so a whole line takes one pass.
    fn field_line(
        &mut self,
        window: &[u8],
        head: &mut Head,
        limits: &Limits,
    ) -> Result<usize, Error> {
        let mut at = 0usize;
        // Whether the name begins in this window.
        let mut whole = false;
        if self.state == State::FieldBegin {
            match window.first() {
                None => return Ok(at),
                Some(b'\r') => {
                    self.state = State::EndLf;
                    at = 1;
                }
                Some(b'\n') => return Err(Error::BadLineEnd),
                Some(b' ' | b'\t') => return Err(Error::Folded),
                Some(_) => {
                    self.state = State::Name;
                    self.mark = self.pos;
                    self.name_matcher = NameMatcher::new();
                    whole = true;
                }
            }
        }
        if self.state == State::EndLf {
            let Some(&byte) = window.get(at) else {
                return Ok(at);
            };
            expect(byte, b'\n', Error::BadLineEnd)?;
            self.state = State::Done;
            return Ok(at.saturating_add(1));
        }
        if self.state == State::Name {
            let rest = window.get(at..).unwrap_or(&[]);
            let run = scan::token(rest);
            let name = rest.get(..run).unwrap_or(&[]);
            at = at.saturating_add(run);
            let Some(&byte) = window.get(at) else {
                self.name_matcher.feed(name);
                return Ok(at);
            };
            self.known = if whole {
                KnownField::of_token(name)
            } else {
                self.name_matcher.feed(name);
                self.name_matcher.finish()
            };
            self.name = self.element(self.place(at));
            if byte != b':' || self.name.is_empty() {
                return Err(Error::BadFieldName);
            }
            at = at.saturating_add(1);
            self.state = State::ValueBegin;
            self.spaces = 0;
        }
        if self.state == State::ValueBegin {
            loop {
                self.spaces = match window.get(at) {
                    None => return Ok(at),
                    Some(b' ') => self.spaces.saturating_add(1),
                    Some(b'\t') => 2,
                    Some(_) => break,
                };
                at = at.saturating_add(1);
            }
            self.mark = self.place(at);
            self.value_end = self.mark;
            self.state = State::Value;
        }
        if self.state == State::Value {
            let rest = window.get(at..).unwrap_or(&[]);
            let run = scan::value(rest);
            // The only white space in a run of value bytes is spaces and tabs.
            let text = rest.get(..run).unwrap_or(&[]).trim_ascii_end();
            if !text.is_empty() {
                self.value_end = self.place(at.saturating_add(text.len()));
            }
            at = at.saturating_add(run);
            match window.get(at) {
                None => return Ok(at),
                Some(b'\r') => {}
                Some(b'\n') => return Err(Error::BadLineEnd),
                Some(_) => return Err(Error::BadFieldValue),
            }
            let field = Field {
                name: self.name,
                value: Span::between(self.mark, self.value_end),
                known: self.known,
                plain: self.spaces == 1 && self.value_end == self.place(at),
            };
            if head.has_all(limits.fields) {
                return Err(Error::TooManyFields);
            }
            if head.is_full() {
                self.state = State::Room;
                return Ok(at);
            }
            head.push(field);
            at = at.saturating_add(1);
            self.state = State::FieldLf;
        }
        // Only State::FieldLf is left.
        let Some(&byte) = window.get(at) else {
            return Ok(at);
        };
        expect(byte, b'\n', Error::BadLineEnd)?;
        at = at.saturating_add(1);
        self.state = State::FieldBegin;
        self.line = self.place(at);
        Ok(at)
    }

    /// Returns the span from the element's first byte up to the offset `end`.
    fn element(&self, end: u16) -> Span {
        Span::between(self.mark, end)
    }

    /// Goes on to the element `next`, which begins behind the byte at `here`. Returns the length of that byte.
    fn begin(&mut self, next: State, here: u16) -> usize {
        self.state = next;
        self.mark = here.saturating_add(1);
        self.matched = 0;
        self.number = 0;
        1
    }

    /// Takes one byte of the version. RFC 9112 section 2.3.
    fn version_byte(&mut self, byte: u8) -> Result<(), Error> {
        match VERSION.get(usize::from(self.matched)) {
            Some(b'0') => self.digit(byte, Error::BadVersion)?,
            Some(&expected) => expect(byte, expected, Error::BadVersion)?,
            None => return Err(Error::BadVersion),
        }
        self.matched = self.matched.saturating_add(1);
        if usize::from(self.matched) == VERSION.len() {
            self.state = State::AfterVersion;
        }
        Ok(())
    }

    /// Takes one digit of the status code. RFC 9110 section 15.
    fn status_digit(&mut self, byte: u8) -> Result<(), Error> {
        self.digit(byte, Error::BadStatus)?;
        self.matched = self.matched.saturating_add(1);
        if self.matched < 3 {
            return Ok(());
        }
        self.state = State::AfterStatus;
        match self.number {
            100..=999 => Ok(()),
            _ => Err(Error::BadStatus),
        }
    }

    /// Appends a decimal digit to the number, which has at most three.
    fn digit(&mut self, byte: u8, error: Error) -> Result<(), Error> {
        if !byte.is_ascii_digit() {
            return Err(error);
        }
        self.number = self
            .number
            .saturating_mul(10)
            .saturating_add(u16::from(byte & 0x0f));
        Ok(())
    }
}

/// Fails with `error` unless `byte` is the one expected.
fn expect(byte: u8, expected: u8, error: Error) -> Result<(), Error> {
    match byte == expected {
        true => Ok(()),
        false => Err(error),
    }
}
