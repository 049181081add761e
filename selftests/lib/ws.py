# SPDX-License-Identifier: GPL-2.0
"""The opening handshake of RFC 6455 in raw bytes, for tests about bytes, timing and misbehaviour."""

import base64
import hashlib
import os
import struct

from . import ktap, wire

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="

# The header of a frame that does not end: what follows may be any bytes.
LONG = b"\x82\xff" + (1 << 60).to_bytes(8, "big") + bytes(4)


def offer(target="/", key=SAMPLE_KEY, fields=(), connection="Upgrade"):
    """A client's opening handshake."""
    lines = [
        f"GET {target} HTTP/1.1", "Host: test", "Upgrade: websocket", f"Connection: {connection}",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *fields,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def accept_for(key):
    """Sec-WebSocket-Accept for a key."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def switching(head, fields=(), accept=None):
    """The 101 that answers the offer in `head`; `accept` replaces the right value by another."""
    accept = accept_for(head.get("Sec-WebSocket-Key")) if accept is None else accept
    lines = [
        "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}", *fields,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def tunnel_server(serve, **options):
    """A RawServer that accepts every offer and then calls `serve(wire, number)` for the tunnel."""

    def handler(peer, number):
        peer.send(switching(peer.read_head()))
        serve(peer, number)

    return wire.RawServer(handler, **options)


def echo_server(**options):
    """A RawServer whose tunnels return every byte and pass a FIN back."""

    def serve(peer, _number):
        while True:
            if peer.buffer:
                data, peer.buffer = peer.buffer, b""
            else:
                data = peer.sock.recv(1 << 18)
            if not data:
                return
            peer.send(data)

    return tunnel_server(serve, **options)


def open_tunnel(listener, target="/", **options):
    """A raw client whose tunnel is open."""
    client = listener.connect(**options)
    key = base64.b64encode(os.urandom(16)).decode()
    client.send(offer(target, key))
    head = client.read_head()
    ktap.equal(head.status, 101, "status of the opening handshake")
    ktap.equal(head.get("Sec-WebSocket-Accept"), accept_for(key), "Sec-WebSocket-Accept")
    return client


def frame(payload=b"", opcode=2, masked=False, fin=True):
    """One frame (RFC 6455 section 5.2), with the shortest length; the masking key is all zeros."""
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        length = bytes([mask | len(payload)])
    elif len(payload) < 1 << 16:
        length = bytes([mask | 126]) + struct.pack(">H", len(payload))
    else:
        length = bytes([mask | 127]) + struct.pack(">Q", len(payload))
    return bytes([(0x80 if fin else 0) | opcode]) + length + (bytes(4) if masked else b"") + payload


def read_close(peer, masked):
    """The status code of the Close frame that comes next, followed by the FIN."""
    equal, first = ktap.equal, peer.read(2)
    equal(first[0], 0x88, "first byte of a Close frame")
    equal(first[1], (0x80 if masked else 0) | 2, "second byte of a Close frame")
    key = peer.read(4) if masked else bytes(4)
    code = bytes(a ^ b for a, b in zip(peer.read(2), key))
    ktap.check(peer.ended(), "something behind a Close frame")
    return struct.unpack(">H", code)[0]
