// SPDX-License-Identifier: GPL-2.0

//! The kernel's own digests, hashes and encodings, its randomness and its logarithm.

use super::bindings;

/// Returns the base64 of the SHA-1 of `input`, as the opening handshake wants it (RFC 6455 4.2.2).
/// Any context.
pub(crate) fn sha1_base64(input: &[u8]) -> [u8; 28] {
    let mut digest = [0u8; 20];
    let mut text = [0u8; 28];
    // SAFETY: The input is as long as it says; digest and text have the sizes that SHA-1 and base64 of 20 bytes fill exactly.
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

/// Returns the binary logarithm of a number, as multiples of 2^-24; that of 0 is taken for 0. Any context.
pub(crate) fn log2(number: u32) -> u32 {
    // SAFETY: No preconditions; it only complains of 0.
    unsafe { bindings::intlog2(number.max(1)) }
}

/// Returns a hash by a key that is secret and new with each loading (SipHash). Any context.
pub(super) fn keyed_hash(a: u64, b: u64, c: u64) -> u64 {
    // SAFETY: No preconditions; the key was made before the first connection.
    unsafe { bindings::squall_keyed_hash(a, b, c) }
}

/// A hash of bytes that come in pieces, by the key of [`keyed_hash`]: who does not know that cannot choose bytes whose
/// hashes are alike. It is the same however the bytes are cut. Any context.
#[derive(Default)]
pub(crate) struct Digest {
    state: u64,
    block: [u8; 16],
    len: u32,
}

impl Digest {
    /// Takes a piece of up to 64 KiB.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        for &byte in piece {
            let at = (self.len & 15) as usize;
            if let Some(place) = self.block.get_mut(at) {
                *place = byte;
            }
            self.len = self.len.wrapping_add(1);
            if at == 15 {
                self.close_block();
            }
        }
    }

    /// Returns the hash.
    pub(crate) fn finish(mut self) -> u64 {
        self.close_block();
        // The length tells bytes that are zero from what fills up the block.
        keyed_hash(self.state, u64::from(self.len), 0)
    }

    fn close_block(&mut self) {
        let block = u128::from_le_bytes(core::mem::take(&mut self.block));
        self.state = keyed_hash(self.state, block as u64, (block >> 64) as u64);
    }
}
