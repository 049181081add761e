#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What one run of the module's softirq work may do, so that others get their turn in between, and how much it may hold."""

import contextlib
import time

from lib import ktap, netns, session, squall, trace, wire
from lib.ktap import case, check, equal, until

# As in the sources: connections served, connections accepted and attempts to connect per run.
SERVED, ACCEPTED, ATTEMPTS = 64, 64, 16
CLIENTS = 400


def bounded(works, bound, total):
    """Every run stays within `bound`, and together they did `total`; one used its bound up, else nothing was shown."""
    runs = works.calls()
    ktap.note(f"calls per run: {runs[:40]}")
    check(sum(runs) >= total, f"{sum(runs)} calls were seen, {total} expected")
    equal(max(runs), bound, "most calls in one run")


@contextlib.contextmanager
def dev_weight(value):
    """How many packets a device may send and receive before others get their turn."""
    path = "/proc/sys/net/core/dev_weight"
    old = squall.read(path)
    squall.write(path, value)
    try:
        yield
    finally:
        squall.write(path, old)


@case("of many connections with something to do, 64 are served at once")
def served():
    trace.needed()
    with squall.Listener("127.0.0.1:9", connections=0) as web:
        clients = [web.connect() for _ in range(CLIENTS)]
        until(lambda: web.stats()["connections"] == CLIENTS, 10, "all accepted")
        with trace.Works("squall_bh_lock_sock") as works:
            # One event for each of them, in one moment.
            web.__exit__()
            for client in clients:
                equal(client.read_rest(), b"", "bytes from a removed listener")
                client.close()
            bounded(works, SERVED, CLIENTS)


@case("of many connections that wait to be accepted, 64 are accepted at once")
def accepted():
    trace.needed()
    with netns.Namespace("near", 1) as near, squall.Listener("127.0.0.1:9", connections=0, host=near.gateway) as web:
        # What is sent waits for the next slot, and then comes at once.
        with dev_weight(CLIENTS * 2), near.impaired("limit 4000 slot 400ms 400ms"), trace.Works("squall_accept") as works:
            clients = [near.socket() for _ in range(CLIENTS)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex((near.gateway, web.port))
            until(lambda: web.stats()["accepted"] == CLIENTS, 10, "all accepted")
            bounded(works, ACCEPTED, CLIENTS)
        for client in clients:
            client.close()


@case("of many connections to be made, 16 are begun at once and 128 are under way")
def connected():
    trace.needed()
    with netns.Namespace("far", 1) as far, far.impaired("loss 100%", both=False), squall.sysctl(connect_timeout_ms=60000):
        with trace.Works("squall_sk_connect") as works:
            with squall.Listener(f"{far.address}:9", connections=1000, wait=False) as web:
                until(lambda: web.server_stats()["connecting"] >= 128, 10, "128 attempts")
                time.sleep(0.5)
                equal(web.server_stats()["connecting"], 128, "attempts under way")
                bounded(works, ATTEMPTS, 128)


@case("at net.squall.connections_max a connection is reset and counted; below it the next one is served")
def connections_max():
    hello = wire.plain_handler(lambda _head, _body: wire.response(b"hello"))
    with wire.RawServer(hello) as server, squall.Listener(server) as web:
        before = squall.module_stats()["refused_limit"]
        with squall.sysctl(connections_max=1), contextlib.suppress(ConnectionResetError):
            with web.connect() as client:
                equal(client.read_rest(), b"", "bytes on a connection too many")
        equal(squall.module_stats()["refused_limit"] - before, 1, "refused_limit")
        with web.connect() as client:
            client.send(wire.request())
            equal(client.read_response()[1], b"hello", "response")


@case("what the module keeps for a connection is no larger than 336 bytes, twelve to a page")
def connection_size():
    if ktap.SLOW:
        raise ktap.Skip("locks and lists are larger on this kernel")
    with open("/proc/slabinfo", encoding="ascii") as file:
        sizes = [line.split() for line in file if line.startswith("squall_conn ")]
    equal(len(sizes), 1, "caches of connections")
    size, per_slab, pages = (int(sizes[0][field]) for field in (3, 4, 5))
    check(size <= 336 and per_slab >= 12 * pages, f"{size} bytes, {per_slab} in {pages} pages")


@case("at net.squall.waiters_max a request is refused at once, and those that wait go on waiting")
def waiters_max():
    # What waits is answered when its time is over, 502 or 504 as the attempt to connect ends first or not.
    settings = squall.sysctl(waiters_max=2, queue_timeout_ms=3000 * ktap.PACE, connect_timeout_ms=60000)
    with netns.Namespace("far", 1) as far, far.impaired("loss 100%", both=False), settings:
        with squall.Listener(f"{far.address}:9", connections=1, wait=False) as web, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(web.connect()) for _ in range(5)]
            for number, client in enumerate(clients):
                client.send(wire.request())
                if number < 2:
                    until(lambda: web.server_stats()["waiting"] == number + 1, 5, "the request waits")
                else:
                    equal(client.read_response()[0].status, 503, "status of a request too many")
            equal(web.server_stats()["waiting"], 2, "requests that wait")
            # Who goes away leaves its place to others.
            for client in clients[:2]:
                client.reset()
            until(lambda: web.server_stats()["waiting"] == 0, 5, "nobody waits")
            clients[:2] = [stack.enter_context(web.connect()) for _ in range(2)]
            for client in clients[:2]:
                client.send(wire.request())
            until(lambda: web.server_stats()["waiting"] == 2, 5, "two others wait")
            for client in clients[:2]:
                check(client.read_response()[0].status in (502, 504), "status when the time is over")


session.main()
