// SPDX-License-Identifier: GPL-2.0

//! The meaning of a response's head, decided once, and its delivery to the client. RFC 9110 sections 6.4.1 and 15, RFC
//! 9112 section 6.3.

use super::auth::challenges_bind;
use super::connection::Options;
use super::error::Error;
use super::field::KnownField;
use super::head::{
    FieldSet,
    Head,
    Occurrence, //
};
use super::message::{
    BodyFraming,
    Declared,
    Method,
    Version, //
};
use super::request::Request;
use super::span::Source;

/// The facts about a request that are needed to understand its response. Small, because each exchange keeps one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method was HEAD.
    pub head_method: bool,
    /// The request offered to switch protocols.
    pub upgrade: bool,
    /// The version that the client speaks.
    pub version: Version,
    /// The client wants to keep its connection.
    pub keep_alive: bool,
    /// A Via field is added to the response. RFC 9110 section 7.6.3.
    pub via: bool,
}

/// The facts of `request`; no Via is added.
impl From<&Request> for Asked {
    fn from(request: &Request) -> Asked {
        Asked {
            head_method: request.method == Method::Head,
            upgrade: request.upgrade.is_some(),
            version: request.version,
            keep_alive: request.keep_alive,
            via: false,
        }
    }
}

/// What a response is to its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// A 1xx other than 101: a final response follows. It must not be sent to a client of HTTP/1.0.
    Interim,
    /// A 101 to a request that offered to switch. It must first be checked with [`super::ws::AwaitingAccept`].
    Switch,
    /// The response that ends the exchange.
    Final,
}

/// A valid response.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The role of the response in its exchange.
    pub kind: ResponseKind,
    /// How the body ends on the server's connection.
    pub framing: BodyFraming,
    /// The declared Content-Length, also if there is no body (HEAD, 304).
    pub content_length: Option<u64>,
    /// The server connection can be used for another request once the body has ended.
    pub keep_alive: bool,
    /// The response ends with its head, but some of its fields declare content. They are not forwarded, and bytes
    /// behind the head belong to no message.
    pub contradicts: bool,
    /// `upgrade` is among the connection options.
    pub upgrade_option: bool,
    /// A trailer section may be passed on: no connection option can name a field of it. RFC 9110 section 7.6.1.
    pub trailers: bool,
    /// The server authenticates the connection and not the request.
    pub binds: bool,
    /// There is a Date field.
    pub dated: bool,
    /// The fields that are copied to the client as they are.
    pub forward: FieldSet,
}

impl Response {
    /// Decides what the complete response head means.
    pub fn from_head<S: Source + ?Sized>(
        head: &Head,
        asked: &Asked,
        src: &S,
    ) -> Result<Response, Error> {
        let mut content_length = Occurrence::Absent;
        let mut transfer_encoding = Occurrence::Absent;
        let mut dated = false;
        let mut binds = false;
        let mut forward = FieldSet::EMPTY;
        for (place, field) in head.fields().iter().enumerate() {
            match field.known {
                KnownField::ContentLength => content_length.add(field.value),
                KnownField::TransferEncoding => transfer_encoding.add(field.value),
                known if known.is_hop_by_hop() => {}
                known => {
                    match known {
                        KnownField::Date => dated = true,
                        KnownField::WwwAuthenticate | KnownField::ProxyAuthenticate => {
                            binds |= challenges_bind(field.value, src);
                        }
                        _ => {}
                    }
                    forward.insert(place);
                }
            }
        }
        let options = Options::from_head(head, src)?;
        let kind = match head.status {
            101 if !asked.upgrade || head.version < Version::Http11 => {
                return Err(Error::UnaskedSwitch)
            }
            101 => ResponseKind::Switch,
            100..=199 => ResponseKind::Interim,
            _ => ResponseKind::Final,
        };
        // These end with their heads, whatever the fields declare. RFC 9112 section 6.3.
        let bare = matches!(head.status, 100..=199 | 204)
            || head.status == 304 && transfer_encoding.is_present();
        let declared = Declared::new(content_length, transfer_encoding, head.version, src);
        let contradicts = bare && !matches!(declared, Ok(Declared::Nothing | Declared::Length(0)));
        let declared = match bare {
            true => Declared::Nothing,
            false => declared?,
        };
        let framing = body_framing(head.status, asked, declared);
        Ok(Response {
            status: head.status,
            kind,
            framing,
            content_length: match declared {
                Declared::Length(length) => Some(length),
                _ => None,
            },
            keep_alive: !options.close
                && (head.version == Version::Http11 || options.keep_alive)
                && framing != BodyFraming::UntilClose
                && !contradicts,
            contradicts,
            upgrade_option: options.upgrade,
            trailers: !options.others,
            binds,
            dated,
            forward: forward.without(options.nominated),
        })
    }
}

/// Decides how the body of a response ends, by the rules of RFC 9112 section 6.3 in their order.
fn body_framing(status: u16, asked: &Asked, declared: Declared) -> BodyFraming {
    match (status, declared) {
        (100..=199 | 204 | 304, _) => BodyFraming::None,
        _ if asked.head_method => BodyFraming::None,
        (_, Declared::Chunked) => BodyFraming::Chunked,
        (_, Declared::Length(length)) => BodyFraming::Length(length),
        (_, Declared::Nothing) => BodyFraming::UntilClose,
    }
}

/// How a response is sent on the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How the body ends on the client's connection: a chunked body goes without its chunk framing
    /// to a client of HTTP/1.0, until close.
    pub framing: BodyFraming,
    /// The client's connection is used for another request after this response.
    pub keep_alive: bool,
    /// The version that the client speaks.
    pub version: Version,
    /// A Via field is added.
    pub via: bool,
}

impl Delivery {
    /// Decides how `response` is delivered.
    ///
    /// `may_keep` is false if this gateway ends the connection, for example because of a drain or an unread request
    /// body.
    pub fn new(response: &Response, asked: &Asked, may_keep: bool) -> Delivery {
        let framing = match response.framing {
            BodyFraming::Chunked if asked.version == Version::Http10 => BodyFraming::UntilClose,
            framing => framing,
        };
        Delivery {
            framing,
            keep_alive: may_keep && asked.keep_alive && framing != BodyFraming::UntilClose,
            version: asked.version,
            via: asked.via,
        }
    }
}
