// SPDX-License-Identifier: GPL-2.0

//! The inner loops of the parser: how long a run of bytes of one kind is.

use crate::proto::field::{
    class,
    VALUE, //
};

/// Bytes that are looked at together, as a word of arithmetic on each of them.
const WIDTH: usize = 16;

/// Returns a word in which each byte is `byte`.
const fn each(byte: u8) -> u128 {
    u128::from_le_bytes([byte; WIDTH])
}

/// Returns how many bytes at the front of `bytes` are of one of the classes in `wanted`.
#[inline]
pub(super) fn run(bytes: &[u8], wanted: u8) -> usize {
    let mut rest = bytes;
    // The compiler makes a straight line of eight tests.
    while let Some((chunk, behind)) = rest.split_first_chunk::<8>() {
        if let Some(stop) = chunk.iter().position(|&byte| class(byte) & wanted == 0) {
            return bytes.len().wrapping_sub(rest.len()).wrapping_add(stop);
        }
        rest = behind;
    }
    let stop = rest
        .iter()
        .position(|&byte| class(byte) & wanted == 0)
        .unwrap_or(rest.len());
    bytes.len().wrapping_sub(rest.len()).wrapping_add(stop)
}

/// Returns how many bytes at the front of `bytes` may be in a field value: all but control bytes,
/// the tab excepted. RFC 9110 section 5.5.
#[inline]
pub(super) fn value_run(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk::<WIDTH>() {
        let stop = first_control(u128::from_le_bytes(*word));
        if stop == WIDTH {
            rest = behind;
        } else if word.get(stop) == Some(&b'\t') {
            rest = rest.get(stop.saturating_add(1)..).unwrap_or(&[]);
        } else {
            return bytes.len().wrapping_sub(rest.len()).wrapping_add(stop);
        }
    }
    bytes
        .len()
        .wrapping_sub(rest.len())
        .wrapping_add(run(rest, VALUE))
}

/// Returns the place of the first byte below 0x20 or equal to 0x7f, or [`WIDTH`].
#[inline]
fn first_control(word: u128) -> usize {
    // Of the lower seven bits, 0x7f becomes 0 and control bytes 1 to 0x20; 0x5f more sets bit 7 of all others.
    // No sum of two bytes is above 0xff, so none reaches the next one.
    let after = (word & each(0x7f)).wrapping_add(each(1)) & each(0x7f);
    let text = after.wrapping_add(each(0x5f)) | word;
    ((!text & each(0x80)).trailing_zeros() >> 3) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_at_the_same_byte_eight_at_a_time_and_one_by_one() {
        let mut bytes = [b'a'; 40];
        for place in 0..bytes.len() {
            for byte in 0..=u8::MAX {
                for before in [b'a', b'\t', 0x80, 0xff, b' '] {
                    bytes.fill(before);
                    for (at, to) in bytes.iter_mut().enumerate() {
                        if at == place {
                            *to = byte;
                        }
                    }
                    for start in 0..9 {
                        let bytes = bytes.get(start..).unwrap_or(&[]);
                        assert_eq!(value_run(bytes), run(bytes, VALUE));
                    }
                }
            }
        }
    }
}
