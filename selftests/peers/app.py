#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A WebSocket application with Python's `websockets`: echo. Usage: app.py HOST PORT"""

import asyncio
import http
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    """Answers each message with itself; a few texts ask for something else."""
    try:
        async for message in connection:
            if isinstance(message, str) and message.startswith("close "):
                await connection.close(int(message[6:]), "as asked")
            elif message == "die":
                connection.transport.abort()
            elif message == "ping me":
                await (await connection.ping(b"from the server"))
                await connection.send("pong from the server")
            elif message == "in fragments":
                await connection.send(iter(["in", " ", "frag", "", "ments"]))
            else:
                await connection.send(message)
    except ConnectionClosed:
        pass


def refuse(connection, request):
    """/refuse/NNN is answered with that status instead of 101."""
    if request.path.startswith("/refuse/"):
        status = http.HTTPStatus(int(request.path.removeprefix("/refuse/")))
        return connection.respond(status, "refused\n")
    return None


def choose(_connection, offered):
    """The newest subprotocol that is offered, or none."""
    return next((name for name in ("chat.v2", "chat.v1") if name in offered), None)


async def main():
    """Serves until killed."""
    options = {"max_size": 32 << 20, "process_request": refuse, "select_subprotocol": choose}
    host, port = sys.argv[1], int(sys.argv[2])
    # Keep-alive pings would disturb tests that stop reading on purpose.
    async with serve(echo, host, port, ping_interval=None, close_timeout=5, **options):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
