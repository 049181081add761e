# SPDX-License-Identifier: GPL-2.0
"""Network namespaces joined to the first one (where the module listens) by a veth pair each."""

import contextlib
import ctypes
import os
import shlex
import socket
import subprocess
import threading

from . import ktap

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_switch = threading.Lock()


def shell(command):
    """Runs one command, without a shell between; its output is shown when it fails."""
    return _run(shlex.split(command), command)


def ip(*commands, namespace=None):
    """Runs commands of ip(8) in one process (to start one takes longer than what it does), inside the namespace if there is one."""
    inside = ["-netns", namespace] if namespace else []
    _run(["ip", *inside, "-batch", "-"], commands, input="\n".join(commands).encode())


def _run(arguments, told, **options):
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    output = done.stdout.decode(errors="replace")
    ktap.check(done.returncode == 0, lambda: f"{told}: {output.strip()}")
    return output


class Namespace:
    """Namespace `name` with the addresses 10.9.N.2 and fd09:N::2; the first namespace has …1.

    The link's name is `name` on both ends, so `tc`, `nft` and `ip` commands read well.
    """

    def __init__(self, name, number, mtu=1500):
        self.name, self.number, self.mtu = name, number, mtu
        self.address, self.gateway = f"10.9.{number}.2", f"10.9.{number}.1"
        self.address6, self.gateway6 = f"fd09:{number:x}::2", f"fd09:{number:x}::1"

    def __enter__(self):
        name = self.name
        ip(f"netns add {name}")
        try:
            ip(
                f"link add {name} mtu {self.mtu} type veth peer name {name} netns {name} mtu {self.mtu}",
                f"addr add {self.gateway}/24 dev {name}",
                f"addr add {self.gateway6}/64 dev {name} nodad",
                f"link set {name} up",
            )
            ip(
                f"addr add {self.address}/24 dev {name}",
                f"addr add {self.address6}/64 dev {name} nodad",
                f"link set {name} up",
                "link set lo up",
                f"route add default via {self.gateway}",
                namespace=name,
            )
            # Segments as they are on a wire: veth would hand over whole bursts as one.
            offload = f"ethtool -K {name} tso off gso off gro off"
            shell(offload)
            self.run(offload)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # What is still closing would retransmit for minutes over a link that is gone, and look like a leak. The link would otherwise
        # live on until the last socket of the namespace is gone.
        for command in (["ss", "-N", self.name, "-K"], ["ip", "link", "del", self.name], ["ip", "netns", "del", self.name]):
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

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

    def packet_socket(self, protocol):
        """A packet socket on its end of the link, which sees and sends Ethernet frames of that protocol."""
        with self._entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
            sock.bind((self.name, protocol))
            return sock

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
