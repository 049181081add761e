#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""README.md's tables of attributes and sysctls are compared with what the module registers."""

import os
import re

from lib import ktap, session, squall
from lib.ktap import case, equal

HERE = os.path.dirname(os.path.abspath(__file__))
# Beside the checkout's selftests, or brought along beside them.
README = next((path for path in (f"{HERE}/../README.md", f"{HERE}/README.md") if os.path.exists(path)), None)


def table(title):
    """Rows of the table below the heading `title`: lists of cells without their backquotes."""
    if README is None:
        raise ktap.Skip("README.md is not beside the selftests")
    with open(README, encoding="utf-8") as file:
        text = file.read()
    section = text.split(f"\n### {title}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


@case("every sysctl is documented with its default, and no other is")
def sysctls():
    documented = {row[0].removeprefix("net.squall."): row[1] for row in table("net.squall.* sysctls")}
    registered = {name: squall.read(f"{squall.SYSCTL}/{name}") for name in os.listdir(squall.SYSCTL)}
    equal(documented, registered, "sysctls and defaults")


@case("sysctls accept the documented range and nothing outside", log="squall.*refused")
def ranges():
    for row in table("net.squall.* sysctls"):
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
    equal({row[0]: (row[1], row[2]) for row in table("Attributes")}, registered, "attributes, defaults and modes")


@case("every counter of the stats files is documented, and no other is")
def counters():
    documented = {}
    for row in table("Counters"):
        for where in re.split(", *", row[1]):
            documented.setdefault(where, set()).add(row[0])
    with squall.Listener("127.0.0.1:9", enable=False) as web:
        registered = {
            "module": set(squall.module_stats()), "listener": set(web.stats()),
            "route": set(web.route_stats()), "server": set(web.server_stats()),
        }
    equal(documented, registered, "counters")


session.main()
