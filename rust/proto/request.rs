// SPDX-License-Identifier: GPL-2.0

//! The meaning of a request's head, decided once. RFC 9110, RFC 9112 sections 3 and 6, RFC 6455 section 4.2.1.

use super::auth::credentials_bind;
use super::connection::Options;
use super::error::Error;
use super::field::{
    class,
    elements,
    mimics_known,
    BadList,
    KnownField,
    TOKEN, //
};
use super::head::{
    FieldSet,
    Head,
    Occurrence, //
};
use super::message::{
    decimal,
    BodyFraming,
    Declared,
    Method,
    Version, //
};
use super::span::{
    Source,
    Span, //
};
use super::target::{
    authority_of,
    Target, //
};
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
    /// The host[:port] of the request, from an absolute target or else from Host. `None` only in HTTP/1.0.
    pub host: Option<Span>,
    /// How the body ends; never [`BodyFraming::UntilClose`].
    pub framing: BodyFraming,
    /// The client wants to keep the connection after the response.
    pub keep_alive: bool,
    /// The client waits for a 100 (Continue) before it sends the body.
    pub expect_continue: bool,
    /// A trailer section may be forwarded: no connection option can name one of its fields. RFC 9110 section 7.6.1.
    pub trailers: bool,
    /// The value of Max-Forwards to forward, in OPTIONS and TRACE. RFC 9110 section 7.6.2.
    pub max_forwards: Option<u64>,
    /// The request authenticates its connection, and with it the requests that follow.
    pub binds: bool,
    /// The fields that are copied to the server as they are.
    pub forward: FieldSet,
    /// The offer to switch to WebSocket. Without one, the request is an ordinary one, whatever its Upgrade field
    /// contains.
    pub upgrade: Option<Offer>,
}

impl Request {
    /// Decides what the complete request head means.
    pub fn from_head<S: Source + ?Sized>(head: &Head, src: &S) -> Result<Request, Error> {
        let method = method(head, src);
        if head.method.eq(src, b"CONNECT") {
            return Err(Error::ConnectMethod);
        }
        let target = Target::parse(head.target, method, src)?;
        let fields = Fields::collect(head, src)?;
        let host = fields.host(target, head.version, src)?;
        let mut framing = match Declared::new(
            fields.content_length,
            fields.transfer_encoding,
            head.version,
            src,
        )? {
            // The bytes that follow could be content or the next request.
            Declared::Nothing
                if head.version < Version::Http11
                    && matches!(method, Method::Post | Method::Put) =>
            {
                return Err(Error::NoLength)
            }
            Declared::Nothing => BodyFraming::None,
            Declared::Length(length) => BodyFraming::Length(length),
            Declared::Chunked => BodyFraming::Chunked,
        };
        let options = Options::from_head(head, src)?;
        let mut forward = fields.forward;
        // A client that sends no body waits for nothing, and one of HTTP/1.0 cannot. RFC 9110 section 10.1.1.
        let expect_continue =
            fields.expects_continue(src)? && head.version == Version::Http11 && !framing.is_empty();
        if !expect_continue {
            forward = forward.without(fields.expect_lines);
        }
        let max_forwards = match method {
            Method::Options | Method::Trace => fields.max_forwards(src)?,
            _ => None,
        };
        if max_forwards.is_some() {
            forward = forward.without(fields.max_forwards_lines);
        }
        let asks = options.upgrade
            && head.version == Version::Http11
            && method == Method::Get
            && framing.is_empty()
            && fields.websocket?;
        let upgrade = match asks {
            true => Some(Offer::new(fields.ws_key, fields.ws_version, src)?),
            false => None,
        };
        if upgrade.is_some() {
            // Some servers refuse an offer with a length, and the bytes behind an offer are no content anyway.
            framing = BodyFraming::None;
        }
        Ok(Request {
            method,
            version: head.version,
            target,
            host,
            framing,
            keep_alive: !options.close && (head.version == Version::Http11 || options.keep_alive),
            expect_continue,
            trailers: !options.others,
            max_forwards,
            binds: fields.binds,
            forward: forward.without(options.nominated),
            upgrade,
        })
    }
}

/// Recognises the method, which is case-sensitive. RFC 9110 section 9.1.
fn method<S: Source + ?Sized>(head: &Head, src: &S) -> Method {
    const METHODS: [(&[u8], Method); 7] = [
        (b"GET", Method::Get),
        (b"POST", Method::Post),
        (b"HEAD", Method::Head),
        (b"PUT", Method::Put),
        (b"DELETE", Method::Delete),
        (b"OPTIONS", Method::Options),
        (b"TRACE", Method::Trace),
    ];
    METHODS
        .iter()
        .find(|(name, _)| head.method.eq(src, name))
        .map_or(Method::Other, |(_, method)| *method)
}

/// The fields of a request that decide something.
struct Fields {
    host: Occurrence,
    content_length: Occurrence,
    transfer_encoding: Occurrence,
    expect: Occurrence,
    expect_lines: FieldSet,
    max_forwards: Occurrence,
    max_forwards_lines: FieldSet,
    ws_key: Occurrence,
    ws_version: Occurrence,
    /// `websocket` is among the protocols in Upgrade. An error in that field matters only in an offer.
    websocket: Result<bool, Error>,
    /// There are credentials that authenticate the connection.
    binds: bool,
    /// The fields that are copied: this gateway neither drops them nor writes them itself.
    forward: FieldSet,
}

impl Fields {
    /// Looks at every field line once.
    fn collect<S: Source + ?Sized>(head: &Head, src: &S) -> Result<Fields, Error> {
        let mut fields = Fields {
            host: Occurrence::Absent,
            content_length: Occurrence::Absent,
            transfer_encoding: Occurrence::Absent,
            expect: Occurrence::Absent,
            expect_lines: FieldSet::EMPTY,
            max_forwards: Occurrence::Absent,
            max_forwards_lines: FieldSet::EMPTY,
            ws_key: Occurrence::Absent,
            ws_version: Occurrence::Absent,
            websocket: Ok(false),
            binds: false,
            forward: FieldSet::EMPTY,
        };
        for (place, field) in head.fields().iter().enumerate() {
            let forwarded = match field.known {
                KnownField::Other => !mimics_known(field.name, src),
                KnownField::Host => {
                    fields.host.add(field.value);
                    false
                }
                KnownField::ContentLength => {
                    fields.content_length.add(field.value);
                    false
                }
                KnownField::TransferEncoding => {
                    fields.transfer_encoding.add(field.value);
                    false
                }
                KnownField::Upgrade => {
                    let names = names_websocket(field.value, src);
                    fields.websocket = fields.websocket.and_then(|found| Ok(found | names?));
                    false
                }
                // A client can claim any origin, so this gateway writes these fields itself.
                KnownField::Forwarded
                | KnownField::XForwardedFor
                | KnownField::XForwardedHost
                | KnownField::XForwardedProto => false,
                KnownField::Authorization | KnownField::ProxyAuthorization => {
                    fields.binds |= credentials_bind(field.value, src);
                    true
                }
                KnownField::Expect => {
                    fields.expect.add(field.value);
                    fields.expect_lines.insert(place);
                    true
                }
                KnownField::MaxForwards => {
                    fields.max_forwards.add(field.value);
                    fields.max_forwards_lines.insert(place);
                    true
                }
                KnownField::SecWebSocketKey => {
                    fields.ws_key.add(field.value);
                    true
                }
                KnownField::SecWebSocketVersion => {
                    fields.ws_version.add(field.value);
                    true
                }
                known => !known.is_hop_by_hop(),
            };
            if forwarded {
                fields.forward.insert(place);
            }
        }
        Ok(fields)
    }

    /// Decides which authority the request is for. RFC 9112 sections 3.2 and 3.2.2.
    fn host<S: Source + ?Sized>(
        &self,
        target: Target,
        version: Version,
        src: &S,
    ) -> Result<Option<Span>, Error> {
        let field = match self.host {
            Occurrence::Once(value) => Some(authority_of(value, src)?),
            Occurrence::Absent if version == Version::Http11 => return Err(Error::NoHost),
            Occurrence::Absent => None,
            Occurrence::Many => return Err(Error::ManyHosts),
        };
        Ok(match target {
            Target::Absolute { authority, .. } | Target::AbsoluteAsterisk { authority } => {
                Some(authority)
            }
            _ => field,
        })
    }

    /// Returns the value of Max-Forwards to forward, if the field is present. RFC 9110 section 7.6.2.
    fn max_forwards<S: Source + ?Sized>(&self, src: &S) -> Result<Option<u64>, Error> {
        match self.max_forwards {
            Occurrence::Absent => Ok(None),
            Occurrence::Once(value) => match decimal(value.bytes(src)) {
                Some(number) => match number.checked_sub(1) {
                    Some(left) => Ok(Some(left)),
                    None => Err(Error::LastForward),
                },
                None => Err(Error::BadMaxForwards),
            },
            Occurrence::Many => Err(Error::BadMaxForwards),
        }
    }

    /// Returns whether the client expects a 100 (Continue). RFC 9110 section 10.1.1.
    fn expects_continue<S: Source + ?Sized>(&self, src: &S) -> Result<bool, Error> {
        match self.expect {
            Occurrence::Absent => Ok(false),
            Occurrence::Once(value) if value.eq_ignore_case(src, b"100-continue") => Ok(true),
            _ => Err(Error::BadExpect),
        }
    }
}

/// Returns whether `websocket`, in any case, is in this list of protocol[/version]. RFC 9110 section 7.8.
fn names_websocket<S: Source + ?Sized>(value: Span, src: &S) -> Result<bool, Error> {
    if value.eq_ignore_case(src, b"websocket") {
        return Ok(true);
    }
    let mut found = false;
    for protocol in elements(value, src) {
        let protocol = protocol.map_err(|BadList| Error::BadUpgrade)?;
        let mut slashes = 0usize;
        let mut after_slash = true;
        for byte in protocol.bytes(src) {
            if byte == b'/' && !after_slash {
                slashes = slashes.saturating_add(1);
                after_slash = true;
            } else if class(byte) & TOKEN != 0 {
                after_slash = false;
            } else {
                return Err(Error::BadUpgrade);
            }
        }
        if slashes > 1 || after_slash {
            return Err(Error::BadUpgrade);
        }
        found |= protocol.eq_ignore_case(src, b"websocket");
    }
    Ok(found)
}
