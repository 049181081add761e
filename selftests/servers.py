#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Several servers behind a route: who gets what. And how many connections a server has, under a burst and after it."""

import collections
import contextlib
import errno
import os
import resource
import select
import socket
import threading
import time

from lib import ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until

# How many upgrades come in one burst.
UPGRADES = int(os.environ.get("SQUALL_UPGRADES", ktap.scaled(2000, 100)))


def named(name, **options):
    """A server that answers with its name, or closes if the request says so, and with tunnels that stay open."""

    def handler(peer, _number):
        while True:
            head = peer.read_head()
            if head.get("Upgrade"):
                peer.send(ws.switching(head, [f"X-Server: {name}"]))
                peer.read_rest()
                return
            if head.get("X-Fails") == name:
                return
            peer.send(wire.response(name.encode()))

    return wire.RawServer(handler, **options)


@contextlib.contextmanager
def route(count, balance="round-robin", **attributes):
    """A listener with servers "0", "1" and so on; an attribute is a list with a value for each server."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(named(str(number))) for number in range(count)]
        web = stack.enter_context(squall.Listener(*servers))
        squall.write(f"{web.directory}/{squall.ROUTE}/balance", balance)
        for name, values in attributes.items():
            for number, value in enumerate(values):
                squall.write(f"{web.server_directory(number)}/{name}", value)
        yield web, servers


def ask(web, source="127.0.0.1", fields=()):
    """Who answers a request from this address, with these fields."""
    with socket.socket() as sock:
        sock.settimeout(ktap.seconds(10))
        sock.bind((source, 0))
        sock.connect((web.host, web.port))
        client = wire.Wire(sock)
        client.send(wire.request(fields=fields))
        head, body = client.read_response()
        return body.decode() if head.status == 200 else head.status


def tunnel(web, fields=()):
    """A client's end of a new tunnel, and who has the other."""
    client = web.connect()
    client.send(ws.offer(fields=fields))
    head = client.read_head()
    equal(head.status, 101, "status")
    return client, head.get("X-Server")


def closed(web, count):
    """Waits until so many tunnels are open, the server's side included."""
    open_now = lambda: sum(web.server_stats(number)["tunnels_open"] for number in range(len(web.servers)))
    until(lambda: open_now() == count, 10, f"{count} tunnels are open")


@case("in turn, each server gets requests as its weight says, evenly spread; one of weight 0 gets none")
def in_turn():
    with route(3, weight=[3, 1, 0]) as (web, _):
        got = [ask(web) for _ in range(40)]
        equal(collections.Counter(got), {"0": 30, "1": 10}, "who answered")
        for start in range(0, 40, 4):
            equal(sorted(got[start : start + 4]), ["0", "0", "0", "1"], f"who answered from request {start} on")
        squall.write(f"{web.server_directory(2)}/weight", 1)
        equal(collections.Counter(ask(web) for _ in range(20)), {"0": 12, "1": 4, "2": 4}, "who answered afterwards")


@case("the least loaded server gets the next one: tunnels count, for the weight of the server")
def least_connections():
    with route(2, "least-connections", weight=[2, 1]) as (web, _), contextlib.ExitStack() as stack:
        ends = collections.defaultdict(list)
        for _ in range(30):
            client, who = tunnel(web)
            ends[who].append(stack.enter_context(client))
        equal({who: len(clients) for who, clients in ends.items()}, {"0": 20, "1": 10}, "tunnels")
        # All that come now belong to the server that lost its own.
        for client in ends["0"]:
            client.close()
        closed(web, 10)
        for number in range(18):
            client, who = tunnel(web)
            stack.enter_context(client)
            equal(who, "0", f"who got tunnel {number} after the others had gone")


@case("among equally loaded servers the least loaded is another one each time")
def equal_load():
    with route(4, "least-connections") as (web, _):
        got = collections.Counter(ask(web) for _ in range(40))
        equal(got, {str(number): 10 for number in range(4)}, "who answered")


@case("a backup gets something only while no other server is up")
def backup():
    with squall.sysctl(backoff_max_ms=200), route(3, backup=[0, 0, 1]) as (web, servers):
        check("2" not in {ask(web) for _ in range(20)}, "the backup was used")
        for number in (0, 1):
            servers[number].stop()
        until(lambda: web.route_stats()["servers_up"] == 1, 10, "the others are known to be down")
        equal({ask(web) for _ in range(10)}, {"2"}, "who answers while the others are down")
        servers[1].start()
        until(lambda: web.route_stats()["servers_up"] == 2, 10, "one of them is back")
        equal({ask(web) for _ in range(10)}, {"1"}, "who answers when one of them is back")


@case("by its address a client always gets the same server, and a server that goes moves no other's clients")
def address_hash():
    with route(3, "address-hash") as (web, _):
        clients = [f"127.0.{number}.{5 * number + 1}" for number in range(40)]
        first = {client: ask(web, client) for client in clients}
        equal({client: ask(web, client) for client in clients}, first, "who answers the second time")
        shares = collections.Counter(first.values())
        ktap.note(f"shares of {len(clients)} clients: {dict(shares)}")
        check(len(shares) == 3 and min(shares.values()) >= 3, f"clients are not spread: {shares}")
        os.rmdir(web.server_directory(2))
        after = {client: ask(web, client) for client in clients}
        moved = {client for client in clients if after[client] != first[client]}
        equal(moved, {client for client in clients if first[client] == "2"}, "clients that moved")


class Values:
    """Values of a cookie or field, asked for one after the other on one connection."""

    def __init__(self, web, line, count):
        self.web, self.lines = web, [line.format(f"value-{number}") for number in range(count)]

    def answers(self):
        """Who answers each value."""
        with self.web.connect() as client:
            return [self.answer(client, line) for line in self.lines]

    @staticmethod
    def answer(client, line):
        """Who answers this one."""
        client.send(wire.request(fields=[line]))
        head, body = client.read_response()
        return body.decode() if head.status == 200 else head.status


@contextlib.contextmanager
def sticky(count, balance, name, **attributes):
    """A route whose servers are chosen by a cookie or field."""
    with route(count, balance, **attributes) as (web, servers):
        squall.write(f"{web.directory}/{squall.ROUTE}/balance_name", name)
        yield web, servers


@case("by a cookie or a field: the same server over connections, clients and tunnels; a server that goes moves no other's values")
def sticky_values():
    for balance, name, line in (
        ("cookie-hash", "sid", "Cookie: a=b; sid={}; c=d"),
        ("header-hash", "X-Room", "x-room: {}"),
    ):
        with sticky(4, balance, name) as (web, _):
            values = Values(web, line, 120)
            first = values.answers()
            shares = collections.Counter(first)
            ktap.note(f"{balance}: shares of {len(first)} values: {dict(shares)}")
            check(len(shares) == 4 and min(shares.values()) >= 10, f"values are not spread: {shares}")
            equal(values.answers(), first, "who answers the second time")
            for number in range(0, 40, 4):
                fields = [values.lines[number]]
                equal(ask(web, f"127.0.0.{number + 2}", fields), first[number], "who answers another client")
                client, who = tunnel(web, fields)
                client.close()
                equal(who, first[number], "who gets the tunnel")
            os.rmdir(web.server_directory(3))
            after = values.answers()
            moved = [number for number, who in enumerate(after) if who != first[number]]
            equal(moved, [number for number, who in enumerate(first) if who == "3"], "values that moved")
            check(len({after[number] for number in moved}) == 3, "all went to the same server")


@case("values are spread as the weights say, and a weight that grows moves values to its server only")
def sticky_weights():
    with sticky(3, "header-hash", "x-room", weight=[3, 1, 0]) as (web, _):
        values = Values(web, "X-Room: {}", 300)
        first = values.answers()
        shares = collections.Counter(first)
        ktap.note(f"shares: {dict(shares)}")
        # Six times the standard deviation, 7.5.
        check(180 <= shares["0"] <= 270 and shares["0"] + shares["1"] == 300, f"shares by weights 3 and 1: {shares}")
        squall.write(f"{web.server_directory(2)}/weight", 2)
        after = values.answers()
        moved = {who for who, before in zip(after, first) if who != before}
        equal(moved, {"2"}, "where values went")
        check(55 <= collections.Counter(after)["2"] <= 145, f"shares by weights 3, 1 and 2: {collections.Counter(after)}")


@case("clients of a server that is down, disabled or of weight 0 go to the next of their order, and come back")
def sticky_return():
    with squall.sysctl(backoff_max_ms=200), sticky(3, "cookie-hash", "sid") as (web, servers):
        values = Values(web, "Cookie: sid={}", 60)
        first = values.answers()
        directory = web.server_directory(1)
        client, _who = tunnel(web, [values.lines[first.index("0")]])

        squall.write(f"{directory}/enable", 0)
        away = values.answers()
        squall.write(f"{directory}/enable", 1)
        equal(values.answers(), first, "who answers when it is enabled again")
        squall.write(f"{directory}/weight", 0)
        equal(values.answers(), away, "who answers while it has weight 0")
        squall.write(f"{directory}/weight", 1)
        servers[1].stop()
        # Also the first of them, which finds out.
        equal(values.answers(), away, "who answers while it is down")
        servers[1].start()
        until(lambda: web.route_stats()["servers_up"] == 3, 10, "it is back")
        equal(values.answers(), first, "who answers when it is back")
        equal([who for who, before in zip(away, first) if before != "1"], [who for who in first if who != "1"], "who stayed")
        check({who for who, before in zip(away, first) if before == "1"} == {"0", "2"}, "all went to the same server")
        # A request that is sent again has no head any more.
        for number in [number for number, who in enumerate(first) if who == "1"][:8]:
            fields = [values.lines[number], "X-Fails: 1"]
            equal(ask(web, fields=fields), away[number], "who answers when it closes the connection")
        check(client.silent_for(0.1), "a tunnel ended")
        client.close()


@case("without one value servers take turns: none, empty, or several that differ; the same one twice is one")
def sticky_fallback():
    turns = {str(number): 4 for number in range(3)}
    with sticky(3, "cookie-hash", "sid") as (web, _), web.connect() as client:
        wanted = Values.answer(client, "Cookie: sid=one")

        def answers(*fields):
            got = []
            for _ in range(12):
                client.send(wire.request(fields=fields))
                got.append(client.read_response()[1].decode())
            return collections.Counter(got)

        for fields in (
            ["Cookie: sid=one; sid=one"], ["Cookie: a=b", "Cookie: sid=one"], ["Cookie: sid=one", "Cookie: c=d; sid = one "],
            ["Cookie: a=\"; sid=one; \""],
        ):
            equal(answers(*fields), {wanted: 12}, f"who answers {fields}")
        for fields in (
            [], ["Cookie: a=b"], ["Cookie: sid="], ["Cookie: SID=one"], ["X: sid=one"], ["Cookie: sid=one; sid=two"],
            ["Cookie: sid=one", "Cookie: sid="], ["Cookie: sid=one", "Cookie: sid=two"],
        ):
            equal(answers(*fields), turns, f"who answers {fields}")
        route_directory = f"{web.directory}/{squall.ROUTE}"
        squall.write(f"{route_directory}/balance_name", "")
        equal(answers("Cookie: sid=one; =one"), turns, "who answers while there is no name")
        squall.write(f"{route_directory}/balance_name", "X-Room")
        squall.write(f"{route_directory}/balance", "header-hash")
        equal(len(answers("X-Room: a")), 1, "servers that answer one value")
        equal(answers("X-Room: a", "X-Room: b"), turns, "who answers two values")
        equal(answers("Cookie: X-Room=a"), turns, "who answers a cookie of that name")


@case("names of cookies and fields are tokens; changing them and the balance leaves tunnels alone", log="squall.*refused")
def sticky_names():
    with sticky(2, "cookie-hash", "sid") as (web, _):
        client, _who = tunnel(web, ["Cookie: sid=one"])
        path = f"{web.directory}/{squall.ROUTE}/balance_name"
        for bad in ("a b", "a=", "a;b", "a,b", "sid:", '"sid"', "\u00e4", "x" * 65, "sid\x00"):
            ktap.kernel_lines()
            try:
                squall.write(path, bad)
                raise AssertionError(f"{bad!r} was taken")
            except OSError as error:
                equal(error.errno, errno.EINVAL, f"errno for {bad!r}")
            lines = [text for text in ktap.kernel_lines() if "all/balance_name: " in text]
            check(lines and "not a token" in lines[0], f"the log about {bad!r}: {lines}")
            equal(squall.read(path), "sid", f"the name after {bad!r}")
        for good in ("x" * 64, "__Host-sid", "!#$%&'*+-.^_`|~", ""):
            squall.write(path, good)
            equal(squall.read(path), good, "the name")
        for balance in ("round-robin", "header-hash", "cookie-hash", "address-hash"):
            squall.write(f"{web.directory}/{squall.ROUTE}/balance", balance)
            equal(squall.read(f"{web.directory}/{squall.ROUTE}/balance"), balance, "balance")
        check(client.silent_for(0.2), "the tunnel ended")
        client.close()


@case("with nothing but servers of weight 0 requests get 503, and tunnels that are open stay so")
def no_weight():
    with route(2) as (web, _):
        client, _who = tunnel(web)
        for number in range(2):
            squall.write(f"{web.server_directory(number)}/weight", 0)
        equal(ask(web), 503, "status")
        check(client.silent_for(0.3), "the tunnel ended")
        client.close()
        squall.write(f"{web.server_directory(1)}/weight", 1)
        equal(ask(web), "1", "who answers when one has a weight again")


@case("a server has connections_max connections at most while many are wanted, and connections afterwards", limit=60)
def connections_max():
    go_on = threading.Event()

    def handler(peer, _number):
        while True:
            peer.read_head()
            go_on.wait(ktap.seconds(20))
            peer.send(wire.response(b"late"))

    with wire.RawServer(handler) as server, squall.Listener(server) as web, contextlib.ExitStack() as stack:
        directory = web.server_directory()
        squall.write(f"{directory}/connections_max", 5)
        clients = [stack.enter_context(web.connect()) for _ in range(20)]
        for client in clients:
            client.send(wire.request())
        until(lambda: web.server_stats()["busy"] == 5, 10, "five exchanges")
        time.sleep(0.5)
        stats = web.server_stats()
        equal((stats["connected"], stats["connecting"], stats["waiting"]), (5, 0, 15), "connected, connecting and waiting")
        go_on.set()
        for client in clients:
            equal(client.read_response()[1], b"late", "response")
        until(lambda: web.server_stats()["connected"] == 2, 10, "the pool is as small as before")


@case("connections and connections_max are held against each other", log="squall.*refused")
def contradiction():
    with squall.Listener("127.0.0.1:9", enable=False) as web:
        directory = web.server_directory()
        squall.write(f"{directory}/connections", 10)
        squall.write(f"{directory}/connections_max", 10)
        for name, value in (("connections", 11), ("connections_max", 9)):
            try:
                squall.write(f"{directory}/{name}", value)
                raise AssertionError(f"{name} = {value} was accepted")
            except OSError:
                equal(squall.read(f"{directory}/{name}"), "10", f"{name} after a refused value")


class Burst:
    """Clients that upgrade as fast as they can, and a server that accepts all, in one thread."""

    def __init__(self):
        self.poller = select.epoll()
        self.socks = {}
        self.answers = collections.Counter()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", wire.free_port()))
        self.listener.listen(4096)
        self.listener.setblocking(False)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.poller.register(self.listener, select.EPOLLIN)

    def add(self, sock, is_client):
        """Has a socket served."""
        self.socks[sock.fileno()] = (sock, is_client)
        self.poller.register(sock, select.EPOLLIN)

    def poll(self):
        """Does what can be done."""
        for number, _ in self.poller.poll(0.05):
            if number == self.listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        self.add(self.listener.accept()[0], False)
                continue
            sock, is_client = self.socks[number]
            data = sock.recv(4096)
            if not data:
                self.poller.unregister(sock)
                sock.close()
                del self.socks[number]
            elif is_client:
                self.answers[data.split(b" ", 2)[1]] += 1
            else:
                sock.send(ws.switching(wire.Head(data[:-2])))

    def close(self):
        """Closes everything."""
        for sock, _ in self.socks.values():
            sock.close()
        self.listener.close()
        self.poller.close()


@case(f"{UPGRADES} upgrades at once: none is refused, and the pool is what it was", limit=240)
def burst():
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))
    burst = Burst()
    settings = squall.sysctl(queue_timeout_ms=60_000, response_timeout_ms=ktap.seconds(60) * 1000)
    with settings, squall.Listener(burst.address, connections=4, wait=False) as web:
        start, offer = time.monotonic(), ws.offer()
        for number in range(UPGRADES):
            client = socket.create_connection((web.host, web.port))
            client.send(offer)
            burst.add(client, True)
            # So that nothing waits in the kernel for want of a reader.
            if number % 64 == 0:
                burst.poll()
        limit = time.monotonic() + ktap.seconds(60)
        while sum(burst.answers.values()) < UPGRADES and time.monotonic() < limit:
            burst.poll()
        ktap.note(f"{UPGRADES} upgrades in {time.monotonic() - start:.1f} s")
        equal(burst.answers, {b"101": UPGRADES}, "answers")
        equal(web.server_stats()["tunnels_open"], UPGRADES, "tunnels")
        settled = lambda: burst.poll() or (web.server_stats()["idle"], web.server_stats()["connected"]) == (4, 4)
        until(settled, 10, "the pool is as large as before")
        burst.close()
        until(lambda: web.server_stats()["tunnels_open"] == 0, 30, "no tunnel is left")


session.main()
