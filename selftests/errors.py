#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What clients are told when a request or a response cannot be forwarded, and that nothing else leaks through."""

import select
import tempfile
import time

from lib import ktap, peers, session, squall, wire
from lib.ktap import case, check, equal, until

# Requests that a gateway must refuse: (what, bytes, status).
BAD_REQUESTS = (
    ("both framings", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    ("a signed length", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: +3\r\n\r\nabc", 400),
    ("a length that overflows", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 18446744073709551617\r\n\r\n", 400),
    ("chunked in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("a space before the colon", b"GET / HTTP/1.1\r\nHost: t\r\nX : 1\r\n\r\n", 400),
    ("a folded line", b"GET / HTTP/1.1\r\nHost: t\r\nX: 1\r\n 2\r\n\r\n", 400),
    ("a lone LF", b"GET / HTTP/1.1\nHost: t\n\n", 400),
    ("a NUL", b"GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n", 400),
    ("no method", b" / HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    ("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("another major version", b"GET / HTTP/3.0\r\nHost: t\r\n\r\n", 505),
)


@case("bad requests are refused, closed, and never reach the server")
def bad_requests():
    seen = []
    with wire.RawServer(wire.plain_handler(lambda head, body: seen.append(head.start) or wire.response())) as server:
        with squall.Listener(server) as web:
            for what, data, status in BAD_REQUESTS:
                with web.connect() as client:
                    client.send(data)
                    head, _ = client.read_response()
                    equal(head.status, status, what)
                    check(client.ended(), f"{what}: the connection was left open")
            equal(seen, [], "requests that reached the server")


@case("a bad chunk ends the request without its being completed at the server")
def bad_chunk():
    bodies = []

    def serve(peer, _number):
        peer.read_head()
        bodies.append("begun")
        peer.read_chunked()
        bodies.append("complete")

    for tail in (b"x\r\n", b"3\r\nabcX\r\n0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n", b"-1\r\n", b"fffffffffffffffff\r\n"):
        with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" + tail)
            try:
                # The server has the beginning: the status is 400 if a response was still possible.
                equal(client.read_response()[0].status, 400, "status")
                client.read_rest()
            except (wire.Closed, ConnectionResetError):
                pass
            squall.settle()
            check("complete" not in bodies, f"{tail!r}: the server saw a complete body")


@case("a head over the limit is answered with 431, a long target with 414")
def too_large():
    with squall.Listener(peers.shared(peers.node_app)) as web:
        for data, statuses in (
            (wire.request("/", fields=[f"X-{i}: {'v' * 1000}" for i in range(200)]), (431,)),
            (wire.request("/", fields=["X: " + "v" * 200_000]), (431,)),
            (wire.request("/", fields=[f"X-{i}: v" for i in range(2000)]), (431,)),
            (wire.request("/" + "a" * 200_000), (414,)),
        ):
            with web.connect() as client:
                try:
                    client.send(data)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # refused before it was sent whole: the answer is there to be read
                status = client.read_head().status
                check(status in statuses, f"status {status}, wanted {statuses}")


@case("502 when the server refuses connections")
def refused():
    dead = f"127.0.0.1:{wire.free_port()}"
    with squall.Listener(dead, wait=False) as web, web.connect() as client:
        for _ in range(3):
            client.send(wire.request())
            equal(client.read_response()[0].status, 502, "status")


@case("504 when the server accepts but never answers", limit=60)
def silent():
    hang = lambda peer, _number: peer.read_rest()
    with wire.RawServer(hang) as server, squall.sysctl(response_timeout_ms=1000 * ktap.PACE):
        with squall.Listener(server) as web, web.connect() as client:
            start = time.monotonic()
            client.send(wire.request())
            equal(client.read_response()[0].status, 504, "status")
            took = time.monotonic() - start
            check(0.9 <= took / ktap.PACE <= 5, f"504 after {took:.1f} s with a time limit of 1 s")


BAD_RESPONSES = (
    ("not HTTP", b"hello\r\n\r\n"),
    ("both framings", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    ("a 101 nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
    ("a head over the limit", b"HTTP/1.1 200 OK\r\n" + b"X: " + b"v" * 200_000 + b"\r\n\r\n"),
    ("an end inside the head", b"HTTP/1.1 200 OK\r\nContent-Le"),
)


@case("502 when the server's response is not to be understood, and its connection is given up")
def bad_responses():
    for what, data in BAD_RESPONSES:

        def serve(peer, _number, data=data):
            peer.read_head()
            peer.send(data)

        with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
            client.send(wire.request())
            head, _ = client.read_response()
            equal(head.status, 502, what)


@case("502, and no reset, when the chunks that come with the head of a response are wrong")
def bad_chunks():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (400, b"x" * 400)
    for what, body in (
        ("the first size", b"5x\r\nhello\r\n"), ("a size behind others", chunk * 20 + b"-1\r\n"),
        ("an extension", b"5;=\r\nhello\r\n0\r\n\r\n"), ("the end of a chunk", b"5\r\nhelloo\r\n0\r\n\r\n"),
        ("the end of the body", b"5\r\nhello\r\n0\r\n\rX"),
    ):

        def serve(peer, _number, body=body):
            peer.read_head()
            peer.send(head + body)
            peer.read_rest()

        with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
            before = squall.module_stats()["bad_responses"]
            for number in range(2):
                client.send(wire.request())
                equal(client.read_head().status, 502, f"status, {what} is wrong, {number}")
                client.read(len(b"502 Bad Gateway\n"))
            equal(squall.module_stats()["bad_responses"] - before, 2, "bad_responses")


@case("502, and no reset, when a trailer section that comes with the head of a response is wrong, however much content is before it")
def bad_trailers():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    small, large = b"5\r\nhello\r\n0\r\n", b"4e20\r\n%s\r\n0\r\n" % (b"x" * 20_000)
    many = b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(30))

    def by_sendfile(peer, data):
        # Memory that may change: it is read by copying.
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            peer.sock.sendfile(file)

    for how in (wire.Wire.send, by_sendfile):
        for what, body in (
            ("no colon", small + b"X\r\n\r\n"), ("a folded line", small + b"X: 1\r\n 2\r\n\r\n"),
            ("a NUL", large + b"X: a\0b\r\n\r\n"), ("a name", small + many + b"X : 1\r\n\r\n"),
            ("a line's end", small + b"X: 1\n\r\n"), ("too many", small + many * 5 + b"\r\n"),
        ):

            def serve(peer, _number, body=body, how=how):
                peer.read_head()
                how(peer, head + body)
                peer.read_rest()

            with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
                before = squall.module_stats()["bad_responses"]
                for number in range(2):
                    client.send(wire.request())
                    equal(client.read_head().status, 502, f"status, {what} in a trailer section by {how.__name__}, {number}")
                    client.read(len(b"502 Bad Gateway\n"))
                equal(squall.module_stats()["bad_responses"] - before, 2, "bad_responses")
                equal(web.server_stats()["fails"], 0, "failures of the server")


@case("a trailer section that comes with the head of a response, and is right, is passed on")
def good_trailers():
    many = [f"X-{number}: {number}" for number in range(30)]
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + "".join(f"{line}\r\n" for line in many).encode()
    with wire.RawServer(wire.plain_handler(lambda *_: data + b"\r\n")) as server, squall.Listener(server) as web, web.connect() as client:
        for _ in range(2):
            client.send(wire.request())
            client.read_head()
            content, lines = client.read_chunked()
            equal((content, [line.decode() for line in lines]), (b"hello", many), "content and trailer section")


@case("a response that is cut short is cut short for the client too")
def cut_short():
    for head in (b"Content-Length: 1000", b"Transfer-Encoding: chunked"):

        def serve(peer, _number, head=head):
            peer.read_head()
            peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n5\r\nabcde\r\n")

        with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
            client.send(wire.request())
            try:
                _, body = client.read_response()
            except (wire.Closed, ConnectionResetError):
                continue
            raise AssertionError(f"{head}: read as complete: {body!r}")


@case("an early response reaches the client while it is still sending, and the rest is not taken for a request")
def early_response():
    seen = []

    def serve(peer, _number):
        while True:
            seen.append(peer.read_head().start)
            peer.send(wire.response(b"early", status="413 Content Too Large", fields=["Connection: close"]))
            if seen[-1].startswith("POST"):
                squall.settle(0.5)
                return

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n")
        head, body = client.read_response()
        equal((head.status, body), (413, b"early"), "early response")
        try:
            client.send(b"GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n" * 1000)
            client.read_rest()
        except OSError:
            pass
        squall.settle()
        equal([line for line in seen if "smuggled" in line], [], "requests made of body bytes")


@case("bytes behind a complete response are dropped with their connection")
def extra_bytes():
    def serve(peer, number):
        while True:
            peer.read_head()
            peer.send(wire.response(b"%d" % number) + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    with wire.RawServer(serve) as server, squall.Listener(server, connections=1) as web, web.connect() as client:
        for _ in range(4):
            client.send(wire.request())
            check(client.read_response()[1] != b"poison", "a response without a request was delivered")
            web.wait_ready()


@case("CONNECT and unknown transfer codings are refused")
def refused_methods():
    with squall.Listener(peers.shared(peers.node_app)) as web:
        for data, statuses in (
            (b"CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n\r\n", (400, 405, 501)),
            (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", (501,)),
            (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", (400,)),
            (b"GET / HTTP/1.1\r\nHost: t\r\nExpect: something\r\n\r\n", (417,)),
        ):
            with web.connect() as client:
                client.send(data)
                status = client.read_head().status
                check(status in statuses, f"{data!r}: {status}")


@case("a client that half-closes after its request still gets the response")
def half_closed_client():
    def respond(head, _body):
        squall.settle(0.3)
        return wire.response(b"late")

    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        with web.connect() as client:
            client.send(wire.request())
            client.finish_sending()
            equal(client.read_response()[1], b"late", "body")
            check(client.ended(), "not closed after the response")


@case("a client that goes away in the middle of a request or a response leaves nothing behind")
def gone_client():
    def respond(_head, _body):
        return wire.response(b"x" * 1_000_000)

    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        for leave in (wire.Wire.close, wire.Wire.reset):
            for data in (b"GET", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc", wire.request()):
                client = web.connect()
                client.send(data)
                if data == wire.request():
                    client.read(1000)
                leave(client)
        until(lambda: web.stats()["connections"] == 0, 10, "no client's connection left")
        with web.connect() as client:
            client.send(wire.request())
            equal(len(client.read_response()[1]), 1_000_000, "body afterwards")


@case("requests pipelined to a server that is down are answered in order, however many")
def pipelined_refusals():
    count = ktap.scaled(2000, 300)
    many = squall.sysctl(pipelined_max=10_000)
    with many, squall.Listener("127.0.0.1:9", wait=False) as web, web.connect() as client:
        time.sleep(ktap.seconds(0.3))
        client.send(b"GET / HTTP/1.1\r\nHost:a\r\n\r\n" * count)
        for number in range(count):
            equal(client.read_response()[0].status, 502, f"status of request {number}")


@case("a client that pipelines requests and reads no response is held back")
def pipelined_unread():
    def respond(_head, _body):
        return b"HTTP/1.1 204 No Content\r\nX: " + b"v" * 8000 + b"\r\n\r\n"

    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        with web.connect(rcvbuf=8192) as client:
            client.sock.settimeout(3 * ktap.PACE)
            sent = 0
            try:
                while sent < 8 << 20:
                    sent += client.sock.send(b"HEAD / HTTP/1.1\r\nHost:a\r\n\r\n" * 100)
            except TimeoutError:
                pass
            queued = squall.read_stats(squall.ROOT)["queued_bytes"]
            limit = int(squall.read(f"{squall.SYSCTL}/queue_high")) + int(squall.read(f"{squall.SYSCTL}/head_max"))
            check(sent < 8 << 20, "the client was not held back")
            check(0 < queued <= limit, f"{queued} bytes are queued for the client, the bound is {limit}")
            client.reset()


@case("a head that is never completed is answered with 408 and closed", limit=60)
def slow_head():
    with squall.sysctl(head_timeout_ms=1000 * ktap.PACE):
        with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
            start = time.monotonic()
            for byte in b"GET / HTTP/1.1\r\nHost: t\r\n":
                try:
                    client.send(bytes([byte]))
                    if select.select([client.sock], [], [], 0.25 * ktap.PACE)[0]:
                        break
                except OSError:
                    break
                if time.monotonic() - start > 5 * ktap.PACE:
                    raise AssertionError("a head may take longer than its time limit")
            try:
                equal(client.read_head().status, 408, "status")
            except ConnectionResetError:
                pass  # our next byte came after the close


session.main()
