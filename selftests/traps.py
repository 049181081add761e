#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Known traps of a proxy in softirq, each provoked from outside; a kernel warning fails the case as well.

What the numbered cases of other files show is not repeated: reconnection on a socket that was refused is
upstream.py's, sockets owned by a process are context.py's, unloading under traffic is lifecycle.py's.
"""

import contextlib
import hashlib
import os
import signal
import re
import socket
import struct
import subprocess
import sys
import threading
import time

from lib import baseline, bpf, ktap, netns, session, sniff, squall, trace, wire, ws
from lib.ktap import case, check, equal, until

BODY = ws.LONG + os.urandom((2 << 20) - len(ws.LONG))
MD5 = hashlib.md5(BODY).hexdigest()


@case("what was queued when a side closes is still retransmitted: responses and their FIN survive 8% loss", limit=120)
def retransmitted_after_close():
    def serve(peer, _number):
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + BODY[:100_000])

    with netns.Namespace("near", 1) as near, near.impaired("loss 8% delay 2ms", both=False):
        with wire.RawServer(serve) as server, squall.Listener(server, host=near.gateway) as web:
            for _ in range(ktap.scaled(6, 3)):
                with web.connect(namespace=near, timeout=60) as client:
                    client.send(wire.request(fields=["Connection: close"]))
                    equal(len(client.read_response()[1]), 100_000, "length of a body that ends with FIN")


@case("the same when the server is behind the loss", limit=300)
def retransmitted_upstream():
    got = []
    done = threading.Event()

    def serve(peer, _number):
        got.append(len(peer.read_rest()))
        done.set()

    with netns.Namespace("far", 2) as far, far.impaired("loss 8% delay 2ms", both=False):
        with ws.tunnel_server(serve, host=far.address, namespace=far) as server, squall.Listener(server) as web:
            for _ in range(ktap.scaled(5, 2)):
                done.clear()
                client = ws.open_tunnel(web, timeout=60)
                client.send(BODY[:100_000])
                client.close()
                check(done.wait(ktap.seconds(90)), "the server saw no end")
                equal(got.pop(), 100_000, "bytes that reached the server before the FIN")


def sockets_used():
    """Sockets in use as the kernel counts them, once the number stands still."""
    last, same = -1, 0
    while same < 5:
        with open("/proc/net/sockstat", encoding="ascii") as file:
            used = int(file.readline().split()[2])
        same = same + 1 if used == last else 0
        last = used
        time.sleep(0.05)
    return last


@case("connections of the module count as sockets in use, like those of processes")
def counted():
    # Sockets that do not are killed by tcp_close() with what they have not sent yet.
    count = 10
    with ws.echo_server() as server, squall.Listener(server, connections=1) as web:
        before = sockets_used()
        tunnels = [ws.open_tunnel(web) for _ in range(count)]
        web.wait_ready()
        # The client's, the module's two and the server's.
        equal(sockets_used() - before, 4 * count, f"sockets of {count} tunnels")
        for tunnel in tunnels:
            tunnel.close()


@case("a full send buffer wakes the sender again, on accepted and on connected sockets")
def write_space():
    def serve(peer, _number):
        peer.send(BODY)
        time.sleep(0.5)
        equal(hashlib.md5(peer.read(len(BODY))).hexdigest(), MD5, "MD5 at the server")
        peer.send(b"good")

    with ws.tunnel_server(serve, rcvbuf=8192) as server, squall.Listener(server) as web:
        with ws.open_tunnel(web, rcvbuf=8192, timeout=60) as client:
            sender = threading.Thread(target=client.send, args=(BODY,), daemon=True)
            sender.start()
            time.sleep(0.5)
            equal(client.read_md5(len(BODY)), MD5, "MD5 at the client")
            equal(client.read(4), b"good", "the server's verdict")


SENDER = """
import socket, signal, sys, time
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
sock = socket.socket()
sock.connect((sys.argv[1], int(sys.argv[2])))
sock.send(sys.stdin.buffer.read(), socket.MSG_NOSIGNAL)
sock.settimeout(10)
assert b" 101 " in sock.recv(65536)
end = time.monotonic() + 1
try:
    while time.monotonic() < end:
        sock.send(bytes(1000), socket.MSG_NOSIGNAL)
except OSError:
    pass
"""


@case("a process whose segment makes the module send to a closed peer gets no signal for it")
def no_sigpipe():
    def serve(peer, _number):
        peer.read(1)
        peer.reset()

    with ws.tunnel_server(serve) as server, squall.Listener(server) as web:
        for _ in range(5):
            command = [sys.executable, "-c", SENDER, web.host, str(web.port)]
            done = subprocess.run(command, input=ws.offer(), stderr=subprocess.PIPE, check=False, timeout=ktap.seconds(30))
            check(done.returncode != -signal.SIGPIPE, "the client was killed by SIGPIPE")
            equal(done.returncode, 0, f"exit status of the client: {done.stderr.decode()[-300:]}")


def send_quietly(peer, data):
    """Sends until the connection ends."""
    with contextlib.suppress(OSError):
        peer.send(data)


SERVER = """
import signal, socket, struct, sys, time
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
print("ready", flush=True)
peer = server.accept()[0]
peer.recv(65536)
peer.send(sys.stdin.buffer.read(), socket.MSG_NOSIGNAL)
peer.shutdown(socket.SHUT_WR)
# Meanwhile what the client sends fills every buffer on the way.
time.sleep(float(sys.argv[2]))
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
peer.close()
time.sleep(float(sys.argv[2]))
"""


@case("a process whose reset meets bytes that wait to be sent to it gets no signal for them")
def no_sigpipe_behind_fin():
    # Only behind a FIN does a reset mean EPIPE to who sends, and so a signal to who happens to run; and only what waits for
    # the send buffer, not for what is unsent to become less, is tried again after a reset.
    port, pause = wire.free_port(), ktap.PACE
    command = [sys.executable, "-c", SERVER, str(port), str(pause)]
    answer = ws.switching(wire.Head(ws.offer()[:-2]))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        server.stdin.write(answer)
        server.stdin.close()
        equal(server.stdout.readline(), b"ready\n", "what the server says")
        settings = squall.sysctl(unsent_max=16 << 20)
        with settings, squall.Listener(f"127.0.0.1:{port}", connections=1) as web, web.connect() as client:
            client.send(ws.offer())
            equal(client.read_head().status, 101, "status")
            # More than a send buffer on loopback may hold.
            sender = threading.Thread(target=send_quietly, args=(client, bytes(16 << 20)), daemon=True)
            sender.start()
            until(lambda: squall.module_stats()["queued_bytes"] > 0, 5, "bytes wait in the module")
            code = server.wait(ktap.seconds(10))
            sender.join()
        check(code != -signal.SIGPIPE, "the server was killed by SIGPIPE")
        equal(code, 0, f"exit status of the server: {server.stderr.read().decode()[-300:]}")


VICTIM = """
import mmap, os, socket, sys, threading, time
os.sched_setaffinity(0, {1})
server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname())
far = server.accept()[0]
far.settimeout(20)
# Bytes that are zero and not there yet: a page is made while TCP copies it into its fragment.
zeros = mmap.mmap(-1, 1 << 20)
total = 0
end = time.monotonic() + float(sys.argv[1])
print("ready", flush=True)
while time.monotonic() < end:
    zeros.madvise(mmap.MADV_REMOVE)
    for start in range(0, len(zeros), 65536):
        left = near.send(memoryview(zeros)[start : start + 65536])
        while left:
            got = far.recv(left)
            assert got and not got.strip(bytes(1)), f"{got.strip(bytes(1))[:80]} in what was sent as zeros"
            left -= len(got)
        total += 65536
print(total, flush=True)
"""


@contextlib.contextmanager
def copied_to(near):
    """Enters `near`, to which what the module's host sends is encapsulated, on a link without scatter-gather: only then does
    TCP copy it."""
    key = f"auth 'hmac(sha256)' 0x{'00' * 32} enc 'ecb(cipher_null)' ''"
    ends = f"src {near.gateway} dst {near.address}"
    state = f"xfrm state add {ends} proto esp spi 1 mode transport {key}"
    try:
        netns.shell(f"ip {state}")
    except AssertionError as error:
        raise ktap.Skip("this kernel has no ESP") from error
    try:
        with near:
            near.run(f"ip {state}")
            netns.shell(f"ip xfrm policy add {ends} dir out tmpl proto esp mode transport")
            netns.shell(f"ethtool -K {near.name} sg off")
            yield near
    finally:
        netns.ip("xfrm policy flush", "xfrm state flush")


@case("a process that sends while softirqs send in its place gets its own bytes sent, and no others", limit=60)
def task_fragment():
    # What TCP copies goes into the page fragment of the task, unless the socket is told to have its own. The task that was
    # interrupted while it copied goes on where it was: over what the module has put there, or behind the end.
    duration = ktap.scaled(4, 10)
    home = os.sched_getaffinity(0)
    with copied_to(netns.Namespace("near", 1)) as near:
        # Segments are received where the process runs; everything else of this test is on the other CPU.
        squall.write("/sys/class/net/near/queues/rx-0/rps_cpus", "2")
        os.sched_setaffinity(0, {0})
        try:
            with ws.echo_server(host=near.address, namespace=near) as server:
                with squall.Listener(server, host=near.gateway) as web, ws.open_tunnel(web, namespace=near) as client:
                    interrupt(client, duration)
        finally:
            os.sched_setaffinity(0, home)


def interrupt(client, duration):
    """Has bytes relayed while the process sends."""
    command = [sys.executable, "-c", VICTIM, str(duration)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as victim:
        equal(victim.stdout.readline(), b"ready\n", "what the process says")
        count = 0
        while victim.poll() is None:
            data = b"%07d" % count * 100
            client.send(data)
            equal(client.read(len(data)), data, "echo")
            count += 1
        equal(victim.returncode, 0, f"status of the process: {victim.stderr.read().decode()[-300:]}")
        ktap.note(f"{victim.stdout.read().decode().strip()} bytes sent meanwhile, {count} messages")


@case("both ends of a tunnel that close or reset at the same moment leave nothing behind", limit=60)
def both_end():
    barrier = threading.Barrier(2)
    leaves = [wire.Wire.close, wire.Wire.reset, wire.Wire.finish_sending]

    def serve(peer, number):
        peer.read(1)
        barrier.wait(ktap.seconds(10))
        with contextlib.suppress(OSError):  # the other end was faster
            leaves[number // 3 % 3](peer)

    # One persistent connection, so that connections and tunnels have the same number.
    with ws.tunnel_server(serve) as server, squall.Listener(server, connections=1) as web:
        for number in range(ktap.scaled(90, 27)):
            client = ws.open_tunnel(web)
            client.send(b"xy" * 1000)
            barrier.wait(ktap.seconds(10))
            with contextlib.suppress(OSError):
                leaves[number % 3](client)
            client.close()
        until(lambda: web.stats()["tunnels_open"] == 0, 15, "all tunnels ended")
        until(lambda: web.stats()["connections"] == 0, 15, "all connections ended")


@case("bytes that are unread when TCP has closed are not lost", limit=60)
def unread_at_close():
    # The client's FIN is passed on first: the module's socket goes from FIN_WAIT2 to TIME_WAIT by the
    # server's FIN, while most of what came before it is still unread because the client is slow.
    def serve(peer, _number):
        peer.read_rest()
        peer.send(BODY[:120_000])

    small = squall.sysctl(queue_high=16384, queue_low=8192, unsent_max=16384)
    with small, ws.tunnel_server(serve) as server, squall.Listener(server) as web:
        for _ in range(ktap.scaled(5, 3)):
            with ws.open_tunnel(web, rcvbuf=4096, timeout=60) as client:
                client.finish_sending()
                squall.settle(0.3)
                equal(client.read_rest() == BODY[:120_000], True, "what the server sent before its FIN")


@case("urgent bytes in every position of a stream stall nothing")
def urgent():
    with ws.echo_server() as server, squall.Listener(server) as web, ws.open_tunnel(web) as client:
        for number in range(50):
            client.send(b"a" * (number % 3))
            client.sock.send(b"!", socket.MSG_OOB)
        client.send(b"end")
        got = client.read_until(b"end").replace(b"!", b"")
        equal(got, b"a" * sum(number % 3 for number in range(50)) + b"end", "bytes beside the urgent ones")


@case("without a free local port requests fail cleanly, and succeed once there are ports again", limit=60)
def no_ports():
    path = "/proc/sys/net/ipv4/ip_local_port_range"
    old = squall.read(path)
    hello = wire.plain_handler(lambda _head, _body: wire.response(b"hello"))
    with wire.RawServer(hello) as server, squall.sysctl(queue_timeout_ms=500 * ktap.PACE, backoff_max_ms=200):
        held = []
        try:
            squall.write(path, "30000 30003")
            for _ in range(4):
                sock = socket.socket()
                sock.connect(("127.0.0.1", server.port))
                held.append(sock)
            client = socket.socket()
            client.bind(("127.0.0.1", 20999))
            with squall.Listener(server, wait=False) as web:
                client.connect((web.host, web.port))
                peer = wire.Wire(client)
                peer.send(wire.request())
                check(peer.read_response()[0].status in (502, 503, 504), "status without a port")
                check(web.server_stats()["connect_failed"] > 0, "failed attempts in the stats")
                squall.write(path, old)
                web.wait_ready()
                peer.send(wire.request())
                equal(peer.read_response()[0].status, 200, "status with ports")
                peer.close()
        finally:
            squall.write(path, old)
            for sock in held:
                sock.close()


@case("with few local ports left, one of them is found at once")
def few_ports():
    path = "/proc/sys/net/ipv4/ip_local_port_range"
    old = squall.read(path)
    held = []
    with wire.RawServer(lambda peer, _number: peer.read_rest(), backlog=512) as server:
        try:
            squall.write(path, "31000 31199")
            for port in range(31000, 31190):
                sock = socket.socket()
                held.append(sock)
                # Closed by a reset: no port stays in TIME_WAIT.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.bind(("127.0.0.1", port))
                sock.connect(("127.0.0.1", server.port))
            with squall.Listener(server, connections=4) as web:
                equal(web.server_stats()["connect_failed"], 0, "failed attempts")
        finally:
            squall.write(path, old)
            for sock in held:
                sock.close()


@case("a port in TIME_WAIT is used again where connect() of a process would, and not where it would not", limit=60)
def time_wait():
    folder = "/proc/sys/net/ipv4"
    old = {name: squall.read(f"{folder}/{name}") for name in ("ip_local_port_range", "tcp_tw_reuse")}
    count = 4
    for host, first in (("127.0.0.1", 31300), ("::1", 31400), ("::ffff:127.0.0.1", 31500)):
        name = f"[{host}]" if ":" in host else host
        with wire.RawServer(lambda peer, _number: peer.read_rest(), host=host.removeprefix("::ffff:")) as server:
            address = f"{name}:{server.port}"
            try:
                squall.write(f"{folder}/ip_local_port_range", f"{first} {first + count - 1}")
                for _ in range(count):
                    with socket.create_connection((host.removeprefix("::ffff:"), server.port)) as sock:
                        sock.send(b"so that there are timestamps to compare")
                until(lambda: wire.time_waits(server.port) == count, 10, f"{count} ports in TIME_WAIT")
                # As long as connect() waits: net.ipv4.tcp_tw_reuse_delay.
                time.sleep(1.2)
                squall.write(f"{folder}/tcp_tw_reuse", 0)
                with squall.sysctl(backoff_max_ms=100), squall.Listener(address, connections=count, wait=False) as web:
                    until(lambda: web.server_stats()["connect_failed"] >= 3, 10, "attempts without a port")
                    equal(web.server_stats()["connected"], 0, f"connections to {address} without tcp_tw_reuse")
                    squall.write(f"{folder}/tcp_tw_reuse", 2)
                    until(lambda: web.server_stats()["connected"] == count, 5, f"{count} connections to {address}")
                equal(wire.time_waits(server.port), 0, "ports in TIME_WAIT afterwards")
            finally:
                for name, value in old.items():
                    squall.write(f"{folder}/{name}", value)


@case("an attempt looks at a bounded number of local ports: of 40000 with one free it gives up")
def bounded_search():
    folder = "/proc/sys/net/ipv4"
    old = {name: squall.read(f"{folder}/{name}") for name in ("ip_local_port_range", "ip_local_reserved_ports")}
    count = 4
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(wire.RawServer(lambda peer, _number: peer.read_rest())) for _ in range(count)]
        stack.enter_context(squall.sysctl(backoff_max_ms=86400000, backoff_min_ms=86400000))
        try:
            squall.write(f"{folder}/ip_local_port_range", "20000 60999")
            squall.write(f"{folder}/ip_local_reserved_ports", "20000-60998")
            with squall.Listener(*servers, connections=1, wait=False) as web:
                until(lambda: all(web.server_stats(n)["connects"] for n in range(count)), 5, "one attempt to each")
                squall.settle()
                failed = sum(web.server_stats(n)["connect_failed"] for n in range(count))
                # One in 40 attempts comes upon the port; that all do is no accident.
                check(failed > 0, "every attempt found the one port that is free")
        finally:
            for name, value in old.items():
                squall.write(f"{folder}/{name}", value)


@case("loading makes one connection in each address family: what TCP initialises then may sleep")
def primed():
    squall.unload()
    with sniff.Sniffer() as seen, sniff.Sniffer(version=6) as seen6:
        squall.load()
        until(lambda: seen.attempts(9) and seen6.attempts(9), 5, "an attempt by IPv4 and one by IPv6")


HOOKS = ("sk_data_ready", "sk_write_space", "sk_state_change", "sk_error_report")


@case("what TCP destroys is not hooked any more, and what is not accepted yet refers to its listener's data only")
def hooks_given_back():
    rounds = 5
    hooks = " ".join(f"{name}=sk->{name}:symbol" for name in HOOKS)
    with trace.Trace(
        destroy=f"tcp_v4_destroy_sock {hooks} user=sk->sk_user_data:x64",
        stop="inet_csk_listen_stop sk_data_ready=sk->sk_data_ready:symbol user=sk->sk_user_data:x64",
        child="tcp_child_process parent=parent->sk_data_ready:symbol its=parent->sk_user_data:x64 user=child->sk_user_data:x64",
    ) as seen:
        with ws.echo_server() as server, squall.Listener(server) as web:
            for number in range(rounds):
                client = ws.open_tunnel(web)
                (client.reset if number % 2 else client.close)()
            until(lambda: web.stats()["tunnels_open"] == 0, 10, "all tunnels ended")
        squall.settle()
        records = seen.records()
    texts = {what: [text for _, name, text in records if name == what] for what in ("child", "destroy", "stop")}
    ours = [text for text in texts["child"] if "[squall]" in text]
    check(len(ours) >= rounds, f"{len(ours)} connections came to the module's listener")
    inherited = re.compile(r" its=(0x[0-9a-f]+) user=\1$")
    trouble = [f"has other data and is not accepted: {text}" for text in ours if free(text) or not inherited.search(text)]
    for what in ("destroy", "stop"):
        check(texts[what], f"{what} was not seen")
        trouble += [f"comes to {what} hooked: {text}" for text in texts[what] if "[squall]" in text or not free(text)]
    check(not trouble, lambda: "\n".join(trouble[:30]))


@case("a BPF program that takes accepted connections into a map of sockets does not get the module's")
def socket_map():
    # TCP would call the map's functions for them, which look for data of their own where ours are.
    with bpf.SocketMap() as taken, ws.echo_server() as server, squall.Listener(server) as web:
        for number in range(6):
            client = ws.open_tunnel(web)
            port = client.sock.getsockname()[1]
            ports = taken.ports()
            check(ports, "the program has not run")
            check(port not in ports, f"the connection from port {port} was taken: {ports}")
            client.send(b"through")
            equal(client.read(7), b"through", "echo")
            (client.reset if number % 2 else client.close)()
        until(lambda: web.stats()["tunnels_open"] == 0, 10, "all tunnels ended")


@case("a BPF program that has TCP call the module from inside the module's own calls disturbs nothing", limit=60)
def nested():
    body = BODY[:300_000]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[i : i + 700] for i in range(0, len(body), 700)))
    chunks += b"0\r\n\r\n"
    message, large = ws.frame(BODY[:5000], masked=True), ws.LONG + body * 4

    def serve(peer, _number):
        with contextlib.suppress(wire.Closed):
            while not (head := peer.read_head()).get("Upgrade"):
                equal(peer.read_body(head) == body, True, "body of the request")
                peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
            peer.send(ws.switching(head))
            while data := peer.sock.recv(65536):
                peer.send(data)

    before = squall.module_stats().get("entries_nested", 0)
    # A rate has few bytes read at a time, so that there is more to read whenever TCP calls.
    with bpf.low_water(), wire.RawServer(serve) as server, squall.Listener(server) as web:
        with squall.sysctl(ws_bytes_rate=1 << 30), web.connect() as client:
            for _ in range(ktap.scaled(10, 3)):
                client.send(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
                equal(client.read_response()[1] == body, True, "body of the response")
            with ws.open_tunnel(web) as tunnel:
                for _ in range(ktap.scaled(100, 20)):
                    tunnel.send(message)
                    equal(tunnel.read(len(message)) == message, True, "echo of a message")
                sender = threading.Thread(target=tunnel.send, args=(large,))
                sender.start()
                equal(tunnel.read(len(large)) == large, True, "echo of much")
                sender.join()
                tunnel.finish_sending()
                check(tunnel.ended(), "the FIN came back")
    count = squall.module_stats().get("entries_nested", 0) - before
    ktap.note(f"called {count} times from inside")
    check(count > 0, "TCP did not call")


def free(text):
    """The socket has no user data: the lowest bit is a flag."""
    return text.endswith(("user=0x0", "user=0x1"))


@case("bytes in memory that may not be sent by reference are copied: a device without scatter-gather")
def linear():
    with netns.Namespace("near", 1) as near, ws.echo_server() as server:
        near.run("ethtool -K near sg off")
        with squall.Listener(server, host=near.gateway) as web, ws.open_tunnel(web, namespace=near) as client:
            before = squall.module_stats()["copied_bytes"]
            for number in range(20):
                data = BODY[number * 1000 : number * 1000 + 30_000]
                client.send(data)
                equal(client.read(len(data)) == data, True, "echo")
            check(squall.module_stats()["copied_bytes"] - before > 500_000, "nothing was copied")


@case("tiny segments do not pin more memory than large ones", limit=240)
def tiny_segments_pin_little():
    hold = threading.Event()
    # On a busy machine so many segments take longer than a tunnel waits for a server that does not read.
    patient = squall.sysctl(send_timeout_ms=600_000)
    with patient, ws.tunnel_server(lambda _peer, _number: hold.wait(), rcvbuf=8192) as server, squall.Listener(server) as web:
        with ws.open_tunnel(web) as client:
            squall.settle()
            before, free = baseline.tcp()["mem"], available()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            client.sock.settimeout(1)
            sent = 0
            try:
                while sent < ktap.scaled(200_000, 4_000):
                    sent += client.sock.send(b"x")
            except socket.timeout:
                pass
            pages, used = baseline.tcp()["mem"] - before, free - available()
            ktap.note(f"{sent} segments of one byte: {pages} pages of TCP memory, {used} KiB less available")
            check(pages * 4 <= 4096, f"{pages} pages of TCP memory for {sent} bytes")
            check(used <= 16384, f"{used} KiB for {sent} bytes")
            hold.set()


@case("the pieces that wait in one direction are limited in number, however small they are")
def pieces():
    hold = threading.Event()
    settings = squall.sysctl(splice_min=64, queue_high=16 << 20, unsent_max=4096, rcvbuf=16 << 20)
    offered, allowed = 200_000, 30_000
    with settings, netns.Namespace("near", 1) as near:
        with ws.tunnel_server(lambda _peer, _number: hold.wait(), rcvbuf=4096) as server:
            door = socket.create_server(("127.0.0.1", 0))
            with squall.Listener(server, host=near.gateway) as web, door, socket.create_connection(door.getsockname()) as other:
                with ws.open_tunnel(web, namespace=near, mss=88) as client:
                    client.sock.settimeout(ktap.PACE)
                    with contextlib.suppress(socket.timeout):
                        for _ in range(offered // 88):
                            client.send(bytes(88))
                            # TCP fills a page of the task's: what another connection sends parts the segments, which
                            # would be one piece if they were side by side.
                            other.sendall(b"x")
                    held = squall.module_stats()["queued_bytes"]
                    ktap.note(f"{held} bytes queued")
                    # 512 pieces, of which some are the ends of segments, and what one buffer of the receive queue may add.
                    check(allowed // 2 < held <= allowed, f"{held} bytes are queued in pieces of a segment")
                hold.set()


def available():
    """MemAvailable in KiB."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return int(dict(line.split(":") for line in file)["MemAvailable"].split()[0])


# The largest number that is a length (RFC 9110 has no limit; ours is that of a signed 64-bit number), and what overflows.
LARGEST, TOO_LARGE = (1 << 63) - 1, ((1 << 63), (1 << 64) - 1, 1 << 64, 10**30)


@case("small messages that a client does not read do not each pin a page of what others send", limit=120)
def small_messages_pin_little():
    waiting, count, hold = [], 600, threading.Event()

    def serve(peer, _number):
        waiting.append(peer)
        if len(waiting) == 1:
            hold.wait()
            return
        while data := peer.sock.recv(1 << 16):
            peer.send(data)

    # Everything is copied.
    with squall.sysctl(splice_min=65_536), ws.tunnel_server(serve) as server, squall.Listener(server) as web:
        with contextlib.ExitStack() as stack:
            stopped = stack.enter_context(ws.open_tunnel(web, rcvbuf=4096))
            until(lambda: waiting, 5, "the stopped client's tunnel at the server")
            other = stack.enter_context(ws.open_tunnel(web))
            # Whole pages of 4 KiB: what comes next has one of its own.
            between = ws.frame(b"x" * (7 * 4096 - 8), masked=True)

            def round_trip():
                other.send(between)
                other.read(len(between))

            # The stopped client's window is full then.
            for _ in range(64):
                waiting[0].send(ws.frame(bytes(1000)))
            round_trip()
            squall.settle()
            before, queued = available(), squall.module_stats()["queued_bytes"]
            for _ in range(count):
                waiting[0].send(ws.frame(b"small"))
                round_trip()
            pinned = before - available()
            ktap.note(f"{pinned} KiB less memory is available with {count} messages, {squall.module_stats()['queued_bytes'] - queued} bytes of them queued")
            hold.set()
            # A page each would be 4 KiB. On the debug kernel freed memory is kept aside for a while.
            check(pinned < count * ktap.scaled(2, 24), f"{pinned} KiB are pinned by {count} messages")
            stopped.reset()


@case("lengths of requests at the end of the range of 64 bits overflow nothing")
def huge_requests():
    with wire.RawServer(lambda peer, _number: peer.read_rest()) as server, squall.Listener(server) as web:
        for length in TOO_LARGE:
            for framing in (f"Content-Length: {length}\r\n\r\nabc", f"Transfer-Encoding: chunked\r\n\r\n{length:x}\r\nabc"):
                with web.connect() as client:
                    client.send(f"POST / HTTP/1.1\r\nHost: t\r\n{framing}".encode())
                    equal(client.read_response()[0].status, 400, f"status of {framing!r}")
                    check(client.ended(), f"{framing!r}: the connection was left open")
        for framing in (f"Content-Length: {LARGEST}\r\n\r\nabc", f"Transfer-Encoding: chunked\r\n\r\n{LARGEST:x}\r\nabc"):
            with web.connect() as client:
                client.send(f"POST / HTTP/1.1\r\nHost: t\r\n{framing}".encode())
                # It is a length, but more than body_max_kib.
                equal(client.read_head().status, 413, f"status of {framing!r}")


@case("lengths of responses at the end of the range of 64 bits overflow nothing")
def huge_responses():
    sent, read = [], threading.Event()

    def serve(peer, _number):
        peer.read_head()
        peer.send(sent[0])
        # What has come by then is not overtaken by the end.
        read.wait(ktap.seconds(5))

    def answer(framing, enough):
        """What a client gets, up to what is enough, its end, or a reset."""
        sent[:] = [f"HTTP/1.1 200 OK\r\n{framing}abc".encode()]
        read.clear()
        with web.connect() as client:
            client.send(wire.request())
            got = b""
            with contextlib.suppress(ConnectionResetError):
                while enough not in got and (data := client.sock.recv(1 << 16)):
                    got += data
            read.set()
            return got

    with wire.RawServer(serve) as server, squall.Listener(server) as web:
        for length in TOO_LARGE:
            got = answer(f"Content-Length: {length}\r\n\r\n", b"\r\n\r\n")
            check(got.startswith(b"HTTP/1.1 502 "), f"length {length}: {got!r}")
            got = answer(f"Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n", b"\r\n\r\n")
            check(got.startswith(b"HTTP/1.1 502 ") and b"abc" not in got, f"chunk of {length} bytes: {got!r}")
        for framing in (f"Content-Length: {LARGEST}\r\n\r\n", f"Transfer-Encoding: chunked\r\n\r\n{LARGEST:x}\r\n"):
            got = answer(framing, b"abc")
            check(got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"abc"), f"{framing!r}: {got!r}")


session.main()
