// SPDX-License-Identifier: GPL-2.0

//! Empty lines before a request. RFC 9112 section 2.2.
//!
//! Some clients send CR LF after the body of a POST. This does not begin a request: a connection is idle until the
//! first byte of a request line.

/// Most empty lines that are skipped before a request. The RFC asks for at least one.
const EMPTY_LINES_MAX: u8 = 8;

/// Bytes that [`skip`] needs at most: all these empty lines and the length of one more.
pub const LOOK: usize = 2 * EMPTY_LINES_MAX as usize + 2;

/// Looks at the first unconsumed bytes, at most [`LOOK`] of them.
///
/// Returns how many bytes of empty lines are to be consumed, and whether a request begins behind them. If none does,
/// the connection is idle: there is no further byte, or only a CR whose LF may follow. `skipped` is the number of lines
/// skipped before, 0 at first. The parser judges what follows the last line that may be skipped, and accepts no empty
/// line.
pub fn skip(bytes: &[u8], skipped: &mut u8) -> (usize, bool) {
    let mut rest = bytes;
    loop {
        rest = match rest {
            [b'\r', b'\n', behind @ ..] if *skipped < EMPTY_LINES_MAX => {
                *skipped = skipped.saturating_add(1);
                behind
            }
            _ => {
                let begun = !matches!(rest, [] | [b'\r']);
                return (bytes.len().saturating_sub(rest.len()), begun);
            }
        };
    }
}
