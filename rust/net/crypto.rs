// SPDX-License-Identifier: GPL-2.0

//! The kernel's own digests and encodings, and its randomness.

use super::bindings;

/// Returns the base64 of the SHA-1 of `input`, as the opening handshake wants it (RFC 6455 4.2.2).
/// Any context.
pub(crate) fn sha1_base64(input: &[u8; 60]) -> [u8; 28] {
    let mut digest = [0u8; 20];
    let mut text = [0u8; 28];
    // SAFETY: Digest and text have the sizes that SHA-1 and base64 of 20 bytes fill exactly.
    unsafe {
        bindings::sha1(input.as_ptr(), input.len(), digest.as_mut_ptr());
        bindings::squall_base64_encode(digest.as_ptr(), 20, text.as_mut_ptr().cast());
    }
    text
}

/// Returns a random number below `limit`; 0 if `limit` is 0. Any context.
pub(crate) fn random(limit: u32) -> u32 {
    // SAFETY: No preconditions.
    let random = unsafe { bindings::get_random_u32() };
    // The high half of the product is below `limit`.
    ((u64::from(random) * u64::from(limit)) >> 32) as u32
}
