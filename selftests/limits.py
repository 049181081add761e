#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Every limit on a message and its time: the last value that passes, the first that does not, the answer and the counter."""

import socket
import time

from lib import ktap, session, squall, wire
from lib.ktap import case, check, equal, until

CHUNKED = ["Transfer-Encoding: chunked"]


def echo(head, body):
    """Answers with what of the request the server saw."""
    return wire.response(f"{head.start}|{len(body)}".encode())


def broken(name, side="requests"):
    """How often the rule `name` was broken."""
    lines = squall.read(f"{squall.ROOT}/refused_{side}").splitlines()
    return int(dict(line.split() for line in lines)[name])


def answer(web, data):
    """Status of the answer to the bytes `data`, and whether the connection was closed behind it."""
    with web.connect() as client:
        try:
            client.send(data)
        except OSError:
            pass  # refused before it was sent whole: the answer is there to be read
        status = client.read_response()[0].status
        if status == 200:
            return status, False
        return status, client.ended()


def boundary(limits, good, bad, status, rule):
    """`good` passes under these limits; `bad` is refused with `status`, closed, and counted under `rule`."""
    seen = []
    respond = lambda head, body: seen.append((head, body)) or echo(head, body)
    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web, squall.sysctl(**limits):
        before = broken(rule)
        equal(answer(web, good), (200, False), f"the last good value of {limits}")
        equal((len(seen), broken(rule)), (1, before), "requests at the server, counter")
        equal(answer(web, bad), (status, True), f"the first bad value of {limits}: status, closed")
        equal((len(seen), broken(rule)), (1, before + 1), "requests at the server, counter")


@case("request line: 414")
def request_line():
    target = lambda length: wire.request("/" + "a" * (length - len("GET / HTTP/1.1\r\n")))
    boundary({"request_line_max": 200}, target(200), target(201), 414, "start_line_too_long")


@case("field line: 431")
def field_line():
    field = lambda length: wire.request(fields=["X: " + "v" * (length - len("X: \r\n"))])
    boundary({"field_line_max": 200}, field(200), field(201), 431, "field_line_too_long")


@case("field section: 431")
def head():
    whole = lambda length: wire.request(fields=["X: " + "v" * (length - len(wire.request(fields=["X: "])))])
    boundary({"head_max": 2000}, whole(2000), whole(2001), 431, "head_too_large")


@case("number of fields: 431")
def fields():
    many = lambda count: wire.request(fields=[f"X: {number}" for number in range(count - 1)])
    boundary({"fields_max": 20}, many(20), many(21), 431, "too_many_fields")
    # Up to 88 a head has room; those beyond take memory of their own.
    boundary({}, many(128), many(129), 431, "too_many_fields")
    boundary({"fields_max": 256}, many(256), many(257), 431, "too_many_fields")


@case("declared content: 413")
def content():
    post = lambda length: wire.request(method="POST", body=bytes(length))
    boundary({"body_max_kib": 4}, post(4096), post(4097), 413, "body_too_large")


@case("content in chunks: 413 as long as there is no response")
def chunked_content():
    post = lambda length: wire.request(method="POST", fields=CHUNKED) + b"%x\r\n" % length + bytes(length) + b"\r\n0\r\n\r\n"
    boundary({"body_max_kib": 4}, post(4096), post(4097), 413, "body_too_large")


@case("chunk extensions: 400")
def chunk_extensions():
    line = lambda length: b"3" + b";" + b"e" * (length - 4) + b"\r\n"
    post = lambda length: wire.request(method="POST", fields=CHUNKED) + line(length) + b"abc\r\n0\r\n\r\n"
    boundary({"chunk_line_max": 100}, post(100), post(101), 400, "chunk_line_too_long")
    # Twice the content and 16 bytes are not counted.
    boundary({"chunk_excess_max": 100}, post(122), post(123), 400, "chunk_excess")


@case("trailer section: 431")
def trailers():
    post = lambda tail: wire.request(method="POST", fields=CHUNKED) + b"0\r\n" + tail + b"\r\n"
    field = lambda length: post(b"X: " + b"v" * (length - len("X: \r\n\r\n")) + b"\r\n")
    boundary({"trailers_max": 100}, field(100), field(101), 431, "head_too_large")
    many = lambda count: post(b"X: 1\r\n" * count)
    boundary({"trailer_fields_max": 3}, many(3), many(4), 431, "too_many_fields")


@case("a response that breaks a rule is counted as such")
def responses():
    respond = lambda _head, _body: b"HTTP/1.1 200 OK\r\nX: " + b"v" * 300 + b"\r\n\r\n"
    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        with squall.sysctl(field_line_max=200):
            before = broken("field_line_too_long", "responses"), broken("field_line_too_long")
            with web.connect() as client:
                client.send(wire.request())
                equal(client.read_response()[0].status, 502, "status")
            after = broken("field_line_too_long", "responses"), broken("field_line_too_long")
            equal(after, (before[0] + 1, before[1]), "counters of responses and of requests")


@case("requests on a connection: the response to the last one closes it")
def requests():
    with wire.RawServer(wire.plain_handler(echo)) as server, squall.Listener(server) as web, squall.sysctl(requests_max=3):
        before = squall.module_stats()["requests_limit"]
        with web.connect() as client:
            for number in range(3):
                client.send(wire.request())
                head, _ = client.read_response()
                equal(head.all("Connection"), ["close"] if number == 2 else [], f"Connection of response {number}")
            check(client.ended(), "left open")
        equal(squall.module_stats()["requests_limit"], before + 1, "counter")


@case("pipelined requests: all up to the limit are answered in order, and the last one's response closes")
def pipelined():
    seen = []
    respond = lambda head, body: seen.append(head.start) or echo(head, body)
    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        with squall.sysctl(pipelined_max=4):
            before = squall.module_stats()["pipelined_limit"]
            with web.connect() as client:
                client.send(b"".join(wire.request(f"/{number}") for number in range(9)))
                for number in range(5):
                    head, body = client.read_response()
                    equal(body, b"GET /%d HTTP/1.1|0" % number, "response")
                    equal(head.all("Connection"), ["close"] if number == 4 else [], f"Connection of response {number}")
                check(client.ended(), "left open")
            equal(squall.module_stats()["pipelined_limit"], before + 1, "counter")
            equal(len(seen), 5, "requests at the server")
            with web.connect() as client:
                for number in range(9):
                    client.send(wire.request())
                    equal(client.read_response()[0].all("Connection"), [], "one after the other is not pipelined")


def closed_after(client, wanted, what):
    """The connection is closed without a byte after about `wanted` seconds."""
    start = time.monotonic()
    equal(client.read_rest(), b"", f"{what}: bytes before the close")
    took = (time.monotonic() - start) / ktap.PACE
    check(0.8 * wanted <= took <= wanted + 3, f"{what}: closed after {took:.1f} s, the limit is {wanted} s")


@case("time to the first byte, and between requests: closed without a response", limit=60)
def idle():
    unit = 1000 * ktap.PACE
    with wire.RawServer(wire.plain_handler(echo)) as server, squall.Listener(server) as web:
        with squall.sysctl(first_byte_timeout_ms=unit, keepalive_timeout_ms=2 * unit):
            before = squall.module_stats()
            with web.connect() as client:
                closed_after(client, 1, "first byte")
            with web.connect() as client:
                client.send(wire.request())
                client.read_response()
                closed_after(client, 2, "keep-alive")
            after = squall.module_stats()
            for name in ("first_byte_timeouts", "keepalive_timeouts"):
                equal(after[name], before[name] + 1, name)


@case("a body that comes more slowly than it must: 408, and one that is fast enough passes", limit=90)
def body_rate():
    def serve(peer, _number):
        while True:
            head = peer.read_head()
            peer.send(wire.response(b"%d" % len(peer.read_body(head))))

    unit = 1000 * ktap.PACE
    limits = squall.sysctl(body_timeout_ms=unit, body_rate_min=1000 // ktap.PACE)
    with wire.RawServer(serve) as server, squall.Listener(server) as web, limits:
        before = squall.module_stats()["body_rate_timeouts"]
        for piece, status in ((3000, 200), (20, 408)):
            with web.connect() as client:
                # Ten pieces per unit of time: 30,000 bytes, or 200.
                client.send(wire.request(method="POST", fields=[f"Content-Length: {25 * piece}"]))
                client.sock.settimeout(0.1 * ktap.PACE)
                for _ in range(25):
                    client.send(b"x" * piece)
                    try:
                        client.buffer += client.sock.recv(4096)
                        break
                    except socket.timeout:
                        pass
                client.sock.settimeout(ktap.seconds(10))
                equal(client.read_response()[0].status, status, f"status at {10 * piece} bytes per second")
        equal(squall.module_stats()["body_rate_timeouts"], before + 1, "counter")


@case("the time in which a client waits for a 100 does not count against the rate of its body", limit=90)
def body_rate_continue():
    unit = ktap.PACE

    def serve(peer, _number):
        head = peer.read_head()
        time.sleep(2 * unit)
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.send(wire.response(b"%d" % len(peer.read_body(head))))

    limits = squall.sysctl(body_timeout_ms=1000 * unit, response_timeout_ms=3000 * unit, body_rate_min=1000 // unit)
    with wire.RawServer(serve) as server, squall.Listener(server) as web, limits, web.connect() as client:
        client.send(wire.request(method="POST", fields=["Expect: 100-continue", "Content-Length: 4500"]))
        equal(client.read_head().status, 100, "interim response")
        # Half more than the least rate, for longer than the time that is left of the first measurement.
        for _ in range(30):
            client.send(b"x" * 150)
            time.sleep(0.1 * unit)
        equal(client.read_response()[1], b"4500", "bytes at the server")


@case("a body that is slow because the server is slow is not refused", limit=60)
def slow_server():
    def serve(peer, _number):
        head = peer.read_head()
        time.sleep(2 * ktap.TIME_FACTOR)
        peer.send(wire.response(b"%d" % len(peer.read_body(head))))

    limits = squall.sysctl(body_timeout_ms=400 * ktap.TIME_FACTOR, body_rate_min=200_000 // ktap.TIME_FACTOR)
    with wire.RawServer(serve, rcvbuf=8192) as server, squall.Listener(server) as web, limits:
        with web.connect(timeout=30) as client:
            client.send(wire.request(method="POST", body=bytes(2_000_000)))
            equal(client.read_response()[1], b"2000000", "bytes at the server")


@case("trusted networks and Forwarded: what a proxy in front says is kept, what others say is not", log="squall.*refused")
def trusted():
    seen = []
    respond = lambda head, _body: seen.append(head) or wire.response()
    said = ["X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https", "Forwarded: for=198.51.100.1;proto=https"]
    ours = 'for=127.0.0.1;proto=http;host="test"'
    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        for networks, forwarded, wanted in (
            ("", 0, (["127.0.0.1"], ["http"], [])),
            ("10.0.0.0/8 ::/0", 1, (["127.0.0.1"], ["http"], [ours])),
            ("10.0.0.0/8,127.0.0.0/8", 1, (["198.51.100.1, 127.0.0.1"], ["https"], [f"for=198.51.100.1;proto=https, {ours}"])),
            ("127.0.0.1", 0, (["198.51.100.1, 127.0.0.1"], ["https"], [f"for=198.51.100.1;proto=https, {ours}"])),
        ):
            squall.write(f"{web.directory}/trusted", networks)
            squall.write(f"{web.directory}/forwarded", forwarded)
            with web.connect() as client:
                client.send(wire.request(fields=said))
                equal(client.read_response()[0].status, 200, "status")
            fields = tuple(seen[-1].all(name) for name in ("X-Forwarded-For", "X-Forwarded-Proto", "Forwarded"))
            equal(fields, wanted, f"trusted {networks!r}, forwarded {forwarded}")
        for bad in ("10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/+8", "10.0.0", "2001:db8::/129", "::ffff:10.0.0.1", "10.0.0.0/8 x", "1.2.3.4/", " ".join(["10.0.0.0/8"] * 65)):
            try:
                squall.write(f"{web.directory}/trusted", bad)
                raise AssertionError(f"{bad!r} was taken")
            except OSError:
                equal(squall.read(f"{web.directory}/trusted"), "127.0.0.1/32", f"the list after {bad!r}")
        squall.write(f"{web.directory}/trusted", " ".join(["10.0.0.0/8"] * 64))


@case("an error in response to a request whose body is still coming closes the connection, and says so")
def early():
    def serve(peer, _number):
        while True:
            head = peer.read_head()
            if head.start.startswith("POST /early"):
                peer.send(wire.response(b"early", status="413 Content Too Large"))
            else:
                peer.send(wire.response(peer.read_body(head)))

    with wire.RawServer(serve) as server, squall.Listener(server, connections=1) as web:
        with web.connect() as client:
            for fields, body in ((["Content-Length: 3"], b"abc"), (CHUNKED, b"3\r\nabc\r\n0\r\n\r\n")):
                client.send(wire.request("/late", "POST", fields) + body)
                head, got = client.read_response()
                equal((got, head.all("Connection")), (b"abc", []), "response to a complete request")
            client.send(wire.request("/early", "POST", ["Content-Length: 1000"]) + b"abc")
            head, body = client.read_response()
            equal((body, head.all("Connection")), (b"early", ["close"]), "response to an incomplete request")
            check(client.ended(), "left open")
        until(lambda: web.server_stats()["connected"] == 1, 10, "the pool has its connection again")


session.main()
