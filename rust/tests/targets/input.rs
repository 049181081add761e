// SPDX-License-Identifier: GPL-2.0

//! What a fuzz target runs on, and how it is read from the bytes that a fuzzer makes up.

use squall::proto::h1::encode::Forward;
use squall::proto::h1::BodyLimits;
use squall::proto::head::Limits;
use squall::replay::{
    limits,
    AllLimits,
    Case,
    FORWARD, //
};
use squall::vectors::{
    Arrival,
    Vector, //
};

/// Requests that responses answer; a response's input chooses one by its number.
const REQUESTS: [&[u8]; 10] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a\r\n\r\n",
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
];

/// Limits to choose from: those in use, and some that short messages reach.
const LIMITS: [Limits; 3] = [
    Limits::DEFAULT,
    Limits {
        head: 256,
        start_line: 64,
        field_line: 96,
        fields: 6,
    },
    Limits {
        head: 1024,
        start_line: 400,
        field_line: 300,
        fields: 16,
    },
];

/// Limits of bodies and trailer sections to choose from.
const BODY_LIMITS: [(BodyLimits, Limits); 4] = [
    (BodyLimits::DEFAULT, Limits::TRAILERS),
    (
        BodyLimits {
            content: 5,
            chunk_line: 16,
            chunk_excess: 16,
            blanks: false,
        },
        Limits {
            head: 32,
            fields: 1,
            ..Limits::TRAILERS
        },
    ),
    (
        BodyLimits {
            content: 64,
            chunk_line: 48,
            chunk_excess: 0,
            blanks: false,
        },
        Limits {
            head: 100,
            fields: 3,
            ..Limits::TRAILERS
        },
    ),
    (
        BodyLimits {
            content: 1000,
            chunk_line: 200,
            chunk_excess: 100,
            blanks: false,
        },
        Limits {
            head: 400,
            field_line: 60,
            ..Limits::TRAILERS
        },
    ),
];

/// Clients to choose from.
const CLIENTS: [&[u8]; 2] = [FORWARD.client, b"2001:db8::7"];

/// A stream of bytes with all that decides what they mean, and how they may arrive in pieces.
#[derive(Clone, Debug)]
pub struct Input {
    /// The bytes are responses to `request`; else requests.
    pub response: bool,
    /// The request that responses answer.
    pub request: Vec<u8>,
    /// The bytes.
    pub raw: Vec<u8>,
    /// The limits.
    pub limits: AllLimits,
    /// The client's address.
    pub client: Vec<u8>,
    /// The client is trusted.
    pub trusted: bool,
    /// A Forwarded field is written.
    pub forwarded: bool,
    /// A Via field is added.
    pub via: bool,
    /// Behind the bytes of a response the server closes the connection.
    pub close: bool,
    /// The connection to which the message goes ends behind it, for a reason of ours.
    pub last: bool,
    /// Offers and 101s that have a flaw are refused.
    pub strict: bool,
    /// Ways in which the bytes arrive, to be held against all at once.
    pub arrivals: Vec<Arrival>,
}

impl Input {
    /// Reads an input: one byte of flags, one that chooses the request, four that are the lengths of
    /// pieces, then the stream. `None` if it is too short.
    ///
    /// The flags: 0x01 responses, 0x02 to the request at the front of the stream, 0x04 closed, 0x08 last,
    /// 0x30 which limits of heads, 0xc0 which of bodies; which of those that fit exactly is too low by one,
    /// where they are chosen. Where there are no responses the second byte says 0x01 that the client is
    /// trusted, 0x02 that Forwarded is written, 0x04 which client it is. 0x80 in it: Via is added. 0x40: flaws are refused.
    pub fn from_bytes(bytes: &[u8]) -> Option<Input> {
        let (&[flags, choice, pieces @ ..], stream) = bytes.split_first_chunk::<6>()?;
        let response = flags & 1 != 0;
        let (request, raw) = if response && flags & 2 != 0 {
            let end = stream.windows(4).position(|four| four == b"\r\n\r\n")?;
            stream.split_at(end + 4)
        } else {
            let number = usize::from(choice & 0x3f);
            (REQUESTS[number % REQUESTS.len()], stream)
        };
        let (head, bodies) = match LIMITS.get(usize::from(flags >> 4 & 3)) {
            Some(limits) => (*limits, flags >> 6),
            None => (exact(raw, flags >> 6), 0),
        };
        let (body, trailers) = BODY_LIMITS[usize::from(bodies)];
        Some(Input {
            response,
            request: request.to_vec(),
            raw: raw.to_vec(),
            limits: AllLimits {
                head,
                body,
                trailers,
            },
            client: CLIENTS[usize::from(choice >> 2 & 1)].to_vec(),
            trusted: !response && choice & 1 != 0,
            forwarded: !response && choice & 2 != 0,
            via: choice & 0x80 != 0,
            close: flags & 4 != 0,
            last: flags & 8 != 0,
            strict: choice & 0x40 != 0,
            arrivals: arrivals(pieces, raw.len()),
        })
    }

    /// Reads what a vector of the kinds `request` and `response` is about; `None` for other kinds.
    pub fn from_vector(vector: &Vector<'_>) -> Option<Input> {
        let response = match vector.value("kind")? {
            "request" => false,
            "response" => true,
            _ => return None,
        };
        let raw: Vec<u8> = vector.bytes("raw").collect();
        Some(Input {
            response,
            request: match vector.has("request") {
                true => vector.bytes("request").collect(),
                false => REQUESTS[0].to_vec(),
            },
            limits: limits(vector)?,
            client: match vector.value("client") {
                Some(client) => client.as_bytes().to_vec(),
                None => CLIENTS[0].to_vec(),
            },
            trusted: vector.has("trusted"),
            forwarded: vector.has("forwarded"),
            via: vector.has("via"),
            close: vector.has("close"),
            last: vector.has("last"),
            strict: vector.has("strict"),
            arrivals: arrivals([7, 1, 30, 2], raw.len()),
            raw,
        })
    }

    /// Returns the input as a case for [`squall::replay::run`].
    pub fn case(&self) -> Case<'_> {
        Case {
            response: self.response,
            raw: &self.raw,
            request: &self.request,
            limits: self.limits,
            forward: Forward {
                client: &self.client,
                trusted: self.trusted,
                forwarded: self.forwarded,
                via: self.via,
                ..FORWARD
            },
            close: self.close,
            last: self.last,
            strict: self.strict,
        }
    }
}

/// Limits that the first head in `raw` just keeps, except the one that `lower` chooses.
fn exact(raw: &[u8], lower: u8) -> Limits {
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n");
    let head = &raw[..end.map_or(raw.len(), |end| end + 4)];
    let mut lines = head.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::len);
    let limit = |len: usize, number| {
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        len.saturating_sub(u16::from(lower == number))
    };
    Limits {
        head: limit(head.len(), 1),
        start_line: limit(lines.next().unwrap_or(0), 2),
        // The empty line at the end is no field line, but is to fit.
        field_line: limit(lines.clone().max().unwrap_or(0), 3).max(2),
        fields: u16::try_from(lines.count().saturating_sub(1)).unwrap_or(u16::MAX),
    }
}

/// Ways for `len` bytes to arrive that the four numbers choose, and byte by byte.
fn arrivals(pieces: [u8; 4], len: usize) -> Vec<Arrival> {
    let [a, b, c, d] = pieces.map(usize::from);
    vec![
        Arrival::Bytes,
        Arrival::Pieces(pieces),
        Arrival::Cut((a << 8 | b) % (len + 1)),
        Arrival::Cut((c << 8 | d) % (len + 1)),
    ]
}
