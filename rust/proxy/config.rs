// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/config/squall`: a directory is a thing, a file a property of it.
//!
//! ```text
//! squall/{stats,refused_requests,refused_responses}
//! squall/<listener>/{address,enable,trusted,forwarded,stats}
//! squall/<listener>/<route>/{balance,stats}
//! squall/<listener>/<route>/<server>/{address,connections,connections_max,weight,backup,stats}
//! ```
//!
//! A wrong value is refused with an errno, and with a line in the log that names it; what was
//! configured before stays. Removing a server or a route stops new work for it, and leaves exchanges
//! and tunnels that have begun. Disabling a listener stops accepting; removing it also ends its
//! connections: idle ones and tunnels at once, others behind the response under way.
//!
//! Context: process. configfs holds the directory's lock; the mutexes here order the files of one
//! directory. None is ever taken in softirq.

use super::{
    network::{
        Networks,
        NETWORKS_MAX, //
    },
    route::{
        Balance,
        Route, //
    },
    session::{
        broken,
        Session, //
    },
    site::Site, //
};
use crate::{
    net::{
        stats::{
            self,
            Counter, //
        },
        Listener,
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
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    str::{
        CString,
        Formatter, //
    },
    sync::{
        Arc,
        Mutex, //
    }, //
};

mod server;

use self::server::ServerDir;

/// The root directory.
pub(crate) struct Root {}

/// Registers the tree.
pub(crate) fn register() -> impl PinInit<configfs::Subsystem<Root>, Error> {
    let root = configfs_attrs! {
        container: configfs::Subsystem<Root>,
        data: Root,
        child: ListenerDir,
        attributes: [
            stats: 0,
            refused_requests: 1,
            refused_responses: 2,
        ],
    };
    configfs::Subsystem::new(c"squall", root, try_init!(Root {}))
}

/// Writes an attribute's text into its page; returns the length.
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
        let attributes = configfs_attrs! {
            container: configfs::Group<ListenerDir>,
            data: ListenerDir,
            child: RouteDir,
            attributes: [
                address: 0,
                enable: 1,
                stats: 2,
                trusted: 3,
                forwarded: 4,
            ],
        };
        let data = ListenerDir::new(name(dir)?)?;
        Ok(configfs::Group::new(name(dir)?, attributes, data))
    }
}

#[vtable]
impl AttributeOperations<0> for Root {
    type Data = Root;

    fn show(_: &Root, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        show(page, |text| {
            Counter::ALL.iter().try_for_each(|&counter| {
                writeln!(text, "{} {}", counter.name(), stats::sum(counter))
            })
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

/// The directory of a listener. Dropped in order: nothing is accepted any more when the site ends.
#[pin_data]
pub(crate) struct ListenerDir {
    name: CString,
    #[pin]
    state: Mutex<ListenerState>,
    site: SiteMade,
}

/// A site of a listener that is configured; ends it when dropped.
struct SiteMade(Arc<Site>);

impl Drop for SiteMade {
    fn drop(&mut self) {
        self.0.remove();
    }
}

#[derive(Default)]
struct ListenerState {
    addr: Option<SocketAddr>,
    listener: Option<Listener<Session>>,
}

impl ListenerDir {
    fn new(name: CString) -> Result<impl PinInit<ListenerDir, Error>> {
        let site = Site::new()?;
        Ok(try_pin_init!(ListenerDir {
            name,
            state <- new_mutex!(ListenerState::default()),
            site: SiteMade(site),
        }))
    }
}

#[vtable]
impl GroupOperations for ListenerDir {
    type Child = RouteDir;

    fn make_group(&self, dir: &CStr) -> Result<impl PinInit<configfs::Group<RouteDir>, Error>> {
        let attributes = configfs_attrs! {
            container: configfs::Group<RouteDir>,
            data: RouteDir,
            child: ServerDir,
            attributes: [
                stats: 0,
                balance: 1,
            ],
        };
        let route = Route::new()?;
        self.site.0.set_route(route.clone()).map_err(|err| {
            let why = format_args!("the listener has a route already");
            refuse(&self.name, "", dir.to_bytes(), why, err)
        })?;
        let made = RouteMade {
            site: self.site.0.clone(),
            route,
        };
        Ok(configfs::Group::new(
            name(dir)?,
            attributes,
            try_pin_init!(RouteDir {
                name: name(dir)?,
                made,
            }),
        ))
    }
}

#[vtable]
impl AttributeOperations<0> for ListenerDir {
    type Data = ListenerDir;

    fn show(dir: &ListenerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let addr = dir.state.lock().addr;
        show(page, |text| match addr {
            Some(addr) => writeln!(text, "{}", addr.get()),
            None => Ok(()),
        })
    }

    fn store(dir: &ListenerDir, page: &[u8]) -> Result {
        let addr = address(&dir.name, page)?;
        let mut state = dir.state.lock();
        if state.listener.is_some() {
            let why = format_args!("the listener is enabled");
            return Err(refuse(&dir.name, "address", page, why, EBUSY));
        }
        state.addr = Some(addr);
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<1> for ListenerDir {
    type Data = ListenerDir;

    fn show(dir: &ListenerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let enabled = dir.state.lock().listener.is_some();
        show(page, |text| writeln!(text, "{}", u8::from(enabled)))
    }

    fn store(dir: &ListenerDir, page: &[u8]) -> Result {
        let refuse = |why: fmt::Arguments<'_>, err| refuse(&dir.name, "enable", page, why, err);
        let enable = switch(page).map_err(|err| refuse(format_args!("neither 0 nor 1"), err))?;
        let mut state = dir.state.lock();
        if !enable {
            let listener = state.listener.take();
            drop(state);
            drop(listener);
            return Ok(());
        }
        if state.listener.is_some() {
            return Ok(());
        }
        let addr = state
            .addr
            .ok_or_else(|| refuse(format_args!("no address is set"), EINVAL))?;
        let listener = Listener::new(&addr, dir.site.0.clone())
            .map_err(|err| refuse(format_args!("cannot listen on {}", addr.get()), err))?;
        state.listener = Some(listener);
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<2> for ListenerDir {
    type Data = ListenerDir;

    fn show(dir: &ListenerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let counts = &dir.site.0.counts;
        let opened = counts.opened.get();
        let closed = counts.closed.get();
        let tunnels = counts.tunnels_opened.get();
        let ended = counts.tunnels_closed.get();
        show(page, |text| {
            writeln!(text, "accepted {}", opened)?;
            writeln!(text, "connections {}", opened.saturating_sub(closed))?;
            writeln!(text, "requests {}", counts.requests.get())?;
            writeln!(text, "bad_requests {}", counts.refused.get())?;
            writeln!(text, "tunnels_open {}", tunnels.saturating_sub(ended))?;
            writeln!(text, "tunnels {}", tunnels)
        })
    }
}

#[vtable]
impl AttributeOperations<3> for ListenerDir {
    type Data = ListenerDir;

    fn show(dir: &ListenerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        show(page, |text| dir.site.0.show_trusted(text))
    }

    fn store(dir: &ListenerDir, page: &[u8]) -> Result {
        let networks = Networks::parse(page).map_err(|err| {
            refuse(
                &dir.name,
                "trusted",
                page,
                format_args!("not a list of up to {NETWORKS_MAX} networks such as 192.0.2.0/24"),
                err,
            )
        })?;
        dir.site.0.set_trusted(networks);
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<4> for ListenerDir {
    type Data = ListenerDir;

    fn show(dir: &ListenerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let forwarded = dir.site.0.forwarded(None);
        show(page, |text| writeln!(text, "{}", u8::from(forwarded)))
    }

    fn store(dir: &ListenerDir, page: &[u8]) -> Result {
        let forwarded = switch(page).map_err(|err| {
            let why = format_args!("neither 0 nor 1");
            refuse(&dir.name, "forwarded", page, why, err)
        })?;
        dir.site.0.forwarded(Some(forwarded));
        Ok(())
    }
}

/// Reads 0 or 1.
fn switch(text: &[u8]) -> Result<bool> {
    match text.trim_ascii() {
        b"0" => Ok(false),
        b"1" => Ok(true),
        _ => Err(EINVAL),
    }
}

/// The directory of a route.
#[pin_data]
pub(crate) struct RouteDir {
    name: CString,
    made: RouteMade,
}

/// A route in its site; takes it away when dropped.
struct RouteMade {
    site: Arc<Site>,
    route: Arc<Route>,
}

impl Drop for RouteMade {
    fn drop(&mut self) {
        self.site.clear_route();
    }
}

#[vtable]
impl GroupOperations for RouteDir {
    type Child = ServerDir;

    fn make_group(&self, dir: &CStr) -> Result<impl PinInit<configfs::Group<ServerDir>, Error>> {
        let attributes = configfs_attrs! {
            container: configfs::Group<ServerDir>,
            data: ServerDir,
            attributes: [
                address: 0,
                connections: 1,
                stats: 2,
                connections_max: 3,
                weight: 4,
                backup: 5,
            ],
        };
        let server = CString::try_from_fmt(fmt!("{}/{}", &*self.name, dir))?;
        Ok(configfs::Group::new(
            name(dir)?,
            attributes,
            ServerDir::new(server, self.made.route.clone()),
        ))
    }
}

#[vtable]
impl AttributeOperations<0> for RouteDir {
    type Data = RouteDir;

    fn show(dir: &RouteDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let (servers, up) = dir.made.route.count();
        show(page, |text| {
            writeln!(text, "servers {}", servers)?;
            writeln!(text, "servers_up {}", up)
        })
    }
}

#[vtable]
impl AttributeOperations<1> for RouteDir {
    type Data = RouteDir;

    fn show(dir: &RouteDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let balance = dir.made.route.balance(None);
        show(page, |text| writeln!(text, "{}", balance.name()))
    }

    fn store(dir: &RouteDir, page: &[u8]) -> Result {
        let wanted = page.trim_ascii();
        let known = Balance::ALL
            .iter()
            .find(|(_, name)| name.as_bytes() == wanted);
        let Some((balance, _)) = known else {
            let [(_, a), (_, b), (_, c)] = Balance::ALL;
            return Err(refuse(
                &dir.name,
                "balance",
                page,
                format_args!("neither {a} nor {b} nor {c}"),
                EINVAL,
            ));
        };
        dir.made.route.balance(Some(*balance));
        Ok(())
    }
}
