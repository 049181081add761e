// SPDX-License-Identifier: GPL-2.0

//! The one table of the files below `/sys/kernel/config/squall`: number, name, kind and meaning.
//!
//! The lists of files in `rust/proxy/config`, the ranges and defaults of numbers, and `Documentation/reference.md` are made of
//! this table. The number of a file is unique in its directory: the code of the file is `AttributeOperations<number>`.
//! Settings that a route may override are in `rust/settings.rs`, and are files of a route besides.
//!
//! The file is pure: the host's tools read it, too.

use core::ops::RangeInclusive;

/// What a file holds.
#[derive(Debug)]
pub enum Kind {
    /// Text that can be changed, and its default.
    Text(&'static str),
    /// 0 or 1, and its default.
    Switch(u32),
    /// A number, and its default and range.
    Number(u32, RangeInclusive<u32>),
    /// One `name value` per line; it cannot be written.
    Counters,
}

use Kind::*;

/// A file as the documentation shows it.
#[derive(Debug)]
pub struct File {
    /// Its number in the directory.
    pub id: u64,
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// The meaning, one element for each line of the source.
    pub meaning: &'static [&'static str],
}

/// A file that holds a number or a switch.
#[derive(Clone, Copy, Debug)]
pub struct NumberFile {
    /// Name of the file.
    pub name: &'static str,
    /// Value of a new directory.
    pub default: u32,
    /// Least value.
    pub least: u32,
    /// Largest value.
    pub most: u32,
}

/// Returns the number or switch that the file `id` holds. For constants: compiling fails if there is no such file.
pub const fn number_file(mut files: &[File], id: u64) -> NumberFile {
    let mut found = NumberFile {
        name: "",
        default: 0,
        least: 0,
        most: 0,
    };
    while let [file, others @ ..] = files {
        let (default, least, most) = match &file.kind {
            Number(default, range) => (*default, *range.start(), *range.end()),
            Switch(default) => (*default, 0, 1),
            Text(_) | Counters => (0, 0, 0),
        };
        if file.id == id && most > 0 {
            found = NumberFile {
                name: file.name,
                default,
                least,
                most,
            };
        }
        files = others;
    }
    assert!(!found.name.is_empty(), "no such file");
    found
}

/// Hands the files of the root to the macro `$make`, behind the tokens `$with`.
macro_rules! root_files {
    ($make:ident $($with:tt)*) => {
        $make! {
            $($with)*
            /// Counters of the whole module.
            0 stats = Counters;
            /// How often clients broke each rule of the protocol, one `name value` per line.
            1 refused_requests = Counters;
            /// How often servers broke each rule of the protocol, one `name value` per line.
            2 refused_responses = Counters;
        }
    };
}

/// Hands the files of a listener to the macro `$make`, behind the tokens `$with`.
macro_rules! listener_files {
    ($make:ident $($with:tt)*) => {
        $make! {
            $($with)*
            /// Address where clients connect: `192.0.2.1:80`, `[2001:db8::1]:80`, `0.0.0.0:80`. It is fixed while the listener is enabled.
            0 address = Text("");
            /// 1: the listener accepts connections. 0: it stops listening, completes exchanges, closes idle connections, and closes
            /// tunnels spread over `drain_ms`. Removing the directory does the same. The file reads 0 also after root had the socket
            /// closed (`ss -K`); writing 1 listens again.
            1 enable = Switch(0);
            /// Up to 64 networks (`192.0.2.0/24 2001:db8::/32`) of trusted proxies. Squall keeps their `X-Forwarded-*` and
            /// `Forwarded` fields and appends to them. It replaces those of all others.
            3 trusted = Text("");
            /// 1: Squall also writes a `Forwarded` field (RFC 7239).
            4 forwarded = Switch(0);
            /// 1: Squall adds `Via: 1.1 squall` to requests and responses. RFC 9110 section 7.6.3 asks this of a gateway, and makes it
            /// optional for responses. It is off by default because servers take the field as the sign of a proxy: nginx without
            /// `gzip_proxied any` then sends its responses uncompressed. Without it, messages do not show a loop of gateways. Via
            /// fields of clients and servers pass in any case.
            22 via = Switch(0);
            /// Most connections of the listener, tunnels included. Connections beyond them are reset. 0: no limit.
            20 connections_max = Number(0, 0..=4 << 20);
            /// Up to 64 lines such as `deny 192.0.2.0/24` or `exempt 2001:db8::/32`. The first line that matches a client decides.
            /// `allow` is also the default; `deny` resets the client's connections; `exempt` frees the client from all
            /// limits per client. `deny 0.0.0.0/0` and `deny ::/0` at the end turn the list into a list of allowed clients.
            21 access = Text("");
            /// Counters of the listener.
            2 stats = Counters;
        }
    };
}

/// Hands the files of a route, without its settings, to the macro `$make`, behind the tokens `$with`.
macro_rules! route_files {
    ($make:ident $($with:tt)*) => {
        $make! {
            $($with)*
            /// Host of the requests that take the route: a name, `*.example.com` for all names below it, an address,
            /// `[2001:db8::1]`, or empty for any host. Writing `host path` sets both at once.
            2 host = Text("");
            /// Prefix of the path of these requests, up to 1,024 bytes. It matches whole segments unless it ends with `/`.
            3 path = Text("/");
            /// How a server is chosen. `round-robin`: in turn, according to weight. `least-connections`: the fewest exchanges,
            /// waiting requests and tunnels in relation to weight. `address-hash`: one client address always gets the same server
            /// while that is up. `cookie-hash` and `header-hash`: the same for one value of a cookie or field.
            1 balance = Text("round-robin");
            /// Name of that cookie or field: a token of up to 64 characters.
            5 balance_name = Text("");
            /// 0: requests that take the route get 503, exchanges are completed, and tunnels are closed spread over `drain_ms`.
            4 enable = Switch(1);
            /// Counters of the route.
            0 stats = Counters;
        }
    };
}

/// Hands the files of a server to the macro `$make`, behind the tokens `$with`.
macro_rules! server_files {
    ($make:ident $($with:tt)*) => {
        $make! {
            $($with)*
            /// Address of the server, which must be one host: not `0.0.0.0`, `[::]`, a multicast or broadcast address, or a link-local IPv6
            /// address. It takes effect when it is written. Up to 64 servers share the requests of a route.
            0 address = Text("");
            /// Connections that are opened before a request needs them, and kept ready; at most `connections_max`.
            1 connections = Number(0, 0..=4096);
            /// Most connections, those of tunnels not counted. Further requests wait.
            3 connections_max = Number(1024, 1..=65_536);
            /// How many connections that have served a request are kept for the next one, for `idle_ms`.
            8 idle_max = Number(256, 0..=4096);
            /// Milliseconds for which they are kept. 0: no more than `connections` are kept.
            9 idle_ms = Number(60_000, 0..=86_400_000);
            /// Share of the server in comparison with others. 0: nothing new.
            4 weight = Number(1, 0..=256);
            /// 1: the server gets requests only when no other one is up.
            5 backup = Switch(0);
            /// 0: the server gets nothing new, exchanges are completed, and tunnels are closed spread over `drain_ms`.
            20 enable = Switch(1);
            /// After this many consecutive unanswered requests the server is paused. A request is unanswered if the server accepts it
            /// and then closes the connection, stays silent too long, or sends something that is no response or does not end. A
            /// paused server counts as down and gets one request at a time, with pauses from `backoff_min_ms` to `backoff_max_ms`, until
            /// it answers one. 0: never. That is the default because a client that knows a request on which a
            /// server fails could otherwise have the server paused for everyone.
            6 fails_max = Number(0, 0..=1_000_000);
            /// Milliseconds over which the weight grows from a 16th to the whole after the server was down, paused or unhealthy. It
            /// applies to every `balance`.
            7 slow_start_ms = Number(0, 0..=86_400_000);
            /// Target of health checks: Squall asks for it by GET on a separate connection, for example `/health`. Empty: no checks. A
            /// server whose checks fail gets nothing new while another one is up. Its tunnels stay.
            10 health_path = Text("");
            /// Host field of a check. Empty: the server's address.
            11 health_host = Text("");
            /// Status code, or range of codes (`200-399`), of a successful check.
            12 health_status = Text("200");
            /// Milliseconds between two checks, varied at random by up to an eighth in both directions.
            13 health_interval_ms = Number(2000, 100..=86_400_000);
            /// Milliseconds that a whole check may take.
            14 health_timeout_ms = Number(1000, 1..=86_400_000);
            /// Consecutive successful checks after which the server counts as healthy again.
            15 health_rise = Number(2, 1..=1000);
            /// Consecutive failed checks after which the server counts as unhealthy.
            16 health_fall = Number(3, 1..=1000);
            /// State and counters of the server.
            2 stats = Counters;
        }
    };
}

#[allow(unused_imports)] // The host's tools take the rows alone.
pub(crate) use {listener_files, root_files, route_files, server_files};

/// Makes the rows of one directory.
macro_rules! rows {
    ($($(#[doc = $doc:literal])* $id:literal $name:ident = $kind:expr;)*) => {
        &[$(File {
            id: $id,
            name: stringify!($name),
            kind: $kind,
            meaning: &[$($doc),*],
        },)*]
    };
}

/// Files of the root.
pub const ROOT: &[File] = root_files!(rows);

/// Files of a listener.
pub const LISTENER: &[File] = listener_files!(rows);

/// Files of a route, without its settings.
pub const ROUTE: &[File] = route_files!(rows);

/// Files of a server.
pub const SERVER: &[File] = server_files!(rows);
