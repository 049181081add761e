// SPDX-License-Identifier: GPL-2.0
//! Time, and how much of it the machine had nothing to do. Where the machine's time is counted in instructions, what is left is
//! the number of instructions that all of the system executed.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{fs, time::Instant};

/// One unit of the idle time in /proc/stat (USER_HZ), in nanoseconds.
const TICK_NS: u64 = 10_000_000;

/// A moment.
pub struct Mark {
    idle: u64,
    at: Instant,
}

/// What passed between two moments.
#[derive(Serialize, Deserialize)]
pub struct Window {
    /// Operations done.
    pub ops: u64,
    /// Nanoseconds.
    pub ns: u64,
    /// Nanoseconds of idle processors therein, to 10 ms.
    pub idle_ns: u64,
}

fn idle() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("an empty /proc/stat")?;
    let field = |number| {
        line.split_whitespace()
            .nth(number)
            .and_then(|field| field.parse::<u64>().ok())
    };
    Ok((field(4).context("no idle time")? + field(5).context("no waiting time")?) * TICK_NS)
}

impl Mark {
    /// This moment.
    pub fn now() -> Result<Self> {
        Ok(Self {
            idle: idle()?,
            at: Instant::now(),
        })
    }

    /// What passed since, during which `ops` operations were done.
    pub fn window(&self, ops: u64) -> Result<Window> {
        let ns = self.at.elapsed().as_nanos() as u64;
        Ok(Window {
            ops,
            ns,
            idle_ns: idle()?.saturating_sub(self.idle),
        })
    }
}

impl Window {
    /// Nanoseconds per operation in which a processor was busy.
    pub fn busy(&self) -> f64 {
        self.ns.saturating_sub(self.idle_ns) as f64 / self.ops as f64
    }
}
