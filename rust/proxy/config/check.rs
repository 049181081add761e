// SPDX-License-Identifier: GPL-2.0

//! The files of a server's directory for its health checks.
//!
//! Context: process; see [`super`].

use super::{
    number,
    number_files,
    server::ServerDir,
    show,
    written_number, //
};
use crate::{
    attributes::SERVER,
    proxy::health::Plan, //
};
use core::fmt::Write;
use kernel::{
    configfs::AttributeOperations,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Longest path and longest host, in bytes.
const TEXT_MAX: usize = 256;

impl ServerDir {
    /// Changes the plan. If that fails, the plan stays as it was.
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

    /// Takes the text of a file: visible ASCII that begins with `begin`, or nothing.
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

number_files! { ServerDir of SERVER, written_number;
    13 |dir| dir.state.lock().plan.interval, |dir, value, _| dir.replan(|plan| &mut plan.interval, value);
    14 |dir| dir.state.lock().plan.timeout, |dir, value, _| dir.replan(|plan| &mut plan.timeout, value);
    15 |dir| dir.state.lock().plan.rise, |dir, value, _| dir.replan(|plan| &mut plan.rise, value);
    16 |dir| dir.state.lock().plan.fall, |dir, value, _| dir.replan(|plan| &mut plan.fall, value);
}
