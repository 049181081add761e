// SPDX-License-Identifier: GPL-2.0

//! Token buckets: how often something may happen, and how many times in a row.
//!
//! A bucket is one number, the point in time at which it will be full again; every token that is taken
//! moves it on by the time that one token needs to come. This is the generic cell rate algorithm in its
//! form of virtual scheduling (ITU-T I.371, annex A). The clock is [`ns()`](super::time::ns).

use pin_init::Zeroable;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// How many tokens a bucket holds, and how fast they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Nanoseconds until another token is there.
    interval: u64,
    burst: u32,
}

impl Rate {
    /// Makes a rate of `rate` tokens per second with `burst` tokens in a full bucket, at least 1. `None` if `rate`
    /// is 0, which is any rate.
    pub(crate) fn per_second(rate: u32, burst: u32) -> Option<Rate> {
        let interval = SECOND.checked_div(u64::from(rate))?;
        Some(Rate {
            interval,
            burst: burst.max(1),
        })
    }

    /// Makes a rate of `count` tokens per minute, all of which a full bucket has. `None` if `count` is 0.
    pub(crate) fn per_minute(count: u32) -> Option<Rate> {
        let interval = SECOND.saturating_mul(60).checked_div(u64::from(count))?;
        Some(Rate {
            interval,
            burst: count,
        })
    }

    /// Returns the nanoseconds in which `tokens` tokens come.
    fn time_of(&self, tokens: u32) -> u64 {
        self.interval.saturating_mul(u64::from(tokens))
    }
}

/// A bucket: nanoseconds since the machine started at which it is full again. It begins as a full one.
#[derive(Clone, Copy, Debug, Zeroable)]
pub(crate) struct Bucket(u64);

impl Bucket {
    /// A full bucket.
    pub(crate) const FULL: Bucket = Bucket(0);

    /// Says whether no token is missing.
    pub(crate) fn is_full(&self, now: u64) -> bool {
        self.0 <= now
    }

    /// Returns the milliseconds, rounded up, until there is a token; 0 if there is one.
    pub(crate) fn wait(&self, rate: &Rate, now: u64) -> u32 {
        self.wait_beyond(rate, now, 0)
    }

    /// Returns when the bucket is full, if its tokens are taken up to `patience` milliseconds before they are there.
    fn full_at(&self, rate: &Rate, now: u64, patience: u32) -> u64 {
        // It may have been charged by a slower rate, which was changed since: no token is owed longer than by this one.
        let empty = now
            .saturating_add(rate.time_of(rate.burst))
            .saturating_add(u64::from(patience).saturating_mul(1_000_000));
        self.0.min(empty)
    }

    /// As [`Self::wait`], in a bucket whose tokens are taken up to `patience` milliseconds before they are there.
    fn wait_beyond(&self, rate: &Rate, now: u64, patience: u32) -> u32 {
        let full_at = self.full_at(rate, now, patience);
        let spare = rate.time_of(rate.burst.saturating_sub(1));
        let ahead = full_at.saturating_sub(now.saturating_add(spare));
        u32::try_from(ahead.div_ceil(1_000_000)).unwrap_or(u32::MAX)
    }

    /// Takes a token, also one that will be there within `patience` milliseconds. Returns the milliseconds until it is
    /// there, in `Err` if that is too long and none was taken.
    pub(crate) fn take(&mut self, rate: &Rate, now: u64, patience: u32) -> Result<u32, u32> {
        self.0 = self.full_at(rate, now, patience);
        let wait = self.wait_beyond(rate, now, patience);
        if wait > patience {
            return Err(wait);
        }
        self.0 = self.0.max(now).saturating_add(rate.interval);
        Ok(wait)
    }

    /// Takes a token if there is one; an empty bucket stays empty.
    pub(crate) fn charge(&mut self, rate: &Rate, now: u64) {
        let empty = now.saturating_add(rate.time_of(rate.burst));
        let charged = self.0.max(now).saturating_add(rate.interval);
        self.0 = charged.min(empty);
    }
}
