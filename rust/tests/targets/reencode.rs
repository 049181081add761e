// SPDX-License-Identifier: GPL-2.0

//! What is forwarded means what was received: the oracle reads both.

use std::fmt::Debug;

use squall::proto::head::Limits;
use squall::vectors::Arrival;

use super::{
    describe,
    outcome,
    read,
    Input,
    Outcome,
    Read, //
};
use crate::oracle::body::Body;
use crate::oracle::grammar::{
    values,
    Field, //
};
use crate::oracle::request::Request;
use crate::oracle::response::{
    Kind,
    Response, //
};
use crate::oracle::{
    is_one_of,
    passed_on, //
};

/// Most bytes and fields in a forwarded head that the parser can take.
const LARGEST: Limits = Limits {
    head: u16::MAX,
    start_line: u16::MAX,
    field_line: u16::MAX,
    fields: 96,
};

/// More fields than this gateway adds to a head.
const ADDED: usize = 8;

/// What is written reads as what was read, to the parser as to the oracle.
pub fn reencode(input: &Input) {
    let Some(first) = outcome(&input.case(), Arrival::Whole) else {
        return;
    };
    match read(input, &first) {
        Read::Nothing => assert!(first.out.is_empty(), "written for a request refused"),
        Read::Requests(received) => {
            let most = received.messages.iter().map(|(it, _)| it.fields.len());
            if most.max().unwrap_or(0) + ADDED > usize::from(LARGEST.fields) {
                return;
            }
            let (again, second) = forwarded(input, &first, false);
            let Read::Requests(sent) = read(&again, &second) else {
                panic!("these are requests");
            };
            let check = Check { input, first };
            check.same("number", sent.messages.len(), received.messages.len());
            for (sent, received) in sent.messages.iter().zip(&received.messages) {
                check.request(&sent.0, &received.0);
                check.body(&sent.1, &received.1, received.0.framing == sent.0.framing);
            }
        }
        Read::Responses(asked, mut received) => {
            let most = received.messages.iter().map(|(it, _)| it.fields.len());
            if most.max().unwrap_or(0) + ADDED > usize::from(LARGEST.fields) {
                return;
            }
            // The connection to the client is closed where the body ends that way.
            let (again, second) = forwarded(input, &first, received.stop.is_none());
            let Read::Responses(_, sent) = read(&again, &second) else {
                panic!("these are responses");
            };
            if asked.minor == 0 {
                received
                    .messages
                    .retain(|(response, _)| response.kind != Kind::Interim);
            }
            let check = Check { input, first };
            check.same("number", sent.messages.len(), received.messages.len());
            for (sent, received) in sent.messages.iter().zip(&received.messages) {
                check.response(&sent.0, &received.0, &asked);
                check.body(&sent.1, &received.1, received.0.framing == sent.0.framing);
            }
        }
    }
}

/// Runs what was forwarded as the next hop would.
fn forwarded(input: &Input, first: &Outcome, close: bool) -> (Input, Outcome) {
    let again = Input {
        raw: first.out.clone(),
        limits: LARGEST,
        close,
        ..input.clone()
    };
    let second = outcome(&again.case(), Arrival::Whole).expect("complete as it was before");
    (again, second)
}

/// Compares messages sent with those received.
struct Check<'a> {
    input: &'a Input,
    first: Outcome,
}

impl Check<'_> {
    fn same<T: PartialEq + Debug>(&self, what: &str, sent: T, received: T) {
        assert!(
            sent == received,
            "{what} differs\nsent: {sent:?}\nreceived: {received:?}\n{}\n---\n{}",
            describe(self.input),
            self.first.out.escape_ascii()
        );
    }

    fn request(&self, sent: &Request, received: &Request) {
        let client = b"192.0.2.7".to_vec();
        self.same("method", &sent.method, &received.method);
        self.same("target", &sent.target, &received.target);
        self.same("framing", sent.framing, received.framing);
        self.same("expectation", sent.expect, received.expect);
        self.same("offer", &sent.offer, &received.offer);
        self.same("version", sent.minor, 1);
        let keeps = !self.input.last || received.offer.is_some();
        self.same("persistence", sent.keep_alive, keeps);
        let host = received.host.clone();
        let default = b"10.0.0.2:9000".to_vec();
        let value = |name| values(&sent.fields, name);
        self.same(
            "host",
            sent.host.clone(),
            Some(host.clone().unwrap_or(default)),
        );
        self.same("client", value("x-forwarded-for"), vec![client]);
        self.same("scheme", value("x-forwarded-proto"), vec![b"http".to_vec()]);
        let host: Vec<Vec<u8>> = host.into_iter().collect();
        self.same("host forwarded", value("x-forwarded-host"), host);
        self.fields(&sent.forwarded, &received.forwarded, Some(received.minor));
        self.nothing_else(
            &sent.fields,
            &sent.forwarded,
            crate::oracle::request::WRITTEN,
        );
    }

    fn response(&self, sent: &Response, received: &Response, asked: &Request) {
        self.same("status", sent.status, received.status);
        self.same("reason", &sent.reason, &received.reason);
        self.same("kind", sent.kind, received.kind);
        self.same("framing", sent.framing, received.delivered(asked));
        self.same("length", sent.length, received.length);
        if sent.kind == Kind::Final {
            let until_close = sent.framing == crate::oracle::body::Framing::UntilClose;
            let keeps = asked.keep_alive && !self.input.last && !until_close;
            self.same("persistence", sent.keep_alive, keeps);
            let options = values(&sent.fields, "connection");
            let said = options.iter().any(|it| it == b"keep-alive");
            self.same("keep-alive", said, keeps && asked.minor == 0);
        }
        let via = match sent.kind {
            Kind::Interim => None,
            _ => Some(received.minor),
        };
        self.fields(&sent.forwarded, &received.forwarded, via);
        self.nothing_else(&sent.fields, &sent.forwarded, &["content-length"]);
    }

    /// The fields are the same, but for a Via behind them.
    fn fields(&self, sent: &[Field], received: &[Field], minor: Option<u8>) {
        let mut expected = received.to_vec();
        if let Some(minor) = minor {
            expected.push((b"Via".to_vec(), format!("1.{minor} squall").into_bytes()));
        }
        self.same("a field", sent, &expected[..]);
    }

    /// Every field is copied, or one that this gateway writes, and that once.
    fn nothing_else(&self, all: &[Field], copied: &[Field], written: &[&str]) {
        let own = ["connection", "upgrade", "transfer-encoding"];
        let mut names: Vec<Vec<u8>> = all
            .iter()
            .filter(|field| !copied.contains(field))
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        let known = names
            .iter()
            .all(|name| is_one_of(name, &own) || is_one_of(name, written));
        let count = names.len();
        names.sort();
        names.dedup();
        self.same("fields of our own", (known, count), (true, names.len()));
    }

    /// The bodies are the same; where they are framed in the same way, so is what is missing of them, and
    /// the trailer sections.
    fn body(&self, sent: &Body, received: &Body, same_framing: bool) {
        if received.may_be_flood {
            // Then it may have been refused in the middle.
            let sent = &sent.content[..];
            self.same(
                "content",
                sent,
                received.content.get(..sent.len()).unwrap_or(b""),
            );
            return;
        }
        self.same("content", &sent.content, &received.content);
        if same_framing {
            self.same("what is missing", sent.missing, received.missing);
            // A section of which nothing is left is not sent.
            let expected = received
                .trailers
                .as_deref()
                .map(passed_on)
                .filter(|fields| !fields.is_empty());
            self.same("trailers", &sent.trailers, &expected);
        }
    }
}
