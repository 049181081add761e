// SPDX-License-Identifier: GPL-2.0

//! The settings that a route may override. Without an override, the value of `net.squall.*` counts.
//!
//! These are the entries of the section `route` in `rust/settings.rs`. A setting has the name, the unit and the range
//! of its sysctl. It is read whenever it is needed, so that a change takes effect at once.

use crate::{
    net::sysctl,
    settings::{
        range::*,
        settings, //
    }, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    }, //
};

macro_rules! overrides {
    (
        global { $($global:tt)* }
        route { $($(#[$doc:meta])* $id:literal $variant:ident $name:ident = $default:expr, $range:expr, $unit:literal;)* }
    ) => {
        /// A value that a route may override.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Setting {
            $($(#[$doc])* $variant,)*
        }

        impl Setting {
            const ALL: &'static [Setting] = &[$(Setting::$variant,)*];

            /// Returns its name, which is also that of the sysctl.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Setting::$variant => stringify!($name),)*
                }
            }

            /// Returns the least and the largest value.
            pub(crate) const fn range(self) -> (u32, u32) {
                match self {
                    $(Setting::$variant => (*$range.start(), *$range.end()),)*
                }
            }

            /// Returns the value of the sysctl.
            pub(crate) fn default(self) -> u32 {
                match self {
                    $(Setting::$variant => sysctl::$name(),)*
                }
            }
        }
    };
}

settings!(overrides);

/// No override.
const UNSET: u32 = u32::MAX;

/// The settings of one route.
pub(crate) struct Settings([Atomic<u32>; Setting::ALL.len()]);

impl Settings {
    /// Makes settings without overrides.
    pub(crate) fn new() -> Settings {
        Settings([const { Atomic::new(UNSET) }; Setting::ALL.len()])
    }

    /// Returns the override of the route, if any.
    pub(crate) fn own(&self, setting: Setting) -> Option<u32> {
        let own = self.0.get(setting as usize)?.load(Relaxed);
        (own != UNSET).then_some(own)
    }

    /// Returns the value that counts for the route.
    pub(crate) fn get(&self, setting: Setting) -> u32 {
        self.own(setting).unwrap_or_else(|| setting.default())
    }

    /// Sets an override, or removes it. Fails with `ERANGE` if the value is outside of the sysctl's range. Process
    /// context.
    pub(crate) fn set(&self, setting: Setting, own: Option<u32>) -> Result {
        if let Some(own) = own {
            let (least, most) = setting.range();
            if own < least || own > most || own == UNSET {
                return Err(ERANGE);
            }
        }
        if let Some(place) = self.0.get(setting as usize) {
            place.store(own.unwrap_or(UNSET), Relaxed);
        }
        Ok(())
    }
}
