// SPDX-License-Identifier: GPL-2.0

//! The directory of a listener.
//!
//! Context: process; see [`super`].

use super::{
    address,
    name,
    number_files,
    refuse,
    route::RouteDir,
    show,
    switch,
    written_number,
    written_switch, //
};
use crate::{
    attributes::{
        listener_files,
        LISTENER, //
    },
    net::{
        Listener,
        SocketAddr, //
    },
    proxy::{
        access::{
            Rules,
            RULES_MAX, //
        },
        network::{
            Networks,
            NETWORKS_MAX, //
        },
        session::Session,
        site::Site, //
    }, //
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
    str::CString,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// The directory of a listener. Its fields are dropped in order: accepting stops before the site ends.
#[pin_data]
pub(crate) struct ListenerDir {
    name: CString,
    #[pin]
    state: Mutex<ListenerState>,
    site: SiteMade,
}

/// The site of a configured listener. Dropping it drains the site.
struct SiteMade(Arc<Site>);

impl Drop for SiteMade {
    fn drop(&mut self) {
        self.0.drain();
    }
}

#[derive(Default)]
struct ListenerState {
    addr: Option<SocketAddr>,
    listener: Option<Listener<Session>>,
}

impl ListenerState {
    /// Returns whether connections are accepted.
    fn is_enabled(&self) -> bool {
        self.listener.as_ref().is_some_and(Listener::listens)
    }
}

impl ListenerDir {
    /// Makes the directory `dir`.
    pub(super) fn group(dir: &CStr) -> Result<impl PinInit<configfs::Group<ListenerDir>, Error>> {
        let (listener, site) = (name(dir)?, SiteMade(Site::new(name(dir)?)?));
        let data = try_pin_init!(ListenerDir {
            name: listener,
            state <- new_mutex!(ListenerState::default()),
            site,
        });
        Ok(configfs::Group::new(name(dir)?, attributes(), data))
    }
}

macro_rules! files {
    ($($(#[$doc:meta])* $id:literal $name:ident = $kind:expr;)*) => {
        fn attributes() -> &'static configfs::ItemType<configfs::Group<ListenerDir>, ListenerDir> {
            configfs_attrs! {
                container: configfs::Group<ListenerDir>,
                data: ListenerDir,
                child: RouteDir,
                attributes: [$($name: $id,)*],
            }
        }
    };
}

listener_files!(files);

number_files! { ListenerDir of LISTENER, written_switch;
    4 |dir| dir.site.0.forwarded(None), |dir, value, _| {
        dir.site.0.forwarded(Some(value));
        Ok(())
    };
    22 |dir| dir.site.0.via(), |dir, value, _| {
        dir.site.0.set_via(value);
        Ok(())
    };
}

number_files! { ListenerDir of LISTENER, written_number;
    20 |dir| dir.site.0.door.connections_max(None), |dir, value, _| {
        dir.site.0.door.connections_max(Some(value));
        Ok(())
    };
}

#[vtable]
impl GroupOperations for ListenerDir {
    type Child = RouteDir;

    fn make_group(&self, dir: &CStr) -> Result<impl PinInit<configfs::Group<RouteDir>, Error>> {
        RouteDir::group(dir, self.site.0.clone(), &self.name)
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
        if state.is_enabled() {
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
        let enabled = dir.state.lock().is_enabled();
        show(page, |text| writeln!(text, "{}", u8::from(enabled)))
    }

    fn store(dir: &ListenerDir, page: &[u8]) -> Result {
        let refuse = |why: fmt::Arguments<'_>, err| refuse(&dir.name, "enable", page, why, err);
        let enable = switch(page).map_err(|err| refuse(format_args!("neither 0 nor 1"), err))?;
        let mut state = dir.state.lock();
        if !enable {
            if let Some(listener) = state.listener.take() {
                drop(listener);
                // Before anybody else can enable it.
                dir.site.0.drain();
            }
            return Ok(());
        }
        if state.is_enabled() {
            return Ok(());
        }
        let addr = state
            .addr
            .ok_or_else(|| refuse(format_args!("no address is set"), EINVAL))?;
        let listener = Listener::new(&addr, dir.site.0.clone())
            .map_err(|err| refuse(format_args!("cannot listen on {}", addr.get()), err))?;
        state.listener = Some(listener);
        // A connection accepted before this ends after its first response.
        dir.site.0.drain.end();
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
            writeln!(text, "tunnels {}", tunnels)?;
            writeln!(text, "no_route {}", counts.no_route.get())?;
            dir.site.0.door.show(text)
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
impl AttributeOperations<21> for ListenerDir {
    type Data = ListenerDir;

    fn show(dir: &ListenerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        show(page, |text| dir.site.0.show_rules(text))
    }

    fn store(dir: &ListenerDir, page: &[u8]) -> Result {
        let rules = Rules::parse(page).map_err(|err| {
            refuse(
                &dir.name,
                "access",
                page,
                format_args!("not up to {RULES_MAX} lines such as 'deny 192.0.2.0/24', with allow, deny or exempt"),
                err,
            )
        })?;
        dir.site.0.set_rules(rules);
        Ok(())
    }
}
