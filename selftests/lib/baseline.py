# SPDX-License-Identifier: GPL-2.0
"""What must be back where it was once the module is gone: TCP sockets and memory, slab objects."""

import contextlib
import os
import subprocess
import sys
import threading
import traceback

from . import ktap

# TCP accounts memory in pages; what stays in per-CPU reserves of the protocol is not a leak.
TCP_MEM_SLACK_PAGES = 600
# Caches of sockets; a leaked sock shows in one of them even if the count of TCP's own is right.
SLAB_CACHES = ("TCP", "TCPv6", "request_sock_TCP", "request_sock_TCPv6", "tw_sock_TCP")


def tcp():
    """The line TCP of /proc/net/sockstat: inuse, orphan, tw, alloc, mem (in pages)."""
    with open("/proc/net/sockstat", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[0] == "TCP:":
                return dict(zip(words[1::2], map(int, words[2::2])))
    raise AssertionError("no line TCP in /proc/net/sockstat")


def slab():
    """Active objects of the socket caches that are visible (merged caches are not)."""
    found = {}
    try:
        with open("/proc/slabinfo", encoding="ascii") as file:
            for line in file:
                words = line.split()
                if words[0] in SLAB_CACHES:
                    found[words[0]] = int(words[1])
    except OSError:
        pass
    return found


def objects(shrink=True):
    """Slab objects in use, by the name of their cache or by the size of those that kmalloc() returns, and "Slab", what all take in KiB.

    None on the debug kernel: KASAN keeps freed objects in quarantine, where they count as used.
    """
    if ktap.SLOW:
        return None
    found = {}
    with open("/proc/slabinfo", encoding="ascii") as file:
        for line in file if shrink else ():
            name = line.split()[0]
            if name in SLAB_CACHES or name.startswith(("kmalloc-", "skbuff_")) and "reclaim" not in name:
                # What each processor keeps ready counts as used, unless it is given back.
                with contextlib.suppress(OSError), open(f"/sys/kernel/slab/{name}/shrink", "w", encoding="ascii") as shrink:
                    shrink.write("1")
    with open("/proc/slabinfo", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[0].startswith("kmalloc-"):
                size = f"kmalloc {words[3]}"
                found[size] = found.get(size, 0) + int(words[1])
            elif words[0] in SLAB_CACHES or words[0].startswith("skbuff_"):
                found[words[0]] = int(words[1])
    with open("/proc/meminfo", encoding="ascii") as file:
        found["Slab"] = next(int(line.split()[1]) for line in file if line.startswith("Slab:"))
    return found


def check_objects(before, at_work, slack):
    """Fails if some cache has more than `slack` objects above `before`; tells what was there in between (of `objects()` all)."""
    if before is None:
        return
    check_grown = lambda: {
        name: (before.get(name, 0), count)
        for name, count in objects().items()
        if name != "Slab" and not name.startswith("tw_") and count > before.get(name, 0) + slack
    }
    # Some are freed by RCU.
    ktap.until(lambda: not check_grown(), 5, lambda: f"no cache has grown by more than {slack} objects: {check_grown()}", 0.3)
    ktap.note(f"Slab: {before['Slab']} KiB before, {at_work['Slab']} at work, {objects()['Slab']} after")


def own_sockets():
    """Sockets that this process holds: one that was reset stays allocated until it is closed."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:
            pass
    return count


def print_holders():
    """Prints what may still hold a socket: those that are listed, and where each thread of this process is.

    A thread in a system call holds the socket that it was called with, even when its descriptor is closed.
    """
    ktap.note(subprocess.run(["ss", "-tane", "exclude", "time-wait"], capture_output=True, text=True).stdout)
    frames = sys._current_frames()
    for thread in threading.enumerate():
        with open(f"/proc/self/task/{thread.native_id}/stack", encoding="ascii") as file:
            ktap.note(f"{thread.name} in the kernel:\n{file.read()}")
        ktap.note("".join(traceback.format_stack(frames[thread.ident])))


class Baseline:
    """Taken before the work; `check()` compares afterwards."""

    def __init__(self):
        self.tcp = tcp()
        self.own = own_sockets()
        self.slab = slab()

    def check(self, limit=15, slack_sockets=0):
        """Waits until the counts are back at their base, else fails with both."""

        def back():
            now = tcp()
            return (
                now["alloc"] - own_sockets() <= self.tcp["alloc"] - self.own + slack_sockets
                and now["orphan"] <= self.tcp["orphan"]
                and now["mem"] <= self.tcp["mem"] + TCP_MEM_SLACK_PAGES
            )

        try:
            ktap.until(back, limit, "TCP counts back at their base")
        except AssertionError as trouble:
            own = f"this process had {self.own} sockets, now {own_sockets()}"
            print_holders()
            raise AssertionError(f"{trouble}: before {self.tcp}, now {tcp()}; {own}") from None

    def check_slab(self, per_cache):
        """Fails if a socket cache holds more than `per_cache` objects above its base."""
        if ktap.SLOW:
            return  # KASAN keeps freed objects in quarantine, where they count as active
        now = slab()
        grown = {
            name: (self.slab.get(name, 0), count)
            for name, count in now.items()
            if count > self.slab.get(name, 0) + per_cache and not name.startswith("tw_")
        }
        ktap.check(not grown, f"slab caches grew by more than {per_cache} objects: {grown}")
