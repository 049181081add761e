#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Configuration and the module's life: wrong values, enable, addresses in use, unloading at any moment."""

import errno
import os
import socket
import subprocess
import threading
import time

from lib import baseline, ktap, squall, wire, ws
from lib.ktap import case, check, equal, until

CYCLES = ktap.scaled(100, 10)
HELLO = wire.plain_handler(lambda _head, _body: wire.response(b"hello"))
REFUSED_LOG = "squall.*refused"

# (attribute below the listener's directory or sysctl, value that must be refused)
WRONG = [
    *(("address", value) for value in (
        "", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0x50", "127.0.0.1:65536", "127.0.0.1:-1", "256.0.0.1:80",
        "::1:80", "[::1]", "[::g]:80", "localhost:80", "127.0.0.1:80 x", "1.2.3:80", "a" * 300)),
    *(("enable", value) for value in ("", "2", "-1", "yes please", "01x")),
    *((name, value) for name in ("forwarded", "via") for value in ("", "2", "-1", "yes please")),
    *(("all/s0/address", value) for value in (
        "", "nowhere", "127.0.0.1:0", "[::1]:99999", "0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80", "224.0.0.1:80",
        "255.255.255.255:80", "[ff02::1]:80", "[fe80::1]:80")),
    *(("all/s0/connections", value) for value in ("", "-1", "many", "4294967296", "0x", "1 2", "4097")),
    *(("all/s0/connections_max", value) for value in ("", "0", "-1", "65537", "1 2")),
    *(("all/s0/idle_max", value) for value in ("", "-1", "4097")),
    *(("all/s0/idle_ms", value) for value in ("", "-1", "86400001", "1 s")),
    *(("all/s0/weight", value) for value in ("", "-1", "257", "half")),
    *(("all/s0/backup", value) for value in ("", "2", "yes")),
    *(("all/s0/fails_max", value) for value in ("", "-1", "1000001", "few")),
    *(("all/s0/slow_start_ms", value) for value in ("", "-1", "86400001")),
    *(("all/s0/health_path", value) for value in ("health", "/a b", "/" + 256 * "a")),
    *(("all/s0/health_host", value) for value in ("a b", 257 * "a")),
    *(("all/s0/health_status", value) for value in ("", "100", "600", "399-200", "200-", "ok")),
    *((f"all/s0/health_{name}", value) for name in ("interval_ms", "timeout_ms", "rise", "fall") for value in ("", "0", "86400001")),
    *(("all/balance", value) for value in ("", "random", "round-robin least-connections", "ROUND-ROBIN")),
]
WRONG_SYSCTL = [("head_timeout_ms", "0"), ("head_timeout_ms", "-5"), ("head_max", "10"), ("head_max", "99999999"),
                ("rcvbuf", "1"), ("queue_high", "abc"), ("backoff_min_ms", "4294967296")]


@case("wrong values are refused with an errno and a log line that names the value", log=REFUSED_LOG)
def wrong_values():
    with squall.Listener("127.0.0.1:9", enable=False) as web:
        paths = [(f"{web.directory}/{name}", value) for name, value in WRONG]
        paths += [(f"{squall.SYSCTL}/{name}", value) for name, value in WRONG_SYSCTL]
        ktap.kernel_lines()
        for path, value in paths:
            before = squall.read(path)
            try:
                squall.write(path, value)
            except OSError as error:
                check(error.errno in (errno.EINVAL, errno.ERANGE, errno.E2BIG), f"{path} = {value!r}: {error}")
            else:
                raise AssertionError(f"{path} = {value!r} was accepted")
            equal(squall.read(path), before, f"{path} after a refused value")
            lines = [line for line in ktap.kernel_lines() if "squall" in line]
            check(any(value[:20] in line for line in lines), f"{path} = {value!r}: the log says {lines}")


@case("values read back as they were written")
def read_back():
    with squall.Listener("127.0.0.1:9", enable=False) as web:
        for name, value in (("address", "0.0.0.0:8080"), ("address", "[::]:8080"), ("address", "[fd00::1]:1"),
                            ("all/s0/address", "10.0.0.2:9000"), ("all/s0/connections", "16"), ("all/s0/connections_max", "65536"),
                            ("all/s0/idle_max", "0"), ("all/s0/idle_max", "4096"), ("all/s0/idle_ms", "0"), ("all/s0/idle_ms", "86400000"),
                            ("all/s0/address", "[::ffff:10.0.0.2]:80"), ("all/s0/address", "[2001:db8::2]:80"),
                            ("all/s0/weight", "256"), ("all/s0/backup", "1"), ("all/s0/fails_max", "1000000"),
                            ("all/s0/slow_start_ms", "86400000"), ("all/s0/health_host", "a.example:80"),
                            ("all/s0/health_status", "200-399"), ("all/s0/health_fall", "1"),
                            ("all/s0/health_path", "/health?a=b"), ("all/s0/health_status", "204"), ("all/s0/health_path", ""),
                            ("all/balance", "least-connections"), ("all/balance", "address-hash"), ("all/balance", "round-robin"), ("via", "1"), ("via", "0"), ("enable", "0")):
            squall.write(f"{web.directory}/{name}", value)
            equal(squall.read(f"{web.directory}/{name}"), value, name)


@case("a listener without an address or with one in use is not enabled, and says why", log="squall")
def not_enabled():
    def enable(web):
        try:
            web.enable(1)
        except OSError as error:
            equal(squall.read(f"{web.directory}/enable"), "0", "enable")
            return error.errno
        raise AssertionError("was enabled")

    os.mkdir(f"{squall.ROOT}/empty")
    try:
        squall.write(f"{squall.ROOT}/empty/enable", 1)
        raise AssertionError("a listener without an address was enabled")
    except OSError as error:
        check(error.errno in (errno.EINVAL, errno.EDESTADDRREQ), f"errno {error}")
    finally:
        os.rmdir(f"{squall.ROOT}/empty")
    with squall.Listener("127.0.0.1:9", enable=False) as web, socket.socket() as other:
        # Its port may be taken by now, were it chosen before.
        other.bind(("127.0.0.1", 0))
        other.listen()
        web.port = other.getsockname()[1]
        squall.write(f"{web.directory}/address", web.address)
        equal(enable(web), errno.EADDRINUSE, "errno while another process listens there")
        other.close()
        web.enable(1)
        second = squall.Listener("127.0.0.1:9", enable=False)
        second.port = web.port
        with second:
            equal(enable(second), errno.EADDRINUSE, "errno while another listener listens there")
    with squall.Listener("127.0.0.1:9", enable=False, host="203.0.113.1") as web:
        equal(enable(web), errno.EADDRNOTAVAIL, "errno for an address that is not ours")


def check_closed(web):
    """Fails if the listener is there."""
    equal(squall.read(f"{web.directory}/enable"), "0", "enable")
    try:
        web.connect().close()
    except ConnectionRefusedError:
        return
    raise AssertionError("a connection was accepted")


@case("enable 0 ends listening at once and enable 1 begins again")
def enable():
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web:
        for _ in range(5):
            with web.connect() as client:
                client.send(wire.request())
                equal(client.read_response()[1], b"hello", "response")
            web.enable(0)
            check_closed(web)
            web.enable(1)
            web.wait_ready()


@case("a listener whose socket is killed is not enabled any more, keeps its connections, and listens again when told to")
def killed():
    with wire.RawServer(HELLO) as server, squall.Listener(server) as web, web.connect() as client:
        client.send(wire.request())
        equal(client.read_response()[1], b"hello", "response")
        command = ["ss", "-Kt", "state", "listening", f"sport = :{web.port}"]
        kill = lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        for _ in range(3):
            kill()
            check_closed(web)
            squall.write(f"{web.directory}/address", web.address)
            web.enable(1)
            equal(squall.read(f"{web.directory}/enable"), "1", "enable")
            web.wait_ready()
            client.send(wire.request())
            equal(client.read_response()[1], b"hello", "response on the connection that was there before")
        kill()
        web.enable(0)


def remove_under_traffic(rounds):
    """A listener is removed while tunnels, requests and connects are under way; returns what went wrong."""
    trouble = []
    for _ in range(rounds):
        stop = threading.Event()

        def worker(web, kind, stop=stop):
            while not stop.is_set():
                try:
                    if kind == "tunnel":
                        with ws.open_tunnel(web) as client:
                            for number in range(1000):
                                client.send(b"x" * (number * 97 % 50_000 + 1))
                                client.read(number * 97 % 50_000 + 1)
                    elif kind == "request":
                        with web.connect() as client:
                            client.send(wire.request(fields=["Connection: close"]))
                            client.read_rest()
                    else:
                        web.connect().close()
                except (OSError, AssertionError):
                    time.sleep(0.001)  # expected once the listener is gone
                except Exception as error:  # told to the case's own thread
                    trouble.append(error)
                    return

        with ws.echo_server() as server, wire.RawServer(HELLO) as plain:
            with squall.Listener(server) as web, squall.Listener(plain) as other:
                jobs = [(web, "tunnel")] * 3 + [(other, "request")] * 2 + [(other, "connect")]
                threads = [threading.Thread(target=worker, args=job, daemon=True) for job in jobs]
                for thread in threads:
                    thread.start()
                time.sleep(ktap.scaled(0.5, 0.2))
            squall.unload()
            stop.set()
            for thread in threads:
                thread.join(ktap.seconds(20))
                check(not thread.is_alive(), "a client is still waiting after the module was unloaded")
        squall.load()
    check(not trouble, lambda: repr(trouble[0]))


@case("the module unloads with tunnels open and traffic flowing", limit=120)
def unload_under_traffic():
    remove_under_traffic(ktap.scaled(8, 2))


@case("connections whose peers say nothing more are gone when the module is", limit=60)
def silent_peers():
    base = baseline.Baseline()
    with ws.tunnel_server(lambda _peer, _number: time.sleep(ktap.seconds(30))) as server:
        with squall.Listener(server) as web:
            clients = [ws.open_tunnel(web) for _ in range(10)] + [web.connect() for _ in range(10)]
        squall.unload()
        # Whatever they are told now, no code of the module is there to hear it.
        for client in clients:
            try:
                client.send(b"x")
                client.send(b"x")
            except OSError:
                pass
            client.close()
    base.check()
    squall.load()


def memory():
    """Kernel memory in KiB that a leak per load would make grow."""
    with open("/proc/meminfo", encoding="ascii") as file:
        found = dict(line.split(":") for line in file)
    return {name: int(found[name].split()[0]) for name in ("SUnreclaim", "Percpu", "VmallocUsed")}


@case(f"loading, configuring, running and unloading {CYCLES} times leaks nothing", limit=300)
def cycles():
    squall.unload()
    with wire.RawServer(HELLO) as plain, ws.echo_server() as echo:
        before = None
        for number in range(CYCLES):
            if number == CYCLES // 5:
                before = memory()
                base = baseline.Baseline()
            squall.load()
            with squall.Listener(plain) as web, squall.Listener(echo) as tunnels:
                client = web.connect()
                client.send(wire.request())
                equal(client.read_response()[1], b"hello", "response")
                tunnel = ws.open_tunnel(tunnels)
                tunnel.send(b"through")
                equal(tunnel.read(7), b"through", "echo")
            squall.unload()
            client.close()
            tunnel.close()
        base.check(slack_sockets=8)
        base.check_slab(64)
        after = memory()
    grown = {name: after[name] - before[name] for name in after}
    ktap.note(f"grown in {CYCLES - CYCLES // 5} cycles, KiB: {grown}")
    check(grown["Percpu"] <= 64, f"per-CPU memory grew: {grown}")
    check(grown["VmallocUsed"] <= 512, f"vmalloc memory grew: {grown}")
    check(grown["SUnreclaim"] <= 8192, f"slab memory grew: {grown}")


@case("the module can't be unloaded while it is configured, and says so by EBUSY")
def busy():
    squall.load()
    with squall.Listener("127.0.0.1:9", enable=False):
        done = subprocess.run(["rmmod", "squall"], stderr=subprocess.PIPE, check=False)
        check(done.returncode != 0, "the module was unloaded under its configuration")
        check(squall.loaded(), "the module is gone")
    squall.unload()
    check(not squall.loaded(), "the module is still there")
    until(lambda: not os.path.exists(squall.ROOT), 5, "the configfs directory is gone")


ktap.at_end(squall.unload)
ktap.main(squall.load)
