// SPDX-License-Identifier: GPL-2.0

//! The access log: a record of each finished request and each finished tunnel.
//!
//! [`emit`] sends an [`Entry`] to the followers of the log. A [`Record`] keeps the facts about a request until then.
//! The two connections that work on the request share it, and it is emitted when both have dropped it, so it is emitted
//! however the request ends. Records are made only while somebody follows the log. Otherwise a request costs one check
//! for followers.
//!
//! Context: softirq, with or without a connection's lock held.

use super::{
    reading::{
        HeadBytes,
        Reading, //
    },
    route::Route,
    session::Io,
    site::Site, //
};
use crate::{
    net::{
        lock::{
            new_bh_lock,
            BhLock, //
        },
        log::{
            is_followed,
            lose,
            number,
            Instant,
            Message, //
        }, //
    },
    proto::{
        field::KnownField,
        head::Head,
        span::Span, //
    }, //
};
use core::net::SocketAddr;
use kernel::{
    prelude::*,
    str::CStr,
    sync::{
        Arc,
        UniqueArc, //
    }, //
};

/// Bytes of a method that a record keeps.
const METHOD_MAX: usize = 32;
/// Bytes of a request target that a record keeps.
const TARGET_MAX: usize = 1024;
/// Bytes of a Host field that a record keeps.
const HOST_MAX: usize = 256;

/// The subject of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Request = number::SQUALL_CMD_REQUEST,
    Tunnel = number::SQUALL_CMD_TUNNEL,
}

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum By {
    /// The response was forwarded completely.
    Nobody = number::SQUALL_BY_NOBODY,
    Client = number::SQUALL_BY_CLIENT,
    Server = number::SQUALL_BY_SERVER,
    Proxy = number::SQUALL_BY_PROXY,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Why {
    /// The response was forwarded completely.
    Done = number::SQUALL_WHY_DONE,
    /// Closed in an orderly way.
    Fin = number::SQUALL_WHY_FIN,
    /// Reset, or vanished.
    Reset = number::SQUALL_WHY_RESET,
    /// The client sent nothing for too long.
    ClientIdle = number::SQUALL_WHY_CLIENT_IDLE,
    /// The server sent nothing for too long.
    ServerIdle = number::SQUALL_WHY_SERVER_IDLE,
    /// Neither sent anything for too long.
    Idle = number::SQUALL_WHY_IDLE,
    /// It reached its maximum lifetime.
    Lifetime = number::SQUALL_WHY_LIFETIME,
    /// The receiver accepted nothing for too long.
    Stalled = number::SQUALL_WHY_STALLED,
    /// The server, the route or the listener was disabled or removed.
    Drained = number::SQUALL_WHY_DRAINED,
    /// Above a maximum rate, or below a minimum rate.
    Rate = number::SQUALL_WHY_RATE,
    /// No memory was available.
    Memory = number::SQUALL_WHY_MEMORY,
    /// A frame broke the rules.
    Frames = number::SQUALL_WHY_FRAMES,
    /// The module was unloaded.
    Unloaded = number::SQUALL_WHY_UNLOADED,
    /// A message broke a rule or a limit.
    Protocol = number::SQUALL_WHY_PROTOCOL,
    /// It took too long.
    Timeout = number::SQUALL_WHY_TIMEOUT,
    /// No server connection was available.
    Unavailable = number::SQUALL_WHY_UNAVAILABLE,
}

/// The content of a record.
pub(crate) struct Entry<'a> {
    pub(crate) kind: Kind,
    pub(crate) client: SocketAddr,
    pub(crate) listener: &'a CStr,
    pub(crate) route: Option<&'a CStr>,
    /// The last server that was chosen, if any.
    pub(crate) server: Option<SocketAddr>,
    /// Empty if unknown, as are the next two.
    pub(crate) method: &'a [u8],
    pub(crate) target: &'a [u8],
    pub(crate) host: &'a [u8],
    /// One of the last three is cut off.
    pub(crate) truncated: bool,
    /// Status of the final response, 101 for a tunnel, 0 if there was none.
    pub(crate) status: u16,
    /// Bytes of content from the client; for a tunnel, all bytes.
    pub(crate) bytes_in: u64,
    /// Bytes of content to the client; for a tunnel, all bytes.
    pub(crate) bytes_out: u64,
    /// Frames from the client and to it, if they were counted.
    pub(crate) frames: Option<(u64, u64)>,
    /// Microseconds from the complete head of the request, or from the 101, to the end.
    pub(crate) duration_us: u64,
    pub(crate) by: By,
    pub(crate) why: Why,
}

/// Sends a record to the followers of the log, if there are any. Softirq, with any lock held.
pub(crate) fn emit(entry: &Entry<'_>) {
    if !is_followed() {
        return;
    }
    let listener = entry.listener.to_bytes();
    let route = entry.route.map_or(&[][..], CStr::to_bytes);
    let texts = [
        (number::SQUALL_A_LISTENER, listener),
        (number::SQUALL_A_ROUTE, route),
        (number::SQUALL_A_METHOD, entry.method),
        (number::SQUALL_A_TARGET, entry.target),
        (number::SQUALL_A_HOST, entry.host),
    ];
    let length = texts.iter().map(|(_, text)| text.len()).sum();
    let Some(mut message) = Message::new(entry.kind as u32, length) else {
        return;
    };
    let client = (number::SQUALL_A_CLIENT_ADDR, number::SQUALL_A_CLIENT_PORT);
    message.addr(client.0, client.1, entry.client);
    if let Some(server) = entry.server {
        let numbers = (number::SQUALL_A_SERVER_ADDR, number::SQUALL_A_SERVER_PORT);
        message.addr(numbers.0, numbers.1, server);
    }
    for (number, text) in texts {
        if !text.is_empty() {
            message.bytes(number, text);
        }
    }
    if entry.truncated {
        message.bytes(number::SQUALL_A_TRUNCATED, &[]);
    }
    message.bytes(number::SQUALL_A_STATUS, &entry.status.to_ne_bytes());
    let mut numbers = [
        (number::SQUALL_A_DURATION, Some(entry.duration_us)),
        (number::SQUALL_A_BYTES_IN, Some(entry.bytes_in)),
        (number::SQUALL_A_BYTES_OUT, Some(entry.bytes_out)),
        (number::SQUALL_A_FRAMES_IN, None),
        (number::SQUALL_A_FRAMES_OUT, None),
    ];
    if let ([.., frames_in, frames_out], Some(frames)) = (&mut numbers, entry.frames) {
        (frames_in.1, frames_out.1) = (Some(frames.0), Some(frames.1));
    }
    for (number, value) in numbers {
        if let Some(value) = value {
            message.bytes(number, &value.to_ne_bytes());
        }
    }
    message.bytes(number::SQUALL_A_CLOSED_BY, &[entry.by as u8]);
    message.bytes(number::SQUALL_A_REASON, &[entry.why as u8]);
    message.send();
}

/// Method, target and host, one behind the other.
#[derive(Default)]
struct Text {
    bytes: KVec<u8>,
    method: usize,
    target: usize,
    truncated: bool,
}

impl Text {
    /// Copies these parts of a head, which may be incomplete. `None`: no memory.
    fn of(head: &Head, bytes: &HeadBytes<'_>) -> Option<Text> {
        let host = head
            .fields()
            .iter()
            .find(|field| field.known == KnownField::Host)
            .map_or(Span::EMPTY, |field| field.value);
        let parts = [
            (head.method, METHOD_MAX),
            (head.target, TARGET_MAX),
            (host, HOST_MAX),
        ];
        let room = parts
            .iter()
            .map(|(span, most)| usize::from(span.len).min(*most))
            .sum();
        let mut text = Text {
            bytes: KVec::with_capacity(room, GFP_ATOMIC | __GFP_NOWARN).ok()?,
            method: 0,
            target: 0,
            truncated: false,
        };
        let [method, target, host] = parts;
        text.method = text.copy(method, bytes)?;
        text.target = text.copy(target, bytes)?;
        text.copy(host, bytes)?;
        Some(text)
    }

    /// Appends up to this many bytes of a span. Returns their number.
    fn copy(&mut self, (span, most): (Span, usize), bytes: &HeadBytes<'_>) -> Option<usize> {
        let mut left = most;
        for piece in span.pieces(bytes) {
            let piece = match piece.get(..left) {
                Some(fitting) => fitting,
                None => piece,
            };
            left = left.saturating_sub(piece.len());
            self.bytes
                .extend_from_slice(piece, GFP_ATOMIC | __GFP_NOWARN)
                .ok()?;
        }
        self.truncated |= usize::from(span.len) > most;
        Some(most.saturating_sub(left))
    }

    /// Returns the three parts.
    fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        let all = self.bytes.as_slice();
        let (method, rest) = all.split_at_checked(self.method).unwrap_or((all, &[]));
        let (target, host) = rest.split_at_checked(self.target).unwrap_or((rest, &[]));
        (method, target, host)
    }
}

/// The facts about a request or its tunnel so far. Emitted when it is dropped.
struct Known {
    kind: Kind,
    client: SocketAddr,
    site: Arc<Site>,
    route: Option<Arc<Route>>,
    text: Text,
    began: Instant,
    server: Option<SocketAddr>,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    /// Frames from the client and from the server, of a tunnel.
    frames: Option<(u64, u64)>,
    /// Who ended it and why; the first note counts.
    end: Option<(By, Why)>,
}

impl Known {
    fn emit(&self) {
        let (method, target, host) = self.text.parts();
        let (by, why) = self.end.unwrap_or((By::Proxy, Why::Reset));
        emit(&Entry {
            kind: self.kind,
            client: self.client,
            listener: &self.site.name,
            route: self.route.as_ref().map(|route| &*route.name),
            server: self.server,
            method,
            target,
            host,
            truncated: self.text.truncated,
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            frames: self.frames,
            duration_us: self.began.elapsed_us(),
            by,
            why,
        });
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.emit();
    }
}

/// The log record of a request, and then of its tunnel, while it is under way.
#[pin_data]
pub(crate) struct Record {
    #[pin]
    known: BhLock<Known>,
}

impl Record {
    /// Makes the record of a request whose head is being read, if somebody follows the log.
    #[inline]
    pub(crate) fn new(
        reading: &mut Reading,
        io: &Io<'_>,
        site: &Arc<Site>,
        route: Option<&Arc<Route>>,
    ) -> Option<Arc<Record>> {
        if !is_followed() {
            return None;
        }
        let record = Record::make(reading, io, site, route);
        if record.is_none() {
            lose();
        }
        record
    }

    #[inline(never)] // Keeps its stack frame off the path of requests without a record.
    fn make(
        reading: &mut Reading,
        io: &Io<'_>,
        site: &Arc<Site>,
        route: Option<&Arc<Route>>,
    ) -> Option<Arc<Record>> {
        let (head, bytes) = reading.complete(io).ok()?;
        let text = Text::of(head, &bytes)?;
        // Without memory, nothing is emitted.
        let place = UniqueArc::<Record>::new_uninit(GFP_ATOMIC | __GFP_NOWARN).ok()?;
        let known = Known {
            kind: Kind::Request,
            client: io.peer_addr(),
            site: site.clone(),
            route: route.cloned(),
            text,
            began: Instant::now(),
            server: None,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            frames: None,
            end: None,
        };
        let record = pin_init!(Record {
            known <- new_bh_lock!(known),
        });
        place.pin_init_with(record).ok().map(Arc::from)
    }

    /// The request goes to this server. The results of earlier attempts are forgotten.
    pub(crate) fn asks(&self, server: SocketAddr) {
        let mut known = self.known.lock();
        known.server = Some(server);
        (known.status, known.bytes_out, known.end) = (0, 0, None);
    }

    /// Notes the status of the response.
    pub(crate) fn status(&self, status: u16) {
        self.known.lock().status = status;
    }

    /// Notes how many bytes of content the client has sent.
    pub(crate) fn received(&self, bytes: u64) {
        self.known.lock().bytes_in = bytes;
    }

    /// Notes how many bytes of content were sent to the client.
    pub(crate) fn sent(&self, bytes: u64) {
        self.known.lock().bytes_out = bytes;
    }

    /// Notes what ended the request or the tunnel, unless that is already noted.
    pub(crate) fn end(&self, by: By, why: Why) {
        self.known.lock().end.get_or_insert((by, why));
    }

    /// Notes Squall's own response.
    pub(crate) fn answered(&self, status: u16, sent: bool) {
        let (by, why) = match status {
            _ if !sent => (By::Proxy, Why::Memory),
            408 => (By::Client, Why::Timeout),
            502 => (By::Server, Why::Unavailable),
            503 => (By::Proxy, Why::Unavailable),
            504 => (By::Server, Why::Timeout),
            _ => (By::Client, Why::Protocol),
        };
        self.status(if sent { status } else { 0 });
        self.end(by, why);
    }

    /// The request has become a tunnel. Its record is emitted, and this becomes the tunnel's record.
    pub(crate) fn switched(&self) {
        let mut known = self.known.lock();
        known.end = Some((By::Nobody, Why::Done));
        known.emit();
        known.kind = Kind::Tunnel;
        known.began = Instant::now();
        known.end = None;
    }

    /// Makes the record of a tunnel that was opened `ms` milliseconds ago, when nobody followed the log.
    pub(crate) fn of_tunnel(
        client: SocketAddr,
        site: &Arc<Site>,
        route: &Arc<Route>,
        server: SocketAddr,
        ms: u32,
    ) -> Option<Arc<Record>> {
        let place = UniqueArc::<Record>::new_uninit(GFP_ATOMIC | __GFP_NOWARN);
        let Ok(place) = place else {
            lose();
            return None;
        };
        let known = Known {
            kind: Kind::Tunnel,
            client,
            site: site.clone(),
            route: Some(route.clone()),
            text: Text::default(),
            began: Instant::ago(ms),
            server: Some(server),
            status: 101,
            bytes_in: 0,
            bytes_out: 0,
            frames: None,
            end: None,
        };
        let record = pin_init!(Record {
            known <- new_bh_lock!(known),
        });
        place.pin_init_with(record).ok().map(Arc::from)
    }

    /// The tunnel has ended: notes bytes and frames from the client and from the server, and what ended it.
    pub(crate) fn tunnel_ended(&self, client: (u64, u64), server: (u64, u64), by: By, why: Why) {
        let mut known = self.known.lock();
        (known.bytes_in, known.bytes_out) = (client.0, server.0);
        known.frames = Some((client.1, server.1));
        known.end = Some((by, why));
    }
}

/// Returns who ended a connection that was closed with this errno, and why.
pub(crate) fn closed(peer: By, errno: i32) -> (By, Why) {
    match errno {
        0 => (By::Proxy, Why::Unloaded),
        _ if errno == -ENOMEM.to_errno() => (By::Proxy, Why::Memory),
        _ => (peer, Why::Reset),
    }
}
