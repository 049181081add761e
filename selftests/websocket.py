#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""WebSocket applications through the module: real clients and servers, crosswise."""

import os
import random

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lib import ktap, peers, session, squall
from lib.ktap import case, check, equal

SIZES = [0, 1, 125, 126, 127, 65535, 65536, *ktap.scaled((1 << 20, 16 << 20), (1 << 20,))]
MOST = f"{SIZES[-1] >> 20} MiB"
TUNNELS = ktap.scaled(1000, 50)


def dial(web, target="/", **options):
    """Python's client, connected."""
    limits = {"max_size": 32 << 20, "compression": None, "ping_interval": None, "proxy": None}
    limits |= {"open_timeout": ktap.seconds(20), "close_timeout": ktap.seconds(10)}
    return connect(web.url(target, "ws"), **(limits | options))


def python_echo(app):
    """Text and binary of every size with Python's client."""
    with squall.Listener(app) as web, dial(web) as client:
        for size in SIZES:
            for message in (os.urandom(size), "ä" * (size // 2) + "x" * (size % 2)):
                client.send(message)
                check(client.recv(ktap.seconds(60)) == message, f"{size} B came back changed")


@case(f"Python client and Node server echo text and binary of 0 B to {MOST}", limit=150)
def echo_python_node():
    python_echo(peers.shared(peers.node_app))


@case(f"Node client and Python server echo text and binary of 0 B to {MOST}", limit=150)
def echo_node_python():
    with squall.Listener(peers.shared(peers.python_app)) as web:
        peers.node_client(web.url("/", "ws"), "echo", ",".join(map(str, SIZES)), limit=140)


@case("Python client and Python server echo thousands of small messages in order", limit=90)
def echo_python_python():
    count = ktap.scaled(3000, 150)
    with squall.Listener(peers.shared(peers.python_app)) as web, dial(web) as client:
        sizes = random.Random(1)
        sent = []
        for i in range(count):
            sent.append(f"{i} " + "m" * sizes.randrange(200))
            client.send(sent[-1])
            if i >= 50:
                equal(client.recv(ktap.seconds(20)), sent[i - 50], "message")
        for message in sent[-50:]:
            equal(client.recv(ktap.seconds(20)), message, "message")


@case("fragmented messages with a ping between the fragments arrive whole", limit=60)
def fragments():
    for make in (peers.node_app, peers.python_app):
        with squall.Listener(peers.shared(make)) as web:
            peers.node_client(web.url("/", "ws"), "fragments")
            with dial(web) as client:
                client.send(iter(["one ", "two ", "", "three"]))
                equal(client.recv(ktap.seconds(20)), "one two three", "message")
    with dial_to(peers.python_app) as (_, client):
        client.send("in fragments")
        equal("|".join(client.recv_streaming()), "in| |frag||ments|", "fragments")


class dial_to:
    """A listener in front of a shared application, and a client of it."""

    def __init__(self, make, target="/", **options):
        self.web = squall.Listener(peers.shared(make))
        self.target, self.options = target, options

    def __enter__(self):
        self.web.__enter__()
        try:
            self.client = dial(self.web, self.target, **self.options)
        except BaseException:
            self.web.__exit__()
            raise
        return self.web, self.client

    def __exit__(self, *_):
        self.client.close()
        self.web.__exit__()


@case("pings and pongs pass both ways with their payload", limit=60)
def ping():
    for make in (peers.node_app, peers.python_app):
        with dial_to(make) as (web, client):
            check(client.ping(b"payload").wait(ktap.seconds(10)), "no pong")
            client.send("ping me")
            equal(client.recv(ktap.seconds(10)), "pong from the server", "the server's ping")
            peers.node_client(web.url("/", "ws"), "ping")


@case("close codes and reasons pass both ways", limit=60)
def close_codes():
    for make in (peers.node_app, peers.python_app):
        for code in (1000, 1001, 1008, 3000, 4999):
            with dial_to(make) as (_, client):
                client.send(f"close {code}")
                try:
                    client.recv(ktap.seconds(10))
                except ConnectionClosed as end:
                    equal((end.rcvd.code, end.rcvd.reason), (code, "as asked"), "close frame")
                else:
                    raise AssertionError(f"a message came instead of a close frame with {code}")
    with squall.Listener(peers.shared(peers.python_app)) as web:
        peers.node_client(web.url("/", "ws"), "close", 4001)


@case("permessage-deflate is negotiated end to end and its messages survive", limit=60)
def deflate():
    text = "the same again and " * 20000
    for make in (peers.node_app, peers.python_app):
        with dial_to(make, "/deflate", compression="deflate") as (web, client):
            names = [extension.name for extension in client.protocol.extensions]
            equal(names, ["permessage-deflate"], "extensions")
            client.send(text)
            equal(client.recv(ktap.seconds(20)), text, "message")
            peers.node_client(web.url("/deflate", "ws"), "deflate")


@case("the server chooses the subprotocol")
def subprotocol():
    with dial_to(peers.node_app, subprotocols=["chat.v1", "chat.v2"]) as (_, client):
        equal(client.subprotocol, "chat.v2", "subprotocol")
    with dial_to(peers.python_app, subprotocols=["chat.v1", "chat.v2"]) as (web, client):
        equal(client.subprotocol, "chat.v2", "subprotocol")
        peers.node_client(web.url("/", "ws"), "subprotocol", "chat.v1,chat.v2")


@case("a bearer token of 1,000 and of 4,000 bytes among the subprotocols, as clients of Kubernetes send it", limit=60)
def bearer_token():
    for length in (1000, 4000):
        token = ("base64url.bearer.authorization.k8s.io." + "eyJhbGciOiJSUzI1NiJ9" * 200)[:length]
        for make in (peers.node_app, peers.python_app):
            with dial_to(make, subprotocols=[token, "chat.v2"]) as (web, client):
                equal(client.subprotocol, "chat.v2", f"subprotocol beside one of {length} bytes")
                client.send("text")
                equal(client.recv(ktap.seconds(10)), "text", "echo")
                peers.node_client(web.url("/", "ws"), "subprotocol", f"{token},chat.v2")


@case("refused upgrades are told to the client with their status and body", limit=60)
def refused():
    for make in (peers.node_app, peers.python_app):
        with squall.Listener(peers.shared(make)) as web:
            for status in (403, 426, 200):
                try:
                    dial(web, f"/refuse/{status}")
                except InvalidStatus as trouble:
                    equal(trouble.response.status_code, status, "status")
                    check(b"refused" in trouble.response.body, "body of the refusal")
                    continue
                raise AssertionError(f"an upgrade answered with {status} was accepted")
            peers.node_client(web.url("/refuse/403", "ws"), "refused", "403")


@case("a server that dies in the middle of a tunnel ends the client's side and no other", limit=60)
def server_dies():
    for make in (peers.node_app, peers.python_app):
        with dial_to(make) as (web, client), dial(web) as other:
            client.send("die")
            try:
                client.recv(ktap.seconds(10))
                raise AssertionError("a message from a dead server")
            except ConnectionClosed as end:
                equal(end.rcvd, None, "close frame from a server that sent none")
            other.send("still here")
            equal(other.recv(ktap.seconds(10)), "still here", "message in the other tunnel")


@case(f"{TUNNELS} tunnels are open at once and every one of them echoes", limit=240)
def many():
    app = peers.shared(peers.node_app)
    with squall.Listener(app, connections=64) as web:
        peers.node_client(web.url("/", "ws"), "many", TUNNELS, limit=230)
        ktap.until(lambda: web.stats()["tunnels_open"] == 0, 15, "all tunnels closed")
        check(web.stats()["tunnels"] >= TUNNELS, "upgrades counted")


session.main()
