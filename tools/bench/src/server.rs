// SPDX-License-Identifier: GPL-2.0
//! The server behind every peer: a WebSocket server that echoes (/echo), pushes as much as it is asked to (/down) or counts
//! what it gets (/up), and that answers plain GETs with 1 KiB.

use crate::{
    conn::{Conn, Pool},
    http, ws,
};
use anyhow::{bail, Context, Result};
use mio::{net::TcpListener, Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use std::{io::ErrorKind, net::SocketAddr, thread};

/// The payload of a frame that is pushed, in bytes.
pub const PUSH: usize = 16 << 10;
/// Bytes that wait to be sent to a slow client before the pushing pauses.
const PUSH_HIGH: usize = 256 << 10;
const CONTENT: usize = 1024;
const LISTENER: Token = Token(usize::MAX);

enum Kind {
    Http,
    Echo,
    /// Bytes that are still to be pushed.
    Down(u64),
    /// Bytes received.
    Up(u64),
}

struct Client {
    conn: Conn,
    kind: Kind,
    /// Close when everything is sent.
    closing: bool,
}

/// Serves for ever.
pub fn run(address: SocketAddr, threads: usize) -> Result<()> {
    let listeners: Vec<_> = (0..threads)
        .map(|_| listen(address))
        .collect::<Result<_>>()?;
    let serving: Vec<_> = listeners
        .into_iter()
        .map(|listener| thread::spawn(move || serve(listener)))
        .collect();
    println!("ready");
    for thread in serving {
        thread
            .join()
            .ok()
            .context("a thread of the server panicked")??;
    }
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn serve(mut listener: TcpListener) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut free = Vec::new();
    let mut pool = Pool::default();
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    loop {
        if let Err(error) = poll.poll(&mut events, None) {
            if error.kind() == ErrorKind::Interrupted {
                continue;
            }
            return Err(error.into());
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&poll, &listener, &mut clients, &mut free)?;
                continue;
            }
            let Token(index) = event.token();
            let Some(Some(client)) = clients.get_mut(index) else {
                continue;
            };
            let ending = event.is_read_closed() || event.is_error();
            match client.ready(&mut pool, ending) {
                Ok(true) => {}
                // A client that goes away is no failure of the server, and one that breaks the protocol shows in the result.
                ended => {
                    if let Err(error) = ended {
                        if !error.is::<std::io::Error>() {
                            eprintln!("server: {error:#}");
                        }
                    }
                    clients[index] = None;
                    free.push(index);
                }
            }
        }
    }
}

fn accept(
    poll: &Poll,
    listener: &TcpListener,
    clients: &mut Vec<Option<Client>>,
    free: &mut Vec<usize>,
) -> Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error.into()),
        };
        let index = free.pop().unwrap_or_else(|| {
            clients.push(None);
            clients.len() - 1
        });
        let mut conn = Conn::new(stream)?;
        poll.registry().register(
            &mut conn.stream,
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        clients[index] = Some(Client {
            conn,
            kind: Kind::Http,
            closing: false,
        });
    }
}

impl Client {
    /// Does what can be done; false when the connection is at its end.
    fn ready(&mut self, pool: &mut Pool, ending: bool) -> Result<bool> {
        self.conn.grow(pool);
        loop {
            let more = self.conn.fill(ending)?;
            while !self.closing && self.step()? {}
            if !more {
                break;
            }
        }
        self.push();
        self.conn.flush()?;
        while self.push() {
            self.conn.flush()?;
        }
        self.conn.shrink(pool);
        Ok(!(self.conn.ended || self.closing && self.conn.unsent() == 0))
    }

    /// Handles one request or frame; false if none is complete.
    fn step(&mut self) -> Result<bool> {
        if matches!(self.kind, Kind::Http) {
            return self.request();
        }
        let Some(head) = ws::parse(self.conn.input.data())? else {
            return Ok(false);
        };
        let total = head.head + head.payload;
        if self.conn.input.data().len() < total {
            return Ok(false);
        }
        let Some(key) = head.mask else {
            bail!("a client's frame without a mask");
        };
        let mut input = std::mem::take(&mut self.conn.input);
        let payload = &mut input.data_mut()[head.head..total];
        ws::mask(payload, key);
        self.frame(head.opcode, payload)?;
        input.consume(total);
        self.conn.input = input;
        Ok(true)
    }

    fn request(&mut self) -> Result<bool> {
        if self.conn.input.data().is_empty() {
            return Ok(false);
        }
        let Some(request) = http::request(self.conn.input.data())? else {
            return Ok(false);
        };
        self.conn.input.consume(request.head);
        let output = self.conn.output();
        if let Some(key) = request.key {
            self.kind = match request.path.as_str() {
                "/echo" => Kind::Echo,
                "/down" => Kind::Down(0),
                "/up" => Kind::Up(0),
                path => bail!("a tunnel to {path}"),
            };
            let accept = ws::accept(&key);
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
            output.extend_from_slice(head.as_bytes());
            output.extend_from_slice(accept.as_bytes());
            output.extend_from_slice(b"\r\n\r\n");
        } else {
            self.closing = request.close;
            output.extend_from_slice(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n",
            );
            output.extend_from_slice(if request.close {
                b"Connection: close\r\n\r\n"
            } else {
                b"\r\n"
            });
            output.resize(output.len() + CONTENT, b'x');
        }
        Ok(true)
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        let output = self.conn.output();
        let mut send = |opcode, payload: &[u8]| {
            ws::head(output, opcode, payload.len(), None);
            output.extend_from_slice(payload);
        };
        match (opcode, &mut self.kind) {
            (ws::CLOSE, _) => {
                send(ws::CLOSE, payload);
                self.closing = true;
            }
            (ws::PING, _) => send(ws::PONG, payload),
            (ws::TEXT | ws::BINARY, Kind::Echo) => send(opcode, payload),
            (ws::TEXT, Kind::Down(left)) => *left = std::str::from_utf8(payload)?.parse()?,
            (ws::BINARY, Kind::Up(count)) => *count += payload.len() as u64,
            (ws::TEXT, Kind::Up(count)) => send(ws::TEXT, count.to_string().as_bytes()),
            _ => bail!("a frame with opcode {opcode}"),
        }
        Ok(())
    }

    /// Makes more of what is to be pushed, if there is room; whether it did.
    fn push(&mut self) -> bool {
        let Kind::Down(left) = &mut self.kind else {
            return false;
        };
        if *left == 0 || self.conn.unsent() > 0 {
            return false;
        }
        let output = self.conn.output();
        while *left > 0 && output.len() < PUSH_HIGH {
            let size = PUSH.min(*left as usize);
            ws::head(output, ws::BINARY, size, None);
            output.resize(output.len() + size, b'x');
            *left -= size as u64;
        }
        true
    }
}
