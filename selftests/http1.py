#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Plain HTTP/1 through the module: forwarding, framing, persistence, and the fields of the forwarded head."""

import hashlib
import json
import os
import re
import tempfile

from lib import ktap, peers, session, squall, wire
from lib.ktap import case, check, equal

BIG = ktap.scaled(100 << 20, 1 << 20)
REQUEST = wire.request("/")


@case("GET with curl returns what the server sent", limit=60)
def get():
    page = os.urandom(300_000)
    with peers.Nginx({"page": page}) as server, squall.Listener(server) as web:
        equal(peers.curl(web.url("/page")), page, "body")


def upload(*arguments, target="/echo"):
    """Sends BIG random bytes with curl and compares MD5 at the server and of what comes back."""
    app = peers.shared(peers.node_app)
    with squall.Listener(app) as web, tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/up", "wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(BIG >> 20):
                block = block[1:] + block[:1]
                file.write(block)
        sent = hashlib.md5(open(f"{folder}/up", "rb").read()).hexdigest()
        command = ["-X", "POST", "-T", f"{folder}/up", "-D", f"{folder}/head", "-o", f"{folder}/down"]
        peers.curl(*command, *arguments, web.url(target), limit=120)
        head = open(f"{folder}/head", encoding="latin-1").read()
        check(f"X-MD5: {sent}".lower() in head.lower(), f"MD5 at the server is not {sent}: {head}")
        back = hashlib.md5(open(f"{folder}/down", "rb").read()).hexdigest()
        equal(back, sent, "MD5 of what came back")
        return head


@case("POST of a large body with Content-Length arrives and returns unchanged", limit=150)
def post_length():
    head = upload()
    check(f"Content-Length: {BIG}".lower() in head.lower(), f"framing of the response: {head}")


@case("POST of a large chunked body arrives and returns unchanged", limit=150)
def post_chunked():
    head = upload("-H", "Transfer-Encoding: chunked", target="/echo?chunked")
    check("transfer-encoding: chunked" in head.lower(), f"framing of the response: {head}")
    check("x-framing: chunked" in head.lower(), f"framing of the request: {head}")


@case("pipelined requests are answered in order")
def pipelined():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        count = 50
        client.send(b"".join(wire.request(f"/n{i}") for i in range(count)))
        for i in range(count):
            equal(client.read_response()[1], f"hello /n{i}".encode(), "answer")


@case("pipelined requests with bodies in both framings are answered in order")
def pipelined_bodies():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        chunked = b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = []
        for i in range(10):
            body = os.urandom(100 * i + 1)
            sent.append(body)
            if i % 2:
                client.send(wire.request("/echo", "POST", body=body))
            else:
                client.send(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        for body in sent:
            equal(client.read_response()[1], body, "answer")


@case("requests of many clients share the persistent connections to the server")
def keep_alive():
    with peers.node_app() as app, squall.Listener(app, connections=2) as web:
        for _ in range(10):
            with web.connect() as client:
                for _ in range(10):
                    client.send(REQUEST)
                    equal(client.read_response()[0].status, 200, "status")
        with web.connect() as client:
            client.send(wire.request("/connections"))
            used = int(client.read_response()[1])
        # Two connections, and one for a connection that was replaced at a bad moment.
        check(used <= 3, f"101 requests one after the other used {used} connections")


@case("a client that says close is closed, the connection to the server is not")
def close_downstream():
    hello = wire.plain_handler(lambda _head, _body: wire.response(b"hello"))
    with wire.RawServer(hello) as server, squall.Listener(server, connections=1) as web:
        for _ in range(3):
            with web.connect() as client:
                client.send(wire.request("/", fields=["Connection: close"]))
                head, _ = client.read_response()
                equal(head.get("Connection", "").lower(), "close", "Connection field")
                check(client.ended(), "the connection was not closed after the response")
            web.wait_ready()
        equal(server.accepted, 1, "connections to the server")


@case("a server that closes after its response does not disturb the client's connection")
def close_upstream():
    serve = lambda wire_, n: (wire_.read_head(), wire_.send(wire.response(b"%d" % n, fields=["Connection: close"])))
    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        bodies = set()
        for _ in range(5):
            client.send(REQUEST)
            head, body = client.read_response()
            equal(head.status, 200, "status")
            equal(head.get("Connection", "").lower() == "close", False, "close passed on")
            bodies.add(body)
            web.wait_ready()
        equal(len(bodies), 5, "connections used")


@case("HEAD, 204 and 304 have no body and the next response follows at once")
def bodiless():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        for method, target, status in (("HEAD", "/x", 200), ("GET", "/status/204", 204), ("GET", "/status/304", 304)):
            client.send(wire.request(target, method))
            head, body = client.read_response(method)
            equal((head.status, body), (status, b""), f"{method} {target}")
            client.send(wire.request("/next"))
            equal(client.read_response()[1], b"hello /next", f"after {method} {target}")


@case("a 103 is forwarded before the final response")
def early_hints():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        client.send(wire.request("/early"))
        head = client.read_head()
        equal(head.status, 103, "status")
        check("style.css" in head.get("Link", ""), "Link of the 103")
        equal(client.read_response()[1], b"final", "final response")


@case("a client that expects 100-continue gets it from the server and then sends its body")
def expect_continue():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        fields = ["Expect: 100-continue", "Content-Length: 5"]
        client.send(wire.request("/echo", "POST", fields=fields))
        equal(client.read_head().status, 100, "interim status")
        client.send(b"12345")
        equal(client.read_response()[1], b"12345", "body")


@case("a response that ends with the connection is delivered whole", limit=60)
def until_close():
    body = os.urandom(3_000_000)

    def serve(peer, _number):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(REQUEST)
        got = client.read_response()[1]
        equal(hashlib.md5(got).hexdigest(), hashlib.md5(body).hexdigest(), "body")
    # Cut short by RST it must not look complete.
    def cut(peer, _number):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100)
        squall.settle(0.1)
        peer.reset()

    with wire.RawServer(cut) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(REQUEST)
        try:
            client.read_response()
        except (ConnectionResetError, wire.Closed):
            return
        raise AssertionError("a response cut by RST was ended as if it were complete")


@case("an HTTP/1.0 client is answered without chunks and closed")
def http10():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        client.send(b"GET /trailers HTTP/1.0\r\nHost: t\r\n\r\n")
        head = client.read_head()
        equal(head.get("Transfer-Encoding"), None, "transfer coding for HTTP/1.0")
        equal(client.read_rest(), b"body", "body")


@case("trailers of a chunked response reach the client")
def trailers():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        client.send(wire.request("/trailers", fields=["TE: trailers"]))
        client.read_head()
        body, lines = client.read_chunked()
        equal(body, b"body", "body")
        equal([line.lower() for line in lines], [b"x-sum: 42"], "trailer section")


@case("IPv6 clients and servers, and every mix with IPv4, are served")
def ipv6():
    for server_host in ("127.0.0.1", "::1"):
        with peers.node_app(host=server_host) as app:
            for host in ("127.0.0.1", "::1"):
                with squall.Listener(app, host=host) as web, web.connect() as client:
                    client.send(wire.request("/six"))
                    equal(client.read_response()[1], b"hello /six", f"{host} to {server_host}")


def forwarded(web, fields):
    """The request as the server saw it: (request line, [(name, value)])."""
    with web.connect() as client:
        client.send(wire.request("/fields", fields=fields))
        seen = json.loads(client.read_response()[1])
        flat = seen["fields"]
        return seen["line"], list(zip(flat[::2], flat[1::2]))


@case("hop-by-hop fields and those that Connection names are removed, others pass in order")
def hop_by_hop():
    with squall.Listener(peers.shared(peers.node_app)) as web:
        line, fields = forwarded(
            web,
            ["A: 1", "X-Private: secret", "Connection: x-private, keep-alive", "Keep-Alive: timeout=5",
             "Proxy-Connection: keep-alive", "TE: gzip", "B: 2", "A: 3", "b: 4"],
        )
        equal(line, "GET /fields HTTP/1.1", "request line")
        names = [name.lower() for name, _ in fields]
        for gone in ("x-private", "keep-alive", "proxy-connection"):
            check(gone not in names, f"{gone} was forwarded: {fields}")
        kept = [(n, v) for n, v in fields if n.lower() in ("a", "b")]
        equal(kept, [("A", "1"), ("B", "2"), ("A", "3"), ("b", "4")], "end-to-end fields")


@case("the client's address is told in X-Forwarded-For and what the client claimed is not trusted")
def forwarded_for():
    with squall.Listener(peers.shared(peers.node_app)) as web:
        _, fields = forwarded(web, ["X-Forwarded-For: 6.6.6.6"])
        values = [v for n, v in fields if n.lower() == "x-forwarded-for"]
        equal(len(values), 1, f"X-Forwarded-For fields in {fields}")
        equal(re.split(", *", values[0])[-1], "127.0.0.1", "last address")
        check("6.6.6.6" not in values[0], "the client's claim was passed on")


@case("Via is added to requests and responses where the listener has it so, and what others said of it passes either way")
def via():
    def telling(peer, _number):
        while True:
            head = peer.read_head()
            peer.send(wire.response(json.dumps(head.all("Via")).encode(), fields=["Via: 1.0 inner"]))

    with wire.RawServer(telling) as server, squall.Listener(server) as web:
        equal(squall.read(f"{web.directory}/via"), "0", "via by default")
        with web.connect() as client:
            for setting, own in ((0, []), (1, ["1.1 squall"]), (0, [])):
                squall.write(f"{web.directory}/via", setting)
                client.send(wire.request("/via", fields=["Via: 1.1 outer"]))
                head, body = client.read_response()
                equal(json.loads(body), ["1.1 outer", *own], f"Via at the server, via {setting}")
                equal(head.all("Via"), ["1.0 inner", *own], f"Via at the client, via {setting}")


@case("nginx compresses what is asked through the gateway, but not with Via", limit=60)
def compression():
    text = b"the same words again and again " * 1000
    with peers.Nginx({"text": text}) as server, squall.Listener(server) as web:
        for setting, wanted in ((0, range(1, len(text) // 10)), (1, [len(text)])):
            squall.write(f"{web.directory}/via", setting)
            got = peers.curl("-H", "Accept-Encoding: gzip", web.url("/text"))
            check(len(got) in wanted, f"{len(got)} bytes of {len(text)} with via {setting}")


@case("a head sent one byte per segment is understood")
def bytewise():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        client.send_bytewise(wire.request("/bytes", fields=["X-Long: " + "v" * 100]))
        equal(client.read_response()[1], b"hello /bytes", "body")
        client.send_bytewise(b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
                             b"5\r\nhello\r\n0;x=1\r\n\r\n")
        equal(client.read_response()[1], b"hello", "echo")


@case("a server's response of one byte per segment is understood")
def bytewise_upstream():
    def serve(peer, _number):
        while True:
            peer.read_head()
            peer.send_bytewise(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        for _ in range(3):
            client.send(REQUEST)
            equal(client.read_response()[1], b"abcde", "body")


session.main()
