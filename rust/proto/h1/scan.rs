// SPDX-License-Identifier: GPL-2.0

//! The inner loops of the parser. They find the end of a run of bytes of one class.

use crate::proto::field::{
    class,
    TARGET,
    TOKEN,
    VALUE, //
};

/// Returns a word in which each byte is `byte`.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Returns how many bytes at the front of `bytes` may be in a token. RFC 9110 section 5.6.2.
#[inline]
pub(super) fn token(bytes: &[u8]) -> usize {
    run(bytes, TOKEN)
}

/// Returns how many bytes at the front of `bytes` may be in a request target.
#[inline]
pub(super) fn target(bytes: &[u8]) -> usize {
    run(bytes, TARGET)
}

/// Returns how many bytes at the front of `bytes` are of one of the classes in `wanted`.
#[inline]
fn run(bytes: &[u8], wanted: u8) -> usize {
    let mut rest = bytes;
    // The compiler unrolls this into eight tests.
    while let Some((chunk, behind)) = rest.split_first_chunk::<8>() {
        if let Some(stop) = chunk.iter().position(|&byte| class(byte) & wanted == 0) {
            return before(bytes, rest).wrapping_add(stop);
        }
        rest = behind;
    }
    let stop = rest.iter().position(|&byte| class(byte) & wanted == 0);
    before(bytes, rest).wrapping_add(stop.unwrap_or(rest.len()))
}

/// Returns how many bytes at the front of `bytes` may be in a field value: all but control bytes; a tab may. RFC 9110
/// section 5.5.
#[inline]
pub(super) fn value(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((chunk, behind)) = rest.split_first_chunk::<8>() {
        let marks = unusual(u64::from_le_bytes(*chunk));
        if marks == 0 {
            rest = behind;
            continue;
        }
        match rest.get((marks.trailing_zeros() >> 3) as usize..) {
            // A tab, or text that is not ASCII.
            Some([byte, behind @ ..]) if class(*byte) & VALUE != 0 => rest = behind,
            Some(behind) => return before(bytes, behind),
            None => break,
        }
    }
    before(bytes, rest).wrapping_add(run(rest, VALUE))
}

/// Returns how many of `bytes` are before `rest`, their end.
#[inline]
fn before(bytes: &[u8], rest: &[u8]) -> usize {
    bytes.len().wrapping_sub(rest.len())
}

/// Sets the highest bit of each byte that is below 0x20 or above 0x7e, and maybe of others behind one of these.
#[inline]
fn unusual(word: u64) -> u64 {
    (word.wrapping_sub(each(0x20)) | word | word.wrapping_add(each(1))) & each(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_at_the_same_byte_eight_at_a_time_and_one_by_one() {
        let mut bytes = [b'a'; 40];
        for place in 0..bytes.len() {
            for byte in 0..=u8::MAX {
                for before in [b'a', b'\t', 0x80, 0xff, b' ', b'~'] {
                    bytes.fill(before);
                    for (at, to) in bytes.iter_mut().enumerate() {
                        if at == place {
                            *to = byte;
                        }
                    }
                    for start in 0..9 {
                        let bytes = bytes.get(start..).unwrap_or(&[]);
                        let end = bytes
                            .iter()
                            .position(|&byte| class(byte) & VALUE == 0)
                            .unwrap_or(bytes.len());
                        assert_eq!(value(bytes), end);
                    }
                }
            }
        }
    }
}
