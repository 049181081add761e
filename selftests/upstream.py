#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Servers that are down, refuse, vanish, die and restart: what clients see, and recovery without a touch."""

import contextlib
import random
import select
import socket
import threading
import time

from lib import ktap, netns, rt, session, squall, sniff, trace, wire, ws
from lib.ktap import case, check, equal, until

FAILED = (502, 503, 504)
# Time limits small enough for a test, and large enough for the debug kernel.
QUICK = {
    "connect_timeout_ms": 500 * ktap.PACE,
    "response_timeout_ms": 1000 * ktap.PACE,
    "queue_timeout_ms": 500 * ktap.PACE,
    "backoff_max_ms": 500,
}


def get(web, target="/", timeout=20):
    """Status and body of one request on a connection of its own."""
    with web.connect(timeout=timeout) as client:
        client.send(wire.request(target))
        head, body = client.read_response()
        return head.status, body


def recovers(web, limit=10):
    """Waits until requests succeed again."""
    until(lambda: get(web)[0] == 200, limit, "a request is served again", pause=0.1)


HELLO = wire.plain_handler(lambda head, _body: wire.response(head.start.split(" ")[1].encode()))


class Tired(wire.RawServer):
    """A server that answers one request on a connection and then sends `words`, each by itself, as if to another one.

    Without `answers` it does so at once. What came behind that is in `ends`: "fin" or "reset".
    """

    def __init__(self, words, answers=True):
        super().__init__(self._serve_one)
        self.words, self.answers, self.ends = words, answers, []

    def _serve_one(self, peer, _number):
        if self.answers:
            peer.read_head()
            peer.send(wire.response(b"answer"))
            time.sleep(0.2)
        for word in self.words:
            peer.send(word)
            time.sleep(0.05)
        try:
            self.ends.append("fin" if peer.ended() else "more")
        except ConnectionResetError:
            self.ends.append("reset")


# As Node's server sends it to a connection that has been idle for a minute.
NODE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"
SAYS_CLOSE = wire.response(b"Goodbye.", "408 Request Timeout", ["Connection: close"])


@case("a server that closes an idle connection by a 408, or another response that says so, is counted and gets a FIN")
def idle_closed():
    cases = [
        ([NODE], "fin"), ([NODE[:20], NODE[20:]], "fin"), ([SAYS_CLOSE], "fin"), ([SAYS_CLOSE[:-3], b"ye."], "fin"),
        ([b"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n"], "fin"),
        ([wire.response(b"no close")], "reset"), ([SAYS_CLOSE + b"more"], "reset"), ([b"220 mail\r\n"], "reset"),
        ([b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n"], "reset"),
    ]  # fmt: skip
    for words, end in cases:
        with Tired(words) as server, squall.Listener(server, connections=None, idle_ms=60_000) as web:
            squall.write(f"{web.server_directory()}/fails_max", 1)
            before = squall.module_stats()
            for number in range(2):
                equal(get(web), (200, b"answer"), f"answer {number}, {words}")
                until(lambda number=number: len(server.ends) > number, 5, f"the connection ends, {words}")
            equal(server.ends, [end] * 2, f"how the connections ended, {words}")
            now, stats = squall.module_stats(), web.server_stats()
            grown = tuple(now[name] - before[name] for name in ("idle_closed", "bad_responses", "retried"))
            equal(grown, (2, 0, 0) if end == "fin" else (0, 2, 0), f"idle_closed, bad_responses and retried, {words}")
            equal((stats["up"], stats["failures"], stats["requests_failed"]), (1, 0, 0), f"up and failures, {words}")


@case("a server that closes connections by a response before they are used does not count as failing, and no loop begins")
def tired_at_once():
    with Tired([NODE], answers=False) as server, squall.Listener(server, connections=2, wait=False) as web:
        until(lambda: squall.module_stats()["idle_closed"] >= 4, 10, "connections are closed")
        stats = web.server_stats()
        equal((stats["up"], stats["failures"]), (1, 0), "up and failures")
        connects = stats["connects"]
        time.sleep(1)
        more = web.server_stats()["connects"] - connects
        # Two at a time, with the least backoff in between, less its jitter.
        check(0 < more <= 2 * (1000 // 37 + 1), f"{more} attempts in a second")


@case("the same where the response comes in several pieces: only what turns out to be none is a failed attempt")
def tired_in_pieces():
    for words, fails in (
        ([NODE[:20], NODE[20:]], False), ([SAYS_CLOSE[:9], SAYS_CLOSE[9:-3], b"ye."], False),
        ([NODE[:20], b"\r\0\r\n\r\n"], True), ([SAYS_CLOSE[:20], SAYS_CLOSE[20:] + b"more"], True),
    ):  # fmt: skip
        before = squall.module_stats()
        with Tired(words, answers=False) as server, squall.Listener(server, connections=2, wait=False) as web:
            name = "bad_responses" if fails else "idle_closed"
            seen = set()

            def look(web=web, seen=seen, name=name, before=before):
                stats = web.server_stats()
                seen.add((stats["up"], stats["failures"] > 0))
                return squall.module_stats()[name] >= before[name] + 8

            until(look, 20, f"connections are closed, {words}", pause=0.005)
            equal((0, True) in seen, fails, f"a failed attempt was seen, {words}")
            now = squall.module_stats()
        other = "idle_closed" if fails else "bad_responses"
        equal(now[other] - before[other], 0, f"{other}, {words}")


@case("a request whose client has closed its side while it waits for a connection is served; one that was reset is taken back")
def closed_while_waiting():
    hold, seen = threading.Event(), []

    def serve(head, _body):
        seen.append(head.start.split(" ")[1])
        if seen[-1] == "/hold":
            hold.wait(ktap.seconds(20))
        return wire.response(seen[-1].encode())

    with wire.RawServer(wire.plain_handler(serve)) as server, squall.Listener(server, connections=1) as web:
        squall.write(f"{web.server_directory()}/connections_max", 1)
        waiting = lambda count: until(lambda: web.server_stats()["waiting"] == count, 5, f"{count} wait")
        with web.connect() as first, web.connect() as closed, web.connect() as gone, web.connect() as last:
            first.send(wire.request("/hold"))
            until(lambda: seen == ["/hold"], 5, "the connection is in use")
            for number, (client, target) in enumerate(((closed, "/closed"), (gone, "/gone"), (last, "/last")), 1):
                client.send(wire.request(target))
                waiting(number)
            closed.finish_sending()
            gone.reset()
            waiting(2)
            hold.set()
            equal(first.read_response()[1], b"/hold", "the first answer")
            equal(closed.read_response()[1], b"/closed", "the answer to the one that had closed its side")
            check(closed.ended(), "its connection is closed behind that")
            equal(last.read_response()[1], b"/last", "the answer to the last one")
        equal(seen, ["/hold", "/closed", "/last"], "requests that the server got")


@case("a request without a host names the server that it goes to, also the second one")
def no_host():
    def silent(peer, _number):
        # As many requests as come, and no answer to any.
        peer.read_head()

    def telling(peer, _number):
        while True:
            head = peer.read_head()
            peer.send(wire.response(f"{head.start} {head.all('Host')} {head.get('Via')}".encode()))

    with wire.RawServer(silent) as first, wire.RawServer(telling) as second:
        with squall.Listener(first, second) as web, squall.sysctl(backoff_max_ms=200):
            # Nearly always the other one is chosen first.
            squall.write(f"{web.server_directory(0)}/weight", 256)
            squall.write(f"{web.directory}/via", 1)
            for _ in range(4):
                before = squall.module_stats()["retried"]
                with web.connect() as client:
                    client.send(b"GET /here HTTP/1.0\r\n\r\n")
                    body = client.read_response()[1]
                equal(body.decode(), f"GET /here HTTP/1.1 ['{second.address}'] 1.0 squall", "what the server was sent")
                check(squall.module_stats()["retried"] > before, "the request was not sent again")


@case("a server that is down at the start is connected to as soon as it is up")
def down_at_start():
    server = wire.RawServer(HELLO)
    with squall.sysctl(**QUICK), squall.Listener(server, wait=False) as web:
        for _ in range(3):
            equal(get(web)[0], 502, "status while the server refuses")
        time.sleep(1)
        with server:
            recovers(web, 5)
            web.wait_ready()


@case("connection attempts back off exponentially up to the limit, with jitter", limit=60)
def backoff():
    low, high = 50, 800
    server = wire.RawServer(HELLO)
    with squall.sysctl(backoff_min_ms=low, backoff_max_ms=high), sniff.Sniffer() as seen:
        with squall.Listener(server, connections=1, wait=False) as web:
            until(lambda: len(seen.attempts(server.port)) >= 15, 40, "15 attempts")
            times = seen.attempts(server.port)
            stats = web.server_stats()
        gaps = [1000 * (b - a) for a, b in zip(times, times[1:])]
        ktap.note("gaps in ms: " + " ".join(f"{gap:.0f}" for gap in gaps))
        nominal = low
        for number, gap in enumerate(gaps):
            # Up to a half of jitter, and a tick and the machine's load on top of it.
            check(0.45 * nominal <= gap <= 1.6 * nominal + 60, f"gap {number} is {gap:.0f} ms at {nominal} ms")
            nominal = min(2 * nominal, high)
        last = gaps[-9:]
        spread = (max(last) - min(last)) / (sum(last) / len(last))
        check(spread > 0.1, f"the gaps at the limit differ by {spread:.0%} only: no jitter")
        check(stats["connect_failed"] >= 14, f"failed attempts in the stats: {stats}")
        equal(stats["connected"], 0, "connected in the stats")


@case("a server that is down is tried by one attempt at a time, however many connections it is to have")
def one_at_a_time():
    server = wire.RawServer(HELLO)
    with squall.sysctl(backoff_min_ms=200, backoff_max_ms=200), sniff.Sniffer() as seen:
        with squall.Listener(server, connections=64, wait=False) as web:
            # Until it is known to be down, several are begun together; they count as one failure.
            until(lambda: web.server_stats()["failures"] >= 2, 10, "a failed attempt to reconnect")
            first = len(seen.attempts(server.port))
            until(lambda: len(seen.attempts(server.port)) >= first + 8, 20, "8 more attempts")
            times = seen.attempts(server.port)[first:]
            gaps = [1000 * (b - a) for a, b in zip(times, times[1:])]
            ktap.note("gaps in ms: " + " ".join(f"{gap:.0f}" for gap in gaps))
            check(min(gaps) >= 90, f"attempts follow each other after {min(gaps):.0f} ms at 200 ms")


@case("a server that refuses after it had served is given up at once and found again")
def refuses_later():
    server = wire.RawServer(HELLO).start()
    with squall.sysctl(**QUICK), squall.Listener(server) as web:
        equal(get(web)[0], 200, "status before")
        server.stop()
        until(lambda: get(web)[0] == 502, 5, "502 while the server is down")
        until(lambda: web.server_stats()["connected"] == 0, 5, "no connection in the stats")
        server.start()
        recovers(web)
        server.stop()


@case("a server that vanishes gives 504 or 502 in time and comes back by itself", limit=90)
def vanishes():
    with netns.Namespace("far", 1) as far, squall.sysctl(**QUICK):
        with wire.RawServer(HELLO, host=far.address, namespace=far) as server, squall.Listener(server) as web:
            equal(get(web)[0], 200, "status before")
            far.run("ip link set far down")
            for _ in range(4):
                start = time.monotonic()
                check(get(web)[0] in FAILED, "status while the server is gone")
                took = (time.monotonic() - start) / ktap.PACE
                check(took < 4, f"answered after {took:.1f} s only")
            far.run("ip link set far up")
            recovers(web)


@case("a server that dies with requests under way gives 502 for them, and for no other")
def dies_under_way():
    got = threading.Event()

    def serve(peer, _number):
        while True:
            head = peer.read_head()
            if "/die" in head.start:
                got.set()
                peer.reset()
                return
            peer.send(wire.response(b"fine"))

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        for _ in range(3):
            client.send(wire.request("/die", "POST", body=b"not to be repeated"))
            equal(client.read_response()[0].status, 502, "status of the request that was under way")
            check(got.wait(ktap.seconds(5)), "the request reached the server")
            web.wait_ready()
            client.send(wire.request("/"))
            equal(client.read_response()[1], b"fine", "the next request")


@case("idle connections that the server closes are replaced")
def idle_closed():
    with wire.RawServer(HELLO) as server, squall.Listener(server, connections=4) as web:
        for _ in range(3):
            before = server.accepted
            for peer in list(server.wires):
                with contextlib.suppress(OSError):  # closed before
                    peer.sock.shutdown(socket.SHUT_RDWR)
            until(lambda: server.accepted >= before + 4, 10, "four new connections")
            web.wait_ready()
            equal(get(web), (200, b"/"), "response")


@case("a request that meets the server's close of an idle connection is sent again: no 502", limit=60)
def meets_close():
    pairs, trouble, counts = 4, [], [0]
    chance = random.Random(1)

    def serve(peer, _number):
        peer.read_head()
        peer.send(wire.response(b"once"))
        # Just when the next request may come.
        time.sleep(chance.uniform(0, 0.002))

    def ask_again(web, end):
        try:
            with web.connect() as client:
                while time.monotonic() < end:
                    client.send(wire.request())
                    equal(client.read_response()[0].status, 200, "status")
                    counts[0] += 1
                    time.sleep(chance.uniform(0, 0.002))
        except Exception as error:  # told to the case's own thread
            trouble.append(error)

    before = squall.module_stats()["retried"]
    # The probe makes the moment longer in which a request may still be delivered to a connection that is about to end.
    with trace.Trace(slow="squall_sk_unread"), contextlib.ExitStack() as stack:
        end = time.monotonic() + ktap.seconds(8)
        webs = []
        for _ in range(pairs):
            server = stack.enter_context(wire.RawServer(serve))
            webs.append(stack.enter_context(squall.Listener(server, connections=0, idle_ms=None)))
        threads = [threading.Thread(target=ask_again, args=(web, end), daemon=True) for web in webs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    retried = squall.module_stats()["retried"] - before
    ktap.note(f"{counts[0]} requests, {retried} sent again")
    check(not trouble, lambda: repr(trouble[0]))
    check(retried > 0, "no request met a close")


@case("with one of two servers down every request is served by the other", limit=60)
def one_of_two():
    with wire.RawServer(HELLO) as up:
        down = wire.RawServer(HELLO).start()
        with squall.sysctl(**QUICK), squall.Listener(up, down) as web:
            for _ in range(10):
                equal(get(web)[0], 200, "status with both")
            down.stop()
            until(lambda: web.server_stats(1)["connected"] == 0, 5, "the loss is noticed")
            for _ in range(20):
                equal(get(web)[0], 200, "status with one")


RESTARTS = ktap.scaled(5, 3)


@case(f"a server that restarts {RESTARTS} times under load disturbs nothing for longer than it is down", limit=120)
def restarts_under_load():
    stop, trouble, counts = threading.Event(), [], {"good": 0, "failed": 0}

    def load(web, name):
        number = 0
        try:
            while not stop.is_set():
                number += 1
                target = f"/{name}/{number}"
                try:
                    status, body = get(web, target)
                except (wire.Closed, ConnectionResetError):
                    # Cut short in the middle of a response: an ending that is seen, not a wrong answer.
                    counts["failed"] += 1
                    continue
                if status == 200:
                    equal(body, target.encode(), "body")
                    counts["good"] += 1
                else:
                    check(status in FAILED, f"status {status}")
                    counts["failed"] += 1
                time.sleep(0.005)
        except Exception as error:  # told to the case's own thread
            trouble.append(error)

    server = wire.RawServer(HELLO).start()
    with squall.sysctl(**QUICK), squall.Listener(server) as web:
        threads = [threading.Thread(target=load, args=(web, n), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(RESTARTS):
            time.sleep(0.5)
            server.stop()
            time.sleep(0.5)
            server.start()
            before = counts["good"]
            until(lambda: counts["good"] > before + 5 or trouble, 10, "requests served again")
        stop.set()
        for thread in threads:
            thread.join()
        ktap.note(str(counts))
        check(not trouble, lambda: repr(trouble[0]))
        server.stop()


@case("reconnection, requests and tunnels go on while real-time tasks hold every CPU", limit=60)
def real_time():
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", wire.free_port()))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    settings = squall.sysctl(**(QUICK | {"backoff_max_ms": 200}))
    with settings, squall.Listener(address, connections=2, wait=False) as web:
        until(lambda: web.server_stats()["connect_failed"] >= 3, 10, "attempts while the server is down")
        with rt.Hogs() as hogs:
            # This process is the only one of user space that runs now, and only when it has something to do.
            start = time.monotonic()
            server.listen(16)  # from here the handshake is completed by the server's kernel alone
            until(lambda: web.server_stats()["connected"] >= 2, 5, "reconnected while every CPU is held", 0.01)
            took = time.monotonic() - start
            with web.connect() as client:
                client.send(ws.offer())
                server.settimeout(ktap.seconds(5))
                ends = [wire.Wire(server.accept()[0]) for _ in range(2)]
                # The request came on one of the two persistent connections.
                readable = select.select([end.sock for end in ends], [], [], ktap.seconds(5))[0]
                far = next(end for end in ends if end.sock in readable)
                far.send(ws.switching(far.read_head()))
                equal(client.read_head().status, 101, "status")
                client.send(b"ping")
                equal(far.read(4), b"ping", "bytes to the server")
                far.send(b"pong")
                equal(client.read(4), b"pong", "bytes to the client")
            idle = hogs.ordinary_progress()
        ktap.note(f"reconnected after {1000 * took:.0f} ms; an ordinary task got {idle:.1%} of its share")
        check(idle < 0.2, f"the CPUs were not held: an ordinary task got {idle:.1%} of its share")
        for end in ends:
            end.close()
    server.close()


session.main()
