# SPDX-License-Identifier: GPL-2.0
"""Generic netlink as far as the access log needs it: a family's groups by name, and messages with their attributes."""

import errno
import ipaddress
import socket
import struct
import time

from . import ktap

GENERIC, SOL_NETLINK = 16, 270
ADD_MEMBERSHIP, BROADCAST_ERROR = 1, 4
REQUEST, NLMSG_ERROR = 1, 2
CTRL, GETFAMILY = 16, 3
CTRL_NAME, CTRL_ID, CTRL_GROUPS, GROUP_NAME, GROUP_ID = 2, 1, 7, 1, 2

# include/uapi/squall.h: how each attribute is read, in the order of their numbers.
KINDS = {1: "request", 2: "tunnel"}
NUMBER, TEXT, ADDRESS, FLAG = range(4)
ATTRIBUTES = (
    ("cpu", NUMBER), ("seq", NUMBER), ("time", NUMBER), ("duration", NUMBER), ("client_addr", ADDRESS), ("client_port", NUMBER),
    ("listener", TEXT), ("route", TEXT), ("server_addr", ADDRESS), ("server_port", NUMBER), ("method", TEXT), ("target", TEXT),
    ("host", TEXT), ("truncated", FLAG), ("status", NUMBER), ("bytes_in", NUMBER), ("bytes_out", NUMBER), ("frames_in", NUMBER),
    ("frames_out", NUMBER), ("closed_by", NUMBER), ("reason", NUMBER),
)  # fmt: skip
BY = ("nobody", "client", "server", "proxy")
WHY = (
    "done", "fin", "reset", "client-idle", "server-idle", "idle", "lifetime", "stalled", "drained", "rate", "memory", "frames",
    "unloaded", "protocol", "timeout", "unavailable",
)  # fmt: skip


def attributes(data):
    """The attributes in `data`: (number, value)."""
    while len(data) >= 4:
        length, number = struct.unpack_from("=HH", data)
        ktap.check(4 <= length <= len(data), f"an attribute of {length} bytes in {len(data)}")
        yield number & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def attribute(number, value):
    """An attribute with its padding."""
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def messages(data):
    """The generic netlink messages in `data`: (type, command, attributes as bytes)."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        ktap.check(16 <= length <= len(data), f"a message of {length} bytes in {len(data)}")
        if kind == NLMSG_ERROR:
            error = -struct.unpack_from("=i", data, 16)[0]
            raise OSError(error, errno.errorcode.get(error, "?"))
        yield kind, data[16], data[20:length]
        data = data[(length + 3) & ~3 :]


def resolve(name):
    """Number of the family `name`, and the numbers of its groups by name."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, GENERIC) as sock:
        payload = struct.pack("=BBH", GETFAMILY, 1, 0) + attribute(CTRL_NAME, name.encode() + b"\0")
        sock.send(struct.pack("=IHHII", 16 + len(payload), CTRL, REQUEST, 1, 0) + payload)
        for _, _, data in messages(sock.recv(1 << 16)):
            found = dict(attributes(data))
            groups = (dict(attributes(group)) for _, group in attributes(found[CTRL_GROUPS]))
            return struct.unpack("=H", found[CTRL_ID])[0], {
                group[GROUP_NAME].rstrip(b"\0").decode(): struct.unpack("=I", group[GROUP_ID])[0] for group in groups
            }
    raise AssertionError(f"no answer for the family {name}")


def decode(kind, data):
    """A record as a dictionary."""
    record = {"kind": KINDS[kind]}
    for number, value in attributes(data):
        name, form = ATTRIBUTES[number - 1]
        ktap.check(name not in record, f"{name} twice")
        if form == NUMBER:
            record[name] = int.from_bytes(value, "little")
        elif form == ADDRESS:
            record[name] = str(ipaddress.ip_address(value))
        else:
            record[name] = value.decode("latin-1") if form == TEXT else True
    record["end"] = (BY[record.pop("closed_by")], WHY[record.pop("reason")])
    return record


class Reader:
    """Follows the log. `overrun`: how often the kernel said that the socket was full."""

    def __init__(self, rcvbuf=None, tell=True):
        self.family, groups = resolve("squall")
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, GENERIC)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if tell:
            self.sock.setsockopt(SOL_NETLINK, BROADCAST_ERROR, 1)
        self.sock.bind((0, 0))
        self.sock.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, groups["log"])
        self.overrun = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def there(self, wait=0.0):
        """The records that are there; waits up to `wait` seconds for the first."""
        records = []
        self.sock.settimeout(wait)
        while True:
            try:
                data = self.sock.recv(1 << 16)
            except (BlockingIOError, socket.timeout):
                return records
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overrun += 1
                continue
            for kind, command, attrs in messages(data):
                ktap.equal(kind, self.family, "type of the message")
                records.append(decode(command, attrs))
            self.sock.settimeout(0)

    def take(self, count, limit=10):
        """Exactly `count` records; fails when fewer come in time, or more."""
        records, end = [], time.monotonic() + ktap.seconds(limit)
        while len(records) < count and time.monotonic() < end:
            records += self.there(0.2)
        # One too many would be there by now.
        records += self.there(0.05 * ktap.PACE)
        ktap.equal(len(records), count, f"records: {records}")
        return records


def gaps(records):
    """How many records are missing between the first and the last of each processor; they must be in order."""
    last, missing = {}, 0
    for record in records:
        before = last.get(record["cpu"])
        if before is not None:
            ktap.check(record["seq"] > before, f"processor {record['cpu']}: {record['seq']} came behind {before}")
            missing += record["seq"] - before - 1
        last[record["cpu"]] = record["seq"]
    return missing
