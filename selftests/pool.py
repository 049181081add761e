#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The connections that are kept to servers: how fast they are made, how vanished servers are found, how many there are."""

import contextlib
import os
import select
import socket
import threading
import time

from lib import ktap, netns, session, squall, sniff, wire, ws
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


class OneAtATime:
    """A server of one thread that serves one connection at a time, and blocks on one that says nothing.

    `keeps`: it keeps a connection until the peer closes it.
    """

    def __init__(self, keeps, port=None):
        self.keeps = keeps
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", port or wire.free_port()))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.accepted += 1
                with wire.Wire(sock) as peer, contextlib.suppress(OSError, wire.Closed):
                    self._answer(peer)

    def _answer(self, peer):
        peer.read_head()
        peer.send(wire.response(b"one", fields=[] if self.keeps else ["Connection: close"]))
        while self.keeps:
            peer.read_head()
            peer.send(wire.response(b"more"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def ask(web, timeout=20):
    """Status and body of one request on a connection of its own."""
    with web.connect(timeout=timeout) as client:
        client.send(wire.request())
        head, body = client.read_response()
        return head.status, body


@case("by default nothing is connected ahead of need: a server that serves one connection at a time answers at once")
def one_at_a_time():
    for keeps in (False, True):
        with OneAtATime(keeps) as server, squall.Listener(server, connections=None, idle_ms=None) as web:
            time.sleep(0.3)
            equal(web.server_stats()["connects"], 0, "attempts before there is a request")
            start = time.monotonic()
            for _ in range(5):
                equal(ask(web)[0], 200, "status")
            took = (time.monotonic() - start) / ktap.PACE
            ktap.note(f"5 requests, keeps={keeps}: {took:.2f} s")
            check(took < 2, f"5 requests took {took:.1f} s")
            equal(web.server_stats()["connects"], 1 if keeps else 5, "connections for 5 requests")


@case("a server that is found to be back is not left with a connection that says nothing")
def back_alone():
    port = wire.free_port()
    with squall.sysctl(backoff_max_ms=100), squall.Listener(f"127.0.0.1:{port}", connections=None, idle_ms=None) as web:
        equal(ask(web)[0], 502, "status while the server refuses")
        until(lambda: web.server_stats()["failures"] >= 2, 10, "it is tried again")
        with OneAtATime(False, port) as server:
            until(lambda: web.server_stats()["up"] == 1, 10, "it is found to be back")
            start = time.monotonic()
            equal(ask(web), (200, b"one"), "answer")
            check((time.monotonic() - start) / ktap.PACE < 2, "the answer took its time")
            check(server.accepted >= 2, f"accepted {server.accepted}: it was not tried")


def looped(web, clients, seconds):
    """Clients that ask one after the other for so long, each on a connection of its own; returns how many requests that were."""
    end, counts = time.monotonic() + seconds, []

    def loop():
        count = 0
        with web.connect() as client:
            while time.monotonic() < end:
                client.send(wire.request())
                equal(client.read_response()[0].status, 200, "status")
                count += 1
        counts.append(count)

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(len(counts), clients, "clients that came to the end")
    return sum(counts)


@case("connections are kept for idle_ms when they have served a request, and leave no TIME_WAIT when they are ended", limit=60)
def kept():
    clients = 32
    with wire.RawServer(HELLO) as server, squall.Listener(server, connections=4, idle_ms=None) as web:
        before = squall.module_stats()["idle_surplus"]
        requests = looped(web, clients, ktap.seconds(2))
        stats = web.server_stats()
        ktap.note(f"{requests} requests, {stats['connects']} connects, {stats['connected']} connections afterwards")
        # One that was begun for a client may be met by another that is given back.
        check(stats["connects"] <= 3 * clients, f"{stats['connects']} connects for {requests} requests")
        check(stats["connected"] > 4, f"{stats['connected']} connections are kept")
        squall.write(f"{web.server_directory()}/idle_ms", 300)
        until(lambda: web.server_stats()["connected"] == 4, 5, "the surplus is ended")
        ended = squall.module_stats()["idle_surplus"] - before
        check(ended >= stats["connected"] - 4, f"idle_surplus counts {ended}")
        time.sleep(0.3)
        equal(web.server_stats()["connected"], 4, "connections that are kept for any time")
        equal(wire.time_waits(server.port), 0, "ports in TIME_WAIT")


@case("idle_max bounds how many are kept, and idle_ms 0 keeps none")
def idle_max():
    go_on = threading.Event()

    def serve(peer, _number):
        while True:
            peer.read_head()
            go_on.wait(ktap.seconds(20))
            peer.send(wire.response(b"late"))

    for name, value, left in (("idle_max", 3, 3), ("idle_max", 0, 0), ("idle_ms", 0, 0)):
        go_on.clear()
        with wire.RawServer(serve) as server, squall.Listener(server, connections=None, idle_ms=None) as web:
            squall.write(f"{web.server_directory()}/{name}", value)
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(web.connect()) for _ in range(8)]
                for client in clients:
                    client.send(wire.request())
                until(lambda: web.server_stats()["busy"] == 8, 10, "eight exchanges")
                go_on.set()
                for client in clients:
                    equal(client.read_response()[1], b"late", "response")
                until(lambda: web.server_stats()["connected"] == left, 5, f"{left} connections with {name} {value}")
                time.sleep(0.3)
                equal(web.server_stats()["connected"], left, f"connections with {name} {value}")
            equal(wire.time_waits(server.port), 0, "ports in TIME_WAIT")


@case("a server that closes behind each response closes first: the ports of the connections are free again")
def server_closes():
    def serve(peer, _number):
        peer.read_head()
        peer.send(wire.response(b"last", fields=["Connection: close"]))
        time.sleep(0.02)

    with wire.RawServer(serve) as server, squall.Listener(server, connections=0) as web:
        for _ in range(20):
            equal(ask(web), (200, b"last"), "answer")
        equal(wire.time_waits(server.port), 0, "ports in TIME_WAIT")


@case("a server that says that it closes and does not is closed after linger_timeout_ms, without a TIME_WAIT")
def server_stays():
    ends = []

    def serve(peer, _number):
        peer.read_head()
        peer.send(wire.response(b"last", fields=["Connection: close"]))
        ends.append(peer.was_reset())

    with squall.sysctl(linger_timeout_ms=200), wire.RawServer(serve) as server, squall.Listener(server, connections=0) as web:
        equal(ask(web), (200, b"last"), "answer")
        until(lambda: ends == [True], 5, "the connection is reset")
        equal(wire.time_waits(server.port), 0, "ports in TIME_WAIT")


class Alone:
    """A server that has no thread, on one processor with its clients: what it sends has been through softirq to the end when
    `send()` returns, and no process has run meanwhile.
    """

    def __init__(self, port=None):
        self.listener = socket.create_server(("127.0.0.1", port or wire.free_port()))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.processors = os.sched_getaffinity(0)
        self.peers = []

    def accept(self):
        """Takes a connection if there is one now; returns whether."""
        with contextlib.suppress(BlockingIOError):
            self.peers.append(wire.Wire(self.listener.accept()[0]))
            return True
        return False

    def wait(self, count):
        """Waits until so many connections have been taken in all."""
        def enough():
            while self.accept():
                pass
            return len(self.peers) >= count

        until(enough, 10, f"{count} connections", pause=0.001)

    def offered(self):
        """The connection on which an offer has come, and the 101 for it."""
        for peer in self.peers:
            if has_come(peer):
                return peer, ws.switching(peer.read_head())
        raise AssertionError("no offer has come")

    def __enter__(self):
        os.sched_setaffinity(0, {min(self.processors)})
        return self

    def __exit__(self, *_):
        os.sched_setaffinity(0, self.processors)
        self.listener.close()
        for peer in self.peers:
            peer.close()


def has_come(peer):
    """Says whether there is something to read now."""
    return bool(select.select([peer.sock], [], [], 0)[0])


@case("the connection in place of one that became a tunnel is made behind the 101, and always is", limit=60)
def behind_the_answer():
    rounds = 20
    for size in (1, 4, 20):
        early = 0
        with Alone() as server, squall.Listener(server, connections=size) as web, contextlib.ExitStack() as stack:
            server.wait(size)
            for number in range(rounds):
                client = stack.enter_context(web.connect())
                client.send(ws.offer())
                peer, answer = server.offered()
                peer.send(answer)
                early += server.accept()
                check(has_come(client), "no 101 when the server has sent it")
                server.wait(size + number + 1)
            equal(web.server_stats()["connects"], size + rounds, "attempts")
        ktap.note(f"{size} connections: {early} of {rounds} were replaced before the answer was read")
        # A tick that comes just then is the one for which it is put off.
        check(early <= rounds / 2, f"{early} of {rounds} were replaced before the answer was read")


@case("who waits for a connection gets the place of one that became a tunnel at once")
def waiting_is_first():
    with Alone() as server, squall.Listener(server, connections=1) as web, contextlib.ExitStack() as stack:
        squall.write(f"{web.server_directory()}/connections_max", 1)
        server.wait(1)
        for number in range(5):
            first, second = (stack.enter_context(web.connect()) for _ in range(2))
            first.send(ws.offer())
            second.send(ws.offer())
            equal(web.server_stats()["waiting"], 1, "clients that wait")
            for client in (first, second):
                peer, answer = server.offered()
                peer.send(answer)
                check(has_come(client), "no 101 when the server has sent it")
                if client is first:
                    check(server.accept(), "nothing was connected for the client that waits")
            server.wait(1 + 2 * (number + 1))


@case("a replacement that is due is made when the server is back, and none when the server is removed")
def due():
    with Alone() as server:
        with squall.sysctl(backoff_max_ms=50), squall.Listener(server, connections=2) as web, web.connect() as client:
            server.wait(2)
            client.send(ws.offer())
            peer, answer = server.offered()
            server.listener.close()
            peer.send(answer)
            check(has_come(client), "no 101 when the server has sent it")
            until(lambda: web.server_stats()["connect_failed"] >= 2, 10, "attempts are refused")
            with Alone(server.port) as again:
                again.wait(1)
                until(lambda: web.server_stats()["connected"] == 2, 10, "two connections are ready")
    for _ in range(20):
        with Alone() as server, squall.Listener(server, connections=1) as web:
            server.wait(1)
            client = web.connect()
            client.send(ws.offer())
            peer, answer = server.offered()
            peer.send(answer)
            # The removal meets the replacement that is put off.
            squall.remove_tree(web.directory)
            client.close()
            connections = len(server.peers) + server.accept()
            squall.settle(0.02)
            equal(len(server.peers) + server.accept(), connections, "connections after the removal")


session.main()
