// SPDX-License-Identifier: GPL-2.0

//! Values of `net.squall.*`, made of the table in `rust/settings.rs`. `sysctl.c` registers what this file hands over.

use super::bindings;
use crate::settings::{
    range::*,
    settings, //
};
use core::cell::UnsafeCell;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// The values, each at its [`Place`]. Sysctl writes them, whole words at a time.
struct Values(UnsafeCell<[u32; Place::COUNT]>);

// SAFETY: All accesses are volatile ones of whole words, by `Values::read` and by sysctl.
unsafe impl Sync for Values {}

impl Values {
    /// Returns the address of a value.
    #[inline(always)]
    const fn at(&self, place: Place) -> *mut u32 {
        self.0.get().cast::<u32>().wrapping_add(place as usize)
    }

    /// Reads a value. The place is a constant, so this is one load.
    #[inline(always)]
    fn read(&self, place: Place) -> u32 {
        // SAFETY: A place is below `Place::COUNT`.
        unsafe { core::ptr::read_volatile(self.at(place)) }
    }
}

/// What `sysctl.c` makes its table of.
struct Table([bindings::squall_setting; Place::COUNT]);

// SAFETY: Nobody writes the table. Its pointers lead to statics.
unsafe impl Sync for Table {}

macro_rules! sysctls {
    (
        global { $($(#[$global_doc:meta])* $global:ident = $global_default:expr, $global_range:expr, $global_unit:literal;)* }
        route { $($(#[$doc:meta])* $id:literal $variant:ident $name:ident = $default:expr, $range:expr, $unit:literal;)* }
    ) => {
        sysctls! {
            $($(#[$global_doc])* $global = $global_default, $global_range;)*
            $($(#[$doc])* $name = $default, $range;)*
        }
    };
    ($($(#[$doc:meta])* $name:ident = $default:expr, $range:expr;)*) => {
        /// The place of a setting in the table.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy)]
        enum Place {
            $($name,)*
        }

        impl Place {
            const COUNT: usize = [$(Place::$name,)*].len();
        }

        static VALUES: Values = Values(UnsafeCell::new([$($default,)*]));

        static TABLE: Table = Table([$(bindings::squall_setting {
            name: concat!(stringify!($name), "\0").as_ptr().cast(),
            value: VALUES.at(Place::$name),
            least: *$range.start(),
            most: *$range.end(),
        },)*]);

        $(
            $(#[$doc])*
            #[inline]
            pub(crate) fn $name() -> u32 {
                VALUES.read(Place::$name)
            }
        )*
    };
}

settings!(sysctls);

/// The registration of the table; removes it when dropped.
pub(crate) struct Sysctl(());

impl Sysctl {
    /// Registers `net.squall.*`. Process context.
    pub(crate) fn register() -> Result<Sysctl> {
        let rows = &TABLE.0;
        // SAFETY: Called once, from the module's init. The rows are static.
        to_result(unsafe { bindings::squall_sysctl_register(rows.as_ptr(), rows.len() as u32) })?;
        Ok(Sysctl(()))
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        // SAFETY: `self` proves that the table is registered.
        unsafe { bindings::squall_sysctl_unregister() };
    }
}
