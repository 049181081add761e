# SPDX-License-Identifier: GPL-2.0
"""A server for very many connections: one process, one epoll instance, and little done for each message.

Usage: echo.py HOST PORT. Tunnels return every byte; a Close frame with CLOSE is returned and followed by a FIN. GET /COUNT/AT answers
with so many bytes of BLOCK from there on, /stats with counts, and a body comes back as it is. Offers for /refuse get 403.
"""

import json
import random
import re
import select
import socket
import sys

# What bodies are made of, for the client to know it as well.
BLOCK = random.Random("block").randbytes(1 << 20)
# A client's Close frame with the code 1000; its masking key is all zeros.
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
PIECE = 1 << 16
counts = dict.fromkeys(("accepted", "tunnels", "requests", "closes", "fins", "resets"), 0)


class Conn:
    """A connection: what has come of a request, what waits to be sent, and the end of what came through its tunnel."""

    __slots__ = ("sock", "head", "out", "tunnel", "tail", "ending")

    def __init__(self, sock):
        self.sock, self.head, self.out, self.tunnel, self.tail, self.ending = sock, b"", b"", False, b"", False


def body_of(data, start, head):
    """(body, where the request ends), or None while it is not complete."""
    if re.search(rb"\r\ntransfer-encoding: *chunked\r\n", head, re.IGNORECASE):
        parts, at = [], start
        while (line := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line], 16)
            parts.append(data[line + 2 : line + 2 + size])
            at = line + 2 + size + 2
            if len(data) < at:
                return None
            if not size:
                return b"".join(parts), at
        return None
    length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
    end = start + (int(length[1]) if length else 0)
    return (data[start:end], end) if len(data) >= end else None


class Server:
    """The connections, by their descriptors."""

    def __init__(self, host, port, switching):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(4096)
        self.listener.setblocking(False)
        self.poller, self.conns, self.switching = select.epoll(), {}, switching
        self.poller.register(self.listener, select.EPOLLIN)

    def run(self):
        """Serves until it is killed."""
        listening = self.listener.fileno()
        while True:
            for number, event in self.poller.poll():
                if number == listening:
                    self.accept()
                elif event & select.EPOLLOUT:
                    self.flush(self.conns[number])
                else:
                    self.read(self.conns[number])

    def accept(self):
        """Takes what has connected."""
        for _ in range(64):
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.conns[sock.fileno()] = Conn(sock)
            self.poller.register(sock, select.EPOLLIN)
            counts["accepted"] += 1

    def close(self, conn):
        """Ends a connection; epoll forgets it by itself."""
        del self.conns[conn.sock.fileno()]
        conn.sock.close()

    def lost(self, conn):
        """A connection was reset."""
        counts["resets"] += 1
        self.close(conn)

    def read(self, conn):
        """Takes one piece of what has come."""
        try:
            data = conn.sock.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            return self.lost(conn)
        if not data:
            counts["fins"] += 1
            self.close(conn)
        elif conn.tunnel:
            self.tunnelled(conn, data)
        else:
            conn.head += data
            self.requests(conn)

    def tunnelled(self, conn, data):
        """Returns what came through a tunnel."""
        conn.tail = (conn.tail + data)[-8:] if len(data) < 8 else data[-8:]
        if conn.tail == CLOSE:
            counts["closes"] += 1
            conn.ending = True
        self.send(conn, data)

    def requests(self, conn):
        """Answers the requests that are complete, unless what was answered before has still to be sent."""
        while not conn.out and (end := conn.head.find(b"\r\n\r\n")) >= 0:
            head = conn.head[: end + 2]
            found = body_of(conn.head, end + 4, head)
            if not found:
                return
            conn.head = conn.head[found[1] :]
            path = head.split(b" ", 2)[1].decode()
            counts["requests"] += 1
            if b"\r\nUpgrade: websocket\r\n" in head and path != "/refuse":
                counts["tunnels"] += 1
                conn.tunnel = True
                behind, conn.head = conn.head, b""
                self.send(conn, self.switching(head))
                if behind:
                    self.tunnelled(conn, behind)
                return
            status, body = "200 OK", found[0]
            if path == "/refuse":
                status, body = "403 Forbidden", b"refused"
            elif path == "/stats":
                body = json.dumps(counts).encode()
            elif numbers := re.fullmatch(r"/(\d+)/(\d+)", path):
                body = BLOCK[int(numbers[2]) :][: int(numbers[1])]
            self.send(conn, f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def send(self, conn, data):
        """Sends; while something waits to be sent nothing is read."""
        if conn.out:
            conn.out += data
            return
        try:
            sent = conn.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the next event tells
        if sent < len(data):
            conn.out = data[sent:]
            self.poller.modify(conn.sock, select.EPOLLOUT)
        elif conn.ending:
            self.close(conn)

    def flush(self, conn):
        """Sends what waits."""
        try:
            conn.out = conn.out[conn.sock.send(conn.out) :]
        except BlockingIOError:
            return
        except OSError:
            return self.lost(conn)
        if conn.out:
            return
        if conn.ending:
            self.close(conn)
            return
        self.poller.modify(conn.sock, select.EPOLLIN)
        if not conn.tunnel:
            self.requests(conn)


def main():
    """Serves."""
    sys.path.insert(0, sys.path[0] + "/..")
    from lib import ws

    known = {}

    def switching(head):
        key = re.search(rb"\r\nsec-websocket-key: *(\S+)", head, re.IGNORECASE)[1].decode()
        if key not in known:
            known.clear()
            lines = "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {ws.accept_for(key)}"
            known[key] = "\r\n".join(lines).encode() + b"\r\n\r\n"
        return known[key]

    server = Server(sys.argv[1], int(sys.argv[2]), switching)
    print("ready", flush=True)
    server.run()


if __name__ == "__main__":
    main()
