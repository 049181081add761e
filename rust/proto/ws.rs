// SPDX-License-Identifier: GPL-2.0

//! The opening handshake of WebSocket, as an intermediary sees it. RFC 6455 section 4.
//!
//! An [`Offer`] is a request that asks for a WebSocket. [`AwaitingAccept`] is what is remembered of it until the
//! server's 101. A valid 101 turns it into [`Accepted`]; any other is an error.
//!
//! Some rules concern only the two ends, because they do not change how the bytes are read. An offer or a 101 that
//! breaks one of these has a flaw. The caller either forwards it for the ends to judge, or refuses it as if the flaw
//! were an error.

use super::error::Error;
use super::field::{
    class,
    elements,
    is_token,
    parts,
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

/// Most bytes that a Sec-WebSocket-Key may have. A valid one has [`KEY_LEN`]. Some clients, among them OCPP chargers,
/// send 32 bytes in base64, which are 44.
pub const KEY_MAX: usize = 64;

/// Length of a valid Sec-WebSocket-Key: 16 bytes in base64.
pub const KEY_LEN: usize = 24;

/// Length of a Sec-WebSocket-Accept: a SHA-1 digest in base64.
pub const ACCEPT_LEN: usize = 28;

/// Most subprotocols and extensions of one offer that are remembered, in total.
pub const NAMES_MAX: usize = 22;

/// Most bytes of the input of a Sec-WebSocket-Accept: key and GUID.
const DIGEST_INPUT_MAX: usize = KEY_MAX + GUID.len();

/// The digests that the caller provides.
#[derive(Clone, Copy)]
pub struct Digests {
    /// base64(SHA-1(input)), of an input of up to 100 bytes.
    pub sha1_base64: fn(&[u8]) -> [u8; ACCEPT_LEN],
    /// A hash of a text that arrives in pieces, with a key that no peer knows. How the text is cut makes no difference.
    pub keyed: for<'a> fn(&mut dyn Iterator<Item = &'a [u8]>) -> u64,
}

impl Digests {
    /// Hashes the bytes of a span.
    fn hash<S: Source + ?Sized>(&self, text: Span, src: &S) -> u64 {
        (self.keyed)(&mut text.pieces(src))
    }
}

/// The GUID from which an accept is computed. RFC 6455 section 1.3.
const GUID: &[u8; 36] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request to switch to the WebSocket protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// 1 to [`KEY_MAX`] visible characters.
    key: Span,
    /// The key is 16 bytes in base64.
    key_is_valid: bool,
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
        match key {
            Occurrence::Once(value) if may_be_key(value, src) => Ok(Offer {
                key: value,
                key_is_valid: is_key(value, src),
            }),
            _ => Err(Error::BadKey),
        }
    }
}

/// Returns whether this text can be the key of an offer. The text itself is digested, so its form is for the server to
/// judge.
fn may_be_key<S: Source + ?Sized>(key: Span, src: &S) -> bool {
    (1..=KEY_MAX).contains(&usize::from(key.len)) && key.bytes(src).all(|it| it.is_ascii_graphic())
}

/// Returns whether the text is 16 bytes in base64: 22 characters, of which the last has four bits of padding, which are
/// zero, and two `=`. RFC 4648 section 4.
fn is_key<S: Source + ?Sized>(key: Span, src: &S) -> bool {
    let mut copy = [0; KEY_LEN];
    let Some([text @ .., last, b'=', b'=']) = key.copy_to(src, &mut copy) else {
        return false;
    };
    usize::from(key.len) == KEY_LEN
        && text.iter().all(|&byte| class(byte) & BASE64 != 0)
        && matches!(last, b'A' | b'Q' | b'g' | b'w')
}

/// A forwarded offer, against which the 101 will be checked.
#[derive(Clone, Debug)]
pub struct AwaitingAccept {
    /// Hashes of the names of the subprotocols, then of the extensions.
    names: [u64; NAMES_MAX],
    key: [u8; KEY_MAX],
    key_len: u8,
    protocols: u8,
    extensions: u8,
    /// There are more names than were remembered.
    more: bool,
    flaw: Option<Error>,
}

// The next larger size class of the allocator is twice as large.
const _: () = assert!(size_of::<AwaitingAccept>() <= 256);

impl AwaitingAccept {
    /// What holds for no offer.
    pub const EMPTY: AwaitingAccept = AwaitingAccept {
        names: [0; NAMES_MAX],
        key: [0; KEY_MAX],
        key_len: 0,
        protocols: 0,
        extensions: 0,
        more: false,
        flaw: None,
    };

    /// Remembers `offer`, made by the request in `head`, in what is [`Self::EMPTY`]: it is large, so it is not moved.
    pub fn remember_offer<S: Source + ?Sized>(
        &mut self,
        offer: &Offer,
        head: &Head,
        src: &S,
        digests: &Digests,
    ) {
        if let Some(key) = offer.key.copy_to(src, &mut self.key) {
            self.key_len = u8::try_from(key.len()).unwrap_or(0);
        }
        if !offer.key_is_valid {
            self.note(Error::BadKey);
        }
        for value in values(head, KnownField::SecWebSocketProtocol) {
            let mut is_empty = true;
            for name in elements(value, src) {
                is_empty = false;
                match name {
                    Ok(name) => {
                        if !is_token(name, src) {
                            self.note(Error::BadSubprotocol);
                        }
                        if self.remember(digests.hash(name, src)) {
                            self.protocols = self.protocols.saturating_add(1);
                        }
                    }
                    Err(_) => {
                        self.note(Error::BadSubprotocol);
                        self.more = true;
                    }
                }
            }
            if is_empty {
                self.note(Error::BadSubprotocol);
            }
        }
        for value in values(head, KnownField::SecWebSocketExtensions) {
            for extension in elements(value, src) {
                let extension = extension.map(|extension| Extension::read(extension, src));
                if !extension.is_ok_and(|extension| extension.is_valid) {
                    self.note(Error::BadExtension);
                }
                match extension {
                    Ok(Extension { name, .. }) => {
                        if self.remember(digests.hash(name, src)) {
                            self.extensions = self.extensions.saturating_add(1);
                        }
                    }
                    Err(_) => self.more = true,
                }
            }
        }
        if self.more {
            self.note(Error::OfferTooLarge);
        }
    }

    /// Returns the offer's flaw, the first rule that it breaks although it can be forwarded: [`Error::BadKey`],
    /// [`Error::BadSubprotocol`], [`Error::BadExtension`] or [`Error::OfferTooLarge`].
    pub fn flaw(&self) -> Option<Error> {
        self.flaw
    }

    /// Checks the 101 in `head`, already read as `response`, against the offer. RFC 6455 section 4.1.
    ///
    /// Any error means that the server connection must be closed and the client answered with 502.
    pub fn accept<S: Source + ?Sized>(
        &self,
        head: &Head,
        response: &Response,
        src: &S,
        digests: &Digests,
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
            Occurrence::Once(value) if value.eq(src, &self.wanted(digests)) => {}
            _ => return Err(Error::SwitchAccept),
        }
        let mut flaw = match protocol {
            Occurrence::Absent => None,
            Occurrence::Once(value) if self.offers_protocol(digests.hash(value, src)) => None,
            _ => Some(Error::SwitchSubprotocol),
        };
        for value in values(head, KnownField::SecWebSocketExtensions) {
            for extension in elements(value, src) {
                let offered = extension
                    .map(|extension| Extension::read(extension, src))
                    .is_ok_and(|it| {
                        it.is_valid && self.offers_extension(digests.hash(it.name, src))
                    });
                if !offered {
                    flaw = flaw.or(Some(Error::SwitchExtension));
                }
            }
        }
        Ok(Accepted { flaw })
    }

    /// Returns the accept for the key. RFC 6455 section 1.3.
    fn wanted(&self, digests: &Digests) -> [u8; ACCEPT_LEN] {
        let mut input = [0; DIGEST_INPUT_MAX];
        let key = self.key.get(..usize::from(self.key_len)).unwrap_or(&[]);
        for (to, from) in input.iter_mut().zip(key.iter().chain(GUID)) {
            *to = *from;
        }
        let len = key.len().saturating_add(GUID.len());
        (digests.sha1_base64)(input.get(..len).unwrap_or(&[]))
    }

    /// Notes a broken rule, if it is the first.
    fn note(&mut self, flaw: Error) {
        self.flaw = self.flaw.or(Some(flaw));
    }

    /// Remembers one more name. Returns whether there was room for it.
    fn remember(&mut self, name: u64) -> bool {
        let at = self.protocols.saturating_add(self.extensions);
        match self.names.get_mut(usize::from(at)) {
            Some(place) => {
                *place = name;
                true
            }
            None => {
                self.more = true;
                false
            }
        }
    }

    /// Returns whether a subprotocol of this hash was offered, or may have been.
    fn offers_protocol(&self, name: u64) -> bool {
        self.more || self.offers(0, self.protocols, name)
    }

    /// Returns whether an extension of this hash was offered, or may have been.
    fn offers_extension(&self, name: u64) -> bool {
        self.more || self.offers(self.protocols, self.extensions, name)
    }

    /// Returns whether the hash is among the `count` names from `first` on.
    fn offers(&self, first: u8, count: u8, name: u64) -> bool {
        let names = self.names.iter().skip(usize::from(first));
        names.take(usize::from(count)).any(|it| *it == name)
    }
}

/// Returns the values of all field lines of one field.
fn values(head: &Head, known: KnownField) -> impl Iterator<Item = Span> + '_ {
    head.fields()
        .iter()
        .filter(move |field| field.known == known)
        .map(|field| field.value)
}

/// An element of Sec-WebSocket-Extensions.
#[derive(Clone, Copy)]
struct Extension {
    /// What is before its parameters.
    name: Span,
    /// It and its parameters are well-formed.
    is_valid: bool,
}

impl Extension {
    /// Reads one. RFC 6455 section 9.1.
    fn read<S: Source + ?Sized>(extension: Span, src: &S) -> Extension {
        let mut parts = parts(extension, src, b';');
        let name = parts.next().and_then(Result::ok).unwrap_or(Span::EMPTY);
        Extension {
            name,
            is_valid: is_token(name, src)
                && parts.all(|part| part.is_ok_and(|part| is_parameter(part, src))),
        }
    }
}

/// Returns whether the span is token, token=token, or token=quoted-string with a token in the quotes.
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
pub struct Accepted {
    flaw: Option<Error>,
}

impl Accepted {
    /// Returns the first rule that the 101 breaks though it can be passed on, since it is the client that decides (RFC 6455
    /// section 4.1): [`Error::SwitchSubprotocol`] or [`Error::SwitchExtension`].
    pub fn flaw(&self) -> Option<Error> {
        self.flaw
    }
}
