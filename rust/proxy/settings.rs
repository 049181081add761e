// SPDX-License-Identifier: GPL-2.0

//! What a route may set for itself, and is `net.squall.*` as long as it does not.
//!
//! A setting has the name, the unit and the range of its sysctl. It is read anew whenever it is needed, so
//! that a change means something at once.

use crate::net::sysctl;
use kernel::{
    prelude::*,
    str::CStr,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    }, //
};

macro_rules! settings {
    ($($(#[$doc:meta])* $variant:ident $default:ident $name:literal;)*) => {
        /// A value that a route may set for itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Setting {
            $($(#[$doc])* $variant,)*
        }

        impl Setting {
            const ALL: &'static [Setting] = &[$(Setting::$variant,)*];

            /// Returns its name, which is also that of the sysctl.
            pub(crate) const fn name(self) -> &'static CStr {
                match self {
                    $(Setting::$variant => $name,)*
                }
            }

            /// Returns the value of the sysctl.
            pub(crate) fn default(self) -> u32 {
                match self {
                    $(Setting::$variant => sysctl::$default(),)*
                }
            }
        }
    };
}

settings! {
    /// Milliseconds that a client may pause within a request's body.
    BodyTimeout body_timeout c"body_timeout_ms";
    /// Bytes per second at which a request's body must come, at least; 0 for any rate.
    BodyRateMin body_rate_min c"body_rate_min";
    /// KiB of a request's content, at most; 0 for any number.
    BodyMaxKib body_max_kib c"body_max_kib";
    /// Milliseconds that a request may wait for a server connection.
    QueueTimeout queue_timeout c"queue_timeout_ms";
    /// Milliseconds that a server may pause before and within a response.
    ResponseTimeout response_timeout c"response_timeout_ms";
    /// Milliseconds that a client may take nothing of a response that waits for it.
    SendTimeout send_timeout c"send_timeout_ms";
    /// Milliseconds from an offer to upgrade to the head of the response.
    WsHandshakeTimeout ws_handshake_timeout c"ws_handshake_timeout_ms";
    /// Milliseconds that a tunnel may be without anything from either end; 0 for any time, as for the next three.
    WsIdleTimeout ws_idle_timeout c"ws_idle_timeout_ms";
    /// Milliseconds that a tunnel may be without anything from the client.
    WsClientIdleTimeout ws_client_idle_timeout c"ws_client_idle_timeout_ms";
    /// Milliseconds that a tunnel may be without anything from the server.
    WsServerIdleTimeout ws_server_idle_timeout c"ws_server_idle_timeout_ms";
    /// Milliseconds that a tunnel may be open.
    WsLifetime ws_lifetime c"ws_lifetime_ms";
    /// Percent by which that may be less, at random.
    WsLifetimeJitter ws_lifetime_jitter c"ws_lifetime_jitter";
    /// Milliseconds that an end of a tunnel may take nothing of what waits for it; 0 for TCP's own patience.
    WsSendTimeout ws_send_timeout c"ws_send_timeout_ms";
    /// Milliseconds without traffic that a tunnel may be open one way only; 0 for any time.
    WsHalfClosedTimeout ws_half_closed_timeout c"ws_half_closed_timeout_ms";
    /// Milliseconds that closing a tunnel may take before it is reset.
    WsCloseTimeout ws_close_timeout c"ws_close_timeout_ms";
    /// Bytes per second that a client may send in a tunnel; 0 for any number, as for the next.
    WsBytesRate ws_bytes_rate c"ws_bytes_rate";
    /// Frames per second that a client may send in a tunnel.
    WsFramesRate ws_frames_rate c"ws_frames_rate";
    /// Milliseconds' worth of these that may be sent at once.
    WsRateBurst ws_rate_burst c"ws_rate_burst_ms";
    /// What is done about a client that would send more: 0 for waiting, 1 for a close, 2 for a reset.
    WsRateAction ws_rate_action c"ws_rate_action";
    /// Requests of one client per second; 0 for any number.
    ClientRequestsRate client_requests_rate c"client_requests_rate";
    /// Requests of one client that may come at once.
    ClientRequestsBurst client_requests_burst c"client_requests_burst";
    /// Offers to upgrade of one client per second; 0 for any number.
    ClientUpgradesRate client_upgrades_rate c"client_upgrades_rate";
    /// Offers of one client that may come at once.
    ClientUpgradesBurst client_upgrades_burst c"client_upgrades_burst";
    /// Tunnels of one client, at most; 0 for any number.
    ClientTunnelsMax client_tunnels_max c"client_tunnels_max";
    /// Offers of one client per minute that come to no tunnel, at most; 0 for any number.
    ClientHandshakeFailuresMax client_handshake_failures_max c"client_handshake_failures_max";
    /// Offers of all clients per second; 0 for any number.
    UpgradesRate upgrades_rate c"upgrades_rate";
    /// Offers of all clients that may come at once.
    UpgradesBurst upgrades_burst c"upgrades_burst";
    /// Tunnels of all clients, at most; 0 for any number.
    TunnelsMax tunnels_max c"tunnels_max";
    /// What becomes of a request that is refused by one of these: 0 an answer, 1 a delay if it is early, 2 a reset.
    LimitAction limit_action c"limit_action";
    /// Milliseconds by which a request may be delayed.
    LimitDelayMax limit_delay_max c"limit_delay_max_ms";
    /// KiB that a tunnel may hold; 0 for what its connections may.
    WsMemoryMaxKib ws_memory_max_kib c"ws_memory_max_kib";
    /// 1: offers and 101s that break a rule of RFC 6455 which is for the two ends to judge are refused.
    WsStrict ws_strict c"ws_strict";
}

/// No value of its own.
const UNSET: u32 = u32::MAX;

/// The settings of one route.
pub(crate) struct Settings([Atomic<u32>; Setting::ALL.len()]);

impl Settings {
    /// Makes settings that all are those of the sysctls.
    pub(crate) fn new() -> Settings {
        Settings([const { Atomic::new(UNSET) }; Setting::ALL.len()])
    }

    /// Returns what the route has set for itself.
    pub(crate) fn own(&self, setting: Setting) -> Option<u32> {
        let own = self.0.get(setting as usize)?.load(Relaxed);
        (own != UNSET).then_some(own)
    }

    /// Returns what counts for the route.
    pub(crate) fn get(&self, setting: Setting) -> u32 {
        self.own(setting).unwrap_or_else(|| setting.default())
    }

    /// Sets a value, or lets the sysctl count again. Fails with `ERANGE` if the sysctl could not be set to it.
    /// Process context.
    pub(crate) fn set(&self, setting: Setting, own: Option<u32>) -> Result {
        if let Some(own) = own {
            let (least, most) = sysctl::range(setting.name()).ok_or(ENOENT)?;
            if own < least || own > most || own == UNSET {
                return Err(ERANGE);
            }
        }
        if let Some(place) = self.0.get(setting as usize) {
            place.store(own.unwrap_or(UNSET), Relaxed);
        }
        Ok(())
    }
}
