// SPDX-License-Identifier: GPL-2.0

//! Lists of networks, for example of trusted proxies.

use core::{
    fmt,
    net::{
        IpAddr,
        Ipv6Addr, //
    }, //
};
use kernel::prelude::*;

/// Most networks of a list.
pub(crate) const NETWORKS_MAX: usize = 64;

/// A network: an address and how many bits of it count. RFC 4632 section 3.1, RFC 4291 section 2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    addr: IpAddr,
    /// 0 to 32 for IPv4, 0 to 128 for IPv6.
    prefix: u8,
}

impl Network {
    /// Parses `address/prefix`, or an address for itself.
    ///
    /// Fails with `EINVAL`, also if a bit behind the prefix is set, since that is probably a mistake.
    pub(crate) fn parse(text: &str) -> Result<Network> {
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| EINVAL)?;
        // Addresses of clients are canonical: one that is not would never match.
        if addr != addr.to_canonical() {
            return Err(EINVAL);
        }
        let most: u8 = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            // The parser of numbers would accept a sign.
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| EINVAL)?
            }
            Some(_) => return Err(EINVAL),
            None => most,
        };
        if prefix > most {
            return Err(EINVAL);
        }
        let behind = bits(addr).trailing_zeros() as u8;
        if behind < most.saturating_sub(prefix) {
            return Err(EINVAL);
        }
        Ok(Network { addr, prefix })
    }

    /// Returns whether `addr` is in the network; an address of the other family never is.
    pub(crate) fn contains(&self, addr: IpAddr) -> bool {
        let most: u32 = if self.addr.is_ipv4() { 32 } else { 128 };
        // A shift by the full width is not possible.
        let behind = most.saturating_sub(u32::from(self.prefix));
        let differ = (bits(self.addr) ^ bits(addr))
            .checked_shr(behind)
            .unwrap_or(0);
        self.addr.is_ipv4() == addr.is_ipv4() && differ == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(addr.to_bits()),
        IpAddr::V6(addr) => Ipv6Addr::to_bits(addr),
    }
}

/// A list of networks.
#[derive(Default)]
pub(crate) struct Networks(KVec<Network>);

impl Networks {
    /// Parses networks with white space or commas between them; there may be none. Process context.
    ///
    /// Fails with `EINVAL`, with `E2BIG` if there are more than [`NETWORKS_MAX`], or without memory.
    pub(crate) fn parse(text: &[u8]) -> Result<Networks> {
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
        let mut networks = KVec::new();
        for word in text.split([' ', '\t', '\n', ',']) {
            if word.is_empty() {
                continue;
            }
            if networks.len() >= NETWORKS_MAX {
                return Err(E2BIG);
            }
            networks.push(Network::parse(word)?, GFP_KERNEL)?;
        }
        Ok(Networks(networks))
    }

    /// Returns whether `addr` is in one of the networks.
    pub(crate) fn contain(&self, addr: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(addr))
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|network| writeln!(f, "{network}"))
    }
}
