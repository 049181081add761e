#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The data path runs in softirq only: the module counts every entry by context, and none is elsewhere."""

import subprocess
import threading

from lib import ktap, netns, peers, session, squall, trace, wire, ws
from lib.ktap import case, check, equal, until

ROUNDS = ktap.scaled(200, 40)


def entries():
    """(in softirq, elsewhere) since the module was loaded."""
    stats = squall.module_stats()
    return stats["entries_softirq"], stats["entries_other"]


def softirq_only(function):
    """Wraps a case: the data path must have been entered while it ran, and never outside softirq."""

    def wrapped():
        before = entries()
        function()
        after = entries()
        ktap.note(f"entries in softirq {after[0] - before[0]}, elsewhere {after[1] - before[1]}")
        check(after[0] > before[0], "the data path was not entered at all: the counter does not count")
        equal(after[1], before[1], "entries outside softirq")

    return wrapped


@case("requests and tunnels enter the data path in softirq only")
@softirq_only
def traffic():
    hello = wire.plain_handler(lambda _head, body: wire.response(b"x" * 100_000))
    with wire.RawServer(hello) as server, squall.Listener(server) as web, web.connect() as client:
        for _ in range(ROUNDS):
            client.send(wire.request())
            equal(len(client.read_response()[1]), 100_000, "length")
    with ws.echo_server() as server, squall.Listener(server) as web, ws.open_tunnel(web) as client:
        for number in range(ROUNDS):
            client.send(b"y" * (number * 1000 + 1))
            client.read(number * 1000 + 1)


@case("connecting, being refused, resets and closes enter it in softirq only")
@softirq_only
def endings():
    with squall.Listener(f"127.0.0.1:{wire.free_port()}", wait=False) as web:
        for _ in range(20):
            with web.connect() as client:
                client.send(wire.request())
                equal(client.read_response()[0].status, 502, "status")
    with ws.echo_server() as server, squall.Listener(server) as web:
        for number in range(ROUNDS // 4):
            client = ws.open_tunnel(web)
            client.send(b"z" * 10_000)
            (client.reset if number % 2 else client.close)()


@case("sockets that a process looks at or kills meanwhile are served in softirq only", limit=60)
@softirq_only
def owned():
    stop = threading.Event()

    def look(web):
        while not stop.is_set():
            # Takes each socket's lock as a process does.
            subprocess.run(["ss", "-tinmo", f"sport = :{web.port}"], stdout=subprocess.DEVNULL, check=False)

    with ws.echo_server() as server, squall.Listener(server) as web:
        looker = threading.Thread(target=look, args=(web,), daemon=True)
        looker.start()
        try:
            with ws.open_tunnel(web) as client:
                for number in range(ROUNDS):
                    client.send(b"y" * (number * 500 + 1))
                    client.read(number * 500 + 1)
            killed = [ws.open_tunnel(web) for _ in range(10)]
            kill = ["ss", "-K", "state", "established", f"sport = :{web.port}"]
            before = squall.module_stats()["entries_owned"]
            done = subprocess.run(kill, capture_output=True, check=False)
            ktap.note(f"ss -K: {done.returncode}, {len(done.stdout.splitlines()) - 1} sockets")
            for client in killed:
                client.close()
            until(lambda: web.stats()["tunnels_open"] == 0, 10, "the killed tunnels ended")
            # What kills a socket owns it, and lets softirqs run before it gives it back.
            check(squall.module_stats()["entries_owned"] > before, "no socket was found owned")
        finally:
            stop.set()
            looker.join()


@case("what a thread of NAPI receives counts as softirq")
@softirq_only
def threaded():
    with netns.Namespace("near", 1) as near:
        # With GRO veth has NAPI.
        netns.shell(f"ethtool -K {near.name} gro on")
        squall.write(f"/sys/class/net/{near.name}/threaded", 1)
        threads = subprocess.run(["pgrep", "-f", f"napi/{near.name}"], capture_output=True, text=True, check=False).stdout
        check(threads, "there is no thread")
        with ws.echo_server(host=near.address, namespace=near) as server:
            with squall.Listener(server, host=near.gateway) as web, ws.open_tunnel(web, namespace=near) as client:
                for number in range(ROUNDS):
                    client.send(b"y" * (number * 100 + 1))
                    client.read(number * 100 + 1)


@case("senders that are held back and resumed enter it in softirq only", limit=60)
@softirq_only
def held_back():
    total = ktap.scaled(32 << 20, 4 << 20)

    def serve(peer, _number):
        peer.send(bytes(total))
        peer.read_rest()

    with ws.tunnel_server(serve) as server, squall.Listener(server) as web:
        with ws.open_tunnel(web, rcvbuf=65536) as client:
            before = squall.module_stats()
            client.read(1000)
            squall.settle(0.5)
            client.read(total - 1000)
            after = squall.module_stats()
            check(after["paused"] > before["paused"], "the sender was never held back")
            check(after["resumed"] > before["resumed"], "the sender was never resumed")


@case("nothing is sent from inside a callback of the same socket, and no lock is waited for with another one held")
def locks():
    total = ktap.scaled(4 << 20, 1 << 20)

    def serve(peer, _number):
        squall.settle(0.5)
        peer.read(total)
        peer.send(bytes(total))
        peer.read_rest()

    trace.needed()
    with ws.tunnel_server(serve, rcvbuf=65536) as server, squall.Listener(server) as web:
        with trace.Locks() as record, ws.open_tunnel(web, rcvbuf=65536) as client:
            # In both directions the receiver is slow at first, so that TCP calls when there is room again.
            client.send(bytes(total))
            squall.settle(0.5)
            client.read(total)
            sends, broken = record.breaches()
    ktap.note(f"{sends} calls")
    check(sends > 50, "hardly anything was sent")
    check(not broken, lambda: f"{len(broken)} times, such as: {broken[0]}")


@case("real clients and servers enter it in softirq only", limit=60)
@softirq_only
def real():
    with squall.Listener(peers.shared(peers.node_app)) as web:
        peers.curl("-o", "/dev/null", *[web.url(f"/{number}") for number in range(20)])
        peers.node_client(web.url("/", "ws"), "echo", "0,100,100000")


session.main()
