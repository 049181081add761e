// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/config/squall`: a directory is an object, and a file is a property of it.
//!
//! ```text
//! squall/{stats,refused_requests,refused_responses}
//! squall/<listener>/{address,enable,trusted,forwarded,via,connections_max,access,stats}
//! squall/<listener>/<route>/{host,path,balance,balance_name,enable,stats}, and its settings
//! squall/<listener>/<route>/<server>/{address,connections,connections_max,idle_max,idle_ms,weight,
//!                              backup,enable,fails_max,slow_start_ms,health_*,stats}
//! ```
//!
//! A wrong value is refused with an errno and a line in the log that names it. The old value stays. Disabling or
//! removing a server, a route or a listener stops new work for it and drains it; see [`super::drain`]. No other change
//! affects an open tunnel.
//!
//! Context: process. configfs holds the directory's lock; the mutexes here order the files of one
//! directory. None is ever taken in softirq.

use super::session::broken;
use crate::{
    attributes::{
        root_files,
        NumberFile, //
    },
    net::{
        clients,
        memory,
        stats::{
            self,
            Counter, //
        },
        SocketAddr, //
    },
    proto, //
};
use core::fmt::{
    self,
    Write, //
};
use kernel::{
    configfs::{
        self,
        configfs_attrs,
        AttributeOperations,
        GroupOperations, //
    },
    page::PAGE_SIZE,
    prelude::*,
    str::{
        CString,
        Formatter, //
    }, //
};

mod check;
mod listener;
mod route;
mod server;

use self::listener::ListenerDir;

/// The root directory.
pub(crate) struct Root {}

/// Registers the tree.
pub(crate) fn register() -> impl PinInit<configfs::Subsystem<Root>, Error> {
    configfs::Subsystem::new(c"squall", attributes(), try_init!(Root {}))
}

macro_rules! files {
    ($($(#[$doc:meta])* $id:literal $name:ident = $kind:expr;)*) => {
        fn attributes() -> &'static configfs::ItemType<configfs::Subsystem<Root>, Root> {
            configfs_attrs! {
                container: configfs::Subsystem<Root>,
                data: Root,
                child: ListenerDir,
                attributes: [$($name: $id,)*],
            }
        }
    };
}

root_files!(files);

/// Makes the code of files that hold numbers, with the names and ranges of `rust/attributes.rs`. Each is the number of the file,
/// a function that reads the value, and one that takes a value and the text it was written as.
macro_rules! number_files {
    ($dir:ident of $files:path, $parse:path; $($id:literal $get:expr, $set:expr;)*) => {
        $(
            #[vtable]
            impl AttributeOperations<$id> for $dir {
                type Data = $dir;

                fn show(dir: &$dir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
                    let get: fn(&$dir) -> _ = $get;
                    let value = u32::from(get(dir));
                    show(page, |text| writeln!(text, "{value}"))
                }

                fn store(dir: &$dir, page: &[u8]) -> Result {
                    const FILE: $crate::attributes::NumberFile =
                        $crate::attributes::number_file($files, $id);
                    let set: fn(&$dir, _, &[u8]) -> Result = $set;
                    set(dir, $parse(&FILE, &dir.name, page)?, page)
                }
            }
        )*
    };
}
use number_files;

/// Writes an attribute's text into its page. Returns the length.
fn show(
    page: &mut [u8; PAGE_SIZE],
    write: impl FnOnce(&mut Formatter<'_>) -> fmt::Result,
) -> Result<usize> {
    let mut text = Formatter::new(page);
    write(&mut text).map_err(|_| ENOSPC)?;
    Ok(text.bytes_written())
}

/// Logs why `value` was refused for an attribute, and returns the errno.
fn refuse(dir: &CStr, attribute: &str, value: &[u8], why: fmt::Arguments<'_>, err: Error) -> Error {
    let value = value.trim_ascii();
    let value = value.get(..64).unwrap_or(value);
    pr_warn!(
        "{}/{}: '{}' refused: {} ({})\n",
        dir,
        attribute,
        format_args!("{}", value.escape_ascii()),
        why,
        err.to_errno()
    );
    err
}

/// Reads the address that is written to the file `address` of `dir`.
fn address(dir: &CStr, page: &[u8]) -> Result<SocketAddr> {
    SocketAddr::parse(page).map_err(|err| {
        let why = format_args!("not of the form a.b.c.d:port or [v6]:port");
        refuse(dir, "address", page, why, err)
    })
}

fn name(name: &CStr) -> Result<CString> {
    CString::try_from_fmt(fmt!("{}", name))
}

#[vtable]
impl GroupOperations for Root {
    type Child = ListenerDir;

    fn make_group(&self, dir: &CStr) -> Result<impl PinInit<configfs::Group<ListenerDir>, Error>> {
        ListenerDir::group(dir)
    }
}

#[vtable]
impl AttributeOperations<0> for Root {
    type Data = Root;

    fn show(_: &Root, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        show(page, |text| {
            Counter::ALL.iter().try_for_each(|&counter| {
                writeln!(text, "{} {}", counter.name(), stats::sum(counter))
            })?;
            let clients = clients::usage();
            writeln!(text, "clients {}", clients.clients)?;
            writeln!(text, "clients_bytes {}", clients.bytes)?;
            let memory = memory::usage();
            writeln!(text, "memory_bytes {}", memory.bytes)?;
            writeln!(text, "memory_bytes_max {}", memory.most)?;
            writeln!(text, "memory_pressed {}", u8::from(memory.pressed))
        })
    }
}

#[vtable]
impl AttributeOperations<1> for Root {
    type Data = Root;

    fn show(_: &Root, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        show_broken(page, |counts| counts.0)
    }
}

#[vtable]
impl AttributeOperations<2> for Root {
    type Data = Root;

    fn show(_: &Root, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        show_broken(page, |counts| counts.1)
    }
}

/// Writes how often each rule was broken.
fn show_broken(page: &mut [u8; PAGE_SIZE], side: fn((u64, u64)) -> u64) -> Result<usize> {
    show(page, |text| {
        proto::Error::ALL
            .iter()
            .try_for_each(|&error| writeln!(text, "{} {}", error.name(), side(broken(error))))
    })
}

/// Reads 0 or 1.
fn switch(text: &[u8]) -> Result<bool> {
    match text.trim_ascii() {
        b"0" => Ok(false),
        b"1" => Ok(true),
        _ => Err(EINVAL),
    }
}

/// Reads what is written to a file that holds 0 or 1.
fn written_switch(file: &NumberFile, dir: &CStr, page: &[u8]) -> Result<bool> {
    switch(page).map_err(|err| refuse(dir, file.name, page, format_args!("neither 0 nor 1"), err))
}

/// Reads what is written to a file that holds a number.
fn written_number(file: &NumberFile, dir: &CStr, page: &[u8]) -> Result<u32> {
    let (least, most) = (file.least, file.most);
    let value = number(page, most).filter(|&value| value >= least);
    value.ok_or_else(|| {
        refuse(
            dir,
            file.name,
            page,
            format_args!("not a number from {least} to {most}"),
            EINVAL,
        )
    })
}

/// Reads a decimal number up to `most`.
fn number(text: &[u8], most: u32) -> Option<u32> {
    let text = core::str::from_utf8(text.trim_ascii()).ok()?;
    text.parse().ok().filter(|&number| number <= most)
}
