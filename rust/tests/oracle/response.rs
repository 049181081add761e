// SPDX-License-Identifier: GPL-2.0

//! What a response means. RFC 9110 sections 6.4.1 and 15, RFC 9112 section 6.3, RFC 6455 section 4.1.

use super::body::{
    declared,
    Framing, //
};
use super::grammar::{
    values,
    Field, //
};
use super::head::{
    self,
    Limits, //
};
use super::request::{
    extensions,
    Offer,
    Request, //
};
use super::{
    accept_of,
    keep_word,
    Options,
    Stop, //
};

/// What a response is to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Interim,
    Switch,
    Final,
}

/// A response that may be forwarded.
#[derive(Clone, Debug)]
pub struct Response {
    pub minor: u8,
    pub status: u16,
    pub reason: Vec<u8>,
    pub kind: Kind,
    /// How the body ends on the server's connection.
    pub framing: Framing,
    /// The length that is declared where there can be a body, or could have been one.
    pub length: Option<u128>,
    pub keep_alive: bool,
    /// All fields.
    pub fields: Vec<Field>,
    /// The fields that are copied.
    pub forwarded: Vec<Field>,
    /// A trailer section is passed on.
    pub trailers: bool,
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Interim => "interim",
            Kind::Switch => "switch",
            Kind::Final => "final",
        };
        let keep = keep_word(self.keep_alive);
        write!(f, "response {} {kind} {} {keep}", self.status, self.framing)
    }
}

impl Response {
    /// How the body ends on the client's connection: chunks are not for HTTP/1.0. RFC 9112 section 6.1.
    pub fn delivered(&self, asked: &Request) -> Framing {
        match (self.framing, asked.minor) {
            (Framing::Chunked, 0) => Framing::UntilClose,
            (framing, _) => framing,
        }
    }
}

/// Reads the head of a response to `asked` at the front of `bytes`; returns the response and the head's length.
pub fn read(bytes: &[u8], asked: &Request, limits: &Limits) -> Result<(Response, usize), Stop> {
    let head = head::response(bytes, limits)?;
    let len = head.len;
    let options = Options::new(&head.fields)?;
    let declared = declared(&head.fields, head.minor)?;
    let never = |rule| match declared {
        Framing::None => Ok(Framing::None),
        _ => Err(Stop::Refused(rule)),
    };
    let (kind, framing) = match head.status {
        101 => (Kind::Switch, never("101 with a body")?),
        100..=199 => (Kind::Interim, never("1xx with a body")?),
        204 if declared == Framing::Length(0) => (Kind::Final, Framing::None),
        204 => (Kind::Final, never("204 with a body")?),
        304 => (Kind::Final, Framing::None),
        _ if asked.method == b"HEAD" => (Kind::Final, Framing::None),
        _ if declared == Framing::None => (Kind::Final, Framing::UntilClose),
        _ => (Kind::Final, declared),
    };
    if kind == Kind::Switch {
        let offer = asked.offer.as_ref().filter(|_| head.minor == 1);
        let offer = offer.ok_or(Stop::Refused("101 that nobody asked for"))?;
        accepts(&head.fields, &options, offer)?;
    }
    let response = Response {
        minor: head.minor,
        status: head.status,
        reason: head.reason,
        kind,
        framing,
        length: match declared {
            Framing::Length(length) if head.status != 204 => Some(length),
            _ => None,
        },
        keep_alive: options.keep_alive(head.minor) && framing != Framing::UntilClose,
        forwarded: options.forwarded(&head.fields, &["content-length"]),
        fields: head.fields,
        trailers: !options.may_name_trailers(),
    };
    Ok((response, len))
}

/// Checks that a 101 accepts the offer. RFC 6455 section 4.1, the client's steps 1 to 6.
fn accepts(fields: &[Field], options: &Options, offer: &Offer) -> Result<(), Stop> {
    match &values(fields, "upgrade")[..] {
        [protocol] if protocol.eq_ignore_ascii_case(b"websocket") => {}
        _ => return Err(Stop::Refused("101 for another protocol")),
    }
    if !options.has(b"upgrade") {
        return Err(Stop::Refused("101 without the connection option"));
    }
    if values(fields, "sec-websocket-accept") != [accept_of(&offer.key)] {
        return Err(Stop::Refused("Sec-WebSocket-Accept"));
    }
    match &values(fields, "sec-websocket-protocol")[..] {
        [] => {}
        [protocol] if offer.protocols.contains(protocol) => {}
        _ => return Err(Stop::Refused("subprotocol that was not offered")),
    }
    match extensions(fields)?
        .iter()
        .all(|name| offer.extensions.contains(name))
    {
        true => Ok(()),
        false => Err(Stop::Refused("extension that was not offered")),
    }
}
