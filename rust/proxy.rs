// SPDX-License-Identifier: GPL-2.0

//! The reverse proxy: the uses of connections.
//!
//! - [`config`] is the tree in `/sys/kernel/config/squall`.
//! - [`site`] is the data path's view of a listener. [`router`] selects a route for a request, and [`route`] chooses
//!   one of its servers. [`network`] is a list of networks. [`limits`] are the limits of messages, and [`settings`]
//!   what a route may override.
//! - [`admission`] applies the limits of clients and routes. [`access`] is a listener's list of allowed and denied
//!   networks.
//! - [`downstream`] is the client's side of HTTP/1: requests in, responses out.
//! - [`upstream`] is the server's side. [`pool`] keeps a server's connections, [`record`] tracks its failures, and
//!   [`health`] checks it.
//! - [`reading`] parses a head as it arrives. [`body`] forwards content in either direction.
//! - [`tunnel`] is what both sides become when a server switches protocols. [`drain`] ends what is disabled or removed.
//! - [`session`] has the uses of a connection, and the messages between connections.
//! - [`log`] is the access log.
//!
//! An exchange lives on two connections with a lock each. While one of the locks is held, the other is only tried. The
//! downstream connection has the right to an upstream one, a [`pool::Checkout`]; the upstream one has the
//! [`upstream::Job`]. Each ends the other's wait with an event. Dropping a checkout or a job does so as well, so
//! neither side waits forever, not even after a reset or a failed allocation.

#![forbid(unsafe_code)]

mod access;
mod admission;
mod body;
pub(crate) mod config;
mod downstream;
mod drain;
mod health;
mod limits;
mod log;
mod network;
mod pool;
mod reading;
mod record;
mod route;
mod router;
mod session;
mod settings;
mod site;
mod tunnel;
mod upstream;

pub(crate) use self::session::Session;
