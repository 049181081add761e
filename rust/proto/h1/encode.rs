// SPDX-License-Identifier: GPL-2.0

//! Writes forwarded heads, chunk framing, trailer sections, and Squall's own responses.

use crate::proto::field::{
    elements,
    mimics_known,
    KnownField, //
};
use crate::proto::head::{
    Field,
    FieldSet,
    Head, //
};
use crate::proto::message::{
    BodyFraming,
    Version, //
};
use crate::proto::request::Request;
use crate::proto::response::{
    Delivery,
    Response,
    ResponseKind, //
};
use crate::proto::span::{
    Full,
    Sink,
    Source,
    Span, //
};
use crate::proto::target::Target;

/// The proxy's knowledge that a forwarded request must contain.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The client's address as text, without port; IPv6 without brackets.
    pub client: &'a [u8],
    /// The scheme that the client used: `http` or `https`.
    pub scheme: &'a [u8],
    /// The host[:port] for the Host field of a request without one.
    pub default_host: &'a [u8],
    /// The client is a trusted proxy: its X-Forwarded-* and Forwarded fields are kept and extended.
    pub trusted: bool,
    /// A Forwarded field is written as well. RFC 7239.
    pub forwarded: bool,
    /// A Via field is added. RFC 9110 section 7.6.3.
    pub via: bool,
}

/// Fields of a 101 and of the request for it. RFC 9110 section 7.8.
const SWITCH: &[u8] = b"Connection: upgrade\r\nUpgrade: websocket\r\n";

/// Field of the last message on a connection. RFC 9112 section 9.6.
const CLOSE: &[u8] = b"Connection: close\r\n";

/// Writes the head of `request` for the server.
pub fn request<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    request: &Request,
    src: &S,
    forward: &Forward<'_>,
    sink: &mut K,
) -> Result<(), Full> {
    request_start(head, request, src, sink)?;
    match request.host {
        Some(host) => host.put(src, sink)?,
        None => sink.put(forward.default_host)?,
    }
    request_rest(head, request, src, forward, sink)
}

/// Writes the head of `request` up to its host, exclusive.
#[inline]
pub fn request_start<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    request: &Request,
    src: &S,
    sink: &mut K,
) -> Result<(), Full> {
    head.method.put(src, sink)?;
    sink.put(b" ")?;
    target(request.target, src, sink)?;
    sink.put(b" HTTP/1.1\r\nHost: ")
}

/// Writes the head of `request` from behind its host on.
#[inline]
pub fn request_rest<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    request: &Request,
    src: &S,
    forward: &Forward<'_>,
    sink: &mut K,
) -> Result<(), Full> {
    sink.put(b"\r\n")?;
    fields(head, request.forward, src, sink)?;
    framing(request.framing, sink)?;
    if let Some(left) = request.max_forwards {
        sink.put(b"Max-Forwards: ")?;
        decimal(left, sink)?;
        sink.put(b"\r\n")?;
    }
    if forward.via {
        via(request.version, sink)?;
    }
    origin(head, request, src, forward, sink)?;
    if request.upgrade.is_some() {
        sink.put(SWITCH)?;
    }
    sink.put(b"\r\n")
}

/// Writes the fields about the origin of the request.
///
/// Such fields of an untrusted client are dropped. For a trusted one, the lists X-Forwarded-For and Forwarded are
/// continued; each of the other fields is kept if there is exactly one. A Forwarded that is not a list is dropped from
/// any client.
fn origin<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    request: &Request,
    src: &S,
    forward: &Forward<'_>,
    sink: &mut K,
) -> Result<(), Full> {
    let said = |known: KnownField| {
        let fields = if forward.trusted { head.fields() } else { &[] };
        let named = move |field: &&Field| field.known == known && !field.value.is_empty();
        fields.iter().filter(named).map(|field| field.value)
    };
    let single = |known: KnownField| {
        let mut values = said(known);
        values.next().filter(|_| values.next().is_none())
    };
    sink.put(b"X-Forwarded-For: ")?;
    for value in said(KnownField::XForwardedFor) {
        value.put(src, sink)?;
        sink.put(b", ")?;
    }
    sink.put(forward.client)?;
    sink.put(b"\r\nX-Forwarded-Proto: ")?;
    match single(KnownField::XForwardedProto) {
        Some(value) => value.put(src, sink)?,
        None => sink.put(forward.scheme)?,
    }
    if let Some(host) = single(KnownField::XForwardedHost).or(request.host) {
        sink.put(b"\r\nX-Forwarded-Host: ")?;
        host.put(src, sink)?;
    }
    sink.put(b"\r\n")?;
    // A quoted string without an end would swallow what is added behind it.
    let is_list = |value: &Span| elements(*value, src).all(|element| element.is_ok());
    let mut values = said(KnownField::Forwarded).filter(is_list).peekable();
    if !forward.forwarded && values.peek().is_none() {
        return Ok(());
    }
    sink.put(b"Forwarded: ")?;
    for value in values {
        value.put(src, sink)?;
        sink.put(b", ")?;
    }
    forwarded_element(request, src, forward, sink)
}

/// Writes this gateway's element of a Forwarded field and the end of the line. RFC 7239 sections 4 and 6.
fn forwarded_element<S: Source + ?Sized, K: Sink + ?Sized>(
    request: &Request,
    src: &S,
    forward: &Forward<'_>,
    sink: &mut K,
) -> Result<(), Full> {
    let (open, close): (&[u8], &[u8]) = match forward.client.contains(&b':') {
        true => (b"for=\"[", b"]\""),
        false => (b"for=", b""),
    };
    sink.put(open)?;
    sink.put(forward.client)?;
    sink.put(close)?;
    sink.put(b";proto=")?;
    sink.put(forward.scheme)?;
    if let Some(host) = request.host {
        // No byte of a valid authority needs an escape within quotes.
        sink.put(b";host=\"")?;
        host.put(src, sink)?;
        sink.put(b"\"")?;
    }
    sink.put(b"\r\n")
}

/// Writes a request target in origin form, or `*`. RFC 9112 sections 3.2.1 and 3.2.4.
fn target<S: Source + ?Sized, K: Sink + ?Sized>(
    target: Target,
    src: &S,
    sink: &mut K,
) -> Result<(), Full> {
    match target {
        Target::Origin(path) => path.put(src, sink),
        Target::Asterisk | Target::AbsoluteAsterisk { .. } => sink.put(b"*"),
        Target::Absolute { path, .. } => {
            if path.bytes(src).next() != Some(b'/') {
                sink.put(b"/")?;
            }
            path.put(src, sink)
        }
    }
}

/// A point in time as in the field Date, such as `Sun, 06 Nov 1994 08:49:37 GMT`. RFC 9110 section 5.6.7.
pub type Date = [u8; 29];

/// Writes the field Date. RFC 9110 section 6.6.1.
fn date<K: Sink + ?Sized>(date: &Date, sink: &mut K) -> Result<(), Full> {
    sink.put(b"Date: ")?;
    sink.put(date)?;
    sink.put(b"\r\n")
}

/// Writes the head of `response` for the client. The response may also be an interim one or an accepted 101.
///
/// A final response without Date gets one; `now` is called only then.
pub fn response<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    response: &Response,
    src: &S,
    delivery: &Delivery,
    now: impl FnOnce() -> Date,
    sink: &mut K,
) -> Result<(), Full> {
    sink.put(b"HTTP/1.1 ")?;
    decimal(u64::from(response.status), sink)?;
    sink.put(b" ")?;
    head.reason.put(src, sink)?;
    sink.put(b"\r\n")?;
    fields(head, response.forward, src, sink)?;
    match response.kind {
        ResponseKind::Interim => {}
        ResponseKind::Switch => {
            if delivery.via {
                via(head.version, sink)?;
            }
            sink.put(SWITCH)?;
        }
        ResponseKind::Final => {
            match (delivery.framing, response.content_length) {
                (BodyFraming::None, Some(length)) => framing(BodyFraming::Length(length), sink)?,
                (delivered, _) => framing(delivered, sink)?,
            }
            if delivery.via {
                via(head.version, sink)?;
            }
            if !response.dated {
                date(&now(), sink)?;
            }
            if response.status == 426 {
                advertised(head, src, sink)?;
            }
            if !delivery.keep_alive {
                sink.put(CLOSE)?;
            } else if delivery.version == Version::Http10 {
                sink.put(b"Connection: keep-alive\r\n")?;
            }
        }
    }
    sink.put(b"\r\n")
}

/// Writes the Upgrade field of a 426: the protocols to which the server wants the client to switch. RFC 9110 section
/// 15.5.22.
fn advertised<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    src: &S,
    sink: &mut K,
) -> Result<(), Full> {
    let named = |field: &&Field| field.known == KnownField::Upgrade && !field.value.is_empty();
    let mut fields = head.fields().iter().filter(named).peekable();
    if fields.peek().is_some() {
        sink.put(b"Connection: upgrade\r\n")?;
    }
    for field in fields {
        sink.put(b"Upgrade: ")?;
        field.value.put(src, sink)?;
        sink.put(b"\r\n")?;
    }
    Ok(())
}

/// Copies the field lines in `chosen`, in order. Adjacent lines that need no change are copied as one.
fn fields<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    chosen: FieldSet,
    src: &S,
    sink: &mut K,
) -> Result<(), Full> {
    let mut run = Span::EMPTY;
    for (place, field) in head.fields().iter().enumerate() {
        if !chosen.contains(place) {
            continue;
        }
        // A plain line ends with the CR LF behind its value.
        let line_end = field.value.end().saturating_add(2);
        if field.plain && field.name.start == run.end() {
            run = Span::between(run.start, line_end);
            continue;
        }
        run.put(src, sink)?;
        run = Span::EMPTY;
        if field.plain {
            run = Span::between(field.name.start, line_end);
            continue;
        }
        field.name.put(src, sink)?;
        sink.put(b": ")?;
        field.value.put(src, sink)?;
        sink.put(b"\r\n")?;
    }
    run.put(src, sink)
}

/// Writes the field that frames a body.
fn framing<K: Sink + ?Sized>(framing: BodyFraming, sink: &mut K) -> Result<(), Full> {
    match framing {
        BodyFraming::None | BodyFraming::UntilClose => Ok(()),
        BodyFraming::Chunked => sink.put(b"Transfer-Encoding: chunked\r\n"),
        BodyFraming::Length(length) => {
            sink.put(b"Content-Length: ")?;
            decimal(length, sink)?;
            sink.put(b"\r\n")
        }
    }
}

/// Writes this gateway's Via, with the version in which it received the message. RFC 9110 section 7.6.3.
fn via<K: Sink + ?Sized>(received: Version, sink: &mut K) -> Result<(), Full> {
    sink.put(match received {
        Version::Http10 => b"Via: 1.0 squall\r\n",
        Version::Http11 => b"Via: 1.1 squall\r\n",
    })
}

/// Writes a number in decimal.
fn decimal<K: Sink + ?Sized>(number: u64, sink: &mut K) -> Result<(), Full> {
    digits::<K, 20, 10>(number, sink)
}

/// Writes a number in the given base, in at most `MAX` digits, without leading zeros.
fn digits<K: Sink + ?Sized, const MAX: usize, const BASE: u64>(
    number: u64,
    sink: &mut K,
) -> Result<(), Full> {
    let mut buffer = [0u8; MAX];
    let mut left = number;
    let mut first = MAX;
    for (place, digit) in buffer.iter_mut().enumerate().rev() {
        let value = left.checked_rem(BASE).unwrap_or(0);
        left = left.checked_div(BASE).unwrap_or(0);
        *digit = HEX_DIGITS
            .get(usize::try_from(value).unwrap_or(0))
            .copied()
            .unwrap_or(b'0');
        first = place;
        if left == 0 {
            break;
        }
    }
    sink.put(buffer.get(first..).unwrap_or(&[]))
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Longest line that [`chunk_head`] writes: 16 digits, CR LF.
pub const MAX_CHUNK_HEAD: usize = 18;

/// Writes the line that opens a chunk with `size` bytes of content, which must not be 0. After the
/// content goes [`CHUNK_END`].
pub fn chunk_head<K: Sink + ?Sized>(size: u64, sink: &mut K) -> Result<(), Full> {
    digits::<K, 16, 16>(size, sink)?;
    sink.put(b"\r\n")
}

/// What follows the content of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The last chunk and the end of a chunked body without trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the last chunk and the trailer section in `head`, without the fields that may not be in one.
pub fn trailers<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    src: &S,
    sink: &mut K,
) -> Result<(), Full> {
    let mut allowed = FieldSet::EMPTY;
    for (place, field) in head.fields().iter().enumerate() {
        if field.known == KnownField::Other && !mimics_known(field.name, src) {
            allowed.insert(place);
        }
    }
    sink.put(b"0\r\n")?;
    fields(head, allowed, src, sink)?;
    sink.put(b"\r\n")
}

/// The reason phrases of Squall's own responses.
const REASONS: [(u16, &[u8]); 16] = [
    (400, b"Bad Request"),
    (403, b"Forbidden"),
    (404, b"Not Found"),
    (408, b"Request Timeout"),
    (413, b"Content Too Large"),
    (414, b"URI Too Long"),
    (417, b"Expectation Failed"),
    (426, b"Upgrade Required"),
    (429, b"Too Many Requests"),
    (431, b"Request Header Fields Too Large"),
    (500, b"Internal Server Error"),
    (501, b"Not Implemented"),
    (502, b"Bad Gateway"),
    (503, b"Service Unavailable"),
    (504, b"Gateway Timeout"),
    (505, b"HTTP Version Not Supported"),
];

/// Writes a whole response of Squall's own, body included, to a request that was not served.
///
/// `status` is one that [`crate::proto::Error::status`] returns, or 403, 404, 408, 429, 503, 504; any other becomes
/// 500. `close`: the connection is closed behind the response, as is required for a client of HTTP/1.0. `head_method`:
/// the request's method was HEAD, so the body is left out. `retry_after`: seconds after which the request may be
/// repeated (RFC 9110 section 10.2.3). `now` is the Date.
pub fn error<K: Sink + ?Sized>(
    status: u16,
    close: bool,
    head_method: bool,
    retry_after: Option<u32>,
    now: &Date,
    sink: &mut K,
) -> Result<(), Full> {
    let (status, reason) = REASONS
        .iter()
        .find(|(known, _)| *known == status)
        .map_or((500, &b"Internal Server Error"[..]), |(status, reason)| {
            (*status, *reason)
        });
    // The body is the status code, a space, the reason phrase and a line feed.
    let length = u64::try_from(reason.len()).unwrap_or(0).saturating_add(5);
    sink.put(b"HTTP/1.1 ")?;
    decimal(u64::from(status), sink)?;
    sink.put(b" ")?;
    sink.put(reason)?;
    sink.put(b"\r\n")?;
    date(now, sink)?;
    sink.put(b"Content-Type: text/plain\r\n")?;
    framing(BodyFraming::Length(length), sink)?;
    if status == 426 {
        // RFC 9110 section 15.5.22, RFC 6455 section 4.4.
        sink.put(SWITCH)?;
        sink.put(b"Sec-WebSocket-Version: 13\r\n")?;
    }
    if let Some(seconds) = retry_after {
        sink.put(b"Retry-After: ")?;
        decimal(u64::from(seconds), sink)?;
        sink.put(b"\r\n")?;
    }
    if close {
        sink.put(CLOSE)?;
    }
    sink.put(b"\r\n")?;
    if head_method {
        return Ok(());
    }
    decimal(u64::from(status), sink)?;
    sink.put(b" ")?;
    sink.put(reason)?;
    sink.put(b"\n")
}
