// SPDX-License-Identifier: GPL-2.0
//! How long a small message takes in one tunnel while others are in the way: one that sends as fast as it can, one whose client
//! does not read, connections that are opened and reset, and many that are idle.

use super::{
    many,
    serial::{self, KEY},
    Amount,
};
use crate::{meter::Mark, server::PUSH, ws};
use anyhow::{ensure, Context, Result};
use serde::Serialize;
use socket2::SockRef;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Bytes of a message.
const SIZE: usize = 64;
/// What a stalled tunnel is asked for, in bytes: more than will ever be sent.
const ENDLESS: u64 = 1 << 40;
/// How long a neighbour is at work before the first message, and how long what it left takes to go.
const SETTLE: Duration = Duration::from_millis(300);

/// What was measured beside one kind of neighbour.
#[derive(Serialize)]
pub struct Stage {
    /// The neighbour.
    beside: &'static str,
    /// Nanoseconds, half of the messages below it.
    median_ns: u64,
    /// Nanoseconds, 99 of a hundred messages below it.
    p99_ns: u64,
    /// Nanoseconds of the slowest message.
    max_ns: u64,
    /// Messages.
    messages: u64,
    /// Nanoseconds that all took.
    ns: u64,
    /// Bytes that the fast neighbour sent meanwhile.
    bytes: u64,
    /// Connections that were opened and reset meanwhile.
    resets: u64,
}

/// What is in the way.
#[derive(Clone, Copy)]
struct Neighbours {
    name: &'static str,
    fast: bool,
    stalled: bool,
    resets: bool,
    idle: bool,
}

const NOBODY: Neighbours = Neighbours {
    name: "nobody",
    fast: false,
    stalled: false,
    resets: false,
    idle: false,
};
/// The stages. Tunnels that are idle stay, so that those without come first.
const STAGES: [Neighbours; 6] = [
    NOBODY,
    Neighbours {
        name: "fast",
        fast: true,
        ..NOBODY
    },
    Neighbours {
        name: "stalled",
        stalled: true,
        ..NOBODY
    },
    Neighbours {
        name: "resets",
        resets: true,
        ..NOBODY
    },
    Neighbours {
        name: "idle",
        idle: true,
        ..NOBODY
    },
    Neighbours {
        name: "all",
        fast: true,
        stalled: true,
        resets: true,
        idle: true,
    },
];

/// What the neighbours have done.
#[derive(Default)]
struct Work {
    stop: AtomicBool,
    bytes: AtomicU64,
    resets: AtomicU64,
}

/// Closes a connection by a reset when it is dropped.
fn resetting(stream: TcpStream) -> Result<TcpStream> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}

/// Sends frames of 16 KiB until it is told to stop.
fn fast(address: SocketAddr, work: &Work) -> Result<()> {
    let mut stream = resetting(serial::tunnel(address, "/up")?)?;
    let frame = ws::frame(ws::BINARY, &[b'x'; PUSH], Some(KEY));
    while !work.stop.load(Relaxed) {
        stream.write_all(&frame)?;
        work.bytes.fetch_add(frame.len() as u64, Relaxed);
    }
    Ok(())
}

/// Asks for an upgrade and resets the connection, again and again.
fn resets(address: SocketAddr, work: &Work) -> Result<()> {
    while !work.stop.load(Relaxed) {
        drop(resetting(serial::offered(address, "/echo")?)?);
        work.resets.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// A tunnel that the server fills and nobody empties.
fn stalled(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = resetting(serial::tunnel(address, "/down")?)?;
    let wish = ws::frame(ws::TEXT, ENDLESS.to_string().as_bytes(), Some(KEY));
    stream.write_all(&wish)?;
    Ok(stream)
}

/// Sends messages one after the other; how long each took, in nanoseconds.
fn pings(stream: &mut TcpStream, count: u64) -> Result<Vec<u64>> {
    let payload = [0x5a; SIZE];
    let (ping, pong) = (
        ws::frame(ws::BINARY, &payload, Some(KEY)),
        ws::frame(ws::BINARY, &payload, None),
    );
    let mut answer = vec![0; pong.len()];
    (0..count)
        .map(|_| {
            let start = Instant::now();
            stream.write_all(&ping)?;
            stream.read_exact(&mut answer)?;
            let took = start.elapsed().as_nanos() as u64;
            ensure!(answer == pong, "an echo that differs");
            Ok(took)
        })
        .collect()
}

fn stage(
    address: SocketAddr,
    amount: Amount,
    tunnel: &mut TcpStream,
    neighbours: Neighbours,
) -> Result<Stage> {
    let work = Work::default();
    thread::scope(|scope| {
        let held = if neighbours.stalled {
            Some(stalled(address)?)
        } else {
            None
        };
        let mut threads = Vec::new();
        if neighbours.fast {
            threads.push(scope.spawn(|| fast(address, &work)));
        }
        if neighbours.resets {
            threads.push(scope.spawn(|| resets(address, &work)));
        }
        thread::sleep(SETTLE);
        let measured = measure(amount, tunnel, neighbours.name, &work);
        work.stop.store(true, Relaxed);
        for thread in threads {
            thread.join().ok().context("a neighbour panicked")??;
        }
        drop(held);
        thread::sleep(SETTLE);
        measured
    })
}

fn measure(
    amount: Amount,
    tunnel: &mut TcpStream,
    beside: &'static str,
    work: &Work,
) -> Result<Stage> {
    pings(tunnel, amount.warmup).with_context(|| format!("beside {beside}"))?;
    let (bytes, resets) = (work.bytes.load(Relaxed), work.resets.load(Relaxed));
    let mark = Mark::now()?;
    let mut samples = pings(tunnel, amount.ops).with_context(|| format!("beside {beside}"))?;
    let ns = mark.window(amount.ops)?.ns;
    samples.sort_unstable();
    let at = |share: usize| samples.get((samples.len() * share / 100).min(samples.len() - 1));
    let of = |share| at(share).copied().context("no message");
    Ok(Stage {
        beside,
        median_ns: of(50)?,
        p99_ns: of(99)?,
        max_ns: of(100)?,
        messages: amount.ops,
        ns,
        bytes: work.bytes.load(Relaxed) - bytes,
        resets: work.resets.load(Relaxed) - resets,
    })
}

/// Measures beside each kind of neighbour; `idle` tunnels are open in the last two.
pub fn beside(address: SocketAddr, amount: Amount, spread: u32, idle: usize) -> Result<Vec<Stage>> {
    let mut tunnel = serial::tunnel(address, "/echo")?;
    let mut held = Vec::new();
    let mut stages = Vec::new();
    for neighbours in STAGES {
        if neighbours.idle && held.is_empty() {
            for number in 0..idle {
                let address = many::spread_over(address, spread, number);
                let opened = serial::tunnel(address, "/echo");
                held.push(resetting(
                    opened.with_context(|| format!("idle tunnel {number}"))?,
                )?);
            }
        }
        stages.push(stage(address, amount, &mut tunnel, neighbours)?);
    }
    Ok(stages)
}
