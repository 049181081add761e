// SPDX-License-Identifier: GPL-2.0

//! llhttp, the parser of Node, as it comes with libgit2. Its functions are C: this file alone has `unsafe`.

use std::ffi::{
    c_char,
    c_int, //
};
use std::marker::PhantomData;

// Linked for its copy of llhttp.
use libgit2_sys as _;

use crate::{
    Kind,
    Parser, //
};

type DataCallback = extern "C" fn(*mut State, *const c_char, usize) -> c_int;
type Callback = extern "C" fn(*mut State) -> c_int;

/// `llhttp_settings_t` of llhttp 9.
#[repr(C)]
struct Settings {
    on_message_begin: Option<Callback>,
    /// URL, status, method, version, field name, field value.
    on_data: [Option<DataCallback>; 6],
    on_chunk_extension: [Option<DataCallback>; 2],
    on_headers_complete: Option<Callback>,
    on_body: Option<DataCallback>,
    others: [Option<Callback>; 12],
}

/// `llhttp_t`, of which its functions know more: 96 bytes in llhttp 9. Behind it, what the callbacks write.
#[repr(C)]
struct State {
    llhttp: [u64; 32],
    spans: [Span; 256],
    count: usize,
    fields: usize,
    complete: bool,
}

/// Where an element is.
#[derive(Clone, Copy)]
#[repr(C)]
struct Span {
    start: usize,
    len: usize,
}

extern "C" {
    fn llhttp_init(state: *mut State, kind: c_int, settings: *const Settings);
    fn llhttp_execute(state: *mut State, data: *const c_char, len: usize) -> c_int;
}

/// `HPE_OK`.
const OK: c_int = 0;
/// `HPE_PAUSED_UPGRADE`: the head asked for another protocol.
const UPGRADE: c_int = 22;

/// Notes where an element is.
extern "C" fn note(state: *mut State, data: *const c_char, len: usize) -> c_int {
    // SAFETY: llhttp hands on the pointer that it was called with, and there is no other use of it meanwhile.
    let state = unsafe { &mut *state };
    if let Some(span) = state.spans.get_mut(state.count) {
        *span = Span {
            start: data.addr(),
            len,
        };
        state.count += 1;
    }
    0
}

/// Notes where a value is, and that a field is complete.
extern "C" fn note_value(state: *mut State, data: *const c_char, len: usize) -> c_int {
    note(state, data, len);
    // SAFETY: as in `note`.
    unsafe { (*state).fields += 1 };
    0
}

/// The head is complete. Nothing follows it here, so no body is waited for.
extern "C" fn complete(state: *mut State) -> c_int {
    // SAFETY: as in `note`.
    unsafe { (*state).complete = true };
    1
}

/// llhttp with a callback for each element of a head.
pub struct Llhttp {
    settings: Box<Settings>,
}

impl Llhttp {
    /// Makes the parser's settings.
    pub fn new() -> Llhttp {
        let note: DataCallback = note;
        Llhttp {
            settings: Box::new(Settings {
                on_message_begin: None,
                on_data: [
                    Some(note),
                    Some(note),
                    Some(note),
                    Some(note),
                    Some(note),
                    Some(note_value),
                ],
                on_chunk_extension: [None; 2],
                on_headers_complete: Some(complete),
                on_body: None,
                others: [None; 12],
            }),
        }
    }
}

impl Default for Llhttp {
    fn default() -> Self {
        Self::new()
    }
}

/// What llhttp writes to.
pub struct Memory<'a> {
    state: Box<State>,
    source: PhantomData<&'a [u8]>,
}

impl Parser for Llhttp {
    type Memory<'a> = Memory<'a>;

    fn memory<'a>(&self) -> Memory<'a> {
        Memory {
            state: Box::new(State {
                llhttp: [0; 32],
                spans: [Span { start: 0, len: 0 }; 256],
                count: 0,
                fields: 0,
                complete: false,
            }),
            source: PhantomData,
        }
    }

    #[inline]
    fn parse<'a>(&self, kind: Kind, raw: &'a [u8], memory: &mut Memory<'a>) -> Option<usize> {
        let state: *mut State = &mut *memory.state;
        let kind = match kind {
            Kind::Request => 1,
            Kind::Response => 2,
        };
        // SAFETY: `state` begins with more memory than llhttp needs and outlives both calls, as `settings` does;
        // `raw` is readable for its length.
        let result = unsafe {
            llhttp_init(state, kind, &*self.settings);
            llhttp_execute(state, raw.as_ptr().cast(), raw.len())
        };
        let accepted = matches!(result, OK | UPGRADE) && memory.state.complete;
        accepted.then_some(memory.state.fields)
    }
}
