// SPDX-License-Identifier: GPL-2.0

//! The one table of settings: name, default, range, unit, scope and meaning of each `net.squall.*`.
//!
//! Everything else is made of this table: the sysctls and their accessors ([`crate::net::sysctl`]), the settings and the
//! files of a route, and `Documentation/reference.md`. An entry is
//!
//! ```text
//! /// What the setting means.
//! name = default, range, unit;
//! ```
//!
//! In the section `global` it counts for all listeners. In the section `route` a route may override it, by a file of the same
//! name. Such an entry begins with the number of that file, which is unique in the directory of a route, and with
//! the variant of `Setting`.
//!
//! The file is pure: the host's tools read it, too.

/// Ranges that several settings have in common.
#[allow(missing_docs)]
pub mod range {
    use core::ops::RangeInclusive;

    pub const DAY_MS: u32 = 24 * 3600 * 1000;
    pub const MONTH_MS: u32 = 30 * DAY_MS;
    /// A time that has to be there.
    pub const TIME: RangeInclusive<u32> = 1..=DAY_MS;
    /// A time that may be longer, and 0 for none.
    pub const LONG_TIME: RangeInclusive<u32> = 0..=MONTH_MS;
    pub const LINE: RangeInclusive<u32> = 8..=65_000;
    pub const HEAD: RangeInclusive<u32> = 1024..=65_000;
    pub const CHUNK: RangeInclusive<u32> = 8..=32_768;
    pub const ANY: RangeInclusive<u32> = 0..=u32::MAX;
    pub const BUFFER: RangeInclusive<u32> = 65_536..=64 << 20;
    pub const QUEUE: RangeInclusive<u32> = 4096..=16 << 20;
    pub const COUNT: RangeInclusive<u32> = 1..=4 << 20;
    /// A count for which 0 is no limit.
    pub const LIMIT: RangeInclusive<u32> = 0..=4 << 20;
    /// Events per second, and 0 for no limit.
    pub const RATE: RangeInclusive<u32> = 0..=1_000_000;
    pub const BURST: RangeInclusive<u32> = 1..=1_000_000;
    pub const TUNNEL_RATE: RangeInclusive<u32> = 0..=1 << 30;
    pub const SWITCH: RangeInclusive<u32> = 0..=1;
    pub const ACTION: RangeInclusive<u32> = 0..=2;
}

/// Hands the table to the macro `$make`.
macro_rules! settings {
    ($make:ident) => {
        $make! {
            global {
                /// Longest time from accepting a connection to the first byte of its first request. Then the connection is closed.
                first_byte_timeout_ms = 10_000, TIME, "ms";
                /// Longest time from the first byte of a request to the end of its head. Then the request gets 408.
                head_timeout_ms = 10_000, TIME, "ms";
                /// Longest pause of a client connection between two requests. Then the connection is closed.
                keepalive_timeout_ms = 60_000, TIME, "ms";
                /// Longest time that connecting to a server may take.
                connect_timeout_ms = 5000, TIME, "ms";
                /// Longest time from our FIN to the FIN of the peer, once everything is acknowledged. Bytes that still arrive are
                /// thrown away and restart the time, up to six times this value in all. Then TCP alone waits for the FIN, as after
                /// `close()`: for `net.ipv4.tcp_fin_timeout`, with a socket of 256 bytes, and without a reset unless more
                /// bytes arrive. What stays unacknowledged for `send_timeout_ms` is reset.
                linger_timeout_ms = 5000, TIME, "ms";
                /// Wait before the first attempt to reconnect. The wait doubles with each attempt, with jitter.
                backoff_min_ms = 50, TIME, "ms";
                /// Longest wait between two attempts to reconnect.
                backoff_max_ms = 1000, TIME, "ms";
                /// Longest request line, CR LF included. A longer one gets 414.
                request_line_max = 8192, LINE, "bytes";
                /// Longest field line, CR LF included. A longer one gets 431.
                field_line_max = 16_384, LINE, "bytes";
                /// Longest head. A longer one gets 431.
                head_max = 16_384, HEAD, "bytes";
                /// Most field lines of a head. More get 431. A head with more than 88 fields takes 4 KiB of additional memory until it
                /// is forwarded.
                fields_max = 128, 8..=256, "lines";
                /// Longest line of a chunk size, extensions and CR LF included. A longer one gets 400.
                chunk_line_max = 1024, CHUNK, "bytes";
                /// How many bytes more the lines of chunk sizes may have than the content of the body. More get 400.
                chunk_excess_max = 16_384, CHUNK, "bytes";
                /// Longest trailer section. A longer one gets 431.
                trailers_max = 8192, LINE, "bytes";
                /// Most field lines of a trailer section. More get 431.
                trailer_fields_max = 32, 0..=256, "lines";
                /// Most requests in a row that a client sends before the previous response is complete. The connection is closed
                /// after the response to the last one.
                pipelined_max = 1000, 1..=65_535, "requests";
                /// Most requests on one client connection. The connection is closed after the response to the last one.
                requests_max = 100_000, 1..=(1 << 28) - 1, "requests";
                /// Most interim responses (1xx) to one request. With more the request gets 502. While the client does not
                /// read, they wait: at most `queue_high` and one more head of them are queued.
                interim_max = 64, 1..=1000, "responses";
                /// Most memory that the unread data of a socket takes, overhead included.
                rcvbuf = 262_144, BUFFER, "bytes";
                /// Most memory that the unacknowledged data of a socket takes, overhead included.
                sndbuf = 4_194_304, BUFFER, "bytes";
                /// A writer pauses when the queue pins this much memory. The receiver's `rcvbuf` is an upper bound.
                queue_high = 131_072, QUEUE, "bytes";
                /// A paused writer goes on when the queue pins no more than this much memory.
                queue_low = 32_768, QUEUE, "bytes";
                /// Most unsent bytes of a socket.
                unsent_max = 131_072, QUEUE, "bytes";
                /// Pieces of at least this size, alone or on average with their neighbours, are forwarded by reference. Smaller
                /// pieces are copied.
                splice_min = 1024, 64..=65_536, "bytes";
                /// Most connections, those of clients and those to servers together.
                connections_max = 131_072, COUNT, "connections";
                /// Most requests that wait for a connection to one server. A request beyond them gets 503.
                waiters_max = 16_384, COUNT, "requests";
                /// Time over which the tunnels of a disabled or removed listener, route or server are closed, evenly
                /// one after the other.
                drain_ms = 10_000, 0..=DAY_MS, "ms";
                /// 1: draining closes tunnels with the status code 1012 (service restart). 0: with 1001 (going away).
                drain_restart = 0, SWITCH, "";
                /// Most attempts to connect per second, to all servers together. Servers take turns.
                connects_per_second = 10_000, 1..=1_000_000, "per second";
                /// Silence after which TCP probes a server. The server is given up after the same time without an answer. 0: never.
                tcp_keepalive_ms = 60_000, 0..=DAY_MS, "ms";
                /// Length of the IPv4 prefix that identifies a client.
                client_prefix_v4 = 32, 1..=32, "bits";
                /// Length of the IPv6 prefix that identifies a client.
                client_prefix_v6 = 64, 1..=128, "bits";
                /// Most connections of one client to a listener, tunnels included. 0: no limit.
                client_connections_max = 0, LIMIT, "connections";
                /// Most new connections of one client to a listener per second. 0: no limit.
                client_connections_rate = 0, RATE, "per second";
                /// Most new connections of one client that may come at once.
                client_connections_burst = 100, BURST, "connections";
                /// What happens to a connection beyond these limits. 0: it is reset before a byte is read. 1: its first request gets
                /// 429 and the connection is closed, after `first_byte_timeout_ms` at the latest.
                client_connections_action = 0, SWITCH, "";
                /// Most connections of a listener that get this 429 at one time, until they are closed. Connections beyond them
                /// are reset at once.
                turned_away_max = 1024, LIMIT, "connections";
                /// Most memory that all connections together hold. 0: a quarter of the machine's memory.
                memory_max_mib = 0, ANY, "MiB";
                /// Most memory that the connections of one client hold at all listeners, its tunnels' connections to servers
                /// included. 0: no limit.
                client_memory_max_kib = 0, ANY, "KiB";
            }
            route {
                /// Longest pause of a client within the body of a request. Then the request gets 408.
                100 BodyTimeout body_timeout_ms = 30_000, TIME, "ms";
                /// Lowest rate of a request's content, measured over `body_timeout_ms` while the server takes the bytes. A slower
                /// request gets 408. 0: any rate.
                101 BodyRateMin body_rate_min = 100, ANY, "bytes per second";
                /// Largest content of a request. A larger one gets 413. 0: no limit.
                102 BodyMaxKib body_max_kib = 1_048_576, ANY, "KiB";
                /// Longest time that a request waits for a server connection. Then it gets 504.
                103 QueueTimeout queue_timeout_ms = 5000, TIME, "ms";
                /// Longest pause of a server before and within a response. Then the request gets 504.
                104 ResponseTimeout response_timeout_ms = 60_000, TIME, "ms";
                /// Longest time that a client takes nothing of a response that waits for it. Then the connection is ended.
                105 SendTimeout send_timeout_ms = 60_000, TIME, "ms";
                /// Longest time from an offer to upgrade to the head of the response. Then the offer gets 504.
                106 WsHandshakeTimeout ws_handshake_timeout_ms = 10_000, TIME, "ms";
                /// Longest time that a tunnel carries nothing from either end. Traffic from one end is enough: a feed that only the
                /// server sends is not idle. 0: no limit.
                107 WsIdleTimeout ws_idle_timeout_ms = 3_600_000, LONG_TIME, "ms";
                /// Longest time that a tunnel carries nothing from the client. 0: no limit.
                108 WsClientIdleTimeout ws_client_idle_timeout_ms = 0, LONG_TIME, "ms";
                /// Longest time that a tunnel carries nothing from the server. 0: no limit.
                109 WsServerIdleTimeout ws_server_idle_timeout_ms = 0, LONG_TIME, "ms";
                /// Longest time that a tunnel stays open. 0: no limit.
                110 WsLifetime ws_lifetime_ms = 0, LONG_TIME, "ms";
                /// Percentage by which `ws_lifetime_ms` is shortened at most, at random for each tunnel.
                111 WsLifetimeJitter ws_lifetime_jitter = 10, 0..=100, "percent";
                /// Longest time that an end of a tunnel acknowledges nothing, or takes nothing, of what waits for it (TCP's user
                /// timeout, RFC 5482). Then both ends are reset. 0: the patience of TCP itself.
                112 WsSendTimeout ws_send_timeout_ms = 60_000, LONG_TIME, "ms";
                /// Longest time without traffic that a tunnel stays open in one direction only. Then both ends are reset. 0: no limit.
                113 WsHalfClosedTimeout ws_half_closed_timeout_ms = 30_000, LONG_TIME, "ms";
                /// Longest time that closing a tunnel takes until both FINs are sent. Then both ends are reset.
                114 WsCloseTimeout ws_close_timeout_ms = 5000, TIME, "ms";
                /// Most bytes per second that a client sends in a tunnel, frame headers included. 0: no limit.
                115 WsBytesRate ws_bytes_rate = 0, TUNNEL_RATE, "bytes per second";
                /// Most frames per second that a client sends in a tunnel. 0: no limit.
                116 WsFramesRate ws_frames_rate = 0, TUNNEL_RATE, "per second";
                /// How much of both a client may send at once, as the time that it takes at the given rate.
                117 WsRateBurst ws_rate_burst_ms = 1000, TIME, "ms";
                /// What happens to a client that sends more. 0: Squall stops reading from it until it may send again. 1: the tunnel is
                /// closed with 1008. 2: the tunnel is reset.
                118 WsRateAction ws_rate_action = 0, ACTION, "";
                /// Most memory that a tunnel holds from its beginning. Values below 512 count as 512. 0: as much as its two
                /// connections may hold.
                131 WsMemoryMaxKib ws_memory_max_kib = 0, 0..=1 << 20, "KiB";
                /// 1: Squall refuses an offer to upgrade whose key is not 16 bytes in base64, or whose subprotocols or extensions are not
                /// tokens, empty or malformed (400), or more than 22 together (431), and a `101` with a subprotocol or an extension
                /// that was not offered (502). 0: Squall forwards and counts these, because the server and the client judge them
                /// (RFC 6455, 4.1 and 4.2). What decides whether a tunnel opens is always checked: the version, one key of 1 to 64
                /// visible characters, `Upgrade`, `Connection` and `Sec-WebSocket-Accept`.
                132 WsStrict ws_strict = 0, SWITCH, "";
                /// Most requests of one client to a route per second, offers to upgrade included. Requests beyond them get 429. 0: no limit.
                120 ClientRequestsRate client_requests_rate = 0, RATE, "per second";
                /// Most requests of one client that may come at once.
                121 ClientRequestsBurst client_requests_burst = 100, BURST, "requests";
                /// Most offers to upgrade of one client to a route per second. Offers beyond them get 429. 0: no limit.
                122 ClientUpgradesRate client_upgrades_rate = 0, RATE, "per second";
                /// Most offers to upgrade of one client that may come at once.
                123 ClientUpgradesBurst client_upgrades_burst = 20, BURST, "offers";
                /// Most tunnels of one client to a route, offers under way included. An offer beyond them gets 429. 0: no limit.
                124 ClientTunnelsMax client_tunnels_max = 0, LIMIT, "tunnels";
                /// Most failed offers of one client to a route per minute. Then its offers get 429. 0: no limit.
                125 ClientHandshakeFailuresMax client_handshake_failures_max = 0, RATE, "per minute";
                /// Most offers to upgrade per second of all clients of a route together. Offers beyond them get 503. 0: no limit.
                126 UpgradesRate upgrades_rate = 0, RATE, "per second";
                /// Most offers to upgrade of all clients together that may come at once.
                127 UpgradesBurst upgrades_burst = 1000, BURST, "offers";
                /// Most tunnels of a route's servers together, offers under way included. An offer beyond them gets 503. 0: no limit.
                128 TunnelsMax tunnels_max = 0, LIMIT, "tunnels";
                /// What happens to requests beyond these limits. 0: they get the named answer. 1: those beyond a rate wait in the
                /// receive queue for their turn, and get the answer if the turn is further away than `limit_delay_max_ms`. 2: their
                /// connection is reset.
                129 LimitAction limit_action = 0, ACTION, "";
                /// Longest time that a request waits for its turn.
                130 LimitDelayMax limit_delay_max_ms = 1000, TIME, "ms";
            }
        }
    };
}
#[allow(unused_imports)] // The host's tools take the rows alone.
pub(crate) use settings;

/// A setting as the documentation shows it.
#[derive(Debug)]
pub struct Row {
    /// The name, below `net.squall`.
    pub name: &'static str,
    /// Value when the module is loaded.
    pub default: u32,
    /// Least and largest value.
    pub range: (u32, u32),
    /// What the number counts, or "".
    pub unit: &'static str,
    /// The meaning, one element for each line of the source.
    pub meaning: &'static [&'static str],
}

macro_rules! rows {
    (
        global { $($(#[doc = $global_doc:literal])* $global:ident = $global_default:expr, $global_range:expr, $global_unit:literal;)* }
        route { $($(#[doc = $doc:literal])* $id:literal $variant:ident $name:ident = $default:expr, $range:expr, $unit:literal;)* }
    ) => {
        /// Settings that count for all listeners.
        pub const GLOBAL: &[Row] = &[$(Row {
            name: stringify!($global),
            default: $global_default,
            range: (*$global_range.start(), *$global_range.end()),
            unit: $global_unit,
            meaning: &[$($global_doc),*],
        },)*];

        /// Settings that a route may override.
        pub const ROUTE: &[Row] = &[$(Row {
            name: stringify!($name),
            default: $default,
            range: (*$range.start(), *$range.end()),
            unit: $unit,
            meaning: &[$($doc),*],
        },)*];
    };
}

use range::*;
settings!(rows);
