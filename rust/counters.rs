// SPDX-License-Identifier: GPL-2.0

//! The names and meanings of what `stats` files count.
//!
//! The counters of the module are an enum; `rust/net/stats.rs` counts. Listeners, routes and servers count for themselves, in
//! `rust/proxy`; a selftest compares their names with the tables below. `Documentation/reference.md` is made of all of them.
//!
//! The file is pure: the host's tools read it, too.

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal;)*) => {
        /// What is counted, since the module was loaded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Counter {
            /// Every counter, in the order of `stats` files.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// Returns the name that the counter has in `stats` files.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$variant => $name,)*
                }
            }

            /// Returns the meaning, one element for each line of the source.
            pub const fn meaning(self) -> &'static [&'static str] {
                match self {
                    $(Counter::$variant => &[$($doc),*],)*
                }
            }
        }
    };
}

counters! {
    /// Entries of the data path in softirq, or in a kernel thread that does the work of a softirq (threaded NAPI).
    EntriesSoftirq "entries_softirq";
    /// Entries of the data path in any other context: stays 0.
    EntriesOther "entries_other";
    /// Times that TCP called from inside a call of the module, because a BPF program set a socket option there. The work was
    /// posted.
    EntriesNested "entries_nested";
    /// Entries of the data path that were postponed because a process held the socket.
    EntriesOwned "entries_owned";
    /// Client connections accepted.
    Accepted "accepted";
    /// Connections refused at `connections_max`.
    RefusedLimit "refused_limit";
    /// Connections or exchanges given up for lack of memory.
    NoMemory "no_memory";
    /// Attempts to connect to a server.
    Connects "connects";
    /// Attempts that succeeded.
    Connected "connected";
    /// Attempts that failed.
    ConnectFailed "connect_failed";
    /// Requests forwarded to a server.
    Requests "requests";
    /// Requests sent again because the server connection closed before the first byte of the response.
    Retried "retried";
    /// Heads or bodies of clients that were refused.
    BadRequests "bad_requests";
    /// Responses of servers that were refused.
    BadResponses "bad_responses";
    /// Responses ended at `response_timeout_ms` whose client had sent its FIN and had most likely left.
    ClientsLeft "clients_left";
    /// Idle server connections that the server closed by a response with `Connection: close`, as some do with a 408.
    IdleClosed "idle_closed";
    /// Times an authenticated server connection was kept for its client alone after a response.
    Kept "kept";
    /// Server connections ended because they were idle for `idle_ms`, or because enough others were kept.
    IdleSurplus "idle_surplus";
    /// Offers to upgrade that were forwarded although they break a rule; see `ws_strict`.
    ToleratedRequests "tolerated_requests";
    /// Responses that were forwarded although they break a rule: a `101` (see `ws_strict`), or a 1xx, 204 or 304 whose fields
    /// declare content. Squall drops these fields and does not use the server connection again.
    ToleratedResponses "tolerated_responses";
    /// Client connections closed at `first_byte_timeout_ms`: no request came.
    FirstByteTimeouts "first_byte_timeouts";
    /// Client connections closed at `keepalive_timeout_ms`: no further request came.
    KeepaliveTimeouts "keepalive_timeouts";
    /// 408: a body was slower than `body_rate_min`.
    BodyRateTimeouts "body_rate_timeouts";
    /// Client connections closed at `requests_max`.
    RequestsLimit "requests_limit";
    /// Client connections closed at `pipelined_max`.
    PipelinedLimit "pipelined_limit";
    /// Responses that Squall itself made, all status codes.
    ErrorResponses "error_responses";
    /// 408: the client took too long for a head, or paused too long in a body.
    RequestTimeouts "request_timeouts";
    /// 504: the server took too long.
    ResponseTimeouts "response_timeouts";
    /// Connections ended at `send_timeout_ms`.
    SendTimeouts "send_timeouts";
    /// Tunnels opened.
    Tunnels "tunnels";
    /// Tunnels that have ended.
    TunnelsClosed "tunnels_closed";
    /// Bytes received.
    RxBytes "rx_bytes";
    /// Bytes forwarded by reference to the page they arrived in.
    SplicedBytes "spliced_bytes";
    /// Bytes copied into a new page.
    CopiedBytes "copied_bytes";
    /// Bytes received and not yet handed to TCP, now.
    QueuedBytes "queued_bytes";
    /// Bytes handed to TCP.
    TxBytes "tx_bytes";
    /// Times a sender was held back because its receiver was slow.
    Paused "paused";
    /// Times a paused sender could go on.
    Resumed "resumed";
    /// FINs sent.
    Fins "fins";
    /// Connections that Squall ended by a reset.
    Resets "resets";
    /// Connections left to TCP at `linger_timeout_ms`: everything is acknowledged, but the peer has not closed.
    LingerTimeouts "linger_timeouts";
    /// Passes of the per-CPU work.
    Passes "passes";
    /// Timers of connections that fired. An idle connection does not need its timer often.
    Timers "timers";
    /// 504: no response to an offer to upgrade within `ws_handshake_timeout_ms`.
    HandshakeTimeouts "ws_handshake_timeouts";
    /// Tunnels closed at `ws_idle_timeout_ms`.
    IdleTimeouts "ws_idle_timeouts";
    /// Tunnels closed at `ws_client_idle_timeout_ms`.
    ClientIdleTimeouts "ws_client_idle_timeouts";
    /// Tunnels closed at `ws_server_idle_timeout_ms`.
    ServerIdleTimeouts "ws_server_idle_timeouts";
    /// Tunnels closed at `ws_lifetime_ms`.
    Lifetimes "ws_lifetimes";
    /// Tunnels reset at `ws_send_timeout_ms`, or because TCP gave up an end.
    TunnelSendTimeouts "ws_send_timeouts";
    /// Tunnels reset at `ws_half_closed_timeout_ms`.
    HalfClosedTimeouts "ws_half_closed_timeouts";
    /// Tunnels reset at `ws_close_timeout_ms`.
    CloseTimeouts "ws_close_timeouts";
    /// Times Squall stopped reading from a client because of `ws_bytes_rate` or `ws_frames_rate`.
    RateDelays "ws_rate_delays";
    /// Tunnels closed or reset because of `ws_bytes_rate` or `ws_frames_rate`.
    RateCloses "ws_rate_closes";
    /// Tunnels closed because their server, route or listener was disabled or removed.
    Drained "drained";
    /// Tunnels reset because the length of a frame had its most significant bit set.
    BadFrames "bad_frames";
    /// Frames relayed.
    Frames "frames";
    /// 404: requests that no route takes.
    NoRoute "no_route";
    /// Requests that went to another server because their own had no connection for them.
    Moved "moved";
    /// Records of the access log that a reader got.
    LogRecords "log_records";
    /// Records of the access log that could not be made, or that a reader missed.
    LogLost "log_lost";
    /// Connections reset by the access list of a listener.
    AccessDenied "access_denied";
    /// Connections reset at the listener's `connections_max`.
    ConnectionsLimit "connections_limit";
    /// Connections refused at `client_connections_max`.
    ClientConnectionsLimit "client_connections_limit";
    /// Connections refused at `client_connections_rate`.
    ClientConnectionsRateLimit "client_connections_rate_limit";
    /// Connections of these two kinds that were reset at `turned_away_max` instead of being answered.
    TurnedAwayLimit "turned_away_limit";
    /// Requests refused at `client_requests_rate`.
    ClientRequestsLimit "client_requests_limit";
    /// Offers to upgrade refused at `client_upgrades_rate`.
    ClientUpgradesLimit "client_upgrades_limit";
    /// Offers refused at `client_tunnels_max`.
    ClientTunnelsLimit "client_tunnels_limit";
    /// Offers refused at `client_handshake_failures_max`.
    ClientFailuresLimit "client_failures_limit";
    /// Offers refused at `upgrades_rate`.
    UpgradesLimit "upgrades_limit";
    /// Offers refused at `tunnels_max`.
    TunnelsLimit "tunnels_limit";
    /// Requests that waited for their turn; see `limit_action`.
    Delayed "delayed";
    /// Times there was no room or no memory to keep account of a client.
    ClientsUntracked "clients_untracked";
    /// Times memory became short: at `memory_max_mib`, or because TCP was short of it.
    MemoryPressures "memory_pressures";
    /// Connections reset because they held most while memory was short.
    MemoryShed "memory_shed";
    /// Times a listener left connections in the accept queue because memory was short.
    AcceptPauses "accept_pauses";
    /// Connections reset because their client reached `client_memory_max_kib`.
    ClientMemoryResets "client_memory_resets";
    /// Connections and offers refused because their client was close to `client_memory_max_kib`.
    ClientMemoryLimit "client_memory_limit";
}

/// The name of a count, and its meaning.
pub type Row = (&'static str, &'static str);

/// What the module's file shows behind the counters.
pub const MODULE: &[Row] = &[
    (
        "clients",
        "Clients with an open connection or tunnel, or with a rate that is not at rest, now.",
    ),
    ("clients_bytes", "Memory of the table of clients."),
    (
        "memory_bytes",
        "What connections hold now, plus one page for each.",
    ),
    (
        "memory_bytes_max",
        "What they may hold, by `memory_max_mib`.",
    ),
    ("memory_pressed", "1 while memory is short."),
];

/// What a listener counts.
pub const LISTENER: &[Row] = &[
    ("accepted", "Client connections accepted."),
    ("connections", "Client connections now, tunnels not counted."),
    ("requests", "Requests whose head was accepted, whatever happened to them then."),
    ("bad_requests", "Heads or bodies of clients that were refused."),
    ("tunnels_open", "Tunnels now."),
    ("tunnels", "Tunnels opened."),
    ("no_route", "404: requests that no route takes."),
    ("access_denied", "Connections reset by `access`."),
    ("connections_limit", "Connections reset at `connections_max`."),
    ("client_connections_limit", "Connections refused at `client_connections_max`."),
    ("client_connections_rate_limit", "Connections refused at `client_connections_rate`."),
    ("turned_away_limit", "Connections of these two kinds that were reset at `turned_away_max` instead of being answered."),
    ("client_memory_limit", "Connections refused because their client was close to `client_memory_max_kib`."),
];

/// What a route counts.
pub const ROUTE: &[Row] = &[
    ("servers", "Servers with an address."),
    ("servers_up", "Those whose `up` is 1."),
    (
        "requests",
        "Requests that took the route, whatever happened to them then.",
    ),
    ("tunnels_open", "Tunnels now."),
    (
        "placed",
        "1 if requests can take the route, 0 while another route has its host and path.",
    ),
    (
        "client_requests_limit",
        "Requests refused at `client_requests_rate`.",
    ),
    (
        "client_upgrades_limit",
        "Offers to upgrade refused at `client_upgrades_rate`.",
    ),
    (
        "client_tunnels_limit",
        "Offers refused at `client_tunnels_max`.",
    ),
    (
        "client_failures_limit",
        "Offers refused at `client_handshake_failures_max`.",
    ),
    ("upgrades_limit", "Offers refused at `upgrades_rate`."),
    ("tunnels_limit", "Offers refused at `tunnels_max`."),
    (
        "delayed",
        "Requests that waited for their turn; see `limit_action`.",
    ),
    (
        "client_memory_limit",
        "Offers refused because their client was close to `client_memory_max_kib`.",
    ),
];

/// What a server counts.
pub const SERVER: &[Row] = &[
    (
        "connected",
        "Connections now, idle or busy; those of tunnels are not counted.",
    ),
    ("idle", "Connections that are ready for a request now."),
    ("busy", "Connections with a request under way now."),
    ("connecting", "Attempts to connect that are under way now."),
    ("waiting", "Requests that wait for a connection now."),
    ("tunnels_open", "Tunnels now."),
    (
        "failures",
        "Consecutive failed attempts to connect; 0 while the server is up.",
    ),
    (
        "backoff_ms",
        "The last wait between two attempts, jitter included.",
    ),
    ("connects", "Attempts to connect."),
    ("established", "Attempts that succeeded."),
    ("connect_failed", "Attempts that failed."),
    ("requests", "Requests forwarded to the server."),
    ("tunnels", "Tunnels opened."),
    (
        "up",
        "1 while the server is not known to be down, paused or unhealthy.",
    ),
    (
        "fails",
        "Consecutive requests that the server did not answer.",
    ),
    (
        "requests_failed",
        "Requests that the server did not answer, or not with a response.",
    ),
    (
        "responses_refused",
        "Responses that were refused for a field or a limit. `fails_max` does not count them.",
    ),
    ("healthy", "0 while its checks fail."),
    ("checks", "Checks that have ended."),
    ("checks_failed", "Checks that failed."),
];
