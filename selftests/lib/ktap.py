# SPDX-License-Identifier: GPL-2.0
"""KTAP: cases are functions, a case's name is a sentence, and kselftest's exit codes tell the result.

A file of tests declares its cases with @case("sentence") and ends with ktap.main(). Arguments on the
command line choose cases by a part of their sentence. A case fails by any exception, by exceeding its
time limit, or by making the kernel log a line of warning level or worse that it did not announce.
"""

import os
import re
import signal
import sys
import time
import traceback

SLOW = os.environ.get("SQUALL_SLOW", "") not in ("", "0")
# The debug kernel is about ten times slower than the stock one.
TIME_FACTOR = 8 if SLOW else 1
# What a test does by the clock itself, and the time limits that it tries, need not be stretched as much.
PACE = 3 if SLOW else 1
EXIT_PASS, EXIT_FAIL, EXIT_SKIP = 0, 1, 4
# Highest log level (numerically) that counts as a warning: KERN_WARNING.
WARNING_LEVEL = 4
BENIGN_LOG = re.compile(
    "loading out-of-tree module taints kernel|module verification failed|"
    # An emulated processor may be held up by its host for any time.
    r"possible SYN flooding on port|hrtimer: interrupt took \d+ ns"
)

_cases = []
_cleanups = []


class Skip(Exception):
    """Raised by a case (or before the first one) that cannot be run on this machine."""


class TimeLimit(BaseException):
    """The case took too long. Not an Exception, so that no handler in a test swallows it."""


def scaled(stock, slow):
    """A count or size: the first on the stock kernel, the second on the debug kernel."""
    return slow if SLOW else stock


def seconds(stock):
    """A time limit in seconds, stretched on the debug kernel."""
    return stock * TIME_FACTOR


def case(sentence, limit=30, log=None):
    """Declares a case. `limit` is in seconds of the stock kernel; `log` a regex of warnings it causes."""

    def declare(function):
        _cases.append((sentence, function, limit, re.compile(log) if log else None))
        return function

    return declare


def at_end(function):
    """Registers a function to be run after the last case, latest first, whatever happened."""
    _cleanups.append(function)
    return function


def note(text):
    """Prints a diagnostic line."""
    for line in str(text).splitlines():
        print("# " + line, flush=True)


def check(condition, message):
    """Fails the case with `message` unless `condition` holds."""
    if not condition:
        raise AssertionError(message() if callable(message) else message)


def equal(got, wanted, what):
    """Fails the case unless `got` equals `wanted`; long values are shown by their beginning."""
    if got != wanted:
        raise AssertionError(f"{what}: got {_short(got)}, wanted {_short(wanted)}")


def _short(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(value)} long)"


def until(predicate, limit, what, pause=0.02):
    """Waits until `predicate()` is true and returns its value; fails after `limit` (scaled) seconds.

    Looks every `pause` seconds, later on as often as makes it notice by at most a tenth of the time late.
    """
    start = time.monotonic()
    while True:
        value = predicate()
        if value:
            return value
        waited = time.monotonic() - start
        if waited > seconds(limit):
            raise AssertionError(f"still not after {seconds(limit)} s: {what() if callable(what) else what}")
        time.sleep(max(pause, min(waited / 10, 0.5)))


class Clock:
    """Notes how long each part of a case took."""

    def __init__(self):
        self.last = time.monotonic()

    def note(self, what):
        """The part that ends here."""
        now = time.monotonic()
        note(f"{what}: {now - self.last:.1f} s")
        self.last = now


class _KernelLog:
    """Lines of warning level or worse that were logged since the last look."""

    def __init__(self):
        try:
            self.file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self.file, 0, os.SEEK_END)
        except OSError:
            self.file = None

    def lines(self):
        """Every (level, text) logged since the last call."""
        found = []
        while self.file is not None:
            try:
                record = os.read(self.file, 8192).decode(errors="replace")
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # the ring buffer overtook us: go on with what is left
            except OSError:
                break
            head, _, text = record.partition(";")
            level = int(head.split(",")[0])
            # Facility 0 is the kernel; what user space writes to /dev/kmsg is not its warning.
            if level >> 3 == 0:
                found.append((level & 7, text.split("\n")[0]))
        return found


_log = _KernelLog()


def kernel_lines():
    """Texts the kernel logged since the last look (the case takes responsibility for them)."""
    return [text for _, text in _log.lines()]


def _warnings(allowed):
    return [
        text
        for level, text in _log.lines()
        if level <= WARNING_LEVEL
        and not BENIGN_LOG.search(text)
        and not (allowed and allowed.search(text))
    ]


def _alarm(_signal, _frame):
    raise TimeLimit()


def _run(function, limit, allowed):
    """Runs one case: (result, reason)."""
    _log.lines()
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds(limit))
    try:
        function()
    except Skip as reason:
        return "skip", str(reason)
    except TimeLimit:
        return "fail", f"exceeded {seconds(limit)} s\n" + traceback.format_exc(limit=-6)
    except Exception:  # any failure of a case is a result to be reported
        return "fail", traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    warnings = _warnings(allowed)
    if warnings:
        return "fail", "the kernel logged:\n" + "\n".join(warnings[:40])
    return "ok", ""


def main(setup=None, always=None):
    """Runs the declared cases and exits as kselftest expects; `always` is run whatever was chosen."""
    words = [word.lower() for word in sys.argv[1:]]
    cases = [c for c in _cases if not words or c[1] is always or any(w in c[0].lower() for w in words)]
    print("KTAP version 1", flush=True)
    counts = {"ok": 0, "fail": 0, "skip": 0}
    try:
        if setup:
            setup()
        print(f"1..{len(cases)}", flush=True)
        for number, (sentence, function, limit, allowed) in enumerate(cases, 1):
            start = time.monotonic()
            result, reason = _run(function, limit, allowed)
            counts[result] += 1
            if result == "fail":
                note(reason)
            line = f"{'not ok' if result == 'fail' else 'ok'} {number} {sentence}"
            if result == "skip":
                line += f" # SKIP {reason}"
            print(line, flush=True)
            note(f"took {time.monotonic() - start:.1f} s")
    except Skip as reason:
        print(f"1..0 # SKIP {reason}", flush=True)
        counts["skip"] += 1
    finally:
        for cleanup in reversed(_cleanups):
            try:
                cleanup()
            except Exception:  # cleaning up goes on; the trouble is counted
                note(traceback.format_exc(limit=-4))
                counts["fail"] += 1
    note(f"Totals: pass:{counts['ok']} fail:{counts['fail']} skip:{counts['skip']}")
    # Peers' threads may be blocked in a read: do not wait for them.
    sys.stdout.flush()
    if counts["fail"]:
        os._exit(EXIT_FAIL)
    os._exit(EXIT_PASS if counts["ok"] else EXIT_SKIP)
