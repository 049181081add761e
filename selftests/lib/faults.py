# SPDX-License-Identifier: GPL-2.0
"""Failed allocations, on a kernel with fault injection: those that the module causes in softirq, TCP's on its behalf included."""

import contextlib
import functools
import glob
import os

from . import squall

DEBUG = "/sys/kernel/debug"
FAILSLAB, FAIL_PAGES = f"{DEBUG}/failslab", f"{DEBUG}/fail_page_alloc"
# What the checks of the debug kernel keep their own records in: refused, they switch themselves off.
CHECKERS = ("kmemleak_object", "kmemleak_scan_area", "debug_objects_cache", "kmem_cache", "kmem_cache_node")
# The slab allocator's own words about a page that it did not get.
LOG = r"SLUB: Unable to allocate memory|^\s+cache: |^\s+node \d+: slabs"


def possible():
    """True if this kernel can fail allocations."""
    return os.path.exists(f"{FAILSLAB}/require-start")


def text_range():
    """Addresses of the module's code: (first, end)."""
    with open("/sys/module/squall/sections/.text", encoding="ascii") as file:
        start = int(file.read(), 16)
    with open("/proc/modules", encoding="ascii") as file:
        size = next(int(line.split()[1]) for line in file if line.startswith("squall "))
    return start, start + size


@functools.cache
def choose_caches():
    """Lets every slab cache fail but those of the kernel's own checks. Once: beside traffic it takes many seconds."""
    for path in glob.glob("/sys/kernel/slab/*/failslab"):
        name = path.split("/")[-2]
        with contextlib.suppress(OSError):  # one that is merged with others cannot be chosen
            squall.write(path, 0 if name in CHECKERS else 1)


@contextlib.contextmanager
def injecting(settings, folders=(FAILSLAB,)):
    """While entered, faults are injected by these settings; then they are what they were, "probability" first."""
    before = {}
    try:
        for folder in folders:
            for name, value in settings.items():
                path = f"{folder}/{name}"
                if os.path.exists(path):
                    before[path] = squall.read(path)
                    squall.write(path, value)
        yield
    finally:
        for path in sorted(before, key=lambda path: not path.endswith("/probability")):
            squall.write(path, before[path])


@contextlib.contextmanager
def failing(percent, code=None):
    """While entered, `percent` of the allocations that the module causes in softirq fail; or those below `code`: (first, end)."""
    start, end = code or text_range()
    choose_caches()
    settings = {
        "verbose": 0, "interval": 1, "times": -1, "space": 0, "task-filter": "N", "ignore-gfp-wait": "Y",
        "ignore-gfp-highmem": "Y", "min-order": 0, "cache-filter": "Y", "stacktrace-depth": 32,
        "reject-start": 0, "reject-end": 0, "require-start": start, "require-end": end, "probability": percent,
    }  # fmt: skip
    with injecting(settings, [folder for folder in (FAILSLAB, FAIL_PAGES) if os.path.isdir(folder)]):
        yield


@contextlib.contextmanager
def failing_nth(number):
    """While entered, this thread's `number`th allocation fails that the module makes for it, such as for a file of configfs."""
    choose_caches()
    start, end = text_range()
    settings = {
        "verbose": 0, "ignore-gfp-wait": "N", "cache-filter": "Y", "stacktrace-depth": 32,
        "reject-start": 0, "reject-end": 0, "require-start": start, "require-end": end,
    }  # fmt: skip
    with injecting(settings):
        squall.write("/proc/thread-self/fail-nth", number)
        try:
            yield
        finally:
            squall.write("/proc/thread-self/fail-nth", 0)
