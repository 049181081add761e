// SPDX-License-Identifier: GPL-2.0

//! A parsed head, as spans: start line and field lines of one message, or a trailer section.

use super::field::KnownField;
use super::message::Version;
use super::span::Span;

/// Longest head that [`Limits`] can allow, in bytes: offsets into a head are 16 bits wide.
pub const MAX_HEAD: u16 = u16::MAX;

/// Most field lines that [`Limits`] can allow: room in a [`LargeHead`].
pub const MAX_FIELDS: usize = 256;

/// Field lines for which a [`UsualHead`] has room. Few heads have more than half as many.
pub const USUAL_FIELDS: usize = 88;

/// The limits of a head or trailer section. Each limit has an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes in the whole head, its empty line included: 1 to [`MAX_HEAD`].
    pub head: u16,
    /// Most bytes in the start line, its CR LF included.
    pub start_line: u16,
    /// Most bytes in one field line, its CR LF included.
    pub field_line: u16,
    /// Most field lines; no more than [`MAX_FIELDS`] whatever is set here.
    pub fields: u16,
}

impl Limits {
    /// Limits that the messages of browsers and common servers stay below.
    pub const DEFAULT: Limits = Limits {
        head: 32768,
        start_line: 8192,
        field_line: 16384,
        fields: 128,
    };

    /// Limits for a trailer section.
    pub const TRAILERS: Limits = Limits {
        head: 8192,
        start_line: 0,
        field_line: 8192,
        fields: 32,
    };
}

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The field name.
    pub name: Span,
    /// The field value without the white space around it; may be empty.
    pub value: Span,
    /// The field, recognised while it was scanned.
    pub known: KnownField,
    /// Whether the line is exactly name, colon, one space, value, CR LF.
    pub plain: bool,
}

impl Field {
    /// The value of unused entries of the table.
    pub(crate) const UNUSED: Field = Field {
        name: Span::EMPTY,
        value: Span::EMPTY,
        known: KnownField::Other,
        plain: false,
    };
}

/// A head with room for any number of field lines.
pub type Head = HeadOf<[Field]>;

/// A head with room for the field lines that nearly all heads have: less than 1 KiB.
pub type UsualHead = HeadOf<[Field; USUAL_FIELDS]>;

/// A head with room for as many field lines as there may be: about 2.5 KiB.
pub type LargeHead = HeadOf<[Field; MAX_FIELDS]>;

/// The spans of a head. Scratch memory, owned by the caller of the parser.
///
/// Which of the start line's members have a meaning depends on the kind of parser that filled it.
#[derive(Debug)]
pub struct HeadOf<F: ?Sized> {
    /// The method of a request.
    pub method: Span,
    /// The target of a request.
    pub target: Span,
    /// The reason phrase of a response; may be empty.
    pub reason: Span,
    /// The version in the start line.
    pub version: Version,
    /// The status code of a response: 100 to 999.
    pub status: u16,
    /// The length of the whole head in bytes, the empty line included; 0 until it is complete.
    pub len: u16,
    /// The number of fields in use. It and [`Self::fields`] are visible to code that initialises a head in place.
    pub(crate) count: u16,
    /// The table of field lines, the used entries first.
    pub(crate) fields: F,
}

impl<const N: usize> Default for HeadOf<[Field; N]> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> HeadOf<[Field; N]> {
    /// Returns an empty head.
    pub const fn new() -> Self {
        HeadOf {
            method: Span::EMPTY,
            target: Span::EMPTY,
            reason: Span::EMPTY,
            version: Version::Http11,
            status: 0,
            len: 0,
            count: 0,
            fields: [Field::UNUSED; N],
        }
    }
}

impl<F: ?Sized> HeadOf<F> {
    /// Makes the head empty again, for the next message.
    pub fn clear(&mut self) {
        self.method = Span::EMPTY;
        self.target = Span::EMPTY;
        self.reason = Span::EMPTY;
        self.version = Version::Http11;
        self.status = 0;
        self.len = 0;
        self.count = 0;
    }
}

impl Head {
    /// Returns the field lines in the order of their arrival.
    pub fn fields(&self) -> &[Field] {
        self.fields.get(..usize::from(self.count)).unwrap_or(&[])
    }

    /// Returns the capacity: the number of field lines.
    pub fn room(&self) -> usize {
        self.fields.len()
    }

    /// Copies `other`, without the field lines for which there is no room.
    pub fn take_over(&mut self, other: &Head) {
        self.method = other.method;
        self.target = other.target;
        self.reason = other.reason;
        self.version = other.version;
        self.status = other.status;
        self.len = other.len;
        self.count = 0;
        for field in other.fields() {
            self.push(*field);
        }
    }

    /// Returns how many field lines there may be if `max` are allowed: no more than the capacity.
    fn most(&self, max: u16) -> usize {
        usize::from(max).min(self.room())
    }

    /// Returns the unused entries, so that there are at most `max` field lines in all.
    pub(super) fn places(&mut self, max: u16) -> core::slice::IterMut<'_, Field> {
        let room = usize::from(self.count)..self.most(max);
        self.fields.get_mut(room).unwrap_or(&mut []).iter_mut()
    }

    /// Counts the field lines that were written to [`Head::places`]; `left` of its entries are unused.
    pub(super) fn use_places(&mut self, left: usize, max: u16) {
        let used = self.most(max).saturating_sub(left);
        self.count = self.count.max(used as u16);
    }

    /// Returns whether there are `max` or [`MAX_FIELDS`] field lines.
    pub(super) fn has_all(&self, max: u16) -> bool {
        usize::from(self.count) >= usize::from(max).min(MAX_FIELDS)
    }

    /// Returns whether there is no room for another field line.
    pub(super) fn is_full(&self) -> bool {
        usize::from(self.count) >= self.room()
    }

    /// Appends a field line if there is room for it.
    pub(super) fn push(&mut self, field: Field) {
        if let Some(place) = self.fields.get_mut(usize::from(self.count)) {
            *place = field;
            self.count = self.count.saturating_add(1);
        }
    }
}

/// How often a field occurs that should occur at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occurrence {
    Absent,
    Once(Span),
    Many,
}

impl Occurrence {
    /// Counts one more field line, with this value.
    pub(super) fn add(&mut self, value: Span) {
        *self = match self {
            Occurrence::Absent => Occurrence::Once(value),
            _ => Occurrence::Many,
        };
    }

    /// Returns whether there is any field line.
    pub(super) fn is_present(self) -> bool {
        self != Occurrence::Absent
    }
}

/// A set of the field lines of one head, by their place in [`Head::fields`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSet([u64; MAX_FIELDS.div_ceil(64)]);

impl FieldSet {
    /// The empty set.
    pub const EMPTY: FieldSet = FieldSet([0; MAX_FIELDS.div_ceil(64)]);

    /// Adds the field line at `place`; places beyond [`MAX_FIELDS`] are ignored.
    pub fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place >> 6) {
            *word |= 1 << (place & 63);
        }
    }

    /// Returns the set without the field lines of `other`.
    pub fn without(self, other: FieldSet) -> FieldSet {
        let mut left = self;
        for (word, gone) in left.0.iter_mut().zip(other.0) {
            *word &= !gone;
        }
        left
    }

    /// Returns whether the field line at `place` is in the set.
    pub fn contains(self, place: usize) -> bool {
        self.0
            .get(place >> 6)
            .is_some_and(|word| word >> (place & 63) & 1 == 1)
    }
}
