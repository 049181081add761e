#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The access log: what each way to the end of a request or a tunnel is recorded as, and that what is lost is counted."""

import contextlib
import ipaddress
import os
import time

from lib import faults, genl, ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until


def content(head, body):
    """Answers /N with N bytes, and everything else with what came."""
    size = head.start.split(" ")[1].lstrip("/")
    if head.start.startswith("HEAD"):
        return b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    return wire.response(b"c" * int(size) if size.isdigit() else body)


def counters():
    """Records that were handed to readers, and those that were lost."""
    stats = squall.module_stats()
    return stats["log_records"], stats["log_lost"]


def expect(record, **wanted):
    """Compares the named parts of a record."""
    equal({name: record.get(name) for name in wanted}, wanted, f"parts of {record}")


def one(web, reader, request, status=200, read_as="GET", **wanted):
    """Sends a request on a connection of its own; compares its answer's status and its record, which is returned."""
    with web.connect() as client:
        client.send(request)
        equal(client.read_response(read_as)[0].status, status, f"status of the answer to {request[:80]!r}")
        record = reader.take(1)[0]
        expect(record, kind="request", status=status, client_port=client.sock.getsockname()[1], **wanted)
    return record


@case("requests: who, what, where, how much and how long")
def requests():
    with wire.RawServer(wire.plain_handler(content)) as server, squall.Listener(server) as web, genl.Reader() as reader:
        before = time.time()
        start = time.monotonic()
        record = one(
            web, reader, wire.request("/300", host="example.test:80"), method="GET", target="/300",
            host="example.test:80", bytes_in=0, bytes_out=300, end=("nobody", "done"), client_addr="127.0.0.1",
            server_addr="127.0.0.1", server_port=server.port, listener=web.name, route=squall.ROUTE,
        )  # fmt: skip
        check(before - 1 <= record["time"] / 1e9 <= time.time() + 1, f"time: {record}")
        check(0 < record["duration"] <= (time.monotonic() - start) * 1e6, f"duration: {record}")
        one(web, reader, wire.request("/q?a=b&c", method="POST", body=b"x" * 5000), target="/q?a=b&c", bytes_in=5000, bytes_out=5000)
        one(web, reader, wire.request(method="HEAD"), 200, "HEAD", method="HEAD", bytes_in=0, bytes_out=0)
        chunked = wire.request("/", "POST", ["Transfer-Encoding: chunked"]) + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        one(web, reader, chunked, method="POST", bytes_in=5, bytes_out=5, end=("nobody", "done"))
        long = one(web, reader, wire.request("/" + "a" * 3000), truncated=True)
        equal(long["target"], "/" + "a" * 1023, "a long target")


@case("IPv6 addresses are recorded as such")
def ipv6():
    with wire.RawServer(wire.plain_handler(content), host="::1") as server, squall.Listener(server, host="::1") as web:
        with genl.Reader() as reader:
            record = one(web, reader, wire.request(), server_addr="::1", client_addr="::1")
            check(ipaddress.ip_address(record["client_addr"]).version == 6, "version")


@case("a kept connection and a pipeline: one record for each request, in order, on one connection")
def kept():
    with wire.RawServer(wire.plain_handler(content)) as server, squall.Listener(server) as web, genl.Reader() as reader:
        with web.connect() as client:
            for size in (1, 2):
                client.send(wire.request(f"/{size}"))
                client.read_response()
            client.send(b"".join(wire.request(f"/{size}") for size in (3, 4, 5)))
            for _ in range(3):
                client.read_response()
            records = reader.take(5)
            equal([record["target"] for record in records], ["/1", "/2", "/3", "/4", "/5"], "targets")
            equal([record["bytes_out"] for record in records], [1, 2, 3, 4, 5], "bytes")
            equal({record["client_port"] for record in records}, {client.sock.getsockname()[1]}, "ports")
            equal(genl.gaps(records), 0, "missing numbers")


@case("Squall's own answers: malformed, too large, without a server, too late")
def own():
    refused = ("client", "protocol")
    silent = lambda peer, _number: peer.read_head() and time.sleep(60)
    with wire.RawServer(wire.plain_handler(content)) as server, squall.Listener(server) as web, genl.Reader() as reader:
        one(web, reader, b"GET /bad HTTP/1.1\r\nHost: a\r\nHost : b\r\n\r\n", 400, method="GET", target="/bad", host="a", end=refused, route=None)
        one(web, reader, b"GE(T / HTTP/1.1\r\n\r\n", 400, method="GE", target=None, end=refused)
        one(web, reader, b"GET /two HTTP/1.1\r\n\r\n", 400, target="/two", host=None, end=refused)
        one(web, reader, wire.request("/" + "a" * 9000), method="GET", status=414, end=refused)
        one(web, reader, wire.request(fields=["X: " + "v" * 20000]), status=431, target="/", end=refused)
        with squall.sysctl(body_max_kib=1):
            one(web, reader, wire.request("/big", "POST", body=bytes(2000)), status=413, target="/big", method="POST", end=refused)
            chunked = wire.request("/c", "POST", ["Transfer-Encoding: chunked"]) + b"7d0\r\n" + bytes(2000) + b"\r\n0\r\n\r\n"
            one(web, reader, chunked, status=413, target="/c", route=squall.ROUTE, end=refused)
        with squall.sysctl(head_timeout_ms=300 * ktap.PACE):
            one(web, reader, b"GET /slow HTTP/1.1\r\nHost: a\r\nX", status=408, target="/slow", end=("client", "timeout"))
    with wire.RawServer(silent) as server, squall.Listener(server) as web, genl.Reader() as reader:
        with squall.sysctl(response_timeout_ms=300 * ktap.PACE):
            one(web, reader, wire.request("/late"), status=504, target="/late", server_port=server.port, end=("server", "timeout"))
    with squall.Listener("127.0.0.1:9", wait=False) as web, genl.Reader() as reader:
        until(lambda: web.server_stats()["failures"], 5, "the server counts as down")
        with web.connect() as client:
            client.send(wire.request("/down") + wire.request("/down2"))
            for _ in range(2):
                equal(client.read_response()[0].status, 502, "status")
        for record, target in zip(reader.take(2), ("/down", "/down2")):
            expect(record, status=502, target=target, server_addr=None, end=("server", "unavailable"))
    with squall.Listener("127.0.0.1:9", wait=False, enable=False) as web, genl.Reader() as reader:
        squall.write(f"{web.server_directory()}/weight", 0)
        web.enable(1)
        one(web, reader, wire.request(), status=503, end=("proxy", "unavailable"))


@case("a server that answers wrongly, not at all, or not to the end; a client that goes away")
def aborted():
    def serve(peer, _number):
        while True:
            head = peer.read_head()
            target = head.start.split(" ")[1]
            if target == "/wrong":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
            elif target == "/closes":
                return
            elif target == "/cut":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(400))
                peer.read_until(b"never")
            elif target == "/reset":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(400))
                time.sleep(0.2 * ktap.PACE)
                peer.reset()
                return
            elif target == "/half":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(400))
                peer.finish_sending()
            else:
                peer.send(wire.response())

    with wire.RawServer(serve) as server, squall.Listener(server) as web, genl.Reader() as reader:
        one(web, reader, wire.request("/wrong"), status=502, end=("server", "protocol"), server_port=server.port)
        web.wait_ready()
        post = wire.request("/closes", "POST", body=b"abc")
        one(web, reader, post, status=502, bytes_in=3, end=("server", "fin"))
        web.wait_ready()
        for target, end in (("/half", ("server", "protocol")), ("/reset", ("server", "reset"))):
            with web.connect() as client:
                client.send(wire.request(target))
                try:
                    client.read_rest()
                except ConnectionResetError:
                    pass
                expect(reader.take(1)[0], status=200, target=target, bytes_out=400, end=end)
            web.wait_ready()
        with web.connect() as client:
            client.send(wire.request("/cut"))
            client.read_head()
            client.read(400)
            equal(reader.there(), [], "records before the end")
            client.reset()
            expect(reader.take(1)[0], status=200, target="/cut", bytes_out=400, end=("client", "reset"))


@case("a request that is sent again because its connection had been closed has one record, of what came of it")
def again():
    def serve(peer, number):
        if number == 1:
            peer.read_head()
            return
        wire.plain_handler(content)(peer, number)

    with wire.RawServer(serve) as server, squall.Listener(server, connections=1) as web, genl.Reader() as reader:
        one(web, reader, wire.request("/7"), status=200, bytes_out=7, end=("nobody", "done"))


@case("a client that leaves a stream of events by FIN: that is what the record says, not that the server was late")
def left():
    def stream(peer, _number):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        peer.read_rest()

    with wire.RawServer(stream) as server, squall.Listener(server) as web, genl.Reader() as reader:
        squall.write(f"{web.directory}/{squall.ROUTE}/response_timeout_ms", 400 * ktap.PACE)
        for end in (("client", "fin"), ("server", "timeout")):
            with web.connect() as client:
                client.send(wire.request("/events"))
                client.read_until(b"data: 1\n\n")
                if end[0] == "client":
                    client.finish_sending()
                expect(reader.take(1)[0], status=200, target="/events", bytes_out=9, end=end)


@case("a tunnel: a record of the request, and one of the tunnel with its bytes, who ended it and how")
def tunnel():
    resets = lambda peer, _number: peer.read(4) and peer.reset()
    with ws.echo_server() as server, squall.Listener(server) as web, genl.Reader() as reader:
        for end in ("fin", "reset"):
            client = ws.open_tunnel(web, "/chat")
            expect(reader.take(1)[0], kind="request", status=101, target="/chat", end=("nobody", "done"))
            for size in (1, 100, 70_000):
                client.send(bytes(size))
                client.read(size)
            equal(reader.there(), [], "records before the end")
            port = client.sock.getsockname()[1]
            if end == "fin":
                client.finish_sending()
                client.read_rest()
            else:
                client.reset()
            expect(
                reader.take(1)[0], kind="tunnel", status=101, target="/chat", bytes_in=70_101, bytes_out=70_101, client_port=port,
                server_port=server.port, listener=web.name, route=squall.ROUTE, end=("client", end),
            )  # fmt: skip
            client.close()
        client = ws.open_tunnel(web)
        reader.take(1)
        web.__exit__()
        expect(reader.take(1)[0], kind="tunnel", end=("proxy", "drained"))
        client.close()
    with ws.echo_server() as server, squall.Listener(server) as web, ws.open_tunnel(web) as client:
        port = client.sock.getsockname()[1]
        with genl.Reader() as reader:
            client.send(ws.frame(b"one", masked=True) * 3)
            client.read(27)
            client.reset()
            record = reader.take(1)[0]
            expect(
                record, kind="tunnel", status=101, bytes_in=27, bytes_out=27, frames_in=3, frames_out=3, client_port=port,
                server_port=server.port, listener=web.name, route=squall.ROUTE, end=("client", "reset"),
            )  # fmt: skip
            check("target" not in record, "a target that nobody has kept")
    with ws.tunnel_server(resets) as server, squall.Listener(server) as web, genl.Reader() as reader:
        client = ws.open_tunnel(web)
        client.send(b"1234")
        expect(reader.take(2)[1], kind="tunnel", bytes_in=4, bytes_out=0, end=("server", "reset"))
        client.close()


@contextlib.contextmanager
def one_processor():
    """Has this thread, and those that it starts, on one processor: each has numbers of its own, and so the last record shows every gap."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def get(client, count):
    """So many requests, one after the other."""
    for _ in range(count):
        client.send(wire.request("/1"))
        client.read_response()


@case("a reader that is slow sees by the numbers how many records it lost, and the counter says the same")
def slow():
    count = ktap.scaled(400, 150)
    with one_processor(), wire.RawServer(wire.plain_handler(content)) as server, squall.Listener(server) as web, web.connect() as client:
        with genl.Reader(rcvbuf=4096) as reader, genl.Reader(rcvbuf=4 << 20) as other:
            sent, lost = counters()
            get(client, count)
            records = reader.there()
            # The numbers of those that were lost are between those that were there and this one.
            get(client, 2)
            records += reader.there(1)
            whole = other.take(count + 2)
            equal(genl.gaps(whole), 0, "numbers that a reader with room misses")
            missing = genl.gaps(records)
            check(reader.overrun > 0 and missing > count // 4, f"{missing} lost, {reader.overrun} overruns: was it slow?")
            equal(len({record["cpu"] for record in whole}), 1, "processors")
            equal(len(records) + missing, len(whole), "records and missing numbers")
            # The slow one asked to be told: what it did not get counts as lost though the other one got it.
            equal(counters(), (sent + count + 2 - missing, lost + missing), "counters")


@case("nobody follows: no record is made, and none is counted as lost")
def unfollowed():
    with wire.RawServer(wire.plain_handler(content)) as server, squall.Listener(server) as web, web.connect() as client:
        with genl.Reader() as reader:
            get(client, 1)
            first = reader.take(1)[0]
        before = counters()
        get(client, 20)
        with web.connect() as bad:
            bad.send(b"X\r\n\r\n")
            bad.read_rest()
        equal(counters(), before, "counters")
        with genl.Reader() as reader:
            get(client, 1)
            last = reader.take(1)[0]
            # Not even a number was taken.
            if first["cpu"] == last["cpu"]:
                equal(last["seq"], first["seq"] + 1, "number of the next record")


@case("only who may administer the network can follow")
def permission():
    pid = os.fork()
    if not pid:
        os.setgid(65534)
        os.setuid(65534)
        try:
            genl.Reader()
        except PermissionError:
            os._exit(7)
        except BaseException:
            os._exit(8)
        os._exit(9)
    equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 7, "how the unprivileged reader ended")


@case("records for which there is no memory are counted, and are gaps", limit=60, log=faults.LOG)
def no_memory():
    if not faults.possible():
        raise ktap.Skip("this kernel cannot fail allocations")
    server = wire.RawServer(wire.plain_handler(content), backlog=512)
    with one_processor(), server, squall.Listener(server, connections=4) as web:
        with genl.Reader(rcvbuf=8 << 20) as reader, squall.sysctl(queue_timeout_ms=2000, response_timeout_ms=2000):
            _, lost = counters()
            with web.connect() as client:
                get(client, 1)
            records = reader.take(1)
            deadline = time.monotonic() + 6
            with faults.failing(15):
                while time.monotonic() < deadline:
                    try:
                        with web.connect(timeout=1) as client:
                            get(client, 5)
                    except (OSError, wire.Closed):
                        pass
            web.wait_ready()
            with web.connect() as client:
                get(client, 2)
            records += reader.there(1)
            counted, missing = counters()[1] - lost, genl.gaps(records)
            ktap.note(f"{len(records)} records, {counted} lost, {missing} missing")
            equal(reader.overrun, 0, "overruns")
            # Another processor may have lost one before its first record.
            check(0 < missing <= counted, f"{missing} missing, {counted} counted")


@case("the module unloads while a reader follows, and what ended by it is recorded", limit=60)
def unload():
    with ws.echo_server() as server:
        with squall.Listener(server) as web, genl.Reader() as reader:
            client = ws.open_tunnel(web)
            reader.take(1)
            web.__exit__()
            squall.unload()
            record = reader.take(1)[0]
            check(record["end"][0] == "proxy" and record["kind"] == "tunnel", f"last record: {record}")
            equal(reader.there(0.1), [], "records after the module is gone")
            client.close()
        try:
            genl.resolve("squall")
            raise AssertionError("the family is still there")
        except FileNotFoundError:
            pass
        squall.load()
        genl.resolve("squall")


session.main()
