// SPDX-License-Identifier: GPL-2.0
//! The sections of cases that are measured in stages: many tunnels, bad neighbours, and the balance over processors.

use super::{figure, row, Line, Measured, Row, Section, COUNTED, INSTRUCTION_NS, NOISY};

/// Numbers of open tunnels that are measured.
const MANY: [usize; 6] = [1, 16, 128, 1000, 10000, 50000];
/// From here on enough tunnels are opened for what one costs.
const OPENED: usize = 1000;
/// Neighbours by their names in guest.py's lines.
const NEIGHBOURS: [(&str, &str); 6] = [
    ("alone", "nobody"),
    ("beside one that sends at full speed", "fast"),
    ("beside one whose client does not read", "stalled"),
    ("beside connections that are reset", "resets"),
    ("beside 10,000 idle tunnels", "idle"),
    ("beside all of these", "all"),
];
/// Numbers of processors over which the balance is measured.
pub const BALANCED: [usize; 2] = [2, 4];
/// How they are used: as the report and as guest.py call it.
pub const BALANCES: [(&str, &str); 4] = [
    ("as it is", "plain"),
    ("RPS", "spread"),
    ("processes on one", "confined"),
    ("processes on one, RPS", "packets"),
];
/// Who has which share is shown, and not compared.
const NOT_COMPARED: f64 = 1e6;

/// The boot that a peer's figures are from: those of the direct way are Squall's, for everybody.
fn boot(peer: &str) -> &str {
    if peer == "direct" {
        "squall"
    } else {
        peer
    }
}

/// Instructions that a peer adds to the direct way; of the direct way, all.
fn added(measured: &Measured, peer: &str, case: &str) -> Option<f64> {
    let all = measured.busy(boot(peer), peer, case)?;
    let direct = if peer == "direct" {
        0.0
    } else {
        measured.busy(boot("direct"), "direct", case)?
    };
    Some((all - direct) / INSTRUCTION_NS)
}

fn tunnels(count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    let digits = if count < 100 {
        count.to_string()
    } else {
        figure(count as f64)
    };
    format!("{digits} tunnel{plural}")
}

fn many(measured: &Measured) -> (Vec<Row>, Vec<Row>) {
    let (mut costs, mut segments) = (Vec::new(), Vec::new());
    for (kind, how) in [("few", "in 16 of them"), ("all", "in all in turn")] {
        // With no more than are under way at a time there is no difference.
        for count in MANY.iter().filter(|count| kind == "few" || **count > 16) {
            let how = if *count > 16 {
                format!(", messages {how}")
            } else {
                String::new()
            };
            let (name, case) = (
                format!("{}{how}", tunnels(*count)),
                format!("many {count} {kind}"),
            );
            costs.push(row(&name, |peer| added(measured, peer, &case)));
            segments.push(row(&name, |peer| {
                measured.line(boot(peer), peer, &case)?.segments
            }));
        }
    }
    for pair in MANY.windows(2).filter(|pair| pair[1] >= OPENED) {
        let name = format!(
            "opening a tunnel, from {} to {}",
            figure(pair[0] as f64),
            figure(pair[1] as f64)
        );
        let case = format!("many {} opening", pair[1]);
        costs.push(row(&name, |peer| added(measured, peer, &case)));
    }
    (costs, segments)
}

fn beside(measured: &Measured) -> (Vec<Row>, Vec<Row>) {
    let micros = |value: Option<u64>| Some(value? as f64 / 1000.0);
    let (mut latency, mut work) = (Vec::new(), Vec::new());
    for (name, case) in NEIGHBOURS {
        let case = format!("beside {case}");
        let line = |peer: &str| measured.line(boot(peer), peer, &case);
        latency.push(row(&format!("{name}: median"), |peer| {
            micros(line(peer)?.median_ns)
        }));
        latency.push(row(&format!("{name}: 99th percentile"), |peer| {
            micros(line(peer)?.p99_ns)
        }));
        latency.push(row(&format!("{name}: slowest"), |peer| {
            micros(line(peer)?.max_ns)
        }));
        let rate = |line: &Line, count: Option<u64>, unit: f64| {
            let (count, ns) = (count.filter(|count| *count > 0)?, line.ns?);
            Some(count as f64 * 1e9 / ns as f64 / unit)
        };
        let fast = row(&format!("{name}: its MB/s"), |peer| {
            rate(line(peer)?, line(peer)?.bytes, 1e6)
        });
        let resets = row(&format!("{name}: resets per second"), |peer| {
            rate(line(peer)?, line(peer)?.resets, 1.0)
        });
        let messages = row(&format!("{name}: messages per second"), |peer| {
            rate(line(peer)?, line(peer)?.messages, 1.0)
        });
        work.extend(
            [messages, fast, resets]
                .into_iter()
                .filter(|row| !row.values.is_empty()),
        );
    }
    (latency, work)
}

/// What is counted in instructions: many tunnels, and bad neighbours.
pub fn sections(measured: &Measured) -> Vec<Section> {
    let section = |name: &str, more_is_better, noise, rows| Section {
        name: name.to_owned(),
        more_is_better,
        noise,
        rows,
    };
    let (costs, segments) = many(measured);
    let (latency, work) = beside(measured);
    vec![
        section(
            "Round trip of 64 B by number of open tunnels: instructions added to the direct way (direct: all)",
            false,
            COUNTED,
            costs,
        ),
        section(
            "Round trip of 64 B by number of open tunnels: TCP segments (all)",
            false,
            COUNTED,
            segments,
        ),
        section(
            "Latency of a message of 64 B beside bad neighbours, µs",
            false,
            NOISY,
            latency,
        ),
        section("What was done meanwhile", true, NOISY, work),
    ]
}

/// Which processors did the softirqs.
pub fn balance(measured: &Measured) -> Section {
    let mut rows = Vec::new();
    for processors in BALANCED {
        for (name, kind) in BALANCES {
            let case = format!("balance {processors} {kind}");
            for (what, key) in [
                ("NET_RX softirqs", "count"),
                ("packets received", "packets"),
                ("softirq time", "time"),
            ] {
                for number in 0..processors {
                    let name = format!("{what}, {name}, processor {} of {processors}", number + 1);
                    rows.push(row(&name, |peer| {
                        let shares = measured.line("", peer, &case)?.shares.get(key)?;
                        shares.get(number).copied()
                    }));
                }
            }
        }
    }
    Section {
        name: "Balance over processors: share of each, %".to_owned(),
        more_is_better: false,
        noise: NOT_COMPARED,
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(lines: &[&str]) -> Measured {
        let lines = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        Measured { lines }
    }

    fn value(section: &Section, name: &str, peer: &str) -> f64 {
        let row = section.rows.iter().find(|row| row.name == name);
        row.unwrap_or_else(|| panic!("no row {name}")).values[peer]
    }

    #[test]
    fn what_is_added_is_taken_from_the_direct_way_of_squalls_boot() {
        let sections = sections(&measured(&[
            r#"{"peer": "direct", "boot": "squall", "case": "many 1000 all", "windows": [{"ops": 10, "ns": 1000, "idle_ns": 0}]}"#,
            r#"{"peer": "nginx", "boot": "nginx", "case": "many 1000 all", "segments": 4.5,
                "windows": [{"ops": 10, "ns": 3000, "idle_ns": 0}]}"#,
        ]));
        let name = "1,000 tunnels, messages in all in turn";
        assert_eq!(value(&sections[0], name, "direct"), 50.0);
        assert_eq!(value(&sections[0], name, "nginx"), 100.0);
        assert_eq!(value(&sections[1], name, "nginx"), 4.5);
    }

    #[test]
    fn latency_and_what_the_neighbours_did() {
        let line = r#"{"peer": "squall", "boot": "squall", "case": "beside fast", "median_ns": 1500, "p99_ns": 2000, "max_ns": 9000,
            "ns": 1000000000, "messages": 1000, "bytes": 5000000, "resets": 0}"#;
        let sections = sections(&measured(&[line]));
        let name = "beside one that sends at full speed";
        assert_eq!(
            value(&sections[2], &format!("{name}: median"), "squall"),
            1.5
        );
        assert_eq!(
            value(&sections[3], &format!("{name}: its MB/s"), "squall"),
            5.0
        );
        assert_eq!(sections[3].rows.len(), 2);
    }

    #[test]
    fn shares_of_each_processor() {
        let line = r#"{"peer": "squall", "case": "balance 2 spread", "shares": {"count": [40.0, 60.0], "time": [50.0, 50.0]}}"#;
        let section = balance(&measured(&[line]));
        assert_eq!(
            value(&section, "NET_RX softirqs, RPS, processor 2 of 2", "squall"),
            60.0
        );
    }
}
