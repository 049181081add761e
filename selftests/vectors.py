#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Every vector on real sockets: what the server received byte for byte, what the client was told, who closed."""

import collections
import re

from lib import ktap, netns, session, squall, vectors
from lib.ktap import case, check, equal
from lib.stage import ANSWER, CLIENT, DATE, REFUSAL, SERVER, Stage, offered_key, switching

DEFAULT_REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

# Shows that a connection is still in sync.
PROBE = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n"
PROBE_OUT = (
    b"GET /probe HTTP/1.1\r\nHost: probe\r\nX-Forwarded-For: 192.0.2.7\r\n"
    b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: probe\r\n\r\n"
)
# How ANSWER and REFUSAL reach the client, and what may be said of its connection.
PROBED = ANSWER[:-2] + b"Date: " + DATE + b"\r\n\r\n"
ANSWERED = re.compile(
    b"(" + re.escape(ANSWER[:-2]) + b"|" + re.escape(REFUSAL[:-2]) + b")"
    rb"(?P<via>Via: 1\.1 squall\r\n)?Date: " + DATE + rb"\r\n(?:Connection: (?P<option>[a-z-]+)\r\n)?\r\n"
)
# A response of the module's own.
OWN = re.compile(
    rb"HTTP/1\.1 (?P<status>\d{3}) [A-Za-z ]+\r\nDate: " + DATE + rb"\r\nContent-Type: text/plain\r\nContent-Length: (?P<length>\d+)\r\n"
    rb"(?P<switch>Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n)?"
    rb"(?P<close>Connection: close\r\n)?\r\n(?P<body>.*)",
    re.DOTALL,
)

# Longer vectors take too many segments to be sent byte by byte.
BYTEWISE_MAX = 2048
# Every so many vectors of a file are sent whole, in two pieces, and byte by byte: KUnit, in the debug kernel, and the host's tests cut all
# of them at every place.
EVERY = {"whole": ktap.scaled(1, 8), "in_two": ktap.scaled(3, 90), "bytewise": ktap.scaled(1, 72)}
# After so many failures the rest of a file is not run: each may take some seconds.
FAILURES_MAX = 8


def same(got, wanted, what):
    """Fails unless the bytes are the same, and shows where they begin to differ."""
    got, wanted = bytes(got), bytes(wanted)
    if got != wanted:
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
        show = lambda data: f"{data[max(at - 30, 0) : at + 90]!r} ({len(data)})"
        raise AssertionError(f"{what} differs at {at}: got {show(got)}, wanted {show(wanted)}")


def probe(stage, client):
    """One more request: exactly it arrives, and its response. Returns the server's end."""
    stage.drain()
    for name in ("forwarded", "via"):
        squall.write(f"{stage.web.directory}/{name}", 0)
    before, seen = len(stage.got), len(client.data)
    stage.answering = True
    lengths = {}
    for end in stage.servers:
        end.answered = lengths[end] = len(end.data)
    client.send(PROBE)
    stage.until(lambda: client.ended or len(client.data) >= seen + len(PROBED), "a response to the request behind it")
    same(client.data[seen:], PROBED, "the response to the request behind it")
    same(stage.got[before:], PROBE_OUT, "the request behind it")
    return next(end for end in stage.servers if len(end.data) > lengths.get(end, 0))


def closes(stage, client):
    """The client's connection ends; all that was sent to the server is there then."""
    stage.until(lambda: client.ended, lambda: f"the client's connection ended; it got {bytes(client.data[-200:])!r}")
    stage.drain()


def arrives(stage, end, length, what):
    """So many bytes arrive, unless the connection ends."""
    stage.until(lambda: end.ended or len(end.data) >= length, lambda: f"{what}: got {bytes(end.data[-300:])!r}")


def is_whole(data, body):
    """A response of the module's own is there to its end."""
    match = OWN.fullmatch(bytes(data))
    return match and (not body or len(match["body"]) >= int(match["length"]))


def check_own(data, status, close, body=True):
    """Exactly one response of the module's own with this status."""
    match = OWN.fullmatch(bytes(data))
    check(match, lambda: f"no response of its own with {status}: {bytes(data[:300])!r}")
    equal(int(match["status"]), status, "status")
    equal(match["close"] is not None, close, "Connection: close in the response")
    equal(match["switch"] is not None, status == 426, "what a 426 says")
    equal(len(match["body"]), int(match["length"]) if body else 0, "length of the body")


def answers(stage, client, events, via):
    """The requests were answered by the server in their order; returns the offset behind the responses."""
    at = 0
    for number, event in enumerate(events):
        arrived = lambda at=at: client.ended or ANSWERED.match(client.data, at)
        stage.until(arrived, lambda at=at, number=number: f"response {number}: got {bytes(client.data[at:])!r}")
        match = ANSWERED.match(client.data, at)
        check(match, lambda at=at, number=number: f"response {number} is {bytes(client.data[at : at + 200])!r}")
        equal(match["option"] == b"close", event.split(" ")[2] == "close", f"Connection: close in response {number}")
        equal(match["via"] is not None, via, f"Via in response {number}")
        at = match.end()
    return at


def run_request(stage, vector, pieces):
    """Sends what a `request` vector says, and what then has to happen has to happen."""
    requests = [event for event in vector.events if event.startswith("request")]
    if requests and requests[-1].endswith(" upgrade"):
        run_offer(stage, vector, pieces, accept=True)
        run_offer(stage, vector, pieces, accept=False)
        return
    out = vector.bytes("out")
    last = vector.events[-1]
    status = int(last.split(" ")[-1]) if last.startswith("error") else None
    # The last request is under way where it has no end.
    partial = (status or last == "need more") and unfinished(vector.events)
    stage.begin(answering=True)
    client = stage.connect()
    try:
        client.send(*pieces)
        if last == "need more":
            stage.until(lambda: len(stage.got) >= len(out), lambda: f"what is there of it: {bytes(stage.got)!r}")
            client.finish_sending()
            status = 400 if partial else None
        at = answers(stage, client, requests[: len(requests) - bool(partial)], bool(vector.text("via")))
        if not status and last != "need more" and requests[-1].split(" ")[2] == "keep":
            same(stage.got, out, "what the server received")
            same(client.data[at:], b"", "what followed the responses")
            probe(stage, client)
            return
        closes(stage, client)
        equal(client.ended, "fin", "how the client's connection ended")
        if status:
            check_own(client.data[at:], status, True, body=requests or not vector.bytes("raw").startswith(b"HEAD "))
        else:
            same(client.data[at:], b"", "what followed the responses")
        if partial:
            cut_off(stage, out)
        else:
            same(stage.got, out, "what the server received")
    finally:
        client.close()


def unfinished(events):
    """The last request among a vector's events has a body, and it does not end."""
    at = max((i for i, event in enumerate(events) if event.startswith("request")), default=None)
    if at is None or events[at].split(" ")[1] == "none":
        return False
    return not any(event.startswith("body") for event in events[at:])


def cut_off(stage, out):
    """What was forwarded of a request may be cut short by a reset, but is no other thing, and not complete."""
    got = bytes(stage.got)
    check(out.startswith(got), lambda: f"the server received {got!r}, no beginning of {out!r}")
    used = [end for end in stage.servers if len(end.data) > end.answered]
    stage.until(lambda: all(end.ended for end in used), "the server's connection ended")
    check(not stage.asked(), "a complete request at the server")


def run_offer(stage, vector, pieces, accept):
    """An offer to upgrade, which the server accepts or refuses."""
    out, (count,) = vector.bytes("out"), vector.numbers("rest")
    rest = vector.bytes("raw")[-count:] if count else b""
    stage.begin(answering=False)
    client = stage.connect()
    try:
        client.send(*pieces)
        stage.until(stage.asked, lambda: f"the offer at the server: {bytes(stage.got)!r}")
        stage.drain()
        same(stage.got, out, "what the server received before it answered")
        (server,) = stage.asked()
        key = offered_key(bytes(server.data[server.answered :]))
        check(key, "what the server received is an offer")
        try:
            if accept:
                accepted(stage, client, server, key, rest)
            else:
                refused(stage, client, server, rest)
        finally:
            server.close()
    finally:
        client.close()


def accepted(stage, client, server, key, rest):
    """The server accepts: what was behind the offer arrives, then bytes flow both ways."""
    before = len(server.data)
    server.send(switching(key) + b"from the server")
    stage.until(
        lambda: client.ended or client.data.endswith(b"from the server"), lambda: f"the tunnel: {bytes(client.data)!r}"
    )
    check(client.data.startswith(b"HTTP/1.1 101 "), lambda: f"no 101: {bytes(client.data)!r}")
    client.send(b"from the client")
    wanted = rest + b"from the client"
    arrives(stage, server, before + len(wanted), "bytes of the client")
    same(server.data[before:], wanted, "what came through the tunnel")


def refused(stage, client, server, rest):
    """The server refuses: what was behind the offer is a request or nothing, and never reaches it as it is."""
    before = server.answered = len(server.data)
    stage.answering = True
    server.send(REFUSAL)
    arrived = lambda: client.ended or ANSWERED.match(client.data)
    stage.until(arrived, lambda: f"the refusal: {bytes(client.data)!r}")
    match = ANSWERED.match(client.data)
    check(match and match[1] == REFUSAL[:-2], lambda: f"no refusal: {bytes(client.data)!r}")
    if not rest and match["option"] is None:
        check(probe(stage, client) is server, "the server's connection was not used again")
        return
    client.finish_sending()
    closes(stage, client)
    check(not rest or not server.data[before:].startswith(rest), "bytes behind a refused offer reached the server")


def run_response(stage, vector, pieces):
    """Lets the server answer with what a `response` vector says."""
    request = vector.bytes("request", DEFAULT_REQUEST)
    final = next((event for event in vector.events if event.split(" ")[2:3] == ["final"]), None)
    stage.begin(answering=False)
    client = stage.connect()
    try:
        client.send(request)
        stage.until(stage.asked, lambda: f"the request at the server: {bytes(stage.got)!r}")
        (server,) = stage.asked()
        server.answered = len(server.data)
        server.send(*pieces)
        if vector.text("close"):
            server.finish_sending()
        if "accepted" in vector.events:
            switched(stage, vector, client, server)
        elif not final:
            not_understood(stage, vector, client, server, request)
        elif vector.events[-1].startswith(("error", "need more")):
            cut_short(stage, vector, client, server, (final, request), len(pieces) == 1)
        else:
            delivered(stage, vector, client, server, final)
    finally:
        client.close()


def switched(stage, vector, client, server):
    """A 101 that accepts the offer."""
    raw, (count,) = vector.bytes("raw"), vector.numbers("rest")
    wanted = vector.bytes("out") + (raw[-count:] if count else b"")
    arrives(stage, client, len(wanted), "the tunnel")
    same(client.data, wanted, "what the client received")
    before = len(server.data)
    client.send(b"from the client")
    arrives(stage, server, before + 15, "bytes of the client")
    same(server.data[before:], b"from the client", "what came through the tunnel")
    server.close()


def not_understood(stage, vector, client, server, request):
    """No final response that could be passed on: interim ones, then our own, and the server's connection ends."""
    out, keep, body = vector.bytes("out"), is_kept(request), not request.startswith(b"HEAD ")
    if vector.events[-1] == "need more":
        arrives(stage, client, len(out), "interim responses")
        server.finish_sending()
    arrived = lambda: client.ended or is_whole(client.data[len(out) :], body)
    stage.until(arrived, lambda: f"a 502: {bytes(client.data)!r}")
    same(client.data[: len(out)], out, "what the client received first")
    check_own(client.data[len(out) :], 502, not keep, body)
    stage.until(lambda: server.ended, "the server's connection ended")
    if keep:
        check(probe(stage, client) is not server, "a connection that was given up is used")
    else:
        closes(stage, client)


def cut_short(stage, vector, client, server, messages, together):
    """A final response that breaks off: with our own if nothing of it has gone out, as where it comes together."""
    out, (final, request) = vector.bytes("out"), messages
    keep, body = is_kept(request), not request.startswith(b"HEAD ")
    if vector.events[-1] != "need more":
        stage.until(lambda: client.ended or is_whole(client.data, body), lambda: f"an end: {bytes(client.data)!r}")
        if is_whole(client.data, body):
            check_own(client.data, 502, not keep, body)
            stage.until(lambda: server.ended, "the server's connection ended")
            if keep:
                check(probe(stage, client) is not server, "a connection that was given up is used")
            return
        # What comes of content is passed on as far as it goes.
        rule = vector.events[-1].split(" ")[1]
        check(not together or rule == "truncated", lambda: f"no 502: {bytes(client.data)!r}, {client.ended}")
    # It is complete only where the end of the connection is its end.
    complete = vector.events[-1] == "need more" and final.split(" ")[3] == "until-close"
    if vector.events[-1] == "need more":
        arrives(stage, client, len(out), "the beginning of the response")
        server.finish_sending()
    closes(stage, client)
    got = bytes(client.data)
    check(out.startswith(got), lambda: f"the client received {got!r}, no beginning of {out!r}")
    equal(client.ended, "fin" if complete else "reset", "how the client's connection ended")
    stage.until(lambda: server.ended, "the server's connection ended")


def delivered(stage, vector, client, server, final):
    """A response that is passed on; the next request then goes where it should."""
    out = vector.bytes("out")
    reuse = final.split(" ")[4] == "keep" and not vector.text("close") and vector.numbers("rest") == [0]
    arrives(stage, client, len(out), "the response")
    if final.removesuffix(" binds").endswith(" keep"):
        same(client.data, out, "what the client received")
        equal(probe(stage, client) is server, reuse, "the server's connection is used again")
    else:
        closes(stage, client)
        same(client.data, out, "what the client received")
        equal(client.ended, "fin", "how the client's connection ended")
    if not reuse:
        if vector.numbers("rest") == [0]:
            # It has said that it closes, and is given the time for it.
            server.finish_sending()
        stage.until(lambda: server.ended, "the server's connection ended")


def is_kept(request):
    """The client goes on using its connection."""
    head = request.partition(b"\r\n\r\n")[0].lower()
    if b"http/1.0" in head.partition(b"\r\n")[0]:
        return b"keep-alive" in head
    return re.search(rb"\r\nconnection:[^\r]*close", head) is None


# The sysctl for each limit of a vector, and the least that it can be set to and the request behind it still passes.
SYSCTLS = {
    "head": ("head_max", 1024), "start_line": ("request_line_max", 64), "field_line": ("field_line_max", 64),
    "fields": ("fields_max", 8), "chunk_line": ("chunk_line_max", 8), "chunk_excess": ("chunk_excess_max", 8),
    "trailers": ("trailers_max", 8), "trailer_fields": ("trailer_fields_max", 0),
}


def settings(vector):
    """The sysctls that a vector needs; None if there are none that do."""
    limits = vector.limits()
    if vector.text("last") or vector.text("client") or "content" in limits:
        return None
    switches = {"ws_strict": 1} if vector.text("strict") else {}
    if vector.kind == "response" and limits.pop("start_line", None) != limits.get("head"):
        return None  # a status line is limited as a head
    if any(value < SYSCTLS[name][1] for name, value in limits.items()):
        return None
    return switches | {SYSCTLS[name][0]: min(value, 256) if name == "fields" else value for name, value in limits.items()}


def whole(raw, _number):
    """All in one segment."""
    return [raw]


def in_two(raw, number):
    """Cut once, at a place that is another one in each vector."""
    place = number * 53 % max(len(raw), 1)
    return [raw[:place], raw[place:]] if place else None


def bytewise(raw, _number):
    """One byte per segment."""
    return [raw[i : i + 1] for i in range(len(raw))] if len(raw) <= BYTEWISE_MAX else None


RUN = {"request": run_request, "response": run_response}


def run_file(name, arrival):
    """Runs the vectors of a file that arrive in some way, or some of them, and tells of all that fail."""
    failures, skipped, fit, count, segments = [], [], 0, 0, 0
    before = squall.module_stats()["entries_softirq"]
    # Contents of any length, as far as the protocol code can count. An idle connection on which something came waits for
    # linger_timeout_ms whether it becomes a response, which is not to be longer than the stage waits.
    with squall.sysctl(body_max_kib=0, linger_timeout_ms=1000), Stage() as stage:
        for number, vector in enumerate(vectors.read(name)):
            if vector.kind not in RUN:
                continue
            values = settings(vector)
            if values is None:
                skipped.append(vector.name)
                continue
            pieces = arrival(vector.bytes("raw"), number)
            if pieces is None:
                continue
            fit += 1
            if (fit - 1) % EVERY[arrival.__name__]:
                continue
            count, segments = count + 1, segments + len(pieces)
            squall.write(f"{stage.web.directory}/trusted", CLIENT if vector.text("trusted") else "")
            for switch in ("forwarded", "via"):
                squall.write(f"{stage.web.directory}/{switch}", int(bool(vector.text(switch))))
            with squall.sysctl(**values):
                try:
                    stage.settled()
                    RUN[vector.kind](stage, vector, pieces)
                    seen = len(stage.got)
                    stage.drain()
                    equal(len(stage.got), seen, "bytes at the server, some of them late")
                except Exception as trouble:  # told with the others
                    state = f"server {stage.web.server_stats()}, listener {stage.web.stats()}"
                    failures.append(f"{vector.name}: {type(trouble).__name__}: {trouble}; {state}")
                    stage.restart()
            if len(failures) >= FAILURES_MAX:
                break
    entries = squall.module_stats()["entries_softirq"] - before
    ktap.note(f"{name}: {count} runs of {number + 1} vectors, in {segments} segments")
    if skipped:
        ktap.note(f"left out are {len(skipped)} whose limits no sysctl sets: {', '.join(skipped)}")
    check(count, "no vector was run")
    check(entries >= segments, f"{segments} segments were sent, but data came {entries} times only: TCP joined them")
    check(not failures, lambda: f"{len(failures)} of {count} runs fail:\n" + "\n".join(failures))


def declare(name):
    """Declares the cases of a file."""
    kinds = collections.Counter(vector.kind for vector in vectors.read(name))
    if not any(kinds[kind] for kind in RUN):
        return
    case(f"{name}: vectors in one segment", limit=60)(lambda: run_file(name, whole))
    case(f"{name}: vectors in two segments", limit=90)(lambda: run_file(name, in_two))
    case(f"{name}: vectors one byte per segment", limit=90)(lambda: run_file(name, bytewise))


@ktap.at_end
def remove_addresses():
    """Takes back what the loopback interface was given."""
    netns.ip(*(f"addr del {address}/32 dev lo" for address in (CLIENT, SERVER[0])))


for ADDRESS in (CLIENT, SERVER[0]):
    netns.ip(
        f"addr add {ADDRESS}/32 dev lo",
        # A window of ten segments would make every few bytes wait for a delayed acknowledgement.
        f"route change local {ADDRESS} dev lo table local proto kernel scope host src {ADDRESS} initcwnd 4000 initrwnd 4000 quickack 1",
    )
for file in vectors.files():
    declare(file)
session.main()
