// SPDX-License-Identifier: GPL-2.0
//! HTTP/1.1 as far as the benchmark speaks it: requests without a body, responses with Content-Length, opening handshakes.

use crate::ws;
use anyhow::{bail, ensure, Context, Result};

/// The key of every opening handshake of ours: that of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const FIELDS_MAX: usize = 32;

/// What the server needs to know of a request.
pub struct Request {
    /// The target.
    pub path: String,
    /// The value of Sec-WebSocket-Key, of a request to upgrade.
    pub key: Option<Vec<u8>>,
    /// Whether the client asked for the connection to be closed.
    pub close: bool,
    /// Bytes of the head.
    pub head: usize,
}

/// Parses a request's head; none if it is not complete.
pub fn request(bytes: &[u8]) -> Result<Option<Request>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head) = parsed.parse(bytes)? else {
        return Ok(None);
    };
    let mut request = Request {
        path: parsed.path.unwrap_or("/").to_owned(),
        key: None,
        close: parsed.version == Some(0),
        head,
    };
    for field in parsed.headers.iter() {
        if field.name.eq_ignore_ascii_case("sec-websocket-key") {
            request.key = Some(field.value.to_vec());
        } else if field.name.eq_ignore_ascii_case("connection")
            && field.value.eq_ignore_ascii_case(b"close")
        {
            request.close = true;
        }
    }
    Ok(Some(request))
}

/// What the load generator needs to know of a response.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the content.
    pub length: usize,
}

/// Parses a response's head; none if it is not complete. A 101 must accept the handshake of ours.
pub fn response(bytes: &[u8]) -> Result<Option<Response>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = parsed.parse(bytes)? else {
        return Ok(None);
    };
    let value = |name: &str| {
        parsed
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    };
    let status = parsed.code.context("a response without a status")?;
    let mut length = 0;
    if status == 101 {
        ensure!(
            value("sec-websocket-accept") == Some(ws::accept(KEY.as_bytes()).as_bytes()),
            "a wrong Sec-WebSocket-Accept"
        );
    } else {
        length = std::str::from_utf8(
            value("content-length").context("a response without Content-Length")?,
        )?
        .parse()?;
    }
    Ok(Some(Response {
        status,
        head,
        length,
    }))
}

/// An opening handshake.
pub fn offer(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A plain request.
pub fn get(path: &str, close: bool) -> Vec<u8> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n{connection}\r\n").into_bytes()
}

/// Checks that a response is the 101 that was hoped for.
pub fn upgraded(response: &Response) -> Result<()> {
    if response.status != 101 {
        bail!("status {} instead of 101", response.status);
    }
    Ok(())
}
