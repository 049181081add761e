# SPDX-License-Identifier: GPL-2.0
"""Very many tunnels of one process. Their sockets are plain and blocking, and each call is one system call: on an emulated processor
that is most of what there is to save. A case's time limit ends what waits for ever."""

import socket
import struct

from . import ktap, wire, ws

# Offers that are under way at a time.
WINDOW = 128
NUMBERS = b"%06d in round %06d"
HEADER = ws.frame(NUMBERS % (0, 0), masked=True)[:6]
CLOSE = ws.frame(b"\x03\xe8", opcode=8, masked=True)
RESET = struct.pack("ii", 1, 0)


def message(number, round_):
    """A frame that no other tunnel and no other round has."""
    return HEADER + NUMBERS % (number, round_)


class Crowd:
    """The tunnels, in the order in which they were opened."""

    def __init__(self, address):
        self.family, self.target = wire.split_address(address)
        self.socks = []

    def open(self, count):
        """Opens so many one after the other, without waiting for the answer to each."""
        offer = ws.offer()
        accept = f"\r\nSec-WebSocket-Accept: {ws.accept_for(ws.SAMPLE_KEY)}\r\n".encode().lower()
        for number in range(count + WINDOW):
            if number < count:
                sock = socket.socket(self.family)
                sock.connect(self.target)
                sock.send(offer)
                self.socks.append(sock)
            if WINDOW <= number:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    data = self.socks[number - WINDOW].recv(4096)
                    ktap.check(data, f"closed instead of a response to offer {number - WINDOW}")
                    head += data
                ktap.check(head.startswith(b"HTTP/1.1 101 ") and accept in head.lower(), lambda head=head: f"answer to an offer: {head!r}")

    def echo(self, numbers, round_, meanwhile=None):
        """A message through each of the tunnels of these numbers, all before the first is read; `meanwhile` is called in between."""
        for number in numbers:
            self.socks[number].send(message(number, round_))
        if meanwhile:
            meanwhile()
        for number in numbers:
            wanted = message(number, round_)
            got = self.socks[number].recv(4096)
            while len(got) < len(wanted) and (more := self.socks[number].recv(4096)):
                got += more
            ktap.equal(got, wanted, f"echo in tunnel {number}, round {round_}")

    def close(self, numbers):
        """A Close frame each way and a FIN in each of these tunnels."""
        for number in numbers:
            self.socks[number].send(CLOSE)
        for number in numbers:
            got = b""
            while data := self.socks[number].recv(4096):
                got += data
            ktap.equal(got, CLOSE, f"what came in tunnel {number} behind its Close frame")
            self.socks[number].close()

    def reset(self, numbers):
        """Resets these tunnels."""
        for number in numbers:
            self.socks[number].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.socks[number].close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reset([number for number, sock in enumerate(self.socks) if sock.fileno() >= 0])
