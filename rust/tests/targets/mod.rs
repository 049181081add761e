// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets do, without a fuzzer: each takes an input and panics when something is wrong.
//! `rust/fuzz` runs them on what a fuzzer makes up, `rust/tests/corpus.rs` on what is kept.

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
    Limits,
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
    run,
    AllLimits,
    Case, //
};
use squall::vectors::Arrival;

pub mod mutate;
pub mod reencode;

mod input;

pub use input::Input;

use crate::oracle::request::Reader;
use crate::oracle::{
    self,
    Reading,
    Stop, //
};

/// What a run brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The events, in the words of the vectors.
    pub events: String,
    /// The bytes that were forwarded.
    pub out: Vec<u8>,
}

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

/// Runs the case; `None` if the request that it answers is not complete.
pub fn outcome(case: &Case<'_>, arrival: Arrival) -> Option<Outcome> {
    let mut out = Recorded(Vec::new());
    let mut events = String::new();
    let heads = (&mut UsualHead::new(), &mut LargeHead::new());
    run(case, heads, arrival, DIGESTS, &mut out, &mut events)?;
    Some(Outcome { events, out: out.0 })
}

/// The same comes of the bytes however they arrive.
pub fn split(input: &Input) {
    let case = input.case();
    let whole = outcome(&case, Arrival::Whole);
    for &arrival in &input.arrivals {
        let split = outcome(&case, arrival);
        assert!(
            whole == split,
            "{arrival:?} makes a difference\n{}\nwhole: {whole:#?}\nsplit: {split:#?}",
            describe(input)
        );
    }
}

/// The oracle sees the same messages in the bytes: it accepts what the parser accepts, and the parser
/// accepts what the oracle accepts.
pub fn oracle(input: &Input) {
    if let Some(outcome) = outcome(&input.case(), Arrival::Whole) {
        read(input, &outcome);
    }
}

/// What the oracle read.
pub enum Read {
    Requests(Reading<oracle::request::Request>),
    Responses(
        Box<oracle::request::Request>,
        Reading<oracle::response::Response>,
    ),
    /// The request that the responses answer was refused.
    Nothing,
}

/// The limits as the oracle takes them.
pub fn limits(limits: &AllLimits) -> oracle::Limits {
    let head = |limits: &Limits| oracle::head::Limits {
        head: usize::from(limits.head),
        start_line: usize::from(limits.start_line),
        field_line: usize::from(limits.field_line),
        fields: usize::from(limits.fields),
    };
    oracle::Limits {
        head: head(&limits.head),
        body: oracle::body::Limits {
            content: u128::from(limits.body.content),
            chunk_line: usize::from(limits.body.chunk_line),
            chunk_excess: u128::from(limits.body.chunk_excess),
            blanks: limits.body.blanks,
            trailers: head(&limits.trailers),
        },
    }
}

/// Has the oracle read the input and holds the events against what it says.
pub fn read(input: &Input, outcome: &Outcome) -> Read {
    let limits = limits(&input.limits);
    if !input.response {
        let reading = oracle::requests(&input.raw, &limits, Reader::Gateway, input.strict);
        compare(input, outcome, &reading);
        return Read::Requests(reading);
    }
    let defaults = oracle::head::Limits {
        head: 32768,
        start_line: 8192,
        field_line: 16384,
        fields: 128,
    };
    match oracle::request::read(&input.request, &defaults, Reader::Gateway) {
        Ok((asked, _)) => {
            let reading = oracle::responses(
                &input.raw,
                &asked,
                &limits,
                input.close,
                input.last,
                input.strict,
            );
            compare(input, outcome, &reading);
            Read::Responses(Box::new(asked), reading)
        }
        Err(stop) => {
            assert!(
                outcome.events.starts_with("error "),
                "the oracle refuses the request that is answered: {stop:?}\n{}\n{}",
                describe(input),
                outcome.events
            );
            Read::Nothing
        }
    }
}

/// Holds the events against those that the oracle expects.
fn compare<M>(input: &Input, outcome: &Outcome, reading: &Reading<M>) {
    let (events, ending) = take_ending(&outcome.events);
    let expected = match reading.rest {
        Some(rest) => format!("rest {rest}"),
        None => String::new(),
    };
    let refused = ending.starts_with("error ");
    let open = ending == "need more";
    let agreed = match reading.stop {
        None => ending == expected,
        Some(Stop::Incomplete | Stop::InTrailers) => open || refused,
        Some(Stop::InContent) => open,
        Some(Stop::Refused(_)) => refused,
    };
    assert!(
        events == reading.events && agreed,
        "the oracle disagrees\n{}\nparser:\n{}\noracle: {:?}, {expected}\n{}",
        describe(input),
        outcome.events,
        reading.stop,
        reading.events
    );
}

/// Takes the last line off the events if it says how the run ended.
fn take_ending(events: &str) -> (&str, &str) {
    let start = events
        .trim_end_matches('\n')
        .rfind('\n')
        .map_or(0, |at| at + 1);
    let (before, last) = events.split_at(start);
    match ["error ", "need more", "rest "]
        .iter()
        .any(|word| last.starts_with(word))
    {
        true => (before, last.trim_end_matches('\n')),
        false => (events, ""),
    }
}

/// The input for the reader of a failure.
pub fn describe(input: &Input) -> String {
    let text = |bytes: &[u8]| {
        bytes
            .escape_ascii()
            .to_string()
            .replace("\\r\\n", "\\r\\n\n")
    };
    let request = match input.response {
        true => format!("the response to\n{}", text(&input.request)),
        false => "requests".to_string(),
    };
    format!(
        "{request}\n---\n{}\n---\n{:?} close: {} last: {} strict: {} trusted: {} forwarded: {} via: {}",
        text(&input.raw),
        input.limits,
        input.close,
        input.last,
        input.strict,
        input.trusted,
        input.forwarded,
        input.via
    )
}
