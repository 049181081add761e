#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Memory is bounded for a tunnel, a client and all connections together; what is over goes, the rest goes on."""

import contextlib
import os
import re
import socket
import subprocess
import threading
import time

from lib import baseline, genl, ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until

PAGE = os.sysconf("SC_PAGESIZE")
PEER_BUFFER = 65536
MIB = 1 << 20
TCP_MEM = "/proc/sys/net/ipv4/tcp_mem"


def stats():
    """The module's counters."""
    return squall.read_stats(squall.ROOT)


def idle_base(base, live=64):
    """Waits until what is held is no more than `base`, but for a page for each connection that is kept."""
    until(lambda: stats()["memory_bytes"] <= base + live * PAGE, 10, f"memory is back at {base} bytes")


class Tunnels:
    """Tunnels to a server that reads nothing of those that are stalled, and echoes the rest."""

    def __init__(self, rcvbuf=PEER_BUFFER):
        self.server = ws.tunnel_server(self.serve, rcvbuf=rcvbuf)
        self.over = threading.Event()

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *exc):
        self.over.set()
        return self.server.__exit__(*exc)

    def serve(self, peer, _number):
        kind = peer.read(1)
        if kind != b"\x82":  # what is stalled begins with another opcode
            return self.over.wait()
        peer.buffer = kind + peer.buffer
        with contextlib.suppress(OSError, wire.Closed):
            while True:
                data, peer.buffer = peer.buffer or peer.sock.recv(65536), b""
                if not data:
                    return None
                peer.send(data)

    def let_go(self):
        """Ends what is stalled: bytes of a client that has reset its connection wait for the server, and are counted."""
        self.over.set()
        self.over = threading.Event()

    @staticmethod
    def stall(web, count=1, offered=8 * MIB, piece=65536, sndbuf=None):
        """Clients that have sent as much as is taken from them."""
        clients = [ws.open_tunnel(web) for _ in range(count)]
        for near in clients:
            if sndbuf:
                near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
            near.send(b"\x81" + ws.LONG[1:])
            near.sock.setblocking(False)
            near.offered = offered
            near.piece = bytes(piece)
        pump(*clients)
        return clients


def pump(*clients, quiet=0.3):
    """Sends for all of them until nothing has been taken for a while."""
    last = time.monotonic()
    while time.monotonic() - last < quiet * ktap.PACE:
        for near in clients:
            with contextlib.suppress(BlockingIOError, ConnectionError, BrokenPipeError):
                while near.offered > 0:
                    near.offered -= near.sock.send(near.piece)
                    last = time.monotonic()
        time.sleep(0.01)


def is_open(near):
    """The tunnel was not ended."""
    try:
        return near.sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def echo(near, payload=b"hello"):
    """A message there and back."""
    frame = ws.frame(payload, masked=True)
    near.send(frame)
    equal(near.read(len(frame)), frame, "echo")


def sockets(web):
    """What the kernel says the module's sockets take: bytes unread and unacknowledged, of those with this port or to it."""
    text = subprocess.run(["ss", "-tamnOH"], capture_output=True, text=True, check=True).stdout
    ports = {f":{web.port}", *(":" + server.rsplit(":", 1)[1] for server in web.servers)}
    total = 0
    for line in text.splitlines():
        words = line.split()
        if "skmem:" not in line or words[0] == "LISTEN":
            continue
        local, remote = words[3], words[4]
        port = lambda address: ":" + address.rsplit(":", 1)[1]
        # The module has the listener's side of the one and the client's of the other.
        if port(local) != f":{web.port}" and port(remote) not in ports - {f":{web.port}"}:
            continue
        total += sum(map(int, re.search(r"skmem:\(r(\d+),.*,w(\d+),", line).groups()))
    return total


def held_by_tunnel(limit_kib, piece):
    """Most bytes of truesize that a stalled tunnel with this bound takes, in sockets and queues."""
    with Tunnels() as tunnels, squall.Listener(tunnels.server) as web:
        squall.write(f"{web.directory}/{squall.ROUTE}/ws_memory_max_kib", limit_kib)
        [near] = tunnels.stall(web, piece=piece, offered=8 * MIB if piece > 100 else 400000)
        used = sockets(web)
        counted = stats()["memory_bytes"]
        near.reset()
    return used, counted


@case("a tunnel keeps to ws_memory_max_kib, by the kernel's own count of its sockets, with large segments and tiny ones")
def per_tunnel():
    base = stats()["memory_bytes"]
    for piece in (65536, 100):
        free, counted_free = held_by_tunnel(0, piece)
        bound, counted = held_by_tunnel(512, piece)
        ktap.note(f"pieces of {piece}: sockets {free >> 10} KiB without a bound, {bound >> 10} with 512 KiB; "
                  f"counted {counted_free - base >> 10} and {counted - base >> 10}")
        # It is stalled one way, for which it has the half. A page for each connection comes to what is counted.
        check(bound <= 256 << 10, f"{bound} bytes in the sockets of a tunnel that may have 512 KiB")
        check(counted - base <= (256 << 10) + 16 * PAGE, f"{counted - base} bytes counted")
        if piece > 100:
            check(counted_free - base > (256 << 10) + 16 * PAGE, "without a bound a tunnel holds more")
    idle_base(base)


@case("the least bound of a tunnel does not keep large messages from passing")
def per_tunnel_passes():
    with ws.echo_server() as server, squall.Listener(server) as web:
        squall.write(f"{web.directory}/{squall.ROUTE}/ws_memory_max_kib", 1)
        near = ws.open_tunnel(web)
        for size in (1, 70000, 400000):
            frame = ws.frame(bytes(size), masked=True)
            sender = threading.Thread(target=near.send, args=(frame,))
            sender.start()
            equal(near.read(len(frame)), frame, f"echo of {size} bytes")
            sender.join()
        near.close()


def queued_when_paused(near):
    """How much more is queued when a stalled tunnel's reader pauses for the first time: sends until it does."""
    before = stats()
    end = time.monotonic() + 10 * ktap.PACE
    while (now := stats())["paused"] == before["paused"]:
        check(time.monotonic() < end, "a reader pauses")
        with contextlib.suppress(BlockingIOError):
            near.sock.send(bytes(PAGE))
    return now["queued_bytes"] - before["queued_bytes"]


@case("a reader pauses as soon as something is queued, under pressure and when its client is close to its bound", limit=60)
def readers_pause():
    base = stats()["memory_bytes"]
    # Little that waits in TCP and on its way, so that no tunnel holds what it could be shed for.
    small = squall.sysctl(unsent_max=PAGE, client_memory_max_kib=64 << 10)
    with small, Tunnels(rcvbuf=2 * PAGE) as tunnels, squall.Listener(tunnels.server) as web:
        free, bound = tunnels.stall(web, 2, offered=0)
        check(queued_when_paused(free) > 64 << 10, "without either much is queued")
        greedy = tunnels.stall(web, 2)
        held = stats()["memory_bytes"] - base
        with squall.sysctl(client_memory_max_kib=(held >> 10) * 6 // 5):
            check(queued_when_paused(bound) <= 8 * PAGE, "little is queued close to a client's bound")
        for near in (free, bound, *greedy):
            near.reset()
        tunnels.let_go()
        idle_base(base)
        (pressed,) = tunnels.stall(web, 1, offered=0)
        others = [web.connect() for _ in range(260)]  # a page each: more than a MiB
        until(lambda: web.stats()["connections"] >= len(others), 10, "the others are accepted")
        with squall.sysctl(memory_max_mib=1), web.connect():
            until(lambda: stats()["memory_pressed"] == 1, 5, "pressure")
            check(queued_when_paused(pressed) <= 8 * PAGE, "little is queued under pressure")
            check(is_open(pressed), "nobody was reset for it")
        for near in (pressed, *others):
            near.reset()
    idle_base(base)


@case("what is acknowledged is not counted any more, though nothing else happens")
def acknowledged():
    with ws.echo_server() as server, squall.Listener(server) as web:
        near = ws.open_tunnel(web)
        echo(near)
        until(lambda: web.server_stats()["idle"] == web.connections, 5, "the pool is filled")
        idle = stats()["memory_bytes"]
        frame = ws.frame(bytes(1500000), masked=True)
        sender = threading.Thread(target=near.send, args=(frame,))
        sender.start()
        until(lambda: stats()["memory_bytes"] > idle + (256 << 10), 10, "much is under way")
        equal(near.read(len(frame)), frame, "echo")
        sender.join()
        until(lambda: stats()["memory_bytes"] <= idle, 5, "nothing but sockets is counted")
        near.close()


@case("a client at client_memory_max_kib is held back and refused, and other clients are not touched")
def per_client():
    base = stats()["memory_bytes"]
    limit = 2 * MIB
    with Tunnels() as tunnels, squall.Listener(tunnels.server, connections=4) as web:
        before = stats()
        with squall.sysctl(client_memory_max_kib=limit >> 10, client_connections_action=1):
            other = ws.open_tunnel(web, source="127.0.0.9")
            early = web.connect()
            until(lambda: web.stats()["accepted"] == 2, 5, "both are accepted")
            greedy = tunnels.stall(web, 6)
            now = stats()
            held = now["memory_bytes"] - base
            ktap.note(f"a client that may have {limit >> 10} KiB has {held >> 10}; "
                      f"{now['client_memory_resets'] - before['client_memory_resets']} connections were reset")
            check(limit // 2 < held <= limit + 64 * PAGE, f"{held} bytes are held")
            check(any(is_open(near) for near in greedy), "not all of the client's tunnels were reset")
            echo(other)
            with web.connect() as late:
                late.send(ws.offer())
                equal(late.read_head().status, 429, "status for the client")
            equal(web.stats()["client_memory_limit"], 1, "client_memory_limit")
            early.send(ws.offer())
            equal(early.read_head().status, 429, "status for an offer on a connection that was there before")
            early.close()
            with ws.open_tunnel(web, source="127.0.0.9") as another:
                echo(another)
            for near in greedy:
                near.reset()
            tunnels.let_go()
            idle_base(base)
            # Its account is at nothing again.
            near = ws.open_tunnel(web)
            echo(near)
            near.close()
            other.close()


@case("at memory_max_mib the worst are reset, small ones work on, and accepting pauses and goes on", limit=90)
def all_together():
    base = stats()["memory_bytes"]
    with genl.Reader() as log, Tunnels() as tunnels, squall.Listener(tunnels.server, connections=4) as web:
        before = stats()
        small = [ws.open_tunnel(web) for _ in range(8)]
        for near in small:
            echo(near)
        worst = tunnels.stall(web, 6)
        check(stats()["memory_pressed"] == 0, "no pressure without a bound")
        held = stats()["memory_bytes"] - base
        with squall.sysctl(memory_max_mib=(base + held) // MIB):
            near = ws.open_tunnel(web)  # the look at accepting sees it
            until(lambda: stats()["memory_shed"] > before["memory_shed"], 10, "the worst are reset")
            until(lambda: stats()["memory_pressed"] == 0, 10, "the pressure is over")
            now = stats()
            ktap.note(f"{held >> 10} KiB held, then {now['memory_bytes'] - base >> 10}; "
                      f"{now['memory_shed'] - before['memory_shed']} connections reset")
            check(now["memory_bytes"] <= now["memory_bytes_max"] * 7 // 8, "an eighth below the bound")
            check(any(is_open(near) for near in worst), "not all of the stalled ones")
            ends = {record["end"] for record in log.there(1) if record["kind"] == "tunnel"}
            equal(ends, {("proxy", "memory")}, "how tunnels ended by the log")
            for near in small:
                echo(near)
            near.close()
        for near in worst + small:
            near.reset()
    idle_base(base)


@case("under pressure that nothing can be shed for, connections wait to be accepted, and are served when it is over")
def accept_pauses():
    with ws.echo_server() as server, squall.Listener(server) as web:
        open_before = ws.open_tunnel(web)
        before = stats()
        count = before["memory_bytes"] // PAGE
        others = [web.connect() for _ in range(max(0, 260 - count))]  # a page each: more than a MiB
        until(lambda: web.stats()["accepted"] >= len(others), 10, "accepted")
        with squall.sysctl(memory_max_mib=1):
            late = web.connect()
            late.send(ws.offer())
            until(lambda: stats()["accept_pauses"] > before["accept_pauses"], 5, "accepting pauses")
            check(late.silent_for(0.5), "an answer under pressure")
            equal(stats()["memory_pressed"], 1, "pressure")
            # Less than what one may be shed for, however slow the machine is.
            echo(open_before, bytes(20000))
        # Nobody touches anything: it is looked at again.
        equal(late.read_head().status, 101, "status when the pressure is over")
        until(lambda: stats()["memory_pressed"] == 0, 5, "the pressure is over")
        for client in (*others, late, open_before):
            client.close()


@contextlib.contextmanager
def tcp_mem(*pages):
    old = squall.read(TCP_MEM)
    squall.write(TCP_MEM, " ".join(map(str, pages)))
    try:
        yield
    finally:
        squall.write(TCP_MEM, old)


@case("TCP's own memory pressure in which the module's part is material has the worst reset and accepting paused until it is over", limit=60)
def tcp_pressure():
    base = stats()["memory_bytes"]
    with Tunnels() as tunnels, squall.Listener(tunnels.server, connections=4) as web:
        before = stats()
        small = ws.open_tunnel(web)
        echo(small)
        # The clients hold little themselves: most of what TCP has is the module's.
        worst = tunnels.stall(web, 4, sndbuf=PAGE)
        used = baseline.tcp()["mem"]
        with tcp_mem(used * 3 // 4, used * 3 // 4, used * 4):
            # TCP notices when it takes memory, and the module when a connection comes.
            def noticed():
                echo(small, bytes(30000))
                web.connect().close()
                return stats()["memory_pressures"] > before["memory_pressures"]

            until(noticed, 10, "pressure is noticed")
            until(lambda: stats()["memory_shed"] > before["memory_shed"], 10, "the worst are reset")
            echo(small)
        until(lambda: stats()["memory_pressed"] == 0, 10, "the pressure is over")
        for near in (small, ws.open_tunnel(web)):
            echo(near)
            near.close()
        for near in worst:
            near.reset()
    idle_base(base)


class Hoard:
    """Connections between two ends of this process that hold a lot of TCP's memory, and none of the module's."""

    SO_SNDBUFFORCE = 32

    def __init__(self, count, size):
        self.ends = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(count):
                near = socket.socket()
                near.setsockopt(socket.SOL_SOCKET, self.SO_SNDBUFFORCE, size)
                near.connect(listener.getsockname())
                near.setblocking(False)
                self.ends += [near, listener.accept()[0]]
        self.fill()

    def fill(self):
        """Sends what is taken without being read."""
        for near in self.ends[::2]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    near.send(bytes(65536))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in self.ends:
            end.close()


def tcp_pressed():
    """TCP is under memory pressure, as the kernel says."""
    line = next(line for line in squall.read("/proc/net/protocols").splitlines() if line.startswith("TCP "))
    return line.split()[4] == "yes"


@case("TCP's memory pressure that others cause stops no accepting and has nobody reset, as long as little of it is the module's", limit=60)
def others_pressure():
    base = stats()["memory_bytes"]
    with Tunnels() as tunnels, squall.Listener(tunnels.server, connections=4) as web:
        small = ws.open_tunnel(web)
        echo(small)
        [stalled] = tunnels.stall(web)
        held = stats()["memory_bytes"] - base
        check(held > 64 << 10, "the stalled tunnel holds what one is reset for")
        before = stats()
        with Hoard(4, 4 * MIB) as hoard:
            used = baseline.tcp()["mem"]
            ktap.note(f"{held >> 10} KiB are the module's, of {used * PAGE >> 10} that TCP has")
            check(held * 8 < used * PAGE, "little of what TCP has is the module's")
            with tcp_mem(used // 2, used * 3 // 4, used * 4):
                def pressed():
                    hoard.fill()
                    echo(small, bytes(30000))
                    return tcp_pressed()

                until(pressed, 10, "TCP is under pressure")
                for _ in range(5):
                    near = ws.open_tunnel(web)
                    echo(near, bytes(30000))
                    near.close()
                    time.sleep(0.1)  # longer than the shedder would take
                check(tcp_pressed(), "TCP is still under pressure")
                check(is_open(stalled), "the tunnel that holds most was not reset")
        for name in ("memory_pressures", "memory_shed", "accept_pauses"):
            equal(stats()[name], before[name], name)
        for near in (small, stalled):
            near.reset()
    idle_base(base)


@case("the module unloads under pressure, and nothing is left charged", limit=60)
def unload():
    tunnels = Tunnels()
    with tunnels:
        with squall.Listener(tunnels.server, connections=4) as web:
            greedy = tunnels.stall(web, 4)
            squall.write(f"{squall.SYSCTL}/memory_max_mib", 1)
            client = web.connect()
            until(lambda: stats()["memory_pressures"] > 0, 5, "pressure")
            # What was not given back is in the kernel's log, at a level that fails a test.
            squall.unload()
        for near in (*greedy, client):
            near.close()
    squall.load()


session.main()
