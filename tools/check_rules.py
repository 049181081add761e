# SPDX-License-Identifier: GPL-2.0
"""The rules of the house that no compiler knows: layers, `unsafe`, panics, languages, sizes and heads of files.

Prints one line per offence, `file:line: rule`, and exits 1 if there is any. Run by tools/check."""

import os
import re
import sys

MAX_LINES = 800
SKIPPED_DIRECTORIES = {".git", "build", "target", "__pycache__"}
# Inputs of fuzz targets: any bytes.
CORPUS = "rust/fuzz/corpus"
# Not ours to shorten or to label.
UNLABELLED = {"LICENSE", "Cargo.lock", ".gitignore"}
SOURCE = re.compile(r"\.(rs|c|h|py|sh|js|html|css|toml|config)$|(^|/)(Makefile|Kbuild)$")
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b|\bfor " + r"now\b|not yet " + "implemented")
PANICS = re.compile(r"\.unwrap\(\)|\.expect\(|\b(panic|todo|unimplemented|unreachable)!|\bBUG(_ON)?\(")


def files():
    for directory, directories, names in os.walk("."):
        directories[:] = [
            name
            for name in directories
            if name not in SKIPPED_DIRECTORIES and os.path.join(directory, name)[2:] != CORPUS
        ]
        for name in names:
            yield os.path.join(directory, name)[2:]


def blanked(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def code_of(text):
    """Rust without comments, string and character literals; positions and lines stay."""
    pattern = r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\[^\']+|[^\'\\])\''
    return re.sub(pattern, blanked, text, flags=re.DOTALL)


def without_tests(code):
    """Blanks items under #[cfg(test)] and modules of KUnit suites."""
    result = list(code)
    for match in re.finditer(r"#\[(cfg\(test\)|kunit_tests\([^)]*\)|kernel::macros::kunit_tests\([^)]*\))\]", code):
        opening = code.find("{", match.end())
        end = code.find(";", match.end())
        if opening != -1 and (end == -1 or opening < end):
            depth = 0
            for end in range(opening, len(code)):
                depth += {"{": 1, "}": -1}.get(code[end], 0)
                if depth == 0:
                    break
        for position in range(match.start(), end + 1):
            if result[position] != "\n":
                result[position] = " "
    return "".join(result)


class Check:
    def __init__(self):
        self.offences = []

    def report(self, path, text, position, rule):
        self.offences.append(f"{path}:{text.count(chr(10), 0, position) + 1}: {rule}")

    def forbid(self, path, code, pattern, rule):
        for match in re.finditer(pattern, code):
            self.report(path, code, match.start(), rule)

    def rust(self, path, text):
        code = without_tests(code_of(text))
        layer = re.match(r"rust/(proto|net|proxy)(\.rs|/)", path)
        layer = layer and layer.group(1)
        if not re.match(r"// SPDX[^\n]*\n\s*//! ", text):
            self.offences.append(f"{path}:1: no `//!` head that says what the file is for")
        if layer == "proto":
            self.forbid(path, code, r"\b(kernel|std|alloc|pin_init)::|\bextern\b", "proto uses core alone")
            self.forbid(path, code, r"crate::(?!proto\b|vectors\b|replay\b)\w+", "proto knows no other layer")
        if layer == "net":
            self.forbid(path, code, r"\b(proto|proxy)::", "net knows no other layer")
        if layer == "proxy":
            self.forbid(path, code, r"\bbindings::", "bindings belong to net")
        # Benchmarks on the host: one calls a parser in C to measure it beside ours, one makes a system call that no library
        # of ours knows. No part of the module.
        if layer != "net" and path not in ("tools/parser/src/llhttp.rs", "tools/bench/src/floor.rs"):
            self.forbid(path, code, r"\bunsafe\b", "`unsafe` belongs to rust/net")
        if path in ("rust/proto.rs", "rust/proxy.rs") and "#![forbid(unsafe_code)]" not in text:
            self.offences.append(f"{path}:1: lacks #![forbid(unsafe_code)]")
        if not path.startswith(("rust/tests/", "tools/parser/")):
            self.forbid(path, code, PANICS, "may panic")

    def any(self, path, text):
        script = text.startswith("#!")
        if (script or SOURCE.search(path)) and os.path.basename(path) not in UNLABELLED:
            if "SPDX-License-Identifier: GPL-2.0" not in "\n".join(text.split("\n", 3)[:3]):
                self.offences.append(f"{path}:1: no SPDX line at the top")
            lines = text.count("\n")
            if lines > MAX_LINES:
                self.offences.append(f"{path}:{MAX_LINES}: {lines} lines, {MAX_LINES} is the limit")
        if os.path.basename(path) not in UNLABELLED and not path.startswith("selftests/vectors/"):
            self.forbid(path, text, UNFINISHED, "unfinished work is not left in the tree")
        if path.endswith((".c", ".h", ".S")) and not path.startswith(("rust/net/", "include/")):
            self.offences.append(f"{path}:1: C belongs to rust/net and include")


def main():
    check = Check()
    count = 0
    for path in sorted(files()):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except UnicodeDecodeError:
            continue
        count += 1
        check.any(path, text)
        if path.endswith(".rs"):
            check.rust(path, text)
    for offence in check.offences:
        print(offence)
    if count < 20:
        print(f"only {count} files seen: run this at the top of the checkout")
        return 1
    return 1 if check.offences else 0


if __name__ == "__main__":
    sys.exit(main())
