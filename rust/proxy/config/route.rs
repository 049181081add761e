// SPDX-License-Identifier: GPL-2.0

//! The directory of a route.
//!
//! Context: process; see [`super`].

use super::{
    name,
    number,
    refuse,
    server::ServerDir,
    show, //
};
use crate::{
    net::sysctl,
    proxy::{
        route::{
            Balance,
            Route, //
        },
        settings::Setting,
        site::Site, //
    }, //
};
use core::fmt::Write;
use kernel::{
    configfs::{
        self,
        configfs_attrs,
        AttributeOperations,
        GroupOperations, //
    },
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::Arc, //
};

/// The directory of a route.
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
        self.route.drain();
    }
}

impl RouteDir {
    /// Makes the directory `dir` of a route of `site`, the site of `listener`.
    pub(super) fn group(
        dir: &CStr,
        site: Arc<Site>,
        listener: &CStr,
    ) -> Result<impl PinInit<configfs::Group<RouteDir>, Error>> {
        let attributes = configfs_attrs! {
            container: configfs::Group<RouteDir>,
            data: RouteDir,
            child: ServerDir,
            attributes: [
                stats: 0,
                balance: 1,
                body_timeout_ms: 100,
                body_rate_min: 101,
                body_max_kib: 102,
                queue_timeout_ms: 103,
                response_timeout_ms: 104,
                send_timeout_ms: 105,
                ws_handshake_timeout_ms: 106,
                ws_idle_timeout_ms: 107,
                ws_client_idle_timeout_ms: 108,
                ws_server_idle_timeout_ms: 109,
                ws_lifetime_ms: 110,
                ws_lifetime_jitter: 111,
                ws_send_timeout_ms: 112,
                ws_half_closed_timeout_ms: 113,
                ws_close_timeout_ms: 114,
                ws_bytes_rate: 115,
                ws_frames_rate: 116,
                ws_rate_burst_ms: 117,
                ws_rate_action: 118,
            ],
        };
        let route = Route::new()?;
        site.set_route(route.clone()).map_err(|err| {
            let why = format_args!("the listener has a route already");
            refuse(listener, "", dir.to_bytes(), why, err)
        })?;
        let made = RouteMade { site, route };
        let route = name(dir)?;
        let data = try_init!(RouteDir { name: route, made });
        Ok(configfs::Group::new(name(dir)?, attributes, data))
    }
}

#[vtable]
impl GroupOperations for RouteDir {
    type Child = ServerDir;

    fn make_group(&self, dir: &CStr) -> Result<impl PinInit<configfs::Group<ServerDir>, Error>> {
        let server = CString::try_from_fmt(fmt!("{}/{}", &*self.name, dir))?;
        ServerDir::group(dir, server, self.made.route.clone())
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

/// Makes a file of a setting: it shows what counts, and takes a number, or `default` for the sysctl's.
macro_rules! setting_file {
    ($($id:literal $setting:ident)*) => {
        $(
            #[vtable]
            impl AttributeOperations<$id> for RouteDir {
                type Data = RouteDir;

                fn show(dir: &RouteDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
                    dir.show_setting(Setting::$setting, page)
                }

                fn store(dir: &RouteDir, page: &[u8]) -> Result {
                    dir.store_setting(Setting::$setting, page)
                }
            }
        )*
    };
}

setting_file! {
    100 BodyTimeout
    101 BodyRateMin
    102 BodyMaxKib
    103 QueueTimeout
    104 ResponseTimeout
    105 SendTimeout
    106 WsHandshakeTimeout
    107 WsIdleTimeout
    108 WsClientIdleTimeout
    109 WsServerIdleTimeout
    110 WsLifetime
    111 WsLifetimeJitter
    112 WsSendTimeout
    113 WsHalfClosedTimeout
    114 WsCloseTimeout
    115 WsBytesRate
    116 WsFramesRate
    117 WsRateBurst
    118 WsRateAction
}

impl RouteDir {
    fn show_setting(&self, setting: Setting, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let settings = &self.made.route.settings;
        show(page, |text| match settings.own(setting) {
            Some(own) => writeln!(text, "{own}"),
            None => writeln!(text, "default {}", setting.default()),
        })
    }

    fn store_setting(&self, setting: Setting, page: &[u8]) -> Result {
        let value = match page.trim_ascii() {
            b"default" => Ok(None),
            _ => number(page, u32::MAX).map(Some).ok_or(EINVAL),
        };
        let set = value.and_then(|value| self.made.route.settings.set(setting, value));
        set.map_err(|err| {
            let name = setting.name().to_str().unwrap_or_default();
            let (least, most) = sysctl::range(setting.name()).unwrap_or_default();
            refuse(
                &self.name,
                name,
                page,
                format_args!("neither 'default' nor a number from {least} to {most}"),
                err,
            )
        })
    }
}
