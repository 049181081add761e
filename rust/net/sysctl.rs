// SPDX-License-Identifier: GPL-2.0

//! Values of `net.squall.*`; the table is in `sysctl.c`.

use super::bindings;
use kernel::{
    error::to_result,
    prelude::*, //
};

macro_rules! values {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[inline]
            pub(crate) fn $name() -> u32 {
                // SAFETY: A static of the module, which only sysctl writes, whole words at a time.
                unsafe { core::ptr::read_volatile(&raw const bindings::squall_sysctl.$name) }
            }
        )*
    };
}

values! {
    /// Milliseconds from the first byte of a request to the end of its head.
    head_timeout;
    /// Milliseconds that a downstream connection may be idle between requests.
    keepalive_timeout;
    /// Milliseconds that a client may pause within a request's body.
    body_timeout;
    /// Milliseconds that a server may pause before and within a response.
    response_timeout;
    /// Milliseconds that connecting to a server may take.
    connect_timeout;
    /// Milliseconds that a request may wait for a server connection.
    queue_timeout;
    /// Milliseconds that a client may take nothing of a response that waits for it.
    send_timeout;
    /// Milliseconds that a connection may take to close after our FIN.
    linger_timeout;
    /// Milliseconds before the first attempt to reconnect.
    backoff_min;
    /// Milliseconds between attempts to reconnect, at most.
    backoff_max;
    /// Milliseconds from accepting a connection to the first byte of its first request.
    first_byte_timeout;
    /// Bytes of a request line, CR LF included, at most.
    request_line_max;
    /// Bytes of a field line, CR LF included, at most.
    field_line_max;
    /// Bytes of a head, at most.
    head_max;
    /// Field lines of a head, at most.
    fields_max;
    /// Bytes of the line of a chunk size, extensions and CR LF included, at most.
    chunk_line_max;
    /// Bytes by which the lines of chunk sizes may outweigh the content of a body, at most.
    chunk_excess_max;
    /// Bytes of a trailer section, at most.
    trailers_max;
    /// Field lines of a trailer section, at most.
    trailer_fields_max;
    /// KiB of a request's content, at most; 0 for any number.
    body_max_kib;
    /// Bytes per second at which a request's body must come, at least; 0 for any rate.
    body_rate_min;
    /// Requests in a row that had come before the response to the one before was complete, at most.
    pipelined_max;
    /// Requests on one downstream connection, at most.
    requests_max;
    /// Bytes that what a socket holds unread may take, the overhead of its buffers included.
    rcvbuf;
    /// Bytes in a queue at which its writer has to wait.
    queue_high;
    /// Bytes in a queue at which its writer may go on.
    queue_low;
    /// Bytes that a socket may hold unsent.
    unsent_max;
    /// Bytes from which on a piece is handed on by reference instead of copied.
    splice_min;
    /// Connections of both sides together, at most.
    connections_max;
    /// Requests that may wait for a connection to one server, at most.
    waiters_max;
    /// Milliseconds from an offer to upgrade to the head of the response.
    ws_handshake_timeout;
    /// Milliseconds that a tunnel may be without anything from either end; 0 for any time.
    ws_idle_timeout;
    /// Milliseconds that a tunnel may be without anything from the client; 0 for any time.
    ws_client_idle_timeout;
    /// Milliseconds that a tunnel may be without anything from the server; 0 for any time.
    ws_server_idle_timeout;
    /// Milliseconds that a tunnel may be open; 0 for any time.
    ws_lifetime;
    /// Percent by which that may be less, at random.
    ws_lifetime_jitter;
    /// Milliseconds that an end of a tunnel may take nothing; 0 for TCP's own patience.
    ws_send_timeout;
    /// Milliseconds without traffic that a tunnel may be open one way only; 0 for any time.
    ws_half_closed_timeout;
    /// Milliseconds that closing a tunnel may take before it is reset.
    ws_close_timeout;
    /// Bytes per second that a client may send in a tunnel; 0 for any number.
    ws_bytes_rate;
    /// Frames per second that a client may send in a tunnel; 0 for any number.
    ws_frames_rate;
    /// Milliseconds' worth of these that may be sent at once.
    ws_rate_burst;
    /// What is done about a client that would send more: 0 for waiting, 1 for a close, 2 for a reset.
    ws_rate_action;
    /// Milliseconds over which the tunnels of what is disabled or removed are closed.
    drain;
    /// 1: such tunnels are closed with the status code 1012, not 1001.
    drain_restart;
    /// Attempts to connect to servers in a second, at most, to all of them together.
    connects_per_second;
    /// Milliseconds of silence after which a server is probed by TCP; 0 for never.
    tcp_keepalive_ms;
    /// Bits of an IPv4 address by which clients are told apart.
    client_prefix_v4;
    /// Bits of an IPv6 address by which clients are told apart.
    client_prefix_v6;
    /// Connections of one client to a listener, tunnels included, at most; 0 for any number.
    client_connections_max;
    /// New connections of one client to a listener per second; 0 for any number.
    client_connections_rate;
    /// New connections of one client that may come at once.
    client_connections_burst;
    /// What becomes of a client's connection that is too many.
    client_connections_action;
    /// Connections of a listener that are turned away by an answer at a time, at most.
    turned_away_max;
    /// Requests of one client per second; 0 for any number.
    client_requests_rate;
    /// Requests of one client that may come at once.
    client_requests_burst;
    /// Offers to upgrade of one client per second; 0 for any number.
    client_upgrades_rate;
    /// Offers of one client that may come at once.
    client_upgrades_burst;
    /// Tunnels of one client, at most; 0 for any number.
    client_tunnels_max;
    /// Offers of one client per minute that come to no tunnel, at most; 0 for any number.
    client_handshake_failures_max;
    /// Offers of all clients of a route per second; 0 for any number.
    upgrades_rate;
    /// Offers of all clients of a route that may come at once.
    upgrades_burst;
    /// Tunnels of a route, at most; 0 for any number.
    tunnels_max;
    /// What becomes of a request that comes too early.
    limit_action;
    /// Milliseconds by which a request may be delayed.
    limit_delay_max;
    /// Bytes that what a socket holds unacknowledged may take, the overhead of its buffers included.
    sndbuf;
    /// MiB that all connections together may hold; 0 for a quarter of the machine's memory.
    memory_max_mib;
    /// KiB that the connections of one client may hold; 0 for any number.
    client_memory_max_kib;
    /// KiB that a tunnel may hold; 0 for what its connections may.
    ws_memory_max_kib;
    /// 1: offers and 101s that break a rule of RFC 6455 which is for the two ends to judge are refused.
    ws_strict;
    /// Interim responses to one request, at most.
    interim_max;
}

/// Returns the least and the largest value of `net.squall.<name>`. Process context.
pub(crate) fn range(name: &CStr) -> Option<(u32, u32)> {
    let (mut least, mut most) = (0, 0);
    // SAFETY: A string, and two places that may be written.
    let found = unsafe { bindings::squall_sysctl_range(name.as_char_ptr(), &mut least, &mut most) };
    found.then_some((least, most))
}

/// The registration of the table; removes it when dropped.
pub(crate) struct Sysctl(());

impl Sysctl {
    /// Registers `net.squall.*`. Process context.
    pub(crate) fn register() -> Result<Sysctl> {
        // SAFETY: Called once, from the module's init.
        to_result(unsafe { bindings::squall_sysctl_register() })?;
        Ok(Sysctl(()))
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        // SAFETY: `self` proves that the table is registered.
        unsafe { bindings::squall_sysctl_unregister() };
    }
}
