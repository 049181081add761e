// SPDX-License-Identifier: GPL-2.0

//! What is remembered of how a server did, and what follows from it.
//!
//! A server whose requests fail `fails_max` times in a row is paused: it counts as down for a while, and then
//! gets one request at a time, a longer while apart each, until one is answered. That one is not
//! waited for: its client may go away and never tell how it ended.
//!
//! Context: softirq, the lock of the server's pool held.

use crate::net::{
    random,
    sysctl,
    Moment, //
};

/// All of a server's weight.
const WHOLE: u32 = 256;

/// The part of its weight with which a server begins that is back.
const LEAST: u32 = WHOLE / 16;

/// A server's record.
#[derive(Default)]
pub(super) struct Record {
    /// How many requests in a row may fail; 0 for any number.
    pub(super) fails_max: u32,
    /// Requests that failed in a row.
    pub(super) fails: u32,
    /// Pauses in a row; while there is one the server is on trial.
    pauses: u32,
    /// No request before this.
    paused_until: Option<Moment>,
    health: Health,
    /// Milliseconds in which the server's share grows when it is back; 0 for none.
    pub(super) slow_start: u32,
    /// When it was back.
    back_at: Option<Moment>,
}

/// What checks have told.
#[derive(Default)]
struct Health {
    /// The number of the checks that are heard.
    number: u32,
    /// Checks in a row that tell that the server is healthy, or that it is not; 0 if there are no checks.
    rise: u32,
    fall: u32,
    /// Checks in a row that told the opposite of `unhealthy`.
    opposite: u32,
    unhealthy: bool,
}

impl Record {
    /// Says whether the server is to get no request now.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_until
            .is_some_and(|until| Moment::now().is_before(until))
    }

    /// Says whether the server may get a request, and notes that it does.
    pub(super) fn admit(&mut self) -> bool {
        if self.is_paused() {
            return false;
        }
        if self.pauses > 0 {
            self.pause();
        }
        true
    }

    /// Notes a request that was not answered; says whether the server is paused from now on.
    pub(super) fn failed(&mut self) -> bool {
        self.fails = self.fails.saturating_add(1);
        let paused = self.fails_max > 0 && self.fails >= self.fails_max;
        // Those that were under way together count as one.
        if paused && !self.is_paused() {
            self.pause();
        }
        paused
    }

    /// Notes that the server is back.
    pub(super) fn back(&mut self) {
        self.back_at = Some(Moment::now());
    }

    /// Returns which part of its weight the server has now, of [`WHOLE`]: less than all of it for a while when it
    /// is back.
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

    /// Says whether checks tell that the server is unhealthy.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.health.unhealthy
    }

    /// Begins to hear checks; returns their number. What was known from others stays.
    pub(super) fn begin_checks(&mut self, rise: u32, fall: u32) -> u32 {
        let health = &mut self.health;
        health.number = health.number.wrapping_add(1);
        (health.rise, health.fall, health.opposite) = (rise, fall, 0);
        health.number
    }

    /// Forgets what checks have told, and hears none any more.
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

/// Returns how many milliseconds to wait before something is tried again that was `before` times.
pub(super) fn backoff(before: u32) -> u32 {
    let base = u64::from(sysctl::backoff_min()) << before.min(16);
    let base = base.min(u64::from(sysctl::backoff_max())) as u32;
    // A quarter less to a quarter more, so that many do not come at once.
    let quarter = base / 4;
    base.saturating_sub(quarter)
        .saturating_add(random(quarter.saturating_mul(2).saturating_add(1)))
}
