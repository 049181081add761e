// SPDX-License-Identifier: GPL-2.0

//! A server's record of failures and checks, and what follows from it.
//!
//! A server whose requests fail `fails_max` times in a row is paused: it counts as down for a while, and then gets one
//! request at a time, with growing pauses, until it answers one. The pauses do not wait for the result of such a
//! request: its client may leave, and the result would never come.
//!
//! Context: softirq, the lock of the server's pool held.

use crate::net::{
    random,
    sysctl,
    Moment, //
};

/// The whole of a server's weight.
const WHOLE: u32 = 256;

/// The part of its weight that a server has when it comes back.
const LEAST: u32 = WHOLE / 16;

/// A server's record.
#[derive(Default)]
pub(super) struct Record {
    /// Requests in a row that may fail; 0: any number.
    pub(super) fails_max: u32,
    /// Requests that failed in a row.
    pub(super) fails: u32,
    /// Pauses in a row. While it is not 0 the server is on trial.
    pauses: u32,
    /// The server gets no request before this time.
    paused_until: Option<Moment>,
    health: Health,
    /// Milliseconds over which the server's share grows when it comes back; 0: at once.
    pub(super) slow_start: u32,
    /// The time at which it came back.
    back_at: Option<Moment>,
}

/// The results of checks.
#[derive(Default)]
struct Health {
    /// The number of the checks whose results count.
    number: u32,
    /// Checks in a row after which the server is healthy, or unhealthy; 0 if there are no checks.
    rise: u32,
    fall: u32,
    /// Checks in a row with a result that contradicts `unhealthy`.
    opposite: u32,
    unhealthy: bool,
}

impl Record {
    /// Returns whether the server gets no request now.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_until
            .is_some_and(|until| Moment::now().is_before(until))
    }

    /// Returns whether the server may get a request, and notes that it gets one.
    pub(super) fn admit(&mut self) -> bool {
        if self.is_paused() {
            return false;
        }
        if self.pauses > 0 {
            self.pause();
        }
        true
    }

    /// Notes an unanswered request. Returns whether the server is paused now.
    pub(super) fn failed(&mut self) -> bool {
        self.fails = self.fails.saturating_add(1);
        let paused = self.fails_max > 0 && self.fails >= self.fails_max;
        // Failures of requests that were under way together cause one pause.
        if paused && !self.is_paused() {
            self.pause();
        }
        paused
    }

    /// Notes that the server has come back.
    pub(super) fn back(&mut self) {
        self.back_at = Some(Moment::now());
    }

    /// Returns the part of its weight that the server has now, out of [`WHOLE`]. It is smaller for a while after the
    /// server has come back.
    pub(super) fn part(&self) -> u32 {
        let Some(back_at) = self.back_at else {
            return WHOLE;
        };
        let since = u64::from(back_at.ms_until(Moment::now())).saturating_mul(u64::from(WHOLE));
        match since.checked_div(u64::from(self.slow_start)) {
            Some(part) => (part.min(u64::from(WHOLE)) as u32).max(LEAST),
            None => WHOLE,
        }
    }

    /// Notes a request that was answered.
    pub(super) fn answered(&mut self) {
        if self.pauses > 0 {
            self.back();
        }
        self.fails = 0;
        self.pauses = 0;
        self.paused_until = None;
    }

    /// Returns whether the server is unhealthy by its checks.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.health.unhealthy
    }

    /// Begins a series of checks and returns its number. Earlier results stay.
    pub(super) fn begin_checks(&mut self, rise: u32, fall: u32) -> u32 {
        let health = &mut self.health;
        health.number = health.number.wrapping_add(1);
        (health.rise, health.fall, health.opposite) = (rise, fall, 0);
        health.number
    }

    /// Forgets the results of checks, and ignores further ones.
    pub(super) fn end_checks(&mut self) {
        let number = self.health.number.wrapping_add(1);
        self.health = Health {
            number,
            ..Health::default()
        };
    }

    /// Notes how a check of this number ended.
    pub(super) fn checked(&mut self, number: u32, good: bool) {
        let health = &mut self.health;
        if number != health.number {
            return;
        }
        if good != health.unhealthy {
            health.opposite = 0;
            return;
        }
        health.opposite = health.opposite.saturating_add(1);
        let enough = if good { health.rise } else { health.fall };
        if health.opposite >= enough {
            health.unhealthy = !good;
            health.opposite = 0;
            if good {
                self.back();
            }
        }
    }

    fn pause(&mut self) {
        let pause = backoff(self.pauses);
        self.pauses = self.pauses.saturating_add(1);
        self.paused_until = Some(Moment::now().after_ms(pause));
    }
}

/// Returns the milliseconds to wait after `before` earlier waits.
pub(super) fn backoff(before: u32) -> u32 {
    let base = u64::from(sysctl::backoff_min_ms()) << before.min(16);
    let base = base.min(u64::from(sysctl::backoff_max_ms())) as u32;
    // A jitter of a quarter, so that many do not come at once.
    let quarter = base / 4;
    base.saturating_sub(quarter)
        .saturating_add(random(quarter.saturating_mul(2).saturating_add(1)))
}
