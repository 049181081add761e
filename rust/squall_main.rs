// SPDX-License-Identifier: GPL-2.0

//! Squall: a reverse proxy for WebSocket and HTTP, in softirq.
//!
//! Three layers, each a module: [`proto`] knows HTTP and no kernel, [`net`] knows the kernel and no
//! HTTP, [`proxy`] joins them. `tools/check` sees to it that it stays so.

#![allow(unreachable_pub)]

use kernel::{
    configfs,
    prelude::*, //
};

#[allow(dead_code)] // As settings.
mod attributes;
#[allow(dead_code)] // As settings.
mod counters;
mod net;
#[allow(dead_code)]
mod proto;
mod proxy;
#[allow(dead_code)] // The host's tools read what the module does not.
mod settings;

module! {
    type: Squall,
    name: "squall",
    authors: ["Squall developers"],
    description: "Reverse proxy for WebSocket and HTTP in softirq",
    license: "GPL",
    params: {
        clients_max: u32 {
            default: 1048576,
            description: "Clients that limits per client can keep account of",
        },
    },
}

/// The loaded module. Fields are dropped in order: no new configuration, no more sysctls, then the
/// data path comes to its end, and last the log of what it did.
#[pin_data]
struct Squall {
    #[pin]
    config: configfs::Subsystem<proxy::config::Root>,
    sysctl: net::sysctl::Sysctl,
    runtime: net::Runtime<proxy::Session>,
    log: net::log::Log,
}

impl kernel::InPlaceModule for Squall {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            log: net::log::Log::register()?,
            runtime: net::Runtime::start(module_parameters::clients_max.value())?,
            sysctl: net::sysctl::Sysctl::register()?,
            config <- proxy::config::register(),
        })
    }
}
