// SPDX-License-Identifier: GPL-2.0

//! What each client has open and how fast it goes: a table for limits on the abuse by single clients.
//!
//! A client is an address, cut to a prefix (`net.squall.client_prefix_v4`, `_v6`), within a [`Scope`]: whatever has
//! limits of its own. Of each the table knows how much it has open, and a few token buckets. An entry with nothing open
//! and full buckets is idle: it says no more than a missing one, so its place may be taken by whoever comes next, and it
//! does not matter which idle entry that is.
//!
//! # Memory and attacks
//!
//! The table is cut into shards with a lock each; a hash with a secret key (SipHash) tells an entry's shard and its chain
//! there, so that nobody can choose addresses that meet. A shard takes memory for entries by the kibibyte when it has no idle
//! one at hand, up to its share of the module's parameter `clients_max`, and keeps it until the module is unloaded. Who
//! finds no place or no memory is not tracked, and what that means is decided by who asked.
//!
//! Context: any for the functions, as a shard's lock is a leaf; the table itself is made and dropped with the
//! [`Runtime`](super::Runtime), when no connection exists.

use super::{
    bucket::{
        Bucket,
        Rate, //
    },
    crypto::keyed_hash,
    lock::{
        new_bh_lock,
        BhLock, //
    },
    stats::{
        self,
        Counter, //
    },
    sysctl,
    time, //
};
use core::{
    cell::UnsafeCell,
    net::IpAddr,
    num::NonZeroU32, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    }, //
};

/// Largest value of the parameter `clients_max`.
const CLIENTS_MAX: u32 = 1 << 22;

/// Shards of a large table.
const SHARDS_MAX: usize = 1024;

/// Entries of a shard, at least, as far as the table is so large.
const SHARE_MIN: usize = 64;

/// Token buckets of an entry. What they are for is up to the scope.
const BUCKETS: usize = 3;

/// Entries that are allocated together.
const CHUNK: usize = 18;

/// Entries that are looked at for an idle one before memory is taken for another, and when there is to be no more.
const SWEEP: usize = 16;
const SWEEP_FULL: usize = 128;

/// Something that has limits of its own for each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope(u32);

impl Scope {
    /// What the connections of a client hold, to whatever listener; see [`memory`](super::memory).
    pub(super) const MEMORY: Scope = Scope(0);

    /// Makes a scope that no other is equal to.
    pub(crate) fn new() -> Scope {
        static LAST: Atomic<u32> = Atomic::new(0);
        // 0 is not used before four thousand million scopes have been made.
        Scope(LAST.fetch_add(1, Relaxed).wrapping_add(1))
    }
}

/// A client within a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    addr: [u64; 2],
    scope: u32,
}

impl Key {
    /// Makes the key of an address, of which the configured prefix counts.
    pub(crate) fn new(scope: Scope, addr: IpAddr) -> Key {
        let (bits, behind) = match addr {
            IpAddr::V4(addr) => (
                addr.to_ipv6_mapped().to_bits(),
                32u32.saturating_sub(sysctl::client_prefix_v4()),
            ),
            IpAddr::V6(addr) => (
                addr.to_bits(),
                128u32.saturating_sub(sysctl::client_prefix_v6()),
            ),
        };
        let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
        let bits = bits & mask;
        Key {
            addr: [(bits >> 64) as u64, bits as u64],
            scope: scope.0,
        }
    }

    fn hash(&self) -> u64 {
        let [high, low] = self.addr;
        keyed_hash(high, low, u64::from(self.scope))
    }
}

// SAFETY: It is a number.
unsafe impl Zeroable for Bucket {}

/// What is known of a client.
#[derive(Zeroable)]
struct Entry {
    /// Its key.
    addr: [u64; 2],
    scope: u32,
    /// What it has open.
    open: u32,
    /// Its chain, and the entry behind it there, by [`link`].
    head: u32,
    next: u32,
    buckets: [Bucket; BUCKETS],
}

const _: () = assert!(size_of::<[Entry; CHUNK]>() <= 1024);

impl Entry {
    fn is_of(&self, key: &Key) -> bool {
        self.addr == key.addr && self.scope == key.scope
    }

    fn is_idle(&self, now: u64) -> bool {
        self.open == 0 && self.buckets.iter().all(|bucket| bucket.is_full(now))
    }
}

/// Entries are linked by their place in the shard plus one; 0 is the end.
fn link(place: usize) -> u32 {
    (place as u32).wrapping_add(1)
}

/// Returns the place that is linked to.
fn linked(link: u32) -> Option<usize> {
    link.checked_sub(1).map(|place| place as usize)
}

/// Why a client cannot be tracked.
struct Untracked;

/// A part of the table.
struct Shard {
    /// The first entry of each chain. Empty before the first use.
    heads: KVec<u32>,
    chunks: KVec<KBox<[Entry; CHUNK]>>,
    /// Entries in use; those behind are in no chain.
    count: usize,
    /// Where the search for an idle entry goes on.
    hand: usize,
}

impl Shard {
    fn entry(&mut self, place: usize) -> Option<&mut Entry> {
        let chunk = self.chunks.as_mut_slice().get_mut(place / CHUNK)?;
        chunk.get_mut(place % CHUNK)
    }

    fn find(&mut self, head: usize, key: &Key) -> Option<usize> {
        let mut next = *self.heads.get(head)?;
        while let Some(place) = linked(next) {
            let entry = self.entry(place)?;
            if entry.is_of(key) {
                return Some(place);
            }
            next = entry.next;
        }
        None
    }

    /// Takes an entry out of its chain.
    fn unlink(&mut self, place: usize) -> Option<()> {
        let entry = self.entry(place)?;
        let (head, behind) = (entry.head as usize, entry.next);
        let mut next = *self.heads.get(head)?;
        if next == link(place) {
            *self.heads.as_mut_slice().get_mut(head)? = behind;
            return Some(());
        }
        while let Some(before) = linked(next) {
            let entry = self.entry(before)?;
            next = entry.next;
            if next == link(place) {
                entry.next = behind;
                return Some(());
            }
        }
        None
    }

    /// Looks at the next `most` entries for one that is idle, and takes that out of its chain.
    fn reclaim(&mut self, most: usize, now: u64) -> Option<usize> {
        for _ in 0..most.min(self.count) {
            let place = self.hand;
            self.hand = place.wrapping_add(1);
            if self.hand >= self.count {
                self.hand = 0;
            }
            if self.entry(place).is_some_and(|entry| entry.is_idle(now)) {
                return self.unlink(place).map(|()| place);
            }
        }
        None
    }

    /// Returns a place that is in no chain, of `share` places.
    fn place(&mut self, share: usize, now: u64) -> Result<usize, Untracked> {
        if self.count >= share {
            return self.reclaim(SWEEP_FULL, now).ok_or(Untracked);
        }
        if let Some(place) = self.reclaim(SWEEP, now) {
            return Ok(place);
        }
        let place = self.count;
        if place / CHUNK >= self.chunks.len() {
            self.grow().map_err(|_| no_memory())?;
        }
        self.count = place.saturating_add(1);
        Ok(place)
    }

    #[inline(never)] // Not on the frame of those who find a place.
    fn grow(&mut self) -> Result {
        let flags = GFP_ATOMIC | __GFP_NOWARN;
        let chunk = KBox::init(pin_init::init_zeroed::<[Entry; CHUNK]>(), flags)?;
        Ok(self.chunks.push(chunk, flags)?)
    }

    /// Returns the place of a client that is not in the table, among `share` places.
    fn insert(
        &mut self,
        head: usize,
        key: &Key,
        share: usize,
        now: u64,
    ) -> Result<usize, Untracked> {
        if self.heads.is_empty() {
            let flags = GFP_ATOMIC | __GFP_NOWARN;
            self.heads = KVec::from_elem(0, share, flags).map_err(|_| no_memory())?;
        }
        let place = self.place(share, now)?;
        let first = self.heads.as_mut_slice().get_mut(head).ok_or(Untracked)?;
        let next = core::mem::replace(first, link(place));
        let entry = self.entry(place).ok_or(Untracked)?;
        *entry = Entry {
            addr: key.addr,
            scope: key.scope,
            open: 0,
            head: head as u32,
            next,
            buckets: [Bucket::FULL; BUCKETS],
        };
        Ok(place)
    }
}

#[cold]
fn no_memory() -> Untracked {
    stats::inc(Counter::NoMemory);
    Untracked
}

/// The table.
struct Table {
    shards: KVec<Pin<KBox<BhLock<Shard>>>>,
    /// Entries that a shard may have, and its chains.
    share: usize,
}

/// Where the table is.
struct Home(UnsafeCell<Option<Table>>);

// SAFETY: Written by `start()` and `stop()` only, while nobody reads; the table locks for itself.
unsafe impl Sync for Home {}

static TABLE: Home = Home(UnsafeCell::new(None));

fn table() -> Option<&'static Table> {
    // SAFETY: Connections, configuration and tasks exist between `start()` and `stop()` only.
    unsafe { (*TABLE.0.get()).as_ref() }
}

/// Makes the table, for up to `most` clients. Fails with `EINVAL` for a number that is not 1 to 4194304.
///
/// # Safety
///
/// Process context; there is no other table, and nothing uses one.
pub(super) unsafe fn start(most: u32) -> Result {
    if most == 0 || most > CLIENTS_MAX {
        pr_err!(
            "clients_max: {} refused, the range is 1 to {}\n",
            most,
            CLIENTS_MAX
        );
        return Err(EINVAL);
    }
    let most = most as usize;
    let count = (most / SHARE_MIN).clamp(1, SHARDS_MAX);
    let mut shards = KVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        let shard = new_bh_lock!(Shard {
            heads: KVec::new(),
            chunks: KVec::new(),
            count: 0,
            hand: 0,
        });
        shards.push(KBox::pin_init(shard, GFP_KERNEL)?, GFP_KERNEL)?;
    }
    let share = most.checked_div(count).ok_or(EINVAL)?;
    // SAFETY: The caller promises that nobody uses it.
    unsafe { *TABLE.0.get() = Some(Table { shards, share }) };
    Ok(())
}

/// Drops the table.
///
/// # Safety
///
/// Process context, and nothing uses it any more.
pub(super) unsafe fn stop() {
    // SAFETY: The caller promises that nobody uses it.
    let table = unsafe { (*TABLE.0.get()).take() };
    drop(table);
}

impl Table {
    /// Returns a client's shard and its chain.
    fn home(&self, key: &Key) -> (usize, usize) {
        let hash = key.hash();
        let scale =
            |bits: u64, to: usize| ((bits & 0xffff_ffff).wrapping_mul(to as u64) >> 32) as usize;
        (
            scale(hash >> 32, self.shards.len()),
            scale(hash, self.share),
        )
    }

    /// Does something with an entry that has something open: such a one stays where it is.
    fn at<R>(&self, place: NonZeroU32, act: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let place = place.get().wrapping_sub(1) as usize;
        let number = place.checked_div(self.share)?;
        let within = place.checked_rem(self.share)?;
        let mut shard = self.shards.get(number)?.lock();
        shard.entry(within).map(act)
    }
}

/// Does something with what is known of a client, which is entered before if `make` says so. `None` if it is not in the
/// table.
fn with<R>(
    key: &Key,
    make: bool,
    act: impl FnOnce(&mut Entry, NonZeroU32, u64) -> R,
) -> Result<Option<R>, Untracked> {
    let table = table().ok_or(Untracked)?;
    let (number, head) = table.home(key);
    let mut shard = table.shards.get(number).ok_or(Untracked)?.lock();
    // Not before the lock: who had to wait for it would find tokens gone that were taken after its time, and be too early.
    let now = time::ns();
    let place = match shard.find(head, key) {
        Some(place) => place,
        None if make => shard.insert(head, key, table.share, now)?,
        None => return Ok(None),
    };
    let global = number.saturating_mul(table.share).saturating_add(place);
    let global = NonZeroU32::MIN.saturating_add(global as u32);
    let entry = shard.entry(place).ok_or(Untracked)?;
    Ok(Some(act(entry, global, now)))
}

/// As [`with`], for a client that has to be in the table.
fn entered<R>(
    key: &Key,
    act: impl FnOnce(&mut Entry, NonZeroU32, u64) -> Result<R, Refused>,
) -> Result<R, Refused> {
    match with(key, true, act) {
        Ok(Some(result)) => result,
        Ok(None) | Err(Untracked) => {
            stats::inc(Counter::ClientsUntracked);
            Err(Refused::Untracked)
        }
    }
}

/// Why a client does not get what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It has as much open as it may.
    Many,
    /// It is too fast; in so many milliseconds it would not be.
    Early(u32),
    /// There is no place or no memory to keep account of it.
    Untracked,
}

/// One of the things that a client has open: it counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat(NonZeroU32);

impl Drop for Seat {
    fn drop(&mut self) {
        change(&Place(self.0), -1);
    }
}

/// Notes that a client opens something, of which it may have `most`, 0 for any number. If `rate` is given, that
/// takes a token from a bucket. Any context.
pub(crate) fn open(key: &Key, most: u32, rate: Option<(usize, Rate)>) -> Result<Seat, Refused> {
    entered(key, |entry, place, now| {
        if most > 0 && entry.open >= most {
            return Err(Refused::Many);
        }
        if let Some((bucket, rate)) = rate {
            let bucket = entry.buckets.get_mut(bucket).ok_or(Refused::Untracked)?;
            bucket.take(&rate, now, 0).map_err(Refused::Early)?;
        }
        entry.open = entry.open.saturating_add(1);
        Ok(Seat(place))
    })
}

/// Where a client is in the table, as long as it has something open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(NonZeroU32);

impl Place {
    /// Returns it as a number, which is not 0.
    pub(super) fn number(&self) -> u32 {
        self.0.get()
    }

    /// Returns what has this number, if that is not 0.
    pub(super) fn from_number(number: u32) -> Option<Place> {
        NonZeroU32::new(number).map(Place)
    }
}

/// Notes that a client opens `count` things; returns its place and how many it has then. Any context.
pub(super) fn hold(key: &Key, count: u32) -> Result<(Place, u32), Refused> {
    entered(key, |entry, place, _| {
        entry.open = entry.open.saturating_add(count);
        Ok((Place(place), entry.open))
    })
}

/// Notes that a client opens or closes some of what it has open, and returns how many it has then. Any context. Who has
/// closed all has no place any more.
pub(super) fn change(place: &Place, by: i64) -> u32 {
    let Some(table) = table() else { return 0 };
    let changed = table.at(place.0, |entry| {
        let open = i64::from(entry.open).saturating_add(by);
        entry.open = u32::try_from(open.max(0)).unwrap_or(u32::MAX);
        entry.open
    });
    changed.unwrap_or(0)
}

/// Returns how much a client has open. Any context.
pub(super) fn opened(key: &Key) -> u32 {
    // Who is not in the table has nothing.
    let opened = with(key, false, |entry, _, _| entry.open);
    opened.ok().flatten().unwrap_or(0)
}

/// Takes a token from a client's bucket; see [`Bucket::take`]. Any context.
pub(crate) fn take(key: &Key, bucket: usize, rate: &Rate, patience: u32) -> Result<u32, Refused> {
    entered(key, |entry, _, now| {
        let bucket = entry.buckets.get_mut(bucket).ok_or(Refused::Untracked)?;
        bucket.take(rate, now, patience).map_err(Refused::Early)
    })
}

/// Charges a client's bucket; see [`Bucket::charge`]. Any context.
pub(crate) fn charge(key: &Key, bucket: usize, rate: &Rate) {
    // Who cannot be tracked gets away with it, and is counted.
    let _ = entered(key, |entry, _, now| {
        if let Some(bucket) = entry.buckets.get_mut(bucket) {
            bucket.charge(rate, now);
        }
        Ok(())
    });
}

/// Returns the milliseconds until a client's bucket has a token; see [`Bucket::wait`]. Any context.
pub(crate) fn wait(key: &Key, bucket: usize, rate: &Rate) -> u32 {
    let wait = with(key, false, |entry, _, now| {
        let bucket = entry.buckets.get(bucket);
        bucket.map_or(0, |bucket| bucket.wait(rate, now))
    });
    // Who is not in the table has done nothing.
    wait.ok().flatten().unwrap_or(0)
}

/// How the table is filled.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Clients that are not idle.
    pub(crate) clients: usize,
    /// Bytes of memory that the entries and their chains take.
    pub(crate) bytes: usize,
}

/// Returns how the table is filled. Process context: looks at all of it.
pub(crate) fn usage() -> Usage {
    let mut usage = Usage::default();
    let now = time::ns();
    for shard in table().iter().flat_map(|table| table.shards.iter()) {
        let shard = shard.lock();
        let entries = shard.chunks.iter().flat_map(|chunk| chunk.iter());
        let busy = entries
            .take(shard.count)
            .filter(|entry| !entry.is_idle(now));
        usage.clients += busy.count();
        usage.bytes += shard.chunks.len() * size_of::<[Entry; CHUNK]>();
        usage.bytes += shard.heads.len() * size_of::<u32>();
    }
    usage
}
