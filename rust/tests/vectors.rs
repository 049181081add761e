// SPDX-License-Identifier: GPL-2.0

//! The vectors on the host: every one at every split. KUnit runs the same ones in the kernel.

#![allow(clippy::expect_used, clippy::arithmetic_side_effects)] // A test may panic.

use std::hash::{
    DefaultHasher,
    Hasher, //
};

use base64::Engine;
use sha1::{
    Digest,
    Sha1, //
};
use squall::proto::head::{
    LargeHead,
    UsualHead, //
};
use squall::proto::span::{
    Full,
    Sink, //
};
use squall::proto::ws::{
    Digests,
    ACCEPT_LEN, //
};
use squall::replay::{
    check,
    replay,
    Memory,
    MAX_OUT,
    MAX_RAW, //
};
use squall::vectors::parse;

/// What went wrong with a vector, as text for the reader of the test's output.
#[derive(Default)]
struct Recorded(Vec<u8>);

impl Sink for Recorded {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn sha1_base64(input: &[u8]) -> [u8; ACCEPT_LEN] {
    let mut accept = [0; ACCEPT_LEN];
    base64::engine::general_purpose::STANDARD
        .encode_slice(Sha1::digest(input), &mut accept)
        .expect("20 bytes are 28 characters");
    accept
}

fn hash(pieces: &mut dyn Iterator<Item = &[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Each byte for itself: it must not matter where the pieces are cut.
    pieces.flatten().for_each(|byte| hasher.write_u8(*byte));
    hasher.finish()
}

const DIGESTS: Digests = Digests {
    sha1_base64,
    keyed: hash,
};

/// Checks all vectors of a file and returns how many there are.
fn run(file: &str) -> usize {
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
    let mut failures = String::new();
    let mut count = 0;
    for vector in parse(file) {
        count += 1;
        if let Err(arrival) = check(&vector, &mut memory, DIGESTS) {
            let mut out = Recorded::default();
            let mut log = String::new();
            let ran = replay(&vector, &mut memory, arrival, DIGESTS, &mut out, &mut log);
            failures += &format!(
                "{:?} with {arrival:?}{}:\n{log}{}\n\n",
                vector.name,
                if ran.is_none() { " is malformed" } else { "" },
                out.0.escape_ascii().to_string().replace("\\r\\n", "\n")
            );
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert_eq!(count, file.matches("vector: ").count());
    count
}

macro_rules! files {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            assert!(run(include_str!(concat!("../../selftests/vectors/", stringify!($name), ".txt"))) > 0);
        }
    )*};
}

files! {
    encode
    forwarded
    gateway
    h1_body
    h1_request
    h1_response
    limits
    smuggling
    upgrade
    ws_handshake
}
