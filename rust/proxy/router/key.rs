// SPDX-License-Identifier: GPL-2.0

//! The two parts of a route's key, as they are configured and as they are compared.
//!
//! Context: process.

use crate::proto::{
    canonical::{
        Host,
        Path,
        HOST_MAX, //
    },
    span::Span, //
};
use kernel::prelude::*;

/// Longest path that a route may have, in bytes as written.
const PATH_MAX: usize = 1024;

/// Longest label of a name, in bytes. RFC 1035 section 2.3.4.
const LABEL_MAX: usize = 63;

/// A host or a path.
pub(super) struct Part {
    text: KVec<u8>,
    compared: KVec<u8>,
}

impl Part {
    /// Returns it as it was configured.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Returns the form that is compared.
    pub(super) fn compared(&self) -> &[u8] {
        &self.compared
    }

    /// Reads a host: empty, a name, an IPv6 address in brackets, or `*.` and a name.
    ///
    /// The form that is compared has the bytes in reverse order, for a wildcard up to its dot. Fails with `EINVAL`.
    pub(super) fn host(text: &[u8]) -> Result<Part> {
        let mut compared = KVec::new();
        let (wildcard, host) = match text.strip_prefix(b"*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if !text.is_empty() {
            if !is_name(host) && (wildcard || !is_literal(host)) {
                return Err(EINVAL);
            }
            let host = Host::from_authority(span(host)?, host).ok_or(EINVAL)?;
            compared.reserve(HOST_MAX.saturating_add(1), GFP_KERNEL)?;
            for byte in host.reversed() {
                compared.push(byte, GFP_KERNEL)?;
            }
            if wildcard {
                compared.push(b'.', GFP_KERNEL)?;
            }
        }
        Part::new(text, compared)
    }

    /// Reads a path: `/`, or segments with a `/` before each, and perhaps one at the end.
    ///
    /// Fails with `EINVAL`, also for a path that no request can match.
    pub(super) fn path(text: &[u8]) -> Result<Part> {
        let usual = |byte: &u8| byte.is_ascii_graphic() && !b"\"#<>?;\\".contains(byte);
        if text.first() != Some(&b'/') || text.len() > PATH_MAX || !text.iter().all(usual) {
            return Err(EINVAL);
        }
        let mut compared = KVec::with_capacity(text.len(), GFP_KERNEL)?;
        for byte in Path::new(span(text)?, text) {
            compared.push(byte.map_err(|_| EINVAL)?, GFP_KERNEL)?;
        }
        // It has an empty segment, or a slash that is encoded.
        if slashes(text) != slashes(&compared) {
            return Err(EINVAL);
        }
        Part::new(text, compared)
    }

    fn new(text: &[u8], compared: KVec<u8>) -> Result<Part> {
        let mut kept = KVec::new();
        kept.extend_from_slice(text, GFP_KERNEL)?;
        Ok(Part {
            text: kept,
            compared,
        })
    }
}

fn span(text: &[u8]) -> Result<Span> {
    let len = u16::try_from(text.len()).map_err(|_| EINVAL)?;
    Ok(Span { start: 0, len })
}

fn slashes(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

/// Returns whether this is a name or an IPv4 address, perhaps with a dot at the end.
fn is_name(host: &[u8]) -> bool {
    host.strip_suffix(b".")
        .unwrap_or(host)
        .split(|byte| *byte == b'.')
        .all(|label| (1..=LABEL_MAX).contains(&label.len()) && label.iter().all(is_of_name))
}

fn is_of_name(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Returns whether this is something in brackets.
fn is_literal(host: &[u8]) -> bool {
    let closed = host.iter().position(|byte| *byte == b']');
    host.first() == Some(&b'[') && closed == host.len().checked_sub(1)
}
