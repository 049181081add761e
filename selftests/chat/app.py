#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A small chat: one page and one WebSocket. It knows nothing of Squall. Usage: app.py HOST PORT

The browser sends {"name", "text"}; everybody gets {"name", "text", "time"} and, when somebody comes or
goes, {"people"}. Who comes late gets what was said last.
"""

import asyncio
import collections
import json
import os
import sys
import time

from aiohttp import WSMsgType, web

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html")
# Characters of a name and of a text, and messages that are kept.
NAME_MAX, TEXT_MAX, HISTORY = 24, 2000, 50
# Seconds that one reader may hold up a message before it is dropped.
SEND_TIMEOUT = 10

people = set()
history = collections.deque(maxlen=HISTORY)


async def deliver(reader, message):
    """Sends to one reader; one that does not take it in time is closed."""
    try:
        await asyncio.wait_for(reader.send_str(message), SEND_TIMEOUT)
    except (asyncio.TimeoutError, ConnectionError):
        people.discard(reader)
        await reader.close()


async def broadcast(message):
    """Sends to everybody at once, so that nobody waits for a slow reader."""
    text = json.dumps(message)
    await asyncio.gather(*(deliver(reader, text) for reader in list(people)))


async def tell_people():
    """Says how many are here."""
    await broadcast({"people": len(people)})


def parse(data):
    """A message as it will be sent on; None if it is not one."""
    try:
        said = json.loads(data)
        name, text = said["name"].strip(), said["text"].strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not name or not text or len(name) > NAME_MAX or len(text) > TEXT_MAX:
        return None
    return {"name": name, "text": text, "time": time.time()}


async def chat(request):
    """One participant."""
    socket = web.WebSocketResponse(heartbeat=30, max_msg_size=1 << 16)
    await socket.prepare(request)
    for message in history:
        await socket.send_str(json.dumps(message))
    people.add(socket)
    try:
        await tell_people()
        async for received in socket:
            message = parse(received.data) if received.type == WSMsgType.TEXT else None
            if message is None:
                await socket.close(code=1008, message=b"not a chat message")
                break
            history.append(message)
            await broadcast(message)
    finally:
        people.discard(socket)
        await tell_people()
    return socket


async def page(_request):
    """The page."""
    return web.FileResponse(PAGE, headers={"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-cache"})


async def main():
    """Serves until killed."""
    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/chat", chat)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, sys.argv[1], int(sys.argv[2])).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
