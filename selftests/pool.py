#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The connections that are kept to servers: how fast they are made, how vanished servers are found, how many there are."""

import time

from lib import ktap, netns, session, squall, sniff, wire
from lib.ktap import case, check, equal, until

HELLO = wire.plain_handler(lambda _head, _body: wire.response(b"hello"))


@case("attempts to connect to all servers together keep to the rate, and servers take turns")
def rate():
    # On the debug kernel it takes as long to look.
    servers, each, rate_max = 10, 4, ktap.scaled(20, 6)
    with squall.sysctl(connects_per_second=rate_max), sniff.Sniffer() as seen, wire.RawServer(HELLO) as server:
        with squall.Listener(*[server] * servers, connections=each, wait=False) as web:
            established = lambda: [web.server_stats(number)["established"] for number in range(servers)]
            until(lambda: min(established()) > 0, 20, "each server has a connection")
            check(sum(established()) <= 28, lambda: f"not in turns: {established()}")
            web.wait_ready()
            # What was sent is seen a little later.
            until(lambda: len(seen.attempts(server.port)) >= servers * each, 5, "all attempts are seen")
            times = seen.attempts(server.port)
    equal(len(times), servers * each, "attempts")
    ktap.note(f"{len(times)} attempts in {times[-1] - times[0]:.2f} s")
    for first, last in zip(times, times[rate_max:]):
        check(last - first >= 0.75, f"{rate_max + 1} attempts in {last - first:.2f} s at {rate_max} per second")


@case("an idle connection whose server has vanished is found by TCP's probes, and is not when they are off", limit=60)
def keepalive():
    silence = 500 * ktap.PACE
    with netns.Namespace("far", 1) as far, wire.RawServer(HELLO, host=far.address, namespace=far) as server:
        with squall.sysctl(tcp_keepalive_ms=silence), squall.Listener(server) as web:
            with squall.sysctl(tcp_keepalive_ms=0), squall.Listener(server) as other:
                time.sleep(3 * silence / 1000)
                equal(web.server_stats()["connects"], 2, "attempts while the server answers probes")
                far.run("ip link set far down")
                start = time.monotonic()
                until(lambda: web.server_stats()["connected"] == 0, 10, "the connections are given up")
                took = 1000 * (time.monotonic() - start)
                ktap.note(f"found after {took:.0f} ms at {silence} ms of silence")
                check(took < 3 * silence, f"found after {took:.0f} ms")
                equal(other.server_stats()["connected"], 2, "connections without probes")
                far.run("ip link set far up")
                web.wait_ready()


@case("a pool that is made smaller closes what is idle at once")
def shrinks():
    with wire.RawServer(HELLO) as server, squall.Listener(server, connections=60) as web:
        squall.write(f"{web.server_directory()}/connections", 3)
        until(lambda: web.server_stats()["connected"] == 3, 1, "three connections are left")
        time.sleep(0.3)
        equal((web.server_stats()["connected"], web.server_stats()["connects"]), (3, 60), "connected, and attempts")


session.main()
