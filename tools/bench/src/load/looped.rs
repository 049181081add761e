// SPDX-License-Identifier: GPL-2.0
//! Cases with many connections under way, on one epoll instance.

use super::{serial, Amount, Line};
use crate::{
    conn::{Conn, Pool},
    http,
    meter::Mark,
    ws,
};
use anyhow::{bail, ensure, Context, Result};
use mio::{net::TcpStream, Events, Interest, Poll, Token};
use std::{net::SocketAddr, sync::Barrier, thread, time::Duration};

/// Nothing of a benchmark takes this long, unless it is stuck.
pub const PATIENCE: Duration = Duration::from_secs(20);
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What an event has led to.
pub enum Step {
    /// More has to arrive.
    Wait,
    /// An operation is done, and the next one begins on this connection.
    Again,
    /// An operation is done, and the connection with it.
    Fresh,
}

/// What a connection does.
pub trait Script {
    /// What begins an operation.
    fn begin(&self) -> &[u8];
    /// Looks at what has arrived.
    fn ready(&self, conn: &mut Conn) -> Result<Step>;
}

/// A message that is echoed, again and again.
pub struct Echo {
    frame: Vec<u8>,
    payload: Vec<u8>,
}

impl Echo {
    /// With a payload of `size` bytes.
    pub fn new(size: usize) -> Self {
        let payload: Vec<u8> = (0..size).map(|byte| (byte * 7) as u8).collect();
        Self {
            frame: ws::frame(ws::BINARY, &payload, Some(KEY)),
            payload,
        }
    }
}

impl Script for Echo {
    fn begin(&self) -> &[u8] {
        &self.frame
    }

    fn ready(&self, conn: &mut Conn) -> Result<Step> {
        ensure!(!conn.ended, "a tunnel was closed");
        let input = conn.input.data();
        let Some(head) = ws::parse(input)? else {
            return Ok(Step::Wait);
        };
        let total = head.head + head.payload;
        if input.len() < total {
            return Ok(Step::Wait);
        }
        ensure!(
            input.len() == total && input[head.head..] == self.payload,
            "an echo that differs"
        );
        conn.input.consume(total);
        Ok(Step::Again)
    }
}

struct Upgrade {
    offer: Vec<u8>,
    close: Vec<u8>,
}

impl Script for Upgrade {
    fn begin(&self) -> &[u8] {
        &self.offer
    }

    fn ready(&self, conn: &mut Conn) -> Result<Step> {
        // The 101 is taken off as soon as it is complete; the server's closing frame is all that may follow.
        if conn.input.data().first() == Some(&b'H') {
            match http::response(conn.input.data())? {
                Some(response) => {
                    http::upgraded(&response)?;
                    conn.input.consume(response.head);
                    conn.output().extend_from_slice(&self.close);
                }
                None => ensure!(!conn.ended, "closed within a 101"),
            }
        }
        if !conn.ended {
            return Ok(Step::Wait);
        }
        ensure!(
            ws::parse(conn.input.data())?.is_some_and(|head| head.opcode == ws::CLOSE),
            "closed without a closing frame"
        );
        Ok(Step::Fresh)
    }
}

struct Get {
    request: Vec<u8>,
    close: bool,
}

impl Script for Get {
    fn begin(&self) -> &[u8] {
        &self.request
    }

    fn ready(&self, conn: &mut Conn) -> Result<Step> {
        match http::response(conn.input.data())? {
            Some(response) if conn.input.data().len() >= response.head + response.length => {
                ensure!(response.status == 200, "status {}", response.status);
                ensure!(
                    conn.input.data().len() == response.head + response.length,
                    "more than a response"
                );
                if !self.close {
                    conn.input.consume(response.head + response.length);
                    return Ok(Step::Again);
                }
                Ok(if conn.ended { Step::Fresh } else { Step::Wait })
            }
            _ if conn.ended => bail!("closed before the end of a response"),
            _ => Ok(Step::Wait),
        }
    }
}

/// Runs `script` on `slots` connections, each made by `connect`, until all windows are full.
fn drive(
    script: &impl Script,
    slots: usize,
    connect: impl Fn() -> Result<TcpStream>,
    amount: Amount,
) -> Result<Line> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let mut line = Line::default();
    let mut pool = Pool::default();
    let begin = |index: usize, poll: &Poll| -> Result<Conn> {
        let mut conn = Conn::new(connect()?)?;
        poll.registry().register(
            &mut conn.stream,
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        conn.output().extend_from_slice(script.begin());
        Ok(conn)
    };
    let mut conns: Vec<Conn> = (0..slots)
        .map(|index| begin(index, &poll))
        .collect::<Result<_>>()?;
    let (mut done, mut mark) = (0, None);
    // Writable when connected: that event sends what begins the first operation.
    loop {
        poll.poll(&mut events, Some(PATIENCE))?;
        ensure!(
            !events.is_empty(),
            "nothing happened for {PATIENCE:?} after {done} operations"
        );
        for event in &events {
            let Token(index) = event.token();
            let conn = &mut conns[index];
            if event.is_readable() || event.is_error() {
                while conn.fill(event.is_read_closed() || event.is_error())? {}
                let step = script.ready(conn)?;
                if !matches!(step, Step::Wait) {
                    done += 1;
                    if done >= amount.warmup && (done - amount.warmup) % amount.ops == 0 {
                        if let Some(mark) = mark.replace(Mark::now()?) {
                            line.windows.push(Mark::window(&mark, amount.ops)?);
                            if line.windows.len() == amount.windows {
                                return Ok(line);
                            }
                        }
                    }
                }
                match step {
                    Step::Wait => {}
                    Step::Again => conn.output().extend_from_slice(script.begin()),
                    Step::Fresh => {
                        std::mem::replace(conn, begin(index, &poll)?).recycle(&mut pool);
                        conn.grow(&mut pool);
                    }
                }
            }
            // A connection under way is not written to: it would fail.
            if conn.unsent() > 0 && (event.is_writable() || conn.stream.peer_addr().is_ok()) {
                conn.flush()?;
            }
        }
    }
}

fn tunnel(address: SocketAddr) -> Result<TcpStream> {
    let stream = serial::tunnel(address, "/echo")?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}

/// Messages that are echoed. Of several threads the windows are added up.
pub fn rtt(
    address: SocketAddr,
    amount: Amount,
    tunnels: usize,
    size: usize,
    threads: usize,
) -> Result<Line> {
    let script = Echo::new(size);
    let share = Amount {
        warmup: amount.warmup / threads as u64,
        ops: amount.ops / threads as u64,
        ..amount
    };
    let barrier = Barrier::new(threads);
    let lines: Vec<Line> = thread::scope(|scope| {
        let work = || {
            let streams: Result<Vec<_>> = (0..tunnels / threads).map(|_| tunnel(address)).collect();
            barrier.wait();
            let streams = std::cell::RefCell::new(streams?);
            let next = || {
                streams
                    .borrow_mut()
                    .pop()
                    .context("a tunnel more than there are")
            };
            drive(&script, tunnels / threads, next, share)
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().ok().context("a thread panicked")?)
            .collect::<Result<_>>()
    })?;
    let mut lines = lines.into_iter();
    let mut sum = lines.next().context("no thread")?;
    for line in lines {
        for (window, more) in sum.windows.iter_mut().zip(line.windows) {
            window.ops += more.ops;
            window.ns = window.ns.max(more.ns);
            window.idle_ns = window.idle_ns.max(more.idle_ns);
        }
    }
    Ok(sum)
}

/// Tunnels that are opened and closed.
pub fn upgrades(address: SocketAddr, amount: Amount, parallel: usize) -> Result<Line> {
    let script = Upgrade {
        offer: http::offer("/echo"),
        close: ws::frame(ws::CLOSE, &1000u16.to_be_bytes(), Some(KEY)),
    };
    drive(
        &script,
        parallel,
        || Ok(TcpStream::connect(address)?),
        amount,
    )
}

/// Plain GETs.
pub fn gets(address: SocketAddr, amount: Amount, parallel: usize, close: bool) -> Result<Line> {
    let script = Get {
        request: http::get("/1k", close),
        close,
    };
    drive(
        &script,
        parallel,
        || Ok(TcpStream::connect(address)?),
        amount,
    )
}
