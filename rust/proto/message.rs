// SPDX-License-Identifier: GPL-2.0

//! What requests and responses have in common: versions, methods, body framing.

/// Protocol version of a message. RFC 9112 section 2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Request method. RFC 9110 section 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: the response has no content, whatever its fields say.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// OPTIONS: the only method with the request target `*`.
    Options,
    /// Any other token, to be found in [`crate::proto::head::Head::method`].
    Other,
}

/// How the end of a body is found. RFC 9112 section 6.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body.
    None,
    /// Exactly so many bytes; may be 0 when the sender said so.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// Everything until the server closes the connection. Responses only.
    UntilClose,
}
