// SPDX-License-Identifier: GPL-2.0

//! Squall's protocol code as an ordinary host crate.
//!
//! The same files are compiled into squall.ko; here they are tested, without a kernel.

#![no_std]

pub mod attributes;
pub mod counters;
pub mod proto;
pub mod settings;

// What is pure arithmetic in the other layers, for its tests.
#[cfg(test)]
#[path = "net/bucket.rs"]
mod bucket;

#[path = "proto/frame_cases.rs"]
pub mod frame_cases;
#[path = "proto/replay.rs"]
pub mod replay;
#[path = "proto/vectors.rs"]
pub mod vectors;
