// SPDX-License-Identifier: GPL-2.0

//! Empty lines before a request. RFC 9112 section 2.2.
//!
//! Some clients send CR LF behind the body of a POST. That begins no request: until a byte of a request line has come,
//! a connection is idle.

/// Most empty lines before one request that are skipped. The RFC asks for one at least.
const EMPTY_LINES_MAX: u8 = 8;

/// Bytes that say all that [`skip`] can find out: so many empty lines, and as much behind them as one more has.
pub const LOOK: usize = 2 * EMPTY_LINES_MAX as usize + 2;

/// Looks at the first bytes that were not consumed, up to [`LOOK`] of them or as many as there are.
///
/// Returns how many of them are empty lines, to be consumed, and whether a request begins behind these. If none does, the
/// connection is idle: nothing is there, or a CR whose LF may follow. `skipped` is how many lines there were before, 0 at
/// first. What follows the last line that may be skipped is for the parser to judge, which takes no other.
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
