// SPDX-License-Identifier: GPL-2.0

//! What connections hold, and what is done when that is too much.
//!
//! Each connection has an account, in pages of 4 KiB: what its receive queue takes with the overhead of its buffers, what
//! the pages in its queue pin, and what TCP has of it unacknowledged. Of the last, as long as nothing waits behind it, whole
//! [`STEP`]s only: a message in flight costs nothing, not even to be counted. The account is settled where the
//! connection's lock is held anyway, and what has changed goes to a sum of all, which is kept per CPU in the main.
//!
//! *Pressure* begins when the sum reaches `memory_max_mib`, or when TCP is under memory pressure and the sum is a [material part](TCP_PART)
//! of what all sockets of the host have: what others hold is not made good by resets of ours. Connections stay in the accept queue then, a reader pauses as soon as its receiver does not take everything at once, and every
//! [`TICK_MS`] the [`Shedder`] resets those that hold most, until the sum is an eighth below the bound and TCP is out of
//! trouble. Nothing looks for it while nothing happens: the sum is looked at when an account grows, TCP then and when a
//! connection is accepted.
//!
//! *A client* is counted in the table of [`clients`], if there is a bound for it, as soon as one of its connections
//! holds something. From three quarters of the bound on its readers pause as under pressure; the connection with which
//! it goes beyond the bound is reset.
//!
//! Context: softirq, the connection's lock held, unless a function says otherwise.

use super::{
    addr,
    bindings,
    clients::{
        self,
        Key,
        Place,
        Scope, //
    },
    conn::{
        Conn,
        Control,
        Locked,
        Session, //
    },
    events::{
        EV_SHED,
        EV_TX, //
    },
    lock::{
        new_bh_lock,
        BhLock, //
    },
    softirq::Softirq,
    stats::{
        self,
        Counter, //
    },
    sysctl,
    task::{
        Run,
        Task, //
    }, //
};
use core::{
    cell::UnsafeCell,
    net::IpAddr, //
};
use kernel::{
    error::{
        code::ENOMEM,
        to_result, //
    },
    ffi::c_void,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            ordering::{
                Full,
                Relaxed, //
            },
            Atomic,
            AtomicFlag, //
        }, //
    }, //
};

/// Bytes of a page.
pub(super) const PAGE: u32 = 4096;

/// Bytes of unacknowledged data that count together.
const STEP: u32 = 1 << STEP_BITS;
const STEP_BITS: u32 = 16;

/// Milliseconds between two looks at who holds most, and until accepting is tried again.
pub(super) const TICK_MS: u32 = 100;

/// Connections that are looked at before other softirq work gets its turn.
const BATCH: u32 = 512;

/// Connections reset in one tick, at most.
const SHED_MAX: u32 = 256;

/// Pages that a connection holds, at least, for it to be reset: 64 KiB.
const SHED_LEAST: u32 = 16;

/// What is held is material to TCP's shortage of memory if it is one part of so many that all of TCP has, or more.
const TCP_PART: u64 = 4;

/// Least KiB of a tunnel's bound: less would not do for one segment each way.
const TUNNEL_KIB_MIN: u32 = 512;
/// The most that the setting takes.
const TUNNEL_KIB_MAX: u32 = 1 << 20;

/// Bytes by which one segment may exceed what a socket may send, and a piece what a queue may hold.
const SEGMENT: u32 = 72 << 10;
const PIECE: u32 = 8 << 10;

/// Bits of [`Account::word`]: something is queued and waits for TCP; the client is close to its bound; the connection ends
/// when everything is acknowledged; somebody is at work under the lock; the session's flag; then the steps that are unacknowledged, and the
/// pages that are charged, each up to more than a connection can have.
const WAITING: u32 = 1 << 0;
const TIGHT: u32 = 1 << 1;
const ENDING: u32 = 1 << 2;
const ENTERED: u32 = 1 << 3;
const FLAG: u32 = 1 << 4;
const STEPS: u32 = 5;
/// What settling leaves as it is.
const KEPT: u32 = ENDING | ENTERED | FLAG;
const STEPS_MAX: u32 = (1 << (PAGES - STEPS)) - 1;
const PAGES: u32 = 15;
const PAGES_MAX: u32 = u32::MAX >> PAGES;

/// What a connection holds, as far as it is counted: written under its lock, read by anybody. Every connection has one, so
/// it is packed.
pub(super) struct Account {
    word: Atomic<u32>,
    /// Where the client is for whom it counts, once that is something; 0 before.
    client: Atomic<u32>,
}

/// Returns the whole steps that so many bytes are.
#[inline]
fn steps(bytes: u32) -> u32 {
    (bytes >> STEP_BITS).min(STEPS_MAX)
}

impl Account {
    pub(super) const fn new() -> Account {
        Account {
            word: Atomic::new(0),
            client: Atomic::new(0),
        }
    }

    /// Notes that something is queued for which TCP has no room: TCP's word that it has is wanted.
    pub(super) fn waits(&self) {
        self.word.store(self.word.load(Relaxed) | WAITING, Relaxed);
    }

    /// Notes that nothing else is queued, and that it is wanted to know when everything is acknowledged.
    pub(super) fn ends(&self) {
        self.word.store(self.word.load(Relaxed) | ENDING, Relaxed);
    }

    /// Notes that somebody is at work on what the lock guards: from here on TCP's callbacks only post.
    #[inline]
    pub(super) fn enter(&self) {
        self.word.store(self.word.load(Relaxed) | ENTERED, Relaxed);
    }

    /// Notes that nobody is any more.
    #[inline]
    pub(super) fn exit(&self) {
        self.word.store(self.word.load(Relaxed) & !ENTERED, Relaxed);
    }

    /// Says whether somebody is at work on what the lock guards. Who asks has the lock in one of its forms: then it is
    /// the caller of TCP, further up the stack.
    #[inline]
    pub(super) fn is_entered(&self) -> bool {
        self.word.load(Relaxed) & ENTERED != 0
    }

    /// Sets a bit that the session has for itself. Under the lock.
    pub(super) fn set_flag(&self, on: bool) {
        let rest = self.word.load(Relaxed) & !FLAG;
        self.word.store(rest | if on { FLAG } else { 0 }, Relaxed);
    }

    fn is_tight(&self) -> bool {
        self.word.load(Relaxed) & TIGHT != 0
    }

    fn steps(&self) -> u32 {
        (self.word.load(Relaxed) >> STEPS) & STEPS_MAX
    }

    fn pages(&self) -> u32 {
        self.word.load(Relaxed) >> PAGES
    }

    fn client(&self) -> Option<Place> {
        Place::from_number(self.client.load(Relaxed))
    }
}

impl<S: Session> Conn<S> {
    /// Returns the bytes that the receive queue takes.
    #[inline]
    fn received(&self) -> u32 {
        let sk = self.sk.as_ptr();
        // SAFETY: The socket is alive. The kernel changes the word under its lock, and reads it without.
        unsafe { (&raw const (*sk).sk_backlog.rmem_alloc.counter).read_volatile() as u32 }
    }

    /// Returns the bytes that TCP keeps until they are acknowledged.
    #[inline]
    fn unacknowledged(&self) -> u32 {
        let sk = self.sk.as_ptr();
        // SAFETY: As above.
        unsafe { (&raw const (*sk).sk_wmem_queued).read_volatile() as u32 }
    }

    /// Returns how full a queue of this connection may be before its writer pauses, which is `from`'s reader.
    pub(super) fn queue_high(&self, from: &Conn<S>) -> usize {
        if is_pressed() || self.account.is_tight() || from.account.is_tight() {
            // Whatever is in it.
            return 1;
        }
        let sk = self.sk.as_ptr();
        // SAFETY: The socket is alive; the word is only ever written whole.
        let own = unsafe { (&raw const (*sk).sk_rcvbuf).read_volatile() };
        // A tunnel with a bound has its parts alike.
        (sysctl::queue_high() as usize).min(own as usize)
    }

    /// Returns the flag that the session has set with [`Io::set_flag`](super::Io). Any context; who was told afterwards
    /// that it is set sees that.
    pub(crate) fn flag(&self) -> bool {
        self.account.word.load(Relaxed) & FLAG != 0
    }

    /// Returns the peer's address. Any context; it may be another one once the connection is closed.
    pub(crate) fn peer_ip(&self) -> IpAddr {
        addr::peer(self.sk).ip()
    }

    /// Says what TCP's word that there is space means. Called by TCP, which holds the lock in one of its forms.
    pub(super) fn space(&self) -> Space {
        let sk = self.sk.as_ptr();
        let (word, counted) = (self.account.word.load(Relaxed), self.account.steps());
        // SAFETY: The caller's promise.
        if word & ENDING != 0 && unsafe { bindings::squall_sk_write_queue_empty(sk) } {
            return Space::Wanted;
        }
        // SAFETY: The caller's promise.
        if word & WAITING != 0 && unsafe { bindings::squall_sk_writeable(sk) } {
            return Space::Wanted;
        }
        if steps(self.unacknowledged()) < counted {
            return Space::Counts;
        }
        if counted == 0 && word & (ENDING | WAITING) == 0 {
            // SAFETY: The caller's promise.
            unsafe { bindings::squall_sk_leave_space(sk) };
        }
        Space::Nothing
    }

    /// Settles the account if what is unacknowledged has changed by a step.
    #[inline]
    pub(super) fn settle_sent(&self, locked: &mut Locked<S>) {
        if steps(self.unacknowledged()) != self.account.steps() {
            self.settle_anew(locked);
        }
    }

    /// Settles the account, if there is anything to settle.
    #[inline]
    pub(super) fn settle_account(&self, locked: &mut Locked<S>) {
        let counted = self.account.word.load(Relaxed) & !KEPT;
        if counted | self.received() | (self.unacknowledged() >> STEP_BITS) != 0 {
            self.settle_anew(locked);
        }
    }

    #[inline(never)] // Who holds nothing does not come here.
    fn settle_anew(&self, locked: &mut Locked<S>) {
        if locked.control.gone {
            return;
        }
        let queued = self.inbox.lock().queue.held();
        let sent = self.unacknowledged();
        let waiting = queued > 0;
        let counted = if waiting { sent } else { sent & !(STEP - 1) };
        let pages = self
            .received()
            .saturating_add(queued)
            .saturating_add(counted)
            .div_ceil(PAGE)
            .min(PAGES_MAX);
        let before = self.account.pages();
        let tight = match pages == before {
            true => self.account.is_tight(),
            false => self.charge(locked, before, pages),
        };
        let sent = steps(sent);
        let flags = self.account.word.load(Relaxed) & KEPT;
        let flags = flags | if tight { TIGHT } else { 0 } | if waiting { WAITING } else { 0 };
        let word = pages.wrapping_shl(PAGES) | sent.wrapping_shl(STEPS) | flags;
        self.account.word.store(word, Relaxed);
        if sent > 0 {
            // What is acknowledged has to be heard of.
            // SAFETY: The lock is held and the socket attached.
            unsafe { bindings::squall_sk_wait_space(self.sk.as_ptr()) };
        }
    }

    /// Counts `pages` instead of those `before`; says whether the client is close to its bound.
    fn charge(&self, locked: &mut Locked<S>, before: u32, pages: u32) -> bool {
        // SAFETY: No preconditions; the sum exists as long as connections do.
        unsafe { bindings::squall_memory_add(i64::from(pages) - i64::from(before)) };
        let tight = self.charge_client(locked, before, pages);
        if pages > before {
            look();
        }
        tight
    }

    fn charge_client(&self, locked: &mut Locked<S>, before: u32, pages: u32) -> bool {
        let most = client_max();
        let all = match self.account.client() {
            Some(place) => {
                if pages == 0 {
                    self.account.client.store(0, Relaxed);
                }
                clients::change(&place, i64::from(pages) - i64::from(before))
            }
            None if most.is_none() || pages == 0 => return false,
            None => {
                let Some(client) = locked.session.client(self) else {
                    return false;
                };
                match clients::hold(&Key::new(Scope::MEMORY, client), pages) {
                    Ok((place, all)) => {
                        self.account.client.store(place.number(), Relaxed);
                        all
                    }
                    // It is counted that it is not.
                    Err(_) => return false,
                }
            }
        };
        let Some(most) = most else { return false };
        let control = &mut locked.control;
        if pages > before && all > most && !control.reset {
            stats::inc(Counter::ClientMemoryResets);
            self.end_for_memory(control);
        }
        is_close(all, most)
    }

    /// Ends the connection because it holds too much.
    fn end_for_memory(&self, control: &mut Control<S>) {
        control.reset = true;
        if control.error == 0 {
            control.error = ENOMEM.to_errno().saturating_neg();
        }
        self.post(EV_TX);
    }

    /// The connection was found to be one of those that hold most.
    pub(super) fn shed(&self, control: &mut Control<S>) {
        // It may have waited for a process that had the socket.
        if is_pressed() && !control.reset {
            stats::inc(Counter::MemoryShed);
            self.end_for_memory(control);
        }
    }

    /// Takes back what is charged: the socket has given back all that it had.
    pub(super) fn close_account(&self) {
        let pages = i64::from(self.account.pages());
        if pages == 0 {
            return;
        }
        let kept = self.account.word.load(Relaxed) & KEPT;
        self.account.word.store(kept, Relaxed);
        // SAFETY: No preconditions.
        unsafe { bindings::squall_memory_add(-pages) };
        if let Some(place) = self.account.client() {
            self.account.client.store(0, Relaxed);
            clients::change(&place, -pages);
        }
    }

    /// Returns the pages that are held, counted or not. Any context.
    fn holds(&self) -> u32 {
        let now = self.received().saturating_add(self.unacknowledged());
        self.account.pages().max(now.div_ceil(PAGE))
    }

    /// Looks at one connection for the shedder.
    ///
    /// # Safety
    ///
    /// `entry` is on the list of connections, whose lock is held, and `pass` a [`Pass`].
    unsafe extern "C" fn visit(entry: *mut bindings::list_head, pass: *mut c_void) {
        // SAFETY: What is on the list is the field of a connection that is not gone yet, and so is referred to by its
        // socket. The caller promises the rest.
        let (conn, pass) = unsafe { (&*Self::of_registry(entry), &mut *pass.cast::<Pass>()) };
        let holds = conn.holds();
        match pass.aim {
            Aim::Find => pass.most = pass.most.max(holds),
            Aim::Shed if pass.is_done() || holds < pass.least || conn.is_posted(EV_SHED) => {}
            Aim::Shed => {
                pass.excess = pass.excess.saturating_sub(u64::from(holds));
                pass.shed = pass.shed.saturating_add(1);
                conn.post(EV_SHED);
            }
        }
    }

    /// Looks at the next `count` connections.
    fn visit_some(pass: &mut Pass, count: u32) {
        let pass = core::ptr::from_mut(pass).cast();
        // SAFETY: The function takes no lock but that of a run list, and `pass` is what it says.
        unsafe { bindings::squall_registry_rotate(Some(Self::visit), pass, count) };
    }
}

/// What it means for a connection that TCP has space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// Nothing.
    Nothing,
    /// The account has become too large, by what was acknowledged.
    Counts,
    /// It was waited for, or for everything to be acknowledged.
    Wanted,
}

/// How the memory of a tunnel's two connections is bounded.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// Bytes that each may hold unread, and queued.
    pub(super) receive: u32,
    /// Bytes that each may hold unacknowledged.
    pub(super) send: u32,
}

/// Returns the parts of a tunnel's bound in KiB: an eighth is for what each socket holds unread, an eighth for each queue,
/// and a quarter for what each socket has sent.
pub(super) fn parts(kib: u32) -> Parts {
    let bytes = kib.clamp(TUNNEL_KIB_MIN, TUNNEL_KIB_MAX).wrapping_mul(1024);
    Parts {
        receive: sysctl::rcvbuf().min((bytes / 8).saturating_sub(PIECE)),
        send: sysctl::sndbuf().min((bytes / 4).saturating_sub(SEGMENT)),
    }
}

/// Returns the pages that one client's connections may hold, if there is a bound.
fn client_max() -> Option<u32> {
    match sysctl::client_memory_max_kib() {
        0 => None,
        kib => Some((kib / (PAGE / 1024)).max(1)),
    }
}

/// Says whether a client that has `all` pages, of `most`, is close to its bound.
fn is_close(all: u32, most: u32) -> bool {
    all >= most - most / 4
}

/// Says whether a client is so close to its bound that it may have no further connections. Any context.
pub(crate) fn is_client_tight(client: IpAddr) -> bool {
    client_max()
        .is_some_and(|most| is_close(clients::opened(&Key::new(Scope::MEMORY, client)), most))
}

/// There is pressure. Of its own cache line, as it is read with every segment and hardly ever written.
#[repr(align(64))]
struct Pressed(AtomicFlag);

static PRESSED: Pressed = Pressed(AtomicFlag::new(false));

/// Says whether there is pressure. Any context.
#[inline]
pub(crate) fn is_pressed() -> bool {
    PRESSED.0.load(Relaxed)
}

/// Returns the pages that all may hold together.
fn most() -> u64 {
    match sysctl::memory_max_mib() {
        // SAFETY: No preconditions.
        0 => (unsafe { bindings::squall_memory_total() }) / 4,
        mib => u64::from(mib) << 8,
    }
}

/// What is held apart from the accounts: sockets and what belongs to them, a page for each connection.
fn base() -> u64 {
    super::live().unsigned_abs()
}

/// Returns what is held, in pages, exactly. Any context.
fn held() -> u64 {
    // SAFETY: The sum exists as long as the runtime does.
    let sum = unsafe { bindings::squall_memory_sum() };
    sum.max(0).unsigned_abs().saturating_add(base())
}

/// Returns the pages from which on what the accounts have is material to TCP, while that is under memory pressure.
///
/// Without the page for each connection: that is not of TCP's memory.
fn tcp_most() -> Option<u64> {
    // SAFETY: No preconditions.
    unsafe {
        let pressed = bindings::squall_tcp_pressed();
        pressed.then(|| bindings::squall_tcp_pages().max(0).unsigned_abs() / TCP_PART)
    }
}

/// Says whether the accounts have that many pages together.
fn reaches(pages: u64) -> bool {
    let pages = i64::try_from(pages).unwrap_or(i64::MAX);
    // SAFETY: The sum exists as long as connections and listeners do.
    unsafe { bindings::squall_memory_reaches(pages) }
}

/// Says whether as much is held as may be.
fn is_full() -> bool {
    reaches(most().saturating_sub(base()))
}

/// Looks whether pressure has to begin. Softirq.
pub(super) fn look() {
    if is_pressed() || !(is_full() || tcp_most().is_some_and(reaches)) {
        return;
    }
    if !PRESSED.0.xchg(true, Full) {
        stats::inc(Counter::MemoryPressures);
        if let Some(shedder) = shedder() {
            shedder.kick_after(TICK_MS);
        }
    }
}

/// What is known of memory, for `stats`.
pub(crate) struct Usage {
    /// Bytes held.
    pub(crate) bytes: u64,
    /// Bytes that may be.
    pub(crate) most: u64,
    /// There is pressure.
    pub(crate) pressed: bool,
}

/// Returns what is known of memory. Process context.
pub(crate) fn usage() -> Usage {
    let page = u64::from(PAGE);
    Usage {
        bytes: held().saturating_mul(page),
        most: most().saturating_mul(page),
        pressed: is_pressed(),
    }
}

/// What the shedder is looking for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// The most that one holds.
    Find,
    /// Those that hold not much less.
    Shed,
}

/// A walk along all connections.
struct Pass {
    aim: Aim,
    /// Connections that it has still to come to; 0 before it begins.
    left: u32,
    /// The most pages that one holds.
    most: u32,
    /// Pages from which on one is reset.
    least: u32,
    /// Pages that have to be given back.
    excess: u64,
    shed: u32,
}

impl Pass {
    fn is_done(&self) -> bool {
        self.excess == 0 || self.shed >= SHED_MAX
    }

    fn begin(&mut self, aim: Aim) {
        self.aim = aim;
        // As many as there are: those that come and go meanwhile matter little.
        self.left = u32::try_from(base()).unwrap_or(u32::MAX).max(1);
    }
}

/// Resets those that hold most, while there is pressure.
#[pin_data]
pub(super) struct Shedder {
    /// Looks at some connections.
    visit: fn(&mut Pass, u32),
    #[pin]
    pass: BhLock<Pass>,
}

impl Run for Shedder {
    fn run(task: &ARef<Task<Self>>, _: Softirq<'_>) {
        let mut pass = task.pass.lock();
        if pass.left == 0 {
            let held = held();
            let most = most();
            let low = most - most / 8;
            // As for the bound, an eighth below what it began at.
            let tcp = tcp_most().is_some_and(|most| reaches(most - most / 8));
            if held < low && !tcp {
                PRESSED.0.store(false, Relaxed);
                return;
            }
            // What TCP is short of is not known: an eighth of what there is, then another look.
            pass.excess = held.saturating_sub(low).max(held / 8).max(1);
            (pass.most, pass.shed) = (0, 0);
            pass.begin(Aim::Find);
        }
        let count = pass.left.min(BATCH);
        pass.left -= count;
        (task.visit)(&mut pass, count);
        if pass.left == 0 && pass.aim == Aim::Find && pass.most >= SHED_LEAST {
            pass.least = (pass.most / 2).max(SHED_LEAST);
            pass.begin(Aim::Shed);
        } else if pass.aim == Aim::Shed && pass.is_done() {
            pass.left = 0;
        }
        if pass.left > 0 {
            task.kick();
        } else {
            task.kick_after(TICK_MS);
        }
    }
}

/// Where the shedder is.
struct Home(UnsafeCell<Option<ARef<Task<Shedder>>>>);

// SAFETY: Written by `start()` and `stop()` only, while nobody reads.
unsafe impl Sync for Home {}

static SHEDDER: Home = Home(UnsafeCell::new(None));

fn shedder() -> Option<&'static ARef<Task<Shedder>>> {
    // SAFETY: Connections and listeners exist between `start()` and `stop()` only.
    unsafe { (*SHEDDER.0.get()).as_ref() }
}

/// Tasks of this module that exist as long as the runtime does.
pub(super) const TASKS: i64 = 1;

/// Begins to keep account.
///
/// # Safety
///
/// Process context, and nothing has an account.
pub(super) unsafe fn start<S: Session>() -> Result {
    // SAFETY: Process context.
    to_result(unsafe { bindings::squall_memory_start() })?;
    let task = Task::new(try_pin_init!(Shedder {
        visit: Conn::<S>::visit_some,
        pass <- new_bh_lock!(Pass {
            aim: Aim::Find,
            left: 0,
            most: 0,
            least: 0,
            excess: 0,
            shed: 0,
        }),
    }));
    match task {
        // SAFETY: The caller promises that nobody reads.
        Ok(task) => unsafe { *SHEDDER.0.get() = Some(task) },
        Err(err) => {
            // SAFETY: Nothing uses the sum.
            unsafe { bindings::squall_memory_stop() };
            return Err(err);
        }
    }
    Ok(())
}

/// Ends that.
///
/// # Safety
///
/// Process context. No connection exists any more, and nothing makes one.
pub(super) unsafe fn stop() {
    // SAFETY: The caller promises that nobody reads.
    let task = unsafe { (*SHEDDER.0.get()).take() };
    if let Some(task) = task {
        task.shutdown();
    }
    PRESSED.0.store(false, Relaxed);
    // SAFETY: Process context; nobody counts any more.
    unsafe {
        let left = bindings::squall_memory_sum();
        if left != 0 {
            pr_warn!("{} pages were not given back\n", left);
        }
        bindings::squall_memory_stop();
    }
}
