// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of the protocol code: the vectors that the host's tests run, in the kernel.
//!
//! A module of its own, so that loading squall.ko runs no tests. The suites run once it is loaded;
//! their results are in the kernel log and in debugfs, for `insmod` succeeds whatever they are.

#![allow(unreachable_pub)]

use kernel::prelude::*;

#[allow(dead_code, unused_imports)]
mod proto;

#[allow(dead_code)]
#[path = "proto/frame_cases.rs"]
mod frame_cases;
#[allow(dead_code)]
#[path = "proto/replay.rs"]
mod replay;
#[allow(dead_code)]
#[path = "proto/vectors.rs"]
mod vectors;

module! {
    type: SquallKunit,
    name: "squall_kunit",
    authors: ["Squall developers"],
    description: "KUnit suites of Squall's protocol code",
    license: "GPL",
}

/// The loaded module: there is nothing in it but the suites.
struct SquallKunit;

impl kernel::Module for SquallKunit {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(SquallKunit)
    }
}

/// Stands in for SHA-1 and base64, which proto is lent: knows the
/// answers of RFC 6455 section 1.3 and of the other keys that the vectors use.
fn known_sha1_base64(input: &[u8]) -> [u8; proto::ws::ACCEPT_LEN] {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const KNOWN: [(&[u8], &[u8; proto::ws::ACCEPT_LEN]); 4] = [
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (b"dGhlIHNhbXBsZSBub25jZR==", b"Zgw8jYXtqX5qJr7MJ1Q/MqzeSRI="),
        (
            b"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            b"7YPta/NUuj72fkupT3r2/V3+SOk=",
        ),
        (b"k", b"cai0HFWL7DEHZkyHxdyv1Pn3R6M="),
    ];
    KNOWN
        .iter()
        .find(|(key, _)| input.strip_prefix(*key) == Some(GUID))
        .map_or([b'?'; proto::ws::ACCEPT_LEN], |(_, accept)| **accept)
}

/// Stands in for a hash by a secret key: FNV-1a.
fn hash(pieces: &mut dyn Iterator<Item = &[u8]>) -> u64 {
    pieces.flatten().fold(0xcbf29ce484222325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100000001b3)
    })
}

/// What proto is lent.
const DIGESTS: proto::ws::Digests = proto::ws::Digests {
    sha1_base64: known_sha1_base64,
    keyed: hash,
};

/// Runs all vectors of a file in all ways in which their bytes can arrive; names those that fail.
fn all_pass(file: &str) -> Result<bool> {
    let mut raw = KVec::from_elem(0, replay::MAX_RAW, GFP_KERNEL)?;
    let mut request = KVec::from_elem(0, replay::MAX_RAW, GFP_KERNEL)?;
    let mut out = KVec::from_elem(0, replay::MAX_OUT, GFP_KERNEL)?;
    let mut events = KVec::from_elem(0, replay::MAX_OUT, GFP_KERNEL)?;
    let mut head = KBox::new(proto::head::UsualHead::new(), GFP_KERNEL)?;
    let mut large = KBox::new(proto::head::LargeHead::new(), GFP_KERNEL)?;
    let mut memory = replay::Memory {
        raw: &mut raw,
        request: &mut request,
        out: &mut out,
        events: &mut events,
        heads: (&mut head, &mut large),
    };
    let mut count = 0;
    let mut failed = 0;
    for vector in vectors::parse(file) {
        count += 1;
        if let Err(arrival) = replay::check(&vector, &mut memory, DIGESTS) {
            failed += 1;
            pr_err!("vector \"{}\" fails, arriving {:?}\n", vector.name, arrival);
        }
    }
    pr_info!("{} vectors, {} failed\n", count, failed);
    Ok(failed == 0 && count > 0 && count == file.matches("vector: ").count())
}

#[kunit_tests(squall_h1_request)]
mod h1_request {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/h1_request.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_h1_response)]
mod h1_response {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/h1_response.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_h1_body)]
mod h1_body {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/h1_body.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_ws_handshake)]
mod ws_handshake {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/ws_handshake.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_encode)]
mod encode {
    #[test]
    fn exactly_these_bytes() {
        let file = include_str!("../selftests/vectors/encode.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_forwarded)]
mod forwarded {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/forwarded.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_gateway)]
mod gateway {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/gateway.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_limits)]
mod limits {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/limits.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_smuggling)]
mod smuggling {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/smuggling.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_upgrade)]
mod upgrade {
    #[test]
    fn same_outcome_at_every_split() {
        let file = include_str!("../selftests/vectors/upgrade.txt");
        assert_eq!(crate::all_pass(file), Ok(true));
    }
}

#[kunit_tests(squall_frames)]
mod frames {
    #[test]
    fn same_outcome_at_every_split() {
        assert_eq!(crate::frame_cases::check().is_ok(), true);
    }
}
