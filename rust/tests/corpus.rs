// SPDX-License-Identifier: GPL-2.0

//! The fuzz targets without a fuzzer: on the corpus that fuzzing left, and on the vectors.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    missing_docs
)] // A test may panic.

use squall::vectors::parse;

mod oracle;
mod targets;

use targets::Input;

const VECTORS: [&str; 9] = [
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

/// Runs a target on everything that is kept.
fn run(target: fn(&Input)) {
    let vectors = VECTORS.into_iter().flat_map(parse);
    let mut count = 0;
    for input in vectors.filter_map(|vector| Input::from_vector(&vector)) {
        target(&input);
        count += 1;
    }
    assert!(count > 1500, "{count} vectors");
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
    let mut count = 0;
    for file in std::fs::read_dir(corpus).expect("a corpus") {
        let path = file.expect("a file").path();
        let bytes = std::fs::read(&path).expect("bytes");
        let Some(input) = Input::from_bytes(&bytes) else {
            continue;
        };
        // Printed if the target fails.
        println!("{}", path.display());
        target(&input);
        count += 1;
    }
    assert!(count > 100, "{count} files");
}

#[test]
fn the_mutator_keeps_within_its_bounds() {
    let mut changed = 0;
    for seed in 0..100_000 {
        let mut data = *b"\0\x01\x02\x03\x04\x05GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let before = data;
        let len = seed as usize % (data.len() + 1);
        let after = targets::mutate::mutate(&mut data, len, seed);
        assert!(after <= data.len());
        changed += usize::from(data[..after] != before[..len]);
    }
    assert!(changed > 80_000, "{changed}");
}

#[test]
fn split() {
    run(targets::split);
}

#[test]
fn oracle() {
    run(targets::oracle);
}

#[test]
fn reencode() {
    run(targets::reencode::reencode);
}
