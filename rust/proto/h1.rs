// SPDX-License-Identifier: GPL-2.0

//! HTTP/1 on the wire: RFC 9112.

pub mod encode;

mod body;
mod parser;
mod scan;

pub use self::body::{
    BodyDecoder,
    Step, //
};
pub use self::parser::{
    HeadParser,
    Progress, //
};
