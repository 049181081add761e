// SPDX-License-Identifier: GPL-2.0

//! Socket addresses: between text, `core::net` and the kernel's `struct sockaddr_*`.

use super::{
    bindings,
    crypto, //
};
use core::{
    ffi::c_void,
    mem::size_of,
    net::{
        self,
        IpAddr,
        Ipv4Addr,
        Ipv6Addr, //
    },
    ptr::NonNull, //
};
use kernel::prelude::*;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

#[derive(Clone, Copy)]
enum Raw {
    V4(bindings::sockaddr_in),
    V6(bindings::sockaddr_in6),
}

/// An address and port as the kernel takes it.
#[derive(Clone, Copy)]
pub(crate) struct SocketAddr {
    raw: Raw,
    addr: net::SocketAddr,
}

impl SocketAddr {
    /// Parses `a.b.c.d:port` or `[v6]:port`, surrounding white space aside.
    ///
    /// Fails with `EINVAL`, also for port 0 and for scoped addresses, which mean nothing on their
    /// own.
    pub(crate) fn parse(text: &[u8]) -> Result<SocketAddr> {
        let text = core::str::from_utf8(text.trim_ascii()).map_err(|_| EINVAL)?;
        let addr: net::SocketAddr = text.parse().map_err(|_| EINVAL)?;
        if addr.port() == 0 {
            return Err(EINVAL);
        }
        let raw = match addr {
            net::SocketAddr::V4(v4) => {
                let mut raw = bindings::sockaddr_in {
                    sin_family: AF_INET,
                    sin_port: v4.port().to_be(),
                    ..Default::default()
                };
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                Raw::V4(raw)
            }
            net::SocketAddr::V6(v6) => {
                if v6.scope_id() != 0 {
                    return Err(EINVAL);
                }
                let mut raw = bindings::sockaddr_in6 {
                    sin6_family: AF_INET6,
                    sin6_port: v6.port().to_be(),
                    ..Default::default()
                };
                raw.sin6_addr.in6_u.u6_addr8 = v6.ip().octets();
                Raw::V6(raw)
            }
        };
        Ok(SocketAddr { raw, addr })
    }

    /// Returns the address for printing.
    pub(crate) fn get(&self) -> net::SocketAddr {
        self.addr
    }

    /// Says whether a connection can lead to the address. The one of no host (`0.0.0.0`, `[::]`) means to the kernel's
    /// connect this host, those of many hosts are for datagrams, and one that counts on one link only does not say which.
    pub(crate) fn is_reachable(&self) -> bool {
        match self.addr.ip().to_canonical() {
            IpAddr::V4(ip) => {
                !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
            }
            IpAddr::V6(ip) => {
                !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local()
            }
        }
    }

    pub(super) fn family(&self) -> i32 {
        match self.raw {
            Raw::V4(_) => i32::from(AF_INET),
            Raw::V6(_) => i32::from(AF_INET6),
        }
    }

    pub(super) fn as_ptr(&self) -> *const c_void {
        match &self.raw {
            Raw::V4(raw) => core::ptr::from_ref(raw).cast(),
            Raw::V6(raw) => core::ptr::from_ref(raw).cast(),
        }
    }

    pub(super) fn size(&self) -> i32 {
        match self.raw {
            Raw::V4(_) => size_of::<bindings::sockaddr_in>() as i32,
            Raw::V6(_) => size_of::<bindings::sockaddr_in6>() as i32,
        }
    }
}

/// Returns a hash of a server's address and a client's, spread over all 32 bits: the same on every host.
pub(crate) fn hash(server: &SocketAddr, client: IpAddr) -> u32 {
    let seed = hash_of(server.addr.ip(), u32::from(server.addr.port()));
    hash_of(client, seed)
}

/// Returns a hash of a server's address and a [`Digest`], spread over all 32 bits. Any context.
pub(crate) fn keyed_hash(server: &SocketAddr, digest: u64) -> u32 {
    let bits = match server.addr.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let port = u64::from(server.addr.port());
    let server = crypto::keyed_hash((bits >> 64) as u64, bits as u64, port);
    crypto::keyed_hash(server, digest, 0) as u32
}

fn hash_of(addr: IpAddr, seed: u32) -> u32 {
    let bits = match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let words = [bits, bits >> 32, bits >> 64, bits >> 96].map(|bits| bits as u32);
    // SAFETY: That many words can be read.
    unsafe { bindings::squall_hash(words.as_ptr(), words.len() as u32, seed) }
}

/// Returns the address and port of a connected socket's peer, an IPv4 address as such.
pub(super) fn peer(sk: NonNull<bindings::sock>) -> net::SocketAddr {
    let mut octets = [0u8; 16];
    let mut port = 0;
    // SAFETY: The socket is alive, and there are 16 bytes.
    unsafe { bindings::squall_sk_peer(sk.as_ptr(), octets.as_mut_ptr(), &mut port) };
    net::SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port)
}
