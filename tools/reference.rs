// SPDX-License-Identifier: GPL-2.0

//! Prints `Documentation/reference.md`, made of the tables that the module is made of. Run by `tools/reference`.

use squall::{
    attributes::{
        self,
        File,
        Kind, //
    },
    counters::{
        self,
        Counter, //
    },
    proto::Error,
    settings::{
        self,
        Row, //
    }, //
};

const HEAD: &str = "\
# Reference

`make reference` writes this file from the tables in `rust/settings.rs`, `rust/attributes.rs`, `rust/counters.rs` and
`rust/proto/error.rs`. Change those, not this file.

- [Sysctls](#sysctls)
- [Files of the configuration](#files-of-the-configuration)
- [Counters](#counters)
- [Protocol errors](#protocol-errors)

## Sysctls

A sysctl applies to all listeners. A new value takes effect the next time it is needed. Running timers keep their old
deadline until they are re-armed. A value outside the range is refused with `EINVAL`, and the kernel log names the value and the range.
";

const ROUTE: &str = "\
### Settings that a route may override

Each route has a file of the same name. The file takes a number in the same range, or `default` for the value of the sysctl.
";

const FILES: &str = "\
## Files of the configuration

A directory in `/sys/kernel/config/squall` is a listener, a route or a server, and a file in it is a property. A wrong value is
refused with an errno. The kernel log names the value and the reason, and the old configuration stays in force.
";

const COUNTERS: &str = "\
## Counters

A `stats` file has one `name value` per line. Counters of the module start when it is loaded, all others when their directory is
made. A value described with \"now\" goes up and down.
";

const ERRORS: &str = "\
## Protocol errors

`refused_requests` and `refused_responses` count how often clients and servers broke each rule. A client gets the status code of the
table. A response of a server that breaks a rule is replaced by a 502.
";

/// Joins the lines of a docstring to the text of a cell.
fn cell(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ").replace('|', "\\|")
}

fn sysctls(rows: &[Row]) {
    println!("| sysctl | default | range | unit | meaning |");
    println!("|---|---|---|---|---|");
    for row in rows {
        let (name, default, unit) = (row.name, row.default, row.unit);
        let (least, most) = row.range;
        let meaning = cell(row.meaning);
        println!("| `net.squall.{name}` | {default} | {least} to {most} | {unit} | {meaning} |");
    }
    println!();
}

fn file(directory: &str, file: &File) {
    let (default, range, mode) = match &file.kind {
        Kind::Text("") => ("empty".into(), "text".into(), "rw"),
        Kind::Text(default) => (format!("`{default}`"), "text".into(), "rw"),
        Kind::Switch(default) => (format!("`{default}`"), "0 or 1".into(), "rw"),
        Kind::Number(default, range) => (
            format!("`{default}`"),
            format!("{} to {}", range.start(), range.end()),
            "rw",
        ),
        Kind::Counters => (String::new(), "counters".into(), "ro"),
    };
    let (name, meaning) = (file.name, cell(file.meaning));
    println!("| `{directory}{name}` | {default} | {mode} | {range} | {meaning} |");
}

fn files() {
    println!("| file | default | mode | value | meaning |");
    println!("|---|---|---|---|---|");
    for row in attributes::ROOT {
        file("", row);
    }
    for row in attributes::LISTENER {
        file("<listener>/", row);
    }
    for row in attributes::ROUTE {
        file("<listener>/<route>/", row);
    }
    for row in settings::ROUTE {
        let (name, default, (least, most)) = (row.name, row.default, row.range);
        println!(
            "| `<listener>/<route>/{name}` | `default {default}` | rw | {least} to {most}, or `default` | Overrides `net.squall.{name}`. |"
        );
    }
    for row in attributes::SERVER {
        file("<listener>/<route>/<server>/", row);
    }
    println!();
}

fn counters<'a>(title: &str, rows: impl Iterator<Item = (&'a str, String)>) {
    println!("### Counters of {title}\n");
    println!("| name | meaning |");
    println!("|---|---|");
    for (name, meaning) in rows {
        println!("| `{name}` | {meaning} |");
    }
    println!();
}

fn own(rows: &'static [counters::Row]) -> impl Iterator<Item = (&'static str, String)> {
    rows.iter().map(|&(name, meaning)| (name, cell(&[meaning])))
}

fn main() {
    println!("{HEAD}");
    sysctls(settings::GLOBAL);
    println!("{ROUTE}");
    sysctls(settings::ROUTE);
    println!("{FILES}");
    files();
    println!("{COUNTERS}");
    let module = Counter::ALL
        .iter()
        .map(|counter| (counter.name(), cell(counter.meaning())));
    counters("the module", module.chain(own(counters::MODULE)));
    counters("a listener", own(counters::LISTENER));
    counters("a route", own(counters::ROUTE));
    counters("a server", own(counters::SERVER));
    println!("{ERRORS}");
    println!("| name | status | meaning |");
    println!("|---|---|---|");
    for error in Error::ALL {
        println!(
            "| `{}` | {} | {} |",
            error.name(),
            error.status(),
            cell(error.meaning())
        );
    }
}
