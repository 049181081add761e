// SPDX-License-Identifier: GPL-2.0

//! The access list of a listener: networks with an action for each.

use super::network::Network;
use core::{
    fmt,
    net::IpAddr, //
};
use kernel::prelude::*;

/// Most rules of a list, so that its file fits into a page.
pub(crate) const RULES_MAX: usize = 64;

/// What a rule does with the clients of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// They may connect, and the limits of clients hold for them.
    Allow,
    /// Their connections are reset.
    Deny,
    /// They may connect, and no limit of clients holds for them.
    Exempt,
}

impl Access {
    /// All of them, with the words by which they are configured.
    const ALL: [(Access, &'static str); 3] = [
        (Access::Allow, "allow"),
        (Access::Deny, "deny"),
        (Access::Exempt, "exempt"),
    ];
}

/// A list of rules. The first rule whose network contains a client counts.
#[derive(Default)]
pub(crate) struct Rules(KVec<(Access, Network)>);

impl Rules {
    /// Parses rules such as `deny 192.0.2.0/24`, one per line; there may be none. Process context.
    ///
    /// Fails with `EINVAL`, with `E2BIG` if there are more than [`RULES_MAX`], or without memory.
    pub(crate) fn parse(text: &[u8]) -> Result<Rules> {
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
        let mut rules = KVec::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let Some(word) = words.next() else {
                continue;
            };
            let known = Access::ALL.iter().find(|(_, name)| *name == word);
            let (access, _) = known.ok_or(EINVAL)?;
            let network = Network::parse(words.next().ok_or(EINVAL)?)?;
            if words.next().is_some() {
                return Err(EINVAL);
            }
            if rules.len() >= RULES_MAX {
                return Err(E2BIG);
            }
            rules.push((*access, network), GFP_KERNEL)?;
        }
        Ok(Rules(rules))
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what happens to a client.
    pub(crate) fn of(&self, client: IpAddr) -> Access {
        self.0
            .iter()
            .find(|(_, network)| network.contains(client))
            .map_or(Access::Allow, |(access, _)| *access)
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(access, network)| {
            let named = Access::ALL.iter().find(|(known, _)| known == access);
            let word = named.map_or("", |(_, word)| word);
            writeln!(f, "{word} {network}")
        })
    }
}
