// SPDX-License-Identifier: GPL-2.0
//! The floor: a relay that does as little as the kernel lets one do. The first request is read and sent on in user space; then
//! both sockets are put into a BPF sockhash, whose program hands every segment to the other socket, inside the kernel.
//! It knows no HTTP, has no bounds, and a connection's last bytes may be lost when it is closed: a measure, not a proxy.

use anyhow::{Context, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const LISTENER: u64 = u64::MAX;
const ENTRIES: u32 = 1 << 16;
const HEAD_MAX: usize = 16 << 10;

// From the kernel's interface, include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_ATTACH: i64 = 8;
const BPF_MAP_TYPE_SOCKHASH: u32 = 18;
const BPF_PROG_TYPE_SK_SKB: u32 = 14;
const BPF_SK_SKB_STREAM_VERDICT: u32 = 5;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const SK_REDIRECT_HASH: i32 = 72;
const REMOTE_PORT: i16 = 132;
const LOCAL_PORT: i16 = 136;

/// The system call; `attribute` is the part of `union bpf_attr` that the command looks at.
fn bpf<T>(command: i64, attribute: &T) -> std::io::Result<i64> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, all of them initialised: the structures below have no padding. Addresses
    // therein are of buffers that the callers keep alive during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attribute),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(result)
}

fn owned(number: i64) -> Result<OwnedFd> {
    // SAFETY: the number is that of a descriptor which the kernel has just made, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(number)?) })
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    padding: u64,
}

#[repr(C)]
struct ProgramAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// One instruction in its encoding.
fn instruction(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let [o0, o1] = offset.to_le_bytes();
    let [i0, i1, i2, i3] = immediate.to_le_bytes();
    u64::from_le_bytes([code, (source << 4) | target, o0, o1, i0, i1, i2, i3])
}

/// The sockhash with its program: what arrives at a socket goes to the one that is filed under its two ports.
struct Map(OwnedFd);

impl Map {
    fn new() -> Result<Self> {
        let create = MapCreate {
            map_type: BPF_MAP_TYPE_SOCKHASH,
            key_size: 8,
            value_size: 4,
            max_entries: ENTRIES,
        };
        let map = owned(bpf(BPF_MAP_CREATE, &create).context("making a sockhash")?)?;
        let program = [
            // key = { skb->remote_port, skb->local_port }, on the stack
            instruction(0x61, 2, 1, REMOTE_PORT, 0),
            instruction(0x63, 10, 2, -8, 0),
            instruction(0x61, 2, 1, LOCAL_PORT, 0),
            instruction(0x63, 10, 2, -4, 0),
            // return bpf_sk_redirect_hash(skb, map, &key, 0)
            instruction(0x18, 2, BPF_PSEUDO_MAP_FD, 0, map.as_raw_fd()),
            instruction(0, 0, 0, 0, 0),
            instruction(0xbf, 3, 10, 0, 0),
            instruction(0x07, 3, 0, 0, -8),
            instruction(0xb7, 4, 0, 0, 0),
            instruction(0x85, 0, 0, 0, SK_REDIRECT_HASH),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let mut log = vec![0u8; 64 << 10];
        let load = ProgramLoad {
            program_type: BPF_PROG_TYPE_SK_SKB,
            count: program.len() as u32,
            instructions: program.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log: log.as_mut_ptr() as u64,
            padding: 0,
        };
        let loaded = bpf(BPF_PROG_LOAD, &load);
        let loaded =
            owned(loaded.with_context(|| {
                format!("loading the program: {}", String::from_utf8_lossy(&log))
            })?)?;
        let attach = ProgramAttach {
            target: map.as_raw_fd() as u32,
            program: loaded.as_raw_fd() as u32,
            attach_type: BPF_SK_SKB_STREAM_VERDICT,
            flags: 0,
        };
        bpf(BPF_PROG_ATTACH, &attach).context("attaching the program")?;
        Ok(Self(map))
    }

    /// From now on what arrives at `from` goes to `to`.
    fn relay(&self, from: &TcpStream, to: &TcpStream) -> Result<()> {
        // The program reads the remote port as a number in network byte order and the local one in the host's.
        let key = [
            u32::from(from.peer_addr()?.port()).to_be(),
            u32::from(from.local_addr()?.port()),
        ];
        let value = to.as_raw_fd() as u32;
        let update = MapUpdate {
            map: self.0.as_raw_fd() as u32,
            padding: 0,
            key: key.as_ptr() as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &update).context("adding a socket")?;
        Ok(())
    }
}

/// The two sockets of a connection; the second one once the first request has been read.
struct Pair {
    client: TcpStream,
    server: Option<TcpStream>,
    head: Vec<u8>,
    ended: u32,
}

/// Relays for ever.
pub fn run(address: SocketAddr, server: SocketAddr) -> Result<()> {
    anyhow::ensure!(
        address.ip() == Ipv4Addr::LOCALHOST,
        "the keys are ports of 127.0.0.1"
    );
    let map = Map::new()?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // More than the standard library's, as everybody else here has.
    rustix::net::listen(&listener, 4096)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &poll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::with_capacity(256);
    println!("ready");
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        for event in &events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token == LISTENER {
                accept(&poll, &listener, &mut pairs, &mut free)?;
                continue;
            }
            // Two tokens a pair: even the client's, odd the server's.
            let index = usize::try_from(token / 2)?;
            let Some(Some(pair)) = pairs.get_mut(index) else {
                continue;
            };
            let result = match &pair.server {
                None => pair.begin(&poll, token, server, &map),
                Some(_) => pair.end(token, flags.intersects(EventFlags::ERR | EventFlags::HUP)),
            };
            if let Err(error) = &result {
                eprintln!("sockmap: {error:#}");
            }
            if result.is_err() || pair.ended == 3 {
                pairs[index] = None;
                free.push(index);
            }
        }
    }
}

fn accept(
    poll: &OwnedFd,
    listener: &TcpListener,
    pairs: &mut Vec<Option<Pair>>,
    free: &mut Vec<usize>,
) -> Result<()> {
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let index = free.pop().unwrap_or_else(|| {
            pairs.push(None);
            pairs.len() - 1
        });
        client.set_nodelay(true)?;
        client.set_nonblocking(true)?;
        let token = EventData::new_u64(2 * index as u64);
        epoll::add(poll, &client, token, EventFlags::IN | EventFlags::RDHUP)?;
        pairs[index] = Some(Pair {
            client,
            server: None,
            head: Vec::new(),
            ended: 0,
        });
    }
}

impl Pair {
    /// Reads the first request; when it is complete, makes the server's connection and leaves the rest to the kernel.
    fn begin(&mut self, poll: &OwnedFd, token: u64, server: SocketAddr, map: &Map) -> Result<()> {
        let mut chunk = [0; HEAD_MAX];
        match self.client.read(&mut chunk) {
            Ok(0) => anyhow::bail!("a client closed before its first request"),
            Ok(count) => self.head.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if !self.head.ends_with(b"\r\n\r\n") {
            return Ok(());
        }
        let mut stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        map.relay(&stream, &self.client)?;
        map.relay(&self.client, &stream)?;
        // What arrives is none of this process's business any more: being woken for it would be most of the cost.
        let ends = EventFlags::RDHUP | EventFlags::ET;
        epoll::modify(poll, &self.client, EventData::new_u64(token), ends)?;
        epoll::add(poll, &stream, EventData::new_u64(token + 1), ends)?;
        stream.write_all(&std::mem::take(&mut self.head))?;
        self.server = Some(stream);
        Ok(())
    }

    /// One side is at its end: so is the way to the other.
    fn end(&mut self, token: u64, error: bool) -> Result<()> {
        let other = if token % 2 == 0 {
            self.server.as_ref()
        } else {
            Some(&self.client)
        };
        self.ended |= if error { 3 } else { 1 << (token % 2) };
        if let Some(other) = other {
            // It may be gone already.
            let _ = other.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}
