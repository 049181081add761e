// SPDX-License-Identifier: GPL-2.0
//! The chart: a panel of bars for each of the figures that say most, in SVG.

use crate::report::{figure, Outcome, Row, PEERS};
use anyhow::Result;
use std::fmt::Write as _;

const COLOURS: [&str; 6] = [
    "#999999", "#4e9a51", "#3b6ea5", "#7fa8d1", "#c9a227", "#c0392b",
];
const PANEL: (f64, f64) = (430.0, 150.0);
const LABEL: f64 = 100.0;
const VALUE: f64 = 70.0;
const BAR: f64 = 18.0;
const COLUMNS: usize = 2;
const TOP: f64 = 40.0;

/// Rows that are shown: the number of the section, and the start of the name.
const SHOWN: [(usize, &str); 8] = [
    (0, "round trip of 64 B, 1 tunnel"),
    (0, "round trip of 64 B, 16 tunnels"),
    (0, "round trip of 1 KiB"),
    (0, "round trip of 16 KiB"),
    (0, "GET of 1 KiB, kept alive"),
    (0, "upgrade"),
    (3, "idle tunnel of 10,000: kernel"),
    (3, "idle tunnel of 10,000: user space"),
];

fn panel(svg: &mut String, row: &Row, unit: &str, x: f64, y: f64) -> Result<()> {
    writeln!(
        svg,
        r#"<text x="{x}" y="{}" font-weight="bold">{}</text>"#,
        y + 14.0,
        row.name
    )?;
    writeln!(
        svg,
        r##"<text x="{x}" y="{}" fill="#666666">{unit}</text>"##,
        y + 28.0
    )?;
    // What the peers add is compared; the direct way is the ground they stand on.
    let shown = PEERS
        .iter()
        .zip(COLOURS)
        .skip(1)
        .filter_map(|(peer, colour)| Some((peer, colour, *row.values.get(*peer)?)));
    let largest = shown
        .clone()
        .map(|(_, _, value)| value)
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    for (number, (peer, colour, value)) in shown.enumerate() {
        let top = y + 36.0 + number as f64 * (BAR + 3.0);
        let width = (value.max(0.0) / largest * (PANEL.0 - LABEL - VALUE - 20.0)).max(1.0);
        let middle = top + BAR - 5.0;
        writeln!(
            svg,
            r#"<text x="{}" y="{middle}" text-anchor="end">{peer}</text>"#,
            x + LABEL - 6.0
        )?;
        writeln!(
            svg,
            r#"<rect x="{}" y="{top}" width="{width:.1}" height="{BAR}" fill="{colour}"/>"#,
            x + LABEL
        )?;
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{middle}">{}</text>"#,
            x + LABEL + width + 5.0,
            figure(value)
        )?;
    }
    Ok(())
}

/// Draws the chart.
pub fn draw(outcome: &Outcome) -> Result<String> {
    let (width, height) = (
        PANEL.0 * COLUMNS as f64 + 20.0,
        TOP + PANEL.1 * SHOWN.len().div_ceil(COLUMNS) as f64 + 10.0,
    );
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}""#
    )?;
    writeln!(svg, r#"    font-family="sans-serif" font-size="12">"#)?;
    writeln!(
        svg,
        r##"<rect width="{width}" height="{height}" fill="#ffffff"/>"##
    )?;
    writeln!(
        svg,
        r#"<text x="10" y="24" font-size="15" font-weight="bold">What a proxy adds to the direct way; less is better</text>"#
    )?;
    for (number, (section, name)) in SHOWN.iter().enumerate() {
        let row = outcome
            .sections
            .get(*section)
            .and_then(|section| section.rows.iter().find(|row| row.name.starts_with(name)));
        let unit = if *section == 0 {
            "instructions of the whole system"
        } else {
            "bytes per tunnel"
        };
        let (x, y) = (
            (number % COLUMNS) as f64 * PANEL.0 + 10.0,
            (number / COLUMNS) as f64 * PANEL.1 + TOP,
        );
        if let Some(row) = row {
            panel(&mut svg, row, unit, x, y)?;
        }
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}
