// SPDX-License-Identifier: GPL-2.0

//! The files of a server's directory that say how it is looked after.
//!
//! Context: process; see [`super`].

use super::{
    number,
    server::ServerDir,
    show, //
};
use crate::proxy::health::Plan;
use core::fmt::Write;
use kernel::{
    configfs::AttributeOperations,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Longest path and longest host, in bytes.
const TEXT_MAX: usize = 256;

impl ServerDir {
    /// Changes the plan; if that fails it stays as it was.
    fn replan<T>(&self, place: fn(&mut Plan) -> &mut T, value: T) -> Result {
        let mut state = self.state.lock();
        let old = core::mem::replace(place(&mut state.plan), value);
        state.look_after().inspect_err(|_| {
            *place(&mut state.plan) = old;
        })
    }

    fn show_text(
        &self,
        place: fn(&Plan) -> &KVec<u8>,
        page: &mut [u8; PAGE_SIZE],
    ) -> Result<usize> {
        let state = self.state.lock();
        show(page, |text| {
            match core::str::from_utf8(place(&state.plan)) {
                Ok("") | Err(_) => Ok(()),
                Ok(value) => writeln!(text, "{value}"),
            }
        })
    }

    /// Takes the text of a file: visible ASCII that begins as `begin` says, or nothing.
    fn text(&self, attribute: &str, page: &[u8], begin: &str) -> Result<KVec<u8>> {
        let text = page.trim_ascii();
        let fits = text.is_empty() || text.starts_with(begin.as_bytes());
        if !fits || text.len() > TEXT_MAX || !text.iter().all(u8::is_ascii_graphic) {
            return Err(self.refuse(
                attribute,
                page,
                format_args!("not up to {TEXT_MAX} visible characters that begin with '{begin}'"),
            ));
        }
        let mut value = KVec::new();
        value.extend_from_slice(text, GFP_KERNEL)?;
        Ok(value)
    }
}

#[vtable]
impl AttributeOperations<10> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        dir.show_text(|plan| &plan.path, page)
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let path = dir.text("health_path", page, "/")?;
        dir.replan(|plan| &mut plan.path, path)
    }
}

#[vtable]
impl AttributeOperations<11> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        dir.show_text(|plan| &plan.host, page)
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let host = dir.text("health_host", page, "")?;
        dir.replan(|plan| &mut plan.host, host)
    }
}

#[vtable]
impl AttributeOperations<12> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let (least, most) = dir.state.lock().plan.statuses;
        show(page, |text| match least == most {
            true => writeln!(text, "{least}"),
            false => writeln!(text, "{least}-{most}"),
        })
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let statuses = statuses(page).ok_or_else(|| {
            let why = format_args!("neither a status code from 200 to 599 nor a range of them");
            dir.refuse("health_status", page, why)
        })?;
        dir.replan(|plan| &mut plan.statuses, statuses)
    }
}

/// Reads a status code, or a range of them such as `200-399`.
fn statuses(page: &[u8]) -> Option<(u16, u16)> {
    let code = |text: &[u8]| {
        let code = number(text, 599).filter(|&code| code >= 200)?;
        u16::try_from(code).ok()
    };
    let mut ends = page.trim_ascii().splitn(2, |&byte| byte == b'-');
    let least = code(ends.next()?)?;
    let most = match ends.next() {
        Some(text) => code(text)?,
        None => least,
    };
    (least <= most).then_some((least, most))
}

/// Makes a file of a number of the plan.
macro_rules! number_file {
    ($($id:literal $name:literal $field:ident $least:literal to $most:literal;)*) => {
        $(
            #[vtable]
            impl AttributeOperations<$id> for ServerDir {
                type Data = ServerDir;

                fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
                    let value = dir.state.lock().plan.$field;
                    show(page, |text| writeln!(text, "{value}"))
                }

                fn store(dir: &ServerDir, page: &[u8]) -> Result {
                    let value = number(page, $most).filter(|&value| value >= $least);
                    let value = value.ok_or_else(|| {
                        dir.refuse(
                            $name,
                            page,
                            format_args!("not a number from {} to {}", $least, $most),
                        )
                    })?;
                    dir.replan(|plan| &mut plan.$field, value)
                }
            }
        )*
    };
}

number_file! {
    13 "health_interval_ms" interval 100 to 86400000;
    14 "health_timeout_ms" timeout 1 to 86400000;
    15 "health_rise" rise 1 to 1000;
    16 "health_fall" fall 1 to 1000;
}
