#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What others pass of the opening handshake, and of responses whose fields mean nothing: it is passed on here, too.

Sent side by side, nginx 1.26 and HAProxy 3.0 pass on all of it. A route with `ws_strict` = 1 refuses what RFC 6455 does not allow.
"""

import base64
import contextlib
import threading

from lib import ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until

# A bearer token, as Kubernetes, AppSync and Phoenix have it sent in Sec-WebSocket-Protocol.
TOKEN = "base64url.bearer.authorization.k8s.io." + base64.urlsafe_b64encode(bytes(range(256)) * 128).decode().rstrip("=")
# With RSV1 set, as permessage-deflate has it: nothing that was negotiated allows it.
COMPRESSED = b"\xc1\x05hello"
COMPRESSED_MASKED = b"\xc1\x85\0\0\0\0hello"


def protocols(*names):
    return "Sec-WebSocket-Protocol: " + ", ".join(names)


def extensions(*names):
    return "Sec-WebSocket-Extensions: " + ", ".join(names)


def tolerated():
    stats = squall.module_stats()
    return stats["tolerated_requests"], stats["tolerated_responses"]


@contextlib.contextmanager
def strict(web):
    """The route refuses what RFC 6455 does not allow."""
    squall.write(f"{web.directory}/{squall.ROUTE}/ws_strict", 1)
    try:
        yield
    finally:
        squall.write(f"{web.directory}/{squall.ROUTE}/ws_strict", "default")


class Server(wire.RawServer):
    """Accepts every offer with `fields` besides, and returns what it is sent; keeps the offers' heads."""

    def __init__(self, *fields, accept=None):
        self.heads = []

        def serve(peer, _number):
            head = peer.read_head()
            self.heads.append(head)
            peer.send(ws.switching(head, fields, accept))
            while data := peer.buffer or peer.sock.recv(1 << 16):
                peer.buffer = b""
                peer.send(data)

        super().__init__(serve)


def upgrade(web, offer):
    """Sends an offer; returns the head of the response, and what came back of two frames if it is a 101."""
    with web.connect() as client:
        client.send(offer)
        head = client.read_head()
        if head.status != 101:
            return head, client.read_body(head)
        client.send(COMPRESSED_MASKED + ws.frame(b"x", masked=True))
        return head, client.read(len(COMPRESSED_MASKED) + 7)


ECHO = COMPRESSED_MASKED + ws.frame(b"x", masked=True)

# What, the offer, the value with which it arrives at the server, whether it is counted, and the status with `ws_strict`.
OFFERS = (
    ("a subprotocol of 1,000 bytes", ws.offer(fields=[protocols("v4.channel.k8s.io", TOKEN[:1000])]), False, 101),
    ("a subprotocol of 4,000 bytes", ws.offer(fields=[protocols(TOKEN[:4000])]), False, 101),
    ("two subprotocols of 7,000 bytes", ws.offer(fields=[protocols(TOKEN[:7000]), protocols("b" + TOKEN[:7000])]), False, 101),
    ("a subprotocol with = / +", ws.offer(fields=[protocols("graphql-ws", "header-eyJob3N0/+==")]), True, 400),
    ("a Sec-WebSocket-Protocol that is empty", ws.offer(fields=["Sec-WebSocket-Protocol:"]), True, 400),
    ("23 subprotocols", ws.offer(fields=[protocols(*(f"p{i}" for i in range(23)))]), True, 431),
    ("a key of 32 bytes", ws.offer(key=base64.b64encode(bytes(32)).decode()), True, 400),
    ("a key whose last bits are not zero", ws.offer(key="dGhlIHNhbXBsZSBub25jZR=="), True, 400),
    ("a key of one character", ws.offer(key="!"), True, 400),
    ("spaces around = in an extension", ws.offer(fields=[extensions("x; y = 10")]), True, 400),
    ("a semicolon behind an extension", ws.offer(fields=[extensions("permessage-deflate;")]), True, 400),
    ("a quote that does not end", ws.offer(fields=[extensions('x; y="z')]), True, 400),
)


@case("offers: bearer tokens, other keys, elements that are no tokens: passed on as they are, and counted; ws_strict refuses")
def offers():
    with Server() as server, squall.Listener(server) as web:
        for what, offer, counted, status in OFFERS:
            before = tolerated()
            head, echo = upgrade(web, offer)
            equal((head.status, echo), (101, ECHO), what)
            equal(head.get("Sec-WebSocket-Accept"), ws.accept_for(server.heads[-1].get("Sec-WebSocket-Key")), f"{what}: Accept")
            for name in ("Sec-WebSocket-Key", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"):
                equal(server.heads[-1].all(name), wire.Head(offer[:-2]).all(name), f"{what}: {name}")
            equal(tolerated(), (before[0] + counted, before[1]), f"{what}: counted")
            with strict(web):
                equal(upgrade(web, offer)[0].status, status, f"{what}, strict")
        equal(len(server.heads), len(OFFERS) + 3, "offers that reached the server")


@case("an offer as large as head_max allows makes a tunnel, and one that is larger does not")
def largest():
    with Server() as server, squall.Listener(server) as web, squall.sysctl(head_max=60000, field_line_max=60000):
        room = 60000 - len(ws.offer(fields=[protocols("")]))
        equal(upgrade(web, ws.offer(fields=[protocols("a" * room)]))[1], ECHO, "echo")
        equal(server.heads[-1].get("Sec-WebSocket-Protocol"), "a" * room, "subprotocol")
        equal(upgrade(web, ws.offer(fields=[protocols("a" * (room + 1))]))[0].status, 431, "status of one byte more")
        equal(len(server.heads), 1, "offers that reached the server")


BAD_KEYS = (("65 characters", "k" * 65), ("a space within", "a b"), ("nothing", ""), ("a byte above 0x7f", "k\xe9"))


@case("a key that is not 1 to 64 visible characters: 400")
def bad_keys():
    with Server() as server, squall.Listener(server) as web:
        for what, key in BAD_KEYS:
            offer = ws.offer().replace(ws.SAMPLE_KEY.encode(), key.encode("latin-1"))
            equal(upgrade(web, offer)[0].status, 400, what)
        equal(server.heads, [], "offers that reached the server")


OFFER = ws.offer(fields=[protocols("chat", "superchat"), extensions("permessage-deflate", "x-a")])
# What, the fields of the 101, and the status with `ws_strict`.
SWITCHES = (
    ("a subprotocol that was offered", [protocols("superchat")], 101),
    ("a subprotocol that was not offered", [protocols("x")], 502),
    ("a subprotocol in another case", [protocols("Chat")], 502),
    ("an empty subprotocol", ["Sec-WebSocket-Protocol:"], 502),
    ("two subprotocols", [protocols("chat"), protocols("superchat")], 502),
    ("an extension that was offered", [extensions("permessage-deflate; x=1")], 101),
    ("an extension that was not offered", [extensions("x-b")], 502),
    ("an extension that is malformed", [extensions("permessage-deflate;")], 502),
)


@case("a 101 with a subprotocol or an extension that was not offered is the client's to judge: passed on and counted; ws_strict: 502")
def switches():
    for what, fields, status in SWITCHES:
        with Server(*fields) as server, squall.Listener(server) as web:
            before = tolerated()
            head, echo = upgrade(web, OFFER)
            equal((head.status, echo), (101, ECHO), what)
            sent = wire.Head(ws.switching(server.heads[-1], fields)[:-2])
            for name in ("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"):
                equal(head.all(name), sent.all(name), f"{what}: {name}")
            equal(tolerated(), (before[0], before[1] + (status == 502)), f"{what}: counted")
            with strict(web):
                equal(upgrade(web, OFFER)[0].status, status, f"{what}, strict")
        with Server(*fields, accept="x") as server, squall.Listener(server) as web:
            equal(upgrade(web, OFFER)[0].status, 502, f"{what}, and another Accept")


@case("a tunnel passes the reserved bits of frames whatever was negotiated, both ways")
def reserved_bits():
    got = []

    def serve(peer, _number):
        peer.send(ws.switching(peer.read_head()) + COMPRESSED)
        got.append(peer.read(len(COMPRESSED_MASKED)))
        peer.read_rest()

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(ws.offer())
        equal(client.read_head().status, 101, "status")
        equal(client.read(len(COMPRESSED)), COMPRESSED, "to the client")
        client.send(COMPRESSED_MASKED)
        until(lambda: got, 10, "a frame at the server")
        equal(got, [COMPRESSED_MASKED], "to the server")


@case("a 101 with Content-Length or Transfer-Encoding: the fields are dropped, and bytes behind it are the tunnel's")
def switch_with_body():
    for field in ("Content-Length: 0", "Content-Length: 5", "Content-Length: x", "Transfer-Encoding: chunked"):
        with Server(field) as server, squall.Listener(server) as web:
            head, echo = upgrade(web, ws.offer())
            equal((head.status, echo), (101, ECHO), field)
            equal((head.get("Content-Length"), head.get("Transfer-Encoding")), (None, None), f"{field}: passed on")


@case("an offer with Content-Length: 0 is an offer; with a length it is none")
def empty_body():
    with Server() as server, squall.Listener(server) as web:
        head, echo = upgrade(web, ws.offer(fields=["Content-Length: 0"]))
        equal((head.status, echo), (101, ECHO), "upgrade")
        equal(server.heads[-1].get("Upgrade"), "websocket", "Upgrade at the server")
    seen = []
    with wire.RawServer(wire.plain_handler(lambda head, _body: seen.append(head) or wire.response())) as server:
        with squall.Listener(server) as web, web.connect() as client:
            client.send(ws.offer(fields=["Content-Length: 2"]) + b"ab")
            equal(client.read_response()[0].status, 200, "status")
            equal(seen[0].get("Upgrade"), None, "Upgrade of an offer with a body")


@case("a request whose length is 0 is sent again as one without a length, when its connection was just being closed")
def empty_body_again():
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"):
        seen = []

        def serve(peer, _number, seen=seen):
            while True:
                head = peer.read_head()
                seen.append(head.start)
                if len(seen) == 2:
                    return peer.reset()
                peer.send(wire.response(b"" if head.start.startswith("HEAD") else b"fine"))

        repeated = method != "POST"
        with wire.RawServer(serve) as server, squall.Listener(server, connections=0, idle_ms=60_000) as web:
            with web.connect() as client:
                client.send(wire.request())
                equal(client.read_response()[0].status, 200, f"{method}: status of the request before")
                client.send(f"{method} / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n".encode())
                head, _ = client.read_response(method)
                equal(head.status, 200 if repeated else 502, f"{method}: status")
                equal(len(seen), 3 if repeated else 2, f"{method}: requests at the server")


@case("a 426 of the server says to what the client is to switch, and the connection goes on")
def upgrade_required():
    fields = ["Upgrade: websocket", "Connection: upgrade, X-Mine", "X-Mine: 1"]
    with wire.RawServer(wire.plain_handler(lambda *_: wire.response(b"no", "426 Upgrade Required", fields))) as server:
        with squall.Listener(server) as web, web.connect() as client:
            for _ in range(2):
                client.send(wire.request())
                head, body = client.read_response()
                equal((head.status, body), (426, b"no"), "response")
                equal((head.all("Upgrade"), head.all("Connection")), (["websocket"], ["upgrade"]), "Upgrade and Connection")
                equal(head.get("X-Mine"), None, "a field that Connection names")


# What, the response, and whether the server's connection is used again.
BARE = (
    ("204 with chunks declared", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    ("204 with chunks", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
    ("204 with a length", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", False),
    ("204 with content", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", False),
    ("204 with length 0", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", True),
    ("304 with chunks declared", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    ("304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", True),
    ("103 with a length, then 200", b"HTTP/1.1 103 X\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
    ("103 with length 0, then 200", b"HTTP/1.1 103 X\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
)


@case("a response that ends with its head and declares content: the fields are dropped, the server's connection is not used again")
def bare():
    for what, data, reused in BARE:
        numbers = []

        def serve(peer, number, data=data, numbers=numbers):
            while True:
                peer.read_head()
                numbers.append(number)
                peer.send(data if len(numbers) == 1 else wire.response(b"fine"))

        before, failed = tolerated(), squall.module_stats()["bad_responses"]
        with wire.RawServer(serve) as server, squall.Listener(server, connections=0, idle_ms=60_000) as web:
            with web.connect() as client:
                client.send(wire.request())
                head = client.read_head()
                if head.status == 103:
                    equal((head.get("Content-Length"), head.get("Transfer-Encoding")), (None, None), f"{what}: fields of the 103")
                    head = client.read_head()
                    equal(head.status, 200, f"{what}: status behind it")
                else:
                    length = "5" if what == "304 with a length" else None
                    equal(head.status, int(what[:3]), f"{what}: status")
                    equal((head.get("Content-Length"), head.get("Transfer-Encoding")), (length, None), f"{what}: fields")
                client.send(wire.request("/next"))
                equal(client.read_response()[1], b"fine", f"{what}: the next response")
            equal(len(set(numbers)) == 1, reused, f"{what}: the server's connection was used again")
            equal(web.server_stats()["fails"], 0, f"{what}: failures of the server")
        equal(tolerated(), (before[0], before[1] + (not reused)), f"{what}: counted")
        equal(squall.module_stats()["bad_responses"], failed, f"{what}: bad responses")


@case("status codes up to 999 are passed on, what is not three digits from 100 on is not")
def statuses():
    for status, wanted in ((599, 599), (600, 600), (777, 777), (999, 999), ("099", 502), (1000, 502)):
        answer = wire.response(b"body", f"{status} X")
        with wire.RawServer(wire.plain_handler(lambda *_, answer=answer: answer)) as server, squall.Listener(server) as web:
            with web.connect() as client:
                client.send(wire.request())
                head, body = client.read_response()
                equal(head.status, wanted, f"status of {status}")
                equal(body == b"body", wanted != 502, f"body of {status}")


def interim_server(count):
    """Sends so many interim responses, then 200."""

    def serve(peer, _number):
        while True:
            peer.read_head()
            with contextlib.suppress(OSError):
                peer.send(b"HTTP/1.1 103 X\r\nLink: </a>\r\n\r\n" * count + wire.response(b"fine"))

    return wire.RawServer(serve)


@case("interim_max interim responses are passed on, 64 by default, and with one more there is a 502 and a counter of its own")
def interim_max():
    rule = lambda: int(dict(line.split() for line in squall.read(f"{squall.ROOT}/refused_responses").splitlines())["too_many_interim"])
    for most, values in ((64, {}), (1, {"interim_max": 1}), (300, {"interim_max": 300})):
        for count, status in ((most, 200), (most + 1, 502)):
            before = rule()
            with squall.sysctl(**values), interim_server(count) as server, squall.Listener(server) as web, web.connect() as client:
                client.send(wire.request())
                equal([client.read_head().status for _ in range(most)], [103] * most, "interim responses")
                equal(client.read_response()[0].status, status, f"status behind {count}, {most} at most")
            equal(rule() - before, int(status == 502), "too_many_interim")


@case("interim responses wait for a client that does not read: the server is held back, and all of them arrive in the end", limit=60)
def interim_held_back():
    count, filler = 1000, b"x" * 8000
    progress = [0]

    def stalled():
        before = progress[0]
        squall.settle(0.5)
        return 0 < progress[0] == before

    def serve(peer, _number):
        peer.read_head()
        for number in range(count):
            progress[0] += 1
            peer.send(b"HTTP/1.1 103 X\r\nX-Number: %d\r\nX-Filler: %s\r\n\r\n" % (number, filler))
        peer.send(wire.response(b"fine"))
        peer.read_rest()

    small = squall.sysctl(interim_max=count, sndbuf=65536, rcvbuf=65536)
    with small, wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect(rcvbuf=16384) as client:
        client.send(wire.request())
        until(stalled, 10, "an end of what is taken of the server")
        queued = squall.module_stats()["queued_bytes"]
        # A queue is never larger than rcvbuf, and one more head may be written to it.
        limit = 65536 + int(squall.read(f"{squall.SYSCTL}/head_max"))
        check(0 < queued <= limit, f"{queued} bytes are queued for a client that does not read, the bound is {limit}")
        check(progress[0] < count, "all was taken of the server")
        equal([int(client.read_head().get("X-Number")) for _ in range(count)], list(range(count)), "interim responses")
        equal(client.read_response()[1], b"fine", "final response")


@case("a client that resets while interim responses wait for it lets go of the server")
def interim_left():
    gone = threading.Event()

    def serve(peer, _number):
        peer.read_head()
        try:
            for _ in range(1000):
                peer.send(b"HTTP/1.1 103 X\r\nX-Filler: %s\r\n\r\n" % (b"x" * 8000))
            peer.read_rest()
        except OSError:
            gone.set()

    with squall.sysctl(interim_max=1000), wire.RawServer(serve) as server, squall.Listener(server) as web:
        with web.connect(rcvbuf=16384) as client:
            client.send(wire.request())
            client.read_head()
            squall.settle(0.5)
            client.reset()
        check(gone.wait(ktap.seconds(10)), "the server's connection was not ended")
        until(lambda: web.stats()["connections"] == 0, 10, "no client's connection left")


session.main()
