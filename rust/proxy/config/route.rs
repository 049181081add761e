// SPDX-License-Identifier: GPL-2.0

//! The directory of a route.
//!
//! Context: process; see [`super`].

use super::{
    name,
    number,
    number_files,
    refuse,
    server::ServerDir,
    show,
    written_switch, //
};
use crate::{
    attributes::{
        route_files,
        ROUTE, //
    },
    proto::sticky::NAME_MAX,
    proxy::{
        route::{
            Balance,
            Name,
            Route, //
        },
        settings::Setting,
        site::Site, //
    },
    settings::settings, //
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

/// A route in its site. Dropping it removes the route.
struct RouteMade {
    site: Arc<Site>,
    route: Arc<Route>,
}

impl RouteMade {
    fn is_placed(&self) -> bool {
        self.site.router.is_placed(&self.route)
    }
}

impl Drop for RouteMade {
    fn drop(&mut self) {
        self.site.router.remove(&self.route);
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
        let route = Route::new(name(dir)?)?;
        site.router.add(route.clone()).map_err(|err| {
            let why = match err {
                ENOSPC => "the listener has as many routes as it may",
                _ => "no memory",
            };
            refuse(listener, "", dir.to_bytes(), format_args!("{why}"), err)
        })?;
        let made = RouteMade { site, route };
        let route = name(dir)?;
        let data = try_init!(RouteDir { name: route, made });
        Ok(configfs::Group::new(name(dir)?, attributes(), data))
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
            writeln!(text, "servers_up {}", up)?;
            writeln!(text, "requests {}", dir.made.route.requests.get())?;
            writeln!(text, "tunnels_open {}", dir.made.route.tunnels_open())?;
            writeln!(text, "placed {}", u8::from(dir.made.is_placed()))?;
            dir.made.route.gate.show(text)
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
            let [(_, a), (_, b), (_, c), (_, d), (_, e)] = Balance::ALL;
            return Err(refuse(
                &dir.name,
                "balance",
                page,
                format_args!("none of {a}, {b}, {c}, {d}, {e}"),
                EINVAL,
            ));
        };
        dir.made.route.balance(Some(*balance));
        Ok(())
    }
}

#[vtable]
impl AttributeOperations<2> for RouteDir {
    type Data = RouteDir;

    fn show(dir: &RouteDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let made = &dir.made;
        let router = &made.site.router;
        router.with_key(&made.route, |host, _| show_text(host, page))
    }

    /// Takes a host, or a host and a path, so that both can be changed at once.
    fn store(dir: &RouteDir, page: &[u8]) -> Result {
        let text = page.trim_ascii();
        let (host, path) = match text.iter().position(u8::is_ascii_whitespace) {
            _ if text.starts_with(b"/") => (Some(&b""[..]), Some(text)),
            Some(end) => (text.get(..end), text.get(end..).map(<[u8]>::trim_ascii)),
            None => (Some(text), None),
        };
        dir.store_key("host", page, host, path)
    }
}

#[vtable]
impl AttributeOperations<3> for RouteDir {
    type Data = RouteDir;

    fn show(dir: &RouteDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let made = &dir.made;
        let router = &made.site.router;
        router.with_key(&made.route, |_, path| show_text(path, page))
    }

    fn store(dir: &RouteDir, page: &[u8]) -> Result {
        dir.store_key("path", page, None, Some(page.trim_ascii()))
    }
}

/// Shows a text and a line feed, or nothing if it is empty.
fn show_text(value: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
    let value = core::str::from_utf8(value).unwrap_or_default();
    show(page, |text| match value {
        "" => Ok(()),
        value => writeln!(text, "{value}"),
    })
}

#[vtable]
impl AttributeOperations<5> for RouteDir {
    type Data = RouteDir;

    fn show(dir: &RouteDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let name = dir.made.route.balance_name(None);
        show_text(name.as_bytes(), page)
    }

    fn store(dir: &RouteDir, page: &[u8]) -> Result {
        let name = Name::new(page.trim_ascii()).map_err(|err| {
            refuse(
                &dir.name,
                "balance_name",
                page,
                format_args!("not a token of up to {NAME_MAX} characters"),
                err,
            )
        })?;
        dir.made.route.balance_name(Some(name));
        Ok(())
    }
}

number_files! { RouteDir of ROUTE, written_switch;
    4 |dir| !dir.made.route.drain.is_on(), |dir, enabled, _| {
        let route = &dir.made.route;
        match enabled {
            true => route.drain.end(),
            false if !route.drain.is_on() => route.drain(),
            false => {}
        }
        Ok(())
    };
}

/// Makes the list of a route's files: those of its settings, and its others.
macro_rules! files {
    (
        settings { $($setting:ident: $setting_id:literal,)* }
        $($(#[$doc:meta])* $id:literal $name:ident = $kind:expr;)*
    ) => {
        fn attributes() -> &'static configfs::ItemType<configfs::Group<RouteDir>, RouteDir> {
            configfs_attrs! {
                container: configfs::Group<RouteDir>,
                data: RouteDir,
                child: ServerDir,
                attributes: [$($name: $id,)* $($setting: $setting_id,)*],
            }
        }
    };
}

/// Makes the files of a route's settings. Such a file shows what counts, and takes a number, or `default` for the sysctl's.
macro_rules! setting_files {
    (
        global { $($global:tt)* }
        route { $($(#[$doc:meta])* $id:literal $variant:ident $name:ident = $default:expr, $range:expr, $unit:literal;)* }
    ) => {
        route_files!(files settings { $($name: $id,)* });

        $(
            #[vtable]
            impl AttributeOperations<$id> for RouteDir {
                type Data = RouteDir;

                fn show(dir: &RouteDir, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
                    dir.show_setting(Setting::$variant, page)
                }

                fn store(dir: &RouteDir, page: &[u8]) -> Result {
                    dir.store_setting(Setting::$variant, page)
                }
            }
        )*
    };
}

settings!(setting_files);

impl RouteDir {
    fn store_key(
        &self,
        attribute: &str,
        page: &[u8],
        host: Option<&[u8]>,
        path: Option<&[u8]>,
    ) -> Result {
        let set = self.made.site.router.set(&self.made.route, host, path);
        set.map_err(|err| {
            let why = match (err, host) {
                (EEXIST, _) => "another route of the listener has this host and path",
                (EINVAL, Some(_)) => {
                    "neither empty nor of the form name, *.name or [v6], and perhaps a path"
                }
                (EINVAL, None) => "not of the form / or /a/b, or in no form that is compared",
                _ => "no memory",
            };
            refuse(&self.name, attribute, page, format_args!("{why}"), err)
        })
    }

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
            let (least, most) = setting.range();
            refuse(
                &self.name,
                setting.name(),
                page,
                format_args!("neither 'default' nor a number from {least} to {most}"),
                err,
            )
        })
    }
}
