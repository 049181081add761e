# SPDX-License-Identifier: GPL-2.0
"""A client and a server with the module between them, both ends held by one thread.

So there is no moment at which bytes are under way unseen: when the client has its answer, all that the server
was sent can be read.
"""

import email.utils
import re
import select
import socket
import time

from . import ktap, squall, ws

# What the vectors expect of the proxy's surroundings: see rust/proto/replay.rs.
CLIENT = "192.0.2.7"
SERVER = ("10.0.0.2", 9000)

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"

# The time that it is for the vectors. It takes the place of the present in what the client received, so that the rest
# of it can be compared byte by byte.
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
_DATE = re.compile(rb"\r\nDate: ([A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT)(?=\r\n)")

# Longest wait for what must happen, in seconds.
LIMIT = 5


class End:
    """One end of a connection: what it received, and how that ended ("fin", "reset" or not yet)."""

    def __init__(self, stage, sock):
        self.stage, self.sock = stage, sock
        self.data = bytearray()
        self.ended = None
        # Where the request begins that was not answered yet.
        self.answered = 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        stage.ends[sock.fileno()] = self
        stage.poller.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)

    def read(self):
        """Takes what is there."""
        while not self.ended:
            try:
                data = self.sock.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                self._end("reset")
                return
            if not data:
                self._end("fin")
                return
            self.data += data
            if self not in self.stage.servers:
                self.data[:] = _DATE.sub(undate, self.data)
            self.stage.received(self, data)

    def _end(self, how):
        self.ended = how
        self.stage.poller.unregister(self.sock.fileno())

    def send(self, *pieces):
        """Sends each piece in a segment of its own."""
        for piece in pieces:
            try:
                # Without MSG_EOR, TCP joins pieces that wait for its window.
                ktap.check(self.sock.send(piece, socket.MSG_EOR) == len(piece), "a send was cut short")
            except (BrokenPipeError, ConnectionResetError):
                return  # refused in between: what is wrong with that shows in what was received

    def finish_sending(self):
        """Sends FIN; reading goes on."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        """Closes, and is seen no more."""
        if self.sock.fileno() >= 0:
            self.stage.ends.pop(self.sock.fileno())
            self.sock.close()
        if self in self.stage.servers:
            self.stage.servers.remove(self)


class Stage:
    """A listener of the module with its clients and its server."""

    def __init__(self):
        self.poller = select.epoll()
        self.ends = {}
        self.servers = []
        # What the server received, on whatever connection, in the order of its arrival.
        self.got = bytearray()
        # Complete requests are answered: with 200, and offers to upgrade with 403.
        self.answering = True
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(SERVER)
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.poller.register(self.listener.fileno(), select.EPOLLIN)
        self.web = squall.Listener(f"{SERVER[0]}:{SERVER[1]}", host=CLIENT)

    def __enter__(self):
        self.web.__enter__()
        return self

    def __exit__(self, *_):
        self.web.__exit__()
        for end in list(self.ends.values()):
            end.close()
        self.listener.close()
        self.poller.close()

    def poll(self, timeout=0.0):
        """Takes everything that has arrived; waits for something if nothing has."""
        for number, _ in self.poller.poll(timeout):
            if number == self.listener.fileno():
                self.servers.append(End(self, self.listener.accept()[0]))
            elif number in self.ends:
                self.ends[number].read()

    def until(self, predicate, what):
        """Polls until the predicate holds; `what` says what was waited for."""
        limit = time.monotonic() + ktap.seconds(LIMIT)
        while not predicate():
            ktap.check(time.monotonic() < limit, lambda: f"still not: {what() if callable(what) else what}")
            self.poll(0.05)

    def settled(self):
        """Waits until the pool is whole: a connection that came later would be used before one that was used."""

        def whole():
            stats = self.web.server_stats()
            return stats["connecting"] == 0 and stats["connected"] >= self.web.connections

        self.until(whole, "the pool is whole")

    def drain(self):
        """Takes everything that is there now."""
        for end in list(self.ends.values()):
            end.read()

    def received(self, end, data):
        """Notes what the server was sent, and answers what is complete."""
        if end not in self.servers:
            return
        self.got += data
        while self.answering and (length := request_length(end.data[end.answered :])):
            offer = offered_key(bytes(end.data[end.answered : end.answered + length]))
            end.answered += length
            end.send(REFUSAL if offer else ANSWER)

    def connect(self):
        """A client's connection."""
        sock = socket.socket()
        sock.bind((CLIENT, 0))
        sock.connect((CLIENT, self.web.port))
        return End(self, sock)

    def begin(self, answering):
        """Forgets what was before."""
        self.drain()
        self.got.clear()
        self.answering = answering
        for end in [end for end in self.servers if end.ended]:
            end.close()
        for end in self.servers:
            end.answered = len(end.data)

    def asked(self):
        """Connections on which the server has a complete request that is not answered."""
        return [end for end in self.servers if request_length(end.data[end.answered :])]

    def restart(self):
        """After a failure: no connection of before is left."""
        for end in list(self.ends.values()):
            end.close()
        ready = lambda: self.poll(0.01) or self.web.server_stats()["idle"] >= self.web.connections
        ktap.until(ready, 10, "connections to the server")


def undate(match):
    """The line that has the present for Date with DATE in its place; another one as it is."""
    then = email.utils.parsedate_to_datetime(match[1].decode())
    if email.utils.format_datetime(then, usegmt=True).encode() != match[1]:
        return match[0]  # such as a wrong day of the week
    # A clock of the guest may be read before and behind a tick.
    age = time.time() - then.timestamp()
    return b"\r\nDate: " + DATE if -1 < age < ktap.seconds(10) else match[0]


def request_length(data):
    """Length of the complete request at the front; None while it is not complete."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    head = bytes(data[:end]).lower()
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        while True:
            line = data.find(b"\r\n", end)
            if line < 0:
                return None
            size = int(bytes(data[end:line]), 16)
            if size == 0:
                last = data.find(b"\r\n\r\n", line)
                return last + 4 if last >= 0 else None
            end = line + 2 + size + 2
    length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
    end += int(length.group(1)) if length else 0
    return end if len(data) >= end else None


def offered_key(request):
    """The key of an offer to upgrade as it is forwarded; None if the request is none."""
    if b"\r\nUpgrade: websocket\r\n" not in request:
        return None
    return re.search(rb"\r\nsec-websocket-key:[ \t]*(\S+)", request, re.IGNORECASE).group(1).decode()


def switching(key):
    """The 101 that accepts a key."""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {ws.accept_for(key)}\r\n\r\n"
    ).encode()
