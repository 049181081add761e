#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Failed allocations: while the kernel refuses a share of the module's, or all of them, nobody hangs, nothing that is
delivered as complete is wrong, and everything works again afterwards.

Needs a kernel with fault injection. Only allocations below a function of the module fail, TCP's on its behalf included.
"""

import errno
import hashlib
import random
import socket
import subprocess
import threading
import time

from lib import baseline, ktap, session, squall, wire, ws
from lib.faults import LOG, choose_caches, failing, failing_nth, possible
from lib.ktap import case, check, equal, until

CONTENT = random.Random(1).randbytes(1 << 20)
# No client waits longer for an answer or the end of its connection, seconds; and no server for the rest of a tunnel, which
# is shorter so that what hangs is told from what follows from it.
BOUND, SERVER_BOUND = 60, 40
TIMEOUTS = {
    "queue_timeout_ms": 4000, "response_timeout_ms": 10000, "connect_timeout_ms": 4000, "linger_timeout_ms": 4000,
    "send_timeout_ms": 20000, "backoff_max_ms": 500,
}

# A Close frame of the status code 1001.
GOING_AWAY = ws.frame(b"\x03\xe9", opcode=8)


def watchful(peer):
    """A reset for which there was no memory is heard with the next probe: hosts that care send some."""
    peer.probe()
    peer.sock.settimeout(BOUND)


def digest(data):
    """MD5 in hex."""
    return hashlib.md5(data).hexdigest()


class Application:
    """The server behind the module, which knows by itself what a request must look like; every sixth response closes."""

    def __init__(self):
        self.wrong = []
        self.answered = 0
        # Every sixth response ends its connection: unsaid, so that a request may meet the end, which then comes to nothing.
        self.says_close = False
        self.server = wire.RawServer(self.serve, backlog=512)

    def serve(self, peer, _number):
        watchful(peer)
        while True:
            head = peer.read_head()
            if head.get("Upgrade"):
                peer.send(ws.switching(head))
                peer.sock.settimeout(SERVER_BOUND)
                try:
                    self.tunnel(peer)
                except socket.timeout:
                    port = peer.sock.getpeername()[1]
                    self.wrong.append(f"a server waited in a tunnel, port {port}: {sockets(port)}")
                    peer.reset()
                return
            body = peer.read_body(head)
            if digest(body) != head.get("X-Digest", digest(b"")):
                self.wrong.append(f"the server got {len(body)} bytes for {head.start!r}, and wrong ones")
            self.answered += 1
            target = head.start.split(" ")[1]
            if target.startswith("/until-close/"):
                peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT[: int(target.split("/")[2])])
                return
            if target.startswith("/echo"):
                content = body
            else:
                content = CONTENT[: int(target[1:])]
            closes = self.answered % 6 == 0
            fields = ["Connection: close"] if closes and self.says_close else []
            if target.endswith("chunked"):
                parts = [content[at : at + 1500] for at in range(0, len(content), 1500)]
                coded = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
                head = "\r\n".join(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *fields])
                peer.send(head.encode() + b"\r\n\r\n" + coded)
            else:
                peer.send(wire.response(content, fields=fields))
            if closes:
                return

    def tunnel(self, peer):
        """Returns every byte; at the client's FIN, which comes behind all, says what came."""
        total, md5 = 0, hashlib.md5()
        while True:
            data, peer.buffer = peer.buffer or peer.sock.recv(1 << 16), b""
            if not data:
                peer.send(b"%010d %s" % (total, md5.hexdigest().encode()))
                return
            total += len(data)
            md5.update(data)
            peer.send(data)


class Ended(Exception):
    """The exchange came to nothing, in a way that is right when memory is short."""


class Drained(Ended):
    """The tunnel was closed as those of a listener that is removed are."""


def final(client, wanted, method="GET"):
    """Reads the response; what is delivered as a whole must be `wanted`."""
    head, body = client.read_response(method)
    if head.status in (502, 503, 504):
        raise Ended
    equal(head.status, 200, "status")
    equal(body == wanted, True, f"body of {len(wanted)} bytes, of which {len(body)} came")


def gets(client, rng):
    for _ in range(4):
        size = rng.choice((0, 10, 3000, 40_000))
        client.send(wire.request(f"/{size}"))
        final(client, CONTENT[:size])


def pipelined(client, rng):
    sizes = [rng.randrange(5000) for _ in range(4)]
    client.send(b"".join(wire.request(f"/{size}") for size in sizes))
    for size in sizes:
        final(client, CONTENT[:size])


def posts(client, rng):
    for answer in ("", "-chunked"):
        body = rng.randbytes(rng.choice((1, 2000, 60_000)))
        client.send(wire.request("/echo" + answer, "POST", [f"X-Digest: {digest(body)}"], body))
        final(client, body)


def chunked(client, rng):
    body = rng.randbytes(20_000)
    fields = [f"X-Digest: {digest(body)}", "Transfer-Encoding: chunked"]
    client.send(wire.request("/echo-chunked", "POST", fields))
    for at in range(0, len(body), 4000):
        client.send(b"fa0\r\n" + body[at : at + 4000] + b"\r\n")
    client.send(b"0\r\n\r\n")
    final(client, body)


def until_close(client, rng):
    # Nothing but the FIN says that this is all.
    size = rng.randrange(1000, 50_000)
    client.send(wire.request(f"/until-close/{size}"))
    final(client, CONTENT[:size])


def tunnels(client, rng):
    client.send(ws.offer())
    if client.read_head().status != 101:
        raise Ended
    sent, md5 = 0, hashlib.md5()
    for _ in range(8):
        data = ws.frame(rng.randbytes(rng.choice((1, 125, 2000, 20_000))), masked=True)
        client.send(data)
        equal(client.read(len(data)) == data, True, "echo")
        sent += len(data)
        md5.update(data)
    client.finish_sending()
    rest = client.read_rest()
    if rest == GOING_AWAY:
        raise Drained
    equal(rest, b"%010d %s" % (sent, md5.hexdigest().encode()), "what came to the server and back")


def accepts(client, rng):
    if rng.random() < 0.5:
        client.send(b"GET / HTT")
    # Without this it would be most of what the machine does.
    time.sleep(0.005)


KINDS = (gets, pipelined, posts, chunked, until_close, tunnels, tunnels, accepts)


class Traffic:
    """Clients of every kind, one thread each, that begin anew until stopped."""

    def __init__(self, web):
        self.web = web
        self.stop = threading.Event()
        self.removed = False
        self.good, self.ended, self.wrong = {}, {}, []
        self.threads = [
            threading.Thread(target=self.run, args=(kind, seed), daemon=True) for seed, kind in enumerate(KINDS)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, kind, seed):
        rng = random.Random(seed)
        while not self.stop.is_set():
            start = time.monotonic()
            try:
                client = self.web.connect()
            except ConnectionResetError:
                # Accepted and reset before connect() looked.
                self.ended[kind.__name__] = self.ended.get(kind.__name__, 0) + 1
                continue
            except OSError as error:
                if not self.removed:
                    self.wrong.append(f"{kind.__name__}: connect: {error!r}")
                return
            watchful(client)
            try:
                kind(client, rng)
                self.good[kind.__name__] = self.good.get(kind.__name__, 0) + 1
                client.close()
            except socket.timeout:
                ours = client.sock.getsockname()[1]
                self.wrong.append(f"{kind.__name__}: waited {time.monotonic() - start:.0f} s, port {ours}: {sockets(ours)}")
                client.reset()
            except (Ended, wire.Closed, ConnectionError) as end:
                if isinstance(end, Drained) and not self.removed:
                    self.wrong.append(f"{kind.__name__}: drained, and nothing was removed")
                # With a reset: a FIN would say that what was sent is all.
                self.ended[kind.__name__] = self.ended.get(kind.__name__, 0) + 1
                client.reset()
                time.sleep(0.01)
            except Exception as error:  # told to the case's own thread
                self.wrong.append(f"{kind.__name__}: {error!r}")
                client.reset()

    def under_way(self):
        """Waits until each kind came through once, so that there are connections and memory of every sort."""
        names = {kind.__name__ for kind in KINDS}
        until(lambda: names <= set(self.good), 10, lambda: f"each kind comes through: {self.good}; {self.wrong}")

    def finish(self, servers):
        """Waits for the exchanges that are under way."""
        self.stop.set()
        for thread in self.threads:
            thread.join(BOUND + 20)
            check(not thread.is_alive(), f"a client hangs: {self.wrong}")
        ktap.note(f"came through: {self.good}; did not: {self.ended}")
        wrong = servers + self.wrong
        check(not wrong, lambda: "\n".join(wrong[:8]))


def sockets(port):
    """What the kernel knows of the connections of one port."""
    command = ["ss", "-tanoi", f"sport = :{port} or dport = :{port}"]
    return subprocess.run(command, capture_output=True, check=False).stdout.decode(errors="replace")


def under(phases):
    """Traffic while the share of allocations that fail changes: a list of (percent, seconds)."""
    choose_caches()
    application = Application()
    with application.server as server, squall.sysctl(**TIMEOUTS):
        with squall.Listener(server, connections=3) as web:
            clock = ktap.Clock()
            refused = squall.module_stats()["no_memory"]
            traffic = Traffic(web)
            traffic.under_way()
            clock.note("begun")
            for percent, duration in phases:
                with failing(percent):
                    before = squall.module_stats()["no_memory"]
                    time.sleep(duration)
                    count = squall.module_stats()["no_memory"] - before
                    ktap.note(f"{percent} % for {duration} s: no_memory {count}; {traffic.good} {traffic.ended}")
            refused = squall.module_stats()["no_memory"] - refused
            time.sleep(0.5)
            clock.note("all phases")
            traffic.finish(application.wrong)
            clock.note("to the end of what was under way")
            check(refused > 0, "no_memory did not move: nothing failed")
            application.says_close = True
            works_again(web)
            clock.note("each kind works again")
        ended()


def works_again(web):
    """Every kind of exchange, several times, comes through, and the pool is what it was."""
    web.wait_ready()
    for seed, kind in enumerate(KINDS * 2):
        with web.connect(timeout=10) as client:
            kind(client, random.Random(100 + seed))
    until(lambda: web.server_stats()["connected"] == web.connections, 10, "the pool is full again")
    # Idle clients of before would count.
    until(lambda: web.stats()["connections"] == 0, 10, f"no connection is left: {web.stats()}")
    until(lambda: web.stats()["tunnels_open"] == 0, 5, "no tunnel is left")
    until(lambda: web.server_stats()["tunnels_open"] == 0, 5, "no tunnel is left at the server")
    until(lambda: squall.module_stats()["queued_bytes"] == 0, 5, "no bytes are queued")


def ended():
    """The listener is removed: every byte that was queued is gone."""
    until(lambda: squall.module_stats()["queued_bytes"] == 0, 5, "no bytes are queued")


@case("no allocation succeeds for a while, several times", limit=60, log=LOG)
def none():
    under([(100, 1), (0, 1), (100, 2)])


@case("one allocation in ten fails, then every second one", limit=120, log=LOG)
def some():
    under([(10, 4), (50, 2)])


@case("whichever allocation fails, a server's address is replaced altogether or not at all", log="squall.*refused|" + LOG)
def address():
    def named(name):
        return wire.RawServer(wire.plain_handler(lambda _head, _body: wire.response(name)))

    def answers(web):
        with web.connect() as client:
            client.send(wire.request())
            return client.read_response()[1]

    with named(b"old") as old, named(b"new") as new, squall.Listener(old) as web:
        directory = web.server_directory()
        squall.write(f"{directory}/health_path", "/")
        until(lambda: web.server_stats()["checks"] > 0, 10, "a check")
        failed = 0
        # Some that fail do not matter, and how many there are varies.
        for number in range(1, 13):
            try:
                with failing_nth(number):
                    squall.write(f"{directory}/address", new.address)
            except OSError as error:
                equal(error.errno, errno.ENOMEM, "errno")
                failed += 1
            else:
                squall.write(f"{directory}/address", old.address)
            equal(squall.read(f"{directory}/address"), old.address, f"address after allocation {number} failed")
            equal(web.route_stats()["servers"], 1, "servers of the route")
            equal(answers(web), b"old", "who answers")
        ktap.note(f"{failed} allocations mattered")
        check(failed > 3, "nothing failed")
        squall.write(f"{directory}/address", new.address)
        equal(squall.read(f"{directory}/address"), new.address, "address")
        equal(web.route_stats()["servers"], 1, "servers of the route")
        until(lambda: answers(web) == b"new", 5, "the new one answers")
        until(lambda: web.server_stats()["checks"] > 0, 10, "a check of the new one")


@case("a listener is removed while no allocation succeeds", limit=60, log=LOG)
def removed():
    application = Application()
    with application.server as server, squall.sysctl(**TIMEOUTS):
        with squall.Listener(server, connections=3) as web:
            traffic = Traffic(web)
            traffic.under_way()
            with failing(100):
                time.sleep(0.5)
                traffic.removed = True
                web.__exit__()
                traffic.stop.set()
                time.sleep(1)
        traffic.finish(application.wrong)
        ended()


@case("the module unloads while no allocation succeeds", limit=60, log=LOG)
def unloaded():
    base = baseline.Baseline()
    application = Application()
    with application.server as server:
        with squall.Listener(server, connections=3) as web:
            traffic = Traffic(web)
            traffic.under_way()
            with failing(100):
                time.sleep(0.5)
                traffic.removed = True
                traffic.stop.set()
                squall.unload()
                traffic.finish(application.wrong)
    base.check()
    squall.load()


def no_injection():
    raise ktap.Skip("this kernel cannot fail allocations")


if possible():
    session.main()
else:
    ktap.main(no_injection)
