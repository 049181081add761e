# SPDX-License-Identifier: GPL-2.0
"""Keeps user space busy by real-time tasks on every CPU, with this process above them."""

import ctypes
import glob
import mmap
import os
import signal
import struct
import time

from . import ktap

_HOG_PRIORITY, _OWN_PRIORITY = 50, 60
_RT_RUNTIME = "/proc/sys/kernel/sched_rt_runtime_us"
# What the scheduler's own servers lend to ordinary tasks under real-time load.
_FAIR_SERVERS = "/sys/kernel/debug/sched/fair_server/cpu*/runtime"


def _write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{value}\n")


def _read(path):
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _child(body):
    """Forks a child that runs `body()` for ever; its process id."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            body()
        finally:
            os._exit(1)
    return pid


class Hogs:
    """While entered, a SCHED_FIFO busy loop holds each CPU, without throttling; this process is above them."""

    def __init__(self):
        self.children, self.saved = [], []
        # One counter, advanced by an ordinary task on each CPU: the proof that the CPUs are held.
        self.cpus = sorted(os.sched_getaffinity(0))
        self.counters = mmap.mmap(-1, 8 * len(self.cpus))
        self.rate = self.mark = self.entered = None

    def _count(self):
        return sum(struct.unpack_from("Q", self.counters, 8 * i)[0] for i in range(len(self.cpus)))

    def _ordinary(self, index, cpu):
        os.sched_setaffinity(0, {cpu})
        value = 0
        while True:
            value += 1
            struct.pack_into("Q", self.counters, 8 * index, value)

    def _hog(self, cpu):
        os.sched_setaffinity(0, {cpu})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_HOG_PRIORITY))
        while True:
            pass

    def __enter__(self):
        for path in [_RT_RUNTIME, *glob.glob(_FAIR_SERVERS)]:
            self.saved.append((path, _read(path)))
        ordinary = [_child(lambda i=i, c=c: self._ordinary(i, c)) for i, c in enumerate(self.cpus)]
        self.children += ordinary
        before, start = self._count(), time.monotonic()
        time.sleep(ktap.seconds(0.5))
        self.rate = (self._count() - before) / (time.monotonic() - start)
        ktap.check(self.rate > 0, "the ordinary tasks did not run at all")
        _write(_RT_RUNTIME, -1)
        for path, _ in self.saved[1:]:
            _write(path, 0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_OWN_PRIORITY))
            self.children += [_child(lambda c=c: self._hog(c)) for c in self.cpus]
            time.sleep(ktap.seconds(0.3))
            self.mark, self.entered = self._count(), time.monotonic()
        except BaseException:
            self.__exit__()
            raise
        return self

    def ordinary_progress(self):
        """What part of their former speed the ordinary tasks had since the CPUs were taken."""
        took = time.monotonic() - self.entered
        return (self._count() - self.mark) / (self.rate * took)

    def __exit__(self, *_):
        for child in self.children:
            os.kill(child, signal.SIGKILL)
        for child in self.children:
            os.waitpid(child, 0)
        self.children.clear()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        for path, value in self.saved:
            _write(path, value)
