#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""How connections end: what was acknowledged is delivered, whatever came behind it."""

import contextlib
import fcntl
import os
import struct
import subprocess
import termios
import threading
import time

from lib import ktap, session, sniff, squall, wire, ws
from lib.ktap import case, check, equal, until

# More than a client with a small window takes at once, and less than what the buffers in between hold.
SENT = os.urandom(400_000)


def unacknowledged(peer):
    """Bytes that a socket has sent, or is to send, and that are not acknowledged."""
    return struct.unpack("i", fcntl.ioctl(peer.sock, termios.TIOCOUTQ, bytes(4)))[0]


class Resetting:
    """An end that sends bytes, waits until all of them are acknowledged, and resets the connection."""

    def __init__(self):
        self.done = threading.Event()

    def send(self, peer, data):
        """Does all that."""
        peer.send(data)
        until(lambda: unacknowledged(peer) == 0, 20, "everything is acknowledged")
        peer.reset()
        self.done.set()

    def wait(self):
        """Until the reset has come."""
        check(self.done.wait(ktap.seconds(20)), "the other end got its bytes acknowledged and reset the connection")
        squall.settle(0.1)


def read_slowly(peer):
    """What comes, a little at a time: (bytes, "fin" or "reset")."""
    got = bytearray(peer.buffer)
    peer.buffer = b""
    try:
        while data := peer.sock.recv(16384):
            got += data
            time.sleep(0.005)
        return bytes(got), "fin"
    except ConnectionResetError:
        return bytes(got), "reset"


def same(got, wanted, what):
    """Compares bytes without showing them."""
    first = next((i for i, pair in enumerate(zip(got, wanted)) if pair[0] != pair[1]), min(len(got), len(wanted)))
    check(got == wanted, f"{what}: {len(got)} bytes, wanted {len(wanted)}; the first {first} are right")


LENGTH, CHUNKED = b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n"
RESPONSES = (
    # Framing of the server's response, what it sends of the body, what the client gets, and how that ends for it.
    ("whole, by its length", LENGTH % len(SENT), SENT, SENT, "fin"),
    ("whole, in chunks", CHUNKED, b"%x\r\n%s\r\n0\r\n\r\n" % (len(SENT), SENT), None, "fin"),
    ("cut off, by its length", LENGTH % (len(SENT) + 1), SENT, SENT, "reset"),
    ("cut off, in a chunk", CHUNKED, b"%x\r\n%s" % (len(SENT) + 1, SENT), None, "reset"),
    ("cut off, in the size of a chunk", CHUNKED, b"%x\r\n%s\r\n1" % (len(SENT), SENT), None, "reset"),
    ("cut off, before its last line", CHUNKED, b"%x\r\n%s\r\n0\r\n" % (len(SENT), SENT), None, "reset"),
    ("cut off, to the end of the connection", b"", SENT, SENT, "reset"),
)


@case("what a server sent before it reset the connection reaches a slow client: no byte is lost, and no end made up", limit=120)
def response_before_reset():
    for what, fields, body, wanted, end in RESPONSES:
        resetting = Resetting()

        def serve(peer, _number, resetting=resetting, fields=fields, body=body):
            peer.read_head()
            resetting.send(peer, b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + body)

        with wire.RawServer(serve) as server, squall.Listener(server, connections=1) as web:
            with web.connect(rcvbuf=4096, timeout=60) as client:
                client.send(wire.request(fields=["Connection: close"]))
                resetting.wait()
                head = client.read_head()
                equal(head.status, 200, f"status: {what}")
                got, ended = read_slowly(client)
                if wanted is None:
                    check(SENT in got, f"{what}: {len(got)} bytes without what was in the chunk")
                    check(got.endswith(b"0\r\n\r\n") == (end == "fin"), f"{what}: the end is {got[-20:]!r}")
                else:
                    same(got, wanted, what)
                equal(ended, end, f"how it ended: {what}")
            until(lambda: web.stats()["connections"] == 0, 10, "the connection is gone")


@case("a server that answers an upload early and closes with bytes unread: its whole answer reaches a slow client", limit=120)
def early_answer():
    upload = 8 << 20

    def serve(peer, _number):
        peer.read_head()
        peer.send(wire.response(SENT, status="413 Content Too Large"))
        until(lambda: unacknowledged(peer) == 0, 20, "everything is acknowledged")
        # With bytes unread close() is a reset.
        peer.close()

    def send_all(client):
        with contextlib.suppress(OSError):
            client.send(bytes(upload))

    with wire.RawServer(serve) as server, squall.Listener(server) as web:
        for first in (False, True):
            with web.connect(rcvbuf=4096, timeout=60) as client:
                client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % upload)
                sender = threading.Thread(target=send_all, args=(client,))
                sender.start()
                if first:
                    # Who sends everything before it reads anything comes to the answer too.
                    sender.join(ktap.seconds(20))
                    check(not sender.is_alive(), "the upload is stuck")
                squall.settle(0.3)
                head, body = client.read_head(), b""
                while len(body) < len(SENT):
                    body += client.read(min(16384, len(SENT) - len(body)))
                    time.sleep(0.005)
                equal(head.status, 413, "status")
                same(body, SENT, "the answer")
                sender.join(ktap.seconds(20))
        until(lambda: web.stats()["connections"] == 0, 20, "the connections are gone")


@case("what an end of a tunnel sent before it reset the connection reaches the other one, and then the reset does", limit=60)
def tunnel_before_reset():
    sent = ws.LONG + SENT
    for from_server in (True, False):
        resetting, ends, result = Resetting(), threading.Event(), []

        def serve(peer, _number, from_server=from_server, resetting=resetting, ends=ends, result=result):
            if from_server:
                resetting.send(peer, sent)
            else:
                resetting.wait()
                result.append(read_slowly(peer))
            ends.set()

        with ws.tunnel_server(serve, rcvbuf=4096) as server, squall.Listener(server) as web:
            with ws.open_tunnel(web, rcvbuf=4096, timeout=60) as client:
                if from_server:
                    resetting.wait()
                    result.append(read_slowly(client))
                else:
                    resetting.send(client, sent)
                check(ends.wait(ktap.seconds(30)), "the server's end is done")
            what = "the client got of the server" if from_server else "the server got of the client"
            got, ended = result[0]
            same(got, sent, what)
            equal(ended, "reset", f"how it ended: {what}")
            until(lambda: web.stats()["tunnels_open"] + web.stats()["connections"] == 0, 10, "the tunnel is gone")


@case("both ends of a tunnel that reset while the other one's bytes wait leave nothing behind", limit=60)
def both_reset():
    sent, far = ws.LONG + bytes(1 << 20), []

    def serve(peer, _number):
        far.append(peer)
        with contextlib.suppress(OSError):
            peer.send(sent)

    def send(client):
        with contextlib.suppress(OSError):
            client.send(sent)

    with ws.tunnel_server(serve, rcvbuf=4096) as server, squall.Listener(server) as web:
        for number in range(10):
            client = ws.open_tunnel(web, rcvbuf=4096)
            threading.Thread(target=send, args=(client,), daemon=True).start()
            until(lambda: len(far) > number, 10, "the tunnel is open")  # noqa: B023
            squall.settle(0.2)
            for end in (client, far[-1]) if number % 2 else (far[-1], client):
                end.reset()
        until(lambda: web.stats()["tunnels_open"] + web.stats()["connections"] == 0, 10, "all are gone")
        until(lambda: squall.module_stats()["queued_bytes"] == 0, 10, "nothing is queued")


@case("a client that takes nothing of what came before a reset is given up after send_timeout_ms")
def stopped_reader():
    for begin in (b"HTTP/1.1 200 OK\r\n\r\n", None):
        resetting = Resetting()

        def serve(peer, _number, resetting=resetting, begin=begin):
            head = peer.read_head()
            resetting.send(peer, (begin or ws.switching(head) + ws.LONG) + SENT)

        limits = squall.sysctl(send_timeout_ms=ktap.PACE * 500, linger_timeout_ms=ktap.PACE * 100, ws_send_timeout_ms=ktap.PACE * 500)
        with wire.RawServer(serve) as server, squall.Listener(server) as web, limits, web.connect(rcvbuf=4096) as client:
            client.send(wire.request() if begin else ws.offer())
            resetting.wait()
            until(lambda: web.stats()["connections"] + web.stats()["tunnels_open"] == 0, 20, "the client is given up")
            got, ended = read_slowly(client)
            check(len(got) < len(SENT), "the client took everything")
            equal(ended, "reset", "how it ended")


def fin_wait(web):
    """How many sockets of the listener wait for the peer's FIN: (those that are no more than timewait sockets, others)."""
    text = subprocess.run(["ss", "-tanHieo", "state", "fin-wait-2", f"sport = :{web.port}"], capture_output=True, text=True, check=True).stdout
    # Only of a whole socket there is something to tell besides its timer.
    lines = [line for line in text.splitlines() if not line.startswith(("\t", " ")) and line.strip()]
    whole = text.count("cwnd:")
    return len(lines) - whole, whole


@contextlib.contextmanager
def no_reset(web):
    """Checks that the listener resets nobody meanwhile."""
    before = squall.module_stats()["resets"]
    with sniff.Sniffer() as sniffer:
        yield
        time.sleep(0.2)
        resets = [segment for segment in sniffer.segments if segment[1] == web.port and segment[3] & sniff.RST]
    equal((resets, squall.module_stats()["resets"] - before), ([], 0), "resets of the listener's")


@contextlib.contextmanager
def fin_timeout(seconds):
    """How long TCP keeps what waits for the peer's FIN."""
    path = "/proc/sys/net/ipv4/tcp_fin_timeout"
    old = squall.read(path)
    squall.write(path, seconds)
    try:
        yield
    finally:
        squall.write(path, old)


def answered(web, body=b"tail"):
    """A client that has its whole response, whose last bytes it has not read, and the listener's FIN."""
    client = web.connect()
    client.send(wire.request(fields=["Connection: close"]))
    equal(client.read_head().status, 200, "status")
    until(lambda: sum(fin_wait(web)) > 0, 5, "our FIN is acknowledged")
    return client, body


TAIL = wire.plain_handler(lambda _head, _body: wire.response(b"tail"))


@case("a client that has acknowledged everything and is slow to close is left to TCP, and never reset", limit=60)
def slow_to_close():
    linger = ktap.PACE * 300
    with wire.RawServer(TAIL) as server, squall.Listener(server) as web, squall.sysctl(linger_timeout_ms=linger):
        # It closes in the end, while TCP waits for that, or too late.
        for late in (False, True):
            with no_reset(web), fin_timeout(2 if late else 60):
                before = squall.module_stats()["linger_timeouts"]
                client, body = answered(web)
                until(lambda: squall.module_stats()["linger_timeouts"] == before + 1, 10, "the client is left to TCP")  # noqa: B023
                until(lambda: fin_wait(web) == (1, 0), 5, lambda: f"a timewait socket is what is left: {fin_wait(web)}")
                until(lambda: web.stats()["connections"] == 0, 5, "the connection is not the module's any more")
                if late:
                    until(lambda: fin_wait(web) == (0, 0), 10, "TCP gives up")
                equal(client.read(len(body)), body, "the last bytes")
                check(client.ended(), "a FIN behind them")
                if not late:
                    client.close()
                    until(lambda: fin_wait(web) == (0, 0), 5, "the client's FIN is taken")
            client.close()


@case("a client that still sends behind our FIN may do so for a while, and is not reset for it", limit=60)
def still_sends():
    linger = ktap.PACE * 1000
    with wire.RawServer(TAIL) as server, squall.Listener(server) as web, squall.sysctl(linger_timeout_ms=linger):
        client, body = answered(web)
        begun = time.monotonic()
        with no_reset(web):
            while time.monotonic() - begun < 4 * linger / 1000:
                client.send(b"x" * 1000)
                time.sleep(linger / 20_000)
            equal(fin_wait(web), (0, 1), "what waits for the client: a socket that throws away what comes")
        equal(client.read(len(body)), body, "the last bytes")
        # Not for ever: then TCP answers by a reset, as after close().
        ended = False
        while not ended:
            check(time.monotonic() - begun < ktap.seconds(20), "still no end of it")
            try:
                client.send(b"x" * 1000)
                time.sleep(linger / 20_000)
            except OSError:
                ended = True
        took = (time.monotonic() - begun) * 1000 / linger
        check(5 < took < 12, f"an end after {took:.1f} times linger_timeout_ms")
        client.close()


@case("what a client does not acknowledge in time is reset, also behind the end of its session", limit=60)
def not_acknowledged():
    respond = lambda _head, _body: wire.response(SENT[:200_000])
    limits = squall.sysctl(linger_timeout_ms=ktap.PACE * 100, send_timeout_ms=ktap.PACE * 500)
    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web, limits:
        before = squall.module_stats()["send_timeouts"]
        with web.connect(rcvbuf=4096) as client:
            client.send(wire.request(fields=["Connection: close"]))
            until(lambda: squall.module_stats()["send_timeouts"] == before + 1, 10, "the client is given up")
            got, ended = read_slowly(client)
            check(len(got) < 200_000, "the client took everything")
            equal(ended, "reset", "how it ended")


@case("the module is unloaded while clients are slow to close, and none of them is reset", limit=60)
def unloaded():
    try:
        with wire.RawServer(TAIL) as server:
            with squall.Listener(server) as web:
                squall.write(f"{squall.SYSCTL}/linger_timeout_ms", 60_000)
                clients = [answered(web) for _ in range(20)]
                until(lambda: fin_wait(web) == (0, 20), 5, lambda: f"all wait: {fin_wait(web)}")
            with sniff.Sniffer() as sniffer:
                begun = time.monotonic()
                squall.unload()
                check(time.monotonic() - begun < ktap.seconds(5), "unloading took too long")
                time.sleep(0.2)
                check(not [s for s in sniffer.segments if s[1] == web.port and s[3] & sniff.RST], "a client was reset")
            equal(fin_wait(web), (20, 0), "what is left")
            for client, body in clients:
                equal(client.read(len(body)), body, "the last bytes")
                check(client.ended(), "a FIN behind them")
                client.close()
            until(lambda: fin_wait(web) == (0, 0), 5, "the clients' FINs are taken")
    finally:
        squall.load()


session.main()
