#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Clients and servers of many kinds at once, for as long as one likes, while configuration changes: nothing is lost, nothing is left.

There are two listeners. What uses the steady one is never disturbed: each message and each answer has to come, and its records in the
log have to tell each byte and frame. Behind the rough one servers are killed, and it is disabled, limited and drained: whatever comes
of an exchange there, what arrives is right as far as it goes.
"""

import contextlib
import os
import random
import select
import threading
import time

from lib import baseline, genl, ktap, peers, session, squall, wire, ws
from lib.ktap import case, check, equal, until
from peers.echo import BLOCK, CLOSE

# SQUALL_SOAK_SECONDS=3600 is the hour, for a run by hand.
SECONDS = int(os.environ.get("SQUALL_SOAK_SECONDS", ktap.scaled(40, 20)))
SEED = int(os.environ.get("SQUALL_SEED", 1))
PATIENCE = 60
CONNECTIONS = 8
# What the rough listener may answer: limits, a disabled route, a server that is down or was killed.
EXCUSES = (429, 502, 503, 504)
CLOSES = {b"\x88\x02" + code.to_bytes(2, "big") for code in (1001, 1012)}


class Tally:
    """What the clients of one listener have seen, added up over their threads."""

    def __init__(self):
        self.lock, self.counts = threading.Lock(), {}

    def add(self, **counts):
        """Adds to the counts."""
        with self.lock:
            for name, count in counts.items():
                self.counts[name] = self.counts.get(name, 0) + count

    def __getitem__(self, name):
        return self.counts.get(name, 0)


class Soak:
    """What all threads share."""

    def __init__(self, steady, rough):
        self.steady, self.rough = steady, rough
        self.over, self.trouble = threading.Event(), []
        self.seen, self.rough_seen = Tally(), Tally()
        self.threads = []

    def begin(self, work, *arguments):
        """Has `work(self, chance, …)` called again and again, by a thread of its own, until the time is over."""
        number = len(self.threads)

        def run():
            chance = random.Random(f"{SEED} {number}")
            try:
                while not self.over.is_set():
                    work(self, chance, *arguments)
            except Exception as error:  # told to the case's own thread
                error.add_note(f"in {work.__name__}, after {time.monotonic() - self.start:.1f} s")
                self.trouble.append(error)
                self.over.set()

        self.start = time.monotonic()
        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()


def frames(chance, most):
    """A message: (its bytes, its number of frames), of one frame or several, now and then with a ping between."""
    size = chance.choice((0, 1, 125, 126, 1000, 5000, 65_535, 65_536, 200_000))
    at = chance.randrange(len(BLOCK) - 200_000)
    payload = BLOCK[at : at + min(size, most)]
    if chance.random() < 0.7:
        return ws.frame(payload, masked=True), 1
    cut = chance.randrange(len(payload) + 1)
    first, last = ws.frame(payload[:cut], masked=True, fin=False), ws.frame(payload[cut:], opcode=0, masked=True)
    return first + ws.frame(b"between", opcode=9, masked=True) + last, 3


def through(peer, data, pause=0.0):
    """Sends `data` and reads as much at the same time; with a pause before each piece that is read."""
    left, parts, have = memoryview(data), [], 0
    while have < len(data):
        readable, writable, _ = select.select([peer.sock], [peer.sock] if left else [], [], ktap.seconds(PATIENCE))
        check(readable or writable, lambda: f"nothing for {ktap.seconds(PATIENCE)} s: {have} of {len(data)} bytes are back")
        if writable:
            # It can be written to, and so takes a part without having to wait.
            left = left[peer.sock.send(left[:4096]) :]
        if readable:
            time.sleep(pause)
            parts.append(peer.sock.recv(8192 if pause else 1 << 16))
            check(parts[-1], lambda: f"the tunnel ended after {have} of {len(data)} bytes")
            have += len(parts[-1])
    check(b"".join(parts) == data, f"{len(data)} bytes came back changed")


def talk(soak, peer, chance, most, pause=0.0):
    """One message through a tunnel and back."""
    data, count = frames(chance, most)
    through(peer, data, pause)
    soak.seen.add(messages=1, frames=count, bytes=len(data))


def open_steady(soak, **options):
    """A tunnel through the steady listener."""
    peer = ws.open_tunnel(soak.steady, timeout=PATIENCE, **options)
    soak.seen.add(requests=1, tunnels=1)
    return peer


def end_tunnel(soak, peer, how):
    """Ends a tunnel in which nothing is under way."""
    if how == "close":
        peer.send(CLOSE)
        equal(peer.read_rest(), CLOSE, "the Close frame that comes back")
        soak.seen.add(frames=1, bytes=len(CLOSE))
    elif how == "fin":
        peer.finish_sending()
        equal(peer.read_rest(), b"", "what follows a FIN")
    else:
        peer.reset()
    peer.close()


def short_tunnels(soak, chance):
    """A tunnel with a few messages, ended in one of three ways."""
    peer = open_steady(soak)
    for _ in range(chance.randrange(5)):
        talk(soak, peer, chance, 65_536)
    end_tunnel(soak, peer, chance.choice(("close", "fin", "reset")))


def long_tunnels(soak, chance, count):
    """Tunnels that are open as long as the soak lasts."""
    held = [open_steady(soak) for _ in range(count)]
    while not soak.over.wait(0.01):
        talk(soak, chance.choice(held), chance, 200_000)
    for peer in held:
        talk(soak, peer, chance, 1000)
        end_tunnel(soak, peer, "close")


def slow_readers(soak, chance):
    """A tunnel and an answer that are taken by and by."""
    peer = open_steady(soak, rcvbuf=8192)
    for _ in range(3):
        talk(soak, peer, chance, 200_000, 0.01)
    end_tunnel(soak, peer, "close")
    with soak.steady.connect(timeout=PATIENCE, rcvbuf=8192) as peer:
        peer.send(wire.request("/300000/17"))
        head, got = peer.read_head(), b""
        while len(got) < 300_000:
            time.sleep(0.005)
            got += peer.read(min(20_000, 300_000 - len(got)))
        check(head.status == 200 and got == BLOCK[17:300_017], f"an answer of {head.status} that is taken slowly")
    soak.seen.add(requests=1, answers=1)


def request_of(chance):
    """A request of some kind: (its bytes, status and body of the answer)."""
    size, at = chance.choice((0, 1, 100, 3000, 60_000)), chance.randrange(1000)
    body, kind = BLOCK[at : at + size], chance.random()
    if kind < 0.5:
        return wire.request(f"/{size}/{at}"), 200, body
    if kind < 0.7:
        return wire.request("/", "POST", body=body), 200, body
    if kind < 0.85:
        cut = chance.randrange(size + 1)
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
        return wire.request("/", "POST", ["Transfer-Encoding: chunked"]) + chunks + b"0\r\n\r\n", 200, body
    return ws.offer("/refuse"), 403, b"refused"


def exchanges(soak, chance):
    """Requests on a connection that is kept, two of them at once now and then."""
    with soak.steady.connect(timeout=PATIENCE) as peer:
        for _ in range(chance.randrange(1, 12)):
            asked = [request_of(chance) for _ in range(chance.choice((1, 1, 1, 2)))]
            peer.send(b"".join(request for request, _, _ in asked))
            for request, status, body in asked:
                head, got = peer.read_response()
                equal((head.status, got == body), (status, True), f"answer to {request[:40]!r}")
            soak.seen.add(requests=len(asked), answers=len(asked))
        if chance.random() < 0.3:
            peer.reset()


def rough_exchanges(soak, chance):
    """Requests to servers that are killed, of clients that may leave at any time."""
    with contextlib.suppress(OSError, wire.Closed), soak.rough.connect(timeout=PATIENCE) as peer:
        for _ in range(chance.randrange(1, 8)):
            request, status, body = request_of(chance)
            if chance.random() < 0.1:
                peer.send(request[: chance.randrange(len(request))])
                peer.reset()
                soak.rough_seen.add(left=1)
                return
            peer.send(request)
            head = peer.read_head()
            if head.status != status:
                check(head.status in EXCUSES, f"{head.raw!r} as answer to {request[:40]!r}")
                soak.rough_seen.add(excuses=1)
                peer.read_body(head)
                continue
            length, got = int(head.get("Content-Length")), b""
            equal(length, len(body), f"length of the answer to {request[:40]!r}")
            while len(got) < length:
                data = peer.buffer or peer.sock.recv(1 << 16)
                check(body.startswith(got + data[: length - len(got)]), f"a wrong answer to {request[:40]!r}")
                peer.buffer = data[length - len(got) :]
                got += data[: length - len(got)]
                if not data:
                    soak.rough_seen.add(cut=1)
                    return
            soak.rough_seen.add(answers=1)
        return
    soak.rough_seen.add(broken=1)


def rough_tunnels(soak, chance):
    """A tunnel that may end at any time: by its server, by a drain, by its client."""
    time.sleep(0.02)
    with contextlib.suppress(OSError, wire.Closed), soak.rough.connect(timeout=PATIENCE) as peer:
        peer.send(ws.offer())
        head = peer.read_head()
        if head.status != 101:
            check(head.status in EXCUSES, f"{head.raw!r} as answer to an offer")
            soak.rough_seen.add(excuses=1)
            peer.read_body(head)
            return
        soak.rough_seen.add(tunnels=1)
        sent, got, edges = bytearray(), peer.buffer, {0}
        try:
            for _ in range(chance.randrange(1, 30)):
                data = ws.frame(BLOCK[: chance.choice((0, 1, 200, 5000))], masked=True)
                sent += data
                edges.add(len(sent))
                peer.send(data)
                if chance.random() < 0.05:
                    peer.reset()
                    break
                while len(got) < len(sent) and (more := peer.sock.recv(1 << 16)):
                    got += more
                check_part(sent, got, edges)
                if len(got) < len(sent):
                    break
                time.sleep(0.02)
        finally:
            check_part(sent, got, edges)
        soak.rough_seen.add(messages=len(edges) - 1)


def check_part(sent, got, edges):
    """What came back is what was sent as far as it goes; a Close frame comes between two frames and is the last."""
    if sent.startswith(got):
        return
    check(got[-4:] in CLOSES and sent.startswith(got[:-4]) and len(got) - 4 in edges, lambda: f"{got[-80:]!r} came back for {sent[-80:]!r}")


def follow(soak, _chance, reader, log):
    """Takes the records of the log, and adds up what they tell."""
    log.take(reader.there(0.2))


class Log:
    """What the records told: numbers of each processor, and sums of the steady listener's."""

    def __init__(self, steady):
        self.steady, self.first, self.last, self.sums = steady, {}, {}, {}
        self.got = 0

    def take(self, records):
        """Adds records."""
        for record in records:
            before = self.last.get(record["cpu"], record["seq"] - 1)
            check(record["seq"] > before, f"processor {record['cpu']}: {record['seq']} came behind {before}")
            self.last[record["cpu"]] = record["seq"]
            self.first.setdefault(record["cpu"], record["seq"])
            self.got += 1
            key = record["kind"], record.get("listener") == self.steady.name
            sums = self.sums.setdefault(key, dict.fromkeys(("count", "bytes_in", "bytes_out", "frames_in", "frames_out"), 0))
            sums["count"] += 1
            for name in sums:
                sums[name] += record.get(name, 0)

    def missing(self):
        """How many numbers there are between the first and the last of each processor that did not come."""
        return sum(self.last[cpu] - self.first[cpu] + 1 for cpu in self.last) - self.got


def configure(soak, chance):
    """Changes what disturbs nobody: settings, pools, the table of routes, a server that gets nothing."""
    directory = soak.steady.directory
    route, server = f"{directory}/{squall.ROUTE}", soak.steady.server_directory(chance.randrange(2))
    squall.write(*chance.choice((
        (f"{server}/connections", chance.randrange(1, 12)), (f"{server}/connections_max", chance.randrange(200, 2000)),
        (f"{server}/weight", chance.randrange(1, 9)), (f"{directory}/trusted", chance.choice(("192.0.2.0/24", "2001:db8::/32"))),
        (f"{directory}/forwarded", chance.randrange(2)), (f"{route}/balance", chance.choice(("round-robin", "least-connections", "address-hash"))),
        (f"{route}/response_timeout_ms", chance.choice(("default", 3_000_000))), (f"{route}/client_requests_rate", chance.choice(("default", 1_000_000))),
        (f"{squall.SYSCTL}/queue_high", chance.choice((131_072, 65_536))), (f"{squall.SYSCTL}/ws_lifetime_jitter", chance.randrange(20)),
    )))
    os.mkdir(f"{directory}/more")
    squall.write(f"{directory}/more/host", f"{chance.randrange(100)}.example.com /{chance.randrange(100)}")
    os.mkdir(f"{route}/idle")
    squall.write(f"{route}/idle/weight", 0)
    squall.write(f"{route}/idle/address", soak.steady.servers[0])
    soak.over.wait(0.1 * ktap.PACE)
    os.rmdir(f"{route}/idle")
    os.rmdir(f"{directory}/more")
    soak.over.wait(0.1 * ktap.PACE)


def disturb(soak, chance, servers):
    """Does one of the things that the rough listener's clients have to live with, and takes it back."""
    directory = soak.rough.directory
    route, what = f"{directory}/{squall.ROUTE}", chance.randrange(5)
    pause = lambda: soak.over.wait(chance.uniform(0.2, 0.8) * ktap.PACE)
    if what == 0:
        number = chance.randrange(2)
        servers[number].stop()
        pause()
        servers[number].start()
    elif what == 1:
        part = chance.choice((directory, route, soak.rough.server_directory(chance.randrange(2))))
        squall.write(f"{part}/enable", 0)
        pause()
        squall.write(f"{part}/enable", 1)
    elif what == 2:
        limits = "client_requests_rate", "client_upgrades_rate", "client_tunnels_max", "upgrades_rate", "tunnels_max"
        limit = f"{route}/{chance.choice(limits)}"
        squall.write(limit, 1)
        pause()
        squall.write(limit, "default")
    elif what == 3:
        squall.write(f"{directory}/connections_max", 3)
        pause()
        squall.write(f"{directory}/connections_max", 0)
    else:
        squall.write(f"{directory}/access", "deny 127.0.0.0/8")
        pause()
        squall.write(f"{directory}/access", "allow 127.0.0.0/8")
    soak.rough_seen.add(disturbances=1)
    pause()


def memory():
    """Bytes of slab objects in use that a leak of the module or of TCP on its behalf would show in; None on the debug kernel."""
    found = baseline.objects(shrink=False)
    if found:
        return sum(count * int(name.split()[1]) for name, count in found.items() if name.startswith("kmalloc ")) + 2432 * found.get("TCP", 0)
    return None


def watch(soak, _chance, samples):
    """Notes how much memory is in use."""
    samples.append(memory())
    soak.over.wait(SECONDS / 100)


def pool_is_back(web):
    """Whether nothing is under way, and each server has its connections."""
    stats, servers = web.stats(), [web.server_stats(number) for number in range(2)]
    quiet = all(server[name] == 0 for server in servers for name in ("busy", "connecting", "waiting", "tunnels_open", "failures"))
    whole = all(server["idle"] == server["connected"] == CONNECTIONS for server in servers)
    return quiet and whole and stats["connections"] == stats["tunnels_open"] == 0


def put_back(soak):
    """Has both listeners as they were."""
    for web in (soak.steady, soak.rough):
        for number in range(2):
            squall.write(f"{web.server_directory(number)}/connections", CONNECTIONS)
    for web in (soak.steady, soak.rough):
        try:
            until(lambda web=web: pool_is_back(web), 20, "pools and gauges are at their base")
        except AssertionError:
            ktap.note(f"{web.stats()}\n{web.server_stats(0)}\n{web.server_stats(1)}")
            raise


def account(soak, log, before):
    """Compares what clients, counters and log say."""
    now, seen = squall.module_stats(), soak.seen
    grown = {name: now[name] - before[name] for name in now}
    steady, tunnels = soak.steady.stats(), log.sums[("tunnel", True)]
    missing, lost = log.missing(), grown["log_lost"]
    ktap.note(f"steady: {seen.counts}\nrough: {soak.rough_seen.counts}\nlog: {log.got} records, {missing} missing, {lost} lost: {log.sums}")
    ktap.note(f"module: { {name: count for name, count in grown.items() if count} }")
    equal((steady["requests"], steady["tunnels"]), (seen["requests"], seen["tunnels"]), "requests and tunnels of the steady listener")
    equal(grown["tunnels_closed"], grown["tunnels"], "tunnels closed, of those opened")
    equal(steady["tunnels"] + soak.rough.stats()["tunnels"], grown["tunnels"], "tunnels of both listeners")
    for name in ("queued_bytes", "entries_other"):
        equal(now[name], 0, name)
    for name in ("no_memory", "bad_requests", "bad_responses", "bad_frames", "refused_limit", "ws_close_timeouts", "linger_timeouts"):
        equal(grown[name], 0, f"growth of {name}")
    equal(log.got, grown["log_records"], "records that the follower got, and those that were sent")
    # A loss behind a processor's last record, or before its first, is counted and is no gap.
    check(missing <= lost, f"{missing} records are missing, {lost} are counted as lost")
    records = sum(sums["count"] for (kind, _), sums in log.sums.items() if kind == "tunnel")
    check(records <= grown["tunnels"] <= records + lost, f"{records} records of {grown['tunnels']} tunnels, {lost} lost")
    if not lost:
        sent = {"count": seen["tunnels"], "bytes_in": seen["bytes"], "bytes_out": seen["bytes"], "frames_in": seen["frames"], "frames_out": seen["frames"]}
        equal(tunnels, sent, "what the log told of the steady listener's tunnels")
        equal(log.sums[("request", True)]["count"], seen["requests"], "records of the steady listener's requests")
    rough = soak.rough_seen
    check(min(seen["messages"], seen["answers"], rough["tunnels"], rough["answers"], rough["excuses"], rough["disturbances"]) > 3, "not mixed")


def check_flat(samples):
    """Over the second half of the time no more memory came into use."""
    if samples[0] is None:
        return
    # The least of a tenth: what is under way comes and goes, and what has leaked stays.
    tenth = len(samples) // 10
    least = [min(samples[at : at + tenth]) for at in range(0, len(samples) - tenth + 1, tenth)]
    ktap.note(f"memory in KiB, least of each tenth of the time: {[size >> 10 for size in least]}")
    middle, end = min(least[4:7]), min(least[-3:])
    check(end < middle + (1 << 20), f"{middle >> 10} KiB in the middle, {end >> 10} KiB at the end")


@case(f"{SECONDS} s of everything at once: each byte and message is accounted for, and nothing is left", limit=SECONDS + 200)
def everything():
    with contextlib.ExitStack() as stack:
        clock = ktap.Clock()
        stack.enter_context(squall.sysctl(queue_high=131_072, ws_lifetime_jitter=10, drain_ms=300, connects_per_second=1000))
        # A server that is back is soon tried.
        stack.enter_context(squall.sysctl(backoff_max_ms=500))
        kept, *killed = [stack.enter_context(peers.Echo()) for _ in range(3)]
        steady = stack.enter_context(squall.Listener(kept, kept, connections=CONNECTIONS))
        rough = stack.enter_context(squall.Listener(*killed, connections=CONNECTIONS))
        reader = stack.enter_context(genl.Reader(rcvbuf=64 << 20))
        before, samples, log, soak = squall.module_stats(), [], Log(steady), Soak(steady, rough)
        work = [(short_tunnels,), (short_tunnels,), (long_tunnels, ktap.scaled(20, 8)), (slow_readers,), (exchanges,), (exchanges,)]
        work += [(rough_exchanges,), (rough_exchanges,), (rough_tunnels,), (rough_tunnels,), (rough_tunnels,)]
        work += [(configure,), (disturb, killed), (follow, reader, log), (watch, samples)]
        objects = baseline.objects()
        clock.note("begun")
        for what in work:
            soak.begin(*what)
        soak.over.wait(SECONDS)
        soak.over.set()
        for thread in soak.threads:
            thread.join(ktap.seconds(PATIENCE) + 10)
        clock.note("soaked, to the end of what was under way")
        for trouble in soak.trouble:
            ktap.note(f"{trouble!r} {getattr(trouble, '__notes__', '')}")
        if soak.trouble:
            ktap.note(f"steady route: {steady.route_stats()}")
            raise soak.trouble[0]
        check(not any(thread.is_alive() for thread in soak.threads), "a thread has not come to its end")
        put_back(soak)
        clock.note("put back")
        log.take(reader.there(0.5))
        account(soak, log, before)
        check_flat(samples)
        baseline.check_objects(objects, objects, 1000)


session.main()
