// SPDX-License-Identifier: GPL-2.0

//! Token buckets: how often something may happen, and how many times in a row.
//!
//! A bucket is one number, the point in time at which it will be full again; every token that is taken
//! moves it on by the time that one token needs to come. This is the generic cell rate algorithm in its
//! form of virtual scheduling (ITU-T I.371, annex A). The clock is [`ns()`](super::time::ns).

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
#[derive(Clone, Copy, Debug)]
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

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)] // A test may panic.
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate::per_second(per_second, burst).unwrap_or(Rate {
            interval: 0,
            burst: 0,
        })
    }

    /// Returns how many tokens can be taken at once at `now`.
    fn tokens(bucket: &mut Bucket, rate: &Rate, now: u64) -> u32 {
        (0..)
            .take_while(|_| bucket.take(rate, now, 0).is_ok())
            .count() as u32
    }

    #[test]
    fn any_rate_has_no_bucket() {
        assert_eq!(Rate::per_second(0, 5), None);
        assert_eq!(Rate::per_minute(0), None);
    }

    #[test]
    fn a_burst_passes_and_then_as_many_as_the_rate_lets() {
        for (per_second, burst) in [(1, 1), (10, 1), (10, 5), (1000, 200), (3, 7)] {
            let (rate, mut bucket) = (rate(per_second, burst), Bucket::FULL);
            let start = 12_345 * MS;
            assert_eq!(tokens(&mut bucket, &rate, start), burst, "{rate:?}");
            // Within ten seconds, in steps of a millisecond.
            let later: u32 = (1..=10_000)
                .map(|ms| tokens(&mut bucket, &rate, start + ms * MS))
                .sum();
            assert_eq!(later, per_second * 10, "{rate:?}");
        }
    }

    #[test]
    fn a_bucket_holds_no_more_than_the_burst_however_long_nothing_is_taken() {
        let (rate, mut bucket) = (rate(10, 4), Bucket::FULL);
        assert_eq!(tokens(&mut bucket, &rate, 0), 4);
        assert_eq!(tokens(&mut bucket, &rate, u64::MAX / 2), 4);
    }

    #[test]
    fn waiting_as_long_as_it_says_is_long_enough_and_no_longer() {
        let (rate, mut bucket) = (rate(3, 2), Bucket::FULL);
        assert_eq!(bucket.wait(&rate, 0), 0);
        assert_eq!(tokens(&mut bucket, &rate, 0), 2);
        let wait = u64::from(bucket.wait(&rate, 0));
        assert_eq!(wait, 334);
        assert!(bucket.wait(&rate, (wait - 1) * MS) > 0);
        assert_eq!(bucket.wait(&rate, wait * MS), 0);
        assert!(!bucket.is_full(wait * MS));
        assert!(bucket.is_full(667 * MS));
    }

    #[test]
    fn patience_gets_tokens_that_are_to_come_and_no_more() {
        let (rate, mut bucket) = (rate(10, 1), Bucket::FULL);
        assert_eq!(bucket.take(&rate, 0, 250), Ok(0));
        assert_eq!(bucket.take(&rate, 0, 250), Ok(100));
        assert_eq!(bucket.take(&rate, 0, 250), Ok(200));
        assert_eq!(bucket.take(&rate, 0, 250), Err(300));
        // What was refused took nothing.
        assert_eq!(bucket.take(&rate, 50 * MS, 250), Ok(250));
    }

    #[test]
    fn what_is_charged_beyond_empty_is_forgotten() {
        let (rate, mut bucket) = (Rate::per_minute(2), Bucket::FULL);
        let Some(rate) = rate.as_ref() else {
            return assert!(rate.is_some());
        };
        for _ in 0..100 {
            bucket.charge(rate, 0);
        }
        assert_eq!(bucket.wait(rate, 0), 30_000);
    }

    #[test]
    fn a_rate_that_was_raised_does_not_wait_for_tokens_of_the_slower_one() {
        let mut bucket = Bucket::FULL;
        let slow = rate(1, 1000);
        assert_eq!(tokens(&mut bucket, &slow, 0), 1000);
        assert_eq!(bucket.wait(&rate(1000, 1), 0), 1);
    }

    #[test]
    fn the_ends_of_the_range_overflow_nothing() {
        for rate in [
            rate(1, u32::MAX),
            rate(u32::MAX, u32::MAX),
            rate(u32::MAX, 1),
        ] {
            for at in [0, u64::MAX] {
                let mut bucket = Bucket(u64::MAX);
                bucket.charge(&rate, at);
                let _ = bucket.take(&rate, at, u32::MAX);
                let _ = bucket.wait(&rate, at);
            }
        }
    }
}
