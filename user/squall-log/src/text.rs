// SPDX-License-Identifier: GPL-2.0
//! A record as a line of text: as far as `status` and bytes in the order of the combined log format, then by names.

use crate::record::{Kind, Record, Text};
use jiff::Timestamp;
use std::fmt;

/// A record that is printed as a line, without its end.
pub struct Line<'a>(pub &'a Record);

fn or_dash<T: fmt::Display>(f: &mut fmt::Formatter<'_>, value: &Option<T>) -> fmt::Result {
    match value {
        Some(value) => write!(f, "{value}"),
        None => f.write_str("-"),
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        or_dash(f, &record.client)?;
        let time =
            Timestamp::from_nanosecond(record.time_ns.into()).unwrap_or(Timestamp::UNIX_EPOCH);
        write!(f, " - - [{}] \"", time.strftime("%d/%b/%Y:%H:%M:%S +0000"))?;
        or_dash(f, &record.method)?;
        f.write_str(" ")?;
        or_dash(f, &record.target)?;
        write!(f, "\" {} {}", record.status, record.bytes_out)?;
        let kind = match record.kind {
            Kind::Request => "request",
            Kind::Tunnel => "tunnel",
        };
        write!(f, " {kind} in={}", record.bytes_in)?;
        if let (Some(received), Some(sent)) = (record.frames_in, record.frames_out) {
            write!(f, " frames={received}/{sent}")?;
        }
        let ms = record.duration_us as f64 / 1000.0;
        write!(f, " ms={ms:.3} host=")?;
        or_dash(f, &record.host)?;
        let route = record
            .route
            .as_ref()
            .map_or("-".to_owned(), Text::to_string);
        write!(f, " via={}/{route} server=", record.listener)?;
        or_dash(f, &record.server)?;
        write!(f, " end={}/{}", record.closed_by, record.reason)?;
        if record.truncated {
            f.write_str(" truncated")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{decode, tests::whole};

    #[test]
    fn a_line_has_everything() {
        let record = decode(2, &whole()).unwrap().unwrap();
        assert_eq!(
            Line(&record).to_string(),
            "192.0.2.7:40754 - - [24/Nov/2026:21:20:53 +0000] \"GET /a\\\"b\\xff\\n\" 101 2 tunnel in=1 frames=3/4 ms=5.502 \
             host=example.test via=web/all server=[2001:db8::1]:9000 end=client/client-idle truncated"
        );
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let line = Line(&Record::default()).to_string();
        assert!(
            line.starts_with(
                "- - - [01/Jan/1970:00:00:00 +0000] \"- -\" 0 0 request in=0 ms=0.000 host=-"
            ),
            "{line}"
        );
    }
}
