// SPDX-License-Identifier: GPL-2.0

//! Request targets and authorities. RFC 9112 section 3.2, RFC 9110 section 4.2.

use super::error::Error;
use super::message::Method;
use super::span::{
    Source,
    Span, //
};

/// The forms of a request target that this gateway serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A path and perhaps a query: begins with `/`.
    Origin(Span),
    /// A whole URI of scheme http, https, ws or wss.
    Absolute {
        /// host[:port], valid and not empty.
        authority: Span,
        /// Path and query: empty, or begins with `/` or `?`.
        path: Span,
    },
    /// `*`: the server itself. OPTIONS only.
    Asterisk,
}

impl Target {
    /// Reads the request target of a request with this method.
    pub fn parse<S: Source + ?Sized>(
        target: Span,
        method: Method,
        src: &S,
    ) -> Result<Target, Error> {
        let _ = (method, src);
        Ok(Target::Origin(target))
    }
}
