# SPDX-License-Identifier: GPL-2.0
"""What the kernel's own tracing sees: calls of functions, and what is in the structures they are given."""

import contextlib
import os
import re

from . import ktap, squall

TRACING = "/sys/kernel/tracing"
LINE = re.compile(r"\[(\d+)\] .*?: (\w+): (.*)$")
WORK_EVENTS = ("workqueue/workqueue_execute_start", "workqueue/workqueue_execute_end")


def needed():
    """Skips the case where the kernel cannot trace."""
    if not os.path.exists(f"{TRACING}/kprobe_events"):
        raise ktap.Skip("this kernel cannot trace")


class Trace:
    """While entered, calls of functions are recorded: `probes` are {name: "function what=to fetch"}."""

    def __init__(self, events=(), **probes):
        self.probes, self.others = probes, events
        self.instance = f"{TRACING}/instances/squall"
        self.made = []

    def __enter__(self):
        needed()
        os.mkdir(self.instance)
        try:
            squall.write(f"{self.instance}/buffer_size_kb", 4096)
            for name, probe in self.probes.items():
                squall.write(f"{TRACING}/kprobe_events", f"p:squall/{name} {probe}")
                self.made.append(name)
            for event in [*(f"squall/{name}" for name in self.probes), *self.others]:
                squall.write(f"{self.instance}/events/{event}/enable", 1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            squall.write(f"{self.instance}/events/enable", 0)
        os.rmdir(self.instance)
        # Probes in the module keep it in place.
        for name in self.made:
            squall.write(f"{TRACING}/kprobe_events", f"-:squall/{name}")

    def records(self):
        """(CPU, name, what was fetched) of every call so far."""
        with open(f"{self.instance}/trace", encoding="ascii", errors="replace") as file:
            return [match.groups() for match in map(LINE.search, file) if match]


class Works(Trace):
    """Records calls of `function`, one of the module's C functions, within the runs of its BH work."""

    def __init__(self, function):
        super().__init__(WORK_EVENTS, called=f"squall:{function}")

    def calls(self):
        """Calls in each run so far, one number per run that called at all."""
        running, runs = {}, []
        for cpu, name, text in self.records():
            if name == "called" and cpu in running:
                running[cpu] += 1
            elif name == "workqueue_execute_start" and "[squall]" in text:
                running[cpu] = 0
            elif name == "workqueue_execute_end" and "[squall]" in text:
                runs.append(running.pop(cpu, 0))
        return [count for count in runs if count]
