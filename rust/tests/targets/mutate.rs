// SPDX-License-Identifier: GPL-2.0

//! Changes that matter to a parser and that a fuzzer rarely makes by itself: one byte that means something,
//! at the edge of an element; a digit one higher or lower; the case of a letter; a line twice or not at all.

/// Bytes that mean something somewhere.
const BYTES: &[u8] = b"\r\n \t:;,=\"\\/?*%+-.[]()@#_019aAfFgGxX\0\x7f\x80\xff";

/// A small generator of numbers (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Changes the first `len` bytes of `data` once, and returns how many bytes there are then.
pub fn mutate(data: &mut [u8], len: usize, seed: u32) -> usize {
    let mut numbers = Numbers(u64::from(seed) << 1 | 1);
    let mut bytes = data[..len.min(data.len())].to_vec();
    let at = place(&bytes, &mut numbers);
    let byte = BYTES[numbers.below(BYTES.len())];
    let here = bytes.get(at).copied();
    match (numbers.below(6), here) {
        (0 | 1, _) => bytes.insert(at, byte),
        (2, Some(_)) => bytes[at] = byte,
        (3, Some(_)) => {
            bytes.remove(at);
        }
        (4, Some(here)) => {
            bytes[at] = match here {
                b'a'..=b'z' | b'A'..=b'Z' => here ^ 0x20,
                _ if numbers.below(2) == 0 => here.wrapping_add(1),
                _ => here.wrapping_sub(1),
            }
        }
        _ => {
            let start = bytes[..at].iter().rposition(|&byte| byte == b'\n');
            let start = start.map_or(0, |line_end| line_end + 1);
            let end = bytes[at..].iter().position(|&byte| byte == b'\n');
            let end = end.map_or(bytes.len(), |line_end| at + line_end + 1);
            let line = match numbers.below(3) {
                0 => Vec::new(),
                _ => bytes[start..end].repeat(2),
            };
            bytes.splice(start..end, line);
        }
    }
    bytes.truncate(data.len());
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// A place in the bytes or behind them, mostly at an edge: behind a byte that is no letter, or before one.
fn place(bytes: &[u8], numbers: &mut Numbers) -> usize {
    let edges: Vec<usize> = bytes
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| !(pair[0].is_ascii_alphabetic() && pair[1].is_ascii_alphabetic()))
        .map(|(at, _)| at + 1)
        .collect();
    match numbers.below(3) {
        0 => numbers.below(bytes.len() + 1),
        _ => edges
            .get(numbers.below(edges.len()))
            .copied()
            .unwrap_or(bytes.len()),
    }
}
