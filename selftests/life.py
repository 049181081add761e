#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The life of a tunnel: its timeouts, each by its own counter, rates, Close frames between frames."""

import contextlib
import os
import subprocess
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from lib import baseline, crowd as crowds, ktap, peers, session, squall, wire, ws
from lib.ktap import case, check, equal, until

GOING_AWAY, POLICY, RESTART = 1001, 1008, 1012


class Pair:
    """A tunnel of which the test holds both ends, `client` and `server`."""

    def __init__(self, web, arrived):
        self.client = ws.open_tunnel(web)
        until(lambda: arrived, 10, "the server's end")
        self.server = arrived.pop()

    def close(self):
        """Closes both ends."""
        self.client.close()
        self.server.close()


class Stage:
    """A listener whose tunnels have both ends in the test's hands."""

    def __init__(self, **sysctls):
        self.arrived, self.pairs, self.sysctls = [], [], sysctls
        self.done = threading.Event()
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        def serve(peer, _number):
            self.arrived.append(peer)
            self.done.wait()

        self.stack.enter_context(squall.sysctl(**self.sysctls))
        server = self.stack.enter_context(ws.tunnel_server(serve))
        self.stack.callback(self.done.set)
        self.web = self.stack.enter_context(squall.Listener(server))
        return self

    def __exit__(self, *error):
        for pair in self.pairs:
            pair.close()
        self.stack.__exit__(*error)

    def pair(self):
        """Opens a tunnel."""
        self.pairs.append(Pair(self.web, self.arrived))
        return self.pairs[-1]


def ms(value):
    """A time that the debug kernel has more of."""
    return int(value * ktap.PACE)


def closed(pair, code, what):
    """Both ends get a Close frame with `code`, the server's masked, and then a FIN."""
    equal(ws.read_close(pair.client, masked=False), code, f"{what}: the client's status code")
    equal(ws.read_close(pair.server, masked=True), code, f"{what}: the server's status code")


@contextlib.contextmanager
def counted(name, count=1):
    """The module's counter `name` grows by `count`."""
    before = squall.module_stats()[name]
    yield
    until(lambda: squall.module_stats()[name] == before + count, 10, f"{count} more of {name}")


@case("an offer that gets no answer is a 504 after ws_handshake_timeout_ms, which plain requests do not have")
def handshake():
    def serve(peer, _number):
        head = peer.read_head()
        if head.get("Upgrade") is None:
            time.sleep(ms(500) / 1000)
            peer.send(wire.response(b"late"))
        peer.read_rest()

    with squall.sysctl(ws_handshake_timeout_ms=ms(200)), wire.RawServer(serve) as server, squall.Listener(server) as web:
        with web.connect() as client, counted("ws_handshake_timeouts"):
            client.send(ws.offer())
            equal(client.read_head().status, 504, "status")
        with web.connect() as client:
            client.send(wire.request())
            equal(client.read_response()[1], b"late", "response of a slow server")


def chatter(send, until_set):
    """Sends an empty frame now and then."""

    def run():
        while not until_set.wait(ms(100) / 1000):
            try:
                send()
            except OSError:
                return

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@contextlib.contextmanager
def talking(pair, client=False, server=False):
    """One end, or both, send something now and then."""
    end, threads = threading.Event(), []
    if client:
        threads.append(chatter(lambda: pair.client.send(ws.frame(masked=True)), end))
    if server:
        threads.append(chatter(lambda: pair.server.send(ws.frame()), end))
    yield
    end.set()
    for thread in threads:
        thread.join()


def skip_empty(peer, masked):
    """Reads the empty frames that come before a Close frame."""
    empty = ws.frame(masked=masked)
    while True:
        start = peer.read(1)
        peer.buffer = start + peer.buffer
        if start != empty[:1]:
            return
        peer.read(len(empty))


IDLE = (
    ("ws_idle_timeout_ms", "ws_idle_timeouts", None, ("client", "server")),
    ("ws_client_idle_timeout_ms", "ws_client_idle_timeouts", "server", ("client",)),
    ("ws_server_idle_timeout_ms", "ws_server_idle_timeouts", "client", ("server",)),
)


@case("silence of the client, of the server and of both are told apart: each has a timeout and a counter", limit=60)
def idle():
    for name, counter, who_talks, who_keeps in IDLE:
        with Stage(**{name: ms(400)}) as stage:
            for keeper in who_keeps:
                pair, before = stage.pair(), squall.module_stats()[counter]
                with talking(pair, **{keeper: True}):
                    time.sleep(ms(1000) / 1000)
                equal(squall.module_stats()[counter], before, f"{counter} while the {keeper} talks")
                pair.close()
            with counted(counter):
                pair = stage.pair()
                with talking(pair, **({who_talks: True} if who_talks else {})):
                    skip_empty(pair.client, False)
                    skip_empty(pair.server, True)
                    closed(pair, GOING_AWAY, name)


@case("tunnels are closed at ws_lifetime_ms, less up to ws_lifetime_jitter percent")
def lifetime():
    with Stage(ws_lifetime_ms=ms(1000), ws_lifetime_jitter=50) as stage, counted("ws_lifetimes", 16):
        opened, lived = {}, []
        for _ in range(16):
            opened[stage.pair()] = time.monotonic()
        for pair in stage.pairs:
            closed(pair, GOING_AWAY, "lifetime")
            lived.append(time.monotonic() - opened[pair])
        check(max(lived) < ms(1000) / 1000 + ktap.seconds(1), f"lived for {max(lived)} s")
        check(min(lived) > ms(450) / 1000, f"lived for {min(lived)} s only")
    with Stage(ws_lifetime_ms=ms(300), ws_lifetime_jitter=0) as stage:
        begun, pair = time.monotonic(), stage.pair()
        closed(pair, GOING_AWAY, "lifetime")
        check(time.monotonic() - begun >= ms(290) / 1000, "closed before the lifetime without jitter")


@case("an end that takes nothing for ws_send_timeout_ms ends the tunnel with a reset", limit=60)
def stalled():
    with Stage(ws_send_timeout_ms=ms(600)) as stage:
        for stopped, other in (("client", "server"), ("server", "client")):
            pair = stage.pair()
            with counted("ws_send_timeouts"):
                sender = getattr(pair, other)
                sender.sock.settimeout(ms(300) / 1000)
                try:
                    sender.send(ws.frame(bytes(16 << 20), masked=other == "client"))
                    check(False, f"the {stopped} has taken 16 MiB that nobody reads")
                except TimeoutError:
                    pass
                sender.sock.settimeout(ktap.seconds(20))
                check(sender.was_reset(), f"the {other} was not reset")


@case("a tunnel that is open one way only is ended after ws_half_closed_timeout_ms without traffic")
def half_closed():
    with Stage(ws_half_closed_timeout_ms=ms(400)) as stage:
        pair = stage.pair()
        pair.client.finish_sending()
        check(pair.server.ended(), "the FIN was not passed on")
        with counted("ws_half_closed_timeouts", 0), talking(pair, server=True):
            time.sleep(ms(1000) / 1000)
        with counted("ws_half_closed_timeouts"):
            skip_empty_to_reset(pair.client)


def skip_empty_to_reset(peer):
    """Reads empty frames and then the reset."""
    try:
        while peer.sock.recv(1 << 16):
            pass
        check(False, "a FIN instead of a reset")
    except ConnectionResetError:
        pass


@case("a Close frame is sent between two frames and nowhere else, whatever part of a frame has come", limit=120)
def between_frames():
    small, large = ws.frame(b"x" * 5), ws.frame(b"y" * 300)
    for frame_ in (small, large, ws.frame(b"z" * 70000)):
        cuts = list(range(1, min(len(frame_), 12))) + [len(frame_) - 1]
        with Stage(drain_ms=0) as stage:
            pairs = []
            for cut in cuts:
                pair = stage.pair()
                pair.server.send(ws.frame(b"before") + frame_[:cut])
                equal(pair.client.read(8 + cut), ws.frame(b"before") + frame_[:cut], "what came before")
                pairs.append(pair)
            stage.web.enable(0)
            for pair, cut in zip(pairs, cuts):
                # The client was between two frames: the server is told at once.
                equal(ws.read_close(pair.server, masked=True), GOING_AWAY, "the server's status code")
                check(pair.client.silent_for(0.01), f"something was sent after {cut} bytes of a frame")
                pair.server.send(frame_[cut:] + ws.frame(b"behind"))
                equal(pair.client.read(len(frame_) - cut), frame_[cut:], "the rest of the frame")
                equal(ws.read_close(pair.client, masked=False), GOING_AWAY, "the client's status code")


@case("an end that has got a Close frame gets no second one")
def no_second_close():
    with Stage(drain_ms=0) as stage:
        pair = stage.pair()
        pair.server.send(ws.frame(b"\x03\xe8", opcode=8))
        equal(pair.client.read(4), b"\x88\x02\x03\xe8", "the server's Close frame")
        stage.web.enable(0)
        check(pair.client.ended(), "something behind the server's Close frame")
        equal(ws.read_close(pair.server, masked=True), GOING_AWAY, "the server's status code")


@case("a tunnel whose ends do not let it be closed is reset after ws_close_timeout_ms")
def close_timeout():
    with Stage(drain_ms=0, ws_close_timeout_ms=ms(300)) as stage, counted("ws_close_timeouts"):
        pair = stage.pair()
        pair.server.send(ws.frame(b"x" * 100)[:50])
        pair.client.read(50)
        stage.web.enable(0)
        equal(ws.read_close(pair.server, masked=True), GOING_AWAY, "the server's status code")
        check(pair.client.was_reset(), "the client was not reset in the middle of a frame")


@case("what a client sends above ws_bytes_rate and ws_frames_rate has to wait, and is not lost", limit=60)
def rate_delays():
    for values, data, count in (
        ({"ws_bytes_rate": 40_000}, ws.frame(bytes(20_000 - 8), masked=True), 3),
        ({"ws_frames_rate": 500}, ws.frame(masked=True) * 250, 3),
    ):
        with Stage(ws_rate_burst_ms=ms(100), **values) as stage:
            pair, before = stage.pair(), squall.module_stats()["ws_rate_delays"]
            begun = time.monotonic()
            pair.client.send(data * count)
            equal(pair.server.read(len(data) * count), data * count, "bytes behind the rate")
            took = time.monotonic() - begun
            # What is sent at once, and what one look may be too late, do not take time.
            check(took > 1.5 - ms(100) / 1000 - 0.4, f"{values} took {took} s")
            check(squall.module_stats()["ws_rate_delays"] > before, "nothing was counted")
            # The server may send as much as it likes.
            begun = time.monotonic()
            pair.server.send(ws.frame(bytes(200_000)))
            pair.client.read(200_000)
            check(time.monotonic() - begun < ktap.seconds(1), "the server was held back")


@case("the FIN of a client that is ahead of its rate is passed on behind all that it sent")
def rate_and_fin():
    data = ws.frame(masked=True) * 100
    with Stage(ws_rate_burst_ms=1, ws_frames_rate=10) as stage:
        pair = stage.pair()
        pair.server.finish_sending()
        check(pair.client.ended(), "the server's FIN was not passed on")
        pair.client.send(data)
        pair.client.finish_sending()
        equal(pair.server.read(len(data)), data, "what the client sent")
        check(pair.server.ended(), "the client's FIN was not passed on")


@case("a rate that is taken back holds nobody back, whatever is owed by it")
def rate_taken_back():
    data = ws.frame(masked=True) * 100
    with Stage(ws_rate_burst_ms=1, ws_frames_rate=1, ws_bytes_rate=10_000_000) as stage:
        pair = stage.pair()
        pair.client.send(data)
        equal(pair.server.read(len(data)), data, "what came before the rate was looked at")
        with squall.sysctl(ws_frames_rate=0):
            pair.client.send(data)
            equal(pair.server.read(len(data)), data, "what is sent without a rate of frames")


@case("a client above its rate is closed with 1008, or reset, if that is wanted")
def rate_closes():
    with Stage(ws_rate_burst_ms=1, ws_frames_rate=10) as stage:
        route = f"{stage.web.directory}/{squall.ROUTE}"
        squall.write(f"{route}/ws_rate_action", 1)
        with counted("ws_rate_closes"):
            pair = stage.pair()
            pair.client.send(ws.frame(masked=True) * 100)
            equal(ws.read_close(pair.client, masked=False), POLICY, "the client's status code")
            skip_empty(pair.server, True)
            equal(ws.read_close(pair.server, masked=True), POLICY, "the server's status code")
        squall.write(f"{route}/ws_rate_action", 2)
        with counted("ws_rate_closes"):
            pair = stage.pair()
            pair.client.send(ws.frame(masked=True) * 100)
            skip_empty_to_reset(pair.client)


@case("a frame whose length has its most significant bit set ends the tunnel with a reset")
def bad_frame():
    with Stage() as stage, counted("bad_frames", 2):
        pair = stage.pair()
        pair.client.send(b"\x82\xff\x80" + bytes(20))
        skip_empty_to_reset(pair.client)
        pair = stage.pair()
        pair.server.send(b"\x82\x7f\xff" + bytes(20))
        skip_empty_to_reset(pair.server)


@case("idle tunnels fire no timers")
def lazy():
    count = ktap.scaled(200, 50)
    # Each connection has a timer from before it was a tunnel, which fires once.
    short = ("connect_timeout_ms", "first_byte_timeout_ms", "head_timeout_ms", "ws_handshake_timeout_ms", "send_timeout_ms")
    before_tunnel = {name: ms(1500) for name in short}
    with Stage(ws_idle_timeout_ms=600_000, ws_lifetime_ms=600_000, **before_tunnel) as stage:
        for _ in range(count):
            stage.pair()
        time.sleep(ms(1600) / 1000)
        before = squall.module_stats()["timers"]
        time.sleep(ktap.seconds(1))
        equal(squall.module_stats()["timers"] - before, 0, f"timers of {count} idle tunnels")


@case("WebSocket clients are told 1001, or 1012 if that is wanted, spread evenly over drain_ms", limit=60)
def spread():
    count, over, app = 20, ms(3000), peers.shared(peers.python_app)
    for restart, code in ((0, GOING_AWAY), (1, RESTART)):
        with squall.sysctl(drain_ms=over, drain_restart=restart), squall.Listener(app) as web:
            clients = [connect(web.url("/echo", scheme="ws")) for _ in range(count)]
            for client in clients:
                client.send("open")
                equal(client.recv(), "open", "echo")
            ends = []

            def wait_for_end(client):
                try:
                    client.recv()
                except ConnectionClosed as closed_:
                    ends.append((time.monotonic(), closed_.rcvd and closed_.rcvd.code))

            threads = [threading.Thread(target=wait_for_end, args=(client,)) for client in clients]
            for thread in threads:
                thread.start()
            begun = time.monotonic()
            with counted("drained", count):
                web.enable(0)
                for thread in threads:
                    thread.join()
            equal({got for _, got in ends}, {code}, "status codes")
            times = sorted(at - begun for at, _ in ends)
            check(times[-1] - times[0] > over / 1000 * 0.7, f"all within {times[-1] - times[0]} s")
            largest = max(b - a for a, b in zip(times, times[1:]))
            check(largest < over / 1000 * 0.3, f"none for {largest} s")


@case("while a listener is drained exchanges are completed, idle connections closed and tunnels left open")
def exchanges_complete():
    go = threading.Event()

    def respond(head, _body):
        if head.start.startswith("GET /slow"):
            go.wait(ktap.seconds(10))
        return wire.response(b"whole")

    with squall.sysctl(drain_ms=60_000), wire.RawServer(wire.plain_handler(respond)) as server, squall.Listener(server) as web:
        with web.connect() as idle_, web.connect() as busy:
            idle_.send(wire.request("/"))
            equal(idle_.read_response()[1], b"whole", "response")
            busy.send(wire.request("/slow"))
            time.sleep(0.2)
            web.enable(0)
            check(idle_.ended(), "the idle connection was not closed")
            go.set()
            head, body = busy.read_response()
            equal((head.status, body), (200, b"whole"), "response after the listener was disabled")
            check(busy.ended(), "the connection was not closed behind its response")


@case("a listener that is enabled again keeps the tunnels whose turn had not come")
def enabled_again():
    with Stage(drain_ms=60_000) as stage:
        pairs = [stage.pair() for _ in range(4)]
        stage.web.enable(0)
        # Theirs was the first turn.
        closed_now = [pair for pair in pairs if not pair.client.silent_for(0.3)]
        equal(len(closed_now), 1, "tunnels closed at once")
        stage.web.enable(1)
        for pair in pairs:
            if pair not in closed_now:
                pair.client.send(ws.frame(b"on", masked=True))
                equal(pair.server.read(8), ws.frame(b"on", masked=True), "what the client sent")


@case("a server that is removed has its tunnels closed in their turn, and nobody else's are")
def server_removed():
    arrived, done = {}, threading.Event()

    def serving(name):
        def serve(peer, _number):
            arrived[name] = peer
            done.wait()

        return serve

    with squall.sysctl(drain_ms=0), ws.tunnel_server(serving("a")) as one, ws.tunnel_server(serving("b")) as other:
        with squall.Listener(one, other) as web:
            clients = {}
            for _ in range(2):
                before = set(arrived)
                client = ws.open_tunnel(web)
                until(lambda: set(arrived) - before, 10, "the server's end")  # noqa: B023
                clients[(set(arrived) - before).pop()] = client
            squall.remove_tree(web.server_directory(0))
            equal(ws.read_close(clients["a"], masked=False), GOING_AWAY, "the client's status code")
            equal(ws.read_close(arrived["a"], masked=True), GOING_AWAY, "the server's status code")
            check(clients["b"].silent_for(0.3), "the other server's tunnel was touched")
            with ws.open_tunnel(web) as client:
                check(client.silent_for(0.1), "a new tunnel was closed")
            clients["b"].close()
        done.set()


@case("tunnels to an address that a server had before are closed when it is disabled or removed, in one order with the others")
def former_address():
    def serve(peer, _number):
        peer.read_rest()

    with ws.tunnel_server(serve) as one, ws.tunnel_server(serve) as other, squall.sysctl(drain_ms=ms(400)):
        for end in (lambda directory: squall.write(f"{directory}/enable", 0), squall.remove_tree):
            with squall.Listener(one) as web, contextlib.ExitStack() as stack:
                directory = web.server_directory()
                clients = []
                for address in (one.address, other.address, one.address):
                    squall.write(f"{directory}/address", address)
                    web.wait_ready()
                    clients += [stack.enter_context(ws.open_tunnel(web)) for _ in range(2)]
                equal(web.server_stats()["tunnels_open"], 6, "tunnels of the server")
                check(clients[0].silent_for(0.1), "the address alone ended a tunnel")
                begun, times = time.monotonic(), []
                with counted("drained", 6):
                    end(directory)
                    for client in clients:
                        equal(ws.read_close(client, masked=False), GOING_AWAY, "the client's status code")
                        times.append(time.monotonic() - begun)
                # The last of six has its turn after five sixths.
                check(max(times) > ms(400) / 1000 * 0.6, f"not in one order: {times}")
                if end is not squall.remove_tree:
                    until(lambda: web.server_stats()["tunnels_open"] == 0, 5, "no tunnel is left")


@case("a route that is disabled answers 503 and has its tunnels closed; enabled again it serves")
def route_disabled():
    with Stage(drain_ms=0) as stage, stage.web.connect() as client:
        pair, route = stage.pair(), f"{stage.web.directory}/{squall.ROUTE}"
        equal(squall.read_stats(route)["tunnels_open"], 1, "tunnels of the route")
        squall.write(f"{route}/enable", 0)
        closed(pair, GOING_AWAY, "disabled")
        pair.close()
        for _ in range(2):
            client.send(wire.request())
            equal(client.read_response()[0].status, 503, "status while the route is disabled")
        squall.write(f"{route}/enable", 1)
        again = stage.pair()
        again.client.send(ws.frame(b"on", masked=True))
        equal(again.server.read(8), ws.frame(b"on", masked=True), "what the client sent")
        until(lambda: squall.read_stats(route)["tunnels_open"] == 1, 10, "the first tunnel is gone")


CROWD = ktap.scaled(10_000, 150)


@case(f"{CROWD} tunnels are open at once and echo while everything is reconfigured; closed or reset, they leave nothing", limit=200)
def crowd():
    with peers.Echo() as server, squall.Listener(server) as web, crowds.Crowd(web.address) as tunnels:
        route, kept = f"{web.directory}/{squall.ROUTE}", web.server_directory(0)
        changes = [
            (f"{kept}/connections", 7), (f"{kept}/connections_max", 3000), (f"{kept}/weight", 9), (f"{kept}/backup", 1),
            (f"{route}/balance", "least-connections"), (f"{route}/response_timeout_ms", 7000),
            (f"{route}/ws_handshake_timeout_ms", 7000), (f"{route}/ws_idle_timeout_ms", 500_000),
            (f"{web.directory}/trusted", "192.0.2.0/24"), (f"{web.directory}/forwarded", 1),
            (f"{squall.SYSCTL}/ws_lifetime_jitter", 20), (f"{squall.SYSCTL}/queue_high", 140_000),
        ]
        # What the kernel keeps ready from now on is not counted.
        tunnels.open(crowds.WINDOW)
        tunnels.close(range(crowds.WINDOW))
        tunnels.socks.clear()
        until(lambda: web.stats()["tunnels_open"] == 0, 10, "the first tunnels are gone")
        memory, before, served = baseline.objects(), squall.module_stats(), server.counts()
        clock = ktap.Clock()
        tunnels.open(CROWD)
        clock.note(f"{CROWD} tunnels opened")
        equal(web.stats()["tunnels_open"], CROWD, "tunnels open")
        with squall.sysctl(ws_lifetime_jitter=10, queue_high=131072):
            for number, (path, value) in enumerate(changes):

                def change(path=path, value=value):
                    squall.write(path, value)
                    os.mkdir(f"{route}/more")
                    squall.write(f"{route}/more/address", server.address)

                tunnels.echo(range(number, CROWD, len(changes)), number, change)
                os.rmdir(f"{route}/more")
        clock.note("a message through each while everything was changed")
        tunnels.echo(range(CROWD), len(changes))
        clock.note("a message through each, all at once")
        equal(web.stats()["tunnels_open"], CROWD, "tunnels open")
        at_work = baseline.objects()
        tunnels.close(range(0, CROWD, 2))
        clock.note("half of them closed")
        tunnels.reset(range(1, CROWD, 2))
        until(lambda: web.stats()["tunnels_open"] == web.stats()["connections"] == 0, 20, "all tunnels are gone")
        clock.note("half of them reset")
        web.connections = 7
        web.wait_ready()
        now, stats = squall.module_stats(), web.server_stats()
        grown = {name: now[name] - before[name] for name in ("tunnels", "tunnels_closed", "frames", "no_memory", "entries_other")}
        frames = 4 * CROWD + 2 * (CROWD // 2)
        equal(grown, {"tunnels": CROWD, "tunnels_closed": CROWD, "frames": frames, "no_memory": 0, "entries_other": 0}, "growth of counters")
        equal(now["queued_bytes"], 0, "queued_bytes")
        equal([stats[name] for name in ("busy", "connecting", "waiting", "tunnels_open")], [0] * 4, "what the pool has under way")
        equal(stats["idle"], stats["connected"], "connections of the pool")
        half = CROWD // 2
        served = {name: value - served[name] for name, value in server.counts().items()}
        equal([served[name] for name in ("tunnels", "closes", "resets")], [CROWD, half, half], "tunnels, Close frames and resets of the server")
        clock.note("counted")
        baseline.check_objects(memory, at_work, CROWD // 10)
        clock.note("memory")


@case("unloading waits for tunnels to be closed in their turn, and no longer than it may", limit=60)
def unloading():
    with Stage() as stage:
        pairs = [stage.pair() for _ in range(5)]
        with squall.sysctl(drain_ms=ms(500)):
            squall.remove_tree(stage.web.directory)
        removal = threading.Thread(target=subprocess.run, args=(["rmmod", "squall"],))
        begun = time.monotonic()
        removal.start()
        for pair in pairs:
            closed(pair, GOING_AWAY, "unloading")
            pair.close()
        removal.join()
        took = time.monotonic() - begun
        check(took > ms(300) / 1000, f"the module was gone after {took} s")
        check(not squall.loaded(), "the module is still there")
        squall.load()


session.main()
