// SPDX-License-Identifier: GPL-2.0

//! Runs test vectors through the parser, the decisions and the encoder. Part of the test crates only.

use core::fmt;

use crate::proto::error::Error;
use crate::proto::h1::encode::{
    self,
    Forward, //
};
use crate::proto::h1::{
    blank,
    BodyDecoder,
    BodyLimits,
    HeadParser,
    Progress,
    Step, //
};
use crate::proto::head::{
    Head,
    LargeHead,
    Limits,
    UsualHead, //
};
use crate::proto::message::{
    BodyFraming,
    Version, //
};
use crate::proto::request::Request;
use crate::proto::response::{
    Asked,
    Delivery,
    Response,
    ResponseKind, //
};
use crate::proto::span::{
    Full,
    Sink,
    Source, //
};
use crate::proto::ws::{
    AwaitingAccept,
    Digests, //
};
use crate::vectors::{
    collect,
    Arrival,
    Arrived,
    Compare,
    Vector, //
};

/// The knowledge of a proxy; the expected output of the vectors has these values.
pub const FORWARD: Forward<'static> = Forward {
    client: b"192.0.2.7",
    scheme: b"http",
    default_host: b"10.0.0.2:9000",
    trusted: false,
    forwarded: false,
    via: false,
};

/// The time that it is.
pub const DATE: &encode::Date = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// Most bytes that the `raw` or `request` of one vector may have.
pub const MAX_RAW: usize = 32768;

/// Most bytes that must be forwarded, and that all events have together.
pub const MAX_OUT: usize = 2 * MAX_RAW;

/// The reason why a run stopped before its bytes were used up.
enum Stop {
    /// A rule was broken.
    Error(Error),
    /// All bytes were parsed and the message is not complete.
    NeedMore,
    /// What follows is not to be parsed.
    Rest,
    /// The observers failed or the vector is malformed.
    Broken,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

impl From<Full> for Stop {
    fn from(_: Full) -> Stop {
        Stop::Broken
    }
}

impl From<fmt::Error> for Stop {
    fn from(_: fmt::Error) -> Stop {
        Stop::Broken
    }
}

/// One run of one case.
struct Replay<'a> {
    src: Arrived<'a>,
    head: &'a mut Head,
    /// The other head: one of both is larger.
    other: &'a mut Head,
    limits: AllLimits,
    forward: Forward<'a>,
    out: &'a mut dyn Sink,
    log: &'a mut dyn fmt::Write,
    digests: Digests,
    /// Squall ends the connection behind the message, for a reason of its own.
    last: bool,
    /// Offers and 101s with a flaw are refused.
    strict: bool,
}

/// The memory that runs need, owned by the caller because it is too large for a kernel stack.
pub struct Memory<'a> {
    /// For the bytes that arrive: [`MAX_RAW`].
    pub raw: &'a mut [u8],
    /// For the request that a response answers: [`MAX_RAW`].
    pub request: &'a mut [u8],
    /// For what must be forwarded: [`MAX_OUT`].
    pub out: &'a mut [u8],
    /// For what must happen: [`MAX_OUT`].
    pub events: &'a mut [u8],
    /// Scratch of the parser: a head for most messages, and one that takes over from it.
    pub heads: (&'a mut UsualHead, &'a mut LargeHead),
}

/// Longest vector that is cut at every place, in bytes.
const MAX_EVERY_CUT: usize = 4096;

/// Distance between the cuts of a longer vector. Cutting everywhere would take the square of its length.
const CUT_STEP: usize = 127;

/// Runs a vector once for every way in which its bytes can arrive: whole, cut in two at every place, byte by byte.
/// Returns the first way whose outcome is not the expected one.
pub fn check(
    vector: &Vector<'_>,
    memory: &mut Memory<'_>,
    digests: Digests,
) -> Result<(), Arrival> {
    let Memory {
        raw,
        request,
        out,
        events,
        heads,
    } = memory;
    let case = case(vector, raw, request);
    let len = case.map_or(0, |case| case.raw.len());
    let ways = [Arrival::Whole, Arrival::Bytes];
    let step = if len > MAX_EVERY_CUT { CUT_STEP } else { 1 };
    let cuts = (0..len).step_by(step).map(Arrival::Cut);
    let out = collect(vector.bytes("out"), out).ok_or(Arrival::Whole)?;
    let events = collect(vector.events(), events).ok_or(Arrival::Whole)?;
    for arrival in ways.into_iter().chain(cuts) {
        let (mut out, mut log) = (Compare::new(out), Compare::new(events));
        let ran = match &case {
            Some(case) => run(
                case,
                (heads.0, heads.1),
                arrival,
                digests,
                &mut out,
                &mut log,
            ),
            None => own(vector, &mut out),
        };
        if ran.is_none() || !out.complete() || !log.complete() {
            return Err(arrival);
        }
    }
    Ok(())
}

/// Runs a vector once and tells what happens; `None` if the vector is malformed.
pub fn replay(
    vector: &Vector<'_>,
    memory: &mut Memory<'_>,
    arrival: Arrival,
    digests: Digests,
    out: &mut dyn Sink,
    log: &mut dyn fmt::Write,
) -> Option<()> {
    match case(vector, memory.raw, memory.request) {
        Some(case) => run(
            &case,
            (memory.heads.0, memory.heads.1),
            arrival,
            digests,
            out,
            log,
        ),
        None => own(vector, out),
    }
}

/// Writes what a vector without arriving bytes describes; `None` if it is malformed or has some.
fn own(vector: &Vector<'_>, out: &mut dyn Sink) -> Option<()> {
    match vector.value("kind")? {
        "error" => {
            let status = vector.value("status")?.parse().ok()?;
            let close = vector.has("close");
            let retry = vector.value("retry").map(str::parse).transpose().ok()?;
            encode::error(status, close, vector.has("head"), retry, DATE, out).ok()
        }
        "chunk" => encode::chunk_head(vector.value("size")?.parse().ok()?, out).ok(),
        _ => None,
    }
}

/// Returns the case of a vector, with its bytes in these buffers; `None` if it is malformed or has none.
fn case<'a>(vector: &Vector<'a>, raw: &'a mut [u8], request: &'a mut [u8]) -> Option<Case<'a>> {
    Some(Case {
        response: match vector.value("kind")? {
            "request" => false,
            "response" => true,
            _ => return None,
        },
        raw: collect(vector.bytes("raw"), raw)?,
        request: match vector.has("request") {
            true => collect(vector.bytes("request"), request)?,
            false => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        },
        limits: limits(vector)?,
        forward: Forward {
            client: vector.value("client").map_or(FORWARD.client, str::as_bytes),
            trusted: vector.has("trusted"),
            forwarded: vector.has("forwarded"),
            via: vector.has("via"),
            ..FORWARD
        },
        close: vector.has("close"),
        last: vector.has("last"),
        strict: vector.has("strict"),
    })
}

/// Bytes that arrive, and the facts that are needed to understand them.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// They are responses, up to the final one; else requests.
    pub response: bool,
    /// The bytes.
    pub raw: &'a [u8],
    /// The request that responses answer: a valid one.
    pub request: &'a [u8],
    /// The limits.
    pub limits: AllLimits,
    /// What the proxy knows.
    pub forward: Forward<'a>,
    /// Behind the bytes of a response the sender closes the connection.
    pub close: bool,
    /// The connection to which the message goes ends behind it, for a reason of ours.
    pub last: bool,
    /// Offers and 101s that have a flaw are refused.
    pub strict: bool,
}

/// Runs a case once and tells what happens; `None` if it is malformed or `out` or `log` fails.
pub fn run(
    case: &Case<'_>,
    heads: (&mut UsualHead, &mut LargeHead),
    arrival: Arrival,
    digests: Digests,
    out: &mut dyn Sink,
    log: &mut dyn fmt::Write,
) -> Option<()> {
    let mut run = Replay {
        src: Arrived::new(case.raw, arrival),
        head: heads.0,
        other: heads.1,
        limits: AllLimits {
            body: BodyLimits {
                blanks: case.response,
                ..case.limits.body
            },
            ..case.limits
        },
        forward: case.forward,
        out,
        log,
        digests,
        last: case.last,
        strict: case.strict,
    };
    let stop = match case.response {
        false => run.requests(),
        true => run.responses(case.request, case.close),
    };
    let ended = match stop {
        Ok(()) => Ok(()),
        Err(Stop::Error(error)) => {
            writeln!(run.log, "error {} {}", error.name(), error.status())
        }
        Err(Stop::NeedMore) => writeln!(run.log, "need more"),
        Err(Stop::Rest) => {
            while run.src.more() {}
            writeln!(run.log, "rest {}", run.src.len())
        }
        Err(Stop::Broken) => return None,
    };
    ended.ok()
}

/// Everything that a vector may limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllLimits {
    /// Limits of heads.
    pub head: Limits,
    /// Limits of bodies.
    pub body: BodyLimits,
    /// Limits of trailer sections.
    pub trailers: Limits,
}

impl AllLimits {
    /// The limits of a vector that has no others.
    pub const DEFAULT: AllLimits = AllLimits {
        head: Limits::DEFAULT,
        body: BodyLimits::DEFAULT,
        trailers: Limits::TRAILERS,
    };
}

/// Reads the limits of a vector; `None` if they are malformed.
pub fn limits(vector: &Vector<'_>) -> Option<AllLimits> {
    let mut limits = AllLimits::DEFAULT;
    for word in vector.value("limits").unwrap_or("").split_whitespace() {
        let (name, number) = word.split_once('=')?;
        let limit = match name {
            "head" => &mut limits.head.head,
            "start_line" => &mut limits.head.start_line,
            "field_line" => &mut limits.head.field_line,
            "fields" => &mut limits.head.fields,
            "chunk_line" => &mut limits.body.chunk_line,
            "chunk_excess" => &mut limits.body.chunk_excess,
            "trailers" => &mut limits.trailers.head,
            "trailer_fields" => &mut limits.trailers.fields,
            "content" => {
                limits.body.content = number.parse().ok()?;
                continue;
            }
            _ => return None,
        };
        *limit = number.parse().ok()?;
    }
    Some(limits)
}

impl Replay<'_> {
    /// Runs requests until the bytes are used up.
    fn requests(&mut self) -> Result<(), Stop> {
        while self.request_begins()? {
            self.head(HeadParser::request(), self.limits.head)?;
            let request = Request::from_head(self.head, &self.src)?;
            if let Some(offer) = &request.upgrade {
                let mut awaiting = AwaitingAccept::EMPTY;
                awaiting.remember_offer(offer, self.head, &self.src, &self.digests);
                self.tolerate(awaiting.flaw())?;
            }
            write!(
                self.log,
                "request {} {}",
                Framing(request.framing),
                keep(request.keep_alive)
            )?;
            let expect = if request.expect_continue {
                " expect"
            } else {
                ""
            };
            let upgrade = if request.upgrade.is_some() {
                " upgrade"
            } else {
                ""
            };
            writeln!(self.log, "{expect}{upgrade}{}", binds(request.binds))?;
            encode::request(self.head, &request, &self.src, &self.forward, self.out)?;
            self.src.consume(usize::from(self.head.len));
            if request.upgrade.is_some() {
                return Err(Stop::Rest);
            }
            self.body(request.framing, request.framing, request.trailers, false)?;
            if !request.keep_alive {
                while self.src.more() {}
                return match self.src.is_empty() {
                    true => Ok(()),
                    false => Err(Stop::Rest),
                };
            }
        }
        Ok(())
    }

    /// Skips empty lines; returns whether a request follows.
    fn request_begins(&mut self) -> Result<bool, Stop> {
        let mut skipped = 0;
        loop {
            let mut front = [0u8; blank::LOOK];
            let mut len = 0usize;
            while let (Some(place), Some(&byte)) = (
                front.get_mut(len),
                self.src.bytes_at(u32::try_from(len).unwrap_or(0)).first(),
            ) {
                *place = byte;
                len = len.saturating_add(1);
            }
            let (consumed, begun) = blank::skip(front.get(..len).unwrap_or(&[]), &mut skipped);
            self.src.consume(consumed);
            if begun {
                return Ok(true);
            }
            if !self.src.more() {
                return match self.src.is_empty() {
                    true => Ok(false),
                    false => Err(Stop::NeedMore),
                };
            }
        }
    }

    /// Runs the responses to one request, up to the final one.
    fn responses(&mut self, request: &[u8], close: bool) -> Result<(), Stop> {
        let (asked, awaiting) = self.ask(request)?;
        let mut reusable = true;
        loop {
            self.head(HeadParser::response(), self.limits.head)?;
            let response = Response::from_head(self.head, &asked, &self.src)?;
            if response.kind == ResponseKind::Switch {
                let awaiting = awaiting.as_ref().ok_or(Stop::Broken)?;
                let accepted = awaiting.accept(self.head, &response, &self.src, &self.digests)?;
                self.tolerate(accepted.flaw())?;
            }
            if response.contradicts {
                writeln!(self.log, "contradicts itself")?;
                reusable = false;
            }
            let delivery = Delivery::new(&response, &asked, !self.last);
            let kind = match response.kind {
                ResponseKind::Interim => "interim",
                ResponseKind::Switch => "switch",
                ResponseKind::Final => "final",
            };
            writeln!(
                self.log,
                "response {} {kind} {} {} deliver {} {}{}",
                response.status,
                Framing(response.framing),
                keep(response.keep_alive && reusable),
                Framing(delivery.framing),
                keep(delivery.keep_alive),
                binds(response.binds),
            )?;
            if response.kind != ResponseKind::Interim || asked.version == Version::Http11 {
                encode::response(
                    self.head,
                    &response,
                    &self.src,
                    &delivery,
                    || *DATE,
                    self.out,
                )?;
            }
            self.src.consume(usize::from(self.head.len));
            match response.kind {
                ResponseKind::Interim => {}
                ResponseKind::Switch => {
                    writeln!(self.log, "accepted")?;
                    return Err(Stop::Rest);
                }
                ResponseKind::Final => {
                    self.body(response.framing, delivery.framing, response.trailers, close)?;
                    return Err(Stop::Rest);
                }
            }
        }
    }

    /// Reads the request that the responses answer.
    fn ask(&mut self, request: &[u8]) -> Result<(Asked, Option<AwaitingAccept>), Stop> {
        let mut parser = HeadParser::request();
        self.begin_head();
        loop {
            match parser.resume(request, self.head, &Limits::DEFAULT)? {
                Progress::Done { .. } => break,
                Progress::Full => self.grow_head(),
                Progress::NeedMore => return Err(Stop::Broken),
            }
        }
        let request_head = Request::from_head(self.head, request)?;
        let mut awaiting = None;
        if let Some(offer) = &request_head.upgrade {
            awaiting.insert(AwaitingAccept::EMPTY).remember_offer(
                offer,
                self.head,
                request,
                &self.digests,
            );
        }
        let mut asked = Asked::from(&request_head);
        asked.via = self.forward.via;
        Ok((asked, awaiting))
    }

    /// Forwards an offer or a 101 with a flaw, or refuses it.
    fn tolerate(&mut self, flaw: Option<Error>) -> Result<(), Stop> {
        match flaw {
            Some(flaw) if self.strict => Err(flaw.into()),
            Some(flaw) => Ok(writeln!(self.log, "tolerates {}", flaw.name())?),
            None => Ok(()),
        }
    }

    /// Makes the smaller head an empty one for the next message.
    fn begin_head(&mut self) {
        if self.head.room() > self.other.room() {
            core::mem::swap(&mut self.head, &mut self.other);
        }
        self.head.clear();
    }

    /// Has the larger head take over.
    fn grow_head(&mut self) {
        self.other.take_over(self.head);
        core::mem::swap(&mut self.head, &mut self.other);
    }

    /// Parses one head or trailer section.
    fn head(&mut self, mut parser: HeadParser, limits: Limits) -> Result<(), Stop> {
        self.begin_head();
        loop {
            match parser.resume(&self.src, self.head, &limits) {
                Ok(Progress::Done { .. }) => return Ok(()),
                Ok(Progress::Full) => self.grow_head(),
                Ok(Progress::NeedMore) if self.src.more() => {}
                Ok(Progress::NeedMore) => return Err(Stop::NeedMore),
                Err(error) => {
                    // Terminal: what arrives later changes nothing.
                    while self.src.more() {}
                    return match parser.resume(&self.src, self.head, &limits) {
                        Err(same) if same == error => Err(error.into()),
                        _ => Err(Stop::Broken),
                    };
                }
            }
        }
    }

    /// Forwards one body.
    fn body(
        &mut self,
        framing: BodyFraming,
        delivered: BodyFraming,
        pass_trailers: bool,
        close: bool,
    ) -> Result<(), Stop> {
        let chunked = delivered == BodyFraming::Chunked;
        let mut decoder = BodyDecoder::new(framing, &self.limits.body);
        let mut total = 0u64;
        let mut trailers = false;
        loop {
            let piece = self.src.bytes_at(0);
            let consumed = match decoder.step(piece)? {
                Step::Framing { consumed } => consumed,
                Step::Chunk { consumed, size } => {
                    if chunked {
                        encode::chunk_head(size, self.out)?;
                    }
                    consumed
                }
                Step::Data { max } => {
                    let content =
                        usize::try_from(max).map_or(piece, |max| piece.get(..max).unwrap_or(piece));
                    let count = content.len();
                    self.out.put(content)?;
                    let count_u64 = u64::try_from(count).unwrap_or(0);
                    total = total.saturating_add(count_u64);
                    decoder.advance(count_u64);
                    if chunked && count_u64 == max {
                        self.out.put(encode::CHUNK_END)?;
                    }
                    count
                }
                Step::Trailers => {
                    self.head(HeadParser::trailers(), self.limits.trailers)?;
                    writeln!(self.log, "trailers {}", self.head.fields().len())?;
                    if chunked && pass_trailers {
                        encode::trailers(self.head, &self.src, self.out)?;
                        trailers = true;
                    }
                    decoder.trailers_done();
                    usize::from(self.head.len)
                }
                Step::End { consumed } => {
                    self.src.consume(consumed);
                    if chunked && !trailers {
                        self.out.put(encode::LAST_CHUNK)?;
                    }
                    if framing != BodyFraming::None {
                        writeln!(self.log, "body {total}")?;
                    }
                    return Ok(());
                }
            };
            self.src.consume(consumed);
            if consumed == 0 && !self.src.more() {
                if !close {
                    return Err(Stop::NeedMore);
                }
                decoder.closed()?;
                writeln!(self.log, "closed")?;
            }
        }
    }
}

/// Writes a framing as the vectors do.
struct Framing(BodyFraming);

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BodyFraming::None => f.write_str("none"),
            BodyFraming::Length(length) => write!(f, "length={length}"),
            BodyFraming::Chunked => f.write_str("chunked"),
            BodyFraming::UntilClose => f.write_str("until-close"),
        }
    }
}

fn binds(binds: bool) -> &'static str {
    match binds {
        true => " binds",
        false => "",
    }
}

/// Writes persistence as the vectors do.
fn keep(keep_alive: bool) -> &'static str {
    match keep_alive {
        true => "keep",
        false => "close",
    }
}
