# SPDX-License-Identifier: GPL-2.0
"""Reads the files of test vectors; rust/proto/vectors.rs describes their format."""

import os
import re

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "vectors")

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_PLAIN = {b"r": b"\r", b"n": b"\n", b"t": b"\t"}


def _unescape(text):
    def one(match):
        what = match.group(1)
        return bytes([int(what[1:], 16)]) if len(what) == 3 else _PLAIN.get(what, what)

    return _ESCAPE.sub(one, text)


class Vector:
    """One vector: its name, the values of its keys, and what its events say."""

    def __init__(self, lines):
        self.values = {}
        for line in lines:
            key, _, value = line.partition(b": ")
            key, _, times = key.partition(b" x")
            self.values.setdefault(key.decode(), []).append((int(times or 1), value))
        self.name = self.text("vector")
        self.kind = self.text("kind")
        self.events = [value.decode() for _, value in self.values.get("event", ())]

    def text(self, key):
        """The value of a key that stands there once; None without it."""
        found = self.values.get(key)
        return found[0][1].decode() if found else None

    def bytes(self, key, default=b""):
        """What the quoted values of a key stand for."""
        found = self.values.get(key)
        if found is None:
            return default
        return b"".join(_unescape(value[1:-1]) * times for times, value in found)

    def numbers(self, event):
        """The last number of every event that begins with this word."""
        return [int(e.split(" ")[-1]) for e in self.events if e.split(" ")[0] == event]

    def limits(self):
        """The limits that the vector sets."""
        words = (self.text("limits") or "").split()
        return {name: int(number) for name, _, number in (word.partition("=") for word in words)}


def read(name):
    """The vectors of one file."""
    with open(f"{FOLDER}/{name}", "rb") as file:
        for text in file.read().split(b"\n\n"):
            lines = [line for line in text.split(b"\n") if line and not line.startswith(b"#")]
            if lines:
                yield Vector(lines)


def files():
    """The names of all files of vectors."""
    return sorted(name for name in os.listdir(FOLDER) if name.endswith(".txt"))
