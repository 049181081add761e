// SPDX-License-Identifier: GPL-2.0

//! Forwards the body of one message, from the socket it arrives on to the queue of another.
//!
//! Content is forwarded unchanged, by reference where that pays. Framing is removed and written anew. Context: softirq,
//! the lock of the reading connection held.

use super::{
    limits,
    reading::Reading,
    session::{
        Conn,
        Io, //
    }, //
};
use crate::{
    net::{
        stats::{
            self,
            Counter, //
        },
        OutQueue,
        Softirq,
        Stop,
        Writer,
        RESUME, //
    },
    proto::{
        self,
        h1::{
            encode,
            BodyDecoder,
            BodyLimits,
            HeadParser,
            Progress,
            Step, //
        },
        message::BodyFraming, //
    }, //
};
use kernel::prelude::*;

/// Bytes of framing that are parsed in one step if they have to be copied first.
const FRAMING_COPY: usize = 32;

/// Chunks that are forwarded before other softirq work gets its turn, and before who sends is looked at again.
const CHUNKS_PER_PASS: u32 = 256;

/// Most pieces of memory whose framing is looked at before a message goes out. A segment rarely has more than two.
const PIECES_AHEAD: usize = 4;

/// Why a body cannot be forwarded to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    /// The sender broke the protocol.
    Protocol(proto::Error),
    /// The receiver is closed.
    ReceiverGone,
    /// No memory was available, and waiting is not possible.
    NoMemory,
}

/// How far a body was forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// To its end.
    All,
    /// As far as the receiver, memory or one pass allowed. Forwarding continues by itself.
    Part,
    /// As far as it has arrived.
    Starved,
}

/// A body on its way.
pub(crate) struct Body {
    decoder: BodyDecoder,
    /// Chunk heads are to be written.
    chunked: bool,
    /// A trailer section is passed on.
    pass_trailers: bool,
    /// Content left in the chunk whose head was written.
    chunk_left: u64,
    /// Content forwarded so far, in bytes.
    forwarded: u64,
    trailers: Option<KBox<Reading>>,
    /// Bytes before it that are still to be consumed: its message's head.
    head: u32,
}

impl Body {
    /// Makes a body that arrives framed as `from` and is forwarded framed as `to`, with or without its trailer section.
    pub(crate) fn new(
        from: BodyFraming,
        to: BodyFraming,
        pass_trailers: bool,
        limits: &BodyLimits,
    ) -> Body {
        Body {
            decoder: BodyDecoder::new(from, limits),
            chunked: from == BodyFraming::Chunked && to == BodyFraming::Chunked,
            pass_trailers,
            chunk_left: 0,
            forwarded: 0,
            trailers: None,
            head: 0,
        }
    }

    /// Makes the `len` bytes before the body be consumed with its first bytes.
    pub(crate) fn behind(self, len: u32) -> Body {
        Body { head: len, ..self }
    }

    /// Returns how many bytes of content were forwarded.
    pub(crate) fn forwarded(&self) -> u64 {
        self.forwarded
    }

    /// Forwards what has arrived into the queue of `to`. The caller pushes.
    pub(crate) fn forward(&mut self, io: &mut Io<'_>, to: &Conn) -> Result<Forwarded, Failure> {
        let mut chunks = 0u32;
        loop {
            // Usually the next step is known without a look at the bytes.
            let mut step = self.decoder.step(&[]).map_err(Failure::Protocol)?;
            if !matches!(step, Step::Data { .. }) && self.head > 0 {
                io.consume(core::mem::take(&mut self.head));
            }
            if matches!(step, Step::Framing { .. }) {
                step = self.look(io)?;
            }
            match step {
                Step::Framing { consumed: 0 } => return self.starved(io),
                Step::Framing { consumed } => io.consume(count(consumed)),
                Step::Chunk { consumed, size } => {
                    io.consume(count(consumed));
                    chunks = chunks.saturating_add(1);
                    if self.chunked {
                        self.chunk_left = size;
                        send(io.softirq(), to, |queue| encode::chunk_head(size, queue))?;
                    }
                }
                Step::Data { max } => {
                    let head = core::mem::take(&mut self.head);
                    let spliced = io.splice_behind(head, to, max, &mut ());
                    self.decoder.advance(spliced.bytes);
                    self.forwarded = self.forwarded.saturating_add(spliced.bytes);
                    self.chunk_sent(io, spliced.bytes, to)?;
                    match spliced.stop {
                        Stop::Done if spliced.bytes == 0 => return self.starved(io),
                        Stop::Done if chunks >= CHUNKS_PER_PASS => {
                            // The receive queue may have a hundred thousand of them.
                            io.conn().post(RESUME);
                            return Ok(Forwarded::Part);
                        }
                        Stop::Done => {}
                        Stop::Full | Stop::NoMemory => return Ok(Forwarded::Part),
                        Stop::Dead => return Err(Failure::ReceiverGone),
                        Stop::Unreadable => return Err(Failure::NoMemory),
                    }
                }
                Step::Trailers => {
                    if self.trailers(io, Some(to))? == Forwarded::Starved {
                        return Ok(Forwarded::Starved);
                    }
                }
                Step::End { consumed } => {
                    io.consume(count(consumed));
                    if self.chunked && !(self.pass_trailers && self.trailers.is_some()) {
                        send(io.softirq(), to, |queue| {
                            proto::span::Sink::put(queue, encode::LAST_CHUNK)
                        })?;
                    }
                    return Ok(Forwarded::All);
                }
            }
        }
    }

    /// Returns how many bytes of content are left; `None` if that is not known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Discards what has arrived. If it is not a valid body, everything up to the end of the connection is discarded.
    pub(crate) fn discard(&mut self, io: &mut Io<'_>) -> Forwarded {
        self.try_discard(io).unwrap_or_else(|_| {
            let endless = BodyFraming::UntilClose;
            self.decoder = BodyDecoder::new(endless, &BodyLimits::DEFAULT);
            io.consume(u32::MAX);
            Forwarded::Starved
        })
    }

    fn try_discard(&mut self, io: &mut Io<'_>) -> Result<Forwarded, Failure> {
        let mut chunks = 0u32;
        loop {
            match self.look(io)? {
                Step::Framing { consumed: 0 } => return self.starved(io),
                Step::Framing { consumed } => io.consume(count(consumed)),
                Step::Chunk { consumed, .. } => {
                    io.consume(count(consumed));
                    chunks = chunks.saturating_add(1);
                }
                Step::Data { max } => {
                    let unread = io.unread();
                    let content = u32::try_from(max).map_or(unread, |max| max.min(unread));
                    if content == 0 {
                        return self.starved(io);
                    }
                    io.consume(content);
                    self.decoder.advance(u64::from(content));
                    self.forwarded = self.forwarded.saturating_add(u64::from(content));
                    if chunks >= CHUNKS_PER_PASS {
                        io.conn().post(RESUME);
                        return Ok(Forwarded::Part);
                    }
                }
                Step::Trailers => {
                    if self.trailers(io, None)? == Forwarded::Starved {
                        return Ok(Forwarded::Starved);
                    }
                }
                Step::End { consumed } => {
                    io.consume(count(consumed));
                    return Ok(Forwarded::All);
                }
            }
        }
    }

    /// Checks the part of the body that has arrived, before any of the message is forwarded. Fails if the framing of
    /// chunks or a trailer section is wrong. Returns whether the whole body is known to have arrived; false means that
    /// it may have.
    ///
    /// Looks at [`CHUNKS_PER_PASS`] chunks at most, at [`PIECES_AHEAD`] pieces of memory for their framing, and at those of
    /// a trailer section. Content is not looked at.
    pub(crate) fn look_ahead(&self, io: &Io<'_>) -> Result<bool, Failure> {
        let mut decoder = self.decoder;
        let here = io.unread();
        if !decoder.awaits_size() {
            // There is no framing to check.
            let here = u64::from(here.saturating_sub(self.head));
            return Ok(match decoder.step(&[]) {
                Ok(Step::Data { max }) => here >= max,
                Ok(Step::End { .. }) => true,
                _ => false,
            });
        }
        let mut offset = self.head;
        let (mut chunks, mut pieces) = (0u32, 0usize);
        let mut bytes: &[u8] = &[];
        let mut line = [0; FRAMING_COPY];
        loop {
            let used = match decoder.step(bytes).map_err(Failure::Protocol)? {
                Step::Framing { consumed: 0 } => {
                    if pieces >= PIECES_AHEAD || offset >= here {
                        return Ok(false);
                    }
                    pieces = pieces.saturating_add(1);
                    bytes = io.peek(offset);
                    if bytes.is_empty() {
                        // It may change until it is copied again; it is then judged again.
                        let copied = io.copy(offset, &mut line);
                        bytes = line.get(..copied).unwrap_or(&[]);
                    }
                    continue;
                }
                Step::Framing { consumed } => count(consumed),
                Step::Chunk { consumed, .. } => {
                    chunks = chunks.saturating_add(1);
                    if chunks > CHUNKS_PER_PASS {
                        return Ok(false);
                    }
                    count(consumed)
                }
                Step::Data { max } => {
                    let left = here.saturating_sub(offset);
                    let content = u32::try_from(max).map_or(left, |max| max.min(left));
                    if content == 0 {
                        return Ok(false);
                    }
                    decoder.advance(u64::from(content));
                    content
                }
                Step::Trailers => {
                    let mut reading = Reading::new(HeadParser::trailers())?;
                    let progress = reading.look(offset, io, &limits::trailers())?;
                    Reading::end(reading);
                    return Ok(matches!(progress, Progress::Done { .. }));
                }
                Step::End { .. } => return Ok(true),
            };
            offset = offset.saturating_add(used);
            bytes = bytes.get(used as usize..).unwrap_or(&[]);
        }
    }

    /// Parses the framing that comes next.
    fn look(&mut self, io: &Io<'_>) -> Result<Step, Failure> {
        let mut line = [0; FRAMING_COPY];
        let bytes = match io.peek(0) {
            [] => {
                let copied = io.copy(0, &mut line);
                line.get(..copied).unwrap_or(&[])
            }
            bytes => bytes,
        };
        self.decoder.step(bytes).map_err(Failure::Protocol)
    }

    /// There are not enough bytes to continue. Checks whether this is the end.
    fn starved(&mut self, io: &Io<'_>) -> Result<Forwarded, Failure> {
        if !io.fin_received() {
            return Ok(Forwarded::Starved);
        }
        self.decoder.closed().map_err(Failure::Protocol)?;
        Ok(Forwarded::All)
    }

    /// Closes the chunk when all of its content went out.
    fn chunk_sent(&mut self, io: &Io<'_>, bytes: u64, to: &Conn) -> Result<(), Failure> {
        if !self.chunked || bytes == 0 {
            return Ok(());
        }
        self.chunk_left = self.chunk_left.saturating_sub(bytes);
        if self.chunk_left > 0 {
            return Ok(());
        }
        send(io.softirq(), to, |queue| {
            proto::span::Sink::put(queue, encode::CHUNK_END)
        })
    }

    fn trailers(&mut self, io: &mut Io<'_>, to: Option<&Conn>) -> Result<Forwarded, Failure> {
        if self.trailers.is_none() {
            self.trailers = Some(Reading::new(HeadParser::trailers())?);
        }
        let Some(reading) = self.trailers.as_deref_mut() else {
            return Err(Failure::NoMemory);
        };
        if reading.resume(io, &limits::trailers())? == Progress::NeedMore {
            return self.starved(io);
        }
        if let (Some(to), true) = (to, self.chunked && self.pass_trailers) {
            let (head, bytes) = reading.complete(io)?;
            send(io.softirq(), to, |queue| {
                encode::trailers(head, &bytes, queue)
            })?;
        }
        io.consume(reading.len());
        self.decoder.trailers_done();
        Ok(Forwarded::All)
    }
}

/// A step never consumes more than the receive queue holds, which is below 4 GiB.
pub(super) fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Writes framing to a temporary queue, so that a failure leaves nothing behind, and queues it.
fn send(
    softirq: Softirq<'_>,
    to: &Conn,
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), proto::span::Full>,
) -> Result<(), Failure> {
    let mut queue = OutQueue::new();
    write(&mut queue.writer(0, softirq)).map_err(|_| {
        stats::inc(Counter::NoMemory);
        Failure::NoMemory
    })?;
    to.deliver(&mut queue, None).map_err(|_| {
        // A live receiver must not take the bytes that follow for framing.
        if to.is_dead() {
            Failure::ReceiverGone
        } else {
            Failure::NoMemory
        }
    })
}
