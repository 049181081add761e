// SPDX-License-Identifier: GPL-2.0
//! WebSocket as far as the benchmark speaks it: frames (RFC 6455 section 5.2) and the accept token (section 4.2.2).

use anyhow::{bail, Result};
use base64::{engine::general_purpose::STANDARD, Engine as _};
use sha1::{Digest, Sha1};

/// Opcodes of RFC 6455 section 5.2.
pub const TEXT: u8 = 1;
/// A binary message.
pub const BINARY: u8 = 2;
/// The closing frame.
pub const CLOSE: u8 = 8;
/// A ping, answered by a pong.
pub const PING: u8 = 9;
/// The answer to a ping.
pub const PONG: u8 = 10;

/// The longest payload that is taken, in bytes.
const PAYLOAD_MAX: u64 = 1 << 20;
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a frame's head says.
pub struct Head {
    /// The opcode.
    pub opcode: u8,
    /// The masking key of a client's frame.
    pub mask: Option<[u8; 4]>,
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the payload behind it.
    pub payload: usize,
}

/// Reads the head at the start of `bytes`; none if it is not complete.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 || first & 0x80 == 0 {
        bail!("a frame with reserved bits, or a fragment");
    }
    let (extended, length) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (2, u64::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (8, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        short => (0, u64::from(short)),
    };
    if length > PAYLOAD_MAX {
        bail!("a payload of {length} bytes");
    }
    let mut head = 2 + extended;
    let mut mask = None;
    if second & 0x80 != 0 {
        match bytes.get(head..).and_then(<[u8]>::first_chunk::<4>) {
            Some(key) => mask = Some(*key),
            None => return Ok(None),
        }
        head += 4;
    }
    Ok(Some(Head {
        opcode: first & 0x0f,
        mask,
        head,
        payload: length as usize,
    }))
}

/// Masks or unmasks `payload` in place (RFC 6455 section 5.3).
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        if let Some(word) = chunk.first_chunk_mut::<8>() {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends the head of a final frame with `payload` bytes to `out`.
pub fn head(out: &mut Vec<u8>, opcode: u8, payload: usize, key: Option<[u8; 4]>) {
    let masked = if key.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    if payload < 126 {
        out.push(masked | payload as u8);
    } else if let Ok(length) = u16::try_from(payload) {
        out.push(masked | 126);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(masked | 127);
        out.extend_from_slice(&(payload as u64).to_be_bytes());
    }
    out.extend(key.iter().flatten());
}

/// A whole frame; masked if there is a key.
pub fn frame(opcode: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    head(&mut out, opcode, payload.len(), key);
    let start = out.len();
    out.extend_from_slice(payload);
    if let (Some(key), Some(body)) = (key, out.get_mut(start..)) {
        mask(body, key);
    }
    out
}

/// The value of Sec-WebSocket-Accept that answers a Sec-WebSocket-Key.
pub fn accept(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_of_the_rfc() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn frames_of_every_length_class_come_back() {
        for size in [0, 1, 7, 8, 9, 125, 126, 65535, 65536, 100_000] {
            for key in [None, Some([1, 2, 3, 4])] {
                let payload: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
                let mut bytes = frame(BINARY, &payload, key);
                let parsed = parse(&bytes).unwrap().unwrap();
                assert_eq!(
                    (parsed.opcode, parsed.mask, parsed.payload),
                    (BINARY, key, size)
                );
                assert_eq!(parsed.head + size, bytes.len());
                if let Some(key) = key {
                    assert!(size == 0 || bytes[parsed.head..] != payload);
                    mask(&mut bytes[parsed.head..], key);
                }
                assert_eq!(bytes[parsed.head..], payload);
                for short in 0..parsed.head {
                    assert!(parse(&bytes[..short]).unwrap().is_none());
                }
            }
        }
    }

    #[test]
    fn frame_of_the_rfc() {
        let hello = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(frame(TEXT, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d])), hello);
    }
}
