// SPDX-License-Identifier: GPL-2.0

//! The reverse proxy: what connections are for.
//!
//! - [`config`] is what `/sys/kernel/config/squall` shows and changes.
//! - [`site`] is what a listener serves, [`router`] which of its routes is a request's, [`route`] are
//!   the servers of one and how one of them is chosen. [`network`] is a list of networks, [`limits`] are
//!   those of messages, [`settings`] what a route may set for itself.
//! - [`admission`] decides who is let in, by limits on each client and on a route, [`access`] is a listener's list of who
//!   may connect.
//! - [`downstream`] is the client's side of HTTP/1: requests in, responses out.
//! - [`upstream`] is the server's side, [`pool`] keeps a server's connections, [`record`] is how the server did,
//!   [`health`] asks the server how it is.
//! - [`reading`] is a head on its way in, [`body`] forwards content in either direction.
//! - [`tunnel`] is what both sides become when a server switches protocols, [`drain`] how what is
//!   disabled or removed comes to its end.
//! - [`session`] is what they say to each other.
//! - [`log`] tells those who follow of each request and tunnel.
//!
//! An exchange lives on two connections with a lock each, of which never more than one is held. The
//! downstream connection has the right to an upstream one, a [`pool::Checkout`]; the upstream one has
//! the [`upstream::Job`]. Each ends the other's wait by events, and dropping a checkout or a job says
//! so too, so that no path, be it a reset or failed memory, leaves the other side waiting.

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
