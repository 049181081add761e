// SPDX-License-Identifier: GPL-2.0

//! Cases of frames that are followed, for the host tests and KUnit. Each arrives in every way.

use super::proto::frame::{
    close,
    Frames,
    MASKED_CLOSE_LEN, //
};

/// Bytes of one direction, and the expected findings.
struct Case {
    /// Headers and payloads: a run of bytes, and how many more there are that do not matter.
    parts: &'static [(&'static [u8], usize)],
    /// Offsets at which a frame begins or the last one ends.
    boundaries: &'static [usize],
    /// A Close frame begins at this offset.
    close: Option<usize>,
    /// This many bytes can be followed.
    valid: Option<usize>,
}

const fn case(
    parts: &'static [(&'static [u8], usize)],
    boundaries: &'static [usize],
    close: Option<usize>,
    valid: Option<usize>,
) -> Case {
    Case {
        parts,
        boundaries,
        close,
        valid,
    }
}

const CASES: &[Case] = &[
    case(&[], &[0], None, None),
    // Text, empty and not; a server's and a client's.
    case(&[(b"\x81\x00", 0)], &[0, 2], None, None),
    case(&[(b"\x81\x05", 5)], &[0, 7], None, None),
    case(&[(b"\x81\x80", 4)], &[0, 6], None, None),
    case(&[(b"\x81\x85", 9)], &[0, 11], None, None),
    // In fragments, with a Ping between them, and compressed.
    case(
        &[(b"\x41\x02", 2), (b"\x89\x01", 1), (b"\x80\x7d", 125)],
        &[0, 4, 7, 134],
        None,
        None,
    ),
    // 16 and 64 bits of length, also where fewer would do.
    case(&[(b"\x82\x7e\x00\x7e", 126)], &[0, 130], None, None),
    case(&[(b"\x82\xfe\x01\x00", 260)], &[0, 264], None, None),
    case(&[(b"\x82\x7e\x00\x00", 0)], &[0, 4], None, None),
    case(
        &[(b"\x82\x7f\0\0\0\0\0\0\x01\x2c", 300), (b"\x8a\x00", 0)],
        &[0, 310, 312],
        None,
        None,
    ),
    // Longer than what comes.
    case(
        &[(b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", 64)],
        &[0],
        None,
        None,
    ),
    case(
        &[(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 64)],
        &[0],
        None,
        None,
    ),
    case(&[(b"\x82\x7f\0\0\0\x01\0\0\0\0", 64)], &[0], None, None),
    // Close, from either side.
    case(
        &[(b"\x81\x01", 1), (b"\x88\x02\x03\xe8", 0)],
        &[0, 3, 7],
        Some(3),
        None,
    ),
    case(&[(b"\x88\x82", 6)], &[0, 8], Some(0), None),
    // A payload that looks like a Close.
    case(&[(b"\x81\x04\x88\x02\x03\xe8", 0)], &[0, 6], None, None),
    // The most significant bit of the length.
    case(
        &[(b"\x81\x00", 0), (b"\x82\x7f\x80\0\0\0\0\0\0\0", 8)],
        &[0, 2],
        None,
        Some(12),
    ),
];

/// Most bytes of a case.
const MAX: usize = 320;

/// What cannot be in a payload that is masked, and would be taken for a header if it was looked at.
const FILLING: u8 = 0x88;

fn fill(case: &Case, buffer: &mut [u8; MAX]) -> usize {
    let mut places = buffer.iter_mut();
    let mut len = 0usize;
    for (bytes, more) in case.parts {
        let payload = core::iter::repeat_n(&FILLING, *more);
        for byte in bytes.iter().chain(payload) {
            if let Some(place) = places.next() {
                *place = *byte;
                len = len.saturating_add(1);
            }
        }
    }
    len
}

/// Returns whether the state after `at` bytes is correct.
fn is_right(case: &Case, frames: &Frames, at: usize, begun: u32) -> bool {
    if case.valid.is_some_and(|valid| at >= valid) {
        return frames.is_broken();
    }
    let next = case.boundaries.iter().find(|&&boundary| boundary >= at);
    let distance = next.map_or(u64::MAX, |next| next.saturating_sub(at) as u64);
    let rest = frames.rest();
    let before = case.boundaries.iter().filter(|&&boundary| boundary < at);
    !frames.is_broken()
        && frames.is_closed() == case.close.is_some_and(|close| at > close)
        && (rest == 0) == case.boundaries.contains(&at)
        && rest <= distance
        && begun as usize == before.count()
}

/// Follows the bytes in pieces that end at `cuts`. Returns whether the state after each piece is correct.
fn follows(case: &Case, bytes: &[u8], cuts: &[usize], unseen: bool) -> bool {
    let mut frames = Frames::default();
    let (mut at, mut begun) = (0, 0u32);
    for &cut in cuts.iter().chain(&[bytes.len()]) {
        let piece = bytes.get(at..cut).unwrap_or(&[]);
        if !(unseen && frames.pass(piece.len() as u64)) {
            begun = begun.saturating_add(frames.follow(piece));
        }
        at = cut;
        if !is_right(case, &frames, at, begun) {
            return false;
        }
    }
    true
}

/// Runs all cases: cut in two and in three at every place, and into single bytes. Returns the number of cases, or the
/// one that fails.
pub fn check() -> Result<usize, usize> {
    let mut buffer = [0; MAX];
    let mut singles = [0; MAX];
    for (at, single) in singles.iter_mut().enumerate() {
        *single = at;
    }
    for (number, case) in CASES.iter().enumerate() {
        let len = fill(case, &mut buffer);
        let bytes = buffer.get(..len).ok_or(number)?;
        let mut right = follows(case, bytes, singles.get(..len).ok_or(number)?, false);
        for first in 0..=len {
            right &= follows(case, bytes, &[first], false) && follows(case, bytes, &[first], true);
            // All pairs of long ones would take too long.
            for second in first..=len.min(first.saturating_add(16)) {
                right &= follows(case, bytes, &[first, second], second % 2 == 0);
            }
        }
        if !right {
            return Err(number);
        }
    }
    if closes() {
        Ok(CASES.len())
    } else {
        Err(CASES.len())
    }
}

/// Returns whether the Close frames that are written are correct.
fn closes() -> bool {
    let mut buffer = [0; MASKED_CLOSE_LEN];
    let plain = close(1001, None, &mut buffer) == b"\x88\x02\x03\xe9";
    let key = [0x11, 0x22, 0x33, 0x44];
    let masked = b"\x88\x82\x11\x22\x33\x44\x12\xcb";
    plain && close(1001, Some(key), &mut buffer) == masked
}
