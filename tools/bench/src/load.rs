// SPDX-License-Identifier: GPL-2.0
//! The load generator. Each case is a closed loop: whoever is waited for has work to do, so that one processor is never idle,
//! and each is measured in windows that follow each other within one steady run.

mod beside;
mod looped;
mod many;
mod serial;

use crate::meter::Window;
use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Args)]
pub struct Arguments {
    /// The proxy, or the server itself.
    address: SocketAddr,
    /// Operations before the first window.
    #[arg(long, default_value_t = 1000)]
    warmup: u64,
    /// Operations of a window.
    #[arg(long, default_value_t = 2000)]
    ops: u64,
    /// Windows, one behind the other.
    #[arg(long, default_value_t = 3)]
    windows: usize,
    #[command(subcommand)]
    case: Case,
}

#[derive(Subcommand)]
enum Case {
    /// Messages that are echoed: one under way per tunnel.
    Rtt {
        /// Open tunnels.
        #[arg(long)]
        tunnels: usize,
        /// Payload in bytes.
        #[arg(long)]
        size: usize,
        /// Threads, each with its share of the tunnels.
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Connection, opening handshake, closing handshake, close.
    Upgrades {
        /// Connections at a time.
        #[arg(long, default_value_t = 16)]
        parallel: usize,
    },
    /// Plain GETs of 1 KiB.
    Gets {
        /// Connections at a time.
        #[arg(long, default_value_t = 16)]
        parallel: usize,
        /// A connection for each.
        #[arg(long)]
        close: bool,
    },
    /// Bytes through one tunnel, in frames of 16 KiB; an operation is a KiB.
    Bulk {
        /// From the client to the server.
        #[arg(long)]
        up: bool,
    },
    /// From the start of connecting to the first byte of a 101: one connection at a time.
    FirstByte,
    /// Opens tunnels, prints its line, and holds them until the end of its input.
    Hold {
        /// Tunnels to open.
        #[arg(long)]
        tunnels: usize,
        /// Bytes that the server pushes to each; none is read.
        #[arg(long, default_value_t = 0)]
        stalled: u64,
    },
    /// Messages of 64 B, 16 under way at a time, while more and more tunnels are open.
    Many {
        /// Numbers of tunnels, growing.
        #[arg(long, value_delimiter = ',', required = true)]
        tunnels: Vec<usize>,
        /// Addresses that the tunnels take turns with: the one given and those that follow it.
        #[arg(long, default_value_t = 1)]
        spread: u32,
    },
    /// Messages of 64 B in one tunnel, alone and beside others that are in the way.
    Beside {
        /// Idle tunnels, where they are the others.
        #[arg(long)]
        idle: usize,
        /// Addresses that idle tunnels take turns with: the one given and those that follow it.
        #[arg(long, default_value_t = 1)]
        spread: u32,
    },
}

/// The line that a case prints.
#[derive(Serialize, Default)]
struct Line {
    windows: Vec<Window>,
    /// Nanoseconds, half of the samples below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    median_ns: Option<u64>,
}

/// The line of a case that is measured in several stages.
#[derive(Serialize)]
struct Stages<T> {
    stages: Vec<T>,
}

/// How much a case does.
#[derive(Clone, Copy)]
struct Amount {
    warmup: u64,
    ops: u64,
    windows: usize,
}

/// Runs one case.
pub fn run(arguments: &Arguments) -> Result<()> {
    let address = arguments.address;
    let amount = Amount {
        warmup: arguments.warmup,
        ops: arguments.ops,
        windows: arguments.windows,
    };
    let line = match &arguments.case {
        Case::Rtt {
            tunnels,
            size,
            threads,
        } => looped::rtt(address, amount, *tunnels, *size, *threads)?,
        Case::Upgrades { parallel } => looped::upgrades(address, amount, *parallel)?,
        Case::Gets { parallel, close } => looped::gets(address, amount, *parallel, *close)?,
        Case::Bulk { up: false } => serial::down(address, amount)?,
        Case::Bulk { up: true } => serial::up(address, amount)?,
        Case::FirstByte => serial::first_byte(address, amount)?,
        Case::Hold { tunnels, stalled } => return serial::hold(address, *tunnels, *stalled),
        Case::Many { tunnels, spread } => {
            let stages = many::many(address, amount, *spread, tunnels)?;
            println!("{}", serde_json::to_string(&Stages { stages })?);
            return Ok(());
        }
        Case::Beside { idle, spread } => {
            let stages = beside::beside(address, amount, *spread, *idle)?;
            println!("{}", serde_json::to_string(&Stages { stages })?);
            return Ok(());
        }
    };
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}
