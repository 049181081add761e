// SPDX-License-Identifier: GPL-2.0
//! What a round trip costs while more and more tunnels are open. The tunnels are opened one after the other and stay; whenever
//! a number is reached that was asked for, messages go through a few of them, and then through all of them in turn.

use super::{
    looped::{Echo, Script, Step, PATIENCE},
    serial, Amount,
};
use crate::{
    conn::{Conn, Pool},
    meter::{Mark, Window},
};
use anyhow::{ensure, Context, Result};
use mio::{net::TcpStream, Events, Interest, Poll, Token};
use serde::Serialize;
use std::{
    collections::VecDeque,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// Messages under way at a time, if there are as many tunnels.
const UNDER_WAY: usize = 16;
/// Bytes of a message.
const SIZE: usize = 64;

/// What was measured with one number of tunnels.
#[derive(Serialize)]
pub struct Stage {
    /// Open tunnels.
    tunnels: usize,
    /// Opening those that the stage before did not have.
    opening: Vec<Window>,
    /// Round trips in 16 of the tunnels.
    few: Trips,
    /// Round trips in all of them, in turn.
    all: Trips,
}

/// Round trips.
#[derive(Serialize)]
struct Trips {
    windows: Vec<Window>,
    /// Segments that TCP sent for each, on all connections of the machine.
    segments: f64,
}

/// Where tunnel `number` goes to: `address` and those that follow it, `spread` in all, take turns.
pub fn spread_over(address: SocketAddr, spread: u32, number: usize) -> SocketAddr {
    let IpAddr::V4(first) = address.ip() else {
        return address;
    };
    let offset = number as u32 % spread.max(1);
    let next = Ipv4Addr::from_bits(first.to_bits() + offset);
    SocketAddr::new(next.into(), address.port())
}

/// Segments that TCP has sent.
fn segments() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = lines.next().zip(lines.next()).context("no TCP in snmp")?;
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "OutSegs")
        .and_then(|(_, value)| value.parse().ok())
        .context("no OutSegs in snmp")
}

/// Open tunnels on one epoll instance.
struct Tunnels {
    script: Echo,
    poll: Poll,
    events: Events,
    pool: Pool,
    conns: Vec<Conn>,
}

impl Tunnels {
    fn open(&mut self, address: SocketAddr) -> Result<()> {
        let stream = serial::tunnel(address, "/echo")?;
        stream.set_nonblocking(true)?;
        // Closed by a reset: 50,000 connections that wait out their end would be in the way of the next case.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        let mut conn = Conn::new(TcpStream::from_std(stream))?;
        self.poll.registry().register(
            &mut conn.stream,
            Token(self.conns.len()),
            Interest::READABLE,
        )?;
        self.conns.push(conn);
        Ok(())
    }

    fn send(&mut self, index: usize) -> Result<()> {
        let conn = &mut self.conns[index];
        conn.grow(&mut self.pool);
        conn.output().extend_from_slice(self.script.begin());
        conn.flush()?;
        ensure!(
            conn.unsent() == 0,
            "no room for a message in an idle tunnel"
        );
        Ok(())
    }

    /// Messages through the first `among` tunnels: the next one is sent on the one that has been idle for longest.
    fn trips(&mut self, among: usize, amount: Amount) -> Result<Trips> {
        let mut idle: VecDeque<usize> = (0..among).collect();
        let (mut done, mut under_way) = (0, 0);
        let (mut mark, mut windows, mut sent) = (None, Vec::new(), Vec::new());
        for _ in 0..UNDER_WAY.min(among) {
            self.send(idle.pop_front().context("no tunnel")?)?;
            under_way += 1;
        }
        while under_way > 0 {
            self.poll.poll(&mut self.events, Some(PATIENCE))?;
            ensure!(
                !self.events.is_empty(),
                "nothing happened for {PATIENCE:?} after {done} messages"
            );
            let ready: Vec<(usize, bool)> = self
                .events
                .iter()
                .map(|event| (event.token().0, event.is_read_closed() || event.is_error()))
                .collect();
            for (index, ending) in ready {
                let conn = &mut self.conns[index];
                conn.grow(&mut self.pool);
                while conn.fill(ending)? {}
                let step = self.script.ready(conn)?;
                conn.shrink(&mut self.pool);
                if matches!(step, Step::Wait) {
                    continue;
                }
                done += 1;
                under_way -= 1;
                idle.push_back(index);
                let full = windows.len() == amount.windows;
                if !full && done >= amount.warmup && (done - amount.warmup) % amount.ops == 0 {
                    if let Some(mark) = mark.replace(Mark::now()?) {
                        windows.push(Mark::window(&mark, amount.ops)?);
                    }
                    sent.push(segments()?);
                }
                // What is under way when the last window is full is waited for, and not measured.
                if windows.len() < amount.windows {
                    self.send(idle.pop_front().context("no idle tunnel")?)?;
                    under_way += 1;
                }
            }
        }
        let sent: u64 = sent.windows(2).map(|pair| pair[1] - pair[0]).sum();
        Ok(Trips {
            segments: sent as f64 / (amount.ops * amount.windows as u64) as f64,
            windows,
        })
    }
}

/// Opens tunnels up to each of the numbers, and measures there.
pub fn many(
    address: SocketAddr,
    amount: Amount,
    spread: u32,
    counts: &[usize],
) -> Result<Vec<Stage>> {
    let mut tunnels = Tunnels {
        script: Echo::new(SIZE),
        poll: Poll::new()?,
        events: Events::with_capacity(256),
        pool: Pool::default(),
        conns: Vec::new(),
    };
    let mut stages = Vec::new();
    for &count in counts {
        let (mark, first) = (Mark::now()?, tunnels.conns.len());
        for number in first..count {
            tunnels
                .open(spread_over(address, spread, number))
                .with_context(|| format!("tunnel {number}"))?;
        }
        let opening = vec![mark.window((count - first).max(1) as u64)?];
        // Each tunnel has carried a message before it counts.
        let lap = Amount {
            warmup: amount.warmup.max(count as u64),
            ..amount
        };
        stages.push(Stage {
            tunnels: count,
            opening,
            few: tunnels.trips(UNDER_WAY.min(count), amount)?,
            all: tunnels.trips(count, lap)?,
        });
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_each_other() {
        let address = "127.0.0.1:80".parse().unwrap();
        let texts: Vec<String> = (0..5)
            .map(|number| spread_over(address, 4, number).to_string())
            .collect();
        assert_eq!(
            texts,
            [
                "127.0.0.1:80",
                "127.0.0.2:80",
                "127.0.0.3:80",
                "127.0.0.4:80",
                "127.0.0.1:80"
            ]
        );
    }
}
