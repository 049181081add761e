# SPDX-License-Identifier: GPL-2.0
"""Raw HTTP/1 over a socket, byte by byte under the test's control: the client's and the server's end alike."""

import contextlib
import ctypes
import hashlib
import itertools
import socket
import threading
import time

from . import ktap

_libc = ctypes.CDLL(None, use_errno=True)
PORTS = range(10000, 20000)
_ports = None


def _connections_made():
    """(state, port of the other end) of each TCP connection of this host, in the hexadecimal of /proc/net/tcp."""
    for family in ("tcp", "tcp6"):
        with open(f"/proc/net/{family}", encoding="ascii") as file:
            for line in file.readlines()[1:]:
                row = line.split()
                yield row[3], int(row[2].rpartition(":")[2], 16)


def _ports_in_turn():
    """PORTS, from behind the last one that the file before this one has left in TIME_WAIT."""
    first = max((port + 1 for _, port in _connections_made() if port in PORTS), default=PORTS.start)
    return itertools.chain(range(first, PORTS.stop), range(PORTS.start, first))


def free_port():
    """A port that no other peer of this run uses (below the range of ephemeral ports)."""
    global _ports
    _ports = _ports or _ports_in_turn()
    for port in _ports:
        with socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("::", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port left")


def split_address(address):
    """("10.0.0.1:80" or "[::1]:80") as (family, (host, port))."""
    host, _, port = address.rpartition(":")
    if host.startswith("["):
        return socket.AF_INET6, (host[1:-1], int(port))
    return socket.AF_INET, (host, int(port))


class Head:
    """Start line and field section of one message."""

    def __init__(self, raw):
        self.raw = raw
        lines = raw.decode("latin-1").split("\r\n")
        self.start = lines[0]
        self.fields = []
        for line in lines[1:]:
            if line:
                name, colon, value = line.partition(":")
                ktap.check(colon, f"field line without a colon: {line!r}")
                self.fields.append((name, value.strip(" \t")))

    @property
    def status(self):
        """Status code of a response."""
        return int(self.start.split(" ")[1])

    def all(self, name):
        """Every value of the field `name`, in order."""
        return [value for n, value in self.fields if n.lower() == name.lower()]

    def get(self, name, default=None):
        """The first value of the field `name`."""
        values = self.all(name)
        return values[0] if values else default


class Closed(AssertionError):
    """The peer closed before what was being read was complete."""


class Wire:
    """A buffered connection. Every read ends with Closed at the end of the stream."""

    def __init__(self, sock, timeout=20):
        self.sock = sock
        self.buffer = b""
        sock.settimeout(ktap.seconds(timeout))

    @classmethod
    def connect(cls, address, mss=None, timeout=20, namespace=None, rcvbuf=None, source=None):
        """Connects to "host:port"; from another network namespace, or from another address, if one is given."""
        family, target = split_address(address)
        sock = namespace.socket(family) if namespace else socket.socket(family)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            sock.bind((source, 0))
        if mss:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.settimeout(ktap.seconds(timeout))
        sock.connect(target)
        return cls(sock, timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def close(self):
        """Closes orderly."""
        self.sock.close()

    def finish_sending(self):
        """Sends FIN; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Closes with RST, also while another thread waits in recv() (which would put off a close)."""
        _libc.connect(self.sock.fileno(), bytes(16), 16)  # AF_UNSPEC: tcp_disconnect()
        self.sock.close()

    def probe(self):
        """Has TCP ask whether the peer is still there: a reset for which there was no memory is heard then."""
        for option, value in ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 5)):
            self.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, data):
        """Sends everything."""
        self.sock.sendall(data)

    def send_bytewise(self, data, pause=0.0):
        """Sends each byte in a segment of its own."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            # Without MSG_EOR, TCP joins bytes that wait for its window.
            self.sock.sendall(data[i : i + 1], socket.MSG_EOR)
            if pause:
                time.sleep(pause)

    def _fill(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise Closed(f"closed after {self.buffer[-200:]!r}")
        self.buffer += data

    def read(self, count):
        """Exactly `count` bytes."""
        if len(self.buffer) >= count:
            data, self.buffer = self.buffer[:count], self.buffer[count:]
            return data
        parts, have = [self.buffer], len(self.buffer)
        self.buffer = b""
        while have < count:
            data = self.sock.recv(min(1 << 20, count - have))
            if not data:
                raise Closed(f"closed after {have} of {count} bytes")
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def read_md5(self, count):
        """MD5 (hex) of exactly `count` bytes, which need not fit in memory."""
        digest = hashlib.md5()
        while count:
            if self.buffer:
                data, self.buffer = self.buffer[:count], self.buffer[count:]
            else:
                data = self.sock.recv(min(1 << 20, count))
            if not data:
                raise Closed(f"closed with {count} bytes missing")
            digest.update(data)
            count -= len(data)
        return digest.hexdigest()

    def read_until(self, mark):
        """Up to and including `mark`."""
        while mark not in self.buffer:
            self._fill()
        end = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:end], self.buffer[end:]
        return data

    def read_head(self):
        """The next message's head."""
        return Head(self.read_until(b"\r\n\r\n")[:-2])

    def read_rest(self):
        """Everything up to the end of the stream."""
        parts = [self.buffer]
        self.buffer = b""
        while True:
            data = self.sock.recv(1 << 16)
            if not data:
                return b"".join(parts)
            parts.append(data)

    def read_chunked(self):
        """(body, trailer fields) of a chunked body."""
        parts = []
        while True:
            size = int(self.read_until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                break
            parts.append(self.read(size))
            ktap.equal(self.read(2), b"\r\n", "end of a chunk")
        lines = []
        while True:
            line = self.read_until(b"\r\n")[:-2]
            if not line:
                return b"".join(parts), lines
            lines.append(line)

    def read_body(self, head, method="GET"):
        """The body that belongs to `head` (RFC 9112 section 6.3)."""
        if head.start.startswith("HTTP/"):
            if method == "HEAD" or head.status < 200 or head.status in (204, 304):
                return b""
        if head.get("Transfer-Encoding", "").lower() == "chunked":
            return self.read_chunked()[0]
        if head.get("Content-Length") is not None:
            return self.read(int(head.get("Content-Length")))
        return self.read_rest() if head.start.startswith("HTTP/") else b""

    def read_response(self, method="GET"):
        """(head, body) of the next final or interim response."""
        head = self.read_head()
        return head, self.read_body(head, method)

    def ended(self):
        """True once the peer has sent FIN and nothing before it (waits for one of the two)."""
        if self.buffer:
            return False
        data = self.sock.recv(1)
        self.buffer = data
        return not data

    def was_reset(self):
        """True if the next thing to come is RST."""
        try:
            self.buffer += self.sock.recv(1 << 16)
            return False
        except ConnectionResetError:
            return True

    def silent_for(self, duration):
        """True if nothing arrives for `duration` seconds (not scaled)."""
        if self.buffer:
            return False
        before = self.sock.gettimeout()
        self.sock.settimeout(duration)
        try:
            self.buffer = self.sock.recv(1 << 16)
            return False
        except socket.timeout:
            return True
        finally:
            self.sock.settimeout(before)


class RawServer:
    """A server whose every connection is served by `handler(wire, number)` in a thread of its own.

    A handler that ends by Closed or OSError is a peer that went away: the test's own assertions decide. Any
    other exception fails the test when the server is left.
    """

    def __init__(self, handler, host="127.0.0.1", port=None, namespace=None, backlog=128, mss=None, rcvbuf=None):
        self.handler = handler
        self.host, self.port = host, port or free_port()
        self.namespace, self.backlog, self.mss, self.rcvbuf = namespace, backlog, mss, rcvbuf
        self.accepted = 0
        self.wires = []
        self.threads = []
        self.trouble = []
        self.listener = None

    @property
    def address(self):
        """The address as configuration writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __enter__(self):
        return self.start()

    def start(self):
        """Listens and begins to accept."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = self.namespace.socket(family) if self.namespace else socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.mss:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, self.mss)
        if self.rcvbuf:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.rcvbuf)
        listener.bind((self.host, self.port))
        listener.listen(self.backlog)
        self.listener = listener
        self._begin(self._accept, listener)
        return self

    def _begin(self, what, *args):
        thread = threading.Thread(target=what, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(sock, timeout=120)
            self.wires.append(wire)
            self.accepted += 1
            self._begin(self._serve, wire, self.accepted)

    def _serve(self, wire, number):
        try:
            self.handler(wire, number)
        except (Closed, OSError, ValueError):
            pass  # the connection ended, or the test closed it under the handler
        except Exception as trouble:  # told to the test in stop()
            self.trouble.append(trouble)
        finally:
            wire.close()
            self._forget(wire)

    def _forget(self, wire):
        """Keeps nothing of a connection that has ended: a thread that is not let go keeps its stack."""
        with contextlib.suppress(ValueError):  # stop() was first
            self.wires.remove(wire)
            self.threads.remove(threading.current_thread())

    def stop(self):
        """Refuses from now on and closes every connection."""
        if self.listener:
            # shutdown() wakes the thread that is blocked in accept(); close() alone would not.
            self._shut_down(self.listener)
        for wire in list(self.wires):
            self._shut_down(wire.sock)
        # A thread that is woken from poll() looks the descriptor up again. Were it closed here and in use for something else
        # by then, the thread would go on waiting, and keep the socket.
        limit = time.monotonic() + ktap.seconds(1)
        for thread in list(self.threads):
            thread.join(max(limit - time.monotonic(), 0))
        if self.listener:
            self.listener.close()
            self.listener = None
        for wire in list(self.wires):
            # Also for a handler that waits for something else than this connection.
            wire.close()
        self.wires.clear()
        self.threads.clear()

    @staticmethod
    def _shut_down(sock):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def __exit__(self, kind, *_):
        self.stop()
        if self.trouble and kind is None:
            raise self.trouble[0]


def plain_handler(respond):
    """A handler for RawServer that answers each request of a connection with `respond(head, body)`.

    `respond` returns the response's bytes, or None to close the connection.
    """

    def handler(wire, _number):
        while True:
            head = wire.read_head()
            answer = respond(head, wire.read_body(head))
            if answer is None:
                return
            wire.send(answer)

    return handler


def response(body=b"", status="200 OK", fields=()):
    """A response with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def request(target="/", method="GET", fields=(), body=None, host="test"):
    """A request; with a Content-Length when there is a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def time_waits(port):
    """How many connections to this port are in TIME_WAIT at the end that made them."""
    return sum(state == "06" and to == port for state, to in _connections_made())
