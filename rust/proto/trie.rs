// SPDX-License-Identifier: GPL-2.0

//! An immutable trie over byte strings. It finds the longest key that fits an input, in time that depends only on the
//! input.
//!
//! The caller owns the memory of keys and nodes. Below a node are the keys that begin with the bytes on the path to it.
//! A node with a single child is merged with it, so there are fewer than two nodes per key.

use core::cmp::Ordering;

/// A range of the bytes that hold all keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// Offset of the first byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u16,
}

impl Range {
    /// Returns the bytes, or an empty slice if the range is out of bounds.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        usize::try_from(self.start)
            .ok()
            .and_then(|start| bytes.get(start..)?.get(..usize::from(self.len)))
            .unwrap_or(&[])
    }
}

/// A node; made by [`build`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Node {
    /// The bytes between the parent and this node.
    label: Range,
    /// The first of them.
    byte: u8,
    /// A key ends here: `first`.
    ends: bool,
    /// The keys at and below this node: index of the first, and their number.
    first: u32,
    keys: u32,
    /// The children, sorted by `byte`: index of the first, and their number.
    children: u32,
    count: u16,
}

/// Returns the most nodes that `keys` keys can have.
pub const fn nodes_max(keys: usize) -> usize {
    keys.saturating_mul(2)
}

/// Makes the nodes for `keys`: sorted ranges of `bytes` without duplicates.
///
/// Writes them to the front of `nodes`, which needs room for [`nodes_max`] of them, and returns their number. `None` if
/// there is not enough room, or a range is outside of `bytes`.
pub fn build(keys: &[Range], bytes: &[u8], nodes: &mut [Node]) -> Option<usize> {
    if keys.is_empty() {
        return Some(0);
    }
    let key = |place: u32| Some(keys.get(usize::try_from(place).ok()?)?.of(bytes));
    let mut made = 1usize;
    *nodes.get_mut(0)? = Node {
        label: Range {
            start: keys.first()?.start,
            len: 0,
        },
        keys: u32::try_from(keys.len()).ok()?,
        ..Node::default()
    };
    let mut next = 0usize;
    while next < made {
        let mut node = *nodes.get(next)?;
        let start = keys.get(usize::try_from(node.first).ok()?)?.start;
        let above = usize::try_from(node.label.start.checked_sub(start)?).ok()?;
        let end = node.first.checked_add(node.keys)?;
        // The keys are sorted, so all share the prefix that the first and the last one share.
        let (low, high) = (key(node.first)?, key(end.checked_sub(1)?)?);
        let same = low.iter().zip(high).skip(above);
        let len = same.take_while(|(a, b)| a == b).count();
        let depth = above.checked_add(len)?;
        node.label.len = u16::try_from(len).ok()?;
        node.ends = low.len() == depth;
        node.children = u32::try_from(made).ok()?;
        let mut place = node.first.checked_add(u32::from(node.ends))?;
        while place < end {
            let byte = *key(place)?.get(depth)?;
            let first = place;
            while place < end && key(place)?.get(depth) == Some(&byte) {
                place = place.checked_add(1)?;
            }
            let start = keys.get(usize::try_from(first).ok()?)?.start;
            *nodes.get_mut(made)? = Node {
                label: Range {
                    start: start.checked_add(u32::try_from(depth).ok()?)?,
                    len: 0,
                },
                byte,
                first,
                keys: place.checked_sub(first)?,
                ..Node::default()
            };
            made = made.checked_add(1)?;
            node.count = node.count.checked_add(1)?;
        }
        *nodes.get_mut(next)? = node;
        next = next.checked_add(1)?;
    }
    Some(made)
}

/// Nodes that [`build`] made, with the bytes of their keys.
#[derive(Clone, Copy)]
pub struct Trie<'a> {
    /// The nodes.
    pub nodes: &'a [Node],
    /// The bytes that hold all keys.
    pub bytes: &'a [u8],
}

impl<'a> Trie<'a> {
    /// Returns the index of the longest key that is a prefix of the input and for which `fits` is true.
    ///
    /// `fits` gets the key's index, the last byte of the key, and the byte that follows it in the input.
    pub fn longest(
        self,
        mut input: impl Iterator<Item = u8>,
        mut fits: impl FnMut(u32, Option<u8>, Option<u8>) -> bool,
    ) -> Option<u32> {
        let mut best = None;
        let mut last = None;
        let mut next = input.next();
        let mut node = self.nodes.first()?;
        loop {
            for &byte in node.label.of(self.bytes) {
                if next != Some(byte) {
                    return best;
                }
                last = next;
                next = input.next();
            }
            if node.ends && fits(node.first, last, next) {
                best = Some(node.first);
            }
            let Some(below) = next.and_then(|byte| self.below(node, byte)) else {
                return best;
            };
            node = below;
        }
    }

    fn below(self, node: &Node, byte: u8) -> Option<&'a Node> {
        let first = usize::try_from(node.children).ok()?;
        let children = self.nodes.get(first..)?.get(..usize::from(node.count))?;
        let by_byte = |child: &Node| -> Ordering { child.byte.cmp(&byte) };
        let place = children.binary_search_by(by_byte).ok()?;
        children.get(place)
    }
}
