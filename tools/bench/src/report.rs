// SPDX-License-Identifier: GPL-2.0
//! The report: what the guests measured becomes rows of figures, a table, and what they say against the last result.

mod stages;

use crate::{chart, meter::Window};
use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

/// The peers in the order they are shown in.
pub const PEERS: [&str; 6] = [
    "direct",
    "nginx",
    "haproxy",
    "haproxy-splice",
    "sockmap",
    "squall",
];
/// Nanoseconds of an instruction, where time is counted in them.
const INSTRUCTION_NS: f64 = 2.0;
/// Differences that say something, as fractions: of instructions, of memory and latency, and of what another process's work changes.
const COUNTED: f64 = 0.03;
const HELD: f64 = 0.05;
const NOISY: f64 = 0.5;
/// Bytes of the messages between which the cost of a byte is the slope.
const SLOPE: (f64, f64) = (64.0, 16384.0);

#[derive(Args)]
pub struct Arguments {
    /// What guest.py printed, one file per boot.
    #[arg(required = true)]
    raw: Vec<PathBuf>,
    /// A JSON object of names and values that say what was measured.
    #[arg(long)]
    about: PathBuf,
    /// The result to compare with, if it is there.
    #[arg(long)]
    last: PathBuf,
    /// Where result.json, table.md and chart.svg go.
    #[arg(long)]
    out: PathBuf,
    /// What was not measured is taken from the result to compare with.
    #[arg(long)]
    partial: bool,
}

/// A line of guest.py.
#[derive(Deserialize)]
struct Line {
    peer: String,
    #[serde(default)]
    boot: String,
    case: String,
    error: Option<String>,
    #[serde(default)]
    windows: Vec<Window>,
    median_ns: Option<u64>,
    memory: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    slabs: BTreeMap<String, f64>,
    version: Option<String>,
    contended: Option<f64>,
    segments: Option<f64>,
    p99_ns: Option<u64>,
    max_ns: Option<u64>,
    ns: Option<u64>,
    messages: Option<u64>,
    bytes: Option<u64>,
    resets: Option<u64>,
    /// In percent, by what is shared; each processor's.
    #[serde(default)]
    shares: BTreeMap<String, Vec<f64>>,
}

/// One figure of every peer.
#[derive(Serialize, Deserialize)]
pub struct Row {
    /// What it is, with its unit.
    pub name: String,
    /// By peer.
    pub values: BTreeMap<String, f64>,
}

/// Rows that are measured alike.
#[derive(Serialize, Deserialize)]
pub struct Section {
    /// The heading.
    pub name: String,
    /// Whether more is better.
    pub more_is_better: bool,
    /// The fraction by which figures differ from run to run without a reason.
    pub noise: f64,
    /// The rows.
    pub rows: Vec<Row>,
}

/// All that is kept of a run.
#[derive(Serialize, Deserialize)]
pub struct Outcome {
    /// Versions, date, time it took.
    pub about: BTreeMap<String, String>,
    /// The figures.
    pub sections: Vec<Section>,
    /// Slab caches that grow with the tunnels: bytes per tunnel, by case and peer.
    pub slabs: BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>,
    /// By how much a window differs from the median of its case at most, as a fraction, and where.
    pub spread: (f64, String),
    /// Cases that failed.
    pub errors: Vec<String>,
}

/// What was measured, by case and peer.
struct Measured {
    lines: Vec<Line>,
}

impl Measured {
    fn line(&self, boot: &str, peer: &str, case: &str) -> Option<&Line> {
        self.lines.iter().find(|line| {
            line.boot == boot && line.peer == peer && line.case == case && line.error.is_none()
        })
    }

    /// The median, over the windows, of what `cost` makes of one.
    fn median(
        &self,
        boot: &str,
        peer: &str,
        case: &str,
        cost: impl Fn(&Window) -> f64,
    ) -> Option<f64> {
        let mut costs: Vec<f64> = self
            .line(boot, peer, case)?
            .windows
            .iter()
            .map(cost)
            .collect();
        costs.sort_by(f64::total_cmp);
        costs.get(costs.len() / 2).copied()
    }

    /// Busy nanoseconds per operation.
    fn busy(&self, boot: &str, peer: &str, case: &str) -> Option<f64> {
        self.median(boot, peer, case, Window::busy)
    }

    /// Instructions per operation: what the peer adds to the direct way of its own boot; of the direct way, all.
    fn added(&self, peer: &str, case: &str) -> Option<f64> {
        let all = self.busy(peer, peer, case)?;
        let direct = if peer == "direct" {
            0.0
        } else {
            self.busy(peer, "direct", case)?
        };
        Some((all - direct) / INSTRUCTION_NS)
    }

    /// Operations per second.
    fn rate(&self, boot: &str, peer: &str, case: &str) -> Option<f64> {
        self.median(boot, peer, case, |window| {
            window.ops as f64 * 1e9 / window.ns as f64
        })
    }

    fn memory(&self, peer: &str, case: &str, what: &str) -> Option<f64> {
        let of = |peer| {
            self.line(peer, peer, case)?
                .memory
                .as_ref()?
                .get(what)
                .copied()
        };
        Some(of(peer)? - if peer == "direct" { 0.0 } else { of("direct")? })
    }
}

fn row(name: &str, value: impl Fn(&str) -> Option<f64>) -> Row {
    let values = PEERS
        .iter()
        .filter_map(|peer| Some(((*peer).to_owned(), value(peer)?)))
        .collect();
    Row {
        name: name.to_owned(),
        values,
    }
}

const ROUND_TRIPS: [(&str, &str); 5] = [
    ("round trip of 64 B, 1 tunnel", "rtt 1 x 64"),
    ("round trip of 64 B, 16 tunnels", "rtt 16 x 64"),
    ("round trip of 64 B, 128 tunnels", "rtt 128 x 64"),
    ("round trip of 1 KiB, 16 tunnels", "rtt 16 x 1024"),
    ("round trip of 16 KiB, 16 tunnels", "rtt 16 x 16384"),
];
const REQUESTS: [(&str, &str); 3] = [
    ("upgrade, tunnel opened and closed", "upgrades"),
    ("GET of 1 KiB, kept alive", "gets"),
    ("GET of 1 KiB, a connection each", "gets close"),
];

fn sections(measured: &Measured) -> Vec<Section> {
    let section = |name: &str, more_is_better, noise, rows| Section {
        name: name.to_owned(),
        more_is_better,
        noise,
        rows,
    };
    let mut added: Vec<Row> = ROUND_TRIPS
        .iter()
        .map(|(name, case)| row(name, |peer| measured.added(peer, case)))
        .collect();
    added.push(row("one message of 64 B, 16 tunnels", |peer| {
        Some(measured.added(peer, "rtt 16 x 64")? / 2.0)
    }));
    added.push(row(
        "one byte of a message, slope from 64 B to 16 KiB",
        |peer| {
            let (small, large) = (
                measured.added(peer, "rtt 16 x 64")?,
                measured.added(peer, "rtt 16 x 16384")?,
            );
            Some((large - small) / (SLOPE.1 - SLOPE.0) / 2.0)
        },
    ));
    for (name, case) in [
        ("one byte in bulk, to the client", "bulk down"),
        ("one byte in bulk, to the server", "bulk up"),
    ] {
        added.push(row(name, |peer| Some(measured.added(peer, case)? / 1024.0)));
    }
    added.extend(
        REQUESTS
            .iter()
            .map(|(name, case)| row(name, |peer| measured.added(peer, case))),
    );

    let mut rates: Vec<Row> = ROUND_TRIPS
        .iter()
        .map(|(name, case)| row(name, |peer| measured.rate(peer, peer, case)))
        .collect();
    for (name, case) in [
        ("bulk to the client, MB/s", "bulk down"),
        ("bulk to the server, MB/s", "bulk up"),
    ] {
        rates.push(row(name, |peer| {
            Some(measured.rate(peer, peer, case)? * 1024.0 / 1e6)
        }));
    }
    rates.extend(
        REQUESTS
            .iter()
            .map(|(name, case)| row(name, |peer| measured.rate(peer, peer, case))),
    );

    let first = row("first byte of a 101, from connect on, µs", |peer| {
        Some(measured.line(peer, peer, "first byte")?.median_ns? as f64 / 1000.0)
    });

    let mut memory = Vec::new();
    for (name, case) in [
        ("idle tunnel of 10,000", "idle tunnels"),
        ("stalled tunnel of 32", "stalled tunnels"),
    ] {
        for (what, key) in [
            ("kernel", "kernel"),
            ("slabs among it", "slab"),
            ("user space", "user"),
        ] {
            memory.push(row(&format!("{name}: {what}"), |peer| {
                measured.memory(peer, case, key)
            }));
        }
    }
    let mut scaling = Vec::new();
    for (name, case) in &ROUND_TRIPS[1..3] {
        for processors in [1, 2] {
            let case = format!("{case} on {processors}");
            let name = format!("{name}, on {processors} of 2 processors");
            scaling.push(row(&name, |peer| measured.rate("", peer, &case)));
        }
    }
    let contended = row("time spent waiting for spinlocks, 128 tunnels, %", |peer| {
        measured.line("", peer, "contended")?.contended
    });
    let added_heading = "Instructions of the whole system, added to the direct way (direct: all)";
    let memory_heading = "Memory per tunnel, bytes, added to the direct way (direct: all)";
    for processors in stages::BALANCED {
        for (name, kind) in stages::BALANCES {
            let case = format!("balance {processors} {kind}");
            let name = format!("round trip of 64 B, 128 tunnels, {processors} processors, {name}");
            scaling.push(row(&name, |peer| measured.rate("", peer, &case)));
        }
    }
    let mut sections = vec![
        section(added_heading, false, COUNTED, added),
        section(
            "Per second, at 500 million instructions per second",
            true,
            COUNTED,
            rates,
        ),
        section("Latency", false, HELD, vec![first]),
        section(memory_heading, false, HELD, memory),
    ];
    sections.extend(stages::sections(measured));
    sections.extend([
        section(
            "Per second by the clock of this machine (noisy)",
            true,
            NOISY,
            scaling,
        ),
        section(
            "Contention on two processors (noisy)",
            false,
            NOISY,
            vec![contended],
        ),
        stages::balance(measured),
    ]);
    sections
}

fn spread(measured: &Measured) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for line in measured.lines.iter().filter(|line| !line.boot.is_empty()) {
        let Some(median) = measured.busy(&line.boot, &line.peer, &line.case) else {
            continue;
        };
        for window in &line.windows {
            let deviation = (window.busy() / median - 1.0).abs();
            if deviation > worst.0 {
                worst = (deviation, format!("{}, {}", line.peer, line.case));
            }
        }
    }
    worst
}

/// A figure with three digits that count, and thousands apart.
pub fn figure(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.*}", if value.abs() < 10.0 { 2 } else { 1 });
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The figures as a table that reads well as it is and as Markdown.
fn table(outcome: &Outcome) -> Result<String> {
    let mut text = String::new();
    for section in &outcome.sections {
        let width = section
            .rows
            .iter()
            .map(|row| row.name.chars().count())
            .max()
            .unwrap_or(0);
        write!(text, "\n{}\n\n| {:width$} |", section.name, "")?;
        for peer in PEERS {
            write!(text, " {peer:>14} |")?;
        }
        writeln!(
            text,
            "\n|{}|{}",
            "-".repeat(width + 2),
            format!("{}:|", "-".repeat(15)).repeat(PEERS.len())
        )?;
        for row in &section.rows {
            write!(text, "| {:width$} |", row.name)?;
            for peer in PEERS {
                write!(
                    text,
                    " {:>14} |",
                    row.values
                        .get(peer)
                        .map_or_else(|| "–".to_owned(), |value| figure(*value))
                )?;
            }
            text.push('\n');
        }
    }
    writeln!(
        text,
        "\nA window differs from the median of its case by {:.1} % at most ({}).",
        outcome.spread.0 * 100.0,
        outcome.spread.1
    )?;
    for (name, value) in &outcome.about {
        writeln!(text, "- {name}: {value}")?;
    }
    Ok(text)
}

/// What got better or worse.
fn comparison(now: &Outcome, last: &Outcome) -> Result<String> {
    let mut text = String::new();
    for section in &now.sections {
        let old = |name: &str, peer: &str| {
            let section = last.sections.iter().find(|old| old.name == section.name)?;
            section
                .rows
                .iter()
                .find(|row| row.name == name)?
                .values
                .get(peer)
                .copied()
        };
        for row in &section.rows {
            for (peer, value) in &row.values {
                let Some(old) = old(&row.name, peer).filter(|old| *old != 0.0) else {
                    continue;
                };
                let change = (value - old) / old.abs();
                if change.abs() <= section.noise {
                    continue;
                }
                let verdict = if (change > 0.0) == section.more_is_better {
                    "better"
                } else {
                    "WORSE"
                };
                let noisy = if section.noise < NOISY {
                    ""
                } else {
                    " (noisy)"
                };
                let (old, new) = (figure(old), figure(*value));
                writeln!(
                    text,
                    "{verdict:6} {peer}: {}: {old} → {new} ({:+.1} %){noisy}",
                    row.name,
                    change * 100.0
                )?;
            }
        }
    }
    if text.is_empty() {
        text.push_str("nothing got better or worse\n");
    }
    Ok(text)
}

/// Adds what was not measured from an earlier outcome.
fn complete(outcome: &mut Outcome, last: &Outcome) {
    for section in &mut outcome.sections {
        let Some(before) = last
            .sections
            .iter()
            .find(|other| other.name == section.name)
        else {
            continue;
        };
        for old in &before.rows {
            match section.rows.iter_mut().find(|row| row.name == old.name) {
                Some(row) => {
                    for (peer, value) in &old.values {
                        row.values.entry(peer.clone()).or_insert(*value);
                    }
                }
                None => section.rows.push(Row {
                    name: old.name.clone(),
                    values: old.values.clone(),
                }),
            }
        }
    }
    for (name, value) in &last.about {
        outcome.about.entry(name.clone()).or_insert(value.clone());
    }
    for (case, peers) in &last.slabs {
        let now = outcome.slabs.entry(case.clone()).or_default();
        for (peer, slabs) in peers {
            now.entry(peer.clone()).or_insert(slabs.clone());
        }
    }
}

/// Makes the report; fails if a case did.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut lines = Vec::new();
    for path in &arguments.raw {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        for line in text.lines() {
            lines.push(
                serde_json::from_str::<Line>(line)
                    .with_context(|| format!("{}: {line}", path.display()))?,
            );
        }
    }
    let measured = Measured { lines };
    let mut slabs: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
    for line in measured.lines.iter().filter(|line| !line.slabs.is_empty()) {
        slabs
            .entry(line.case.clone())
            .or_default()
            .insert(line.peer.clone(), line.slabs.clone());
    }
    let mut errors: Vec<String> = Vec::new();
    for line in &measured.lines {
        if let Some(error) = &line.error {
            errors.push(format!("{} ({}): {error}", line.peer, line.case));
        }
    }
    let mut about: BTreeMap<String, String> =
        serde_json::from_str(&fs::read_to_string(&arguments.about)?)?;
    about.extend(
        measured
            .lines
            .iter()
            .filter_map(|line| Some((line.peer.clone(), line.version.clone()?))),
    );
    let last: Option<Outcome> = match fs::read_to_string(&arguments.last) {
        Ok(text) => Some(
            serde_json::from_str(&text).with_context(|| arguments.last.display().to_string())?,
        ),
        Err(_) => None,
    };
    let mut outcome = Outcome {
        about,
        sections: sections(&measured),
        slabs,
        spread: spread(&measured),
        errors,
    };
    if let (true, Some(last)) = (arguments.partial, &last) {
        complete(&mut outcome, last);
    }
    let outcome = outcome;
    let table = table(&outcome)?;
    fs::write(
        arguments.out.join("result.json"),
        serde_json::to_string_pretty(&outcome)? + "\n",
    )?;
    fs::write(arguments.out.join("table.md"), &table)?;
    fs::write(arguments.out.join("chart.svg"), chart::draw(&outcome)?)?;
    println!("{table}");
    if let Some(last) = &last {
        println!(
            "Against {}:\n{}",
            last.about
                .get("date")
                .map_or("the last result", String::as_str),
            comparison(&outcome, last)?
        );
    }
    for error in &outcome.errors {
        eprintln!("failed: {error}");
    }
    anyhow::ensure!(
        outcome.errors.is_empty(),
        "{} cases failed",
        outcome.errors.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(value: f64, more_is_better: bool) -> Outcome {
        let rows = vec![row("a", |peer| (peer == "squall").then_some(value))];
        let section = Section {
            name: "s".to_owned(),
            more_is_better,
            noise: COUNTED,
            rows,
        };
        Outcome {
            about: BTreeMap::new(),
            sections: vec![section],
            slabs: BTreeMap::new(),
            spread: (0.0, String::new()),
            errors: vec![],
        }
    }

    #[test]
    fn figures_read_well() {
        let texts = [0.0, 3.254, 31.4, 314.0, 1234.0, 1_234_567.0, -1234.0].map(figure);
        assert_eq!(
            texts,
            [
                "0.00",
                "3.25",
                "31.4",
                "314",
                "1,234",
                "1,234,567",
                "-1,234"
            ]
        );
    }

    #[test]
    fn comparison_tells_better_from_worse() {
        let compare = |more| comparison(&outcome(110.0, more), &outcome(100.0, more)).unwrap();
        assert!(compare(true).starts_with("better squall: a: 100 → 110 (+10.0 %)"));
        assert!(compare(false).starts_with("WORSE"));
        assert_eq!(
            comparison(&outcome(101.0, true), &outcome(100.0, true)).unwrap(),
            "nothing got better or worse\n"
        );
    }
}
