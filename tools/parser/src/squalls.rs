// SPDX-License-Identifier: GPL-2.0

//! Squall's parser, alone and with what follows it.

use squall::proto::h1::encode::{
    self,
    Forward, //
};
use squall::proto::h1::{
    HeadParser,
    Progress, //
};
use squall::proto::head::{
    Head,
    Limits,
    UsualHead, //
};
use squall::proto::message::Version;
use squall::proto::request::Request;
use squall::proto::response::{
    Asked,
    Delivery,
    Response, //
};
use squall::proto::span::{
    Full,
    Sink,
    Source, //
};

use crate::{
    Kind,
    Parser, //
};

/// Returns a parser at its beginning.
fn start(kind: Kind) -> HeadParser {
    match kind {
        Kind::Request => HeadParser::request(),
        Kind::Response => HeadParser::response(),
    }
}

/// Parses the whole head.
fn read<S: Source + ?Sized>(kind: Kind, src: &S, head: &mut Head) -> Option<usize> {
    match start(kind).resume(src, head, &Limits::DEFAULT) {
        Ok(Progress::Done { .. }) => Some(head.fields().len()),
        _ => None,
    }
}

/// The parser alone.
pub struct Squall;

impl Parser for Squall {
    type Memory<'a> = UsualHead;

    fn memory<'a>(&self) -> Self::Memory<'a> {
        UsualHead::new()
    }

    #[inline]
    fn parse(&self, kind: Kind, raw: &[u8], memory: &mut UsualHead) -> Option<usize> {
        read(kind, raw, memory)
    }
}

/// The parser, and making the memory for the head.
pub struct SquallFresh;

impl Parser for SquallFresh {
    type Memory<'a> = UsualHead;

    fn memory<'a>(&self) -> Self::Memory<'a> {
        UsualHead::new()
    }

    #[inline]
    fn parse(&self, kind: Kind, raw: &[u8], memory: &mut UsualHead) -> Option<usize> {
        *memory = UsualHead::new();
        read(kind, raw, std::hint::black_box(memory))
    }
}

/// The parser, of a head that arrives in pieces of [`PIECE`] bytes, one after the other.
pub struct SquallPieces;

/// Bytes of a piece: less than a line, so that most pieces end within one.
const PIECE: usize = 64;

/// A head of which a part has arrived, in one fragment per piece.
struct Pieces<'a> {
    raw: &'a [u8],
    arrived: usize,
}

impl Source for Pieces<'_> {
    fn bytes_at(&self, offset: u32) -> &[u8] {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(PIECE) & !(PIECE - 1);
        self.raw
            .get(start..end.min(self.arrived))
            .unwrap_or_default()
    }
}

impl Parser for SquallPieces {
    type Memory<'a> = UsualHead;

    fn memory<'a>(&self) -> Self::Memory<'a> {
        UsualHead::new()
    }

    #[inline]
    fn parse(&self, kind: Kind, raw: &[u8], memory: &mut UsualHead) -> Option<usize> {
        let mut parser = start(kind);
        let mut src = Pieces { raw, arrived: 0 };
        let head: &mut Head = memory;
        while src.arrived < raw.len() {
            src.arrived = src.arrived.saturating_add(PIECE).min(raw.len());
            match parser.resume(&src, head, &Limits::DEFAULT) {
                Ok(Progress::NeedMore) => {}
                Ok(Progress::Done { .. }) => return Some(head.fields().len()),
                Ok(Progress::Full) | Err(_) => return None,
            }
        }
        None
    }
}

/// The whole way of a head: parsed, judged, and the head of the other leg written.
pub struct SquallPath;

/// Where the head of the other leg is written.
pub struct Out {
    bytes: [u8; 4096],
    len: usize,
}

impl Sink for Out {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.len.saturating_add(bytes.len());
        self.bytes
            .get_mut(self.len..end)
            .ok_or(Full)?
            .copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }
}

impl Parser for SquallPath {
    type Memory<'a> = (UsualHead, Out);

    fn memory<'a>(&self) -> Self::Memory<'a> {
        let out = Out {
            bytes: [0; 4096],
            len: 0,
        };
        (UsualHead::new(), out)
    }

    #[inline]
    fn parse(&self, kind: Kind, raw: &[u8], memory: &mut (UsualHead, Out)) -> Option<usize> {
        let (head, out) = memory;
        let fields = read(kind, raw, head)?;
        match kind {
            Kind::Request => {
                let request = Request::from_head(head, raw).ok()?;
                let forward = Forward {
                    client: b"192.0.2.7",
                    scheme: b"http",
                    default_host: b"127.0.0.1:9000",
                    trusted: false,
                    forwarded: false,
                    via: false,
                };
                encode::request(head, &request, raw, &forward, out).ok()?;
            }
            Kind::Response => {
                let asked = Asked {
                    head_method: false,
                    upgrade: true,
                    version: Version::Http11,
                    keep_alive: true,
                    via: false,
                };
                let response = Response::from_head(head, &asked, raw).ok()?;
                let delivery = Delivery::new(&response, &asked, true);
                encode::response(head, &response, raw, &delivery, out).ok()?;
            }
        }
        Some(fields)
    }
}
