// SPDX-License-Identifier: GPL-2.0

//! Parser and oracle see the same messages in the same bytes. See `targets::oracle`.

#![no_main]
#![allow(dead_code)] // Each target uses a part of the modules.

use libfuzzer_sys::{
    fuzz_mutator,
    fuzz_target,
    fuzzer_mutate, //
};

#[path = "../../tests/oracle/mod.rs"]
mod oracle;
#[path = "../../tests/targets/mod.rs"]
mod targets;

fuzz_target!(|bytes: &[u8]| {
    if let Some(input) = targets::Input::from_bytes(bytes) {
        targets::oracle(&input);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match seed % 2 {
        0 => fuzzer_mutate(data, size, max_size),
        _ => targets::mutate::mutate(&mut data[..max_size], size, seed),
    }
});
