// SPDX-License-Identifier: GPL-2.0
//! Records, as `include/uapi/squall.h` defines them.

use anyhow::{anyhow, Context, Result};
use netlink_packet_core::NlasIterator;
use serde::{Serialize, Serializer};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

/// What a record is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Request,
    Tunnel,
}

/// Names of who ended something, by their numbers.
const BY: [&str; 4] = ["nobody", "client", "server", "proxy"];

/// Names of why something ended, by their numbers.
const WHY: [&str; 16] = [
    "done",
    "fin",
    "reset",
    "client-idle",
    "server-idle",
    "idle",
    "lifetime",
    "stalled",
    "drained",
    "rate",
    "memory",
    "frames",
    "unloaded",
    "protocol",
    "timeout",
    "unavailable",
];

/// A number that has a name, unless the module is newer than this program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    number: u8,
    names: &'static [&'static str],
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.names.get(usize::from(self.number)) {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.number),
        }
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes as a client sent them: what is not printable ASCII is escaped when they are printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One record.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Record {
    pub kind: Kind,
    /// Processor that made it.
    pub cpu: u32,
    /// Its number on that processor.
    pub seq: u64,
    /// When it ended, in nanoseconds since the epoch.
    pub time_ns: u64,
    pub duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    pub listener: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Text>,
    pub truncated: bool,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames_out: Option<u64>,
    pub closed_by: Named,
    pub reason: Named,
}

/// Takes a number of a fixed length.
fn number<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value
        .try_into()
        .with_context(|| format!("{} bytes instead of {N}", value.len()))
}

fn address(value: &[u8]) -> Result<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Ok(v4.into());
    }
    number::<16>(value).map(IpAddr::from)
}

/// Reads a message. `None`: one of a kind that is not known.
pub fn decode(command: u8, attributes: &[u8]) -> Result<Option<Record>> {
    let kind = match command {
        1 => Kind::Request,
        2 => Kind::Tunnel,
        _ => return Ok(None),
    };
    let mut record = Record {
        kind,
        ..Record::default()
    };
    let (mut client, mut server) = ((None, 0), (None, 0));
    for attribute in NlasIterator::new(attributes) {
        let attribute =
            attribute.map_err(|error| anyhow!("an attribute cannot be read: {error}"))?;
        let value = attribute.value();
        let text = || Text(value.to_vec());
        let u16 = || number(value).map(u16::from_ne_bytes);
        let u64 = || number(value).map(u64::from_ne_bytes);
        let named = |names| number(value).map(|[number]| Named { number, names });
        let mut read = || -> Result<()> {
            match attribute.kind() {
                1 => record.cpu = number(value).map(u32::from_ne_bytes)?,
                2 => record.seq = u64()?,
                3 => record.time_ns = u64()?,
                4 => record.duration_us = u64()?,
                5 => client.0 = Some(address(value)?),
                6 => client.1 = u16()?,
                7 => record.listener = text(),
                8 => record.route = Some(text()),
                9 => server.0 = Some(address(value)?),
                10 => server.1 = u16()?,
                11 => record.method = Some(text()),
                12 => record.target = Some(text()),
                13 => record.host = Some(text()),
                14 => record.truncated = true,
                15 => record.status = u16()?,
                16 => record.bytes_in = u64()?,
                17 => record.bytes_out = u64()?,
                18 => record.frames_in = Some(u64()?),
                19 => record.frames_out = Some(u64()?),
                20 => record.closed_by = named(&BY)?,
                21 => record.reason = named(&WHY)?,
                // Of a module that is newer than this program.
                _ => {}
            }
            Ok(())
        };
        read().with_context(|| format!("attribute {}", attribute.kind()))?;
    }
    let whole = |(addr, port): (Option<IpAddr>, u16)| addr.map(|addr| SocketAddr::new(addr, port));
    (record.client, record.server) = (whole(client), whole(server));
    Ok(Some(record))
}

/// Finds by their numbers how many records did not arrive.
#[derive(Default)]
pub struct Gaps {
    /// The number of the last record of each processor.
    last: HashMap<u32, u64>,
}

impl Gaps {
    /// Returns how many are missing between the last record of the same processor and this one.
    pub fn before(&mut self, record: &Record) -> u64 {
        match self.last.insert(record.cpu, record.seq) {
            Some(last) => record.seq.saturating_sub(last).saturating_sub(1),
            None => 0,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An attribute with its padding.
    pub fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), number.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A message with its headers.
    pub fn message(family: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(20 + attributes.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(family.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.extend([command, 1, 0, 0]);
        bytes.extend(attributes);
        bytes
    }

    /// A record with every attribute.
    pub fn whole() -> Vec<u8> {
        [
            attribute(1, &3u32.to_ne_bytes()),
            attribute(2, &12u64.to_ne_bytes()),
            attribute(3, &1_795_555_253_212_270_541u64.to_ne_bytes()),
            attribute(4, &5502u64.to_ne_bytes()),
            attribute(5, &[192, 0, 2, 7]),
            attribute(6, &40754u16.to_ne_bytes()),
            attribute(7, b"web"),
            attribute(8, b"all"),
            attribute(9, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            attribute(10, &9000u16.to_ne_bytes()),
            attribute(11, b"GET"),
            attribute(12, b"/a\"b\xff\n"),
            attribute(13, b"example.test"),
            attribute(14, b""),
            attribute(15, &101u16.to_ne_bytes()),
            attribute(16, &1u64.to_ne_bytes()),
            attribute(17, &2u64.to_ne_bytes()),
            attribute(18, &3u64.to_ne_bytes()),
            attribute(19, &4u64.to_ne_bytes()),
            attribute(20, &[1]),
            attribute(21, &[3]),
            attribute(999, b"of a newer module"),
        ]
        .concat()
    }

    #[test]
    fn every_attribute_is_read() {
        let record = decode(2, &whole()).unwrap().unwrap();
        let json = serde_json::to_value(&record).unwrap();
        let wanted = serde_json::json!({
            "kind": "tunnel", "cpu": 3, "seq": 12, "time_ns": 1_795_555_253_212_270_541u64, "duration_us": 5502,
            "client": "192.0.2.7:40754", "listener": "web", "route": "all", "server": "[2001:db8::1]:9000",
            "method": "GET", "target": "/a\\\"b\\xff\\n", "host": "example.test", "truncated": true, "status": 101,
            "bytes_in": 1, "bytes_out": 2, "frames_in": 3, "frames_out": 4, "closed_by": "client", "reason": "client-idle",
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn what_is_missing_or_new_is_no_error() {
        let bytes = [attribute(20, &[200]), attribute(21, &[201])].concat();
        let record = decode(1, &bytes).unwrap().unwrap();
        assert_eq!(
            (record.client, record.method.clone(), record.status),
            (None, None, 0)
        );
        assert_eq!(record.closed_by.to_string(), "200");
        assert_eq!(record.reason.to_string(), "201");
        assert_eq!(decode(3, &bytes).unwrap(), None);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        for (number, value) in [
            (1, &b"12345"[..]),
            (2, b"1"),
            (5, b"12345"),
            (6, b"1"),
            (15, b""),
            (20, b"12"),
        ] {
            assert!(
                decode(1, &attribute(number, value)).is_err(),
                "attribute {number}"
            );
        }
        assert!(decode(1, &[200, 0, 1, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn gaps_are_counted_for_each_processor() {
        let mut gaps = Gaps::default();
        let mut before = |cpu, seq| {
            gaps.before(&Record {
                cpu,
                seq,
                ..Record::default()
            })
        };
        assert_eq!(before(0, 10), 0);
        assert_eq!(before(1, 500), 0);
        assert_eq!(before(0, 11), 0);
        assert_eq!(before(0, 15), 3);
        assert_eq!(before(1, 502), 1);
    }

    /// The names of an enumeration of the header in the order of their values.
    fn enumeration(prefix: &str) -> Vec<String> {
        let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include/uapi/squall.h");
        let text = std::fs::read_to_string(header).unwrap();
        text.lines()
            .filter_map(|line| {
                line.strip_prefix('\t')?
                    .strip_prefix(prefix)?
                    .split(',')
                    .next()
            })
            .map(|name| {
                name.split(' ')
                    .next()
                    .unwrap()
                    .to_lowercase()
                    .replace('_', "-")
            })
            .collect()
    }

    #[test]
    fn names_and_numbers_are_those_of_the_header() {
        assert_eq!(enumeration("SQUALL_BY_"), BY);
        assert_eq!(enumeration("SQUALL_WHY_"), WHY);
        assert_eq!(enumeration("SQUALL_CMD_"), ["unspec", "request", "tunnel"]);
        let attributes = [
            "unspec",
            "cpu",
            "seq",
            "time",
            "duration",
            "client-addr",
            "client-port",
            "listener",
            "route",
            "server-addr",
            "server-port",
            "method",
            "target",
            "host",
            "truncated",
            "status",
            "bytes-in",
            "bytes-out",
            "frames-in",
            "frames-out",
            "closed-by",
            "reason",
            "max",
        ];
        assert_eq!(enumeration("SQUALL_A_"), attributes);
    }
}
