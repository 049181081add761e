// SPDX-License-Identifier: GPL-2.0

//! Connection options, and which fields are forwarded. RFC 9110 section 7.6.1.

use super::error::Error;
use super::field::{
    elements,
    is_token,
    KnownField, //
};
use super::head::{
    FieldSet,
    Head, //
};
use super::span::{
    Source,
    Span, //
};

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
    /// The field lines that an option names and that are not protected: they are not forwarded.
    pub nominated: FieldSet,
    /// There is an option of another name (TE does not count). It may also name a trailer field.
    pub others: bool,
}

impl Options {
    /// Reads all Connection fields of `head`.
    ///
    /// An option that names a protected field, such as Host or X-Forwarded-For, is ignored.
    pub fn from_head<S: Source + ?Sized>(head: &Head, src: &S) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut count = 0u8;
        for field in head.fields() {
            if field.known != KnownField::Connection {
                continue;
            }
            // The list nearly always has one element.
            if is_token(field.value, src) {
                options.add(field.value, &mut count, head, src)?;
                continue;
            }
            for option in elements(field.value, src) {
                match option {
                    Ok(option) if is_token(option, src) => {
                        options.add(option, &mut count, head, src)?;
                    }
                    _ => return Err(Error::BadConnection),
                }
            }
        }
        Ok(options)
    }

    /// Takes one option into account; `count` is how many there were before.
    fn add<S: Source + ?Sized>(
        &mut self,
        option: Span,
        count: &mut u8,
        head: &Head,
        src: &S,
    ) -> Result<(), Error> {
        *count = count.saturating_add(1);
        if *count > MAX_OPTIONS {
            return Err(Error::TooManyOptions);
        }
        if option.eq_ignore_case(src, b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_case(src, b"close") {
            self.close = true;
        } else if option.eq_ignore_case(src, b"upgrade") {
            self.upgrade = true;
        } else if option.eq_ignore_case(src, b"te") {
            // A TE field requires this option, and a trailer section never contains TE.
        } else {
            self.others = true;
            for (place, field) in head.fields().iter().enumerate() {
                if field.known == KnownField::Other && field.name.same_ignore_case(src, option) {
                    self.nominated.insert(place);
                }
            }
        }
        Ok(())
    }
}
