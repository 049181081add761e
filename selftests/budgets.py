#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What one run of the module's softirq work may do: other softirqs, and user space, get their turn in between."""

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
    with netns.Namespace("far", 1) as far, far.impaired("loss 100%", both=False), squall.sysctl(connect_timeout_ms=60000):
        with trace.Works("squall_sk_connect") as works:
            with squall.Listener(f"{far.address}:9", connections=1000, wait=False) as web:
                until(lambda: web.server_stats()["connecting"] >= 128, 10, "128 attempts")
                time.sleep(0.5)
                equal(web.server_stats()["connecting"], 128, "attempts under way")
                bounded(works, ATTEMPTS, 128)


session.main()
