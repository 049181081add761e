// SPDX-License-Identifier: GPL-2.0

//! An immutable table of routes, made when configuration changes.
//!
//! One trie contains the hosts, backwards, and each host has a trie of its paths. A wildcard's key ends with its dot,
//! `moc.elpmaxe.` for `*.example.com`, so a host, read backwards, matches exactly the keys that it begins with, and the
//! longest is the most specific one. Each host knows the next less specific host that it matches itself. If none of its
//! paths matches, the search continues there.
//!
//! A search takes as many steps as the host and the path have bytes, and for each further host at most as many as the
//! longest path of a route. The number of routes does not matter.
//!
//! Context: process for making, softirq for finding.

use super::Place;
use crate::{
    proto::{
        self,
        canonical::{
            Host,
            Path, //
        },
        span::{
            Source,
            Span, //
        },
        trie::{
            self,
            Node,
            Range,
            Trie, //
        }, //
    },
    proxy::route::Route, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// A table of routes.
pub(super) struct Table {
    /// The bytes of all keys.
    bytes: KVVec<u8>,
    /// The trie of hosts, then those of their paths.
    nodes: KVVec<Node>,
    /// How many nodes the trie of hosts has.
    host_nodes: usize,
    hosts: KVVec<HostEntry>,
    /// Sorted by host, then by path.
    routes: KVVec<Arc<Route>>,
}

/// A host that routes have.
struct HostEntry {
    /// The nodes of the trie of its paths.
    nodes: core::ops::Range<usize>,
    /// Place of the route of the first of its paths.
    routes: usize,
    /// Its only path is `/`.
    sole: bool,
    /// The next less specific host that matches wherever this one does. It has a lower place.
    next: Option<usize>,
}

/// Returns whether a host fits a key that it begins with, by the last byte of the key and the byte behind.
fn host_fits(last: Option<u8>, next: Option<u8>) -> bool {
    match last {
        None => true,
        Some(b'.') => next.is_some(),
        Some(_) => next.is_none(),
    }
}

/// Returns whether a path fits a key that it begins with: the key ends where a segment does.
fn path_fits(last: Option<u8>, next: Option<u8>) -> bool {
    last == Some(b'/') || matches!(next, None | Some(b'/'))
}

impl Table {
    /// Makes the table of these routes, which are sorted by key. Of several with the same key, the first is used.
    pub(super) fn new(places: &[Place]) -> Result<Table> {
        let mut table = Table {
            bytes: KVVec::new(),
            nodes: KVVec::new(),
            host_nodes: 0,
            hosts: KVVec::new(),
            routes: KVVec::with_capacity(places.len(), GFP_KERNEL)?,
        };
        let mut hosts = KVVec::with_capacity(places.len(), GFP_KERNEL)?;
        let mut paths = KVVec::with_capacity(places.len(), GFP_KERNEL)?;
        table.hosts.reserve(places.len(), GFP_KERNEL)?;
        for same in places.chunk_by(|a, b| a.compare(b).is_eq()) {
            let Some(place) = same.first() else { continue };
            let host = place.host.compared();
            if hosts
                .last()
                .is_none_or(|last: &Range| last.of(&table.bytes) != host)
            {
                hosts.push(table.keep(host)?, GFP_KERNEL)?;
                let entry = HostEntry {
                    nodes: 0..0,
                    routes: table.routes.len(),
                    sole: false,
                    next: None,
                };
                table.hosts.push(entry, GFP_KERNEL)?;
            }
            paths.push(table.keep(place.path.compared())?, GFP_KERNEL)?;
            table.routes.push(place.route.clone(), GFP_KERNEL)?;
        }
        table.build(&hosts, &paths)?;
        Ok(table)
    }

    /// Makes the tries of these keys.
    fn build(&mut self, hosts: &[Range], paths: &[Range]) -> Result {
        let most = trie::nodes_max(hosts.len()).saturating_add(trie::nodes_max(paths.len()));
        self.nodes.resize(most, Node::default(), GFP_KERNEL)?;
        self.host_nodes = trie::build(hosts, &self.bytes, &mut self.nodes).ok_or(EINVAL)?;
        let mut made = self.host_nodes;
        for (at, host) in hosts.iter().enumerate() {
            let key = host.of(&self.bytes).iter().copied();
            let wider = |place, last, next| place as usize != at && host_fits(last, next);
            let next = self.hosts_trie().longest(key, wider);
            let following = at.checked_add(1).and_then(|at| self.hosts.get(at));
            let end = following.map_or(paths.len(), |host| host.routes);
            let entry = self.hosts.get_mut(at).ok_or(EINVAL)?;
            let paths = paths.get(entry.routes..end).ok_or(EINVAL)?;
            let nodes = self.nodes.get_mut(made..).ok_or(EINVAL)?;
            let count = trie::build(paths, &self.bytes, nodes).ok_or(EINVAL)?;
            entry.nodes = made..made.saturating_add(count);
            entry.sole = matches!(paths, [path] if path.of(&self.bytes) == b"/");
            entry.next = next.map(|place| place as usize);
            made = entry.nodes.end;
        }
        Ok(())
    }

    /// Copies a key.
    fn keep(&mut self, key: &[u8]) -> Result<Range> {
        let range = Range {
            start: u32::try_from(self.bytes.len()).map_err(|_| EINVAL)?,
            len: u16::try_from(key.len()).map_err(|_| EINVAL)?,
        };
        self.bytes.extend_from_slice(key, GFP_KERNEL)?;
        Ok(range)
    }

    fn hosts_trie(&self) -> Trie<'_> {
        Trie {
            nodes: self.nodes.get(..self.host_nodes).unwrap_or(&[]),
            bytes: &self.bytes,
        }
    }

    /// Finds the route of a request; see [`super::Router::find`]. `target` is the path and perhaps a query.
    pub(super) fn find<S: Source + ?Sized>(
        &self,
        host: Option<Span>,
        target: Span,
        src: &S,
    ) -> Result<Option<Arc<Route>>, proto::Error> {
        let mut checked = false;
        let mut at = self.host(host, src);
        while let Some((place, entry)) = at.and_then(|at| Some((at, self.hosts.get(at)?))) {
            let found = if entry.sole {
                self.live(entry, 0)
            } else {
                if !checked {
                    Path::new(target, src).check()?;
                    checked = true;
                }
                self.path(entry, target, src)
            };
            if found.is_some() {
                return Ok(found.cloned());
            }
            // The loop ends whatever the table contains.
            at = entry.next.filter(|next| *next < place);
        }
        Ok(None)
    }

    /// Returns the place of the most specific host that matches the request's host.
    #[inline(never)] // The host is copied to the stack.
    fn host<S: Source + ?Sized>(&self, host: Option<Span>, src: &S) -> Option<usize> {
        let trie = self.hosts_trie();
        let any = trie.longest(core::iter::empty(), |_, last, next| host_fits(last, next));
        if any.is_some() && self.hosts.len() == 1 {
            return any.map(|place| place as usize);
        }
        let host = host.and_then(|host| Host::from_authority(host, src));
        let place = match host {
            Some(host) => trie.longest(host.reversed(), |_, last, next| host_fits(last, next)),
            None => any,
        };
        place.map(|place| place as usize)
    }

    /// Returns the route of the longest path of a host that matches the request's path.
    fn path<S: Source + ?Sized>(
        &self,
        host: &HostEntry,
        target: Span,
        src: &S,
    ) -> Option<&Arc<Route>> {
        let trie = Trie {
            nodes: self.nodes.get(host.nodes.clone())?,
            bytes: &self.bytes,
        };
        let path = Path::new(target, src).map_while(Result::ok);
        let place = trie.longest(path, |place, last, next| {
            path_fits(last, next) && self.live(host, place).is_some()
        })?;
        self.live(host, place)
    }

    /// Returns the route of a path of a host, unless it was removed.
    fn live(&self, host: &HostEntry, path: u32) -> Option<&Arc<Route>> {
        let place = host.routes.checked_add(path as usize)?;
        self.routes.get(place).filter(|route| !route.is_retired())
    }
}
