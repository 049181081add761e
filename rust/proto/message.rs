// SPDX-License-Identifier: GPL-2.0

//! What requests and responses share: versions, methods, body framing.

use super::error::Error;
use super::field::{
    class,
    elements,
    TOKEN, //
};
use super::head::Occurrence;
use super::span::{
    Source,
    Span, //
};

/// Protocol version of a message. RFC 9112 section 2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, or a higher minor version. RFC 9110 section 2.5.
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
    /// TRACE.
    Trace,
    /// Any other token, to be found in [`crate::proto::head::Head::method`].
    Other,
}

/// How the end of a body is found. RFC 9112 section 6.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body.
    None,
    /// Exactly this many bytes; 0 if the sender declared 0.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// Everything up to the end of the connection. Responses only.
    UntilClose,
}

impl BodyFraming {
    /// Returns whether the message ends with its head, which includes a length of 0. RFC 9110 section 8.6.
    pub const fn is_empty(self) -> bool {
        matches!(self, BodyFraming::None | BodyFraming::Length(0))
    }
}

/// The body that the fields of a message declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    Nothing,
    Length(u64),
    Chunked,
}

impl Declared {
    /// Reads the fields that frame a body: the strictest reading of RFC 9112 sections 6.1 to 6.3.
    pub(super) fn new<S: Source + ?Sized>(
        content_length: Occurrence,
        transfer_encoding: Occurrence,
        version: Version,
        src: &S,
    ) -> Result<Declared, Error> {
        match (content_length, transfer_encoding) {
            (Occurrence::Absent, Occurrence::Absent) => Ok(Declared::Nothing),
            (Occurrence::Once(value), Occurrence::Absent) => {
                let length = decimal(value.bytes(src)).ok_or(Error::BadContentLength)?;
                Ok(Declared::Length(length))
            }
            (Occurrence::Many, Occurrence::Absent) => Err(Error::ManyContentLengths),
            (Occurrence::Absent, _) if version < Version::Http11 => Err(Error::CodingInHttp10),
            (Occurrence::Absent, Occurrence::Once(value)) => {
                if value.eq_ignore_case(src, b"chunked") {
                    return Ok(Declared::Chunked);
                }
                match ends_chunked(value, src) {
                    true => Err(Error::UnknownCoding),
                    false => Err(Error::BadTransferEncoding),
                }
            }
            (Occurrence::Absent, Occurrence::Many) => Err(Error::ManyTransferEncodings),
            _ => Err(Error::LengthAndCoding),
        }
    }
}

/// Returns whether these are transfer codings of which only the last is `chunked`, with at least one before it. A
/// recipient that knows the others could tell where the body ends. RFC 9112 sections 6.1 and 7.
fn ends_chunked<S: Source + ?Sized>(value: Span, src: &S) -> bool {
    let (mut last, mut before) = (false, false);
    for coding in elements(value, src) {
        let Ok(coding) = coding else {
            return false;
        };
        let end = coding
            .bytes(src)
            .take_while(|&byte| class(byte) & TOKEN != 0);
        let name = Span {
            len: u16::try_from(end.count()).unwrap_or(0),
            ..coding
        };
        let mut rest = coding.bytes(src).skip(usize::from(name.len));
        let next = rest.find(|&byte| byte != b' ' && byte != b'\t');
        // Parameters only matter to a recipient that knows the coding.
        if last || name.is_empty() || !matches!(next, None | Some(b';')) {
            return false;
        }
        last = coding.eq_ignore_case(src, b"chunked");
        if !last && name.eq_ignore_case(src, b"chunked") {
            return false;
        }
        before |= !last;
    }
    last && before
}

/// Most digits of a number in a field: more than a 64-bit number needs, which leaves room for leading zeros.
const DIGITS_MAX: usize = 32;

/// Reads a decimal number below 2^63 in 1 to [`DIGITS_MAX`] digits.
///
/// It may have leading zeros (RFC 9110 section 8.6). Some recipients would read it as octal then, so it is forwarded
/// without them.
pub(super) fn decimal(bytes: impl Iterator<Item = u8>) -> Option<u64> {
    let mut number = None;
    for (place, byte) in bytes.enumerate() {
        if !byte.is_ascii_digit() || place >= DIGITS_MAX {
            return None;
        }
        number = number
            .unwrap_or(0u64)
            .checked_mul(10)?
            .checked_add(u64::from(byte & 0x0f))
            .filter(|&number| number <= i64::MAX.unsigned_abs());
        number?;
    }
    number
}
