// SPDX-License-Identifier: GPL-2.0

//! What is forwarded means what was received: the oracle reads both.

use std::fmt::Debug;

use squall::proto::h1::encode::Date;
use squall::proto::head::Limits;
use squall::replay::{
    AllLimits,
    DATE, //
};
use squall::vectors::Arrival;

use super::{
    describe,
    limits,
    outcome,
    read,
    Input,
    Outcome,
    Read, //
};
use crate::oracle::body::{
    split_unquoted,
    Body, //
};
use crate::oracle::grammar::{
    values,
    Field, //
};
use crate::oracle::request::{
    Reader,
    Request,
    WRITTEN, //
};
use crate::oracle::response::{
    Kind,
    Response, //
};
use crate::oracle::{
    is_one_of,
    passed_on,
    requests, //
};

/// Most bytes and fields that the parser can take in what was forwarded.
const LARGEST: AllLimits = AllLimits {
    head: HEAD,
    trailers: HEAD,
    ..AllLimits::DEFAULT
};

const HEAD: Limits = Limits {
    head: u16::MAX,
    start_line: u16::MAX,
    field_line: u16::MAX,
    fields: 256,
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
            if most.max().unwrap_or(0) + ADDED > usize::from(HEAD.fields) {
                return;
            }
            let (again, second) = forwarded(input, &first, false);
            read(&again, &second);
            // Another gateway would not forward everything that a server answers.
            let sent = requests(&again.raw, &limits(&again.limits), Reader::Server, false);
            let check = Check { input, first };
            check.same("number", sent.messages.len(), received.messages.len());
            for (sent, received) in sent.messages.iter().zip(&received.messages) {
                check.request(&sent.0, &received.0);
                let same_framing = received.0.framing == sent.0.framing;
                check.body(&sent.1, &received.1, same_framing, received.0.trailers);
            }
        }
        Read::Responses(asked, mut received) => {
            let most = received.messages.iter().map(|(it, _)| it.fields.len());
            if most.max().unwrap_or(0) + ADDED > usize::from(HEAD.fields) {
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
                let same_framing = received.0.framing == sent.0.framing;
                check.body(&sent.1, &received.1, same_framing, received.0.trailers);
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
        self.same("method", &sent.method, &received.method);
        self.same("target", &sent.target, &received.target);
        self.same("framing", sent.framing, received.framing);
        self.same("expectation", sent.expect, received.expect);
        self.same("offer", &sent.offer, &received.offer);
        self.same("version", sent.minor, 1);
        // How long the server's connection lives is not the client's to say.
        self.same("persistence", sent.keep_alive, true);
        let host = received.host.clone();
        let default = b"10.0.0.2:9000".to_vec();
        self.same(
            "host",
            sent.host.clone(),
            Some(host.clone().unwrap_or(default)),
        );
        self.origin(sent, received);
        let left = received.max_forwards.map(|left| left - 1);
        self.same("Max-Forwards", sent.max_forwards, left);
        self.fields(
            &sent.forwarded,
            &received.forwarded,
            Some(received.minor),
            None,
        );
        self.nothing_else(&sent.fields, &sent.forwarded, WRITTEN);
    }

    /// Where a request comes from: what a trusted client says of it goes on, and this gateway's word is added.
    fn origin(&self, sent: &Request, received: &Request) {
        let said = |name| -> Vec<Vec<u8>> {
            let mut values = values(&received.fields, name);
            values.retain(|value| self.input.trusted && !value.is_empty());
            // What would be added behind an open quote would be part of what the client says.
            values.retain(|value| name != "forwarded" || split_unquoted(value, b',').is_some());
            values
        };
        let one = |name, otherwise: Option<Vec<u8>>| -> Vec<Vec<u8>> {
            match &said(name)[..] {
                [value] => vec![value.clone()],
                _ => otherwise.into_iter().collect(),
            }
        };
        let all = |name, last: Vec<u8>| vec![[said(name), vec![last]].concat().join(&b", "[..])];
        let client = self.input.client.clone();
        // A node that is an IPv6 address stands in brackets, and in quotes for their sake. RFC 7239 section 6.
        let node = match client.contains(&b':') {
            true => [b"\"[", &client[..], b"]\""].concat(),
            false => client.clone(),
        };
        let mut element = [b"for=", &node[..], b";proto=http"].concat();
        if let Some(host) = &received.host {
            element.extend([b";host=\"", &host[..], b"\""].concat());
        }
        let element = match self.input.forwarded || !said("forwarded").is_empty() {
            true => all("forwarded", element),
            false => Vec::new(),
        };
        let value = |name| values(&sent.fields, name);
        let http = Some(b"http".to_vec());
        let host = received.host.clone();
        self.same(
            "client",
            value("x-forwarded-for"),
            all("x-forwarded-for", client),
        );
        self.same(
            "scheme",
            value("x-forwarded-proto"),
            one("x-forwarded-proto", http),
        );
        self.same(
            "host forwarded",
            value("x-forwarded-host"),
            one("x-forwarded-host", host),
        );
        self.same("Forwarded", value("forwarded"), element);
    }

    fn response(&self, sent: &Response, received: &Response, asked: &Request) {
        self.same("status", sent.status, received.status);
        self.same("reason", &sent.reason, &received.reason);
        self.same("kind", sent.kind, received.kind);
        self.same("framing", sent.framing, received.delivered(asked));
        self.same("length", sent.length, received.length);
        // RFC 9110 section 8.6.
        let never = sent.status < 200 || sent.status == 204;
        let says = !values(&sent.fields, "content-length").is_empty();
        self.same("a length where there is none", never && says, false);
        if sent.kind == Kind::Final {
            let until_close = sent.framing == crate::oracle::body::Framing::UntilClose;
            let keeps = asked.keep_alive && !self.input.last && !until_close;
            self.same("persistence", sent.keep_alive, keeps);
            let options = values(&sent.fields, "connection");
            let said = options.iter().any(|it| it == b"keep-alive");
            self.same("keep-alive", said, keeps && asked.minor == 0);
        }
        // Which protocols the client is to switch to. RFC 9110 section 15.5.22.
        let mut advertised = values(&received.fields, "upgrade");
        advertised.retain(|value| !value.is_empty() && received.status == 426);
        if sent.kind == Kind::Final {
            self.same("Upgrade", values(&sent.fields, "upgrade"), advertised);
        }
        let via = match sent.kind {
            Kind::Interim => None,
            _ => Some(received.minor),
        };
        let undated = values(&received.forwarded, "date").is_empty();
        let date = (sent.kind == Kind::Final && undated).then_some(DATE);
        self.fields(&sent.forwarded, &received.forwarded, via, date);
        self.nothing_else(&sent.fields, &sent.forwarded, &["content-length"]);
    }

    /// The fields are the same, but for a Via and a Date behind them.
    fn fields(&self, sent: &[Field], received: &[Field], via: Option<u8>, date: Option<&Date>) {
        let mut expected = received.to_vec();
        if let Some(minor) = via.filter(|_| self.input.via) {
            expected.push((b"Via".to_vec(), format!("1.{minor} squall").into_bytes()));
        }
        if let Some(date) = date {
            expected.push((b"Date".to_vec(), date.to_vec()));
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
    /// the trailer sections, if they are passed on.
    fn body(&self, sent: &Body, received: &Body, same_framing: bool, trailers: bool) {
        self.same("content", &sent.content, &received.content);
        if same_framing {
            self.same("what is missing", sent.missing, received.missing);
            // A section of which nothing is left is not sent.
            let expected = received
                .trailers
                .as_deref()
                .map(passed_on)
                .filter(|fields| trailers && !fields.is_empty());
            self.same("trailers", &sent.trailers, &expected);
        }
    }
}
