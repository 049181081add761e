// SPDX-License-Identifier: GPL-2.0

//! Parser and oracle see the same messages in the same bytes. See `targets::oracle`.

#![no_main]
#![allow(dead_code)] // Each target uses a part of the modules.

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/oracle/mod.rs"]
mod oracle;
#[path = "../../tests/targets/mod.rs"]
mod targets;

fuzz_target!(|bytes: &[u8]| {
    if let Some(input) = targets::Input::from_bytes(bytes) {
        targets::oracle(&input);
    }
});
