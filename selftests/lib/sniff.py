# SPDX-License-Identifier: GPL-2.0
"""Watches TCP segments on an interface by a packet socket: what was really sent, and when."""

import socket
import struct
import threading
import time

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
# Which Python's socket module does not name.
_SO_TIMESTAMPNS = 35
SYN, RST, FIN, ACK = 0x02, 0x04, 0x01, 0x10


class Sniffer:
    """Collects (time, source port, destination port, flags, payload length) of outgoing TCP segments.

    Of IPv4, or of IPv6 without extension headers. Times are of time.monotonic(), taken by the kernel when it sent the segment,
    not when this busy process came to read it.
    """

    def __init__(self, interface="lo", version=4):
        self.interface, self.version = interface, version
        self.segments = []
        self.sock = None

    def __enter__(self):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.sock.bind((self.interface, _ETH_P_ALL))
        self.sock.settimeout(0.2)
        threading.Thread(target=self._collect, args=(self.sock,), daemon=True).start()
        return self

    def __exit__(self, *_):
        sock, self.sock = self.sock, None
        sock.close()

    def _collect(self, sock):
        behind = time.clock_gettime(time.CLOCK_REALTIME) - time.monotonic()
        while self.sock is sock:
            try:
                # Enough for both headers with all their options.
                packet, ancillary, _, origin = sock.recvmsg(128, socket.CMSG_SPACE(16))
            except socket.timeout:
                continue
            except OSError:
                return
            if origin[2] != _PACKET_OUTGOING or packet[0] >> 4 != self.version:
                continue
            if self.version == 4:
                protocol, start, length = packet[9], (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
            else:
                protocol, start, length = packet[6], 40, 40 + struct.unpack_from("!H", packet, 4)[0]
            if protocol != socket.IPPROTO_TCP:
                continue
            source, target = struct.unpack_from("!HH", packet, start)
            payload = length - start - (packet[start + 12] >> 4) * 4
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
            self.segments.append((seconds + nanoseconds / 1e9 - behind, source, target, packet[start + 13], payload))

    def attempts(self, port):
        """Times of the SYNs to `port` so far."""
        return [t for t, _, target, flags, _ in list(self.segments) if target == port and flags & (SYN | ACK) == SYN]
