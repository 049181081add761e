// SPDX-License-Identifier: GPL-2.0

//! Runs one parser over the corpus, to be counted by valgrind: `measured` is called once for each entry, in the
//! order of the lines printed.

use std::hint::black_box;

use squall_parser_bench::{
    corpus,
    Entry,
    Httparse,
    Kind,
    Llhttp,
    Parser,
    Squall,
    SquallFresh,
    SquallPath,
    SquallPieces, //
};

/// What is counted. Not generic, so that its name is the same for all parsers and compilers.
#[inline(never)]
fn measured(parse: &mut dyn FnMut() -> bool) -> bool {
    parse()
}

/// Parses one entry.
#[inline(never)]
fn accepts<'a, P: Parser>(parser: &P, entry: &'a Entry, memory: &mut P::Memory<'a>) -> bool {
    parser.parse(entry.kind, &entry.raw, memory).is_some()
}

/// Runs the parser once for what it does at its first call only, then to be counted.
fn run<P: Parser>(parser: &P) {
    let corpus = corpus();
    for entry in &corpus {
        assert!(accepts(parser, entry, &mut parser.memory()));
    }
    for entry in &corpus {
        let mut memory = parser.memory();
        let mut parse = || accepts(parser, entry, &mut memory);
        assert!(black_box(measured(black_box(&mut parse))));
        let kind = match entry.kind {
            Kind::Request => "request",
            Kind::Response => "response",
        };
        println!("{kind}\t{}\t{}", entry.name, entry.raw.len());
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("squall") => run(&Squall),
        Some("squall-fresh") => run(&SquallFresh),
        Some("squall-pieces") => run(&SquallPieces),
        Some("squall-path") => run(&SquallPath),
        Some("httparse") => run(&Httparse),
        Some("llhttp") => run(&Llhttp::new()),
        _ => panic!("which parser?"),
    }
}
