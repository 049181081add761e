# SPDX-License-Identifier: GPL-2.0
"""The module under test: load, configure by configfs, read its stats, unload. Only this file knows how."""

import contextlib
import os
import subprocess
import time

from . import ktap, wire

MODULE = os.environ.get("SQUALL_MODULE", "/squall/squall.ko")
ROOT = "/sys/kernel/config/squall"
SYSCTL = "/proc/sys/net/squall"
ROUTE = "all"


def loaded():
    """True while the module is in the kernel."""
    return os.path.isdir("/sys/module/squall")


def load():
    """Loads the module; skips the whole test where it cannot be loaded from."""
    if not loaded() and not os.path.exists(MODULE):
        raise ktap.Skip(f"{MODULE} is not there")
    if not os.path.isdir("/sys/kernel/config"):
        subprocess.run(["modprobe", "configfs"], check=True)
    if not os.path.ismount("/sys/kernel/config"):
        subprocess.run(["mount", "-t", "configfs", "none", "/sys/kernel/config"], check=True)
    if not loaded():
        subprocess.run(["insmod", MODULE], check=True)


def unload():
    """Removes what is configured and unloads the module, with little patience for what is still open."""
    if not loaded():
        return
    for name in ("drain_ms", "ws_close_timeout_ms", "linger_timeout_ms"):
        write(f"{SYSCTL}/{name}", 20)
    for listener in sorted(os.listdir(ROOT)):
        if os.path.isdir(f"{ROOT}/{listener}"):
            remove_tree(f"{ROOT}/{listener}")
    subprocess.run(["rmmod", "squall"], check=True)


def remove_tree(directory):
    """Removes a configfs directory and those below it."""
    for name in os.listdir(directory):
        if os.path.isdir(f"{directory}/{name}"):
            remove_tree(f"{directory}/{name}")
    os.rmdir(directory)


def write(path, value):
    """Writes one attribute in one write(); the error is the kernel's."""
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, f"{value}\n".encode())
    finally:
        os.close(file)


def read(path):
    """Reads one attribute."""
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def read_stats(directory):
    """A `stats` file as a dictionary of integers."""
    return {
        name: int(value)
        for name, value in (line.split() for line in read(f"{directory}/stats").splitlines())
    }


@contextlib.contextmanager
def sysctl(**values):
    """Sets net.squall.* values and puts the old ones back."""
    old = {name: read(f"{SYSCTL}/{name}") for name in values}
    try:
        for name, value in values.items():
            write(f"{SYSCTL}/{name}", value)
        yield
    finally:
        for name, value in old.items():
            write(f"{SYSCTL}/{name}", value)


class Listener:
    """A listener with one route and its servers, configured on entry and removed on exit.

    `servers` are addresses ("127.0.0.1:9000") or peers with an `address`; `connections` is the number of
    connections to each that are kept ready; those beyond are kept for `idle_ms`, which is short, so that a pool is
    soon what it was. None for either is the module's default. Waits for every server's connections unless `wait` is
    False.
    """

    _count = 0

    def __init__(self, *servers, connections=2, idle_ms=100, host="127.0.0.1", wait=True, enable=True):
        Listener._count += 1
        self.name = f"l{Listener._count}"
        self.servers = [getattr(server, "address", server) for server in servers]
        self.connections, self.idle_ms = connections, idle_ms
        self.host, self.port = host, wire.free_port()
        self.wait, self.enabled = wait, enable

    @property
    def address(self):
        """Where clients connect to, as configuration writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def directory(self):
        """The listener's directory."""
        return f"{ROOT}/{self.name}"

    def server_directory(self, index=0):
        """The directory of one server."""
        return f"{self.directory}/{ROUTE}/s{index}"

    def url(self, target="/", scheme="http"):
        """A URL that leads to the listener."""
        return f"{scheme}://{self.address}{target}"

    def __enter__(self):
        try:
            os.makedirs(f"{self.directory}/{ROUTE}")
            for index, server in enumerate(self.servers):
                os.mkdir(self.server_directory(index))
                if self.connections is not None:
                    write(f"{self.server_directory(index)}/connections", self.connections)
                if self.idle_ms is not None:
                    write(f"{self.server_directory(index)}/idle_ms", self.idle_ms)
                write(f"{self.server_directory(index)}/address", server)
            write(f"{self.directory}/address", self.address)
            if self.enabled:
                self.enable(1)
                if self.wait:
                    self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if os.path.isdir(self.directory):
            # Tunnels have their Close frames at once.
            with sysctl(drain_ms=0):
                remove_tree(self.directory)

    def enable(self, value):
        """Writes the attribute `enable`."""
        write(f"{self.directory}/enable", value)

    def wait_ready(self, limit=10):
        """Waits until each server has its persistent connections."""
        for index in range(len(self.servers)):
            ktap.until(
                lambda index=index: self.server_stats(index)["connected"] >= (self.connections or 0),
                limit,
                f"{self.connections} connections to server {index}",
            )

    def stats(self):
        """The listener's counters."""
        return read_stats(self.directory)

    def route_stats(self):
        """The route's counters."""
        return read_stats(f"{self.directory}/{ROUTE}")

    def server_stats(self, index=0):
        """One server's counters."""
        return read_stats(self.server_directory(index))

    def unrest(self):
        """What is not as it is when nobody uses the listener and its servers are up: counters by their names."""
        zero = {"connections": 0, "tunnels_open": 0}
        found = {name: value for name, value in self.stats().items() if zero.get(name, value) != value}
        zero = {"busy": 0, "connecting": 0, "waiting": 0, "tunnels_open": 0, "failures": 0}
        zero |= {"idle": self.connections or 0, "connected": self.connections or 0}
        for index in range(len(self.servers)):
            for name, value in self.server_stats(index).items():
                if zero.get(name, value) != value:
                    found[f"s{index} {name}"] = value
        return found

    def connect(self, **options):
        """A raw client connection to the listener."""
        return wire.Wire.connect(self.address, **options)


def module_stats():
    """Counters of the whole module."""
    return read_stats(ROOT)


def settle(pause=0.2):
    """Gives connections that are being closed the time to be gone."""
    time.sleep(ktap.seconds(pause))
