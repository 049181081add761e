#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What a gateway must get right across several messages: interim responses, early ones, reuse, order."""

import threading

from lib import ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until

BODY = 200_000


def post(fields, body=b"", target="/"):
    """A POST with the given framing."""
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: t", *fields]).encode() + b"\r\n\r\n" + body


def served(web, wanted=b"fine"):
    """A client that has nothing to do with what was before gets its own response."""
    with web.connect() as client:
        client.send(wire.request("/other"))
        equal(client.read_response()[1], wanted, "response to another client")


@case("more interim responses than any server needs are an error of the server: 502, its connection is given up")
def interim_flood():
    ends = []

    def serve(peer, _number):
        head = peer.read_head()
        if "/other" in head.start:
            peer.send(wire.response(b"fine"))
            peer.read_rest()
        try:
            for _ in range(100_000):
                peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            ends.append("all were taken")
        except OSError:
            ends.append("cut off")

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(wire.request())
        count = 0
        while (head := client.read_head()).status == 103:
            count += 1
        equal(head.status, 502, "status behind the interim responses")
        equal(count, 64, "interim responses that were passed on")
        until(lambda: ends, 10, "the end of the server's connection")
        equal(ends, ["cut off"], "the flood")
        equal(client.read_body(head), b"502 Bad Gateway\n", "body")
        client.send(wire.request("/other"))
        equal(client.read_response()[1], b"fine", "the next request on the client's connection")


@case("interim responses reach the client while the final one is still to come, in order")
def interim_at_once():
    go_on = threading.Event()

    def serve(peer, _number):
        peer.read_head()
        for status in ("100 Continue", "102 Processing", "103 Early Hints", "104 X", "103 Early Hints"):
            peer.send(f"HTTP/1.1 {status}\r\n\r\n".encode())
        check(go_on.wait(ktap.seconds(10)), "the client got the interim responses")
        peer.send(wire.response(b"final"))
        peer.read_rest()

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(wire.request())
        equal([client.read_head().status for _ in range(5)], [100, 102, 103, 104, 103], "interim responses")
        go_on.set()
        equal(client.read_response()[1], b"final", "final response")


@case("a client that expects 100-continue: the server's 100 comes first, and once")
def expect_answered():
    got = []

    def serve(peer, _number):
        while True:
            head = peer.read_head()
            got.append((head.get("Expect"), peer.silent_for(0.1)))
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            peer.send(wire.response(peer.read_body(head)))

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        for framing, body in (("Content-Length: 5", b"hello"), ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")):
            client.send(post(["Expect: 100-continue", framing]))
            head = client.read_head()
            equal(head.status, 100, "first status")
            client.send(body)
            head, content = client.read_response()
            equal((head.status, content), (200, b"hello"), "final response")
        equal(got, [("100-continue", True)] * 2, "Expect at the server, and no body before its 100")
        equal(server.accepted, 2, "connections to the server: none was given up")


@case("a client that expects 100-continue and sends its body anyway is served the same")
def expect_anyway():
    def serve(peer, _number):
        while True:
            head = peer.read_head()
            body = peer.read_body(head)
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" + wire.response(body))

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        for number in range(3):
            body = b"body %d" % number
            client.send(post(["Expect: 100-continue", f"Content-Length: {len(body)}"], body) + wire.request())
            equal(client.read_head().status, 100, "interim response")
            equal(client.read_response()[1], body, "response")
            equal(client.read_head().status, 100, "interim response to the request behind")
            equal(client.read_response()[1], b"", "response to the request behind")


def early(framing, begin, rest, answer, close, status=413):
    """A final response before the body: it arrives, and neither connection is used for anything else."""
    seen, ended = [], threading.Event()

    def serve(peer, _number):
        while True:
            seen.append(peer.read_head().start)
            if "/other" in seen[-1]:
                peer.send(wire.response(b"fine"))
                continue
            peer.send(answer)
            if close:
                return
            try:
                # Another request here would be one on a connection that waits for a body.
                left = peer.read_rest()
                seen.extend(["used again"] if b"/other" in left or b"X-Forwarded-For" in left else [])
            except OSError:
                pass
            ended.set()

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(post([framing], begin, "/early"))
        head, body = client.read_response()
        equal((head.status, body, head.all("Connection")), (status, b"early", ["close"]), "early response")
        served(web)
        try:
            for _ in range(20):
                client.send(rest)
            equal(client.read_rest(), b"", "what follows an early response")
        except OSError:
            pass
        served(web)
        if not close:
            check(ended.wait(ktap.seconds(10)), "the server's connection was not closed")
        equal([line for line in seen if line not in ("GET /other HTTP/1.1", "POST /early HTTP/1.1")], [], "other requests")
        equal(seen.count("POST /early HTTP/1.1"), 1, "times the request was sent")


@case("an early response while the body is still coming ends both connections, whatever its framing", limit=60)
def early_response():
    smuggled = wire.request("/smuggled")
    for close in (False, True):
        answer = wire.response(b"early", "413 Content Too Large", ["Connection: close"] if close else [])
        early(f"Content-Length: {BODY}", b"begin", smuggled, answer, close)
        early("Transfer-Encoding: chunked", b"5\r\nbegin\r\n", b"%x\r\n%s\r\n" % (len(smuggled), smuggled), answer, close)
        early(f"Content-Length: {BODY}\r\nExpect: 100-continue", b"", smuggled, answer, close)


@case("an early response that is no error says too that the connection ends behind it")
def early_success():
    smuggled = wire.request("/smuggled")
    chunked = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n0\r\n\r\n"
    found = wire.response(b"early", "303 See Other", ["Location: /"])
    for status, answer in ((200, wire.response(b"early")), (201, chunked), (303, found)):
        early(f"Content-Length: {BODY}", b"begin", smuggled, answer, False, status)
        early(f"Content-Length: {BODY}\r\nExpect: 100-continue", b"", smuggled, answer, False, status)


@case("a response that begins before the body has ended, and ends behind it, leaves both connections in use")
def full_duplex():
    def serve(peer, _number):
        while True:
            head = peer.read_head()
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
            body = peer.read_body(head)
            peer.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        for _ in range(3):
            client.send(post([f"Content-Length: {BODY}"], b"x" * 1000))
            equal(client.read_head().get("Transfer-Encoding"), "chunked", "framing")
            equal(client.read_until(b"begin\r\n"), b"5\r\nbegin\r\n", "the beginning")
            client.send(b"x" * (BODY - 1000))
            equal(client.read_chunked()[0], b"x" * BODY, "the rest")
        equal(server.accepted, 2, "connections to the server: none was given up")


def ends_first(framing, begin, rest, fields=()):
    """A long response that ends before the body does: client and server, the head having promised to go on."""
    finish = threading.Event()

    def serve(peer, _number):
        while True:
            head = peer.read_head()
            if "/next" in head.start:
                peer.send(wire.response(b"next"))
                continue
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
            check(finish.wait(ktap.seconds(10)), "the client has the beginning")
            peer.send(b"-half")
            left = peer.read_rest()
            check(rest[-100:] not in left, "the server got the whole body")
            return

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(post([framing, *fields], begin))
        head = client.read_head()
        equal((head.status, head.get("Connection")), (200, None), "status and Connection of a response that has not ended")
        equal(client.read(5), b"first", "the beginning")
        finish.set()
        equal(client.read(5), b"-half", "the end")
        yield client


@case("a long response that ends before the body: the rest of the body is thrown away, and the connection goes on")
def rest_skipped():
    smuggled = wire.request("/smuggled")
    chunk = b"%x\r\n%s\r\n" % (len(smuggled), smuggled)
    for framing, begin, rest in (
        ("Content-Length: 1000", b"begin", (smuggled + b"x" * 1000)[:995]),
        ("Content-Length: 200000", b"x" * 1000, b"y" * 199_000),
        ("Transfer-Encoding: chunked", b"5\r\nbegin\r\n", chunk * 1000 + b"0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nbeg", b"in\r\n" + chunk + b"0\r\nX-Trailer: 1\r\n\r\n"),
    ):
        for pieces in (1, 2, len(rest) if len(rest) < 2000 else 3):
            for client in ends_first(framing, begin, rest):
                size = -(-len(rest) // pieces)
                for at in range(0, len(rest), size):
                    client.send(rest[at : at + size])
                client.send(wire.request("/next") + wire.request("/next"))
                for _ in range(2):
                    equal(client.read_response()[1], b"next", f"the next response, {framing}, in {pieces} pieces")


@case("a long response that ends before a body that is too long to throw away, or may not come: a FIN behind it, and no reset")
def rest_too_long():
    block = b"x" * 65536
    for framing, begin, rest, fields in (
        ("Content-Length: 1000000", b"begin", block, ()),
        ("Transfer-Encoding: chunked", b"5\r\nbegin\r\n", b"10000\r\n%s\r\n" % block, ()),
        ("Content-Length: 1000", b"", b"", ["Expect: 100-continue"]),
    ):
        for client in ends_first(framing, begin, b"never complete" * 10, fields):
            for _ in range(10):
                client.send(rest)
            check(client.ended(), f"no FIN behind the response, {framing}")
            client.send(rest)


@case("a long response that ends before a body that is wrong from there on, or does not come: a FIN behind it", limit=60)
def rest_wrong():
    with squall.sysctl(linger_timeout_ms=1000 * ktap.PACE):
        for framing, begin, rest in (
            ("Transfer-Encoding: chunked", b"5\r\nbegin\r\n", b"x\r\n\r\n" + wire.request("/next")),
            ("Transfer-Encoding: chunked", b"5\r\nbegin\r\n", b"0\r\nX\r\n\r\n" + wire.request("/next")),
            ("Content-Length: 1000", b"begin", b"x"),
        ):
            for client in ends_first(framing, begin, b"never complete" * 10):
                client.send(rest)
                check(client.ended(), f"no FIN behind the response, {framing}")


@case("a client that goes in the middle of its body: the server's connection ends without a whole request, and is not reused")
def abandoned_body():
    for framing, begin in ((f"Content-Length: {BODY}", b"begin"), ("Transfer-Encoding: chunked", b"5\r\nbegin\r\n")):
        for leave in (wire.Wire.close, wire.Wire.reset, wire.Wire.finish_sending):
            how = []

            def serve(peer, _number, how=how):
                head = peer.read_head()
                if "/other" in head.start:
                    peer.send(wire.response(b"fine"))
                    peer.read_rest()
                try:
                    peer.read_body(head)
                    how.append("whole")
                except OSError:
                    how.append("reset")
                except wire.Closed:
                    how.append("cut off")

            with wire.RawServer(serve) as server, squall.Listener(server) as web:
                client = web.connect()
                client.send(post([framing], begin))
                until(lambda: web.server_stats()["busy"] == 1, 10, "the request is under way")
                leave(client)
                until(lambda: how, 10, "the end of the server's connection")
                check(how[0] != "whole", f"{framing}, {leave.__name__}: the server read a whole request")
                served(web)
                client.close()


@case("requests behind an offer that is refused are answered in order: bodies of both framings, HEAD, close")
def behind_refused():
    def respond(head, body):
        method, target, _ = head.start.split(" ")
        if head.get("Upgrade"):
            return wire.response(b"refused", "403 Forbidden")
        if method == "HEAD":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX: " + target.encode() + b"\r\n\r\n"
        return wire.response(target.encode() + b" " + body)

    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(
            wire.request("/1") + ws.offer("/2") + post(["Content-Length: 5"], b"GET /", "/3") + ws.offer("/4")
            + post(["Transfer-Encoding: chunked"], b"5\r\nGET /\r\n0\r\n\r\n", "/5") + wire.request("/6", "HEAD")
            + ws.offer("/7") + wire.request("/8", fields=["Connection: close"]) + wire.request("/never")
        )
        for number, wanted in enumerate((b"/1 ", b"refused", b"/3 GET /", b"refused", b"/5 GET /", None, b"refused", b"/8 "), 1):
            head = client.read_head()
            equal(head.status, 403 if wanted == b"refused" else 200, f"status of response {number}")
            if wanted is None:
                equal(head.get("X"), "/6", "response to HEAD")
            else:
                equal(client.read_body(head), wanted, f"body of response {number}")
        check(client.ended(), "the connection was not closed behind the last response")
        equal(web.server_stats()["requests"], 8, "requests that were forwarded")


@case("requests whose heads fill the receive buffer, in segments as large as half of it, are all answered")
def long_heads():
    count, full = 60, threading.Event()

    def respond(head, _body):
        check(full.wait(ktap.seconds(20)), "the client cannot send any more")
        return wire.response(head.get("X-Number").encode())

    def send(client):
        for number in range(count):
            client.send(wire.request("/", fields=[f"X-Number: {number}", "X-Filler: " + "x" * 7000]))

    with squall.sysctl(rcvbuf=65536, pipelined_max=1000), wire.RawServer(wire.plain_handler(respond)) as server:
        with squall.Listener(server) as web, web.connect() as client:
            sender = threading.Thread(target=send, args=[client])
            sender.start()
            squall.settle(1)
            full.set()
            equal([client.read_response()[1] for _ in range(count)], [b"%d" % number for number in range(count)], "answers")
            sender.join()


@case("bytes that come later on an idle server connection end it, and answer nobody")
def late_bytes():
    sent = threading.Event()

    def serve(peer, number):
        peer.read_head()
        peer.send(wire.response(b"%d" % number))
        check(sent.wait(ktap.seconds(10)), "the client has its response")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        peer.read_rest()

    with wire.RawServer(serve) as server, squall.Listener(server, connections=1) as web, web.connect() as client:
        numbers = []
        for _ in range(4):
            sent.clear()
            client.send(wire.request())
            numbers.append(client.read_response()[1])
            accepted = server.accepted
            sent.set()
            until(lambda accepted=accepted: server.accepted > accepted, 10, "another connection")
        equal(len(set(numbers)), 4, f"connections that answered: {numbers}")


@case("a server that answers an offer with a 101 of another key and a body's framing, or twice, is given up, and the client goes on")
def switched_wrongly():
    def serve(peer, _number):
        while True:
            head = peer.read_head()
            if not head.get("Upgrade"):
                peer.send(wire.response(b"fine"))
                continue
            good = ws.switching(head)
            wrong = ws.switching(head, ["Content-Length: 3"], ws.accept_for("another")) + b"abc"
            peer.send(wrong if "/framed" in head.start else good.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"))
            equal(peer.read_rest(), b"", "what came through a tunnel that is none")
            return

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        before = squall.module_stats()["bad_responses"]
        for count, target in enumerate(("/framed", "/twice", "/framed"), 1):
            client.send(ws.offer(target) + wire.request("/behind"))
            equal(client.read_response()[0].status, 502, "status of the offer")
            equal(client.read_response()[1], b"fine", "the request behind the offer")
            equal(squall.module_stats()["bad_responses"] - before, count, "responses counted as bad")


session.main()
