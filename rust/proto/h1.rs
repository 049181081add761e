// SPDX-License-Identifier: GPL-2.0

//! HTTP/1 on the wire: RFC 9112.

pub mod blank;
pub mod encode;

mod body;
mod parser;
mod scan;

pub use self::body::{
    BodyDecoder,
    BodyLimits,
    Step, //
};
pub use self::parser::{
    HeadParser,
    Progress, //
};

// A connection holds these for as long as it lives, or reads a head.
const _: () = assert!(size_of::<HeadParser>() <= 32);
const _: () = assert!(size_of::<BodyDecoder>() <= 32);
const _: () = assert!(size_of::<super::head::UsualHead>() <= 1024);
const _: () = assert!(size_of::<super::ws::AwaitingAccept>() <= 512);
