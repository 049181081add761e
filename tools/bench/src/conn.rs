// SPDX-License-Identifier: GPL-2.0
//! A non-blocking connection with a buffer each way, driven by edge-triggered epoll.

use mio::net::TcpStream;
use std::io::{ErrorKind, Read, Result, Write};

/// Room for what is read, in bytes; a longer message makes it grow.
const ROOM: usize = 64 << 10;

/// Buffers that no connection needs: idle connections are many, busy ones few.
#[derive(Default)]
pub struct Pool {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

/// Bytes received and not yet consumed.
#[derive(Default)]
pub struct Input {
    /// Initialised to its whole length; what was received lies within.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// What is there.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The same, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Takes `count` bytes off.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Where to read to.
    fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            self.bytes.resize(self.end + ROOM, 0);
        }
        &mut self.bytes[self.end..]
    }
}

/// A connection and what waits on its ways in and out.
pub struct Conn {
    /// The socket.
    pub stream: TcpStream,
    /// What was received.
    pub input: Input,
    /// Bytes to be sent; those before `sent` are.
    output: Vec<u8>,
    sent: usize,
    /// Whether the other side has closed.
    pub ended: bool,
}

impl Conn {
    /// A connection that sends small messages at once.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            input: Input::default(),
            output: Vec::new(),
            sent: 0,
            ended: false,
        })
    }

    /// Takes buffers, if it has none.
    pub fn grow(&mut self, pool: &mut Pool) {
        if self.input.bytes.is_empty() {
            self.input.bytes = pool.inputs.pop().unwrap_or_default();
        }
        if self.output.capacity() == 0 {
            self.output = pool.outputs.pop().unwrap_or_default();
        }
    }

    /// Gives buffers back that are empty.
    pub fn shrink(&mut self, pool: &mut Pool) {
        if self.input.end == 0 {
            pool.inputs.push(std::mem::take(&mut self.input.bytes));
        }
        if self.output.is_empty() {
            pool.outputs.push(std::mem::take(&mut self.output));
        }
    }

    /// Ends the connection; its buffers are for others.
    pub fn recycle(mut self, pool: &mut Pool) {
        (self.input.start, self.input.end) = (0, 0);
        self.output.clear();
        self.shrink(pool);
    }

    /// Reads what is there, one buffer at most. A short read has emptied the socket, so that only a full one, or an end that was
    /// announced, is followed by another. Whether there may be more.
    pub fn fill(&mut self, ending: bool) -> Result<bool> {
        loop {
            let room = self.input.room();
            let size = room.len();
            match self.stream.read(room) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(false);
                }
                Ok(count) => {
                    self.input.end += count;
                    return Ok(count == size || ending);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where to append what is to be sent; `flush` sends it.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Bytes that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}
