// SPDX-License-Identifier: GPL-2.0
//! Cases with one connection at work at a time, on blocking sockets.

use super::{Amount, Line};
use crate::{http, meter::Mark, server::PUSH, ws};
use anyhow::{ensure, Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Nothing of a benchmark takes this long, unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(20);
/// The masking key of every frame.
pub const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A connection on which an opening handshake has been sent.
pub fn offered(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&http::offer(path))?;
    Ok(stream)
}

/// Reads the 101; nothing may follow it.
fn accepted(stream: &mut TcpStream) -> Result<()> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let count = stream.read(&mut chunk).context("waiting for a 101")?;
        ensure!(count > 0, "closed before a 101");
        bytes.extend_from_slice(&chunk[..count]);
        if let Some(response) = http::response(&bytes)? {
            http::upgraded(&response)?;
            ensure!(response.head == bytes.len(), "bytes behind the 101");
            return Ok(());
        }
    }
}

/// Opens a tunnel.
pub fn tunnel(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = offered(address, path)?;
    accepted(&mut stream)?;
    Ok(stream)
}

/// Closes a tunnel properly.
fn close(mut stream: TcpStream) -> Result<()> {
    stream.write_all(&ws::frame(ws::CLOSE, &1000u16.to_be_bytes(), Some(KEY)))?;
    std::io::copy(&mut stream, &mut std::io::sink()).context("closing")?;
    Ok(())
}

/// Reads one frame's head.
fn frame_head(stream: &mut impl BufRead) -> Result<ws::Head> {
    let mut head = [0; 10];
    for count in 1..=head.len() {
        stream.read_exact(&mut head[count - 1..count])?;
        if let Some(parsed) = ws::parse(&head[..count])? {
            return Ok(parsed);
        }
    }
    anyhow::bail!("a frame's head is too long")
}

/// The server pushes.
pub fn down(address: SocketAddr, amount: Amount) -> Result<Line> {
    let mut stream = BufReader::with_capacity(64 << 10, tunnel(address, "/down")?);
    let total = (amount.warmup + amount.ops * amount.windows as u64) << 10;
    stream.get_mut().write_all(&ws::frame(
        ws::TEXT,
        total.to_string().as_bytes(),
        Some(KEY),
    ))?;
    let (mut payload, expected) = (vec![0; PUSH], vec![b'x'; PUSH]);
    let mut line = Line::default();
    let (mut mark, mut received, mut limit) = (None, 0, amount.warmup << 10);
    loop {
        let head = frame_head(&mut stream)?;
        ensure!(
            head.opcode == ws::BINARY && head.mask.is_none() && head.payload <= PUSH,
            "an unexpected frame"
        );
        let payload = &mut payload[..head.payload];
        stream.read_exact(payload)?;
        ensure!(
            *payload == expected[..payload.len()],
            "a wrong byte was received"
        );
        received += payload.len() as u64;
        if received >= limit {
            if let Some(mark) = mark.replace(Mark::now()?) {
                line.windows.push(mark.window(amount.ops)?);
            }
            if received >= total {
                break;
            }
            limit += amount.ops << 10;
        }
    }
    close(stream.into_inner())?;
    Ok(line)
}

/// The client pushes; a window ends when the server has all of it.
pub fn up(address: SocketAddr, amount: Amount) -> Result<Line> {
    let mut stream = BufReader::new(tunnel(address, "/up")?);
    let frame = ws::frame(ws::BINARY, &[b'x'; PUSH], Some(KEY));
    let mut line = Line::default();
    let mut total = 0;
    for window in 0..=amount.windows {
        let ops = if window == 0 {
            amount.warmup
        } else {
            amount.ops
        };
        let mark = Mark::now()?;
        for _ in 0..(ops << 10).div_ceil(PUSH as u64) {
            stream.get_mut().write_all(&frame)?;
            total += PUSH as u64;
        }
        stream
            .get_mut()
            .write_all(&ws::frame(ws::TEXT, b"?", Some(KEY)))?;
        let head = frame_head(&mut stream)?;
        let mut answer = vec![0; head.payload];
        stream.read_exact(&mut answer)?;
        if window > 0 {
            line.windows.push(mark.window(ops)?);
        }
        ensure!(
            answer == total.to_string().as_bytes(),
            "the server did not get {total} bytes"
        );
    }
    close(stream.into_inner())?;
    Ok(line)
}

/// How long a new client waits.
pub fn first_byte(address: SocketAddr, amount: Amount) -> Result<Line> {
    let mut samples = Vec::new();
    for number in 0..amount.warmup + amount.ops {
        let start = Instant::now();
        let mut stream = offered(address, "/echo")?;
        stream.peek(&mut [0])?;
        if number >= amount.warmup {
            samples.push(start.elapsed().as_nanos() as u64);
        }
        accepted(&mut stream)?;
        close(stream)?;
    }
    samples.sort_unstable();
    Ok(Line {
        median_ns: samples.get(samples.len() / 2).copied(),
        ..Line::default()
    })
}

/// Opens tunnels and holds them until the end of the input.
pub fn hold(address: SocketAddr, tunnels: usize, stalled: u64) -> Result<()> {
    let path = if stalled > 0 { "/down" } else { "/echo" };
    let mut held = Vec::with_capacity(tunnels);
    let mark = Mark::now()?;
    for number in 0..tunnels {
        held.push(tunnel(address, path).with_context(|| format!("tunnel {number}"))?);
    }
    let line = Line {
        windows: vec![mark.window(tunnels as u64)?],
        ..Line::default()
    };
    if stalled > 0 {
        let wish = ws::frame(ws::TEXT, stalled.to_string().as_bytes(), Some(KEY));
        for stream in &mut held {
            stream.write_all(&wish)?;
        }
    }
    println!("{}", serde_json::to_string(&line)?);
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
