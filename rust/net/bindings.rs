// SPDX-License-Identifier: GPL-2.0

//! What bindgen makes of `include/bindings.h`, when the module is built. Private to `net`.

#![allow(
    clippy::all,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]
#![allow(clippy::pedantic, clippy::restriction)] // Generated code has its own style.

include!(env!("SQUALL_BINDINGS"));
