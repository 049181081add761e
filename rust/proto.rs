// SPDX-License-Identifier: GPL-2.0

//! Pure protocol code: bytes in, decisions and bytes out.
//!
//! Uses `core` alone: no allocation, clock, randomness, logging or I/O. Received bytes stay where they are (in the
//! kernel: in the socket's receive queue); a parser keeps offsets, as [`span::Span`]s, and looks the bytes up through
//! [`span::Source`]. A message passes through these steps:
//!
//! 1. [`h1::HeadParser`] turns the bytes of a head, whenever they arrive, into a [`head::Head`].
//! 2. [`request::Request`] or [`response::Response`] decides, once, what the head means: framing,
//!    persistence, which fields travel on, whether it offers an upgrade.
//! 3. [`h1::encode`] writes the head of the other leg.
//! 4. [`h1::BodyDecoder`] tells content from framing without touching the content.
//! 5. [`frame::Frames`] follows what is relayed after a switch to WebSocket.
//!
//! [`canonical`] and [`trie`] compare the hosts and paths of routes with those of a request. [`sticky`] finds the value
//! by which requests are kept together.
//!
//! A module imports from those before it: `error`, `span`, `field`, `auth`, `head`, `sticky`, `message`, `connection`,
//! `target`, `canonical`, `trie`, `ws`, `request`, `response`, `h1`, `frame`. Two pairs go against this order: `head`
//! also imports `message`, and `ws` also imports `response`.

#![forbid(unsafe_code)]

mod auth;
pub mod canonical;
pub mod connection;
pub mod error;
pub mod field;
pub mod frame;
pub mod h1;
pub mod head;
pub mod message;
pub mod request;
pub mod response;
pub mod span;
pub mod sticky;
pub mod target;
pub mod trie;
pub mod ws;

pub use self::error::Error;
