// SPDX-License-Identifier: GPL-2.0

//! What holds for every message: each byte is looked at once, splits change nothing, and what is
//! forwarded means what was received.

#![allow(
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)] // A test may panic.

use std::cell::Cell;

use squall::proto::h1::{
    HeadParser,
    Progress, //
};
use squall::proto::head::{
    LargeHead,
    Limits,
    UsualHead, //
};
use squall::proto::request::Request;
use squall::proto::response::{
    Asked,
    Response, //
};
use squall::proto::span::{
    Full,
    Sink,
    Source, //
};
use squall::proto::ws::{
    AwaitingAccept,
    Digests, //
};
use squall::replay::{
    replay,
    Memory,
    MAX_OUT,
    MAX_RAW, //
};
use squall::vectors::{
    parse,
    Arrival,
    Arrived,
    Vector, //
};

const FILES: [&str; 9] = [
    include_str!("../../selftests/vectors/forwarded.txt"),
    include_str!("../../selftests/vectors/gateway.txt"),
    include_str!("../../selftests/vectors/h1_body.txt"),
    include_str!("../../selftests/vectors/h1_request.txt"),
    include_str!("../../selftests/vectors/h1_response.txt"),
    include_str!("../../selftests/vectors/limits.txt"),
    include_str!("../../selftests/vectors/smuggling.txt"),
    include_str!("../../selftests/vectors/upgrade.txt"),
    include_str!("../../selftests/vectors/ws_handshake.txt"),
];

fn vectors() -> impl Iterator<Item = Vector<'static>> {
    FILES.into_iter().flat_map(parse)
}

/// Notes how many bytes were handed out, and that none of them was before.
struct HandedOut<'a> {
    bytes: &'a Arrived<'a>,
    /// Offset behind the last byte handed out.
    end: &'a Cell<usize>,
}

impl Source for HandedOut<'_> {
    fn bytes_at(&self, offset: u32) -> &[u8] {
        let piece = self.bytes.bytes_at(offset);
        assert_eq!(offset as usize, self.end.get(), "a byte is looked at again");
        self.end.set(self.end.get() + piece.len());
        piece
    }
}

#[test]
fn each_byte_of_a_head_is_looked_at_once() {
    let mut heads = 0;
    for vector in vectors() {
        let raw: Vec<u8> = vector.bytes("raw").collect();
        let parser = match vector.value("kind") {
            Some("request") => HeadParser::request(),
            _ => HeadParser::response(),
        };
        for arrival in [
            Arrival::Whole,
            Arrival::Bytes,
            Arrival::Cut(raw.len() / 2),
            Arrival::Cut(raw.len() / 3),
        ] {
            let mut parser = parser;
            let mut head = LargeHead::new();
            let mut bytes = Arrived::new(&raw, arrival);
            let end = Cell::new(0);
            loop {
                let src = HandedOut {
                    bytes: &bytes,
                    end: &end,
                };
                match parser.resume(&src, &mut head, &Limits::DEFAULT) {
                    Ok(Progress::NeedMore) if bytes.more() => {}
                    Ok(Progress::Done { len }) => {
                        heads += 1;
                        assert!(end.get() >= usize::from(len));
                        break;
                    }
                    _ => break,
                }
            }
        }
    }
    assert!(heads > 1000);
}

/// A small generator of numbers (xorshift64): the tests shall do the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Changes a few bytes of a message, preferring those that mean something.
fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    const BYTES: &[u8] = b"\r\n\r\n :;,=\"\\\t\0\x7f\xff/?*%+-01aAfFgGxX";
    for _ in 0..1 + numbers.below(3) {
        let at = numbers.below(bytes.len());
        let byte = BYTES[numbers.below(BYTES.len())];
        match numbers.below(5) {
            0 => bytes.insert(at, byte),
            1 if !bytes.is_empty() => bytes[at] = byte,
            2 if !bytes.is_empty() => {
                bytes.remove(at);
            }
            3 => {
                let end = (at + numbers.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = numbers.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
}

/// Everything that was written, events and bytes.
#[derive(Default)]
struct Recorded(Vec<u8>);

impl Sink for Recorded {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Stands in for SHA-1 and base64: the accept of the vectors' key, whatever the key.
fn accept(_: &[u8]) -> [u8; 28] {
    *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
}

/// What proto is lent; the hash is the number of the bytes.
const DIGESTS: Digests = Digests {
    sha1_base64: accept,
    keyed: |pieces| pieces.map(|piece| piece.len() as u64).sum(),
};

/// Writes bytes as a vector's value.
fn quote(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// Runs a message in one way of arrival; returns the events and the bytes forwarded.
fn run(text: &str, arrival: Arrival) -> (String, Vec<u8>) {
    let mut raw = vec![0; MAX_RAW];
    let mut request = vec![0; MAX_RAW];
    let mut out = vec![0; MAX_OUT];
    let mut events = vec![0; MAX_OUT];
    let mut memory = Memory {
        raw: &mut raw,
        request: &mut request,
        out: &mut out,
        events: &mut events,
        heads: (&mut UsualHead::new(), &mut LargeHead::new()),
    };
    let vector = parse(text).next().expect("a vector");
    let mut out = Recorded::default();
    let mut log = String::new();
    replay(&vector, &mut memory, arrival, DIGESTS, &mut out, &mut log).expect("a well-formed one");
    (log, out.0)
}

#[test]
fn splits_change_nothing_for_mutated_messages() {
    let mut numbers = Numbers(0x5371_7561_6c6c_0001);
    let mut accepted = 0;
    for vector in vectors().filter(|vector| vector.bytes("raw").count() < 1000) {
        for _ in 0..20 {
            let mut raw: Vec<u8> = vector.bytes("raw").collect();
            mutate(&mut raw, &mut numbers);
            let mut text = format!(
                "vector: x\nkind: {}\nraw: \"{}\"\n",
                vector.value("kind").expect("a kind"),
                quote(&raw)
            );
            if vector.has("request") {
                let request: Vec<u8> = vector.bytes("request").collect();
                text += &format!("request: \"{}\"\n", quote(&request));
            }
            let whole = run(&text, Arrival::Whole);
            accepted += usize::from(!whole.0.contains("error"));
            let cut = Arrival::Cut(numbers.below(raw.len()));
            for arrival in [Arrival::Bytes, cut] {
                let split = run(&text, arrival);
                assert!(
                    whole == split,
                    "{:?} {arrival:?}\n{}---\n{}",
                    raw.escape_ascii().to_string(),
                    whole.0,
                    split.0
                );
            }
        }
    }
    assert!(accepted > 1000, "{accepted}");
}

#[test]
fn a_forwarded_request_means_what_the_received_one_did() {
    let mut numbers = Numbers(0x5371_7561_6c6c_0002);
    let mut seen = 0;
    for vector in FILES
        .into_iter()
        .flat_map(parse)
        .filter(|vector| vector.value("kind") == Some("request"))
        // With the fields that are added to it, this one has more than the parser takes.
        .filter(|vector| vector.name != "128 fields")
    {
        for round in 0..20 {
            let mut raw: Vec<u8> = vector.bytes("raw").collect();
            if round > 0 && raw.len() < 1000 {
                mutate(&mut raw, &mut numbers);
            }
            let text = format!("vector: x\nkind: request\nraw: \"{}\"\n", quote(&raw));
            let (log, out) = run(&text, Arrival::Whole);
            // The last one that may be forwarded is the server's to answer; another gateway would not forward it.
            let text = quote(&out).replace(
                &quote(b"\r\nMax-Forwards: 0\r"),
                &quote(b"\r\nMax-Forwards: 1\r"),
            );
            // What a server would say of it: the same requests with the same bodies.
            let (again, twice) = run(
                &format!("vector: x\nkind: request\nraw: \"{text}\"\n"),
                Arrival::Whole,
            );
            let bodies = |log: &str| -> Vec<String> {
                log.lines()
                    .filter(|line| line.starts_with("request") || line.starts_with("body"))
                    .map(|line| line.replace(" close", " keep"))
                    .collect()
            };
            assert_eq!(bodies(&log), bodies(&again), "{}", raw.escape_ascii());
            // Only Max-Forwards gets shorter, and not by more than a digit.
            let shorter = again.lines().count();
            assert!(twice.len() + shorter >= out.len(), "{}", raw.escape_ascii());
            seen += bodies(&log).len();
        }
    }
    assert!(seen > 1000, "{seen}");
}

#[test]
fn only_a_101_accepts_an_offer() {
    let request: &[u8] =
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answers: [(&[u8], bool); 2] = [
        (b"HTTP/1.1 101 x\r\n", true),
        (b"HTTP/1.1 200 x\r\n", false),
    ];
    for (line, accepted) in answers {
        let mut head = LargeHead::new();
        let done = HeadParser::request().resume(request, &mut head, &Limits::DEFAULT);
        assert!(matches!(done, Ok(Progress::Done { .. })));
        let asked = Request::from_head(&head, request).expect("a request");
        let offer = asked.upgrade.expect("an offer");
        let mut awaiting = AwaitingAccept::EMPTY;
        awaiting.remember_offer(&offer, &head, request, &DIGESTS);
        let fields: &[u8] = b"Upgrade: websocket\r\nConnection: upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let answer = [line, fields].concat();
        head.clear();
        let done = HeadParser::response().resume(&answer[..], &mut head, &Limits::DEFAULT);
        assert!(matches!(done, Ok(Progress::Done { .. })));
        let response =
            Response::from_head(&head, &Asked::from(&asked), &answer[..]).expect("a response");
        let verdict = awaiting.accept(&head, &response, &answer[..], &DIGESTS);
        assert_eq!(verdict.is_ok(), accepted);
    }
}
