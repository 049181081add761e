// SPDX-License-Identifier: GPL-2.0
//! Follows the access log of Squall and prints a line for each record.

mod channel;
mod record;
mod text;

use anyhow::{Context, Result};
use channel::{Channel, Event};
use clap::Parser;
use record::{Gaps, Kind};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::pipe,
};
use std::{
    io::{self, BufWriter, ErrorKind, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
};

#[derive(Parser)]
#[command(
    version,
    about = "Follows the access log of Squall: a line for each request and each tunnel that has come to its end",
    after_help = "Records that did not arrive are told of on stderr. Needs CAP_NET_ADMIN."
)]
struct Arguments {
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    /// Requests only.
    #[arg(long, conflicts_with = "tunnels")]
    requests: bool,
    /// Tunnels only.
    #[arg(long)]
    tunnels: bool,
    /// Bytes that may wait in the socket to be printed.
    #[arg(long, default_value_t = 32 << 20, value_name = "BYTES")]
    buffer: usize,
}

impl Arguments {
    fn wants(&self, kind: Kind) -> bool {
        match kind {
            Kind::Request => !self.tunnels,
            Kind::Tunnel => !self.requests,
        }
    }
}

/// Prints records until a signal comes, or the module goes.
fn follow(arguments: &Arguments) -> Result<()> {
    let (signalled, sender) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        pipe::register(signal, sender.try_clone()?)?;
    }
    let mut channel = Channel::open(arguments.buffer)?;
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut gaps = Gaps::default();
    loop {
        let Some(events) = channel.take()? else {
            out.flush()?;
            if !channel.wait(&signalled)? {
                return Ok(());
            }
            continue;
        };
        for event in events {
            let record = match event {
                Event::Record(record) => record,
                Event::Gone => {
                    out.flush()?;
                    anyhow::bail!("the module was unloaded");
                }
            };
            let lost = gaps.before(&record);
            if lost > 0 {
                out.flush()?;
                eprintln!("squall-log: {lost} records lost");
            }
            if !arguments.wants(record.kind) {
                continue;
            }
            if arguments.json {
                serde_json::to_writer(&mut out, &record).context("cannot print")?;
                out.write_all(b"\n")?;
            } else {
                writeln!(out, "{}", text::Line(&record))?;
            }
        }
    }
}

/// Says whether the error is that nobody reads what is printed any more.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(ErrorKind::BrokenPipe)
    })
}

fn main() -> ExitCode {
    match follow(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("squall-log: {error:#}");
            ExitCode::FAILURE
        }
    }
}
