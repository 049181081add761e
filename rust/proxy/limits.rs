// SPDX-License-Identifier: GPL-2.0

//! The limits of messages, from the current values of `net.squall.*`.

use crate::{
    net::sysctl,
    proto::{
        h1::BodyLimits,
        head::Limits, //
    }, //
};

/// The largest content length that the protocol code can count.
const CONTENT_MAX: u64 = i64::MAX.unsigned_abs();

/// Limits of a request's head.
pub(crate) fn request() -> Limits {
    Limits {
        start_line: narrow(sysctl::request_line_max()),
        ..response()
    }
}

/// Limits of a response's head.
pub(crate) fn response() -> Limits {
    let head = narrow(sysctl::head_max());
    Limits {
        head,
        start_line: head,
        field_line: narrow(sysctl::field_line_max()),
        fields: narrow(sysctl::fields_max()),
    }
}

/// Limits of a trailer section.
pub(crate) fn trailers() -> Limits {
    Limits {
        head: narrow(sysctl::trailers_max()),
        start_line: 0,
        field_line: narrow(sysctl::field_line_max()),
        fields: narrow(sysctl::trailer_fields_max()),
    }
}

/// Most bytes of content that a request may have, by the setting for it.
pub(crate) fn content(body_max_kib: u32) -> u64 {
    match body_max_kib {
        0 => CONTENT_MAX,
        kib => u64::from(kib).saturating_mul(1024),
    }
}

/// Limits of a request's body that may have `content` bytes of content.
pub(crate) fn request_body(content: u64) -> BodyLimits {
    body(content, false)
}

/// Limits of a response's body.
pub(crate) fn response_body() -> BodyLimits {
    body(CONTENT_MAX, true)
}

fn body(content: u64, blanks: bool) -> BodyLimits {
    BodyLimits {
        content,
        chunk_line: narrow(sysctl::chunk_line_max()),
        chunk_excess: narrow(sysctl::chunk_excess_max()),
        blanks,
    }
}

/// The sysctls of these limits have ranges that end below 2^16.
fn narrow(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
