#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Loading on a host that has not connected since it was booted, and whose kernel workers are late. Runs first."""

import subprocess
import time

from lib import ktap, rt, squall, wire
from lib.ktap import case, check, equal, until


def active_opens():
    """How often anything has connected by TCP since the boot."""
    with open("/proc/net/snmp", encoding="ascii") as file:
        names, values = [line.split() for line in file if line.startswith("Tcp:")]
    return int(values[names.index("ActiveOpens")])


@case("loading waits until what connect() does once, under a mutex, is patched out by a worker", limit=60)
def patched():
    if active_opens():
        raise ktap.Skip("something has connected since the boot")
    with rt.Hogs():
        # Above the hogs as this process is; the kernel's workers are below them.
        loading = subprocess.Popen(["insmod", squall.MODULE])
        time.sleep(ktap.seconds(2))
        check(active_opens() > 0, "no attempt to connect yet")
        check(loading.poll() is None, "loaded while no worker ran")
    until(lambda: loading.poll() is not None, 20, "the module is loaded")
    equal(loading.returncode, 0, "exit status of insmod")
    squall.load()
    with wire.RawServer(wire.plain_handler(lambda _head, _body: wire.response(b"hello"))) as server, squall.Listener(server) as web:
        with web.connect() as client:
            client.send(wire.request())
            equal(client.read_response()[1], b"hello", "response")


ktap.at_end(squall.unload)
ktap.main()
