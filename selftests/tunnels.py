#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The opening handshake and the tunnel byte by byte: what arrives when, what is refused, how tunnels end."""

import hashlib
import os
import threading

from lib import ktap, peers, session, squall, wire, ws
from lib.ktap import case, check, equal, until


@case("bytes sent right behind the offer, before the 101, reach the server intact and in order")
def bytes_behind_offer():
    early = ws.frame(os.urandom(40_000), masked=True)
    got = []

    def serve(peer, _number):
        head = peer.read_head()
        equal(peer.buffer, b"", "bytes passed on before the 101")
        check(peer.silent_for(0.3), "bytes passed on before the 101")
        peer.send(ws.switching(head))
        got.append(peer.read(len(early)))
        peer.send(b"done")

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(ws.offer() + early)
        equal(client.read_head().status, 101, "status")
        equal(client.read(4), b"done", "answer")
        check(got == [early], "the bytes behind the offer were changed")


@case("bytes of the server in the same segment as its 101 reach the client intact and in order")
def bytes_behind_101():
    for late in (ws.frame(os.urandom(3)), ws.frame(os.urandom(30_000))):

        def serve(peer, _number, late=late):
            peer.send(ws.switching(peer.read_head()) + late)
            peer.read_rest()

        with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
            client.send(ws.offer())
            equal(client.read_head().status, 101, "status")
            check(client.read(len(late)) == late, "the bytes behind the 101 were changed")


@case("an offer and a 101 of one byte per segment make a tunnel")
def bytewise():
    def serve(peer, _number):
        peer.send_bytewise(ws.switching(peer.read_head()) + b"first")
        peer.send(peer.read(6))
        peer.read_rest()

    with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
        client.send_bytewise(ws.offer() + b"second")
        equal(client.read_head().status, 101, "status")
        equal(client.read(11), b"firstsecond", "bytes")


SWITCH = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {}\r\nConnection: {}\r\nSec-WebSocket-Accept: {}\r\n{}\r\n"
GOOD = ws.accept_for(ws.SAMPLE_KEY)
BAD_SWITCHES = (
    ("another Accept", SWITCH.format("websocket", "Upgrade", ws.accept_for("AAAAAAAAAAAAAAAAAAAAAA=="), "")),
    ("Accept in another case", SWITCH.format("websocket", "Upgrade", GOOD.swapcase(), "")),
    ("no Accept", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
    ("two Accepts", SWITCH.format("websocket", "Upgrade", GOOD, f"Sec-WebSocket-Accept: {GOOD}\r\n")),
    ("another protocol", SWITCH.format("h2c", "Upgrade", GOOD, "")),
    ("no upgrade in Connection", SWITCH.format("websocket", "keep-alive", GOOD, "")),
)


@case("a 101 that does not accept the offer is answered with 502 and nothing of the server follows")
def bad_switches():
    for what, data in BAD_SWITCHES:

        def serve(peer, _number, data=data):
            peer.read_head()
            peer.send(data.encode() + b"\x81\x06secret")
            peer.read_rest()

        with wire.RawServer(serve) as server, squall.Listener(server) as web, web.connect() as client:
            client.send(ws.offer())
            head, body = client.read_response()
            equal(head.status, 502, what)
            check(b"secret" not in body + client.buffer, f"{what}: bytes of the server leaked")


BAD_OFFERS = (
    ("another version", ws.offer().replace(b"Version: 13", b"Version: 8"), 426),
    ("no key", ws.offer().replace(b"Sec-WebSocket-Key", b"X-Key"), 400),
    ("a long key", ws.offer(key=65 * "A"), 400),
    ("two keys", ws.offer(fields=[f"Sec-WebSocket-Key: {ws.SAMPLE_KEY}"]), 400),
)


@case("an offer that is not valid is refused by the module: 400, or 426 with the version that it speaks")
def bad_offers():
    seen = []
    serve = wire.plain_handler(lambda head, _body: seen.append(head.start) or wire.response())
    with wire.RawServer(serve) as server, squall.Listener(server) as web:
        for what, data, status in BAD_OFFERS:
            with web.connect() as client:
                client.send(data)
                head = client.read_head()
                equal(head.status, status, what)
                if status == 426:
                    equal(head.get("Sec-WebSocket-Version"), "13", "version told")
        equal(seen, [], "offers that reached the server")


@case("Upgrade without Connection: upgrade is a plain request")
def not_an_offer():
    seen = []

    def respond(head, _body):
        seen.append(head)
        return wire.response(b"plain")

    with wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        with web.connect() as client:
            client.send(ws.offer(connection="keep-alive") + wire.request("/next"))
            equal(client.read_response()[1], b"plain", "first response")
            equal(client.read_response()[1], b"plain", "second response")
        equal(seen[0].get("Upgrade"), None, "Upgrade passed on")


@case("Connection: keep-alive, Upgrade is an offer")
def keep_alive_upgrade():
    with ws.echo_server() as server, squall.Listener(server) as web, web.connect() as client:
        client.send(ws.offer(connection="keep-alive, Upgrade"))
        equal(client.read_head().status, 101, "status")
        client.send(b"through")
        equal(client.read(7), b"through", "echo")


@case("after a refused upgrade (403, 426, 200) the client's connection goes on with plain requests")
def refused_goes_on():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        for status in (403, 426, 200):
            client.send(ws.offer(f"/refuse/{status}"))
            head, body = client.read_response()
            equal((head.status, body), (status, b"refused"), "refusal")
            client.send(wire.request("/after"))
            equal(client.read_response()[1], b"hello /after", f"request after {status}")


@case("a request pipelined behind a refused offer is served as a request")
def pipelined_behind_refused():
    with squall.Listener(peers.shared(peers.node_app)) as web, web.connect() as client:
        client.send(ws.offer("/refuse/403") + wire.request("/behind"))
        equal(client.read_response()[0].status, 403, "refusal")
        equal(client.read_response()[1], b"hello /behind", "request behind it")


@case("FIN is passed on as a half-close in both directions")
def half_close():
    first = threading.Event()

    def serve(peer, _number):
        equal(peer.read_rest(), b"from the client", "what the client sent before its FIN")
        first.set()
        peer.send(b"x" * 300_000)
        peer.finish_sending()

    with ws.tunnel_server(serve) as server, squall.Listener(server) as web:
        with ws.open_tunnel(web) as client:
            client.send(b"from the client")
            client.finish_sending()
            check(first.wait(ktap.seconds(10)), "the client's FIN did not reach the server")
            equal(len(client.read_rest()), 300_000, "bytes after the client's FIN")

    def serve_reverse(peer, _number):
        peer.send(b"bye")
        peer.finish_sending()
        data = peer.read_rest()
        equal(len(data), 300_000, "bytes after the server's FIN")
        first.set()

    first.clear()
    with ws.tunnel_server(serve_reverse) as server, squall.Listener(server) as web:
        with ws.open_tunnel(web) as client:
            equal(client.read_rest(), b"bye", "what the server sent before its FIN")
            client.send(b"y" * 300_000)
            client.finish_sending()
            check(first.wait(ktap.seconds(10)), "the client's bytes and FIN did not reach the server")
        until(lambda: web.stats()["tunnels_open"] == 0, 10, "the tunnel ended")


@case("after an upgrade took a connection out of the pool another is provisioned")
def provisioned():
    with ws.echo_server() as server, squall.Listener(server, connections=1) as web:
        tunnels = []
        for count in range(1, 11):
            tunnels.append(ws.open_tunnel(web))
            until(lambda: server.accepted >= count + 1, 10, f"a connection beside {count} tunnels")
        for number, tunnel in enumerate(tunnels):
            tunnel.send(b"%d" % number)
            equal(tunnel.read(1), b"%d" % number, "echo")
        for tunnel in tunnels:
            tunnel.close()


@case("tunnels carry random lengths both ways at once without a change", limit=120)
def random_lengths():
    total = ktap.scaled(64 << 20, 4 << 20)
    with ws.echo_server() as server, squall.Listener(server) as web, ws.open_tunnel(web, timeout=60) as client:
        block = os.urandom(1 << 20)
        sent = hashlib.md5(ws.LONG)

        def send():
            client.send(ws.LONG)
            left, at = total, 1
            while left:
                piece = block[at % 4096 : at % 4096 + min(left, 1 + (at * 7919) % 200_000)]
                sent.update(piece)
                client.send(piece)
                left, at = left - len(piece), at + 1

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        got = client.read_md5(len(ws.LONG) + total)
        sender.join()
        equal(got, sent.hexdigest(), "MD5 of what came back")


session.main()
