#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Whose a server connection is: with NTLM and Negotiate the server knows its connection, so nobody else may use it."""

import contextlib
import os
import threading

from lib import ktap, session, squall, wire
from lib.ktap import case, check, equal, until

CHALLENGES = ["WWW-Authenticate: Basic realm=\"a, b\", negotiate", "WWW-Authenticate: NTLM"]


class Site(wire.RawServer):
    """A server that authenticates connections, and says who asks on which: "alice 1" is alice on its first connection.

    /open is for everybody. A request with "NTLM 1" is answered by a challenge, one with "NTLM 3 NAME" behind that is NAME's
    from then on, and so is one with "Negotiate NAME" at once. /hold answers when `go_on` is set, /close not at all.
    """

    def __init__(self, **options):
        super().__init__(self._answer, **options)
        self.go_on = threading.Event()
        self.ended = []

    def _answer(self, peer, number):
        user, challenged = None, False
        with contextlib.suppress(wire.Closed, OSError):
            while True:
                head = peer.read_head()
                peer.read_body(head)
                target = head.start.split(" ")[1]
                words = (head.get("Authorization") or "").split()
                if target == "/close":
                    break
                if target == "/hold":
                    self.go_on.wait(ktap.seconds(20))
                if words[:2] == ["NTLM", "1"]:
                    challenged = True
                    peer.send(wire.response(status="401 Unauthorized", fields=["WWW-Authenticate: NTLM 2"]))
                    continue
                if words[:2] == ["NTLM", "3"] and challenged or words[:1] == ["Negotiate"]:
                    user = words[-1]
                if user or target == "/open":
                    peer.send(wire.response(f"{user} {number}".encode()))
                else:
                    peer.send(wire.response(status="401 Unauthorized", fields=CHALLENGES))
        self.ended.append(number)


def ask(client, target="/", authorization=None, body=None):
    """Status and body of a request."""
    fields = [f"Authorization: {authorization}"] if authorization else []
    client.send(wire.request(target, "GET" if body is None else "POST", fields, body))
    head, answer = client.read_response()
    return head.status, answer.decode()


def log_in(client, name):
    """Authenticates the client's connection by NTLM, and returns what the server says of it."""
    equal(ask(client)[0], 401, "status without credentials")
    equal(ask(client, authorization="NTLM 1")[0], 401, "status of the first leg")
    status, who = ask(client, authorization=f"NTLM 3 {name}")
    equal((status, who.split(" ")[0]), (200, name), "answer to the last leg")
    return who


@contextlib.contextmanager
def site(**attributes):
    """A server that authenticates connections, and a listener that keeps connections to it."""
    with Site() as server, squall.Listener(server, connections=None, idle_ms=None) as web:
        for name, value in attributes.items():
            squall.write(f"{web.server_directory()}/{name}", value)
        yield web, server
        server.go_on.set()


@case("a connection that a client has authenticated is that client's alone, and ends with the client's")
def ntlm():
    with site() as (web, server):
        with web.connect() as alice:
            who = log_in(alice, "alice")
            for turn in range(5):
                with web.connect() as stranger:
                    status, answer = ask(stranger)
                    equal(status, 401, f"status of a stranger's request, who is taken for {answer!r}, turn {turn}")
                equal(ask(alice), (200, who), "the next answer to alice")
                equal(ask(alice, "/open", body=b"x" * 3000), (200, who), "the answer to her POST")
            with web.connect() as bob:
                other = log_in(bob, "bob")
                for _ in range(5):
                    equal((ask(alice)[1], ask(bob)[1]), (who, other), "answers to two clients")
            until(lambda: int(other.split(" ")[1]) in server.ended, 5, "bob's server connection ends with his")
            check(int(who.split(" ")[1]) not in server.ended, "alice's has ended")
        until(lambda: int(who.split(" ")[1]) in server.ended, 5, "alice's server connection ends with hers")
        stats = web.server_stats()
        equal((stats["busy"], stats["waiting"]), (0, 0), "busy and waiting")


@case("credentials that come unasked bind the connection too, whatever the answer says")
def negotiate():
    with site() as (web, _server), web.connect() as alice:
        status, who = ask(alice, authorization="Negotiate alice")
        equal((status, who), (200, "alice 1"), "answer to the credentials")
        with web.connect() as stranger:
            equal(ask(stranger)[0], 401, "status of a stranger's request")
        equal(ask(alice), (200, who), "the next answer to alice")


@case("connections that bind nobody are shared as ever")
def shared():
    with site() as (web, server):
        kept = squall.module_stats()["kept"]
        for _ in range(3):
            with web.connect() as client:
                equal(ask(client, "/open", authorization="Basic TlRMTQ=="), (200, "None 1"), "answer")
        equal((server.accepted, squall.module_stats()["kept"] - kept), (1, 0), "connections, and those kept")


@case("a kept connection takes no place from others, and its client waits for nobody")
def accounts():
    with site(connections_max=1) as (web, server), web.connect() as alice, web.connect() as other, web.connect() as third:
        who = log_in(alice, "alice")
        equal(ask(other, "/open")[1], "None 2", "answer to another client while alice's is idle")
        stats = web.server_stats()
        equal((stats["connected"], stats["busy"]), (1, 0), "connected and busy: alice's does not count")
        other.send(wire.request("/hold"))
        until(lambda: web.server_stats()["busy"] == 1, 5, "the only connection is in use")
        equal(ask(alice), (200, who), "answer to alice meanwhile")
        third.send(wire.request("/open"))
        until(lambda: web.server_stats()["waiting"] == 1, 5, "a third client waits")
        equal(ask(alice), (200, who), "answer to alice while others wait")
        server.go_on.set()
        equal(other.read_response()[0].status, 401, "status of the one that held")
        equal(third.read_response()[0].status, 200, "status of the one that waited")


@case("a request goes where its connection is, however the route balances; a lost one is authenticated anew")
def several():
    with Site() as first, Site() as second, squall.Listener(first, second, connections=None, idle_ms=None) as web:
        with web.connect() as alice:
            who = log_in_anywhere(alice)
            for _ in range(6):
                equal(ask(alice), (200, who), "answer to alice, of one of two servers")
            # Her server closes the connection behind a request that is not sent again.
            equal(ask(alice, "/close", body=b"once")[0], 502, "status of a request whose connection was closed")
            equal(ask(alice)[0], 401, "status of the next")
            log_in_anywhere(alice)
        for index in range(2):
            equal(web.server_stats(index)["busy"], 0, f"busy at server {index}")


def log_in_anywhere(client):
    """Authenticates the client's connection at whichever server it is bound to by the first challenge."""
    equal(ask(client)[0], 401, "status without credentials")
    return log_in(client, "alice")


@case("while a request goes to another route's server the connection waits; it does not outlive its own server")
def routes():
    with site() as (web, server), wire.RawServer(wire.plain_handler(lambda *_: wire.response(b"plain"))) as plain:
        other = f"{web.directory}/other"
        os.mkdir(other)
        squall.write(f"{other}/path", "/plain")
        os.mkdir(f"{other}/s0")
        squall.write(f"{other}/s0/address", plain.address)
        with web.connect() as alice:
            who = log_in(alice, "alice")
            for _ in range(3):
                equal(ask(alice, "/plain"), (200, "plain"), "answer of the other route's server")
                equal(ask(alice), (200, who), "answer to alice behind it")
            plain.stop()
            equal(ask(alice, "/plain")[0], 502, "status when that server is gone")
            equal(ask(alice), (200, who), "answer to alice behind that")
            squall.write(f"{web.server_directory()}/enable", 0)
            check(ask(alice)[0] in (502, 503), "an answer of a server that is disabled")
            until(lambda: int(who.split(" ")[1]) in server.ended, 5, "the connection ends")
            squall.write(f"{web.server_directory()}/enable", 1)
            until(lambda: ask(alice)[0] == 401, 5, "the server asks anew")


if __name__ == "__main__":
    session.main()
