#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Limits per client and per route: what passes, what is refused and how, when it passes again, and that every count comes back."""

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time

from lib import faults, ktap, netns, session, squall, wire, ws
from lib.ktap import case, check, equal, until

A, B = "127.0.0.2", "127.0.0.3"
HELLO = wire.plain_handler(lambda _head, _body: wire.response(b"fine"))


def client_from(web, source=A):
    """A client's connection from the address `source`."""
    sock = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(ktap.seconds(20))
    sock.bind((source, 0))
    sock.connect((web.host, web.port))
    return wire.Wire(sock)


def passes(web, source=A):
    """Whether a new connection from there is served; it is closed again."""
    with contextlib.suppress(ConnectionError), client_from(web, source) as client:
        client.send(wire.request())
        return client.read_response()[0].status == 200
    return False


def is_reset(web, source=A):
    """Whether a new connection from there is reset before it sent anything."""
    try:
        with client_from(web, source) as client:
            return client.was_reset()
    except ConnectionError:
        return True  # before connect() looked


def ask(client, data=None):
    """(status, Retry-After) of the answer to a request."""
    client.send(data or wire.request())
    head, _ = client.read_response()
    return head.status, head.get("Retry-After")


def offer(web, source=A):
    """(client, status, Retry-After) of an offer to upgrade."""
    client = client_from(web, source)
    client.send(ws.offer())
    head = client.read_head()
    client.read_body(head)
    return client, head.status, head.get("Retry-After")


def offers(web, source=A):
    """(status, Retry-After) of an offer whose connection is closed again."""
    client, status, retry = offer(web, source)
    client.close()
    return status, retry


def route_file(web, name, value):
    """Sets what the route has for itself."""
    squall.write(f"{web.directory}/{squall.ROUTE}/{name}", value)


def at_rest(limit=10):
    """No client has anything open."""
    until(lambda: squall.module_stats()["clients"] == 0, limit, lambda: f"clients at rest: {squall.module_stats()['clients']}")


@contextlib.contextmanager
def counting(stats, **wanted):
    """The counters of `stats()` and of the module grow by what is wanted while entered."""
    before, all_before = stats(), squall.module_stats()
    yield
    for name, count in wanted.items():
        until(lambda name=name: stats()[name] >= before[name] + count, 2, f"{name} + {count}")
        equal(stats()[name] - before[name], count, name)
        equal(squall.module_stats()[name] - all_before[name], count, f"{name} of the module")


@case("access: the first rule that names a client's network decides, and wrong lists are refused", log="squall.*refused")
def access():
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web:
        path = f"{web.directory}/access"
        for rules, passing in (
            ("deny 127.0.0.2", (B,)),
            ("allow 127.0.0.2/32\ndeny 127.0.0.0/8", (A,)),
            ("deny 127.0.0.0/8\nallow 127.0.0.2", ()),
            ("exempt 127.0.0.3\ndeny 0.0.0.0/0\ndeny ::/0", (B,)),
            ("deny ::/0", (A, B)),
            ("", (A, B)),
        ):
            squall.write(path, rules)
            denied = 2 - len(passing)
            with counting(web.stats, access_denied=denied):
                equal(tuple(source for source in (A, B) if passes(web, source)), passing, f"who passes {rules!r}")
        squall.write(path, "deny 10.0.0.0/8\n\n exempt 2001:db8::1")
        for bad in ("forbid 10.0.0.0/8", "deny", "deny 10.0.0.1/8", "deny 10.0.0.0/8 x", "10.0.0.0/8", "\n".join(["deny 10.0.0.0/8"] * 65)):
            try:
                squall.write(path, bad)
                raise AssertionError(f"{bad!r} was taken")
            except OSError:
                equal(squall.read(path), "deny 10.0.0.0/8\nexempt 2001:db8::1/128", f"the list after {bad[:20]!r}")
        squall.write(path, "\n".join(["deny 10.0.0.0/8"] * 64))


@case("connections of one client: those beyond are reset or answered with 429, and a tunnel counts until it is closed")
def connections():
    with ws.echo_server() as server, squall.Listener(server) as web, squall.sysctl(client_connections_max=2):
        with contextlib.ExitStack() as stack:
            tunnel, status, _ = offer(web)
            stack.enter_context(tunnel)
            equal(status, 101, "the first connection, a tunnel")
            idle = stack.enter_context(client_from(web))
            until(lambda: web.stats()["connections"] == 1, 5, "both are there")
            with counting(web.stats, client_connections_limit=2):
                for _ in range(2):
                    check(is_reset(web), "the third was not reset")
            equal(offers(web, B), (101, None), "another client")
            with squall.sysctl(client_connections_action=1), counting(web.stats, client_connections_limit=1):
                with client_from(web) as third:
                    equal(ask(third), (429, "1"), "status and Retry-After of the third")
                    check(third.ended(), "the third was left open")
            with squall.sysctl(client_connections_action=1), client_from(web) as third:
                third.send(wire.request(method="HEAD"))
                equal(third.read_head().status, 429, "status of a HEAD that is turned away")
                check(third.ended(), "content in the answer to HEAD")
            with squall.sysctl(client_connections_action=1, first_byte_timeout_ms=500 * ktap.PACE), client_from(web) as third:
                # Its time is that to the first byte, for the whole request.
                third.send(b"GET / HT")
                equal(third.read_response()[0].status, 408, "status of the third, which does not come to an end")
            squall.write(f"{web.directory}/access", f"exempt {A}")
            equal(offers(web), (101, None), "an exempt client")
            squall.write(f"{web.directory}/access", "")
            idle.close()
            until(lambda: web.stats()["connections"] == 0, 5, "one is closed")
            equal(offers(web), (101, None), "after one was closed")
            until(lambda: web.stats()["tunnels_open"] == 1, 5, "that one, too")
            equal(squall.module_stats()["clients"], 1, "clients with something open")
            second = stack.enter_context(client_from(web))
            until(lambda: web.stats()["connections"] == 1, 5, "it is there")
            tunnel.send(b"still")
            equal(tunnel.read(5), b"still", "echo of the tunnel")
            check(is_reset(web), "the tunnel does not count")
            tunnel.reset()
            until(lambda: web.stats()["tunnels_open"] == 0, 5, "the tunnel is gone")
            equal(offers(web), (101, None), "after the tunnel was reset")
            second.close()
        at_rest()


@contextlib.contextmanager
def one_connection(web, of_client):
    """The client, or else the listener, may have one connection."""
    if of_client:
        with squall.sysctl(client_connections_max=1):
            yield
    else:
        squall.write(f"{web.directory}/connections_max", 1)
        yield
        squall.write(f"{web.directory}/connections_max", 0)


@case("a connection whose client takes its time to take the last bytes counts until it is gone, for client and listener")
def lingering():
    def serve(peer, _number):
        # The connection is kept: an offer sent on one that is being closed would be lost with it.
        while not (head := peer.read_head()).get("Upgrade"):
            peer.send(wire.response(bytes(200_000)))
        peer.send(ws.switching(head))
        peer.send(ws.frame(bytes(200_000)))

    def asking(tunnel):
        """A client that has got the beginning of what it asked for; None if the connection before it still counts."""
        client = client_from(web)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            client.send(ws.offer() if tunnel else wire.request(fields=["Connection: close"]))
            equal(client.read_head().status, 101 if tunnel else 200, "status")
        except ConnectionResetError:
            client.close()
            return None
        return client

    with wire.RawServer(serve) as server, squall.Listener(server) as web:
        for of_client, tunnel in ((True, False), (False, False), (True, True), (False, True)):
            what = f"tunnel: {tunnel}, limit of the client: {of_client}"
            with one_connection(web, of_client), until(lambda tunnel=tunnel: asking(tunnel), 5, "a connection is had") as client:
                client.read(1)
                client.finish_sending()
                # The response is complete for the proxy, whose session with the client is over.
                until(lambda: web.server_stats()["busy"] + web.stats()["tunnels_open"] + web.stats()["connections"] == 0, 10, what)
                check(is_reset(web), f"a second connection beside one that is not gone, {what}")
                # To read all through so small a window takes seconds.
                client.reset()
                until(lambda: passes(web), 5, f"a connection behind it passes, {what}")
        at_rest()


@case("connections that are turned away by an answer are bounded, from when they come until they are gone")
def turned_away():
    limits = squall.sysctl(client_connections_max=1, client_connections_action=1, turned_away_max=2, linger_timeout_ms=60_000)
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web, limits, contextlib.ExitStack() as stack:
        only = stack.enter_context(client_from(web))
        until(lambda: web.stats()["connections"] == 1, 5, "it is there")
        silent, answered = (stack.enter_context(client_from(web)) for _ in range(2))
        until(lambda: web.stats()["connections"] == 3, 5, "two that are turned away")
        equal(ask(answered), (429, "1"), "status and Retry-After")
        check(answered.ended(), "left open")
        until(lambda: web.stats()["connections"] == 2, 5, "its session is over")
        # One says nothing, the other one does not close.
        with counting(web.stats, turned_away_limit=2, client_connections_limit=2):
            for _ in range(2):
                check(is_reset(web), "one beyond the bound was not reset")
        check(silent.silent_for(0.1), "who says nothing was answered")
        for gone in (answered, silent):
            gone.close()

            def is_answered():
                with contextlib.suppress(ConnectionError), client_from(web) as another:
                    return ask(another) == (429, "1")
                return False

            until(is_answered, 5, "another one is answered when one is gone")
        only.close()
        until(lambda: passes(web), 5, "a connection passes again")
        at_rest()


@case("new connections of one client per second: a burst passes, and then as many as the rate lets", limit=60)
def connections_rate():
    limits = squall.sysctl(client_connections_rate=2, client_connections_burst=4)
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web, limits:
        before = web.stats()["client_connections_rate_limit"]
        start, tries = time.monotonic(), ktap.scaled(8, 30)
        passed = [passes(web) for _ in range(tries)].count(True)
        most = 5 + 2 * (time.monotonic() - start)
        check(4 <= passed <= min(most, tries - 1), f"{passed} of {tries} passed, the burst is 4 and the rate lets {most}")
        refused = lambda: web.stats()["client_connections_rate_limit"] - before
        until(lambda: refused() == tries - passed, 2, "the others are counted")
        equal(passes(web, B), True, "another client")
        time.sleep(2.2)
        equal([passes(web) for _ in range(4)], [True] * 4, "two seconds later")
        with squall.sysctl(client_connections_action=1, client_connections_burst=1, client_connections_rate=1):
            while passes(web):
                pass
            with client_from(web) as client:
                equal(ask(client), (429, "1"), "status and Retry-After")
                check(client.ended(), "left open")
        at_rest()


@case("connections of a listener, tunnels included")
def listener_connections():
    with ws.echo_server() as server, squall.Listener(server) as web:
        squall.write(f"{web.directory}/connections_max", 3)
        with contextlib.ExitStack() as stack:
            for source in (A, B):
                tunnel, status, _ = offer(web, source)
                stack.enter_context(tunnel)
                equal(status, 101, "a tunnel")
            third = stack.enter_context(client_from(web))
            until(lambda: web.stats()["connections"] == 1, 5, "three are there")
            with counting(web.stats, connections_limit=1):
                check(is_reset(web, "127.0.0.4"), "the fourth was not reset")
            third.close()
            until(lambda: web.stats()["connections"] == 0, 5, "one is closed")
            equal(offers(web), (101, None), "after one was closed")


@case("requests of one client: 429 with Retry-After and the connection goes on, a reset, or they wait; a route may differ", limit=60)
def requests():
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web, squall.sysctl(client_requests_rate=2, client_requests_burst=3):
        with client_from(web) as client, client_from(web, B) as other, counting(web.route_stats, client_requests_limit=2):
            equal([ask(client)[0] for _ in range(3)], [200] * 3, "the burst")
            route_file(web, "client_requests_rate", 0)
            equal(ask(client)[0], 200, "a route without a limit")
            route_file(web, "client_requests_rate", 1)
            with squall.sysctl(client_requests_burst=1):
                status, retry = ask(client)
                equal(status, 429, "status")
                check(1 <= int(retry) <= 3, f"Retry-After {retry}")
                post = wire.request(method="POST", body=b"x" * 10)
                equal(ask(client, post)[0], 429, "status of a request with a body")
                check(client.ended(), "a request whose body was not read leaves the connection open")
                equal(ask(other)[0], 200, "another client")
        route_file(web, "client_requests_rate", "default")
        at_rest(20)
        # What others say of whom they act for does not matter.
        squall.write(f"{web.directory}/trusted", "127.0.0.0/8")
        with client_from(web) as client:
            said = lambda number: wire.request(fields=[f"X-Forwarded-For: 198.51.100.{number}"])
            equal([ask(client, said(number))[0] for number in range(3)], [200] * 3, "the burst")
            with squall.sysctl(client_requests_burst=1, limit_action=2), counting(web.route_stats, client_requests_limit=1):
                client.send(said(9))
                check(client.was_reset(), "not reset")
        at_rest(20)


@case("what a rate allows is not less for coming in one tick of the kernel's clock")
def fine_clock():
    rates = squall.sysctl(client_requests_rate=1_000_000, client_requests_burst=1)
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web, rates, client_from(web) as client:
        for _ in range(10):
            client.send(wire.request() * 4)
            equal([client.read_response()[0].status for _ in range(4)], [200] * 4, "statuses of what comes at once")


@case("a request that comes too early waits for its turn, as long as that is near", limit=60)
def delay():
    limits = {"client_requests_rate": 2, "client_requests_burst": 1, "limit_action": 1, "limit_delay_max_ms": 1200}
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web, squall.sysctl(**limits):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(client_from(web)) for _ in range(5)]
            with counting(web.route_stats, delayed=2, client_requests_limit=2):
                start = time.monotonic()
                for client in clients:
                    client.send(wire.request())
                statuses, took = [], []
                for client in clients[3:] + clients[:3]:
                    statuses.append(client.read_response()[0].status)
                    took.append(time.monotonic() - start)
            # One at once, the others half a second and a second later.
            equal(statuses, [429, 429, 200, 200, 200], "statuses")
            check(took[1] < 0.45 * ktap.PACE, f"refused after {took[1]:.2f} s")
            check(0.45 <= took[3] and 0.95 <= took[4] <= 1.3 * ktap.PACE, f"served after {took[2:]}")
        at_rest()


@case("offers of one client per second, and those of all: 429 and 503; its tunnels, and those of a route", limit=60)
def upgrades():
    with ws.echo_server() as server, squall.Listener(server) as web:
        for name, cause, status, other in (
            ("client_upgrades", "client_upgrades_limit", 429, 101),
            ("upgrades", "upgrades_limit", 503, 503),
        ):
            route_file(web, f"{name}_rate", 1)
            # The burst is not what counts afterwards: a slow machine may have got another token by then.
            route_file(web, f"{name}_burst", 2)
            equal([offers(web)[0] for _ in range(2)], [101] * 2, "the burst")
            route_file(web, f"{name}_burst", 1)
            with counting(web.route_stats, **{cause: 1 + (other == 503)}):
                got, retry = offers(web)
                equal(got, status, f"{name}: status")
                check(int(retry) in (1, 2), f"Retry-After {retry}")
                equal(offers(web, B)[0], other, f"{name}: another client")
            route_file(web, f"{name}_rate", "default")
        for name, cause, status, other in (
            ("client_tunnels_max", "client_tunnels_limit", 429, 101),
            ("tunnels_max", "tunnels_limit", 503, 503),
        ):
            until(lambda: web.server_stats()["tunnels_open"] == 0, 5, "no tunnel is left")
            route_file(web, name, 2)
            tunnels = [offer(web) for _ in range(2)]
            equal([status for _, status, _ in tunnels], [101] * 2, "as many as there may be")
            with counting(web.route_stats, **{cause: 1 + (other == 503)}):
                equal(offers(web), (status, "1"), f"{name}: one more")
                equal(offers(web, B)[0], other, f"{name}: another client")
            tunnels[0][0].reset()
            until(lambda: web.server_stats()["tunnels_open"] == 1, 5, "one is closed")
            equal(offers(web)[0], 101, "after one was closed")
            tunnels[1][0].close()
            route_file(web, name, "default")
        at_rest()


@case("offers under way count as tunnels, so that many at once are not too many")
def under_way():
    go = threading.Event()

    def serve(peer, _number):
        head = peer.read_head()
        go.wait(ktap.seconds(20))
        peer.send(ws.switching(head))
        peer.read_rest()

    for name, status in (("client_tunnels_max", 429), ("tunnels_max", 503)):
        go.clear()
        with wire.RawServer(serve) as server, squall.Listener(server, connections=4) as web, contextlib.ExitStack() as stack:
            route_file(web, name, 2)
            waiting = [stack.enter_context(client_from(web)) for _ in range(2)]
            for client in waiting:
                client.send(ws.offer())
            until(lambda: web.server_stats()["requests"] == 2, 5, "two offers are at the server")
            equal(offers(web)[0], status, "the third")
            waiting[0].reset()
            until(lambda: web.stats()["connections"] <= 1, 5, "one is gone")
            third = stack.enter_context(client_from(web))
            third.send(ws.offer())
            go.set()
            equal([client.read_head().status for client in (waiting[1], third)], [101, 101], "the others")
    at_rest()


@case("IPv6: addresses of one /64 are one client, or as the prefix says; IPv4 likewise")
def prefixes():
    addresses = ("fd77:1::1", "fd77:1::2", "fd77:2::1")
    for address in addresses:
        netns.shell(f"ip -6 addr add {address}/128 dev lo")
    try:
        with wire.RawServer(HELLO) as server, squall.Listener(server, host=addresses[0]) as web, squall.sysctl(client_connections_max=1):
            with client_from(web, addresses[1]):
                until(lambda: web.stats()["connections"] == 1, 5, "the first")
                equal([passes(web, source) for source in addresses], [False, False, True], "who passes beside it")
                with squall.sysctl(client_prefix_v6=128):
                    equal(passes(web, addresses[0]), True, "a client by its whole address")
            at_rest()
        with wire.RawServer(HELLO) as server, squall.Listener(server) as web, squall.sysctl(client_connections_max=1, client_prefix_v4=24):
            with client_from(web, "127.0.7.1"):
                until(lambda: web.stats()["connections"] == 1, 5, "the first")
                equal([passes(web, source) for source in ("127.0.7.2", "127.0.8.1")], [False, True], "who passes beside it")
    finally:
        for address in addresses:
            netns.shell(f"ip -6 addr del {address}/128 dev lo")


def reset(client):
    """Ends a connection by RST."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@case("clients that reset at any point leave nothing that counts")
def abrupt():
    release = threading.Event()

    def serve(peer, _number):
        while True:
            head = peer.read_head()
            if "/wait" in head.start:
                release.wait(ktap.seconds(20))
            if head.get("Upgrade"):
                peer.send(ws.switching(head))
                peer.read_rest()
            peer.send(wire.response(peer.read_body(head)))

    limits = squall.sysctl(
        client_connections_max=100, client_tunnels_max=100, tunnels_max=100, client_requests_rate=1000, client_requests_burst=1000
    )
    with wire.RawServer(serve) as server, squall.Listener(server, connections=4) as web, limits:
        phases = (
            b"", b"GET / HT", wire.request("/wait"), wire.request(method="POST", fields=["Content-Length: 9"]) + b"abc",
            wire.request("/wait", "POST", ["Content-Length: 9"]) + b"abc", ws.offer()[:-2], ws.offer("/wait"), ws.offer(), b"\x01",
        )
        for data in phases * ktap.scaled(3, 1):
            for leave in (reset, wire.Wire.close, wire.Wire.reset):
                client = client_from(web)
                client.send(data)
                if data == ws.offer():
                    equal(client.read_head().status, 101, "status")
                leave(client)
        with squall.sysctl(limit_action=1, client_requests_rate=1, client_requests_burst=1):
            # Some of these are waiting for their turn.
            for _ in range(4):
                client = client_from(web)
                client.send(ws.offer())
                reset(client)
        release.set()
        until(lambda: web.stats()["connections"] == 0 and web.stats()["tunnels_open"] == 0, 20, "all are closed")
        at_rest(20)
        route_file(web, "tunnels_max", 1)
        # Nothing of those offers is left.
        until(lambda: web.server_stats()["tunnels_open"] == 0, 20, "no tunnel is left at the server")
        equal(offers(web)[0], 101, "a tunnel where there may be one")


@contextlib.contextmanager
def table_of(clients):
    """The module loaded anew, with a table for so many clients."""
    squall.unload()
    subprocess.run(["insmod", squall.MODULE, f"clients_max={clients}"], check=True)
    try:
        yield
    finally:
        squall.unload()
        squall.load()


@case("a full table: clients at rest give way, and those who find no place are refused and counted", log="squall.*refused")
def full():
    squall.unload()
    for bad in (0, (1 << 22) + 1):
        done = subprocess.run(["insmod", squall.MODULE, f"clients_max={bad}"], stderr=subprocess.DEVNULL, check=False)
        check(done.returncode, f"a table for {bad} clients")
    with table_of(20), wire.RawServer(HELLO) as server, squall.Listener(server) as web, contextlib.ExitStack() as stack:
        stack.enter_context(squall.sysctl(client_connections_max=5))
        # Many more than there is room for, one after the other.
        for number in range(60):
            check(passes(web, f"127.0.1.{number + 1}"), f"client {number}")
        until(lambda: web.stats()["connections"] == 0, 5, "all are closed")
        equal(squall.module_stats()["clients_untracked"], 0, "clients without a place")
        clients = [stack.enter_context(client_from(web, f"127.0.2.{number + 1}")) for number in range(20)]
        until(lambda: web.stats()["connections"] == 20, 5, "all have a place")
        equal(squall.module_stats()["clients"], 20, "clients")
        check(not passes(web), "a client beyond them")
        equal(squall.module_stats()["clients_untracked"], 1, "clients without a place")
        equal(passes(web, "127.0.2.1"), True, "one that has a place")
        route_file(web, "client_requests_rate", 1)
        equal(ask(clients[0]), (503, "1"), "a request of a client that has no place for the route")
        route_file(web, "client_requests_rate", "default")
        clients[7].close()
        until(lambda: web.stats()["connections"] == 19, 5, "one is closed")
        equal(passes(web), True, "in its place")
        # Three blocks of memory, and the chains.
        equal(squall.module_stats()["clients_bytes"] <= 3 * 1024 + 4 * 20, True, "memory")


@case("many connections from many addresses leave nothing, and no more memory than is stated", limit=120)
def many():
    count = int(os.environ.get("SQUALL_CLIENTS", ktap.scaled(10_000, 600)))
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web, squall.sysctl(client_connections_max=10):
        before = squall.module_stats()
        target = (web.host, web.port)
        linger = struct.pack("ii", 1, 0)
        held = []
        # A part is open at any time, so that places are needed for them.
        for number in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            sock.bind((f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 0))
            sock.connect(target)
            held.append(sock)
            if len(held) == 512:
                most = squall.module_stats()["clients"]
                check(most > 400, f"{most} clients while 512 connections are open")
                for sock in held:
                    sock.close()
                held.clear()
        for sock in held:
            sock.close()
        until(lambda: web.stats()["connections"] == 0, 20, "all are closed")
        at_rest()
        after = squall.module_stats()
        equal(after["accepted"] - before["accepted"], count, "accepted")
        equal(after["clients_untracked"] - before["clients_untracked"], 0, "clients without a place")
        ktap.note(f"{count} addresses, 512 at a time: {after['clients_bytes']} bytes")
        # 61 bytes for each place of the table, whatever came.
        check(after["clients_bytes"] <= 61 << 20, f"{after['clients_bytes']} bytes")


@case("without memory for the table a client is refused where there is a limit, and nowhere else", log=faults.LOG)
def no_memory():
    if not faults.possible():
        raise ktap.Skip("this kernel cannot fail allocations")
    # With a table that has no idle place yet.
    with table_of(20), wire.RawServer(HELLO) as server, squall.Listener(server) as web:
        with table_failing():
            check(passes(web), "no limit is set")
            with squall.sysctl(client_connections_max=5):
                before = squall.module_stats()["clients_untracked"]
                check(not passes(web, "127.9.9.9"), "a client that cannot be tracked was served")
                check(squall.module_stats()["clients_untracked"] > before, "not counted")
        with squall.sysctl(client_connections_max=5):
            check(passes(web, "127.9.9.9"), "with memory again")
    at_rest()


def table_failing():
    """While entered, allocations of the table of clients fail, and no other's."""
    with open("/proc/kallsyms", encoding="ascii") as file:
        lines = (line.split() for line in file if "[squall]" in line)
        symbols = sorted((int(line[0], 16), line[2]) for line in lines)
    at = next(place for place, (_, name) in enumerate(symbols) if "clients" in name and "grow" in name)
    ktap.note(f"allocations fail below {symbols[at][1]}")
    return faults.failing(100, (symbols[at][0], symbols[at + 1][0]))


# The last one: its clients are at rest only after a minute.
@case("failed offers of one client per minute: its offers are refused then, its requests are not", limit=60)
def failures():
    def serve(peer, _number):
        while True:
            head = peer.read_head()
            if head.get("Upgrade") and "/good" in head.start:
                peer.send(ws.switching(head))
                peer.read_rest()
            peer.send(wire.response(status="403 Forbidden" if head.get("Upgrade") else "200 OK"))

    def tries(data, source=A):
        with client_from(web, source) as client:
            return ask(client, data)

    good, bad, malformed = ws.offer("/good"), ws.offer("/bad"), ws.offer(key="two words")
    limit = squall.sysctl(client_handshake_failures_max=3)
    with wire.RawServer(serve) as server, squall.Listener(server, connections=4) as web, limit:
        def good_offer(source):
            with client_from(web, source) as client:
                client.send(good)
                head = client.read_head()
                return head.status, head.get("Retry-After")

        equal([good_offer(A)[0] for _ in range(5)], [101] * 5, "those that become tunnels do not count")
        equal([tries(data)[0] for data in (bad, malformed)], [403, 400], "two that fail")
        equal(good_offer(A)[0], 101, "after two")
        leaves = client_from(web)
        leaves.send(good[:-2])
        leaves.close()
        equal(good_offer(A)[0], 101, "what never was an offer does not count")
        # A refusal by another limit counts as well.
        route_file(web, "client_upgrades_rate", 1)
        route_file(web, "client_upgrades_burst", 1)
        good_offer(A)
        equal(good_offer(A)[0], 429, "one too early")
        route_file(web, "client_upgrades_rate", "default")
        with counting(web.route_stats, client_failures_limit=2):
            status, retry = good_offer(A)
            equal(status, 429, "after three")
            check(10 <= int(retry) <= 20, f"Retry-After {retry}: a third of a minute, less what has passed")
            again = int(good_offer(A)[1])
            check(again <= int(retry), f"what is refused for it does not count again: {retry}, then {again}")
        equal(tries(wire.request())[0], 200, "a request")
        equal(good_offer(B)[0], 101, "another client")
    # That nobody answers is not the client's fault.
    with squall.Listener("127.0.0.1:9", wait=False) as web, squall.sysctl(client_handshake_failures_max=1):
        until(lambda: web.server_stats()["failures"] > 0, 5, "the server is down")
        equal([tries(good)[0] for _ in range(3)], [502] * 3, "no server")


session.main()
