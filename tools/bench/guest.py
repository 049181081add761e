#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The benchmark's part inside the guest: starts the server and one peer in front of it, runs the cases on both, and prints one
JSON object per line, for each case and target.

  guest.py PEER [CASE]      all cases, or those whose name begins with CASE, for a machine whose time is counted in instructions
  guest.py --scaling        round trips with two of everything, on one and on both processors of a machine with two
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time

PROGRAM = "/squall/bench/squall-bench"
CONFIG = "/sys/kernel/config/squall"
SERVER = "127.0.0.1:9000"
PROXY = "127.0.0.1:8080"
LIMIT = 900

# Each case with its name and arguments. The first of a boot warms everything up and is not reported.
WARM = ["--ops", "1000", "rtt", "--tunnels", "16", "--size", "64"]
CASES = [
    ("rtt 1 x 64", ["rtt", "--tunnels", "1", "--size", "64"]),
    ("rtt 16 x 64", ["rtt", "--tunnels", "16", "--size", "64"]),
    ("rtt 128 x 64", ["--warmup", "2000", "--ops", "4000", "rtt", "--tunnels", "128", "--size", "64"]),
    ("rtt 16 x 1024", ["rtt", "--tunnels", "16", "--size", "1024"]),
    ("rtt 16 x 16384", ["--warmup", "200", "--ops", "1000", "rtt", "--tunnels", "16", "--size", "16384"]),
    ("bulk down", ["--warmup", "4096", "--ops", "16384", "bulk"]),
    ("bulk up", ["--warmup", "4096", "--ops", "16384", "bulk", "--up"]),
    ("upgrades", ["--warmup", "200", "--ops", "1000", "upgrades"]),
    ("gets", ["gets"]),
    ("gets close", ["--warmup", "200", "--ops", "1000", "gets", "--close"]),
    ("first byte", ["--warmup", "50", "--ops", "200", "first-byte"]),
]
# Tunnels that are held: how many, and the bytes that are pushed to each and not read.
HOLDS = [("idle tunnels", 10000, 0), ("stalled tunnels", 32, 1 << 30)]
SCALING = [
    ("rtt 16 x 64", ["--ops", "4000", "rtt", "--tunnels", "16", "--size", "64"]),
    ("rtt 128 x 64", ["--ops", "4000", "rtt", "--tunnels", "128", "--size", "64"]),
]
# The relay of the floor may lose what is sent right before a close.
NO_CLOSING = {"sockmap": {"upgrades", "gets close"}}
VERSIONS = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"]}

NGINX = """
daemon off; user root; worker_processes {workers}; worker_rlimit_nofile 65536; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 32768; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream app {{ server {server}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen {proxy} backlog=4096;
        location / {{
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_read_timeout 1h; proxy_send_timeout 1h;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread {workers}
    maxconn 24000
defaults
    mode http
    option http-keep-alive
    option forwardfor
    http-reuse always
    backlog 4096
    timeout client 1h
    timeout server 1h
    timeout connect 5s
    timeout tunnel 1h
    {options}
frontend clients
    bind {proxy}
    default_backend app
backend app
    server app {server} pool-max-conn 64
"""


class Running:
    """A process, or what else serves; told to be ready by a connection that works."""

    def __init__(self, command, address, log):
        self.log = open(log, "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.address = address

    def stop(self):
        self.process.terminate()
        self.process.wait()


def ready(address):
    """Waits until an operation through `address` succeeds."""
    for _ in range(100):
        done = subprocess.run(
            [PROGRAM, "load", address, "--warmup", "1", "--ops", "4", "gets", "--parallel", "1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on {address}: {done.stderr.decode()}")


def server(threads):
    return Running([PROGRAM, "server", SERVER, "--threads", str(threads)], SERVER, "/run/server.log")


def nginx(folder, workers):
    with open(f"{folder}/nginx.conf", "w", encoding="ascii") as file:
        file.write(NGINX.format(folder=folder, workers=workers, server=SERVER, proxy=PROXY))
    return Running(["nginx", "-c", f"{folder}/nginx.conf", "-e", "stderr"], PROXY, "/run/peer.log")


def haproxy(folder, workers, options=""):
    with open(f"{folder}/haproxy.cfg", "w", encoding="ascii") as file:
        file.write(HAPROXY.format(workers=workers, options=options, server=SERVER, proxy=PROXY))
    return Running(["haproxy", "-q", "-f", f"{folder}/haproxy.cfg"], PROXY, "/run/peer.log")


def write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{value}\n")


class Squall:
    """The module with one listener and one server."""

    process = None

    def __init__(self):
        subprocess.run(["insmod", "/squall/squall.ko"], check=True)
        os.makedirs(f"{CONFIG}/bench/all/app")
        write(f"{CONFIG}/bench/all/app/connections", 64)
        write(f"{CONFIG}/bench/all/app/address", SERVER)
        write(f"{CONFIG}/bench/address", PROXY)
        write(f"{CONFIG}/bench/enable", 1)

    def stop(self):
        for directory in ("bench/all/app", "bench/all", "bench"):
            os.rmdir(f"{CONFIG}/{directory}")
        subprocess.run(["rmmod", "squall"], check=True)


def start(peer, folder, workers):
    """Starts a peer; none for the direct way."""
    if peer == "direct":
        return None
    if peer == "nginx":
        running = nginx(folder, workers)
    elif peer == "haproxy":
        running = haproxy(folder, workers)
    elif peer == "haproxy-splice":
        running = haproxy(folder, workers, "option splice-auto")
    elif peer == "sockmap":
        running = Running([PROGRAM, "sockmap", PROXY, SERVER], PROXY, "/run/peer.log")
    else:
        running = Squall()
    ready(PROXY)
    return running


def emit(**fields):
    print(json.dumps(fields), flush=True)


def load(address, arguments, prefix=()):
    """Runs one case; its line, or what went wrong. `prefix` is what runs the program."""
    try:
        done = subprocess.run([*prefix, PROGRAM, "load", address, *arguments], capture_output=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LIMIT} s"}
    if done.returncode:
        return {"error": done.stderr.decode(errors="replace").strip()}
    return json.loads(done.stdout)


def read(path):
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def slabs():
    """Bytes in use by slab cache: objects and their size."""
    return {line[0]: int(line[1]) * int(line[3]) for line in (line.split() for line in read("/proc/slabinfo").splitlines()[2:])}


def memory():
    """What the kernel holds, in bytes: all of it, its slabs, and what user space has."""
    info = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in read("/proc/meminfo").splitlines()}
    user = info["AnonPages"] + info["Cached"] + info["Buffers"]
    # Pages that wait on a processor's own list are free, too.
    listed = sum(int(count) for count in re.findall(r"^ +count: +(\d+)", read("/proc/zoneinfo"), re.MULTILINE))
    return {
        "kernel": info["MemTotal"] - info["MemFree"] - listed * os.sysconf("SC_PAGE_SIZE") - user,
        "slab": info["Slab"],
        "user": info["AnonPages"],
    }


def hold(address, tunnels, stalled):
    """What tunnels cost while they are open, in bytes per tunnel."""
    write("/proc/sys/vm/drop_caches", 3)
    time.sleep(2)
    before, before_slabs = memory(), slabs()
    command = [PROGRAM, "load", address, "hold", "--tunnels", str(tunnels), "--stalled", str(stalled)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = process.stdout.readline()
    if not line:
        return {"error": process.stderr.read().decode(errors="replace").strip()}
    time.sleep(5)
    write("/proc/sys/vm/drop_caches", 2)
    time.sleep(1)
    after, after_slabs = memory(), slabs()
    grown = {name: (after_slabs[name] - before_slabs.get(name, 0)) / tunnels for name in after_slabs}
    largest = sorted((name for name in grown if grown[name] >= 16), key=grown.get, reverse=True)
    process.stdin.close()
    process.wait()
    return {
        "memory": {name: round((after[name] - before[name]) / tunnels) for name in after},
        "slabs": {name: round(grown[name]) for name in largest},
        **json.loads(line),
    }


def counted(peer, folder, only):
    """All cases, on the server itself and then through the peer; or those whose name begins with `only`."""
    if peer in VERSIONS:
        version = subprocess.run(VERSIONS[peer], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
        emit(peer=peer, boot=peer, case="version", version=re.search(r"\d[\w.+-]*", version).group(0))
    targets = [("direct", SERVER)]
    running = start(peer, folder, 1)
    if running:
        targets.append((peer, PROXY))
    for target, address in targets:
        load(address, WARM)
        for name, arguments in CASES:
            if not name.startswith(only) or name in NO_CLOSING.get(target, ()):
                continue
            emit(peer=target, boot=peer, case=name, **load(address, arguments))
    # Held tunnels are the same for the server everywhere, so it is asked for them once.
    target, address = targets[-1]
    for name, tunnels, bytes_each in HOLDS:
        if name.startswith(only):
            emit(peer=target, boot=peer, case=name, **hold(address, tunnels, bytes_each))
            time.sleep(5)
    if running:
        running.stop()


def contended(address, arguments):
    """The share of the processors' time, in percent, that goes into waiting for spinlocks that somebody else holds."""
    data = "/run/perf.data"
    result = load(address, arguments, ["perf", "record", "-q", "-a", "-e", "cpu-clock", "-F", "997", "-o", data, "--"])
    report = ["perf", "report", "-i", data, "--stdio", "-q", "--no-children", "--sort", "symbol"]
    if "error" in result:
        return result
    text = subprocess.run(report, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    shares = re.findall(r"([\d.]+)%\s+\[k\] (\S+)", text)
    return {"contended": sum(float(share) for share, symbol in shares if "spin_lock_slowpath" in symbol), "symbols": len(shares)}


def scaling(peer, folder):
    """Round trips with two of everything: on one processor, then on both."""
    for processors in (1, 2):
        os.sched_setaffinity(0, range(processors))
        running = [server(2), start(peer, folder, 2)]
        address = PROXY if running[1] else SERVER
        ready(address)
        load(address, WARM)
        for name, arguments in SCALING:
            emit(peer=peer, case=f"{name} on {processors}", **load(address, [*arguments, "--threads", "2"]))
        if processors == 2:
            emit(peer=peer, case="contended", **contended(address, [*SCALING[1][1], "--threads", "2"]))
        for process in reversed(running):
            if process:
                process.stop()


def main():
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        # Workers that nginx starts as another user must be able to read the files.
        os.chmod(folder, 0o755)
        if sys.argv[1:2] == ["--scaling"]:
            for peer in ("direct", "nginx", "haproxy", "squall"):
                scaling(peer, folder)
        else:
            running = server(1)
            ready(SERVER)
            counted(sys.argv[1], folder, (sys.argv[2:] or [""])[0])
            running.stop()
    sys.stderr.write(read("/run/server.log").replace("ready\n", "", 1))


main()
