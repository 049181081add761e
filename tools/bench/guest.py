#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The benchmark's part inside the guest: starts the server and one peer in front of it, runs the cases on both, and prints one
JSON object per line, for each case and target.

  guest.py PEER [CASE]      all cases, or those whose name begins with CASE, for a machine whose time is counted in instructions
  guest.py --scaling        round trips with two of everything, on one and on both processors of a machine with two
  guest.py --balance        which of the machine's processors do the work when packets are spread over all of them
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time

PROGRAM = "/squall/bench/squall-bench"
CONFIG = "/sys/kernel/config/squall"
SERVER = "127.0.0.1:9000"
PROXY = "127.0.0.1:8080"
# Where there are more tunnels than one address has ports for: all take turns with several addresses, which follow each other.
SPREAD = 4
WIDE_SERVER = "127.0.0.1:9001"
WIDE_SERVERS = [f"127.0.0.{number}:9001" for number in range(1, SPREAD + 1)]
WIDE_PORTS = "10000 65535"
DESCRIPTORS = 262144
RPS = "/sys/class/net/lo/queues/rx-0/rps_cpus"
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
# Cases of several stages: how many tunnels are open, by peer; and the neighbours of a tunnel.
MANY = {
    "squall": "1,16,128,1000,10000,50000",
    "nginx": "1,16,128,1000",
    "haproxy": "1,16,128,1000",
}
BESIDE = ["--warmup", "50", "--ops", "500", "beside", "--idle", "10000"]
BALANCE = ["--ops", "8000", "rtt", "--tunnels", "128", "--size", "64"]
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
    upstream app {{ {servers} keepalive 64; keepalive_requests 1000000000; }}
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
    {servers}
"""


class Running:
    """A process, or what else serves; told to be ready by a connection that works."""

    def __init__(self, command, address, log):
        self.log = open(log, "ab")
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


def server(threads, address=SERVER):
    return Running([PROGRAM, "server", address, "--threads", str(threads)], address, "/run/server.log")


def everywhere(address):
    """The port of an address, on all addresses."""
    return "0.0.0.0:" + address.rpartition(":")[2]


def nginx(folder, workers, proxy, servers):
    lines = " ".join(f"server {address};" for address in servers)
    with open(f"{folder}/nginx.conf", "w", encoding="ascii") as file:
        file.write(NGINX.format(folder=folder, workers=workers, servers=lines, proxy=proxy))
    return Running(["nginx", "-c", f"{folder}/nginx.conf", "-e", "stderr"], PROXY, "/run/peer.log")


def haproxy(folder, workers, proxy, servers, options=""):
    lines = "\n    ".join(f"server app{number} {address} pool-max-conn 64" for number, address in enumerate(servers))
    with open(f"{folder}/haproxy.cfg", "w", encoding="ascii") as file:
        file.write(HAPROXY.format(workers=workers, options=options, servers=lines, proxy=proxy))
    return Running(["haproxy", "-q", "-f", f"{folder}/haproxy.cfg"], PROXY, "/run/peer.log")


def write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{value}\n")


class Squall:
    """The module with one listener, and its servers."""

    process = None

    def __init__(self, proxy, servers):
        subprocess.run(["insmod", "/squall/squall.ko"], check=True)
        self.directories = [f"{CONFIG}/bench/all/app{number}" for number in range(len(servers))]
        for directory, address in zip(self.directories, servers):
            os.makedirs(directory)
            # As many as nginx and HAProxy are told to keep.
            write(f"{directory}/connections", 64)
            write(f"{directory}/idle_max", 64)
            write(f"{directory}/address", address)
        write(f"{CONFIG}/bench/address", proxy)
        write(f"{CONFIG}/bench/enable", 1)

    def stop(self):
        for directory in (*self.directories, f"{CONFIG}/bench/all", f"{CONFIG}/bench"):
            os.rmdir(directory)
        subprocess.run(["rmmod", "squall"], check=True)


def start(peer, folder, workers, proxy=PROXY, servers=(SERVER,)):
    """Starts a peer; none for the direct way."""
    if peer == "direct":
        return None
    if peer == "nginx":
        running = nginx(folder, workers, proxy, servers)
    elif peer == "haproxy":
        running = haproxy(folder, workers, proxy, servers)
    elif peer == "haproxy-splice":
        running = haproxy(folder, workers, proxy, servers, "option splice-auto")
    elif peer == "sockmap":
        running = Running([PROGRAM, "sockmap", PROXY, SERVER], PROXY, "/run/peer.log")
    else:
        running = Squall(proxy, servers)
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
    if peer in MANY and any(name.startswith(only) for name in ("many", "beside")):
        wide(peer, folder, only)


def staged(peer, target, address, only):
    """The cases of several stages: many tunnels, and bad neighbours."""
    spread = ["--spread", str(SPREAD)]
    if "many".startswith(only):
        result = load(address, ["many", "--tunnels", MANY[peer], *spread])
        if "error" in result:
            emit(peer=target, boot=peer, case="many", **result)
        for stage in result.get("stages", ()):
            name = f"many {stage['tunnels']}"
            emit(peer=target, boot=peer, case=f"{name} opening", windows=stage["opening"])
            for kind in ("few", "all"):
                emit(peer=target, boot=peer, case=f"{name} {kind}", **stage[kind])
        # What the resets of that many have left to do.
        time.sleep(5)
    if "beside".startswith(only):
        result = load(address, [*BESIDE, *spread])
        if "error" in result:
            emit(peer=target, boot=peer, case="beside", **result)
        for stage in result.get("stages", ()):
            emit(peer=target, boot=peer, case=f"beside {stage.pop('beside')}", **stage)
        time.sleep(5)


def wide(peer, folder, only):
    """The cases that need more than one address has ports for, on a server and a peer of their own."""
    write("/proc/sys/net/ipv4/ip_local_port_range", WIDE_PORTS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    behind = server(1, everywhere(WIDE_SERVER))
    ready(WIDE_SERVER)
    # Every peer is compared with the direct way as it is in Squall's boot.
    if peer == "squall":
        load(WIDE_SERVER, WARM)
        staged(peer, "direct", WIDE_SERVER, only)
    running = start(peer, folder, 1, everywhere(PROXY), WIDE_SERVERS)
    load(PROXY, WARM)
    staged(peer, peer, PROXY, only)
    running.stop()
    behind.stop()


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


def softirqs():
    """By processor: how many softirqs for what was received there were, how many packets they had, and how long all softirqs took
    (in 10 ms)."""
    counts = re.search(r"NET_RX:(.*)", read("/proc/softirqs")).group(1).split()
    times = re.findall(r"^cpu\d+ (.*)", read("/proc/stat"), re.MULTILINE)
    packets = [int(line.split()[0], 16) for line in read("/proc/net/softnet_stat").splitlines()]
    return {
        "count": [int(count) for count in counts][: len(times)],
        "packets": packets[: len(times)],
        "time": [int(line.split()[6]) for line in times],
    }


def confine(processors, pid):
    """Lets all threads of a process run on `processors` only; this one's children inherit what it has itself."""
    os.sched_setaffinity(0, processors)
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), processors)


def balance(peer, folder):
    """Round trips while loopback's packets are spread over all processors, and while they are not: who does the softirqs. In the
    end with all processes on the first processor, so that only packets can bring work to the others."""
    processors = os.cpu_count()
    running = [server(processors), start(peer, folder, processors)]
    address = PROXY if running[1] else SERVER
    ready(address)
    everyone = range(processors)
    whole = (1 << processors) - 1
    for name, mask, allowed in (("plain", 0, everyone), ("spread", whole, everyone), ("confined", 0, [0]), ("packets", whole, [0])):
        write(RPS, f"{mask:x}")
        confine(allowed, running[0].process.pid)
        load(address, WARM)
        before = softirqs()
        result = load(address, [*BALANCE, "--threads", str(processors)])
        after, shares = softirqs(), {}
        for what in after:
            grown = [new - old for new, old in zip(after[what], before[what])]
            shares[what] = [100 * share / max(sum(grown), 1) for share in grown]
        emit(peer=peer, case=f"balance {processors} {name}", shares=shares, **result)
    write(RPS, "0")
    os.sched_setaffinity(0, everyone)
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
        elif sys.argv[1:2] == ["--balance"]:
            for peer in ("direct", "squall"):
                balance(peer, folder)
        else:
            running = server(1)
            ready(SERVER)
            counted(sys.argv[1], folder, (sys.argv[2:] or [""])[0])
            running.stop()
    sys.stderr.write(read("/run/server.log").replace("ready\n", ""))


if __name__ == "__main__":
    main()
