# SPDX-License-Identifier: GPL-2.0
"""The stack that each function of the module takes for itself: softirq shares one stack with whatever it interrupted.

  objdump -d --no-show-raw-insn MODULE | check_frames.py LIMIT

Prints one line per function above LIMIT bytes, then the largest, and exits 1 if there is any. A frame is what is pushed and
what is subtracted from the stack pointer, anywhere in the function; one that moves the pointer by a variable is refused."""

import re
import sys

FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
PUSH = re.compile(r"\tpush\b")
MOVE = re.compile(r"\t(add|sub) +\$0x([0-9a-f]+),%rsp$")
VARIABLE = re.compile(r"\tsub +%\w+,%rsp$")
# Fewer functions than this, and it was not the module's disassembly.
FEWEST = 100


def frames(lines):
    """Yields (bytes, function) for each; None for a frame whose size is not constant."""
    name, size = None, 0
    for line in lines:
        line = line.rstrip()
        if match := FUNCTION.match(line):
            if name:
                yield size, name
            name, size = match.group(1), 0
        elif size is None:
            continue
        elif PUSH.search(line):
            size += 8
        elif match := MOVE.search(line):
            value = int(match.group(2), 16)
            value -= (value >> 63) << 64
            size += max(value if match.group(1) == "sub" else -value, 0)
        elif VARIABLE.search(line):
            size = None
    if name:
        yield size, name


def main():
    limit = int(sys.argv[1])
    found = list(frames(sys.stdin))
    if len(found) < FEWEST:
        print(f"only {len(found)} functions seen: that is not the module")
        return 1
    status = 0
    for size, name in found:
        if size is None or size > limit:
            status = 1
            print(f"{name}: " + ("a stack frame of variable size" if size is None else f"a stack frame of {size} bytes, {limit} is the limit"))
    size, name = max((size, name) for size, name in found if size is not None)
    print(f"largest of {len(found)} frames: {size} bytes, {name}")
    return status


if __name__ == "__main__":
    sys.exit(main())
