# SPDX-License-Identifier: GPL-2.0
"""Judges the output of one part of the test run and counts: prints a line per failure with what the case told before it, then `counts PASSED FAILED SKIPPED`.

  results.py selftests LOG TEST…        KTAP of the tests, between the marks of tools/guest/selftests
  results.py kunit LOG SUITES CASES     KTAP of KUnit; there must be that many suites and cases
  results.py ktap LOG                   flat KTAP
  results.py cargo LOG                  cargo test

A part that ran fewer tests than it announced has failed, whatever else it says."""

import re
import sys

# So many lines of what a case told before it failed are shown.
DETAILS = 25
RESULT = re.compile(r"( *)(not )?ok (\d+) ?-? ?(.*)$")


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def fail(self, text, details=()):
        self.failed += 1
        print("FAILED " + text)
        for line in details[-DETAILS:]:
            print("  | " + line)

    def ktap(self, where, lines, indent=""):
        """Counts the results at one level of KTAP; returns how many there were."""
        plan = None
        seen = 0
        told = []
        for line in lines:
            if match := re.match(indent + r"1\.\.(\d+)( # SKIP.*)?$", line):
                plan = int(match.group(1))
                if plan == 0:
                    self.skipped += 1
            match = RESULT.match(line)
            if not match or match.group(1) != indent:
                told.append(line)
                continue
            seen += 1
            if match.group(2):
                self.fail(f"{where}: {match.group(4)}", told)
            elif re.search(r"# SKIP\b", match.group(4)):
                self.skipped += 1
            else:
                self.passed += 1
            told.clear()
        if plan is None:
            self.fail(f"{where}: announced no tests")
        elif seen != plan:
            self.fail(f"{where}: announced {plan} tests and ran {seen}")
        return seen


def selftests(counts, lines, tests):
    for test in tests:
        begins = [number for number, line in enumerate(lines) if line == f"# selftest {test} begins"]
        if not begins:
            counts.fail(f"{test}: was not run")
            continue
        section = lines[begins[-1] + 1 :]
        ends = [number for number, line in enumerate(section) if re.match(r"# selftest \S+ (ends|begins)", line)]
        section = section[: ends[0] + 1] if ends else section
        ended = re.match(rf"# selftest {re.escape(test)} ends (\d+)$", section[-1] if section else "")
        before = counts.failed
        counts.ktap(test, section)
        if f"# selftest {test} left the module loaded" in section:
            counts.fail(f"{test}: left the module loaded")
        if not ended:
            counts.fail(f"{test}: the machine died")
        elif ended.group(1) in ("124", "137"):
            counts.fail(f"{test}: took too long")
        elif ended.group(1) not in ("0", "4") and counts.failed == before:
            counts.fail(f"{test}: ended with status {ended.group(1)}")


def kunit(counts, lines, suites, cases):
    inner = [line for line in lines if RESULT.match(line) and RESULT.match(line).group(1)]
    outer = [line for line in lines if RESULT.match(line) and not RESULT.match(line).group(1)]
    for line in inner:
        match = RESULT.match(line)
        if match.group(2):
            counts.fail("kunit: " + match.group(4))
        elif "# SKIP" in line:
            counts.skipped += 1
        else:
            counts.passed += 1
    for line in outer:
        if RESULT.match(line).group(2) and not inner:
            counts.fail("kunit: " + RESULT.match(line).group(4))
    if len(outer) != suites:
        counts.fail(f"kunit: {suites} suites are in the sources, {len(outer)} ran")
    if len(inner) != cases:
        counts.fail(f"kunit: {cases} cases are in the sources, {len(inner)} ran")


def cargo(counts, lines):
    results = 0
    for line in lines:
        if match := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", line):
            results += 1
            counts.passed += int(match.group(1))
            counts.skipped += int(match.group(3))
        elif match := re.match(r"test (.*) \.\.\. FAILED$", line):
            counts.fail("cargo: " + match.group(1))
    if not results or not counts.passed:
        counts.fail("cargo: ran no tests (does it compile?)")


def main():
    kind, log, *rest = sys.argv[1:]
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    counts = Counts()
    if kind == "selftests":
        selftests(counts, lines, rest)
    elif kind == "kunit":
        kunit(counts, lines, int(rest[0]), int(rest[1]))
    elif kind == "ktap":
        counts.ktap(rest[0] if rest else "check", lines)
    elif kind == "cargo":
        cargo(counts, lines)
    else:
        raise SystemExit(__doc__)
    print("counts", counts.passed, counts.failed, counts.skipped)


if __name__ == "__main__":
    main()
