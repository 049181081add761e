// SPDX-License-Identifier: GPL-2.0

//! The directory of a server.
//!
//! Context: process; see [`super`].

use super::{
    address,
    name,
    number_files,
    refuse,
    show,
    written_number,
    written_switch, //
};
use crate::{
    attributes::{
        number_file,
        server_files,
        SERVER, //
    },
    proxy::{
        drain::Tunnels,
        health::{
            self,
            Checks,
            Plan, //
        },
        pool::{
            self,
            Pool,
            Size, //
        },
        route::{
            Route,
            Share, //
        }, //
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
        AttributeOperations, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    }, //
};

/// The default sizes of a server's pool.
const SIZE: Size = Size {
    connections: number_file(SERVER, 1).default,
    most: number_file(SERVER, 3).default,
    idle_most: number_file(SERVER, 8).default,
    idle_ms: number_file(SERVER, 9).default,
};

/// The directory of a server.
#[pin_data]
pub(crate) struct ServerDir {
    pub(super) name: CString,
    #[pin]
    pub(super) state: Mutex<ServerState>,
}

pub(super) struct ServerState {
    route: Arc<Route>,
    size: Size,
    share: Share,
    enabled: bool,
    fails_max: u32,
    slow_start: u32,
    pub(super) plan: Plan,
    checks: Option<ARef<Checks>>,
    pool: Option<ARef<Pool>>,
    /// The tunnels to all addresses that it has had.
    tunnels: Arc<Tunnels>,
}

macro_rules! files {
    ($($(#[$doc:meta])* $id:literal $name:ident = $kind:expr;)*) => {
        fn attributes() -> &'static configfs::ItemType<configfs::Group<ServerDir>, ServerDir> {
            configfs_attrs! {
                container: configfs::Group<ServerDir>,
                data: ServerDir,
                attributes: [$($name: $id,)*],
            }
        }
    };
}

server_files!(files);

number_files! { ServerDir of SERVER, written_number;
    1 |dir| dir.state.lock().size.connections, |dir, connections, page| {
        let mut state = dir.state.lock();
        if connections > state.size.most {
            return Err(dir.refuse(
                "connections",
                page,
                format_args!("connections_max is {}", state.size.most),
            ));
        }
        state.size.connections = connections;
        state.resize();
        Ok(())
    };
    3 |dir| dir.state.lock().size.most, |dir, most, page| {
        let mut state = dir.state.lock();
        if most < state.size.connections {
            return Err(dir.refuse(
                "connections_max",
                page,
                format_args!("connections is {}", state.size.connections),
            ));
        }
        state.size.most = most;
        state.resize();
        Ok(())
    };
    8 |dir| dir.state.lock().size.idle_most, |dir, value, _| {
        let mut state = dir.state.lock();
        state.size.idle_most = value;
        state.resize();
        Ok(())
    };
    9 |dir| dir.state.lock().size.idle_ms, |dir, value, _| {
        let mut state = dir.state.lock();
        state.size.idle_ms = value;
        state.resize();
        Ok(())
    };
    4 |dir| dir.state.lock().share.weight, |dir, weight, _| {
        let mut state = dir.state.lock();
        state.share.weight = weight;
        state.reshare();
        Ok(())
    };
    6 |dir| dir.state.lock().fails_max, |dir, fails_max, _| {
        let mut state = dir.state.lock();
        state.fails_max = fails_max;
        if let Some(pool) = &state.pool {
            pool.set_fails_max(fails_max);
        }
        Ok(())
    };
    7 |dir| dir.state.lock().slow_start, |dir, slow_start, _| {
        let mut state = dir.state.lock();
        state.slow_start = slow_start;
        if let Some(pool) = &state.pool {
            pool.set_slow_start(slow_start);
        }
        Ok(())
    };
}

number_files! { ServerDir of SERVER, written_switch;
    5 |dir| dir.state.lock().share.backup, |dir, backup, _| {
        let mut state = dir.state.lock();
        state.share.backup = backup;
        state.reshare();
        Ok(())
    };
    20 |dir| dir.state.lock().enabled, |dir, enabled, _| {
        let mut state = dir.state.lock();
        let was = core::mem::replace(&mut state.enabled, enabled);
        state.reshare();
        match enabled {
            _ if was == enabled => {}
            true => state.tunnels.drain.end(),
            false => state.tunnels.drain(),
        }
        Ok(())
    };
}

impl ServerDir {
    /// Makes the directory `dir` of a server of `route`. The log calls the server `server`.
    pub(super) fn group(
        dir: &CStr,
        server: CString,
        route: Arc<Route>,
    ) -> Result<impl PinInit<configfs::Group<ServerDir>, Error>> {
        let tunnels = Arc::new(Tunnels::default(), GFP_KERNEL)?;
        let data = try_pin_init!(ServerDir {
            name: server,
            state <- new_mutex!(ServerState {
                route,
                size: SIZE,
                share: Share::default(),
                enabled: true,
                fails_max: number_file(SERVER, 6).default,
                slow_start: number_file(SERVER, 7).default,
                plan: Plan::default(),
                checks: None,
                pool: None,
                tunnels,
            }),
        });
        Ok(configfs::Group::new(name(dir)?, attributes(), data))
    }

    /// Refuses a value.
    pub(super) fn refuse(&self, attribute: &str, value: &[u8], why: fmt::Arguments<'_>) -> Error {
        refuse(&self.name, attribute, value, why, EINVAL)
    }
}

impl ServerState {
    /// Replaces the current pool and its checks by `pool`. If that fails, everything stays as it was.
    fn set_pool(&mut self, pool: &ARef<Pool>) -> Result {
        let checks = self.new_checks(pool)?;
        let placed = match &self.pool {
            Some(old) => {
                self.route.replace(old, pool.clone());
                Ok(())
            }
            None => self.route.add(pool.clone(), self.share()),
        };
        if let Err(err) = placed {
            shut_down(checks);
            return Err(err);
        }
        shut_down(core::mem::replace(&mut self.checks, checks));
        if let Some(old) = self.pool.replace(pool.clone()) {
            pool::stop(&old);
        }
        Ok(())
    }

    /// Removes the pool.
    fn take_pool(&mut self) {
        shut_down(self.checks.take());
        if let Some(old) = self.pool.take() {
            self.route.remove(&old);
            pool::stop(&old);
        }
    }

    /// Begins the checks of the plan for a pool.
    fn new_checks(&self, pool: &ARef<Pool>) -> Result<Option<ARef<Checks>>> {
        match self.plan.path.is_empty() {
            true => Ok(None),
            false => health::start(pool.clone(), &self.plan).map(Some),
        }
    }

    /// Restarts the checks with the current plan.
    pub(super) fn look_after(&mut self) -> Result {
        let checks = match &self.pool {
            Some(pool) => self.new_checks(pool)?,
            None => None,
        };
        if let (Some(pool), None) = (&self.pool, &checks) {
            pool.end_checks();
        }
        shut_down(core::mem::replace(&mut self.checks, checks));
        Ok(())
    }

    /// Tells the pool its sizes.
    fn resize(&self) {
        if let Some(pool) = &self.pool {
            pool::resize(pool, self.size);
        }
    }

    /// Returns the server's share: nothing new while it is disabled.
    fn share(&self) -> Share {
        let weight = if self.enabled { self.share.weight } else { 0 };
        Share {
            weight,
            ..self.share
        }
    }

    /// Tells the route the server's share.
    fn reshare(&self) {
        if let Some(pool) = &self.pool {
            self.route.set_share(pool, self.share());
        }
    }
}

/// Ends checks.
fn shut_down(checks: Option<ARef<Checks>>) {
    if let Some(checks) = checks {
        checks.shutdown();
    }
}

impl Drop for ServerState {
    fn drop(&mut self) {
        let had_address = self.pool.is_some();
        self.take_pool();
        if had_address {
            self.tunnels.drain();
        }
    }
}

#[vtable]
impl AttributeOperations<0> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let addr = dir.state.lock().pool.as_ref().map(|pool| *pool.addr());
        show(page, |text| match addr {
            Some(addr) => writeln!(text, "{}", addr.get()),
            None => Ok(()),
        })
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let addr = address(&dir.name, page)?;
        if !addr.is_reachable() {
            let why = format_args!("not the address of one host that a connection can lead to");
            return Err(dir.refuse("address", page, why));
        }
        let mut state = dir.state.lock();
        let pool = pool::start(addr, state.size, state.tunnels.clone())?;
        pool.set_fails_max(state.fails_max);
        pool.set_slow_start(state.slow_start);
        state.set_pool(&pool).map_err(|err| {
            pool::stop(&pool);
            let why = match err {
                ENOSPC => "the route has too many servers",
                _ => "no memory",
            };
            refuse(&dir.name, "address", page, format_args!("{why}"), err)
        })
    }
}

#[vtable]
impl AttributeOperations<2> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let state = dir.state.lock();
        let (pool, tunnels) = (state.pool.clone(), state.tunnels.clone());
        drop(state);
        let Some(pool) = pool else {
            return Ok(0);
        };
        let now = pool.snapshot();
        let counts = &pool.counts;
        show(page, |text| {
            writeln!(text, "connected {}", now.idle.saturating_add(now.busy))?;
            writeln!(text, "idle {}", now.idle)?;
            writeln!(text, "busy {}", now.busy)?;
            writeln!(text, "connecting {}", now.connecting)?;
            writeln!(text, "waiting {}", now.waiting)?;
            writeln!(text, "tunnels_open {}", tunnels.open())?;
            writeln!(text, "failures {}", now.failures)?;
            writeln!(text, "backoff_ms {}", now.backoff)?;
            writeln!(text, "connects {}", counts.connects.get())?;
            writeln!(text, "established {}", counts.connected.get())?;
            writeln!(text, "connect_failed {}", counts.connect_failed.get())?;
            writeln!(text, "requests {}", counts.requests.get())?;
            writeln!(text, "tunnels {}", counts.tunnels_opened.get())?;
            writeln!(text, "up {}", u8::from(now.up))?;
            writeln!(text, "fails {}", now.fails)?;
            writeln!(text, "requests_failed {}", counts.requests_failed.get())?;
            writeln!(text, "responses_refused {}", counts.responses_refused.get())?;
            writeln!(text, "healthy {}", u8::from(now.healthy))?;
            writeln!(text, "checks {}", counts.checks.get())?;
            writeln!(text, "checks_failed {}", counts.checks_failed.get())
        })
    }
}
