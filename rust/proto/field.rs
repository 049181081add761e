// SPDX-License-Identifier: GPL-2.0

//! Fields: byte classes, the names this gateway knows, lists in values. RFC 9110 section 5.

use super::span::{
    Bytes,
    Source,
    Span, //
};

/// Byte may be in a token. RFC 9110 section 5.6.2.
pub(super) const TOKEN: u8 = 1;
/// Byte may be in a field value or reason phrase: visible, space, tab or obs-text. RFC 9110 section 5.5.
pub(super) const VALUE: u8 = 2;
/// Byte may be in a request target: visible ASCII but `#`, which would begin a fragment.
///
/// A URI contains none of `"`, `<`, `>`, `\`, `^`, `` ` ``, `{`, `|` and `}` (RFC 3986 section 2). Clients send them
/// nevertheless, and they are allowed here because they do not change where a target ends.
pub(super) const TARGET: u8 = 4;
/// Byte may be in a registered name without an encoding: unreserved or a sub-delimiter. RFC 3986 section 3.2.2.
///
/// The comma is left out: a server that reads Host or X-Forwarded-Host as a list would see two hosts in one.
pub(super) const HOST: u8 = 8;
/// Byte may be in base64. RFC 4648 section 4.
pub(super) const BASE64: u8 = 16;

/// Returns the classes of `byte`.
#[inline]
#[allow(clippy::indexing_slicing)] // No byte is outside a table of 256.
pub(super) const fn class(byte: u8) -> u8 {
    CLASS[byte as usize]
}

#[allow(clippy::indexing_slicing)] // Evaluated by the compiler.
static CLASS: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let b = byte as u8;
        let mut class = 0;
        if b.is_ascii_alphanumeric() {
            class |= TOKEN | HOST | BASE64;
        }
        if matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        ) {
            class |= TOKEN;
        }
        if matches!(
            b,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
        ) {
            class |= HOST;
        }
        if matches!(b, b'+' | b'/') {
            class |= BASE64;
        }
        if b >= 0x20 && b != 0x7f || b == b'\t' {
            class |= VALUE;
        }
        if b.is_ascii_graphic() && b != b'#' {
            class |= TARGET;
        }
        table[byte] = class;
        byte += 1;
    }
    table
};

/// Declares [`KnownField`] with its names, in alphabetical order (a test checks this).
macro_rules! known_fields {
    ($($variant:ident $name:literal,)*) => {
        /// A field that this gateway handles or protects, or [`KnownField::Other`].
        ///
        /// All of them except the hop-by-hop ones are protected: Connection cannot have them dropped. None of them is
        /// forwarded in a trailer section.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs)] // The names say it.
        pub enum KnownField {
            // First, so that an unused entry in a table of fields is all zeros, which is the fastest to write.
            Other,
            $($variant,)*
        }

        /// The known fields and their names in lower case, sorted.
        static KNOWN: &[(&[u8], KnownField)] = &[$(($name, KnownField::$variant),)*];
    };
}

known_fields! {
    Authorization b"authorization",
    CacheControl b"cache-control",
    Connection b"connection",
    ContentEncoding b"content-encoding",
    ContentLength b"content-length",
    ContentRange b"content-range",
    ContentType b"content-type",
    Cookie b"cookie",
    Date b"date",
    Expect b"expect",
    Forwarded b"forwarded",
    Host b"host",
    Http2Settings b"http2-settings",
    KeepAlive b"keep-alive",
    Location b"location",
    MaxForwards b"max-forwards",
    Origin b"origin",
    ProxyAuthenticate b"proxy-authenticate",
    ProxyAuthorization b"proxy-authorization",
    ProxyConnection b"proxy-connection",
    Range b"range",
    SecWebSocketAccept b"sec-websocket-accept",
    SecWebSocketExtensions b"sec-websocket-extensions",
    SecWebSocketKey b"sec-websocket-key",
    SecWebSocketProtocol b"sec-websocket-protocol",
    SecWebSocketVersion b"sec-websocket-version",
    SetCookie b"set-cookie",
    Te b"te",
    Trailer b"trailer",
    TransferEncoding b"transfer-encoding",
    Upgrade b"upgrade",
    Via b"via",
    WwwAuthenticate b"www-authenticate",
    XForwardedFor b"x-forwarded-for",
    XForwardedHost b"x-forwarded-host",
    XForwardedProto b"x-forwarded-proto",
}

impl KnownField {
    /// Returns whether the field concerns one connection only and is never forwarded. RFC 9110 section 7.6.1.
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            KnownField::Connection
                | KnownField::Http2Settings
                | KnownField::KeepAlive
                | KnownField::ProxyConnection
                | KnownField::Te
                | KnownField::TransferEncoding
                | KnownField::Upgrade
        )
    }
}

impl KnownField {
    /// Returns which field's name the token `name` is.
    #[inline]
    pub(super) fn of_token(name: &[u8]) -> KnownField {
        let (Some(first), Some(last)) = (name.first(), name.last()) else {
            return KnownField::Other;
        };
        let place = PLACE.get(usize::from(slot(*first, *last, name.len())));
        match place.and_then(|place| KEYS.get(usize::from(*place))) {
            Some(key) if key.len == name.len() && same(key.text, text(name)) => key.known,
            _ => KnownField::Other,
        }
    }
}

/// Compares two texts without a branch.
#[inline]
fn same([a, b, c]: [u64; 3], [x, y, z]: [u64; 3]) -> bool {
    (a ^ x) | (b ^ y) | (c ^ z) == 0
}

/// A name of [`KNOWN`], in a form that is compared in one go.
struct Key {
    len: usize,
    text: [u64; 3],
    known: KnownField,
}

/// Returns the text of a token of up to 24 bytes in lower case: its first eight bytes, its last eight, and those
/// between. In a short token these overlap, or fill only a part of a word.
///
/// Setting bit 5 makes a letter lower case. It turns no other byte of a token into a letter, a digit or a hyphen.
#[inline]
const fn text(token: &[u8]) -> [u64; 3] {
    const LOWER: u64 = u64::from_le_bytes([0x20; 8]);
    let (first, last) = match (token.first_chunk(), token.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => match (token.first_chunk(), token.last_chunk()) {
            (Some(first), Some(last)) => (
                u32::from_le_bytes(*first) as u64,
                u32::from_le_bytes(*last) as u64,
            ),
            _ => match (token.first_chunk(), token.last_chunk()) {
                (Some(first), Some(last)) => (
                    u16::from_le_bytes(*first) as u64,
                    u16::from_le_bytes(*last) as u64,
                ),
                _ => (0, 0),
            },
        },
    };
    let middle = match token {
        [_, _, _, _, _, _, _, _, rest @ ..] => match rest.first_chunk() {
            Some(middle) => u64::from_le_bytes(*middle),
            None => 0,
        },
        _ => 0,
    };
    [first | LOWER, middle | LOWER, last | LOWER]
}

/// Returns the index in [`PLACE`] of names with this first and last byte, in any case, and this length.
#[inline]
const fn slot(first: u8, last: u8, len: usize) -> u8 {
    (first | 0x20) ^ (last | 0x20).rotate_left(1) ^ ((len as u8) << 3)
}

/// The names of [`KNOWN`].
#[allow(clippy::indexing_slicing)] // Evaluated by the compiler.
static KEYS: [Key; KNOWN.len()] = {
    let mut keys = [const {
        Key {
            len: 0,
            text: [0; 3],
            known: KnownField::Other,
        }
    }; KNOWN.len()];
    let mut place = 0;
    while place < KNOWN.len() {
        let (name, known) = KNOWN[place];
        assert!(name.len() <= 24, "its key would not tell all of it");
        keys[place] = Key {
            len: name.len(),
            text: text(name),
            known,
        };
        place += 1;
    }
    keys
};

/// The place of each name in [`KEYS`], by its [`slot`]; no two have the same.
#[allow(clippy::indexing_slicing)] // Evaluated by the compiler.
static PLACE: [u8; 256] = {
    let mut table = [u8::MAX; 256];
    let mut place = 0;
    while place < KNOWN.len() {
        let name = KNOWN[place].0;
        let slot = slot(name[0], name[name.len() - 1], name.len()) as usize;
        assert!(table[slot] == u8::MAX, "another function is needed");
        table[slot] = place as u8;
        place += 1;
    }
    table
};

/// Recognises a field name from its pieces, looking at each byte once.
///
/// Holds the range of [`KNOWN`] whose names begin with the bytes seen so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameMatcher {
    low: u8,
    high: u8,
    seen: u8,
}

impl NameMatcher {
    /// Returns a matcher that has seen nothing.
    pub(super) const fn new() -> NameMatcher {
        NameMatcher {
            low: 0,
            high: KNOWN.len() as u8,
            seen: 0,
        }
    }

    /// Takes the next bytes of the name.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        let from = usize::from(self.seen);
        let end = from.saturating_add(piece.len());
        if let (0, Some(first)) = (from, piece.first()) {
            let range = RANGE.get(usize::from(first.to_ascii_lowercase()));
            (self.low, self.high) = range.copied().unwrap_or((0, 0));
        }
        while self.low < self.high {
            // The names are sorted, so those that have `piece` at `from` are neighbours.
            if Self::has(self.low, from, end, piece) {
                break;
            }
            self.low = self.low.saturating_add(1);
        }
        while self.low < self.high && !Self::has(self.high.saturating_sub(1), from, end, piece) {
            self.high = self.high.saturating_sub(1);
        }
        self.seen = u8::try_from(end).unwrap_or(u8::MAX);
    }

    /// Returns which field's name was fed.
    pub(super) fn finish(self) -> KnownField {
        KNOWN
            .get(usize::from(self.low)..usize::from(self.high))
            .and_then(<[_]>::first)
            .filter(|(name, _)| name.len() == usize::from(self.seen))
            .map_or(KnownField::Other, |(_, known)| *known)
    }

    /// Returns whether the known name at `place` has `piece` from byte `from` to `end`.
    #[inline]
    fn has(place: u8, from: usize, end: usize, piece: &[u8]) -> bool {
        KNOWN
            .get(usize::from(place))
            .and_then(|(name, _)| name.get(from..end))
            .is_some_and(|part| part.eq_ignore_ascii_case(piece))
    }
}

/// For each first byte of a name, in lower case: the range of [`KNOWN`] that begins with it.
#[allow(clippy::indexing_slicing)] // Evaluated by the compiler.
static RANGE: [(u8, u8); 128] = {
    let mut table = [(0u8, 0u8); 128];
    let mut place = 0;
    while place < KNOWN.len() {
        let first = KNOWN[place].0[0] as usize;
        if table[first].1 == 0 {
            table[first].0 = place as u8;
        }
        place += 1;
        table[first].1 = place as u8;
    }
    table
};

/// Returns whether a name differs from that of a known field only by `_` for `-`.
///
/// For CGI gateways (RFC 3875 section 4.1.18) the two are the same field, so a decision about one of them would have to
/// hold for the other as well.
pub(super) fn mimics_known<S: Source + ?Sized>(name: Span, src: &S) -> bool {
    let fold = |byte: u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    // Most names have none.
    name.bytes(src).any(|byte| byte == b'_')
        && KNOWN.iter().any(|(known, _)| {
            known.len() == usize::from(name.len)
                && name.bytes(src).map(fold).eq(known.iter().copied())
        })
}

/// Returns whether the span is a token: not empty, and every byte a tchar. RFC 9110 section 5.6.2.
pub(super) fn is_token<S: Source + ?Sized>(span: Span, src: &S) -> bool {
    let is_tchar = |&byte: &u8| class(byte) & TOKEN != 0;
    !span.is_empty() && span.pieces(src).all(|piece| piece.iter().all(is_tchar))
}

/// A list in a field value is malformed: a quoted string does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadList;

/// The parts of a field value between separators, without white space around them.
pub(super) struct Parts<'a, S: Source + ?Sized> {
    bytes: Bytes<'a, S>,
    at: u16,
    separator: u8,
    ended: bool,
}

/// Iterates over the elements of the comma-separated list in `value`. Commas within quoted strings do not separate;
/// empty elements are left out, as RFC 9110 requires of a recipient. RFC 9110 section 5.6.1.2.
pub(super) fn elements<S: Source + ?Sized>(
    value: Span,
    src: &S,
) -> impl Iterator<Item = Result<Span, BadList>> + '_ {
    parts(value, src, b',').filter(|part| *part != Ok(Span::EMPTY))
}

/// Iterates over the parts of `value` between separators that are not within quoted strings. There is
/// at least one; an empty one is [`Span::EMPTY`].
pub(super) fn parts<S: Source + ?Sized>(value: Span, src: &S, separator: u8) -> Parts<'_, S> {
    Parts {
        bytes: value.bytes(src),
        at: value.start,
        separator,
        ended: false,
    }
}

impl<S: Source + ?Sized> Iterator for Parts<'_, S> {
    type Item = Result<Span, BadList>;

    fn next(&mut self) -> Option<Result<Span, BadList>> {
        if self.ended {
            return None;
        }
        let mut part = Span::EMPTY;
        let mut quoted = false;
        let mut escaped = false;
        for byte in self.bytes.by_ref() {
            let place = self.at;
            self.at = self.at.saturating_add(1);
            if quoted {
                quoted = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else if byte == self.separator {
                return Some(Ok(part));
            } else if byte == b' ' || byte == b'\t' {
                continue;
            } else {
                quoted = byte == b'"';
            }
            if part.is_empty() {
                part.start = place;
            }
            part = Span::between(part.start, self.at);
        }
        self.ended = true;
        Some(match quoted {
            true => Err(BadList),
            false => Ok(part),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a name in two pieces.
    fn recognise(name: &[u8], cut: usize) -> KnownField {
        let (first, second) = name.split_at_checked(cut).unwrap_or((name, b""));
        let mut matcher = NameMatcher::new();
        matcher.feed(first);
        matcher.feed(second);
        matcher.finish()
    }

    #[test]
    fn known_names_are_sorted_and_in_lower_case() {
        assert!(KNOWN.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(KNOWN
            .iter()
            .all(|(name, _)| name.is_ascii() && !name.iter().any(u8::is_ascii_uppercase)));
    }

    #[test]
    fn known_names_are_recognised_in_any_case_at_any_split() {
        for (name, known) in KNOWN {
            let mut upper = [0u8; 32];
            for (to, from) in upper.iter_mut().zip(*name) {
                *to = from.to_ascii_uppercase();
            }
            let upper = upper.get(..name.len()).unwrap_or(&[]);
            assert_eq!(KnownField::of_token(name), *known);
            assert_eq!(KnownField::of_token(upper), *known);
            for cut in 0..=name.len() {
                assert_eq!(recognise(name, cut), *known);
                assert_eq!(recognise(upper, cut), *known);
            }
        }
    }

    #[test]
    fn a_name_with_one_other_byte_is_not_recognised() {
        for (name, known) in KNOWN {
            for place in 0..name.len() {
                for byte in (0..=u8::MAX).filter(|byte| class(*byte) & TOKEN != 0) {
                    let mut other = [0u8; 32];
                    for (at, (to, from)) in other.iter_mut().zip(*name).enumerate() {
                        *to = if at == place { byte } else { *from };
                    }
                    let other = other.get(..name.len()).unwrap_or(&[]);
                    let same = other.eq_ignore_ascii_case(name);
                    assert_eq!(KnownField::of_token(other) == *known, same);
                    assert_eq!(recognise(other, place), KnownField::of_token(other));
                }
            }
        }
    }

    #[test]
    fn other_names_are_not_recognised() {
        for (name, _) in KNOWN {
            let mut other = [b'x'; 32];
            for (to, from) in other.iter_mut().zip(*name) {
                *to = *from;
            }
            for len in [name.len().saturating_sub(1), name.len().saturating_add(1)] {
                let other = other.get(..len).unwrap_or(&[]);
                assert_eq!(KnownField::of_token(other), KnownField::Other);
                for cut in 0..=len {
                    assert_eq!(recognise(other, cut), KnownField::Other);
                }
            }
        }
        let long = [b'a'; 600];
        assert_eq!(KnownField::of_token(&long), KnownField::Other);
        assert_eq!(KnownField::of_token(b""), KnownField::Other);
        assert_eq!(recognise(&long, 300), KnownField::Other);
        assert_eq!(recognise(b"", 0), KnownField::Other);
    }
}
