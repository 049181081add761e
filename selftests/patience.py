#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Timeouts end what stands still and not what is slow; an end that fails is told so, and it alone is counted; and a response that
has begun is never completed by an answer of Squall's own."""

import contextlib
import os
import threading
import time

from lib import ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until

LARGE = os.urandom(1 << 19)


def ms(stock):
    """Milliseconds by the pace of this kernel."""
    return stock * ktap.PACE


def post(framing, begin=b"", fields=()):
    """The beginning of a request with a body."""
    lines = ["POST / HTTP/1.1", "Host: t", framing, *fields]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + begin


def rest_of(client):
    """What else comes: (bytes, whether a reset ended it)."""
    got = b""
    try:
        while data := client.sock.recv(1 << 16):
            got += data
        return got, False
    except ConnectionResetError:
        return got, True


@contextlib.contextmanager
def blamed(web, failures, **counters):
    """Checks how many failed requests are counted for the server meanwhile, and by how much counters of the module grow."""
    before, stats = web.server_stats()["requests_failed"], squall.module_stats()
    yield
    for name, count in counters.items():
        until(lambda name=name, count=count: squall.module_stats()[name] - stats[name] == count, 5, f"{name} grows by {count}")
    equal(web.server_stats()["requests_failed"] - before, failures, "failed requests of the server")


@case("a request that fails when its response has begun: the client is reset and gets no other answer", limit=60)
def begun():
    def serve(peer, _number):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + b"r" * 100)
        peer.read_rest()

    chunked = post("Transfer-Encoding: chunked", b"1\r\na\r\n")
    failing = (
        ("a bad chunk", chunked, b"X\r\n", {}),
        ("a body over the limit", chunked, b"%x\r\n" % (2 << 20), {"body_max_kib": 1024}),
        ("a pause", chunked, b"", {"body_timeout_ms": ms(300)}),
        ("a rate too low", chunked, b"1\r\nb\r\n", {"body_timeout_ms": ms(300), "body_rate_min": 1_000_000}),
        ("an end too early", post("Content-Length: 9", b"a"), None, {}),
    )
    with wire.RawServer(serve) as server, squall.Listener(server) as web:
        for what, request, more, settings in failing:
            with squall.sysctl(**settings), web.connect() as client:
                client.send(request)
                head = client.read_head()
                equal((head.status, client.read(100)), (200, b"r" * 100), f"{what}: the beginning")
                if more is None:
                    client.finish_sending()
                elif more:
                    client.send(more)
                got, reset = rest_of(client)
                check(not got, f"{what}: {got!r} came behind the beginning of a response")
                check(reset, f"{what}: the connection was not reset")
        until(lambda: web.stats()["connections"] == 0, 10, "no connection is left")


@case("a client that takes a response slowly gets all of it, however short the timeouts are", limit=120)
def slow_client():
    respond = lambda _head, _body: wire.response(LARGE)
    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        with squall.sysctl(response_timeout_ms=ms(300), send_timeout_ms=ms(300), unsent_max=4096, sndbuf=65_536):
            with blamed(web, 0, response_timeouts=0, send_timeouts=0), web.connect(rcvbuf=4096, timeout=60) as client:
                client.send(wire.request())
                head, got = client.read_head(), 0
                begin = time.monotonic()
                while got < len(LARGE):
                    # What a queue drains by, from full to short, takes several times either timeout.
                    time.sleep(0.04 * ktap.PACE)
                    part = client.read(min(4096, len(LARGE) - got))
                    check(part == LARGE[got : got + len(part)], f"bytes from {got} on are others")
                    got += len(part)
                ktap.note(f"{got} bytes in {time.monotonic() - begin:.1f} s, status {head.status}")


@case("a client that takes nothing of a response is reset after send_timeout_ms")
def stopped_client():
    respond = lambda _head, _body: wire.response(LARGE)
    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        with squall.sysctl(response_timeout_ms=ms(300), send_timeout_ms=ms(400)), blamed(web, 0, response_timeouts=0, send_timeouts=1):
            with web.connect(rcvbuf=4096) as client:
                client.send(wire.request())
                begin = time.monotonic()
                until(lambda: web.stats()["connections"] == 0, 10, "the client is reset")
                took = time.monotonic() - begin
                check(ms(390) <= took * 1000 <= ms(3000), f"reset after {took:.2f} s")


@case("a client that does not go on with its body gets 408, and its server is not blamed", limit=60)
def stalled_body():
    def serve(peer, _number):
        head = peer.read_head()
        if head.get("Expect"):
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.read_rest()

    stalled = (
        ("Content-Length", post("Content-Length: 5", b"ab")),
        ("nothing of it", post("Content-Length: 5")),
        ("behind a 100", post("Content-Length: 5", fields=["Expect: 100-continue"])),
        ("a chunk", post("Transfer-Encoding: chunked", b"5\r\nab")),
    )
    with wire.RawServer(serve) as server, squall.Listener(server) as web:
        with squall.sysctl(response_timeout_ms=ms(200), body_timeout_ms=ms(700)):
            for what, request in stalled:
                with blamed(web, 0, request_timeouts=1, response_timeouts=0), web.connect() as client:
                    client.send(request)
                    if b"Expect" in request:
                        equal(client.read_head().status, 100, "interim response")
                    equal(client.read_response()[0].status, 408, f"status: {what}")


@case("a server that closes before it has the whole request is not blamed, one that does so behind it is")
def tired_server():
    serve = lambda peer, _number: peer.read_head()
    with wire.RawServer(serve) as server, squall.Listener(server) as web:
        for request, failures in ((post("Content-Length: 5", b"ab"), 0), (post("Content-Length: 2", b"ab"), 1)):
            with blamed(web, failures), web.connect() as client:
                client.send(request)
                equal(client.read_response()[0].status, 502, f"status of {request!r}")
            web.wait_ready()


@case("a body that comes byte by byte is too slow, in its framing and its trailer section too", limit=60)
def dribbled():
    dribbles = (
        ("a trailer section", post("Transfer-Encoding: chunked", b"2\r\nab\r\n0\r\n"), b"X-Trailer: " + b"v" * 100),
        ("the size of a chunk", post("Transfer-Encoding: chunked"), b"2;" + b"e" * 100),
    )
    with wire.RawServer(lambda peer, _number: peer.read_rest()) as server, squall.Listener(server) as web:
        with squall.sysctl(response_timeout_ms=ms(5000), body_timeout_ms=ms(300), body_rate_min=100):
            for what, request, slow in dribbles:
                with blamed(web, 0), web.connect() as client:
                    client.send(request)
                    begin, ended = time.monotonic(), threading.Event()

                    def send(client=client, slow=slow, ended=ended):
                        with contextlib.suppress(OSError):
                            for byte in slow:
                                client.send(bytes([byte]))
                                if ended.wait(ms(150) / 1000):
                                    return

                    sender = threading.Thread(target=send)
                    sender.start()
                    status = client.read_head().status
                    ended.set()
                    sender.join()
                    equal(status, 408, f"status: {what}")
                    check(time.monotonic() - begin < ms(3000) / 1000, f"{what}: 408 after {time.monotonic() - begin:.1f} s")


@case("a server that answers nothing is blamed after response_timeout_ms, and not later", limit=60)
def silent_server():
    def serve(peer, _number):
        peer.read_head()
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        peer.read_rest()

    with wire.RawServer(serve) as server, squall.Listener(server) as web, squall.sysctl(response_timeout_ms=ms(2000)):
        with blamed(web, 1, response_timeouts=1), web.connect() as client:
            begin = time.monotonic()
            client.send(wire.request())
            equal([client.read_head().status, client.read_response()[0].status], [103, 504], "statuses")
            took = time.monotonic() - begin
            check(1.9 <= took / ktap.PACE <= 3.2, f"504 after {took:.2f} s")


@case("a request that waits for a server that is taken away, or gets another address, is served by another one", limit=60)
def taken_away():
    def serve(peer, number):
        while True:
            peer.read_head()
            held.wait(ktap.seconds(10))
            peer.send(wire.response(b"%d" % number))

    quick = wire.plain_handler(lambda _head, _body: wire.response(b"other"))
    for take_away in ("removed", "moved"):
        held = threading.Event()
        with wire.RawServer(serve) as slow, wire.RawServer(quick) as other:
            servers = (slow, other) if take_away == "removed" else (slow,)
            with squall.Listener(*servers, connections=1) as web:
                directory = web.server_directory(0)
                squall.write(f"{directory}/connections_max", 1)
                if take_away == "removed":
                    # Everything to the first one, until that is gone.
                    squall.write(f"{web.server_directory(1)}/backup", 1)
                with web.connect() as first, web.connect() as waiting:
                    first.send(wire.request())
                    until(lambda: web.server_stats()["busy"] == 1, 5, "the server is busy")
                    waiting.send(wire.request())
                    until(lambda: web.server_stats()["waiting"] == 1, 5, "a request waits")
                    if take_away == "removed":
                        os.rmdir(directory)
                    else:
                        squall.write(f"{directory}/address", other.address)
                    head, body = waiting.read_response()
                    equal((head.status, body), (200, b"other"), f"what waited for a server that was {take_away}")
                    held.set()
                    equal(first.read_response()[0].status, 200, "status of what was under way")


@case("a client of HTTP/1.0 that wants to go on is closed behind an answer of Squall's own")
def old_client():
    dead = f"127.0.0.1:{wire.free_port()}"
    with squall.Listener(dead, wait=False) as web:
        squall.write(f"{web.directory}/{squall.ROUTE}/path", "/here")
        for target, status in (("/here", 502), ("/elsewhere", 404)):
            with web.connect() as client:
                client.send(f"GET {target} HTTP/1.0\r\nHost: t\r\nConnection: keep-alive\r\n\r\n".encode())
                head, _ = client.read_response()
                equal((head.status, head.get("Connection")), (status, "close"), f"answer for {target}")
                check(client.ended(), f"{target}: left open")


@case("CR LF behind a body begins no request: the connection is idle, and gets no 408", limit=60)
def empty_lines():
    handler = wire.plain_handler(lambda head, body: wire.response(body or head.start.encode()))
    counted = ("bad_requests", "request_timeouts", "pipelined_limit", "error_responses", "keepalive_timeouts")
    with wire.RawServer(handler) as server, squall.Listener(server) as web:
        before = squall.module_stats()
        with squall.sysctl(head_timeout_ms=ms(200), pipelined_max=2):
            for ending in (b"\r\n", b"\r", b"\r\n" * 8, b"\r\n\r"):
                with web.connect() as client:
                    for number in range(4):
                        body = b"body %d" % number
                        # What is left of a line comes with the next request.
                        line_end = b"\n" if number and ending.endswith(b"\r") else b""
                        client.send(line_end + wire.request(method="POST", body=body) + ending)
                        equal(client.read_response()[1], body, f"response {number} with {ending!r} behind requests")
                        if number == 1:
                            check(client.silent_for(ms(500) / 1000), f"an answer to {ending!r} behind a request")
        with squall.sysctl(keepalive_timeout_ms=ms(400)), web.connect() as client:
            client.send(wire.request(method="POST", body=b"x") + b"\r\n\r")
            equal(client.read_response()[1], b"x", "response")
            equal(rest_of(client), (b"", False), "what follows when the time is over")
        grown = {name: squall.module_stats()[name] - before[name] for name in counted}
        equal(grown, {**dict.fromkeys(counted, 0), "keepalive_timeouts": 1}, "counters")


@case("a HEAD that is refused gets no content")
def refused_head():
    with squall.Listener(f"127.0.0.1:{wire.free_port()}", wait=False) as web, squall.sysctl(body_max_kib=1):
        for request, status in (
            (b"HEAD / HTTP/1.1\r\n\r\n", 400),
            (b"HEAD / HTTP/1.1\r\nHost: t\r\nContent-Length: 5000\r\n\r\n", 413),
            (b"HEAD / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
            (b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n", 502),
        ):
            with web.connect() as client:
                client.send(request)
                client.finish_sending()
                got, _ = rest_of(client)
                check(got.startswith(b"HTTP/1.1 %d " % status), f"{request!r}: {got!r}")
                check(got.endswith(b"\r\n\r\n") and got.count(b"\r\n\r\n") == 1, f"{request!r}: content in {got!r}")


@case("silence in a tunnel is noticed also when the last bytes came together with the opening handshake")
def silent_tunnel():
    message = ws.frame(b"first", masked=False)

    def serve(peer, _number):
        head = peer.read_head()
        peer.send(ws.switching(head) + message)
        peer.read_rest()

    for name, early in (("ws_server_idle_timeout_ms", b""), ("ws_client_idle_timeout_ms", ws.frame(b"early", masked=True))):
        with squall.sysctl(**{name: ms(400)}), wire.RawServer(serve) as server, squall.Listener(server) as web:
            with web.connect() as client:
                client.send(ws.offer() + early)
                equal(client.read_head().status, 101, "status")
                equal(client.read(len(message)), message, "what came with the 101")
                begin = time.monotonic()
                got, _ = rest_of(client)
                took = time.monotonic() - begin
                equal(got, b"\x88\x02\x03\xe9", f"{name}: the Close frame")
                check(took < ms(3000) / 1000, f"{name}: closed after {took:.1f} s")


session.main()
