// SPDX-License-Identifier: GPL-2.0

//! The parser of heads beside others: the corpus, and one way to call them all.
//!
//! Each parser gets a whole head in one piece and memory that was made before. What it is asked for is the
//! same: where method, target, version, status, reason phrase, names and values are, for up to 96 fields.

mod llhttp;
mod squalls;

use squall::vectors::parse;

pub use self::llhttp::Llhttp;
pub use self::squalls::{
    Squall,
    SquallFresh,
    SquallPath,
    SquallPieces, //
};

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From client to server.
    Request,
    /// From server to client.
    Response,
}

/// One head of the corpus.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What sends it.
    pub name: &'static str,
    /// Which way it goes.
    pub kind: Kind,
    /// The whole head, the empty line included.
    pub raw: Vec<u8>,
}

/// Returns the corpus, requests first.
pub fn corpus() -> Vec<Entry> {
    [
        include_str!("../corpus/requests.txt"),
        include_str!("../corpus/responses.txt"),
    ]
    .into_iter()
    .flat_map(parse)
    .map(|vector| Entry {
        name: vector.name,
        kind: match vector.value("kind") {
            Some("response") => Kind::Response,
            _ => Kind::Request,
        },
        raw: vector.bytes("raw").collect(),
    })
    .collect()
}

/// A parser with its memory.
pub trait Parser {
    /// What [`Parser::parse`] writes to; it is not measured how it is made.
    type Memory<'a>;

    /// Makes memory for one head.
    fn memory<'a>(&self) -> Self::Memory<'a>;

    /// Parses a head and returns how many fields it has; `None` if the parser does not accept it.
    fn parse<'a>(&self, kind: Kind, raw: &'a [u8], memory: &mut Self::Memory<'a>) -> Option<usize>;
}

/// The crate `httparse`, with or without vector instructions as it was built.
pub struct Httparse;

impl Parser for Httparse {
    type Memory<'a> = [httparse::Header<'a>; 96];

    fn memory<'a>(&self) -> Self::Memory<'a> {
        [httparse::EMPTY_HEADER; 96]
    }

    #[inline]
    fn parse<'a>(&self, kind: Kind, raw: &'a [u8], memory: &mut Self::Memory<'a>) -> Option<usize> {
        match kind {
            Kind::Request => {
                let mut request = httparse::Request::new(memory);
                let status = request.parse(raw).ok()?;
                (status == httparse::Status::Complete(raw.len())).then_some(request.headers.len())
            }
            Kind::Response => {
                let mut response = httparse::Response::new(memory);
                let status = response.parse(raw).ok()?;
                (status == httparse::Status::Complete(raw.len())).then_some(response.headers.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every parser finds as many fields in every head as there are.
    fn accepts(parser: impl Parser) {
        let corpus = corpus();
        assert!(corpus.len() > 20);
        for entry in &corpus {
            let lines = entry.raw.windows(2).filter(|two| two == b"\r\n").count();
            let found = parser.parse(entry.kind, &entry.raw, &mut parser.memory());
            // A start line and an empty one are no fields.
            assert_eq!(found, lines.checked_sub(2), "{}", entry.name);
        }
    }

    #[test]
    fn all_parsers_accept_the_corpus() {
        accepts(Squall);
        accepts(SquallFresh);
        accepts(SquallPieces);
        accepts(SquallPath);
        accepts(Httparse);
        accepts(Llhttp::new());
    }
}
