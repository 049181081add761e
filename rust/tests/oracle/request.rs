// SPDX-License-Identifier: GPL-2.0

//! What a request means. RFC 9110, RFC 9112 section 3, RFC 6455 section 4.1.

use super::body::{
    declared,
    split_unquoted,
    Framing, //
};
use super::grammar::{
    self,
    binds,
    extension_name,
    is_key,
    is_protocol,
    is_token,
    list,
    number,
    trim,
    values,
    Field, //
};
use super::head::{
    self,
    Limits, //
};
use super::{
    keep_word,
    mimics,
    Options,
    Stop, //
};

/// Most subprotocols and extensions of one offer that this gateway remembers. Of others it cannot say that they were not
/// offered.
const MAX_NAMES: usize = 22;

/// Fields that this gateway writes itself, besides those of the connection; Max-Forwards in OPTIONS and
/// TRACE only.
pub const WRITTEN: &[&str] = &[
    "host",
    "content-length",
    "forwarded",
    "max-forwards",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Who reads a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// This gateway, which forwards it.
    Gateway,
    /// The server, which answers it.
    Server,
}

/// A request that may be forwarded.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Vec<u8>,
    /// The target for the server: origin form, or `*`.
    pub target: Vec<u8>,
    /// Whom the request is for; `None` only in HTTP/1.0.
    pub host: Option<Vec<u8>>,
    pub minor: u8,
    pub framing: Framing,
    pub keep_alive: bool,
    /// The client waits for a 100 (Continue).
    pub expect: bool,
    /// How many more times an OPTIONS or TRACE may be forwarded.
    pub max_forwards: Option<u128>,
    /// An offer to switch to WebSocket.
    pub offer: Option<Offer>,
    /// All fields.
    pub fields: Vec<Field>,
    /// The fields that are copied.
    pub forwarded: Vec<Field>,
    /// A trailer section is passed on.
    pub trailers: bool,
}

/// An offer to switch to WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub key: Vec<u8>,
    pub protocols: Vec<Vec<u8>>,
    pub extensions: Vec<Vec<u8>>,
    /// Anything may have been offered.
    pub more: bool,
    /// The first rule that it breaks.
    pub flaw: Option<&'static str>,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "request {} {}", self.framing, keep_word(self.keep_alive))?;
        if self.expect {
            f.write_str(" expect")?;
        }
        if self.offer.is_some() {
            f.write_str(" upgrade")?;
        }
        if binds(&self.fields, &["authorization", "proxy-authorization"]) {
            f.write_str(" binds")?;
        }
        Ok(())
    }
}

/// Reads the head of a request at the front of `bytes`, and returns the request and the head's length.
pub fn read(bytes: &[u8], limits: &Limits, reader: Reader) -> Result<(Request, usize), Stop> {
    let head = head::request(bytes, limits)?;
    let len = head.len;
    let fields = head.fields;
    if head.method == b"CONNECT" {
        return Err(Stop::Refused("CONNECT"));
    }
    let (authority, target) = target(&head.target, &head.method)?;
    let host = match &values(&fields, "host")[..] {
        [] if head.minor == 0 => None,
        [host] => Some(grammar::authority(host).ok_or(Stop::Refused("Host"))?),
        _ => return Err(Stop::Refused("Host")),
    };
    let mut framing = declared(&fields, head.minor)?;
    if head.minor == 0
        && framing == Framing::None
        && [&b"POST"[..], b"PUT"].contains(&&head.method[..])
    {
        return Err(Stop::Refused(
            "HTTP/1.0 without the length that RFC 1945 section 7.2.2 asks for",
        ));
    }
    let options = Options::new(&fields)?;
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    let expect = match &values(&fields, "expect")[..] {
        [] => false,
        [value] if value.eq_ignore_ascii_case(b"100-continue") => head.minor == 1 && has_body,
        _ => return Err(Stop::Refused("Expect")),
    };
    let counted = head.method == b"OPTIONS" || head.method == b"TRACE";
    let max_forwards = match counted {
        true => max_forwards(&fields)?,
        false => None,
    };
    if max_forwards == Some(0) && reader == Reader::Gateway {
        return Err(Stop::Refused("not to be forwarded any more"));
    }
    // Any other request is an ordinary one, whatever Upgrade says. RFC 9110 section 7.8.
    let may_offer =
        options.has(b"upgrade") && head.minor == 1 && head.method == b"GET" && !has_body;
    let offer = match may_offer && names_websocket(&fields)? {
        true => Some(offer(&fields)?),
        false => None,
    };
    if offer.is_some() {
        framing = Framing::None;
    }
    let stays = |name: &&str| match *name {
        "max-forwards" => counted,
        _ => true,
    };
    let stays: Vec<&str> = WRITTEN.iter().copied().filter(stays).collect();
    let mut forwarded = options.forwarded(&fields, &stays);
    forwarded.retain(|(name, _)| !mimics(name));
    if !expect {
        forwarded.retain(|(name, _)| !name.eq_ignore_ascii_case(b"expect"));
    }
    let request = Request {
        method: head.method,
        target,
        host: authority.or(host),
        minor: head.minor,
        framing,
        keep_alive: options.keep_alive(head.minor),
        expect,
        max_forwards,
        offer,
        fields,
        forwarded,
        trailers: !options.may_name_trailers(),
    };
    Ok((request, len))
}

/// The number in Max-Forwards, if it is there: one, below 2^63. RFC 9110 section 7.6.2.
fn max_forwards(fields: &[Field]) -> Result<Option<u128>, Stop> {
    match &values(fields, "max-forwards")[..] {
        [] => Ok(None),
        [value] => match number(value) {
            Some(number) if number < 1 << 63 => Ok(Some(number)),
            _ => Err(Stop::Refused("Max-Forwards")),
        },
        _ => Err(Stop::Refused("several Max-Forwards")),
    }
}

/// Says whether WebSocket is among the protocols in Upgrade. RFC 9110 section 7.8.
fn names_websocket(fields: &[Field]) -> Result<bool, Stop> {
    let protocols: Vec<Vec<u8>> = values(fields, "upgrade")
        .iter()
        .flat_map(|value| list(value))
        .collect();
    match protocols.iter().all(|protocol| is_protocol(protocol)) {
        true => Ok(protocols
            .iter()
            .any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))),
        false => Err(Stop::Refused("Upgrade")),
    }
}

/// Takes a request target apart: the authority if there is one, and what the server is asked for.
/// RFC 9112 section 3.2; section 3.2.4 for OPTIONS of the whole server.
fn target(target: &[u8], method: &[u8]) -> Result<(Option<Vec<u8>>, Vec<u8>), Stop> {
    if target == b"*" && method == b"OPTIONS" || target.starts_with(b"/") {
        return Ok((None, target.to_vec()));
    }
    let lower = target.to_ascii_lowercase();
    let scheme = ["http://", "https://", "ws://", "wss://"]
        .into_iter()
        .find(|scheme| lower.starts_with(scheme.as_bytes()))
        .ok_or(Stop::Refused("form of the target"))?;
    let rest = &target[scheme.len()..];
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority =
        grammar::authority(authority).ok_or(Stop::Refused("authority of the target"))?;
    if path.is_empty() && method == b"OPTIONS" {
        return Ok((Some(authority), b"*".to_vec()));
    }
    // An empty path is "/". RFC 9110 section 4.2.3.
    let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
    Ok((Some(authority), [slash, path].concat()))
}

/// Reads the fields of an offer. RFC 6455 section 4.1.
fn offer(fields: &[Field]) -> Result<Offer, Stop> {
    let key = match &values(fields, "sec-websocket-key")[..] {
        [key] if (1..=64).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic) => {
            key.clone()
        }
        _ => return Err(Stop::Refused("Sec-WebSocket-Key")),
    };
    if values(fields, "sec-websocket-version") != [b"13"] {
        return Err(Stop::Refused("Sec-WebSocket-Version"));
    }
    let protocols = values(fields, "sec-websocket-protocol");
    let extensions = values(fields, "sec-websocket-extensions");
    let bad_protocols = protocols.iter().any(|value| {
        let names = list(value);
        names.is_empty() || !names.iter().all(|name| is_token(name))
    });
    let bad_extensions = extensions
        .iter()
        .flat_map(|value| list(value))
        .any(|extension| extension_name(&extension).is_none());
    let unended = protocols
        .iter()
        .chain(&extensions)
        .any(|value| split_unquoted(value, b',').is_none());
    let protocols: Vec<Vec<u8>> = protocols
        .iter()
        .flat_map(|value| unquoted_list(value))
        .collect();
    let extensions: Vec<Vec<u8>> = extensions
        .iter()
        .flat_map(|value| unquoted_list(value))
        .map(|extension| name_of(&extension))
        .collect();
    let more = unended || protocols.len() + extensions.len() > MAX_NAMES;
    let flaws = [
        (!is_key(&key), "bad_key"),
        (bad_protocols, "bad_subprotocol"),
        (bad_extensions, "bad_extension"),
        (more, "offer_too_large"),
    ];
    Ok(Offer {
        key,
        protocols,
        extensions,
        more,
        flaw: flaws.iter().find(|(broken, _)| *broken).map(|it| it.1),
    })
}

/// The elements of a list, in which quoted strings may have commas.
pub fn unquoted_list(value: &[u8]) -> Vec<Vec<u8>> {
    let elements = split_unquoted(value, b',').unwrap_or_default();
    elements
        .iter()
        .map(|element| trim(element).to_vec())
        .filter(|element| !element.is_empty())
        .collect()
}

/// What is before the parameters of an extension.
pub fn name_of(extension: &[u8]) -> Vec<u8> {
    let parts = split_unquoted(extension, b';').unwrap_or_default();
    parts.first().map_or(Vec::new(), |name| trim(name).to_vec())
}
