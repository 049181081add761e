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
    """While entered, calls of functions are recorded: `probes` are {name: "function what=to fetch"}, and those whose name begins
    with `returned` are of a function's return."""

    def __init__(self, events=(), **probes):
        self.probes, self.events = probes, events
        self.instance = f"{TRACING}/instances/squall"
        self.made = []

    def __enter__(self):
        needed()
        os.mkdir(self.instance)
        try:
            squall.write(f"{self.instance}/buffer_size_kb", 4096)
            for name, probe in self.probes.items():
                kind = "r" if name.startswith("returned") else "p"
                squall.write(f"{TRACING}/kprobe_events", f"{kind}:squall/{name} {probe}")
                self.made.append(name)
            for event in [*(f"squall/{name}" for name in self.probes), *self.events]:
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


class Visits(Trace):
    """Records calls of `functions`, some of the module's C functions, within the visits to its connections: the calls that TCP makes when
    bytes have come, and the runs of the BH work."""

    def __init__(self, *functions):
        probes = {f"called{number}": f"squall:{function}" for number, function in enumerate(functions)}
        super().__init__(WORK_EVENTS, **probes, came="tcp_data_ready", returned="tcp_data_ready")

    def most(self):
        """Calls in the visit that had most of them."""
        visits, most = {}, 0
        for cpu, name, _ in self.records():
            if name.startswith("called"):
                visits[cpu] = visits.get(cpu, 0) + 1
                most = max(most, visits[cpu])
            else:
                visits[cpu] = 0
        return most


class Locks(Trace):
    """Records which sockets the module locks itself, and on which it sends."""

    def __init__(self):
        functions = {"waits": "bh_lock_sock", "tries": "bh_trylock_sock", "unlocks": "bh_unlock_sock", "sends": "sk_send"}
        probes = {name: f"squall:squall_{function} sk=%di" for name, function in functions.items()}
        super().__init__(WORK_EVENTS, **probes, returned="squall:squall_bh_trylock_sock sk=$retval:u8")

    def breaches(self):
        """(sends so far, what broke the rules): it waits for a lock in its work only, and with no other lock of its own; and it
        sends on a socket whose lock it has taken itself, which in a callback of that socket it cannot have."""
        running, held, tried, sends, broken = set(), {}, {}, 0, []
        for cpu, name, text in self.records():
            sk, own = text.rpartition("sk=")[2], held.setdefault(cpu, set())
            if name == "workqueue_execute_start" and "[squall]" in text:
                running.add(cpu)
            elif name == "workqueue_execute_end" and "[squall]" in text:
                running.discard(cpu)
            elif name == "unlocks":
                own.discard(sk)
            elif name == "tries":
                tried[cpu] = sk
            elif name == "returned":
                if int(sk, 0) and cpu in tried:
                    own.add(tried.pop(cpu))
            elif name == "waits":
                if own or cpu not in running:
                    broken.append(f"waited for a lock with {len(own)} others, {'in' if cpu in running else 'outside of'} its work")
                own.add(sk)
            elif name == "sends":
                sends += 1
                if sk not in own:
                    broken.append("sent without a lock of its own")
        return sends, broken
