#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Many exchanges of all kinds that fail at random points: afterwards every count is what it was, and no slot is lost."""

import contextlib
import os
import random
import threading

from lib import ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until

# SQUALL_EXCHANGES=100000 is the full number, for a run by hand.
EXCHANGES = int(os.environ.get("SQUALL_EXCHANGES", ktap.scaled(1200, 200)))
CLIENTS, CONNECTIONS = 6, 4
SEED = int(os.environ.get("SQUALL_SEED", 1))


def serve(peer, number):
    """Answers as chance has it."""
    chance = random.Random(f"server {SEED} {number}")
    while True:
        head = peer.read_head()
        what = chance.random()
        if head.get("Upgrade") and what < 0.6:
            peer.send(ws.switching(head))
            with contextlib.suppress(OSError):
                peer.send(peer.sock.recv(4096))
                if what < 0.2:
                    peer.reset()
            return
        if what < 0.05:
            return
        if what < 0.10:
            peer.reset()
            return
        peer.read_body(head)
        body = chance.randbytes(chance.choice((0, 10, 3000, 60_000)))
        status = chance.choice(("200 OK", "200 OK", "404 Not Found", "500 Oops", "503 Later"))
        answer = wire.response(body, status)
        if what < 0.20:
            peer.send(answer[: chance.randrange(len(answer))])
            return
        if what < 0.22:
            peer.send(b"HTTP/1.1 what\r\n\r\n")
            return
        peer.send(answer)


def client(web, chance, done):
    """One exchange, or a part of one."""
    request = chance.choice((
        wire.request(), wire.request("/", "POST", body=chance.randbytes(chance.choice((1, 2000, 50_000)))), ws.offer(),
        wire.request("/", "HEAD")))
    with web.connect() as peer:
        if chance.random() < 0.1:
            peer.send(request[: chance.randrange(len(request))])
        else:
            peer.send(request)
            if chance.random() < 0.8:
                head = peer.read_head()
                if head.status == 101:
                    done["tunnels"] += 1
                    peer.send(b"through the tunnel")
                    if chance.random() < 0.7:
                        peer.read(18)
                elif not request.startswith(b"HEAD"):
                    peer.read_body(head)
        done["exchanges"] += 1
        if chance.random() < 0.3:
            peer.reset()


@case(f"after {EXCHANGES} exchanges with failures at random points every count is at its base", limit=max(60, EXCHANGES // 25))
def counts():
    done, trouble = {"exchanges": 0, "tunnels": 0}, []
    left = iter(range(EXCHANGES))

    def work(web, number):
        chance = random.Random(f"client {SEED} {number}")
        try:
            for _ in left:
                with contextlib.suppress(OSError, wire.Closed):
                    client(web, chance, done)
        except Exception as error:  # told to the case's own thread
            trouble.append(error)

    with wire.RawServer(serve) as one, wire.RawServer(serve) as other:
        with squall.Listener(one, other, connections=CONNECTIONS) as web:
            threads = [threading.Thread(target=work, args=(web, number), daemon=True) for number in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            check(not trouble, lambda: repr(trouble[0]))

            until(lambda: not web.unrest(), 20, lambda: f"pools and gauges are at their base: {web.unrest()}")
            equal(squall.module_stats()["queued_bytes"], 0, "queued_bytes")
            ktap.note(f"{done}, of {EXCHANGES}; module: {squall.module_stats()}")
            check(done["tunnels"] > EXCHANGES // 50 and squall.module_stats()["retried"] > 0, f"not mixed: {done}")


session.main()
