// SPDX-License-Identifier: GPL-2.0

//! The directory of a server.
//!
//! Context: process; see [`super`].

use super::{
    address,
    name,
    number,
    refuse,
    show,
    switch, //
};
use crate::proxy::{
    drain::Tunnels,
    health::{
        self,
        Checks,
        Plan, //
    },
    pool::{
        self,
        Pool,
        Size,
        CONNECTIONS_MAX,
        MOST_MAX, //
    },
    route::{
        Route,
        Share,
        WEIGHT_MAX, //
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

/// How many connections a server has if nobody says otherwise.
const SIZE: Size = Size {
    connections: 0,
    most: 1024,
    idle_most: 256,
    idle_ms: 60_000,
};

/// Largest value of `idle_ms`.
const IDLE_MS_MAX: u32 = 86_400_000;

/// Largest value of `slow_start_ms`.
const SLOW_START_MAX: u32 = 86_400_000;

/// Largest value of `fails_max`.
const FAILS_MAX: u32 = 1_000_000;

/// The directory of a server.
#[pin_data]
pub(crate) struct ServerDir {
    name: CString,
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
    /// Those to all addresses that it had.
    tunnels: Arc<Tunnels>,
}

impl ServerDir {
    /// Makes the directory `dir` of a server of `route`, whom the log calls `server`.
    pub(super) fn group(
        dir: &CStr,
        server: CString,
        route: Arc<Route>,
    ) -> Result<impl PinInit<configfs::Group<ServerDir>, Error>> {
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
                enable: 20,
                fails_max: 6,
                slow_start_ms: 7,
                idle_max: 8,
                idle_ms: 9,
                health_path: 10,
                health_host: 11,
                health_status: 12,
                health_interval_ms: 13,
                health_timeout_ms: 14,
                health_rise: 15,
                health_fall: 16,
            ],
        };
        let tunnels = Arc::new(Tunnels::default(), GFP_KERNEL)?;
        let data = try_pin_init!(ServerDir {
            name: server,
            state <- new_mutex!(ServerState {
                route,
                size: SIZE,
                share: Share::default(),
                enabled: true,
                fails_max: 0,
                slow_start: 0,
                plan: Plan::default(),
                checks: None,
                pool: None,
                tunnels,
            }),
        });
        Ok(configfs::Group::new(name(dir)?, attributes, data))
    }

    /// Refuses a value.
    pub(super) fn refuse(&self, attribute: &str, value: &[u8], why: fmt::Arguments<'_>) -> Error {
        refuse(&self.name, attribute, value, why, EINVAL)
    }
}

impl ServerState {
    /// Has `pool` take the place of the one that there is, and of its checks; if that fails all stays as it was.
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

    /// Takes the pool away.
    fn take_pool(&mut self) {
        shut_down(self.checks.take());
        if let Some(old) = self.pool.take() {
            self.route.remove(&old);
            pool::stop(&old);
        }
    }

    /// Begins the checks that the plan wants for a pool.
    fn new_checks(&self, pool: &ARef<Pool>) -> Result<Option<ARef<Checks>>> {
        match self.plan.path.is_empty() {
            true => Ok(None),
            false => health::start(pool.clone(), &self.plan).map(Some),
        }
    }

    /// Has the server looked after as the plan says now.
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

    /// Tells the pool how large it is to be.
    fn resize(&self) {
        if let Some(pool) = &self.pool {
            pool::resize(pool, self.size);
        }
    }

    /// Returns what the server is to get: nothing new while it is disabled.
    fn share(&self) -> Share {
        let weight = if self.enabled { self.share.weight } else { 0 };
        Share {
            weight,
            ..self.share
        }
    }

    /// Tells the route what the server is to get.
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
impl AttributeOperations<1> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let connections = dir.state.lock().size.connections;
        show(page, |text| writeln!(text, "{}", connections))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let connections = number(page, CONNECTIONS_MAX).ok_or_else(|| {
            dir.refuse(
                "connections",
                page,
                format_args!("not a number from 0 to {CONNECTIONS_MAX}"),
            )
        })?;
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

#[vtable]
impl AttributeOperations<3> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let most = dir.state.lock().size.most;
        show(page, |text| writeln!(text, "{}", most))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let most = number(page, MOST_MAX)
            .filter(|&most| most > 0)
            .ok_or_else(|| {
                dir.refuse(
                    "connections_max",
                    page,
                    format_args!("not a number from 1 to {MOST_MAX}"),
                )
            })?;
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
    }
}

#[vtable]
impl AttributeOperations<4> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let weight = dir.state.lock().share.weight;
        show(page, |text| writeln!(text, "{}", weight))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let weight = number(page, WEIGHT_MAX).ok_or_else(|| {
            dir.refuse(
                "weight",
                page,
                format_args!("not a number from 0 to {WEIGHT_MAX}"),
            )
        })?;
        let mut state = dir.state.lock();
        state.share.weight = weight;
        state.reshare();
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<5> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let backup = dir.state.lock().share.backup;
        show(page, |text| writeln!(text, "{}", u8::from(backup)))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let backup = switch(page)
            .map_err(|_| dir.refuse("backup", page, format_args!("neither 0 nor 1")))?;
        let mut state = dir.state.lock();
        state.share.backup = backup;
        state.reshare();
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<20> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let enabled = dir.state.lock().enabled;
        show(page, |text| writeln!(text, "{}", u8::from(enabled)))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let enabled = switch(page)
            .map_err(|_| dir.refuse("enable", page, format_args!("neither 0 nor 1")))?;
        let mut state = dir.state.lock();
        let was = core::mem::replace(&mut state.enabled, enabled);
        state.reshare();
        match enabled {
            _ if was == enabled => {}
            true => state.tunnels.drain.end(),
            false => state.tunnels.drain(),
        }
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<6> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let fails_max = dir.state.lock().fails_max;
        show(page, |text| writeln!(text, "{}", fails_max))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let fails_max = number(page, FAILS_MAX).ok_or_else(|| {
            dir.refuse(
                "fails_max",
                page,
                format_args!("not a number from 0 to {FAILS_MAX}"),
            )
        })?;
        let mut state = dir.state.lock();
        state.fails_max = fails_max;
        if let Some(pool) = &state.pool {
            pool.set_fails_max(fails_max);
        }
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<7> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let slow_start = dir.state.lock().slow_start;
        show(page, |text| writeln!(text, "{}", slow_start))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let slow_start = number(page, SLOW_START_MAX).ok_or_else(|| {
            dir.refuse(
                "slow_start_ms",
                page,
                format_args!("not a number from 0 to {SLOW_START_MAX}"),
            )
        })?;
        let mut state = dir.state.lock();
        state.slow_start = slow_start;
        if let Some(pool) = &state.pool {
            pool.set_slow_start(slow_start);
        }
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<8> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let value = dir.state.lock().size.idle_most;
        show(page, |text| writeln!(text, "{}", value))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let value = number(page, CONNECTIONS_MAX).ok_or_else(|| {
            dir.refuse(
                "idle_max",
                page,
                format_args!("not a number from 0 to {CONNECTIONS_MAX}"),
            )
        })?;
        let mut state = dir.state.lock();
        state.size.idle_most = value;
        state.resize();
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<9> for ServerDir {
    type Data = ServerDir;

    fn show(dir: &ServerDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let value = dir.state.lock().size.idle_ms;
        show(page, |text| writeln!(text, "{}", value))
    }

    fn store(dir: &ServerDir, page: &[u8]) -> Result {
        let value = number(page, IDLE_MS_MAX).ok_or_else(|| {
            dir.refuse(
                "idle_ms",
                page,
                format_args!("not a number from 0 to {IDLE_MS_MAX}"),
            )
        })?;
        let mut state = dir.state.lock();
        state.size.idle_ms = value;
        state.resize();
        Ok(())
    }
}
