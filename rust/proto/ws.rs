// SPDX-License-Identifier: GPL-2.0

//! The opening handshake of WebSocket, seen from between: RFC 6455 section 4.
//!
//! An [`Offer`] is a request that validly asks for a WebSocket. [`AwaitingAccept`] is what must be
//! remembered of it until the server's 101, which turns it into [`Accepted`], or is an error.

use super::error::Error;
use super::field::{
    class,
    elements,
    is_token,
    parts,
    BadList,
    KnownField,
    BASE64, //
};
use super::head::{
    Head,
    Occurrence, //
};
use super::response::{
    Response,
    ResponseKind, //
};
use super::span::{
    Source,
    Span, //
};

/// Length of a Sec-WebSocket-Key: 16 bytes in base64.
pub const KEY_LEN: usize = 24;

/// Length of a Sec-WebSocket-Accept: a SHA-1 digest in base64.
pub const ACCEPT_LEN: usize = 28;

/// Most bytes of subprotocol and extension names in one offer, a comma after each counted.
pub const MAX_OFFER_TEXT: usize = 448;

/// Length of what a Sec-WebSocket-Accept is the digest of: key and GUID.
pub const DIGEST_INPUT_LEN: usize = KEY_LEN + GUID.len();

/// The effect that proto is lent: base64(SHA-1(input)).
pub type Sha1Base64 = fn(&[u8; DIGEST_INPUT_LEN]) -> [u8; ACCEPT_LEN];

/// What shows that an accept was made for WebSocket. RFC 6455 section 1.3.
const GUID: &[u8; 36] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A valid request to switch to the WebSocket protocol: small, to be looked at or declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    key: [u8; KEY_LEN],
}

impl Offer {
    /// Reads the fields of a request that asks for `websocket`. RFC 6455 section 4.2.1.
    pub(super) fn new<S: Source + ?Sized>(
        key: Occurrence,
        version: Occurrence,
        src: &S,
    ) -> Result<Offer, Error> {
        match version {
            Occurrence::Once(value) if value.eq(src, b"13") => {}
            Occurrence::Once(_) => return Err(Error::WsVersion),
            _ => return Err(Error::NoWsVersion),
        }
        let mut offer = Offer { key: [0; KEY_LEN] };
        match key {
            Occurrence::Once(value)
                if value.copy_to(src, &mut offer.key).map(<[u8]>::len) == Some(KEY_LEN)
                    && is_key(&offer.key) =>
            {
                Ok(offer)
            }
            _ => Err(Error::BadKey),
        }
    }

    /// Returns the Sec-WebSocket-Key as the client sent it.
    pub const fn key(&self) -> &[u8; KEY_LEN] {
        &self.key
    }
}

/// Says whether the text is 16 bytes in base64: 22 characters, of which the last has four bits of
/// padding, which are zero, and two `=`. RFC 4648 section 4.
fn is_key(key: &[u8; KEY_LEN]) -> bool {
    let [text @ .., last, b'=', b'='] = key else {
        return false;
    };
    text.iter().all(|&byte| class(byte) & BASE64 != 0) && matches!(last, b'A' | b'Q' | b'g' | b'w')
}

/// An offer that was forwarded: what its acceptance will be held against.
#[derive(Clone, Debug)]
pub struct AwaitingAccept {
    key: [u8; KEY_LEN],
    protocols: Names,
    extensions: Names,
    /// The subprotocols' names, then the extensions', each with a comma behind it.
    text: [u8; MAX_OFFER_TEXT],
}

/// A range of [`AwaitingAccept::text`].
#[derive(Clone, Copy, Debug, Default)]
struct Names {
    start: u16,
    end: u16,
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
        let mut awaiting = AwaitingAccept {
            key: offer.key,
            protocols: Names::default(),
            extensions: Names::default(),
            text: [0; MAX_OFFER_TEXT],
        };
        for value in values(head, KnownField::SecWebSocketProtocol) {
            let before = awaiting.protocols.end;
            for name in elements(value, src) {
                let name = name.map_err(|BadList| Error::BadSubprotocol)?;
                if !is_token(name, src) {
                    return Err(Error::BadSubprotocol);
                }
                awaiting.protocols.end = awaiting.append(awaiting.protocols.end, name, src)?;
            }
            if awaiting.protocols.end == before {
                return Err(Error::BadSubprotocol);
            }
        }
        awaiting.extensions.start = awaiting.protocols.end;
        awaiting.extensions.end = awaiting.protocols.end;
        for value in values(head, KnownField::SecWebSocketExtensions) {
            for extension in elements(value, src) {
                let name = extension
                    .ok()
                    .and_then(|extension| extension_name(extension, src))
                    .ok_or(Error::BadExtension)?;
                awaiting.extensions.end = awaiting.append(awaiting.extensions.end, name, src)?;
            }
        }
        Ok(awaiting)
    }

    /// Holds the 101 in `head`, already read as `response`, against the offer. RFC 6455 section 4.1.
    ///
    /// Any error means that the server connection must be closed and the client answered with 502.
    pub fn accept<S: Source + ?Sized>(
        &self,
        head: &Head,
        response: &Response,
        src: &S,
        sha1_base64: Sha1Base64,
    ) -> Result<Accepted, Error> {
        let mut upgrade = Occurrence::Absent;
        let mut accept = Occurrence::Absent;
        let mut protocol = Occurrence::Absent;
        for field in head.fields() {
            match field.known {
                KnownField::Upgrade => upgrade.add(field.value),
                KnownField::SecWebSocketAccept => accept.add(field.value),
                KnownField::SecWebSocketProtocol => protocol.add(field.value),
                _ => {}
            }
        }
        if response.kind != ResponseKind::Switch {
            return Err(Error::UnaskedSwitch);
        }
        match upgrade {
            Occurrence::Once(value) if value.eq_ignore_case(src, b"websocket") => {}
            _ => return Err(Error::SwitchProtocol),
        }
        if !response.upgrade_option {
            return Err(Error::SwitchConnection);
        }
        match accept {
            Occurrence::Once(value) if value.eq(src, &sha1_base64(&self.digest_input())) => {}
            _ => return Err(Error::SwitchAccept),
        }
        match protocol {
            Occurrence::Absent => {}
            Occurrence::Once(value) if self.offers(self.protocols, value, src) => {}
            _ => return Err(Error::SwitchSubprotocol),
        }
        for value in values(head, KnownField::SecWebSocketExtensions) {
            for extension in elements(value, src) {
                extension
                    .ok()
                    .and_then(|extension| extension_name(extension, src))
                    .filter(|&name| self.offers(self.extensions, name, src))
                    .ok_or(Error::SwitchExtension)?;
            }
        }
        Ok(Accepted(()))
    }

    /// Returns what the accept is the digest of: the key and a constant. RFC 6455 section 1.3.
    fn digest_input(&self) -> [u8; DIGEST_INPUT_LEN] {
        let mut input = [0; DIGEST_INPUT_LEN];
        for (to, from) in input.iter_mut().zip(self.key.iter().chain(GUID)) {
            *to = *from;
        }
        input
    }

    /// Writes a name and a comma at `at` of the text; returns the offset behind them.
    fn append<S: Source + ?Sized>(&mut self, at: u16, name: Span, src: &S) -> Result<u16, Error> {
        let room = self
            .text
            .get_mut(usize::from(at)..)
            .ok_or(Error::OfferTooLarge)?;
        name.copy_to(src, room).ok_or(Error::OfferTooLarge)?;
        *room
            .get_mut(usize::from(name.len))
            .ok_or(Error::OfferTooLarge)? = b',';
        Ok(at.saturating_add(name.len).saturating_add(1))
    }

    /// Says whether `name` is, byte for byte, among `names`.
    fn offers<S: Source + ?Sized>(&self, names: Names, name: Span, src: &S) -> bool {
        self.text
            .get(usize::from(names.start)..usize::from(names.end))
            .unwrap_or(&[])
            .split(|&byte| byte == b',')
            .any(|offered| !offered.is_empty() && name.eq(src, offered))
    }
}

/// Returns the values of all field lines of one field.
fn values(head: &Head, known: KnownField) -> impl Iterator<Item = Span> + '_ {
    head.fields()
        .iter()
        .filter(move |field| field.known == known)
        .map(|field| field.value)
}

/// Returns the name of an extension if it and its parameters are well-formed. RFC 6455 section 9.1.
fn extension_name<S: Source + ?Sized>(extension: Span, src: &S) -> Option<Span> {
    let mut parts = parts(extension, src, b';');
    let name = parts.next()?.ok().filter(|&name| is_token(name, src))?;
    for parameter in parts {
        if !is_parameter(parameter.ok()?, src) {
            return None;
        }
    }
    Some(name)
}

/// Says whether the span is token, token=token, or token=quoted-string with a token in the quotes.
fn is_parameter<S: Source + ?Sized>(parameter: Span, src: &S) -> bool {
    let len = parameter
        .bytes(src)
        .take_while(|&byte| byte != b'=')
        .count();
    let len = u16::try_from(len).unwrap_or(u16::MAX);
    let name = Span { len, ..parameter };
    let value = Span::between(name.end().saturating_add(1), parameter.end());
    let quoted = Span::between(value.start.saturating_add(1), value.end().saturating_sub(1));
    is_token(name, src)
        && (len == parameter.len
            || is_token(value, src)
            || value.bytes(src).next() == Some(b'"')
                && value.bytes(src).last() == Some(b'"')
                && is_token(quoted, src))
}

/// Proof that the server accepted the offer: from here on the connections are a tunnel.
#[derive(Debug)]
#[must_use]
pub struct Accepted(());
