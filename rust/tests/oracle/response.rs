// SPDX-License-Identifier: GPL-2.0

//! What a response means. RFC 9110 sections 6.4.1 and 15, RFC 9112 section 6.3, RFC 6455 section 4.1.

use super::body::{
    declared,
    split_unquoted,
    Framing, //
};
use super::grammar::{
    extension_name,
    values,
    Field, //
};
use super::head::{
    self,
    Limits, //
};
use super::request::{
    name_of,
    unquoted_list,
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
    /// It cannot have a body, and declares one.
    pub contradicts: bool,
    /// The first rule that a 101 breaks which the client is to judge.
    pub flaw: Option<&'static str>,
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
    let declared = declared(&head.fields, head.minor);
    // What follows the head cannot be a body, so these say nothing but that the server is confused.
    let coded = !values(&head.fields, "transfer-encoding").is_empty();
    let bare = matches!(head.status, 100..=199 | 204) || head.status == 304 && coded;
    let contradicts = bare && !matches!(declared, Ok(Framing::None | Framing::Length(0)));
    let declared = if bare { Framing::None } else { declared? };
    let (kind, framing) = match head.status {
        101 => (Kind::Switch, Framing::None),
        100..=199 => (Kind::Interim, Framing::None),
        204 | 304 => (Kind::Final, Framing::None),
        _ if asked.method == b"HEAD" => (Kind::Final, Framing::None),
        _ if declared == Framing::None => (Kind::Final, Framing::UntilClose),
        _ => (Kind::Final, declared),
    };
    let mut flaw = None;
    if kind == Kind::Switch {
        let offer = asked.offer.as_ref().filter(|_| head.minor == 1);
        let offer = offer.ok_or(Stop::Refused("101 that nobody asked for"))?;
        flaw = accepts(&head.fields, &options, offer)?;
    }
    let response = Response {
        minor: head.minor,
        status: head.status,
        reason: head.reason,
        kind,
        framing,
        length: match declared {
            Framing::Length(length) => Some(length),
            _ => None,
        },
        keep_alive: options.keep_alive(head.minor)
            && framing != Framing::UntilClose
            && !contradicts,
        contradicts,
        flaw,
        forwarded: options.forwarded(&head.fields, &["content-length"]),
        fields: head.fields,
        trailers: !options.may_name_trailers(),
    };
    Ok((response, len))
}

/// Checks that a 101 accepts the offer. RFC 6455 section 4.1, the client's steps 1 to 6.
///
/// Returns the first rule that it breaks for the client to judge: steps 5 and 6.
fn accepts(
    fields: &[Field],
    options: &Options,
    offer: &Offer,
) -> Result<Option<&'static str>, Stop> {
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
    let protocol_is_good = match &values(fields, "sec-websocket-protocol")[..] {
        [] => true,
        [protocol] => offer.more || offer.protocols.contains(protocol),
        _ => false,
    };
    let extensions = values(fields, "sec-websocket-extensions");
    let extension_is_good = |extension: &Vec<u8>| {
        extension_name(extension).is_some()
            && (offer.more || offer.extensions.contains(&name_of(extension)))
    };
    let extensions_are_good = extensions.iter().all(|value| {
        split_unquoted(value, b',').is_some() && unquoted_list(value).iter().all(extension_is_good)
    });
    Ok(match (protocol_is_good, extensions_are_good) {
        (false, _) => Some("switch_subprotocol"),
        (true, false) => Some("switch_extension"),
        (true, true) => None,
    })
}
