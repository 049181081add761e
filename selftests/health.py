#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Servers that answer badly, or not at all: how that is noticed, and what they get while they do and afterwards."""

import contextlib
import threading
import time

from lib import ktap, netns, session, squall, wire, ws
from lib.ktap import case, check, equal, until

PAUSE = 700 * ktap.PACE


# A whole response. That an option of Connection has to be a token is a rule of Squall's own to insist on.
REFUSED = wire.response(b"odd", fields=["Connection: not a token"])


class Server(wire.RawServer):
    """A server with a name, whose way to answer can be changed at any time."""

    def __init__(self, name, **options):
        super().__init__(self._answer, **options)
        self.name, self.mode, self.requests = name, "good", 0
        self.health, self.checks = wire.response(), []
        self.go_on = threading.Event()

    def _answer(self, peer, _number):
        while True:
            head = peer.read_head()
            peer.read_body(head)
            if head.start.startswith("GET /health "):
                self.checks.append((time.monotonic(), head))
                if self.health == "silent":
                    self.go_on.wait(ktap.seconds(20))
                    return
                peer.send(self.health)
                return
            self.requests += 1
            if self.mode == "good" and head.get("Upgrade"):
                peer.send(ws.switching(head))
                peer.read_rest()
                return
            mode = self.mode
            if mode == "good":
                peer.send(wire.response(self.name.encode()))
            elif mode == "garbage":
                peer.send(b"HTTP/1.1 no status at all\r\n\r\n")
            elif mode == "refused":
                peer.send(REFUSED)
            elif mode == "silent":
                self.go_on.wait(ktap.seconds(20))
                return
            elif mode == "half":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
                return
            elif mode == "reset":
                peer.reset()
                return
            elif mode == "close":
                return


@contextlib.contextmanager
def route(count, **attributes):
    """A listener with servers "0", "1" and so on, each with these attributes."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(str(number))) for number in range(count)]
        web = stack.enter_context(squall.Listener(*servers))
        for number in range(count):
            for name, value in attributes.items():
                squall.write(f"{web.server_directory(number)}/{name}", value)
        stack.callback(lambda: [server.go_on.set() for server in servers])
        yield web, servers


def post(web):
    """Status and body of a request that is never sent twice."""
    with web.connect() as client:
        client.send(wire.request("/", "POST", body=b"once"))
        head, body = client.read_response()
        return head.status, body.decode() if head.status == 200 else None


def fails(mode, status):
    """A server that fails in this way is paused after three requests, and comes back by one that it answers."""
    settings = squall.sysctl(backoff_min_ms=PAUSE, backoff_max_ms=PAUSE)
    with settings, route(1, fails_max=3) as (web, (server,)):
        squall.write(f"{web.directory}/{squall.ROUTE}/response_timeout_ms", 300 * ktap.PACE)
        server.mode = mode
        for number in range(3):
            equal(web.server_stats()["up"], 1, f"up after {number} failures")
            equal(post(web)[0], status, f"status of failure {number}")
        equal(web.server_stats()["up"], 0, "up after three failures")
        equal([post(web)[0] for _ in range(5)], [502] * 5, "status while the server is paused")
        equal(server.requests, 3, "requests that came while it was paused")
        time.sleep(1.4 * PAUSE / 1000)
        with web.connect() as client:
            client.send(wire.request("/", "POST", body=b"once"))
            until(lambda: server.requests == 4, 5, "one request comes when the pause is over")
            equal([post(web)[0] for _ in range(3)], [502] * 3, "status of those behind it")
            equal(client.read_response()[0].status, status, "status of the one")
        equal(server.requests, 4, "requests that came after a pause")
        server.mode = "good"
        time.sleep(1.4 * PAUSE / 1000)
        equal([post(web)[0] for _ in range(5)], [200] * 5, "status when it answers again")
        stats = web.server_stats()
        equal((stats["up"], stats["fails"], stats["requests_failed"]), (1, 0, 4), "up, fails and requests_failed")


@case("a server that closes instead of answering is paused after fails_max requests, then tried with one")
def closes():
    fails("close", 502)


@case("a server that answers garbage is paused after fails_max requests, then tried with one")
def garbage():
    fails("garbage", 502)


@case("a server that answers nothing is paused after fails_max requests, then tried with one")
def silent():
    fails("silent", 504)


@case("a response that is refused for a field is counted, and is no failure of the server: nothing is paused")
def merely_strict():
    with route(1, fails_max=3, health_path="/health", health_interval_ms=100, health_fall=1) as (web, (server,)):
        server.health = REFUSED
        server.mode = "refused"
        refused, checks = squall.module_stats()["bad_responses"], web.server_stats()["checks"]
        equal([post(web)[0] for _ in range(4)], [502] * 4, "status of what is refused")
        equal(squall.module_stats()["bad_responses"] - refused, 4, "bad_responses")
        stats = web.server_stats()
        equal((stats["up"], stats["fails"], stats["requests_failed"]), (1, 0, 0), "up, fails and requests_failed")
        equal(stats["responses_refused"], 4, "responses_refused")
        for mode in ("close", "close", "refused", "close"):
            server.mode = mode
            equal(post(web)[0], 502, f"status, {mode}")
        equal(web.server_stats()["up"], 1, "up: it has answered in between")
        until(lambda: web.server_stats()["checks"] >= checks + 3, 10, "checks have ended")
        stats = web.server_stats()
        equal((stats["healthy"], stats["checks_failed"]), (1, 0), "healthy, and checks that failed")
        server.mode = "good"
        equal(post(web)[0], 200, "status when it answers again")


@case("a silent server is not to blame when its client has closed and may have left: nothing is paused")
def client_left():
    def stream(peer, _number):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        peer.read_rest()

    paused = squall.sysctl(backoff_min_ms=20_000, backoff_max_ms=20_000)
    with paused, wire.RawServer(stream) as server, squall.Listener(server) as web:
        squall.write(f"{web.server_directory()}/fails_max", 1)
        squall.write(f"{web.directory}/{squall.ROUTE}/response_timeout_ms", 400 * ktap.PACE)
        for closes in (True, False):
            before = squall.module_stats()
            with web.connect() as client:
                client.send(wire.request())
                client.read_until(b"data: 1\n\n")
                if closes:
                    client.finish_sending()
                check(client.was_reset(), "the response was not ended")
            now, stats = squall.module_stats(), web.server_stats()
            grown = tuple(now[name] - before[name] for name in ("clients_left", "response_timeouts"))
            equal(grown, (1, 0) if closes else (0, 1), f"clients_left and response_timeouts, {closes=}")
            equal((stats["up"], stats["requests_failed"]), (1, 0) if closes else (0, 1), f"up and requests_failed, {closes=}")


@case("failures that do not follow each other pause nothing, nor do any by default")
def not_in_a_row():
    with route(1, fails_max=3) as (web, (server,)):
        for _ in range(3):
            for mode in ("close", "garbage", "good"):
                server.mode = mode
                equal(post(web)[0], 200 if mode == "good" else 502, f"status, {mode}")
        squall.write(f"{web.server_directory()}/fails_max", 0)
        server.mode = "close"
        for _ in range(10):
            post(web)
        equal((server.requests, web.server_stats()["up"]), (19, 1), "requests, and up")


@case("while one server is paused the others get its requests")
def others():
    with squall.sysctl(backoff_min_ms=20_000, backoff_max_ms=20_000), route(2, fails_max=2) as (web, servers):
        servers[0].mode = "garbage"
        got = [post(web) for _ in range(20)]
        equal(got.count((502, None)), 2, "requests that failed")
        equal(got[-10:], [(200, "1")] * 10, "who answered at last")
        equal((servers[0].requests, web.route_stats()["servers_up"]), (2, 1), "requests that failed, servers up")


def get(web, request=None):
    """Status and body of a request without a body."""
    with web.connect() as client:
        client.send(request or wire.request())
        head, body = client.read_response()
        return head.status, body.decode() if head.status == 200 else None


def several(web, count):
    """Who answers so many requests on one connection."""
    with web.connect() as client:
        answers = []
        for _ in range(count):
            client.send(wire.request())
            answers.append(client.read_response()[1].decode())
        return answers


def counts(*names):
    """Counters of the module."""
    stats = squall.module_stats()
    return [stats[name] for name in names]


@case("a GET whose server closes or resets the connection before a byte came is answered by another server")
def repeated():
    for mode in ("close", "reset"):
        with route(2) as (web, servers):
            before, = counts("retried")
            servers[0].mode = mode
            for number in range(12):
                equal(get(web), (200, "1"), f"response {number}, {mode}")
            check(servers[0].requests >= 4, f"{servers[0].requests} requests went to the server that fails")
            equal(counts("retried"), [before + servers[0].requests], "retried")


@case("nothing else is sent twice: a POST, a request with a body, an offer to upgrade, one whose response has begun")
def not_repeated():
    requests = {
        "POST": wire.request("/", "POST"), "body": wire.request("/", "PUT", body=b"once"), "offer": ws.offer(),
        "PATCH": wire.request("/", "PATCH"),
    }
    for name, request in requests.items():
        with route(2) as (web, servers):
            for server in servers:
                server.mode = "close"
            equal(get(web, request), (502, None), f"response, {name}")
            equal(sum(server.requests for server in servers), 1, f"requests, {name}")
    with route(2) as (web, servers):
        servers[0].mode = servers[1].mode = "half"
        equal(get(web), (502, None), "response, half a head")
        equal(sum(server.requests for server in servers), 1, "requests, half a head")


@case("a request is sent three times at most, and twice to the same server only if there is no other")
def tries():
    with route(5) as (web, servers):
        for server in servers:
            server.mode = "close"
        equal(get(web), (502, None), "response")
        equal(sum(server.requests for server in servers), 3, "requests at five servers")
    with route(3) as (web, servers):
        squall.write(f"{web.directory}/{squall.ROUTE}/balance", "address-hash")
        get(web)
        chosen = next(server for server in servers if server.requests)
        chosen.mode = "close"
        equal(get(web)[0], 200, "status of a client that the failing server belongs to")
        equal(chosen.requests, 3, "requests at the failing server")


@case("a request that waits for a server that refuses, or does not answer, moves on to another, whatever it is", limit=60)
def moves():
    posted = wire.request("/", "POST", body=b"once")
    with Server("up") as up, netns.Namespace("far", 1) as far:
        far.run("ip link set far down")
        for refusing in (f"127.0.0.1:{wire.free_port()}", f"{far.address}:80"):
            for request in (wire.request(), posted):
                with squall.sysctl(connect_timeout_ms=300 * ktap.PACE), squall.Listener(refusing, up, connections=0) as web:
                    before, = counts("moved")
                    equal(get(web, request), (200, "up"), f"response, {refusing}")
                    equal(counts("moved"), [before + 1], "moved")
                    equal(web.server_stats(0)["connect_failed"] > 0, True, "the first server was tried")
    with squall.Listener(refusing, connections=0) as web:
        check(get(web)[0] in (502, 504), "status without another server")


@case("a server to which no connections are kept is found again")
def none_kept():
    server = Server("late")
    with squall.sysctl(backoff_max_ms=200), squall.Listener(server, connections=0) as web:
        equal(get(web), (502, None), "response while it refuses")
        with server:
            until(lambda: web.server_stats()["up"], 5, "it is known to be up")
            equal(get(web), (200, "late"), "response")
            until(lambda: web.server_stats()["connected"] == 0, 5, "no connection is kept")


def checked(count, **attributes):
    """A route whose servers are checked often."""
    quick = {"health_interval_ms": 100, "health_timeout_ms": 1000 * ktap.PACE, "health_path": "/health"}
    return route(count, **(quick | attributes))


def healthy(web, number, value):
    """Waits until a server counts as healthy, or not."""
    until(lambda: web.server_stats(number)["healthy"] == value, 10, f"healthy {value}")


UNHEALTHY = {
    "another status": wire.response(status="500 Down"),
    "a status just above those that are wanted": wire.response(status="201 Created"),
    "garbage": b"what?\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "silence": "silent",
    "too many interim responses": b"HTTP/1.1 102 Processing\r\n\r\n" * 17 + wire.response(),
}


@case("a server whose checks fail gets nothing new, keeps its tunnels, and is back when checks succeed", limit=60)
def checks():
    with checked(2, health_fall=2, health_rise=2) as (web, servers), web.connect() as client:
        client.send(ws.offer())
        equal(client.read_head().status, 101, "status of the offer")
        tunnelled = next(number for number in range(2) if servers[number].requests)
        bad, other = servers[tunnelled], servers[1 - tunnelled]
        for name, answer in UNHEALTHY.items():
            bad.health = answer
            healthy(web, tunnelled, 0)
            equal({get(web)[1] for _ in range(6)}, {other.name}, f"who answers, {name}")
            equal(web.route_stats()["servers_up"], 1, "servers up")
            bad.health = b"HTTP/1.1 103 Early Hints\r\n\r\n" + wire.response(20000 * b"x")
            bad.go_on.set()
            healthy(web, tunnelled, 1)
            bad.go_on.clear()
            equal({get(web)[1] for _ in range(6)}, {"0", "1"}, f"who answers after {name}")
        check(client.silent_for(0.1), "the tunnel has ended")
        stats = web.server_stats(tunnelled)
        check(stats["checks"] > stats["checks_failed"] >= 12, f"checks and checks_failed: {stats}")


@case("fall checks in a row make a server unhealthy and rise checks healthy, in the interval with jitter")
def rise_and_fall():
    # Long enough for the jitter to be more than how late a test is.
    wanted = {"health_interval_ms": 200, "health_host": "a.example", "health_status": "204-299"}
    with checked(1, health_fall=4, health_rise=3, **wanted) as (web, (server,)):
        healthy(web, 0, 0)
        fell = web.server_stats()["checks"]
        check(fell >= 4, f"unhealthy after {fell} checks")
        server.health = wire.response(status="299 Fine")
        good = len(server.checks)
        healthy(web, 0, 1)
        check(len(server.checks) >= good + 3, f"healthy after {len(server.checks) - good} checks")
        until(lambda: len(server.checks) >= good + 16, 10, "16 checks")
        # Those before began anew with each attribute that was written.
        times = [moment for moment, _ in server.checks[good:]]
        gaps = [1000 * (after - before) for before, after in zip(times, times[1:])]
        ktap.note("gaps in ms: " + " ".join(f"{gap:.0f}" for gap in gaps))
        # One that was late for itself makes one long and one short gap.
        least, most = sorted(gaps)[1], sorted(gaps)[-2]
        check(160 <= sum(gaps) / len(gaps) <= 240 * ktap.PACE and most - least > 18, "no interval of 200 ms with jitter")
        head = server.checks[-1][1]
        equal((head.get("Host"), head.get("Connection")), ("a.example", "close"), "Host and Connection of a check")
        squall.write(f"{web.server_directory()}/health_path", "")
        time.sleep(0.3)
        count = len(server.checks)
        time.sleep(0.3)
        equal(len(server.checks), count, "checks after they were switched off")


@case("with all servers unhealthy requests go on to them, and end with the checks")
def all_unhealthy():
    with checked(2, health_fall=1) as (web, servers):
        for number, server in enumerate(servers):
            server.health = wire.response(status="503 Down")
            healthy(web, number, 0)
        equal({get(web)[1] for _ in range(6)}, {"0", "1"}, "who answers")
        squall.write(f"{web.server_directory(0)}/health_path", "")
        equal(web.server_stats(0)["healthy"], 1, "healthy without checks")
        equal({get(web)[1] for _ in range(6)}, {"0"}, "who answers when one is not checked any more")


@case("the weight of a server that is back grows from a small part to the whole", limit=60)
def slow_start():
    for balance in ("round-robin", "least-connections"):
        with checked(2, health_fall=1, health_rise=1) as (web, servers):
            squall.write(f"{web.directory}/{squall.ROUTE}/balance", balance)
            squall.write(f"{web.server_directory(0)}/slow_start_ms", 60_000)
            share = lambda: several(web, 32).count("0")
            equal(share(), 16, f"requests of 32 at the beginning, {balance}")
            servers[0].health = wire.response(status="503 Down")
            healthy(web, 0, 0)
            servers[0].health = wire.response()
            healthy(web, 0, 1)
            got = share()
            # One request at a time, the larger share always is the least loaded.
            least = 1 if balance == "round-robin" else 0
            check(least <= got <= 8, f"{got} of 32 requests when it is back, {balance}")
            squall.write(f"{web.server_directory(0)}/slow_start_ms", 1)
            equal(share(), 16, f"requests of 32 at the end, {balance}")


@case("a server that is removed, and the module, do not wait for a check")
def removed():
    with checked(1, health_timeout_ms=60_000) as (web, (server,)):
        server.health = "silent"
        before = len(server.checks)
        until(lambda: len(server.checks) > before, 10, "a check is under way")
    start = time.monotonic()
    squall.unload()
    took = time.monotonic() - start
    squall.load()
    check(took < ktap.seconds(2), f"unloading took {took:.1f} s")


session.main()
