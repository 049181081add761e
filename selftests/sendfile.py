#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Peers of the same host that send by sendfile(): the memory stays theirs, and they may change it at any moment."""

import mmap
import os
import queue
import socket

from lib import session, squall, wire, ws
from lib.ktap import case, equal

CONTENT = os.urandom(100_000)


class File:
    """Bytes in memory that are sent by reference and can be changed afterwards."""

    def __init__(self, content):
        self.fd = os.memfd_create("sent")
        os.write(self.fd, content)
        self.size = len(content)
        self.memory = mmap.mmap(self.fd, 0)

    def send(self, peer, sizes=()):
        """Sends everything: in pieces of these sizes and the rest."""
        at = 0
        for size in [*sizes, self.size]:
            end = min(at + size, self.size)
            while at < end:
                at += os.sendfile(peer.sock.fileno(), self.fd, at, end - at)

    def replace(self, old, new):
        """Changes bytes in place."""
        at = self.memory[:].index(old)
        self.memory[at : at + len(new)] = new

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.memory.close()
        os.close(self.fd)


@case("a request's head means what it meant when it was judged, whatever becomes of the memory it was sent from")
def changed_request():
    heads = []
    respond = lambda head, _body: heads.append(head) or wire.response(b"good")
    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        for ordinary in (b"", b"GET / HTTP/1.1\r\nHost: t\r\n"):
            lines = (b"" if ordinary else b"GET / HTTP/1.1\r\nHost: t\r\n") + b"X-First: harmless-harmless\r\n"
            with web.connect() as client, File(lines) as file:
                client.send(ordinary)
                file.send(client)
                squall.settle()
                file.replace(b"harmless-harmless", b"\r\nX-Evil: smuggled")
                client.send(b"X-Second: 2\r\n\r\n")
                equal(client.read_response()[1], b"good", "body")
            equal(heads[-1].get("X-First"), "harmless-harmless", "the field that was changed")
            equal(heads[-1].get("X-Second"), "2", "the field behind it")
            equal(heads[-1].get("X-Evil"), None, "a field that was never received")


@case("a response's head means what it meant when it was judged")
def changed_response():
    def serve(peer, _number):
        peer.read_head()
        with File(b"HTTP/1.1 200 OK\r\nX-First: harmless-harmless\r\n") as file:
            file.send(peer)
            squall.settle()
            file.replace(b"harmless-harmless", b"\r\nX-Evil: smuggled")
            peer.send(b"Content-Length: 4\r\n\r\ngood")
            peer.read_rest()

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(wire.request())
        head, body = client.read_response()
        equal(body, b"good", "body")
        equal(head.get("X-First"), "harmless-harmless", "the field that was changed")
        equal(head.get("X-Evil"), None, "a field that was never received")


@case("a head over the limit is refused wherever it lies")
def too_large():
    with wire.RawServer(lambda peer, _number: peer.read_rest()) as server, squall.Listener(server) as web:
        with web.connect() as client, File(b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: vvvvvvvvvv\r\n" * 5000) as file:
            try:
                file.send(client)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before it was sent whole
            equal(client.read_head().status, 431, "status")


@case("bodies in both framings and trailers, cut anywhere, both ways")
def messages():
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (CONTENT[:7], CONTENT[7:50_000], CONTENT[50_000:]))
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-Trailer: yes\r\n\r\n"
    plain = b"Content-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT
    cuts = [(), (1,) * 120, (3, 60, 1, 1, 50_000, 1), (100, 49_980, 5, 5, 5, 5, 50_000)]

    def serve(peer, number):
        for turn, cut in enumerate(cuts):
            head = peer.read_head()
            equal(peer.read_body(head) == CONTENT, True, "the body of the request")
            with File(b"HTTP/1.1 200 OK\r\nX-Turn: %d\r\n" % turn + (chunked if number % 2 else plain)) as file:
                file.send(peer, cut)

    with wire.RawServer(serve) as server, squall.Listener(server, connections=1) as web:
        for framing in (plain, chunked):
            with web.connect() as client:
                for turn, cut in enumerate(cuts):
                    with File(b"POST / HTTP/1.1\r\nHost: t\r\n" + framing) as file:
                        file.send(client, cut)
                        head, body = client.read_response()
                    equal((head.status, head.get("X-Turn")), (200, str(turn)), "response")
                    equal(body == CONTENT, True, "the body of the response")


# Sizes of pieces that come in one skb, and how many of their bytes are copied when splice_min is 1024.
PIECES = [
    ((8192,), 0),
    ((10, 8192), 0),
    ((8192, 10), 0),
    ((4096, 10, 4096, 10, 10), 0),
    ((1023,), 1023),
    ((10, 1500), 10),
    ((10, 2038), 0),
    ((1500, 10, 10), 20),
    ((10,) * 12, 120),
    ((10,) * 12 + (4000,) * 4, 110),
]


@case("pieces are handed on by reference if they are splice_min on average, and copied if not, and arrive whole")
def averages():
    rows, total = queue.SimpleQueue(), sum(sum(sizes) for sizes, _ in PIECES)

    def serve(peer, _number):
        peer.send(ws.frame(bytes(total))[:-total])
        while sizes := rows.get():
            # Until it is taken out the cork keeps all of it in one skb.
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            for number, size in enumerate(sizes):
                # Pages that do not follow each other, so that each piece stays one.
                assert os.sendfile(peer.sock.fileno(), file.fd, number % 8 * 12288 + 5, size) == size
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    with squall.sysctl(splice_min=1024), File(CONTENT) as file:
        with ws.tunnel_server(serve) as server, squall.Listener(server) as web, ws.open_tunnel(web) as client:
            client.read(len(ws.frame(bytes(total))) - total)
            for sizes, copied in PIECES:
                squall.settle()
                before = squall.module_stats()
                rows.put(sizes)
                got = client.read(sum(sizes))
                now = squall.module_stats()
                want = b"".join(CONTENT[number % 8 * 12288 + 5 :][:size] for number, size in enumerate(sizes))
                equal(got == want, True, f"what came of {sizes}")
                grown = tuple(now[name] - before[name] for name in ("copied_bytes", "spliced_bytes"))
                equal(grown, (copied, sum(sizes) - copied), f"bytes copied and referred to, {sizes}")
            rows.put(None)


session.main()
