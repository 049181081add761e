#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The tables of Documentation/reference.md are compared with what the module registers."""

import os
import re

from lib import ktap, session, squall
from lib.ktap import case, equal

HERE = os.path.dirname(os.path.abspath(__file__))
# In the checkout, or brought along beside the selftests.
PLACES = (f"{HERE}/../Documentation/reference.md", f"{HERE}/../reference.md")
REFERENCE = next((path for path in PLACES if os.path.exists(path)), None)


def tables(title):
    """Rows of the tables below the heading `title`: lists of cells without their backquotes."""
    if REFERENCE is None:
        raise ktap.Skip("reference.md is not beside the selftests")
    with open(REFERENCE, encoding="utf-8") as file:
        text = file.read()
    level = re.search(f"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    section = re.split(f"^#{{1,{len(level[1])}}} ", text[level.end():], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    # The line before one of dashes is a head.
    heads = {at + step for at, line in enumerate(lines) if line.startswith("|---") for step in (-1, 0)}
    rows = [line.strip("|").split("|") for at, line in enumerate(lines) if at not in heads]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


@case("every sysctl is documented with its default, and no other is")
def sysctls():
    documented = {row[0].removeprefix("net.squall."): row[1] for row in tables("Sysctls")}
    registered = {name: squall.read(f"{squall.SYSCTL}/{name}") for name in os.listdir(squall.SYSCTL)}
    equal(documented, registered, "sysctls and defaults")


@case("sysctls accept the documented range and nothing outside", log="squall.*refused")
def ranges():
    for row in tables("Sysctls"):
        name, default, (low, high) = row[0].removeprefix("net.squall."), row[1], map(int, row[2].split(" to "))
        path = f"{squall.SYSCTL}/{name}"
        for value, good in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
            try:
                squall.write(path, value)
                accepted = True
            except OSError:
                accepted = False
            equal(accepted, good, f"{name} = {value} accepted")
        squall.write(path, default)


def mode(path):
    """"rw" or "ro": the permission bits do not tell, configfs refuses to open what has no way to be written."""
    try:
        os.close(os.open(path, os.O_WRONLY))
        return "rw"
    except PermissionError:
        return "ro"


@case("every attribute is documented with its default and mode, and no other is")
def attributes():
    levels = {"": "", "<listener>/": "/fresh", "<listener>/<route>/": "/fresh/route",
              "<listener>/<route>/<server>/": "/fresh/route/server"}
    registered = {}
    os.makedirs(f"{squall.ROOT}/fresh/route/server")
    try:
        for prefix, below in levels.items():
            for name in os.listdir(squall.ROOT + below):
                path = f"{squall.ROOT}{below}/{name}"
                if os.path.isfile(path):
                    counts = name == "stats" or name.startswith("refused_")
                    registered[prefix + name] = ("" if counts else squall.read(path) or "empty", mode(path))
    finally:
        squall.remove_tree(f"{squall.ROOT}/fresh")
    equal({row[0]: (row[1], row[2]) for row in tables("Files of the configuration")}, registered, "attributes, defaults and modes")


@case("every counter of the stats files is documented, and no other is")
def counters():
    documented = {
        where.split()[-1]: {row[0] for row in tables(f"Counters of {where}")}
        for where in ("the module", "a listener", "a route", "a server")
    }
    with squall.Listener("127.0.0.1:9", enable=False) as web:
        registered = {
            "module": set(squall.module_stats()), "listener": set(web.stats()),
            "route": set(web.route_stats()), "server": set(web.server_stats()),
        }
    equal(documented, registered, "counters")


@case("every protocol error is documented, and no other is")
def errors():
    documented = [row[0] for row in tables("Protocol errors")]
    for file in ("refused_requests", "refused_responses"):
        registered = [line.split()[0] for line in squall.read(f"{squall.ROOT}/{file}").splitlines()]
        equal(documented, registered, file)


session.main()
