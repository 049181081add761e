// SPDX-License-Identifier: GPL-2.0

//! The channel of the access log: messages that are multicast to whoever follows, by generic netlink.
//!
//! Knows how a message is made and sent, not what it says: `rust/proxy/log.rs` does. Attributes and
//! their meanings are in `include/uapi/squall.h`; `log.c` says why sending under a lock is legal.

use super::{
    bindings,
    stats::{
        self,
        Counter, //
    }, //
};
use core::{
    net::{
        IpAddr,
        SocketAddr, //
    },
    num::NonZeroU64,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Numbers of messages and attributes, and of what brought something to its end and why.
pub(crate) mod number {
    pub(crate) use super::super::bindings::{
        SQUALL_A_BYTES_IN,
        SQUALL_A_BYTES_OUT,
        SQUALL_A_CLIENT_ADDR,
        SQUALL_A_CLIENT_PORT,
        SQUALL_A_CLOSED_BY,
        SQUALL_A_CPU,
        SQUALL_A_DURATION,
        SQUALL_A_FRAMES_IN,
        SQUALL_A_FRAMES_OUT,
        SQUALL_A_HOST,
        SQUALL_A_LISTENER,
        SQUALL_A_MAX,
        SQUALL_A_METHOD,
        SQUALL_A_REASON,
        SQUALL_A_ROUTE,
        SQUALL_A_SEQ,
        SQUALL_A_SERVER_ADDR,
        SQUALL_A_SERVER_PORT,
        SQUALL_A_STATUS,
        SQUALL_A_TARGET,
        SQUALL_A_TIME,
        SQUALL_A_TRUNCATED,
        SQUALL_BY_CLIENT,
        SQUALL_BY_NOBODY,
        SQUALL_BY_PROXY,
        SQUALL_BY_SERVER,
        SQUALL_CMD_REQUEST,
        SQUALL_CMD_TUNNEL,
        SQUALL_WHY_CLIENT_IDLE,
        SQUALL_WHY_DONE,
        SQUALL_WHY_DRAINED,
        SQUALL_WHY_FIN,
        SQUALL_WHY_FRAMES,
        SQUALL_WHY_IDLE,
        SQUALL_WHY_LIFETIME,
        SQUALL_WHY_MEMORY,
        SQUALL_WHY_PROTOCOL,
        SQUALL_WHY_RATE,
        SQUALL_WHY_RESET,
        SQUALL_WHY_SERVER_IDLE,
        SQUALL_WHY_STALLED,
        SQUALL_WHY_TIMEOUT,
        SQUALL_WHY_UNAVAILABLE,
        SQUALL_WHY_UNLOADED, //
    };
}

/// Bytes that an attribute takes besides its value, padding included, at most.
const ATTRIBUTE: usize = 7;

/// Bytes of all values whose length does not depend on the record: rounded up.
const FIXED: usize = 160;

/// The registration of the family; removes it when dropped.
pub(crate) struct Log(());

impl Log {
    /// Registers the family. Process context.
    pub(crate) fn register() -> Result<Log> {
        // SAFETY: Called once, from the module's init.
        to_result(unsafe { bindings::squall_log_register() }).inspect_err(|err| {
            pr_err!("no generic netlink family: {}\n", err.to_errno());
        })?;
        Ok(Log(()))
    }
}

impl Drop for Log {
    /// The data path has come to its end: no message is made any more.
    fn drop(&mut self) {
        // SAFETY: `self` proves that the family is registered.
        unsafe { bindings::squall_log_unregister() };
    }
}

/// Says whether somebody follows the log. Any context.
#[inline]
pub(crate) fn is_followed() -> bool {
    // SAFETY: The family is registered as long as the data path exists.
    unsafe { bindings::squall_log_followed() }
}

/// Counts a record that cannot be made. Softirq.
pub(crate) fn lose() {
    // SAFETY: Softirq. The number that is taken is the gap that readers see.
    unsafe { bindings::squall_log_next() };
    stats::inc(Counter::LogLost);
}

/// A point in time on a clock that is never set.
#[derive(Clone, Copy)]
pub(crate) struct Instant(NonZeroU64);

impl Instant {
    /// Returns the present.
    pub(crate) fn now() -> Instant {
        // SAFETY: Reading the clock has no preconditions.
        let now = unsafe { bindings::squall_log_clock() };
        Instant(NonZeroU64::new(now).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns the point so many milliseconds ago.
    pub(crate) fn ago(ms: u32) -> Instant {
        let ns = u64::from(ms).saturating_mul(1_000_000);
        let then = Instant::now().0.get().saturating_sub(ns);
        Instant(NonZeroU64::new(then).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns the microseconds that have passed since.
    pub(crate) fn elapsed_us(self) -> u64 {
        Instant::now().0.get().saturating_sub(self.0.get()) / 1000
    }
}

/// A message that is being made. Sent by [`Message::send`]; what is dropped before is lost.
pub(crate) struct Message {
    skb: NonNull<bindings::sk_buff>,
    whole: bool,
}

impl Message {
    /// Makes a message with a number and the present time in it, and room for every attribute there is,
    /// `text` bytes of which have no fixed length. Softirq. `None`: no memory, which is counted.
    pub(crate) fn new(kind: u32, text: usize) -> Option<Message> {
        let room = ATTRIBUTE
            .saturating_mul(number::SQUALL_A_MAX as usize)
            .saturating_add(FIXED)
            .saturating_add(text);
        // SAFETY: Softirq.
        let (sequence, cpu, skb) = unsafe {
            (
                bindings::squall_log_next(),
                bindings::squall_log_cpu(),
                bindings::squall_log_message(kind as u8, room as u32),
            )
        };
        let Some(skb) = NonNull::new(skb) else {
            stats::inc(Counter::LogLost);
            return None;
        };
        let mut message = Message { skb, whole: true };
        message.bytes(number::SQUALL_A_CPU, &cpu.to_ne_bytes());
        message.bytes(number::SQUALL_A_SEQ, &sequence.to_ne_bytes());
        // SAFETY: Reading the clock has no preconditions.
        let now = unsafe { bindings::squall_log_time() };
        message.bytes(number::SQUALL_A_TIME, &now.to_ne_bytes());
        Some(message)
    }

    /// Appends an attribute.
    pub(crate) fn bytes(&mut self, number: u32, value: &[u8]) {
        // SAFETY: The message is ours, and the bytes can be read.
        self.whole &= unsafe {
            bindings::squall_log_put(
                self.skb.as_ptr(),
                number as u16,
                value.as_ptr().cast(),
                value.len() as u32,
            )
        };
    }

    /// Appends an address and its port.
    pub(crate) fn addr(&mut self, addr: u32, port: u32, value: SocketAddr) {
        match value.ip() {
            IpAddr::V4(v4) => self.bytes(addr, &v4.octets()),
            IpAddr::V6(v6) => self.bytes(addr, &v6.octets()),
        }
        self.bytes(port, &value.port().to_ne_bytes());
    }

    /// Sends the message, and counts it, or that no reader got it. Softirq, with any lock held.
    pub(crate) fn send(self) {
        if !self.whole {
            return;
        }
        let skb = self.skb.as_ptr();
        core::mem::forget(self);
        // SAFETY: The message is ours, and goes.
        let sent = unsafe { bindings::squall_log_send(skb) };
        stats::inc(match sent {
            true => Counter::LogRecords,
            false => Counter::LogLost,
        });
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        stats::inc(Counter::LogLost);
        // SAFETY: The message is ours.
        unsafe { bindings::squall_log_free(self.skb.as_ptr()) };
    }
}
