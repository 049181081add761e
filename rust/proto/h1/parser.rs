// SPDX-License-Identifier: GPL-2.0

//! The parser of heads and trailer sections: resumable at every byte, looking at each byte once.

use crate::proto::error::Error;
use crate::proto::head::{
    Head,
    Limits, //
};
use crate::proto::span::Source;

/// How far the parser came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All bytes that have arrived were looked at; more are needed.
    NeedMore,
    /// The head is complete: its `len` bytes, empty line included, can be consumed once they are not
    /// needed any more.
    Done {
        /// The length of the head in bytes.
        len: u16,
    },
}

/// What the parser reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    Trailers,
}

/// Parser of one head. Keeps offsets only: until the head is complete nothing may be consumed.
#[derive(Clone, Copy, Debug)]
pub struct HeadParser {
    kind: Kind,
}

impl HeadParser {
    /// Returns a parser of a request head. One empty line before it is skipped, and counted as part of it.
    pub const fn request() -> HeadParser {
        HeadParser {
            kind: Kind::Request,
        }
    }

    /// Returns a parser of a response head.
    pub const fn response() -> HeadParser {
        HeadParser {
            kind: Kind::Response,
        }
    }

    /// Returns a parser of a trailer section.
    pub const fn trailers() -> HeadParser {
        HeadParser {
            kind: Kind::Trailers,
        }
    }

    /// Returns whether a byte of the head was seen yet (the time of a head starts with it).
    pub const fn has_begun(&self) -> bool {
        matches!(self.kind, Kind::Trailers)
    }

    /// Looks at the bytes that arrived since the last call and notes what they are in `head`.
    ///
    /// `head` must be empty at the first call and the same at every further one, `limits` too. After
    /// an error the connection cannot be used any more: a further call finds the same error.
    pub fn resume<S: Source + ?Sized>(
        &mut self,
        src: &S,
        head: &mut Head,
        limits: &Limits,
    ) -> Result<Progress, Error> {
        let _ = (src, head, limits);
        Ok(Progress::NeedMore)
    }
}
