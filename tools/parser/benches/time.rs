// SPDX-License-Identifier: GPL-2.0

//! How long each parser takes for all requests and for all responses of the corpus.

use std::hint::black_box;

use criterion::{
    criterion_group,
    criterion_main,
    Criterion,
    Throughput, //
};
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

/// Measures one parser with memory that is made anew, unmeasured, for each round.
fn run<P: Parser>(criterion: &mut Criterion, name: &str, parser: &P) {
    let corpus = corpus();
    for (kind, title) in [(Kind::Request, "requests"), (Kind::Response, "responses")] {
        let entries: Vec<&Entry> = corpus.iter().filter(|entry| entry.kind == kind).collect();
        let bytes = entries.iter().map(|entry| entry.raw.len() as u64).sum();
        let mut group = criterion.benchmark_group(title);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || -> Vec<_> { entries.iter().map(|_| parser.memory()).collect() },
                |memories| {
                    for (entry, memory) in entries.iter().zip(memories) {
                        black_box(parser.parse(kind, black_box(&entry.raw), memory));
                    }
                },
                criterion::BatchSize::SmallInput,
            )
        });
        group.finish();
    }
}

fn all(criterion: &mut Criterion) {
    run(criterion, "squall", &Squall);
    run(criterion, "squall-fresh", &SquallFresh);
    run(criterion, "squall-pieces", &SquallPieces);
    run(criterion, "squall-path", &SquallPath);
    run(criterion, "httparse", &Httparse);
    run(criterion, "llhttp", &Llhttp::new());
}

criterion_group!(benches, all);
criterion_main!(benches);
