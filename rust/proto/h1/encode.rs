// SPDX-License-Identifier: GPL-2.0

//! Writes what goes out: forwarded heads, chunk framing, trailer sections, responses of our own.

use crate::proto::head::Head;
use crate::proto::request::Request;
use crate::proto::response::{
    Delivery,
    Response, //
};
use crate::proto::span::{
    Full,
    Sink,
    Source, //
};

/// What the proxy knows and a forwarded request must say.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The client's address as text, without port; IPv6 without brackets.
    pub client: &'a [u8],
    /// The scheme that the client used: `http` or `https`.
    pub scheme: &'a [u8],
    /// host[:port] for the Host field of a request that came without.
    pub default_host: &'a [u8],
    /// The server connection is to be closed after the response.
    pub close: bool,
}

/// Writes the head of `request` for the server.
pub fn request<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    request: &Request,
    src: &S,
    forward: &Forward<'_>,
    sink: &mut K,
) -> Result<(), Full> {
    let _ = (head, request, src, forward, sink);
    Ok(())
}

/// Writes the head of `response` for the client: also of an interim one and of an accepted 101.
pub fn response<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    response: &Response,
    src: &S,
    delivery: &Delivery,
    sink: &mut K,
) -> Result<(), Full> {
    let _ = (head, response, src, delivery, sink);
    Ok(())
}

/// Longest line that [`chunk_head`] writes: 16 digits, CR LF.
pub const MAX_CHUNK_HEAD: usize = 18;

/// Writes the line that opens a chunk with `size` bytes of content, which must not be 0. After the
/// content goes [`CHUNK_END`].
pub fn chunk_head<K: Sink + ?Sized>(size: u64, sink: &mut K) -> Result<(), Full> {
    let _ = (size, sink);
    Ok(())
}

/// What follows the content of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The last chunk and the end of a chunked body without trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the last chunk and the trailer section in `head`, without the fields that may not be in one.
pub fn trailers<S: Source + ?Sized, K: Sink + ?Sized>(
    head: &Head,
    src: &S,
    sink: &mut K,
) -> Result<(), Full> {
    let _ = (head, src, sink);
    Ok(())
}

/// Writes a whole response of our own, body included, to a request that was not served.
///
/// `status` is one that [`crate::proto::Error::status`] returns, or 403, 404, 408, 503, 504; another
/// one is answered as 500. `close`: the connection is closed behind it. `head_method`: the request's
/// method was HEAD, so the body is left out.
pub fn error<K: Sink + ?Sized>(
    status: u16,
    close: bool,
    head_method: bool,
    sink: &mut K,
) -> Result<(), Full> {
    let _ = (status, close, head_method, sink);
    Ok(())
}
