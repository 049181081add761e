# SPDX-License-Identifier: GPL-2.0
"""Which of the kernel's slab caches may refuse memory, where it injects faults."""

import contextlib
import glob

from . import squall

# What the checks of the debug kernel keep their own records in: refused, they switch themselves off.
CHECKERS = ("kmemleak_object", "kmemleak_scan_area", "debug_objects_cache", "kmem_cache", "kmem_cache_node")


def choose_caches():
    """Lets every slab cache fail but those of the kernel's own checks."""
    for path in glob.glob("/sys/kernel/slab/*/failslab"):
        name = path.split("/")[-2]
        with contextlib.suppress(OSError):  # one that is merged with others cannot be chosen
            squall.write(path, 0 if name in CHECKERS else 1)
