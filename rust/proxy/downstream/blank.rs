// SPDX-License-Identifier: GPL-2.0

//! Empty lines before a request.
//!
//! Context: softirq, the lock of the downstream connection held.

use super::{
    super::{
        body::count,
        session::Io, //
    },
    Downstream,
    REQUESTS,
    REQUESTS_BITS, //
};
use crate::proto::h1::blank;

impl Downstream {
    /// Skips empty lines before a request. Returns whether a request begins; if not, the connection is idle.
    pub(super) fn skip_empty_lines(&mut self, io: &mut Io<'_>) -> bool {
        let first = io.peek(0).first();
        if first.is_some_and(|&byte| byte != b'\r') {
            return true;
        }
        let mut front = [0; blank::LOOK];
        let copied = io.copy(0, &mut front);
        let mut skipped = (self.counts >> REQUESTS_BITS) as u8;
        let (consumed, begun) = blank::skip(front.get(..copied).unwrap_or(&[]), &mut skipped);
        self.counts = self.counts & REQUESTS | u32::from(skipped) << REQUESTS_BITS;
        if consumed > 0 {
            io.consume(count(consumed));
        }
        begun
    }
}
