// SPDX-License-Identifier: GPL-2.0
//! The benchmark's program: an echo server, a load generator, a relay by BPF sockmap, and the report on what they measured.

mod chart;
mod conn;
mod floor;
mod http;
mod load;
mod meter;
mod report;
mod server;
mod ws;

use clap::{Parser, Subcommand};
use std::net::SocketAddr;

#[derive(Parser)]
#[command(about = "Measures WebSocket and HTTP proxies")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves WebSocket (/echo, /down, /up) and plain GETs; prints "ready" when it does.
    Server {
        /// Where to listen.
        address: SocketAddr,
        /// Threads, each with its own listening socket and epoll instance.
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Relays connections by a BPF sockmap: the first request in user space, all that follows in the kernel.
    Sockmap {
        /// Where to listen.
        address: SocketAddr,
        /// The server that connections are relayed to.
        server: SocketAddr,
    },
    /// Runs one case of load and prints one JSON object.
    Load(load::Arguments),
    /// Makes a table, a chart and a comparison of what was measured.
    Report(report::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Server { address, threads } => server::run(address, threads),
        Command::Sockmap { address, server } => floor::run(address, server),
        Command::Load(arguments) => load::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
    }
}
