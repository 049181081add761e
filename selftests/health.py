#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Servers that answer badly, or not at all: how that is noticed, and what they get while they do and afterwards."""

import contextlib
import threading
import time

from lib import ktap, session, squall, wire
from lib.ktap import case, check, equal, until

PAUSE = 700 * ktap.PACE


class Server(wire.RawServer):
    """A server with a name, whose way to answer can be changed at any time."""

    def __init__(self, name, **options):
        super().__init__(self._answer, **options)
        self.name, self.mode, self.requests = name, "good", 0
        self.go_on = threading.Event()

    def _answer(self, peer, _number):
        while True:
            head = peer.read_head()
            peer.read_body(head)
            self.requests += 1
            mode = self.mode
            if mode == "good":
                peer.send(wire.response(self.name.encode()))
            elif mode == "garbage":
                peer.send(b"HTTP/1.1 no status at all\r\n\r\n")
            elif mode == "silent":
                self.go_on.wait(ktap.seconds(20))
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
        equal([post(web)[0] for _ in range(3)], [status, 502, 502], "status when the pause is over")
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


session.main()
