// SPDX-License-Identifier: GPL-2.0

//! Event counters, kept per CPU so that the data path shares no cache line.

use super::bindings;
use kernel::sync::atomic::{
    ordering::Relaxed,
    Atomic, //
};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// What is counted, since the module was loaded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(crate) enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// Every counter, in the order of `stats` files.
            pub(crate) const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// Returns the name that the counter has in `stats` files.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Counter::$variant => $name,)*
                }
            }
        }
    };
}

counters! {
    /// Entries of the data path in softirq context.
    EntriesSoftirq "entries_softirq";
    /// Entries of the data path in any other context: stays 0.
    EntriesOther "entries_other";
    /// Times that TCP called from inside a call of this module, which had to be posted.
    EntriesNested "entries_nested";
    /// Entries put off because a process held the socket.
    EntriesOwned "entries_owned";
    /// Downstream connections accepted.
    Accepted "accepted";
    /// Connections refused because `net.squall.connections_max` is reached.
    RefusedLimit "refused_limit";
    /// Connections or exchanges given up because memory was not to be had.
    NoMemory "no_memory";
    /// Attempts to connect to a server.
    Connects "connects";
    /// Attempts that ended with a connection.
    Connected "connected";
    /// Attempts that failed.
    ConnectFailed "connect_failed";
    /// Requests forwarded to a server.
    Requests "requests";
    /// Requests sent again because their server connection was closed before a byte of the response came.
    Retried "retried";
    /// Heads or bodies from clients that were refused.
    BadRequests "bad_requests";
    /// Responses of servers that were refused.
    BadResponses "bad_responses";
    /// Responses ended because the server was silent and the client had closed its side.
    ClientsLeft "clients_left";
    /// Server connections that the server closed while they were idle, saying so in a response.
    IdleClosed "idle_closed";
    /// Times a server connection was kept for its client connection alone, behind a response.
    Kept "kept";
    /// Server connections ended because they were idle for `idle_ms`, or more than are kept.
    IdleSurplus "idle_surplus";
    /// Offers to upgrade that were passed on although they break a rule; see `ws_strict`.
    ToleratedRequests "tolerated_requests";
    /// Responses that were passed on although they break a rule: a 101 by what is the client's to judge, others by fields that
    /// declare content where there is none.
    ToleratedResponses "tolerated_responses";
    /// Connections closed because no byte came within `net.squall.first_byte_timeout_ms`.
    FirstByteTimeouts "first_byte_timeouts";
    /// Connections closed because no further request came within `net.squall.keepalive_timeout_ms`.
    KeepaliveTimeouts "keepalive_timeouts";
    /// 408: a body came more slowly than `net.squall.body_rate_min`.
    BodyRateTimeouts "body_rate_timeouts";
    /// Connections closed at `net.squall.requests_max`.
    RequestsLimit "requests_limit";
    /// Connections closed at `net.squall.pipelined_max`.
    PipelinedLimit "pipelined_limit";
    /// Error responses of Squall's own, all statuses.
    ErrorResponses "error_responses";
    /// 408: the client took too long.
    RequestTimeouts "request_timeouts";
    /// 504: the server took too long.
    ResponseTimeouts "response_timeouts";
    /// Connections ended because the peer took nothing for `net.squall.send_timeout_ms`.
    SendTimeouts "send_timeouts";
    /// Tunnels opened.
    Tunnels "tunnels";
    /// Tunnels whose two connections are closed.
    TunnelsClosed "tunnels_closed";
    /// Bytes received.
    RxBytes "rx_bytes";
    /// Bytes handed on by reference to the page they arrived in.
    SplicedBytes "spliced_bytes";
    /// Bytes copied into a new page.
    CopiedBytes "copied_bytes";
    /// Bytes that are queued now and were not handed to TCP yet: a gauge.
    QueuedBytes "queued_bytes";
    /// Bytes handed to TCP.
    TxBytes "tx_bytes";
    /// Times a sender was held back because its receiver is slow.
    Paused "paused";
    /// Times a held-back sender was let go on.
    Resumed "resumed";
    /// FINs sent.
    Fins "fins";
    /// Connections ended by a reset of ours.
    Resets "resets";
    /// Connections left to TCP at `net.squall.linger_timeout_ms`: all is acknowledged, and the peer has not closed.
    LingerTimeouts "linger_timeouts";
    /// Passes of the per-CPU work.
    Passes "passes";
    /// Timers of connections that fired.
    Timers "timers";
    /// Offers to upgrade that got no response within `ws_handshake_timeout_ms`.
    HandshakeTimeouts "ws_handshake_timeouts";
    /// Tunnels closed because nothing came from either end for `ws_idle_timeout_ms`.
    IdleTimeouts "ws_idle_timeouts";
    /// Tunnels closed because nothing came from the client for `ws_client_idle_timeout_ms`.
    ClientIdleTimeouts "ws_client_idle_timeouts";
    /// Tunnels closed because nothing came from the server for `ws_server_idle_timeout_ms`.
    ServerIdleTimeouts "ws_server_idle_timeouts";
    /// Tunnels closed at `ws_lifetime_ms`.
    Lifetimes "ws_lifetimes";
    /// Tunnels ended because an end took nothing for `ws_send_timeout_ms`, or was not there any more.
    TunnelSendTimeouts "ws_send_timeouts";
    /// Tunnels ended because one end was closed and the other was silent for `ws_half_closed_timeout_ms`.
    HalfClosedTimeouts "ws_half_closed_timeouts";
    /// Tunnels reset because closing them took longer than `ws_close_timeout_ms`.
    CloseTimeouts "ws_close_timeouts";
    /// Times a client was not read from because of `ws_bytes_rate` or `ws_frames_rate`.
    RateDelays "ws_rate_delays";
    /// Tunnels closed or reset because of `ws_bytes_rate` or `ws_frames_rate`.
    RateCloses "ws_rate_closes";
    /// Tunnels closed because their server, route or listener is disabled or removed.
    Drained "drained";
    /// Tunnels reset because a frame had a length that is not valid.
    BadFrames "bad_frames";
    /// Frames relayed.
    Frames "frames";
    /// 404: no route takes the request.
    NoRoute "no_route";
    /// Requests that went to another server because theirs had no connection for them.
    Moved "moved";
    /// Records of the access log that were handed to a reader.
    LogRecords "log_records";
    /// Records of the access log that could not be made, or that a reader did not get.
    LogLost "log_lost";
    /// Connections reset by a listener's access list.
    AccessDenied "access_denied";
    /// Connections refused at a listener's own `connections_max`.
    ConnectionsLimit "connections_limit";
    /// Connections refused at `net.squall.client_connections_max`.
    ClientConnectionsLimit "client_connections_limit";
    /// Connections refused at `net.squall.client_connections_rate`.
    ClientConnectionsRateLimit "client_connections_rate_limit";
    /// Connections reset at `net.squall.turned_away_max`.
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
    /// Requests and offers delayed by a limit.
    Delayed "delayed";
    /// Clients for which there was no place or no memory in the table of clients.
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

/// The first counter that the user of this module numbers.
const NUMBERED: usize = 128;

/// How many counters the user of this module may number; see [`inc_numbered`].
pub(crate) const NUMBERED_MAX: usize = bindings::SQUALL_COUNTERS as usize - NUMBERED;

const _: () = assert!(Counter::ALL.len() <= NUMBERED);

/// A counter of one object, for events that are not so frequent that it has to be per CPU.
pub(crate) struct Tally(Atomic<u64>);

impl Tally {
    /// Adds one.
    pub(crate) fn inc(&self) {
        self.0.add(1, Relaxed);
    }

    /// Returns the count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Default for Tally {
    fn default() -> Self {
        Tally(Atomic::new(0))
    }
}

/// Adds `n` to a counter of this CPU. Any context.
#[inline]
pub(crate) fn add(counter: Counter, n: u64) {
    // SAFETY: No preconditions; the helper checks the index.
    unsafe { bindings::squall_count(counter as u32, n) };
}

/// Subtracts `n` from a gauge, on this CPU: only the sum over all CPUs means something. Any context.
#[inline]
pub(crate) fn sub(gauge: Counter, n: u64) {
    add(gauge, n.wrapping_neg());
}

/// Adds one to a counter of this CPU. Any context.
#[inline]
pub(crate) fn inc(counter: Counter) {
    add(counter, 1);
}

/// Returns the sum of a counter over all CPUs.
pub(crate) fn sum(counter: Counter) -> u64 {
    // SAFETY: No preconditions; the helper checks the index.
    unsafe { bindings::squall_count_sum(counter as u32) }
}

/// Adds one to a counter that has a number, below [`NUMBERED_MAX`], instead of a name. Any context.
pub(crate) fn inc_numbered(number: usize) {
    if number < NUMBERED_MAX {
        // SAFETY: No preconditions; the helper checks the index.
        unsafe { bindings::squall_count((NUMBERED + number) as u32, 1) };
    }
}

/// Returns the sum of a numbered counter over all CPUs.
pub(crate) fn sum_numbered(number: usize) -> u64 {
    if number >= NUMBERED_MAX {
        return 0;
    }
    // SAFETY: No preconditions; the helper checks the index.
    unsafe { bindings::squall_count_sum((NUMBERED + number) as u32) }
}
