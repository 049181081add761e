#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A receiver that stops reading holds its sender back, in bounded memory, and nothing is lost when it goes on.

The bound, per tunnel and direction, in bytes that are on their way: the sender's send buffer, the module's
receive buffer (net.squall.rcvbuf), its queue (net.squall.queue_high), its unsent bytes
(net.squall.unsent_max), and the receiver's buffer.
"""

import os
import socket
import threading
import time
import zlib

from lib import baseline, ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until

OFFERED = ktap.scaled(1 << 30, 8 << 20)
BLOCK = 1 << 20
BLOCKS = [ws.LONG + os.urandom(BLOCK - len(ws.LONG)) for _ in range(16)]
SUMS = [zlib.crc32(block) for block in BLOCKS]
# What both peers ask for; the kernel doubles it.
PEER_BUFFER = 65536
PAGE = os.sysconf("SC_PAGESIZE")


def bound():
    """Bytes that may be on their way between a sender and a stopped receiver."""
    own = sum(int(squall.read(f"{squall.SYSCTL}/{name}")) for name in ("rcvbuf", "queue_high", "unsent_max"))
    # One receive buffer's worth may be moved into the queue at once after it was found below its mark.
    own += int(squall.read(f"{squall.SYSCTL}/rcvbuf"))
    return own + 2 * 2 * PEER_BUFFER


class Sender(threading.Thread):
    """Sends `total` bytes of BLOCKS; `sent` tells how many the kernel has taken."""

    def __init__(self, peer, total):
        super().__init__(daemon=True)
        self.peer, self.total, self.sent, self.error = peer, total, 0, None
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PEER_BUFFER)
        peer.sock.settimeout(None)
        self.start()

    def run(self):
        try:
            while self.sent < self.total:
                index, at = self.sent // BLOCK % len(BLOCKS), self.sent % BLOCK
                self.sent += self.peer.sock.send(memoryview(BLOCKS[index])[at : at + 65536])
        except OSError as error:
            self.error = error


def stalled(*senders):
    """Waits until nothing more has been taken from any sender for a second; the most that was."""
    until(lambda: all(sender.sent for sender in senders), 10, "the first bytes sent")
    while True:
        before = [sender.sent for sender in senders]
        time.sleep(ktap.PACE)
        if [sender.sent for sender in senders] == before:
            return max(before)


def verify(peer, total):
    """Reads `total` bytes and compares them block by block."""
    for number in range(total // BLOCK):
        equal(zlib.crc32(peer.read(BLOCK)), SUMS[number % len(BLOCKS)], f"checksum of MiB {number}")


class Pair:
    """Both ends of one tunnel."""

    def __init__(self):
        self.ready = threading.Event()
        self.far = None
        self.done = threading.Event()

    def serve(self, peer, _number):
        self.far = peer
        self.ready.set()
        self.done.wait()

    def open(self, web):
        """The client's end; `far` is the server's."""
        self.near = ws.open_tunnel(web, rcvbuf=PEER_BUFFER, timeout=60)
        check(self.ready.wait(ktap.seconds(10)), "the tunnel reached the server")
        return self.near


def hold_back(toward_server, offered=OFFERED):
    pair = Pair()
    with ws.tunnel_server(pair.serve, rcvbuf=PEER_BUFFER) as server, squall.Listener(server) as web:
        near = pair.open(web)
        source, sink = (near, pair.far) if toward_server else (pair.far, near)
        limit = bound()
        before = baseline.tcp()["mem"]
        sender = Sender(source, offered)
        taken = stalled(sender)
        used = (baseline.tcp()["mem"] - before) * PAGE
        ktap.note(f"taken {taken >> 10} KiB, bound {limit >> 10} KiB, TCP memory {used >> 10} KiB")
        check(taken <= limit, f"{taken} bytes were taken from the sender, the bound is {limit}")
        verify(sink, offered)
        sender.join(ktap.seconds(10))
        equal((sender.sent, sender.error), (offered, None), "bytes sent")
        check(sink.silent_for(0.2), "more bytes than were sent")
        pair.done.set()


@case("a server that stops reading holds its client back; all of what was offered arrives in the end", limit=300)
def stopped_server():
    hold_back(toward_server=True)


@case("a client that stops reading holds its server back; all of what was offered arrives in the end", limit=300)
def stopped_client():
    hold_back(toward_server=False, offered=OFFERED // 4)


@case("memory of many stalled tunnels stays within the bound and is given back", limit=120)
def many_stalled():
    count = 16
    pairs = [Pair() for _ in range(count)]
    waiting = iter(pairs)
    serve = lambda peer, number: next(waiting).serve(peer, number)
    with ws.tunnel_server(serve, rcvbuf=PEER_BUFFER) as server, squall.Listener(server) as web:
        limit = bound()
        for pair in pairs:
            pair.open(web)
        base = baseline.tcp()["mem"]
        senders = [Sender(pair.near, 64 << 20) for pair in pairs]
        taken = stalled(*senders)
        used = (baseline.tcp()["mem"] - base) * PAGE
        # Accounting is by true size: a segment of a stream may cost twice its bytes; a MiB per CPU is cached.
        allowed = count * 2 * limit + os.cpu_count() * (1 << 20)
        ktap.note(f"TCP memory of {count} stalled tunnels: {used >> 10} KiB, {used // count >> 10} KiB each")
        check(taken <= limit, f"{taken} bytes were taken from a sender, the bound is {limit}")
        check(used <= allowed, f"{used} bytes of TCP memory, allowed {allowed}")
        held = squall.read_stats(squall.ROOT)["queued_bytes"]
        queue = int(squall.read(f"{squall.SYSCTL}/queue_high")) + int(squall.read(f"{squall.SYSCTL}/rcvbuf"))
        check(0 < held <= count * queue, f"{held} bytes in the module's queues, allowed {count * queue}")
        for pair in pairs:
            pair.near.reset()
            pair.done.set()
        until(lambda: web.stats()["tunnels_open"] == 0, 10, "the tunnels ended")
        until(lambda: squall.read_stats(squall.ROOT)["queued_bytes"] == 0, 10, "the queues are empty")


@case("a stalled tunnel does not hold back another one between the same client and server")
def not_the_others():
    pairs = [Pair(), Pair()]
    waiting = iter(pairs)
    with ws.tunnel_server(lambda peer, n: next(waiting).serve(peer, n), rcvbuf=PEER_BUFFER) as server:
        with squall.Listener(server) as web:
            for pair in pairs:
                pair.open(web)
            stalled(Sender(pairs[0].near, 64 << 20))
            sender = Sender(pairs[1].near, 8 << 20)
            verify(pairs[1].far, 8 << 20)
            equal(sender.error, None, "error")
            for pair in pairs:
                pair.done.set()


@case("a client that stops reading a response holds its server back and gets it whole in the end", limit=150)
def stopped_reader_http():
    total = OFFERED // 4
    senders = []

    def serve(peer, _number):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        senders.append(Sender(peer, total))
        senders[0].join()
        peer.read_rest()

    with wire.RawServer(serve) as server, squall.Listener(server) as web:
        with web.connect(rcvbuf=PEER_BUFFER, timeout=60) as client:
            client.send(wire.request())
            until(lambda: senders, 10, "the request reached the server")
            taken, limit = stalled(*senders), bound()
            check(taken <= limit, f"{taken} bytes were taken from the server, the bound is {limit}")
            client.read_head()
            verify(client, total)


@case("a server that stops reading a request body holds its client back and gets it whole in the end", limit=150)
def stopped_reader_request():
    total = OFFERED // 4
    go, result = threading.Event(), []

    def serve(peer, _number):
        peer.read_head()
        go.wait()
        verify(peer, total)
        result.append("whole")
        peer.send(wire.response(b"thanks"))
        peer.read_rest()

    with wire.RawServer(serve, rcvbuf=PEER_BUFFER) as server, squall.Listener(server) as web:
        with web.connect(timeout=60) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % total)
            sender = Sender(client, total)
            taken, limit = stalled(sender), bound()
            go.set()
            check(taken <= limit, f"{taken} bytes were taken from the client, the bound is {limit}")
            client.sock.settimeout(ktap.seconds(120))
            equal(client.read_response()[1], b"thanks", "response")
            equal(result, ["whole"], "body")


session.main()
