#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Every fault at every point of an upgrade: both ends see what the protocol says, and every count is back at its base.

All connections are held by one thread, each with a listener and a server of its own. A point is reached by all of them, then
they fail together.
"""

import collections
import contextlib
import fnmatch
import os
import select
import socket
import struct
import subprocess
import threading
import time

from lib import baseline, faults, ktap, netns, session, squall, wire, ws
from lib.ktap import case, check, equal, until

OFFER = ws.offer()
SWITCH = ws.switching(wire.Head(OFFER[:-2]))
EARLY, DATA = ws.frame(bytes(3000), masked=True), ws.frame(b"from the server")
ONCE = b"never sent twice"
BYE = struct.pack(">H", 1000)
CLOSE = ws.frame(BYE, opcode=8)
# A frame that does not end, as far as anybody waits.
LONG_MASKED = b"\x82\xff" + struct.pack(">Q", 1 << 30) + bytes(4)
LONG_BARE = b"\x82\x7f" + struct.pack(">Q", 1 << 30)

# No connection may need longer to come to its end, seconds.
BOUND = 10


def ms(value):
    """A time that the debug kernel has more of."""
    return value * ktap.PACE


def story(end):
    """What comes up to the end of a connection, in words: statuses, frames, and "fin", "reset" or "open"."""
    data, how = [end.buffer], "fin"
    end.buffer = b""
    end.sock.settimeout(ktap.seconds(BOUND))
    try:
        while chunk := end.sock.recv(1 << 20):
            data.append(chunk)
    except ConnectionResetError:
        how = "reset"
    except socket.timeout:
        how = "open"
    return " ".join([*words(b"".join(data)), how])


def words(data):
    """Responses by their status, frames as "data", "part" or the status code of a Close."""
    found = []
    while data.startswith(b"HTTP/1.1 "):
        raw, mark, data = data.partition(b"\r\n\r\n")
        if not mark:
            return [*found, "head"]
        head = wire.Head(raw)
        found.append(str(head.status))
        data = data[int(head.get("Content-Length", 0)) :]
    while data:
        small = data[1] & 127 if len(data) > 1 else 0
        start = 2 + {126: 2, 127: 8}.get(small, 0) + (4 if data[1:2] >= b"\x80" else 0)
        size = int.from_bytes(data[2 : 2 + {126: 2, 127: 8}[small]], "big") if small > 125 else small
        if len(data) < start + size:
            return [*found, "part"]
        close = data[0] & 15 == 8
        key = data[start - 4 : start] if data[1] & 128 else bytes(4)
        code = int.from_bytes(bytes(a ^ b for a, b in zip(data[start : start + 2], key)), "big")
        found.append(str(code) if close else "data")
        data = data[start + size :]
    return found


class Pair:
    """A listener with a server, a client, and a fault that awaits them at a point."""

    def __init__(self, point, fault, gone=None):
        self.point, self.fault = point, fault
        self.near = gone if fault == "client vanishes" else None
        far = gone if fault == "server vanishes" else None
        self.client = self.server = self.blocker = None
        self.ends = []
        self.door = far.socket() if far else socket.socket()
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.door.settimeout(ktap.seconds(BOUND))
        address = (far.address if far else "127.0.0.1", wire.free_port())
        self.door.bind(address)
        self.door.listen(16)
        host = self.near.gateway if self.near else "127.0.0.1"
        self.web = squall.Listener(f"{address[0]}:{address[1]}", connections=1, host=host, wait=False)

    def __enter__(self):
        self.web.__enter__()
        squall.write(f"{self.web.server_directory()}/connections_max", 1)
        return self

    def __exit__(self, *_):
        self.web.__exit__()
        for end in self.ends:
            end.close()
        self.door.close()

    def __str__(self):
        return f"{self.point}, {self.fault}"

    def connect(self):
        """A client."""
        self.ends.append(self.web.connect(namespace=self.near, rcvbuf=16384))
        return self.ends[-1]

    def accept(self):
        """The server's end of the next connection."""
        self.ends.append(wire.Wire(self.door.accept()[0], BOUND))
        return self.ends[-1]

    def asked(self):
        """The server's end that has got a request."""
        limit = time.monotonic() + ktap.seconds(BOUND)
        while time.monotonic() < limit:
            ours = [end for end in self.ends if end.sock.fileno() >= 0 and end.sock.getsockname() == self.door.getsockname()]
            ready = select.select([self.door, *[end.sock for end in ours]], [], [], 1)[0]
            for end in ours:
                with contextlib.suppress(ConnectionResetError):
                    # What has ended stays readable.
                    if end.sock in ready and end.sock.recv(1, socket.MSG_PEEK):
                        end.read_head()
                        return end
            if self.door in ready:
                self.accept()
        raise AssertionError(f"{self}: the server was not asked")

    def leave(self):
        """Closes what is open; the server's idle connection was not accepted yet."""
        for end in self.ends:
            end.close()
        self.ends.clear()

    def upgrade(self):
        """An upgrade that succeeds, with a message each way."""
        client = self.connect_from_here()
        client.send(OFFER)
        server = self.asked()
        server.send(SWITCH + DATA)
        equal(client.read_head().status, 101, f"{self}: status of the next upgrade")
        equal(client.read(len(DATA)), DATA, f"{self}: what comes to its client")
        client.send(EARLY)
        check(server.read(len(EARLY)) == EARLY, f"{self}: what comes to the server")
        client.close()
        equal(story(server), "fin", f"{self}: the end of the next upgrade")
        server.close()

    def connect_from_here(self):
        """A client that does not vanish."""
        self.ends.append(self.web.connect())
        return self.ends[-1]


def fill(end, start):
    """Sends the beginning of a frame, and of its payload as much as finds room."""
    end.send(start)
    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    end.sock.settimeout(ms(30) / 1000)
    with contextlib.suppress(socket.timeout):
        while True:
            end.send(bytes(65536))


def opened(pair):
    pair.client = pair.connect()
    until(lambda: pair.web.stats()["connections"] > 0, BOUND, "accepted")


def half_head(pair):
    opened(pair)
    pair.client.send(OFFER[:60])


def queued(pair):
    pair.blocker = pair.connect_from_here()
    pair.blocker.send(wire.request("/", "POST", body=ONCE))
    pair.server = pair.asked()
    pair.server.read(len(ONCE))
    opened(pair)
    pair.client.send(OFFER)
    until(lambda: pair.web.server_stats()["waiting"] == 1, BOUND, "the offer waits")


def silent(pair):
    opened(pair)
    pair.client.send(OFFER)
    pair.server = pair.asked()


def half_101(pair):
    silent(pair)
    pair.server.send(SWITCH[:40])


def early(pair):
    opened(pair)
    pair.client.send(OFFER + EARLY)
    pair.server = pair.asked()
    # Whatever comes now comes together with this.
    if pair.fault not in ("client vanishes", "no memory"):
        pair.server.send(SWITCH + DATA)


def idle(pair):
    silent(pair)
    pair.server.send(SWITCH)
    equal(pair.client.read_head().status, 101, f"{pair}: status")


def server_stopped(pair):
    idle(pair)
    fill(pair.client, LONG_MASKED)


def client_stopped(pair):
    idle(pair)
    fill(pair.server, LONG_BARE)


def closing(pair):
    idle(pair)
    pair.client.send(ws.frame(BYE, opcode=8, masked=True))
    pair.server.read(8)


POINTS = (opened, half_head, queued, silent, half_101, early, idle, server_stopped, client_stopped, closing)


def finish(end, data=None):
    """Sends what is left, and a FIN, unless the end was told before that nobody wants it."""
    with contextlib.suppress(OSError):
        if data:
            end.send(data)
        end.finish_sending()


def server_goes_on(pair):
    """What the server does next."""
    server = pair.server
    if pair.point == "queued":
        server.send(wire.response())
        equal(pair.blocker.read_response()[0].status, 200, f"{pair}: status of the request before")
        # Nobody waits any more whose client was reset.
        server = pair.server = pair.asked() if pair.fault != "client RST" else None
    if server and pair.fault != "client RST":
        finish(server, {"queued": SWITCH, "silent": SWITCH, "half_101": SWITCH[40:], "closing": CLOSE}.get(pair.point))


def client_goes_on(pair):
    """What the client does next; and the server, where it was not asked before."""
    if pair.point in ("opened", "half_head"):
        # A server that closes what it has just accepted counts as down for a moment.
        pair.web.wait_ready()
        pair.client.send(OFFER[60 if pair.point == "half_head" else 0 :])
    if pair.point in ("opened", "half_head", "queued"):
        pair.server = pair.asked()
        finish(pair.server, SWITCH)
    finish(pair.client)


FAULTS = {
    "client FIN": wire.Wire.finish_sending, "client RST": wire.Wire.reset, "client closes": wire.Wire.close,
    "server FIN": wire.Wire.finish_sending, "server RST": wire.Wire.reset,
}  # fmt: skip
# What the other end sees, and behind a "/" the end that sent a FIN and reads on. Until its tunnel is open a client may have
# sent a FIN and wait; one that has closed is known by its reset of what it is sent. A reset may overtake what was sent.
SEEN = {
    "opened": ("- / fin", "-", "-", "101 fin / fin", "101 fin"),
    "half_head": ("- / fin", "-", "-", "101 fin / fin", "101 fin"),
    "queued": ("fin / 101 fin", "-", "fin|reset", "101 fin / fin", "101 fin"),
    "silent": ("fin / 101 fin", "reset", "fin|reset", "502 fin / reset", "502 fin"),
    "half_101": ("fin / 101 fin", "reset", "fin|reset", "502 fin / reset", "502 fin"),
    "early": ("data fin / 101 data fin", "*reset", "*reset", "101 data fin / data fin", "*reset"),
    "idle": ("fin / fin", "reset", "fin", "fin / fin", "reset"),
    "server_stopped": ("part fin / fin", "*reset", "part fin", "fin / part fin", "reset"),
    "client_stopped": ("fin / part fin", "reset", "reset", "part fin / fin", "*reset"),
    "closing": ("fin / 1000 fin", "reset", "fin|reset", "fin / fin", "reset"),
}


def compare(pair, saw, wanted):
    """Fails unless what was seen is what was wanted: a pattern, or several with "|" in between."""
    check(any(fnmatch.fnmatchcase(saw, one) for one in wanted.split("|")), f"{pair}: saw {saw!r}, wanted {wanted!r}")


@contextlib.contextmanager
def stage(names, gone=None, **sysctls):
    """A pair for each point and each of these faults, all where they fail."""
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        # So that clients have seats that could be lost.
        sysctls |= {"client_connections_max": 1000, "client_tunnels_max": 1000, "tunnels_max": 1000, "backoff_max_ms": 200}
        stack.enter_context(squall.sysctl(**sysctls))
        pairs = [stack.enter_context(Pair(point.__name__, fault, gone)) for point in POINTS for fault in names]
        for pair in pairs:
            pair.web.wait_ready()
        # The first points last: theirs are the timeouts that would be missed, were they over before the fault.
        for pair in reversed(pairs):
            globals()[pair.point](pair)
        ktap.note(f"all are at their points after {time.monotonic() - begun:.1f} s")
        yield pairs


def balanced(pairs):
    """Every count is back at its base."""
    for pair in pairs:
        until(lambda: not pair.web.unrest(), BOUND, lambda: f"{pair} is at rest: {pair.web.unrest()}")  # noqa: B023
    keys = lambda stats: (stats["tunnels"] - stats["tunnels_closed"], stats["queued_bytes"], stats["clients"])
    until(lambda: keys(squall.module_stats()) == (0, 0, 0), BOUND, lambda: f"no tunnels, bytes, clients: {squall.module_stats()}")


def good_again(pairs):
    """All is as it was before, and upgrades work."""
    for pair in pairs:
        pair.leave()
    balanced(pairs)
    for pair in pairs:
        pair.upgrade()
    balanced(pairs)


@case("an end that sends FIN or RST, or closes, at any point of an upgrade", limit=40)
def ended():
    # Nothing here is ended by a timeout, however long it takes to bring all to their points.
    patient = dict.fromkeys(("first_byte_timeout_ms", "head_timeout_ms", "queue_timeout_ms", "ws_handshake_timeout_ms"), 120_000)
    with stage(FAULTS, **patient) as pairs:
        for pair in pairs:
            end = pair.client if pair.fault.startswith("client") else pair.server or pair.accept()
            FAULTS[pair.fault](end)
        for pair in pairs:
            if pair.fault.startswith("client"):
                if pair.server:
                    server_goes_on(pair)
                other, faulty = pair.server, pair.client
            else:
                client_goes_on(pair)
                other, faulty = pair.client, pair.server
            saw = story(other) if other else "-"
            if "FIN" in pair.fault:
                saw += " / " + story(faulty)
            compare(pair, saw, SEEN[pair.point][list(FAULTS).index(pair.fault)])
        good_again(pairs)


# Longer than it takes to bring all to their points, on most machines.
SOON = ktap.scaled(1500, 6000)


def timeouts(soon):
    """Settings by which all that wait are over in so many milliseconds, and what follows sooner."""
    waits = ("first_byte", "head", "keepalive", "queue", "ws_handshake", "ws_send")
    # TCP counts the time to send from the first retransmission, which on a slow machine is seconds behind: idle is later than that.
    short = {"send": ms(500), "linger": ms(200), "ws_close": ms(500), "connect": ms(500), "ws_idle": soon + 3000}
    return {f"{name}_timeout_ms": value for name, value in {**dict.fromkeys(waits, soon), **short}.items()}


# When the client, or the server, vanishes: what the other one sees, and which timeout ends it.
VANISHED = {
    "opened": ("-", "first_byte_timeouts", "504 fin", "ws_handshake_timeouts"),
    "half_head": ("-", "request_timeouts", "504 fin", "ws_handshake_timeouts"),
    "queued": ("-", "response_timeouts", "504 fin", "response_timeouts"),
    "silent": ("reset", "ws_handshake_timeouts", "504 fin", "ws_handshake_timeouts"),
    # The rest of the 101 comes, and then bytes, for a client that is gone.
    "half_101": ("reset", "ws_send_timeouts", "504 fin", "ws_handshake_timeouts"),
    "early": ("*reset", "ws_send_timeouts", "101 data 1001 fin", "ws_idle_timeouts"),
    "idle": ("1001 fin", "ws_idle_timeouts", "1001 fin", "ws_idle_timeouts"),
    "server_stopped": ("*reset", "ws_send_timeouts", "reset", "ws_send_timeouts"),
    "client_stopped": ("reset", "ws_send_timeouts", "*reset", "ws_send_timeouts"),
    "closing": ("fin", "ws_idle_timeouts", "1001 fin", "ws_idle_timeouts"),
}


def vanish(gone, soon):
    """The case below with these timeouts; False if they were over, or nearly, before all were at their points."""
    begun = time.monotonic()
    with stage(("client vanishes", "server vanishes"), gone, **timeouts(soon)) as pairs:
        if time.monotonic() - begun > 0.75 * soon / 1000:
            return False
        before = squall.module_stats()
        gone.run("ip link set gone down")
        for pair in pairs:
            if pair.fault == "server vanishes":
                if pair.point in ("opened", "half_head"):
                    finish(pair.client, OFFER[60 if pair.point == "half_head" else 0 :])
            elif pair.point in ("half_101", "early"):
                pair.server.send(SWITCH[40:] if pair.point == "half_101" else SWITCH + DATA)
        for pair in pairs:
            seen, _, seen_of_server, _ = VANISHED[pair.point]
            if pair.fault == "server vanishes":
                compare(pair, story(pair.client), seen_of_server)
            elif seen != "-":
                compare(pair, story(pair.server), seen)
            for end in (pair.client, pair.server):
                if end and not pair.blocker:
                    end.close()
            # What is left is the client with the request before.
            count = 1 if pair.blocker else 0
            until(lambda: pair.web.stats()["connections"] == count, BOUND, lambda: f"{pair}: {pair.web.stats()}")  # noqa: B023
        after = squall.module_stats()
        wanted = collections.Counter(name for row in VANISHED.values() for name in row[1::2])
        equal({name: after[name] - before[name] for name in wanted}, dict(wanted), "what ended them")
        gone.run("ip link set gone up")
        good_again(pairs)
    return True


@case("an end that vanishes at any point of an upgrade, without a word: the timeout that is due ends it", limit=60)
def vanished():
    with netns.Namespace("gone", 1) as gone:
        # So that the neighbour is known to be gone before the timeouts are over, and TCP hears of it, as it often does.
        squall.write("/proc/sys/net/ipv4/neigh/gone/retrans_time_ms", 100)
        check(any(vanish(gone, SOON * factor) for factor in (1, 4)), "not all could be brought to their points")


def steps(pair):
    """What both ends would do next."""
    if pair.point in ("opened", "half_head"):
        pair.client.send(OFFER[60 if pair.point == "half_head" else 0 :])
    elif pair.point == "server_stopped":
        pair.server.buffer = pair.server.read(20_000)
    elif pair.point == "client_stopped":
        pair.client.buffer = pair.client.read(20_000)
    elif pair.point == "closing":
        pair.server.send(CLOSE)
        pair.server.finish_sending()
    elif pair.point == "idle":
        pair.server.send(DATA)
        pair.client.send(EARLY)
    else:
        step = {"queued": wire.response(), "silent": SWITCH, "half_101": SWITCH[40:], "early": SWITCH + DATA}
        pair.server.send(step[pair.point])


@case("no allocation succeeds during the next step from any point: each comes to its end, or goes on", limit=60, log=faults.LOG)
def memory():
    if not faults.possible():
        raise ktap.Skip("this kernel cannot fail allocations")
    quick = dict.fromkeys(("ws_handshake_timeout_ms", "linger_timeout_ms", "ws_half_closed_timeout_ms"), SOON)
    with stage(("no memory",), **quick) as pairs:
        before = squall.module_stats()["no_memory"]
        for pair in pairs:
            for end in pair.ends:
                end.probe()
        with faults.failing(100):
            for pair in pairs:
                with contextlib.suppress(OSError, wire.Closed):
                    steps(pair)
            time.sleep(ms(200) / 1000)
        check(squall.module_stats()["no_memory"] > before, "nothing failed")
        saw = collections.defaultdict(list)
        for pair in pairs:
            for end in (pair.client, pair.server):
                if end:
                    finish(end)
        for pair in pairs:
            saw[pair.point].append(story(pair.client))
            check(fnmatch.fnmatchcase(saw[pair.point][-1], "*fin") or saw[pair.point][-1].endswith("reset"), f"{pair}: {saw}")
        ktap.note(dict(saw))
        good_again(pairs)


# What the client and the server see when the listener and the module are removed: nothing if it had got everything.
UNLOADED = {
    "opened": ("fin", None), "half_head": ("reset", None), "queued": ("502 fin", "reset"), "silent": ("reset", "reset"),
    "half_101": ("reset", "reset"), "early": ("101 data 1001 fin", "data 1001 fin"), "idle": ("1001 fin", "1001 fin"),
    # Between frames it is told, in the middle of one it is reset.
    "server_stopped": ("1001 fin|*reset", "*reset"), "client_stopped": ("*reset", "1001 fin|*reset"), "closing": ("1001 fin", "fin"),
}  # fmt: skip


def unload():
    """Removes the listeners and the module, whatever is open."""
    for name in ("drain_ms", "ws_close_timeout_ms", "linger_timeout_ms"):
        squall.write(f"{squall.SYSCTL}/{name}", 0 if name == "drain_ms" else ms(300))
    for name in os.listdir(squall.ROOT):
        if os.path.isdir(f"{squall.ROOT}/{name}"):
            squall.remove_tree(f"{squall.ROOT}/{name}")
    subprocess.run(["rmmod", "squall"], check=True)


@case("the module is unloaded with a connection at every point of an upgrade, and loaded again", limit=60)
def unloaded():
    base = baseline.Baseline()
    with contextlib.ExitStack() as stack:
        # What is put back at the end needs the module.
        stack.callback(squall.load)
        pairs = stack.enter_context(stage(("rmmod",)))
        unload()
        try:
            for pair in pairs:
                for end, wanted in zip((pair.client, pair.server), UNLOADED[pair.point]):
                    if wanted:
                        compare(pair, story(end), wanted)
                pair.leave()
            for pair in pairs:
                pair.door.close()
            base.check()
        finally:
            squall.load()
    with Pair("opened", "after insmod") as pair:
        pair.web.wait_ready()
        pair.upgrade()
        balanced([pair])


def both(peer, _number):
    """A server of requests and of tunnels."""
    while True:
        head = peer.read_head()
        if head.get("Upgrade"):
            peer.send(ws.switching(head))
            # Answers each message, until the end.
            while True:
                peer.send(ws.frame(peer.read(len(EARLY))[8:11]))
        peer.send(wire.response(b"fine"))


class Load:
    """Clients that ask and upgrade again and again; `counts` has what came of it, by kind."""

    def __init__(self, web):
        self.web, self.counts, self.stop, self.trouble = web, collections.Counter(), threading.Event(), []
        self.threads = [threading.Thread(target=self.run, args=(kind,), daemon=True) for kind in ("get", "upgrade") * 2]
        for thread in self.threads:
            thread.start()

    def run(self, kind):
        """Exchanges of one kind."""
        while not self.stop.is_set():
            try:
                with self.web.connect() as client:
                    client.send(wire.request() if kind == "get" else OFFER)
                    status = client.read_head().status
                    if status == 101:
                        for _ in range(3):
                            client.send(EARLY)
                            client.read(5)
                    self.counts[kind, status] += 1
                time.sleep(0.005)
            except socket.timeout:
                self.trouble.append(f"{kind}: a client waited")
            except (OSError, wire.Closed) as error:
                # A tunnel ends with its server.
                self.counts[kind, type(error).__name__] += 1
                time.sleep(0.005)

    def finish(self):
        """Waits for what is under way."""
        self.stop.set()
        for thread in self.threads:
            thread.join(ktap.seconds(BOUND))
            check(not thread.is_alive(), "a client hangs")
        check(not self.trouble, lambda: self.trouble[0])
        ktap.note(dict(self.counts))


def flap(server, rounds):
    """A server that is down 200 ms and up 200 ms in turn; it is up at the end."""
    for _ in range(rounds):
        server.stop()
        time.sleep(ms(200) / 1000)
        server.start()
        time.sleep(ms(200) / 1000)


@case("a server that flaps beside another, and all servers down and up, under requests and upgrades: nothing is lost", limit=60)
def flapping():
    one, other = wire.RawServer(both), wire.RawServer(both)
    settings = squall.sysctl(backoff_max_ms=ms(100), client_tunnels_max=1000)
    with one, other, settings, squall.Listener(one, other) as web:
        load = Load(web)
        flap(one, ktap.scaled(8, 4))
        # Who asks is served by the other, and an offer is lost only with the connection that it was sent on.
        wrong = {key: count for key, count in load.counts.items() if key not in ALLOWED and key[1] != 101}
        check(not wrong, f"while one server flaps: {load.counts}")
        one.stop()
        other.stop()
        until(lambda: load.counts["get", 502] > 4 and load.counts["upgrade", 502] > 4, BOUND, "502 while all are down")
        one.start()
        begun = time.monotonic()
        # The last backoff, a quarter more, and what it takes to connect.
        until(lambda: web.route_stats()["servers_up"] == 1, 1, "one of them is up in time", pause=0.005)
        ktap.note(f"up after {1000 * (time.monotonic() - begun):.0f} ms")
        time.sleep(0.1)
        other.start()
        before = load.counts["get", 502]
        until(lambda: web.route_stats()["servers_up"] == 2, 1, "both are up in time", pause=0.005)
        time.sleep(0.2)
        equal(load.counts["get", 502], before, "requests refused when a server was up")
        load.finish()
        until(lambda: not web.unrest(), BOUND, lambda: f"all is at its base: {web.unrest()}")
        equal(squall.module_stats()["queued_bytes"], 0, "queued bytes")


ALLOWED = {("get", 200), ("upgrade", 502), *((kind, name) for kind in ("get", "upgrade") for name in ("Closed", "ConnectionResetError"))}


@case("the module unloads while servers flap, while all are down, and right after one is back", limit=60)
def unloaded_while_flapping():
    for state in ("flapping", "down", "back"):
        base = baseline.Baseline()
        with wire.RawServer(both) as one, wire.RawServer(both) as other:
            with squall.Listener(one, other) as web:
                load = Load(web)
                if state == "flapping":
                    turns = threading.Thread(target=flap, args=(one, 2))
                    turns.start()
                else:
                    one.stop()
                    other.stop()
                time.sleep(ms(250) / 1000)
                if state == "back":
                    one.start()
                load.stop.set()
                squall.unload()
                load.finish()
                if state == "flapping":
                    turns.join()
        base.check()
        squall.load()


session.main()
