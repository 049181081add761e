// SPDX-License-Identifier: GPL-2.0

//! Connection options and which fields travel on. RFC 9110 section 7.6.1.

use super::error::Error;
use super::head::{
    FieldSet,
    Head, //
};
use super::span::Source;

/// Most options that the Connection fields of one message may name.
pub const MAX_OPTIONS: u8 = 16;

/// What the Connection fields of a message say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `close` is among the options.
    pub close: bool,
    /// `keep-alive` is among the options.
    pub keep_alive: bool,
    /// `upgrade` is among the options.
    pub upgrade: bool,
    /// The field lines that an option names and that may be named: they end at this gateway.
    pub nominated: FieldSet,
}

impl Options {
    /// Reads all Connection fields of `head`.
    ///
    /// An option that names a protected field, such as Host or X-Forwarded-For, is ignored.
    pub fn from_head<S: Source + ?Sized>(head: &Head, src: &S) -> Result<Options, Error> {
        let _ = (head, src);
        Ok(Options::default())
    }
}
