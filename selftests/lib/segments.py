# SPDX-License-Identifier: GPL-2.0
"""A client whose TCP is written here, so that it decides what each segment holds: also bytes in place of those it sent before."""

import socket
import struct
import time

from . import ktap, netns
from .sniff import ACK, RST, SYN

_ETH_P_IP = 0x0800
_PSH = 0x08
_FIRST = 1000


def _checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Client:
    """A connection to a listener in the first namespace, from an address of the namespace's network that no kernel has."""

    _number = 76

    def __init__(self, namespace, port):
        Client._number += 1
        self.namespace, self.port, self.source = namespace, port, 40000 + Client._number
        self.address = f"10.9.{namespace.number}.{Client._number}"
        self.sock = namespace.packet_socket(_ETH_P_IP)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        own = self.sock.getsockname()[4]
        with open(f"/sys/class/net/{namespace.name}/address", encoding="ascii") as file:
            gateway = bytes.fromhex(file.read().strip().replace(":", ""))
        netns.shell(f"ip neigh replace {self.address} lladdr {own.hex(':')} dev {namespace.name} nud permanent")
        self.ethernet = gateway + own + struct.pack("!H", _ETH_P_IP)
        self.ends = socket.inet_aton(self.address) + socket.inet_aton(namespace.gateway)
        # Bytes sent so far, and the sequence number that comes next from the other side.
        self.sent, self.expected = 0, 0
        # Seconds that the longest segment took: it is handled in softirq, mostly before it is sent for this process.
        self.longest = 0.0

    def __enter__(self):
        self._segment(_FIRST - 1, SYN, options=struct.pack("!BBH", 2, 4, 1460))
        ktap.until(self.acknowledge, 5, "the connection")
        self._segment(_FIRST, ACK)
        return self

    def __exit__(self, *_):
        self._segment(_FIRST + self.sent, RST | ACK)
        self.sock.close()
        netns.shell(f"ip neigh del {self.address} dev {self.namespace.name}")

    def _segment(self, sequence, flags, data=b"", options=b""):
        words = (self.source, self.port, sequence, self.expected, (20 + len(options)) // 4 << 4, flags, 65535)
        pseudo = self.ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20 + len(options) + len(data))
        check = _checksum(pseudo + struct.pack("!HHIIBBHHH", *words, 0, 0) + options + data)
        tcp = struct.pack("!HHIIBBHHH", *words, check, 0) + options + data
        words = (0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP)
        check = _checksum(struct.pack("!BBHHHBBH", *words, 0) + self.ends)
        start = time.monotonic()
        self.sock.send(self.ethernet + struct.pack("!BBHHHBBH", *words, check) + self.ends + tcp)
        self.longest = max(self.longest, time.monotonic() - start)

    def acknowledge(self):
        """Takes what has come, to be acknowledged by the next segment; returns it, "SYN" for the beginning."""
        taken = b""
        while True:
            try:
                packet = self.sock.recv(1 << 16, socket.MSG_DONTWAIT)[14:]
            except BlockingIOError:
                return taken
            start = (packet[0] & 15) * 4
            if packet[9] != socket.IPPROTO_TCP or packet[16:20] != self.ends[:4]:
                continue
            _, _, sequence, _, offset, flags = struct.unpack_from("!HHIIBB", packet, start)
            data = packet[start + (offset >> 4) * 4 : struct.unpack_from("!H", packet, 2)[0]]
            if flags & SYN:
                self.expected = sequence + 1
                return b"SYN"
            if sequence == self.expected:
                self.expected += len(data)
                taken += data

    def send(self, data):
        """Sends bytes in one segment."""
        self._segment(_FIRST + self.sent, ACK | _PSH, data)
        self.sent += len(data)

    def send_overlapping(self, data):
        """Sends each byte in a segment of its own, behind another one in place of the byte that was sent before it. TCP keeps what it
        got first, and does not join such segments."""
        if self.sent == 0:
            self.send(data[:1])
            data = data[1:]
        for at in range(len(data)):
            self._segment(_FIRST + self.sent - 1, ACK | _PSH, b"#" + data[at : at + 1])
            self.sent += 1
