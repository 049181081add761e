// SPDX-License-Identifier: GPL-2.0

//! A second opinion on messages: slow, plain, strict, written from the RFCs and from what this gateway
//! documents of its choices. Shares no code with rust/proto.
//!
//! Reads a message from complete bytes, and says where it ends, what its body is, and what may be
//! forwarded of it.

use base64::Engine;
use sha1::{
    Digest,
    Sha1, //
};

pub mod body;
pub mod grammar;
pub mod head;
pub mod request;
pub mod response;

use body::{
    body,
    Body, //
};
use grammar::Field;
use request::{
    Reader,
    Request, //
};
use response::{
    Kind,
    Response, //
};

/// Why reading stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The end of a head or of a line is not there. What is there may be wrong already.
    Incomplete,
    /// The end of a trailer section is not there.
    InTrailers,
    /// Content is not there, or the CR LF behind it; nothing is wrong.
    InContent,
    /// The message is wrong.
    Refused(&'static str),
}

/// How large a message may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub head: head::Limits,
    pub body: body::Limits,
}

/// What was read of a stream of bytes.
#[derive(Clone, Debug)]
pub struct Reading<M> {
    /// The messages whose heads are complete, and their bodies; the last body may not be complete.
    pub messages: Vec<(M, Body)>,
    /// Why nothing else was read; `None` behind the last message.
    pub stop: Option<Stop>,
    /// Bytes that are no more messages: behind a tunnel's first one, behind a final response, or, if there are any,
    /// behind the last request of a connection.
    pub rest: Option<usize>,
    /// What happened, in the words of the vectors, without how it ended.
    pub events: String,
}

impl<M> Reading<M> {
    fn new() -> Reading<M> {
        Reading {
            messages: Vec::new(),
            stop: None,
            rest: None,
            events: String::new(),
        }
    }

    /// Notes that a message is passed on that breaks a rule, unless it is refused for that.
    fn note_flaw(&mut self, flaw: Option<&'static str>, strict: bool) -> Result<(), Stop> {
        match flaw {
            Some(flaw) if strict => return Err(Stop::Refused(flaw)),
            Some(flaw) => self.events += &format!("tolerates {flaw}\n"),
            None => {}
        }
        Ok(())
    }

    /// Notes a body that is complete.
    fn note_body(&mut self, framing: body::Framing, body: &Body) {
        if let Some(trailers) = &body.trailers {
            self.events += &format!("trailers {}\n", trailers.len());
        }
        if framing == body::Framing::UntilClose {
            self.events += "closed\n";
        }
        if framing != body::Framing::None {
            self.events += &format!("body {}\n", body.content.len());
        }
    }
}

/// Reads requests, up to an offer or to one behind which the connection does not persist. RFC 9112 section 9.6.
///
/// `strict`: an offer with a flaw is refused.
pub fn requests(bytes: &[u8], limits: &Limits, reader: Reader, strict: bool) -> Reading<Request> {
    let mut reading = Reading::new();
    let mut at = 0;
    while reading.stop.is_none() {
        // Up to eight empty lines. RFC 9112 section 2.2.
        for _ in 0..8 {
            at += if bytes[at..].starts_with(b"\r\n") {
                2
            } else {
                0
            };
        }
        match &bytes[at..] {
            [] => break,
            b"\r" => {
                reading.stop = Some(Stop::Incomplete);
                break;
            }
            _ => {}
        }
        let (request, len) = match request::read(&bytes[at..], &limits.head, reader) {
            Ok(read) => read,
            Err(stop) => {
                reading.stop = Some(stop);
                break;
            }
        };
        if let Err(stop) = reading.note_flaw(request.offer.as_ref().and_then(|it| it.flaw), strict)
        {
            reading.stop = Some(stop);
            break;
        }
        at += len;
        reading.events += &format!("{request}\n");
        if request.offer.is_some() {
            reading.rest = Some(bytes.len() - at);
            reading.messages.push((request, Body::default()));
            break;
        }
        let framing = request.framing;
        let keep_alive = request.keep_alive;
        let (end, body) = body(&bytes[at..], framing, false, &limits.body);
        match end {
            Ok(len) => {
                at += len;
                reading.note_body(framing, &body);
            }
            Err(stop) => reading.stop = Some(stop),
        }
        reading.messages.push((request, body));
        if !keep_alive {
            reading.rest =
                Some(bytes.len() - at).filter(|&rest| rest > 0 && reading.stop.is_none());
            break;
        }
    }
    reading
}

/// Reads the responses to `asked`, up to the final one or the 101.
///
/// `closed`: behind the bytes the server closed the connection. `last`: the client's connection is not kept.
/// `strict`: a 101 with a flaw is refused.
pub fn responses(
    bytes: &[u8],
    asked: &Request,
    limits: &Limits,
    closed: bool,
    last: bool,
    strict: bool,
) -> Reading<Response> {
    let mut reading = Reading::new();
    let mut at = 0;
    let mut reusable = true;
    loop {
        let (mut response, len) = match response::read(&bytes[at..], asked, &limits.head) {
            Ok(read) => read,
            Err(stop) => {
                reading.stop = Some(stop);
                return reading;
            }
        };
        if let Err(stop) = reading.note_flaw(response.flaw, strict) {
            reading.stop = Some(stop);
            return reading;
        }
        at += len;
        if response.contradicts {
            reading.events += "contradicts itself\n";
            reusable = false;
        }
        response.keep_alive &= reusable;
        let delivered = response.delivered(asked);
        let keep = !last && asked.keep_alive && delivered != body::Framing::UntilClose;
        let authenticates = ["www-authenticate", "proxy-authenticate"];
        let binds = match grammar::binds(&response.fields, &authenticates) {
            true => " binds",
            false => "",
        };
        let keep = keep_word(keep);
        reading.events += &format!("{response} deliver {delivered} {keep}{binds}\n");
        match response.kind {
            Kind::Interim => reading.messages.push((response, Body::default())),
            Kind::Switch => {
                reading.events += "accepted\n";
                reading.messages.push((response, Body::default()));
                break;
            }
            Kind::Final => {
                let framing = response.framing;
                let limits = body::Limits {
                    blanks: true,
                    ..limits.body
                };
                let (end, body) = body(&bytes[at..], framing, closed, &limits);
                match end {
                    Ok(len) => {
                        at += len;
                        reading.note_body(framing, &body);
                    }
                    Err(stop) => reading.stop = Some(stop),
                }
                reading.messages.push((response, body));
                if reading.stop.is_some() {
                    return reading;
                }
                break;
            }
        }
    }
    reading.rest = Some(bytes.len() - at);
    reading
}

/// How persistence is written.
pub fn keep_word(keep_alive: bool) -> &'static str {
    match keep_alive {
        true => "keep",
        false => "close",
    }
}

/// What the options in Connection say. RFC 9110 section 7.6.1.
#[derive(Clone, Debug)]
pub struct Options(Vec<Vec<u8>>);

impl Options {
    /// Reads all Connection fields: at most 16 options.
    pub fn new(fields: &[Field]) -> Result<Options, Stop> {
        let options: Vec<Vec<u8>> = grammar::values(fields, "connection")
            .iter()
            .flat_map(|value| grammar::list(value))
            .collect();
        if !options.iter().all(|option| grammar::is_token(option)) {
            return Err(Stop::Refused("connection option is not a token"));
        }
        if options.len() > 16 {
            return Err(Stop::Refused("too many connection options"));
        }
        Ok(Options(options))
    }

    /// Says whether the option is there.
    pub fn has(&self, option: &[u8]) -> bool {
        self.0.iter().any(|it| it.eq_ignore_ascii_case(option))
    }

    /// Says whether an option may be the name of a trailer field: the head is forwarded and forgotten when such
    /// fields arrive, so then none is passed on. RFC 9110 sections 6.5.1 and 7.6.1.
    pub fn may_name_trailers(&self) -> bool {
        !self
            .0
            .iter()
            .all(|option| is_one_of(option, &["close", "keep-alive", "te", "upgrade"]))
    }

    /// Says whether a connection persists. RFC 9112 section 9.3.
    pub fn keep_alive(&self, minor: u8) -> bool {
        !self.has(b"close") && (minor == 1 || self.has(b"keep-alive"))
    }

    /// The fields that travel on: those that are neither of the connection nor named as such.
    pub fn forwarded(&self, fields: &[Field], stays: &[&str]) -> Vec<Field> {
        fields
            .iter()
            .filter(|(name, _)| !is_one_of(name, HOP_BY_HOP) && !is_one_of(name, stays))
            .filter(|(name, _)| is_one_of(name, PROTECTED) || !self.has(name))
            .cloned()
            .collect()
    }
}

/// Says whether a name is that of a field which matters here, but written with `_` for `-`: a server that
/// takes its fields from environment variables cannot tell the two apart.
pub fn mimics(name: &[u8]) -> bool {
    let dashed: Vec<u8> = name
        .iter()
        .map(|&b| if b == b'_' { b'-' } else { b })
        .collect();
    dashed != name
        && [HOP_BY_HOP, PROTECTED, request::WRITTEN]
            .iter()
            .any(|names| is_one_of(&dashed, names))
}

/// Fields of one connection. RFC 9110 section 7.6.1, RFC 7540 section 3.2.1.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields that a connection option cannot name away, and that no trailer section may have.
const PROTECTED: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "authorization",
    "proxy-authorization",
    "proxy-authenticate",
    "www-authenticate",
    "cookie",
    "set-cookie",
    "date",
    "location",
    "origin",
    "range",
    "expect",
    "max-forwards",
    "cache-control",
    "via",
    "trailer",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
];

/// Says whether the field name is among `names`.
pub fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names
        .iter()
        .any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// The fields of a trailer section that are passed on. RFC 9110 section 6.5.1.
pub fn passed_on(trailers: &[Field]) -> Vec<Field> {
    trailers
        .iter()
        .filter(|(name, _)| !is_one_of(name, HOP_BY_HOP) && !is_one_of(name, PROTECTED))
        .filter(|(name, _)| !mimics(name))
        .cloned()
        .collect()
}

/// The Sec-WebSocket-Accept that belongs to a key. RFC 6455 section 1.3.
pub fn accept_of(key: &[u8]) -> Vec<u8> {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    base64::engine::general_purpose::STANDARD
        .encode(Sha1::digest(text))
        .into_bytes()
}
