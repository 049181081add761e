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
# The groups of rust/proxy, as the picture in Documentation/architecture.md has them: a group imports from those below it.
GROUPS = (
    {"config"},
    {"downstream", "upstream", "tunnel", "health"},
    {"log"},
    {"site", "router", "route"},
    {"pool", "record", "admission", "access", "network"},
    {"drain", "settings", "reading", "body", "limits"},
)
# What goes against the order, with its reason on that page. All but admission import session, and session imports all.
AGAINST = {("pool", "upstream"), ("admission", "site"), ("admission", "route")}
# The order of rust/proto, as the head of rust/proto.rs has it: a module imports from those before it.
PROTO = (
    "error span field auth head sticky message connection target canonical trie ws request response h1 frame".split()
)
PROTO_AGAINST = {("head", "message"), ("ws", "response")}
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


def flat(tree, prefix=""):
    """The paths in a tree of `use`."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(tree + ","):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("".join(tree[start:position].split()))
            start = position + 1
    for part in filter(None, parts):
        head, brace, rest = part.partition("{")
        if brace:
            yield from flat(rest[: rest.rindex("}")], prefix + head)
        else:
            yield prefix + part


def imports(layer, path, code):
    """The modules of a layer that a file there imports: their names, without what is below them."""
    here = path.removeprefix("rust/").removesuffix(".rs").split("/")
    for match in re.finditer(r"\buse\s+([^;]+);", code):
        for name in flat(match.group(1)):
            parts = name.split("::")
            base = here if parts[0] in ("self", "super") else []
            while parts and parts[0] in ("crate", "self", "super"):
                base = base[:-1] if parts.pop(0) == "super" else base
            full = base + parts
            if full[:1] == [layer] and len(full) > 1 and full[1].islower():
                yield match.start(), full[1]


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
        if path.startswith("rust/proto/"):
            self.proto_order(path, code)
        if path.startswith("rust/proxy/"):
            self.order(path, code)
        if path in ("rust/proto.rs", "rust/proxy.rs") and "#![forbid(unsafe_code)]" not in text:
            self.offences.append(f"{path}:1: lacks #![forbid(unsafe_code)]")
        if not path.startswith(("rust/tests/", "tools/parser/")):
            self.forbid(path, code, PANICS, "may panic")

    def order(self, path, code):
        """The arrows between the modules of rust/proxy."""
        group = {name: place for place, names in enumerate(GROUPS) for name in names}
        here = path.split("/")[2].removesuffix(".rs")
        if here != "session" and here not in group:
            self.offences.append(f"{path}:1: has no group; add it to GROUPS here and to Documentation/architecture.md")
        for position, name in imports("proxy", path, code):
            if here not in group or name not in group or (here, name) in AGAINST:
                if (here, name) == ("admission", "session"):
                    self.report(path, code, position, "admission does not import session")
            elif group[name] < group[here]:
                self.report(path, code, position, f"{here} imports {name}, which is above it in Documentation/architecture.md")

    def proto_order(self, path, code):
        here = path.split("/")[2].removesuffix(".rs")
        for position, name in imports("proto", path, code):
            if here in PROTO and name in PROTO and (here, name) not in PROTO_AGAINST and PROTO.index(name) > PROTO.index(here):
                self.report(path, code, position, f"{here} imports {name}, which is behind it in the head of rust/proto.rs")

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
