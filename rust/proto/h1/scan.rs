// SPDX-License-Identifier: GPL-2.0

//! The inner loops of the parser: how long a run of bytes of one kind is.

use crate::proto::field::class;

/// Each byte of a word is 1.
const ONES: u64 = u64::MAX / 0xff;
/// The highest bit of each byte of a word.
const HIGH: u64 = ONES << 7;

/// Returns how many bytes at the front of `bytes` are of one of the classes in `wanted`.
#[inline]
pub(super) fn run(bytes: &[u8], wanted: u8) -> usize {
    bytes
        .iter()
        .position(|&byte| class(byte) & wanted == 0)
        .unwrap_or(bytes.len())
}

/// Returns how many bytes at the front of `bytes` may be in a field value: all but control bytes,
/// the tab excepted. RFC 9110 section 5.5. Looks at eight bytes at a time.
#[inline]
pub(super) fn value_run(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk::<8>() {
        let stop = first_control(u64::from_le_bytes(*word));
        if stop == 8 {
            rest = behind;
        } else if word.get(stop) == Some(&b'\t') {
            rest = rest.get(stop.saturating_add(1)..).unwrap_or(&[]);
        } else {
            return bytes.len().saturating_sub(rest.len()).saturating_add(stop);
        }
    }
    bytes
        .len()
        .saturating_sub(rest.len())
        .saturating_add(run(rest, crate::proto::field::VALUE))
}

/// Returns the place of the first byte below 0x20 or equal to 0x7f, or 8.
///
/// A borrow can mark a byte wrongly, but only behind one that is marked rightly.
#[inline]
fn first_control(word: u64) -> usize {
    let below_space = word.wrapping_sub(ONES.wrapping_mul(0x20)) & !word;
    let no_delete = word ^ ONES.wrapping_mul(0x7f);
    let delete = no_delete.wrapping_sub(ONES) & !no_delete;
    let marks = (below_space | delete) & HIGH;
    (marks.trailing_zeros() >> 3) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::field::VALUE;

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
