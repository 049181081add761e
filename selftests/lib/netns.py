# SPDX-License-Identifier: GPL-2.0
"""Network namespaces joined to the first one (where the module listens) by a veth pair each."""

import contextlib
import ctypes
import os
import socket
import subprocess
import threading

from . import ktap

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_switch = threading.Lock()


def shell(command):
    """Runs one command; its output is shown when it fails."""
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    ktap.check(
        done.returncode == 0, lambda: f"{command}: {done.stdout.decode(errors='replace').strip()}"
    )
    return done.stdout.decode(errors="replace")


class Namespace:
    """Namespace `name` with the addresses 10.9.N.2 and fd09:N::2; the first namespace has …1.

    The link's name is `name` on both ends, so `tc`, `nft` and `ip` commands read well.
    """

    def __init__(self, name, number, mtu=1500):
        self.name, self.number, self.mtu = name, number, mtu
        self.address, self.gateway = f"10.9.{number}.2", f"10.9.{number}.1"
        self.address6, self.gateway6 = f"fd09:{number:x}::2", f"fd09:{number:x}::1"

    def __enter__(self):
        name, number = self.name, self.number
        shell(f"ip netns add {name}")
        try:
            shell(f"ip link add {name} mtu {self.mtu} type veth peer name {name} netns {name} mtu {self.mtu}")
            shell(f"ip addr add {self.gateway}/24 dev {name}")
            shell(f"ip -6 addr add {self.gateway6}/64 dev {name} nodad")
            shell(f"ip link set {name} up")
            self.run(f"ip addr add {self.address}/24 dev {name}")
            self.run(f"ip -6 addr add {self.address6}/64 dev {name} nodad")
            self.run(f"ip link set {name} up")
            self.run("ip link set lo up")
            self.run(f"ip route add default via 10.9.{number}.1")
            # Segments as they are on a wire: veth would hand over whole bursts as one.
            offload = f"ethtool -K {name} tso off gso off gro off"
            shell(offload)
            self.run(offload)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # What is still closing would retransmit for minutes over a link that is gone, and look like a leak.
        subprocess.run([*self.prefix, "ss", "-K"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The link would otherwise live on until the last socket of the namespace is gone.
        subprocess.run(f"ip link del {self.name}", shell=True, stderr=subprocess.DEVNULL)
        subprocess.run(f"ip netns del {self.name}", shell=True, stderr=subprocess.DEVNULL)

    def run(self, command):
        """Runs a command inside."""
        return shell(f"ip netns exec {self.name} {command}")

    @property
    def prefix(self):
        """What to put before an argument list to start a process inside."""
        return ["ip", "netns", "exec", self.name]

    @contextlib.contextmanager
    def _entered(self):
        with _switch:
            home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                ktap.check(_libc.setns(there, _CLONE_NEWNET) == 0, "setns into " + self.name)
                yield
            finally:
                _libc.setns(home, _CLONE_NEWNET)
                os.close(home)
                os.close(there)

    def socket(self, family=socket.AF_INET):
        """A TCP socket that belongs to the namespace (the calling thread stays outside)."""
        with self._entered():
            return socket.socket(family)

    @contextlib.contextmanager
    def impaired(self, netem, both=True):
        """The link with `tc netem` of the given parameters, in both directions or towards it only."""
        rule = f"tc qdisc replace dev {self.name} root netem {netem}"
        undo = f"tc qdisc del dev {self.name} root"
        shell(rule)
        if both:
            self.run(rule)
        try:
            yield self
        finally:
            shell(undo)
            if both:
                self.run(undo)
