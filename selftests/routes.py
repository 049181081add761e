#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which route a request takes, by its host and path; what configuration may do to routes; what each sets for itself."""

import contextlib
import errno
import os
import random
import threading
import time

from lib import faults, ktap, session, squall, wire, ws
from lib.ktap import case, check, equal, until

REFUSED = "squall.*refused"
ROUTES_MAX = 1024


def named(name):
    """A server that answers with its name and the request line it got, and whose tunnels greet with its name."""

    def handler(peer, _number):
        while True:
            head = peer.read_head()
            if head.get("Upgrade"):
                peer.send(ws.switching(head) + ws.frame(name.encode()))
                while data := peer.buffer or peer.sock.recv(1 << 16):
                    peer.buffer = b""
                    peer.send(data)
                return
            peer.read_body(head)
            peer.send(wire.response(f"{name} {head.start}".encode()))

    return wire.RawServer(handler)


class Web(squall.Listener):
    """A listener with these routes only: name = (host, path) or (host, path, server)."""

    def __init__(self, **routes):
        super().__init__()
        self.routes = routes

    def __enter__(self):
        super().__enter__()
        try:
            os.rmdir(self.route(squall.ROUTE))
            for name, key in self.routes.items():
                self.add(name, *key)
        except BaseException:
            self.__exit__()
            raise
        return self

    def route(self, name):
        """The directory of a route."""
        return f"{self.directory}/{name}"

    def add(self, name, host="", path="/", server=None):
        """Makes a route."""
        os.mkdir(self.route(name))
        self.set(name, "host", f"{host} {path}")
        if server:
            os.mkdir(f"{self.route(name)}/s")
            squall.write(f"{self.route(name)}/s/connections", 1)
            squall.write(f"{self.route(name)}/s/address", server.address)

    def remove(self, name):
        """Removes a route with its servers."""
        squall.remove_tree(self.route(name))

    def set(self, name, attribute, value):
        """Writes a file of a route."""
        squall.write(f"{self.route(name)}/{attribute}", value)

    def refuses(self, name, attribute, value, error):
        """The value is refused with this errno and changes nothing."""
        before = self.key(name)
        try:
            self.set(name, attribute, value)
        except OSError as refusal:
            equal(errno.errorcode[refusal.errno], errno.errorcode[error], f"{attribute} {value!r}")
        else:
            raise AssertionError(f"{attribute} {value!r} was accepted")
        equal(self.key(name), before, f"host and path after the refused {attribute} {value!r}")

    def key(self, name):
        """Host and path of a route."""
        return squall.read(f"{self.route(name)}/host"), squall.read(f"{self.route(name)}/path")

    def counts(self, name):
        """The counters of a route."""
        return squall.read_stats(self.route(name))

    def placed(self, *names):
        """Those of the routes that are placed."""
        return [name for name in names if self.counts(name)["placed"]]

    @contextlib.contextmanager
    def served(self, **keys):
        """Adds routes, each with a server that says its name; waits until they have connections."""
        with contextlib.ExitStack() as stack:
            for name, key in keys.items():
                self.add(name, *key, stack.enter_context(named(name)))
            for name in keys:
                ready = lambda name=name: squall.read_stats(f"{self.route(name)}/s")["idle"]
                until(ready, 10, f"a connection for {name}")
            yield self


def head_of(target="/", host="test", method="GET", version="1.1"):
    """A request's bytes; no Host field if `host` is None."""
    field = f"Host: {host}\r\n" if host is not None else ""
    return f"{method} {target} HTTP/{version}\r\n{field}\r\n".encode()


class Client:
    """Asks one request after the other, on one connection as long as that goes on."""

    def __init__(self, web):
        self.web, self.wire = web, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.wire:
            self.wire.close()

    def ask(self, *args, **options):
        """The body of a 200, else the status."""
        self.wire = self.wire or self.web.connect()
        self.wire.send(head_of(*args, **options))
        head, body = self.wire.read_response(options.get("method", "GET"))
        if head.get("Connection") == "close" or options.get("version") == "1.0":
            check(self.wire.ended(), "the connection goes on")
            self.wire.close()
            self.wire = None
        return body.decode() if head.status == 200 else head.status

    def who(self, *args, **options):
        """The name of the server that answers, else the status."""
        answer = self.ask(*args, **options)
        return answer.split(" ")[0] if isinstance(answer, str) else answer


def table(web, cases):
    """Every case is answered by the server it names, or with its status."""
    with Client(web) as client:
        for target, host, wanted in cases:
            equal(client.who(target, host), wanted, f"who answers {target} of {host}")


HOSTS = {
    "any": ("", "/"),
    "anyapi": ("", "/api"),
    "exact": ("example.com", "/"),
    "exactapi": ("Example.COM", "/api"),
    "exactslash": ("example.com", "/api/"),
    "deep": ("example.com.", "/api/v1/x"),
    "wild": ("*.example.com", "/"),
    "wildw": ("*.example.com", "/w"),
    "inner": ("*.b.example.com", "/only"),
    "leaf": ("a.b.example.com", "/leaf"),
    "net": ("*.net", "/net"),
    "v6": ("[2001:db8::1]", "/"),
    "v6odd": ("[2e2e::2e]", "/"),
    "v4": ("192.0.2.7", "/"),
}


@case("the most specific host comes first, then the longest path of whole segments; then the next less specific host")
def precedence():
    with Web() as web, web.served(**HOSTS):
        table(web, [
            ("/", "unknown.org", "any"), ("/x", "unknown.org", "any"), ("/api", "unknown.org", "anyapi"),
            ("/apix", "unknown.org", "any"), ("/api/x", "unknown.org", "anyapi"), ("/API", "unknown.org", "any"),
            # Whole segments, and a query.
            ("/", "example.com", "exact"), ("/ap", "example.com", "exact"), ("/api", "example.com", "exactapi"),
            ("/api?x=/api/", "example.com", "exactapi"), ("/apix", "example.com", "exact"),
            ("/api-x/", "example.com", "exact"), ("/api/", "example.com", "exactslash"),
            ("/api/x", "example.com", "exactslash"), ("/api/?x", "example.com", "exactslash"),
            ("/api/v1", "example.com", "exactslash"), ("/api/v1/x", "example.com", "deep"),
            ("/api/v1/xy", "example.com", "exactslash"), ("/api/v1/x/y?z", "example.com", "deep"),
            ("/?/api", "example.com", "exact"), ("/x/api", "example.com", "exact"),
            # Case, port and a dot at the end.
            ("/", "EXAMPLE.com", "exact"), ("/", "example.com:81", "exact"), ("/api", "eXample.com.:81", "exactapi"),
            ("/", "example.com.", "exact"), ("/", "%65xample.com", "exact"), ("/", "example.com..", "any"),
            ("/", "xexample.com", "any"), ("/", "example.comx", "any"), ("/", "com", "any"), ("/", "e", "any"),
            # A wildcard stands for one label or more, never for none.
            ("/", "x.example.com", "wild"), ("/", "X.y.z.EXAMPLE.com.:5", "wild"), ("/w/1", "x.example.com", "wildw"),
            ("/wx", "x.example.com", "wild"), ("/api", "x.example.com", "wild"), ("/", ".example.com", "any"),
            ("/", "x..example.com", "any"), ("/", "x.example.com.example.org", "any"),
            # What none of a host's paths fits is tried with less specific ones, in their order.
            ("/leaf", "a.b.example.com", "leaf"), ("/only", "a.b.example.com", "inner"), ("/w", "a.b.example.com", "wildw"),
            ("/leafs", "a.b.example.com", "wild"), ("/leaf", "c.b.example.com", "wild"), ("/only", "b.example.com", "wild"),
            ("/only/1", "z.a.b.example.com", "inner"), ("/net", "x.net", "net"), ("/netx", "x.net", "any"),
            ("/api/net", "x.net", "anyapi"), ("/net", "net", "any"),
            # Addresses.
            ("/", "192.0.2.7", "v4"), ("/", "192.0.2.7:80", "v4"), ("/", "192.0.2.77", "any"), ("/", "x.192.0.2.7", "any"),
            ("/", "[2001:db8::1]", "v6"), ("/", "[2001:DB8:0:0::0.0.0.1]:8080", "v6"), ("/", "[2001:db8::2]", "any"),
            ("/", "[2e2e::2e]", "v6odd"), ("/", "[2e2e:0::2e]:1", "v6odd"), ("/", "[2e2e::2f]", "any"),
            # The target's host counts, not the field's.
            ("http://example.com/api", "x.net", "exactapi"), ("HTTP://X.example.com:1/w?q", "example.com", "wildw"),
            ("ws://example.com", "x", "exact"), ("http://example.com?/api", "x", "exact"),
            ("http://[2001:db8::1]", "x", "v6"),
            # Names longer than a name can be are no host's.
            ("/", "a." * 121 + "example.com", "wild"), ("/", "ab." + "a." * 120 + "example.com", "any"),
            ("/", "a" * 5000 + ".example.com", "any"),
        ])
        with Client(web) as client:
            equal(client.who("/", None, version="1.0"), "any", "who answers a request without a host")
            equal(client.who("/api", None, version="1.0"), "anyapi", "who answers a request without a host")
            equal(client.who("*", "example.com", method="OPTIONS"), "exact", "who answers OPTIONS *")
            equal(client.who("http://example.com", "x", method="OPTIONS"), "exact", "who answers OPTIONS of a URI")
            equal(client.who("http://example.com/api/", "x", method="OPTIONS"), "exactslash", "who answers OPTIONS")


@case("a host is told across segments of one byte")
def bytewise():
    with Web() as web, web.served(one=("*.one", "/a/b"), other=("", "/")) as web, web.connect() as client:
        for target, host, wanted in (("/a/b/c", "x.y.one", b"one"), ("/a/%62", "X.one.:1", b"one"), ("/a/bc", "x.one", b"other")):
            client.send_bytewise(head_of(target, host))
            equal(client.read_response()[1].split(b" ")[0], wanted, f"who answers {target} of {host}")


PATHS = {"root": ("", "/"), "admin": ("", "/admin"), "cafe": ("", "/caf%C3%A9"), "pub": ("x", "/pub/"), "whole": ("y", "/")}


@case("what a server may read as a path goes that path's way, and is forwarded as it came")
def generous_paths():
    ways = [
        "/admin", "/%61dmin", "/%61%64%6D%69%6e/x", "//admin", "///admin//x", "/admin%2Fx", "/%2fadmin", "/admin%5cx", "/admin\\x",
        "/\\admin", "/admin;v=1", "/admin;v=1;w/x?y", "/;x/admin", "/admin//", "/admin/...", "/admin/..x/.y", "/admin/%2e%2e%2e",
    ]
    others = ["/admin%3Bx", "/admi", "/admin%2525", "/%2561dmin", "/x//admin", "/Admin", "/;admin", "/ad%20min", "/admin%3f"]
    with Web() as web, web.served(**PATHS), Client(web) as client:
        for target, name in [(way, "admin") for way in ways] + [(other, "root") for other in others] + [
            ("/caf%c3%a9", "cafe"), ("/caf%C3%A9/x", "cafe"), ("/caf%C3", "root"),
        ]:
            equal(client.ask(target), f"{name} GET {target} HTTP/1.1", f"answer to {target}")


@case("where a path decides, one with dot segments, NUL or bad percent signs is refused, and nothing of it forwarded")
def dot_segments():
    bad = [
        "/pub/../admin", "/pub/..", "/.", "/pub/./x", "/./admin", "/pub/%2e%2e/admin", "/pub/.%2E/admin", "/pub/..%2fadmin",
        "/pub%2f..%2fadmin", "/pub/..\\admin", "/pub/..%5Cadmin", "/pub/..;/admin", "/pub/..;x=1/admin", "/pub/.;", "/admin%00",
        "/pub/%", "/pub/%4", "/pub/%4g/x", "/admin/x/..?q", "http://x/pub/../admin",
    ]
    with Web() as web, web.served(**PATHS), Client(web) as client:
        names = list(PATHS)
        rule = lambda: dict(line.split() for line in squall.read(f"{squall.ROOT}/refused_requests").splitlines())["bad_path"]
        before, refused = {name: web.counts(name)["requests"] for name in names}, int(rule())
        for target in bad:
            for host in ("test", "x"):
                equal(client.ask(target, host), 400, f"answer to {target} of {host}")
        equal({name: web.counts(name)["requests"] for name in names}, before, "requests of the routes")
        equal(int(rule()) - refused, 2 * len(bad), "bad_path")
        for target in ("/x?/../", "/...", "/pub/x?a=%", "/pub/.x/..y/z."):
            equal(client.ask(target, "x"), f"{'pub' if target.startswith('/pub') else 'root'} GET {target} HTTP/1.1", "answer")
        # A host that has but one path, /, is for whatever comes.
        for target in bad[:-1]:
            equal(client.ask(target, "y"), f"whole GET {target} HTTP/1.1", f"answer to {target} of y")


@case("what no route takes is answered with 404, behind which the connection goes on if it may")
def not_found():
    with Web() as web, web.served(one=("example.com", "/a")), web.connect() as client:
        before = squall.module_stats()
        client.send(head_of("/a", "example.com") + head_of("/b", "example.com") + head_of("/a", "other") + head_of("/a", "example.com"))
        equal([client.read_response()[0].status for _ in range(4)], [200, 404, 404, 200], "statuses in a row")
        client.send(head_of("/", method="HEAD"))
        head = client.read_head()
        equal((head.status, head.get("Content-Length"), head.get("Connection")), (404, "14", None), "answer to HEAD")
        check(client.silent_for(0.2), "a body of HEAD")
        client.send(ws.offer())
        equal(client.read_response()[1], b"404 Not Found\n", "answer to an offer")
        client.send(head_of("*", method="OPTIONS", host="example.com"))
        equal(client.read_response()[0].status, 404, "answer to OPTIONS *")
        client.send(wire.request("/", "POST", body=b"x" * 10))
        head = client.read_response()[0]
        equal((head.status, head.get("Connection")), (404, "close"), "answer to a request with a body")
        check(client.ended(), "the connection goes on behind a body that was not read")
        with Client(web) as other:
            equal(other.ask("/a", None, version="1.0"), 404, "answer to a request without a host")
        with web.connect() as other:
            other.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            equal(other.read_response()[0].get("Connection"), "close", "Connection field")
            check(other.ended(), "the connection goes on behind Connection: close")
        after, stats = squall.module_stats(), web.stats()
        equal(after["no_route"] - before["no_route"], 8, "no_route of the module")
        equal(after["error_responses"] - before["error_responses"], 8, "error_responses")
        equal((stats["no_route"], stats["requests"]), (8, 10), "no_route and requests of the listener")
        equal(web.counts("one")["requests"], 2, "requests of the route")


@case("a listener without a route answers 404, and serves as soon as it has one")
def no_route():
    with Web() as web, Client(web) as client:
        equal(client.ask(), 404, "answer without a route")
        with web.served(one=("", "/")):
            equal(client.who(), "one", "who answers with a route")
            web.remove("one")
        equal(client.ask(), 404, "answer after the route was removed")


@case("hosts and paths that no request could have are refused", log=REFUSED)
def syntax():
    with Web(one=("example.com", "/x")) as web:
        for host in ("*", "*.", "*.*.com", "x.*", "a..b", ".a", "a:80", "a/b", "a b", "[::1", "[::1]:80", "[::g]", "[1.2.3.4]", "::1", "*.[::1]",
                     "a%41", "a,b", "ä", "x" * 64 + ".com", "a." * 126 + "ab", ".", "..", "example.com x", "example.com /a /b", "/a/../b"):
            web.refuses("one", "host", host, errno.EINVAL)
        for path in ("", "x", "*", "x/y", "//", "/a//b", "/./a", "/a/..", "/%2e", "/a?b", "/a#b", "/a;b", "/a\\b", "/a b", "/a%", "/a%0", "/a%00",
                     "/a%2fb", "/a%5Cb", "/ä", "/" + "a" * 1024, "/a\tb", '/"', "/<"):
            web.refuses("one", "path", path, errno.EINVAL)
        ktap.kernel_lines()
        web.refuses("one", "path", "nonsense", errno.EINVAL)
        check(any("one/path: 'nonsense' refused" in line for line in ktap.kernel_lines()), "no line in the log that names the value")
        for host in ("", "a", "*.a", "A.b-c_d.", "[::]", "192.0.2.1", "x" * 63 + ".com", "a." * 126 + "a", "*." + "a." * 126 + "a"):
            web.set("one", "host", host)
            equal(web.key("one"), (host, "/x"), "host and path")
        for path in ("/", "/a", "/a/", "/a.b/~c_d-e/f", "/%7Ea/%20", "/a:b@c!$&'()*+,=|", "/" + "a" * 1023):
            web.set("one", "path", path)
            equal(web.key("one")[1], path, "path")
        for text, key in (("b.com  /y", ("b.com", "/y")), ("/z", ("", "/z")), ("*.c /", ("*.c", "/")), ("d", ("d", "/"))):
            web.set("one", "host", text)
            equal(web.key("one"), key, f"host and path after {text!r}")


@case("no two routes of a listener have the same host and path, however they are written", log=REFUSED)
def duplicates():
    keys = {"a": ("example.com", "/x"), "b": ("[::1]", "/"), "c": ("*.a.b", "/%41"), "d": ("", "/")}
    with Web(**keys) as web, Web(**keys) as other:
        web.add("new", "new", "/x")
        for text in ("example.com", "EXAMPLE.com.", "%s /%%78" % "example.com", "[0::1] /", "*.A.b /A", "/"):
            web.refuses("new", "host", text, errno.EEXIST)
        web.set("new", "host", "example.com /y")
        web.refuses("new", "path", "/x", errno.EEXIST)
        web.refuses("new", "path", "/%78", errno.EEXIST)
        for name, key in keys.items():
            equal((web.key(name), other.key(name)), (key, key), f"host and path of {name}")
        web.set("new", "path", "/%79")
        equal(web.key("new"), ("example.com", "/%79"), "the same key in other words")
        for path in ("/x/", "/X", "/xy"):
            web.set("new", "path", path)
        equal(web.placed(*keys, "new"), [*keys, "new"], "placed routes")
        web.remove("a")
        web.set("new", "path", "/x")


@case("a new route whose key is taken is not placed, and is when it gets another or the key is free", log=REFUSED)
def unplaced():
    with Web() as web, web.served(one=("", "/")), Client(web) as client:
        for name in ("two", "three", "four"):
            os.mkdir(web.route(name))
            equal(web.key(name), ("", "/"), "key of a new route")
        equal(web.placed("one", "two", "three", "four"), ["one"], "placed routes")
        equal(client.who(), "one", "who answers")
        # Its own key, taken by another or not, is none that it cannot have.
        for name in ("one", "two"):
            web.set(name, "path", "/")
            web.set(name, "host", "")
        equal(web.placed("one", "two", "three", "four"), ["one"], "placed routes after writing the key that was there")
        web.set("three", "path", "/three")
        equal(web.placed("one", "two", "three", "four"), ["one", "three"], "placed routes, one with another key")
        equal([client.ask(target) for target in ("/three", "/")], [503, "one GET / HTTP/1.1"], "answers")
        web.refuses("three", "path", "/", errno.EEXIST)
        web.set("one", "host", "one")
        equal(web.placed("one", "two", "three", "four"), ["one", "two", "three"], "placed routes, the key free")
        equal([client.ask("/", host) for host in ("x", "one")], [503, "one GET / HTTP/1.1"], "answers")
        web.refuses("one", "host", "", errno.EEXIST)
        web.remove("two")
        equal(web.placed("one", "three", "four"), ["one", "three", "four"], "placed routes, the first one removed")
        web.remove("four")
        equal(client.ask(), 404, "answer when nobody has the key")
        web.set("one", "host", "")
        equal(client.who(), "one", "who answers")


@case("while routes change, tunnels and exchanges stay with theirs and requests are answered by one that has their key", limit=60)
def changes():
    go_on, trouble = threading.Event(), []

    def slow(peer, _number):
        peer.read_head()
        go_on.wait(ktap.seconds(20))
        peer.send(wire.response(b"late"))

    def requests(web, done):
        try:
            with Client(web) as client:
                while not done.is_set():
                    for target, wanted in (("/", {"root"}), ("/move/x", {"root", "move"}), ("/rest", {"rest"})):
                        got = client.who(target, "stay" if target != "/rest" else "nobody")
                        check(got in wanted, f"{target} was answered by {got}")
                        done.asked += 1
        except (AssertionError, OSError) as failure:
            trouble.append(failure)

        # One has the key that all routes begin with, so that a new one gets nothing before it has its own.
    keys = {"root": ("stay", "/"), "move": ("stay", "/move"), "tunnel": ("tun", "/"), "rest": ("", "/")}
    with wire.RawServer(slow) as late, Web() as web, web.served(**keys):
        web.add("slow", "slow", "/", late)
        done = threading.Event()
        done.asked = 0
        with web.connect() as tunnel, web.connect() as waiting:
            tunnel.send(ws.offer().replace(b"Host: test", b"Host: tun"))
            equal(tunnel.read_head().status, 101, "status")
            equal(tunnel.read(8), ws.frame(b"tunnel"), "greeting")
            waiting.send(head_of("/", "slow"))
            until(lambda: squall.read_stats(f"{web.route('slow')}/s")["busy"] == 1, 10, "the slow request is with its server")
            thread = threading.Thread(target=requests, args=(web, done))
            thread.start()
            rounds = ktap.scaled(100, 25)
            for number in range(rounds):
                web.set("move", "path", "/move" if number % 2 else f"/elsewhere{number}")
                web.add(f"r{number}", f"h{number}", "/x")
                if number == rounds // 2:
                    still = ws.frame(b"still here", masked=True)
                    tunnel.send(still)
                    equal(tunnel.read(len(still)), still, "echo before the route is removed")
                    web.remove("tunnel")
                    web.set("slow", "host", "moved")
                    equal(ws.read_close(tunnel, masked=False), 1001, "status code after the route was removed")
                if number >= 10:
                    os.rmdir(web.route(f"r{number - 10}"))
            asked = done.asked
            until(lambda: done.asked > asked + 10 or trouble, 10, "requests go on")
            done.set()
            thread.join()
            check(not trouble, lambda: str(trouble[0]))
            ktap.note(f"{done.asked} requests during {4 * rounds} changes")
            go_on.set()
            equal(waiting.read_response()[1], b"late", "answer of the slow server, whose route has moved")
            with Client(web) as client:
                equal([client.who("/", host) for host in ("tun", "slow")], ["rest", "rest"], "who answers where the routes were")


@case("offers to upgrade take their routes by path, with plain requests beside them")
def upgrades():
    with Web() as web, web.served(chat=("", "/chat"), feed=("", "/feed"), plain=("", "/")), contextlib.ExitStack() as stack:
        for target, name in (("/chat?room=1", b"chat"), ("/feed/x", b"feed"), ("/chat/", b"chat"), ("/other", b"plain")):
            client = stack.enter_context(web.connect())
            client.send(ws.offer(target))
            equal(client.read_head().status, 101, f"status of {target}")
            equal(client.read(2 + len(name)), ws.frame(name), f"who has the tunnel of {target}")
            client.send(b"echo")
            equal(client.read(4), b"echo", "echo")
        equal([web.counts(name)["requests"] for name in ("chat", "feed", "plain")], [2, 1, 1], "requests of the routes")
        with Client(web) as client:
            equal(client.who("/chatter"), "plain", "who answers a plain request")


MANY = ktap.scaled(ROUTES_MAX, 96)


@case(f"of {MANY} routes each is found, and a listener has {ROUTES_MAX} at most", log=REFUSED, limit=60)
def many():
    numbers = random.Random(5)
    # Hosts that share their ends and paths that share their beginnings.
    keys = [(f"h{number % 97}.{'d' * (number % 7)}example.com", f"/p{'p' * (number % 13)}/{number}") for number in range(MANY)]
    with Web() as web:
        start = time.monotonic()
        for number, key in enumerate(keys):
            web.add(f"r{number}", *key)
        ktap.note(f"{MANY} routes in {time.monotonic() - start:.1f} s")
        with web.connect() as client:
            for number in numbers.sample(range(MANY), ktap.scaled(100, 20)):
                host, path = keys[number]
                client.send(head_of(f"{path}/x", f"{host.upper()}:80"))
                # None of them has a server.
                equal(client.read_response()[0].status, 503, "status")
                equal(web.counts(f"r{number}")["requests"], 1, f"requests of {host}{path}")
                # Of the other paths that begin like this none has the same host.
                client.send(head_of(f"{path}0", host))
                equal(client.read_response()[0].status, 404, f"status of {host}{path}0")
            web.remove("r7")
            client.send(head_of(keys[7][1], keys[7][0]))
            equal(client.read_response()[0].status, 404, "status of what was removed")
        # The debug kernel takes too long to make so many.
        if MANY == ROUTES_MAX:
            os.mkdir(web.route("r7"))
            try:
                os.mkdir(web.route("more"))
                raise AssertionError("there is one more")
            except OSError as refusal:
                equal(refusal.errno, errno.ENOSPC, "errno")
            web.remove("r8")
            os.mkdir(web.route("more"))


@case("without memory for another table a key stays what it was, and what is removed gets nothing more", log="squall.*(refused|no memory)")
def no_memory():
    marker, slab = "/proc/thread-self/make-it-fail", "/sys/kernel/debug/failslab"
    if not (os.path.exists(marker) and os.path.isdir(slab)):
        raise ktap.Skip("this kernel does not inject faults")
    settings = {
        "ignore-gfp-wait": "N", "cache-filter": "Y", "task-filter": "Y", "verbose": 0, "times": -1, "interval": 1, "space": 0, "probability": 100,
    }  # fmt: skip
    faults.choose_caches()

    def failing(space, action):
        """Runs `action` with memory for allocations of so many bytes; returns what it raised."""
        squall.write(f"{slab}/space", space)
        file = os.open(marker, os.O_WRONLY)
        try:
            os.write(file, b"1")
            action()
        except OSError as failure:
            return failure
        finally:
            os.write(file, b"0")
            os.close(file)

    with faults.injecting(settings), Web() as web, web.served(a=("", "/a"), b=("", "/b")), Client(web) as client:
        path = os.open(f"{web.route('a')}/path", os.O_WRONLY)
        for failed in range(1000):
            failure = failing(16 * failed, lambda: os.write(path, b"/c\n"))
            if not failure:
                break
            equal(failure.errno, errno.ENOMEM, f"errno with {16 * failed} bytes")
            if failed % 8 == 0:
                equal((web.key("a"), client.who("/a"), client.who("/b"), client.ask("/c")), (("", "/a"), "a", "b", 404), "after that")
        os.close(path)
        equal((web.key("a"), client.who("/c"), client.ask("/a")), (("", "/c"), "a", 404), "with memory")
        ktap.note(f"a change takes {16 * failed} bytes")
        # More than the copies of the path.
        check(failed > 10, f"only {failed} changes failed")
        stayed = 0
        for space in range(0, 16 * failed, 128):
            web.add("x", "", "/x")
            web.add("y", "", "/x/y")
            ktap.kernel_lines()
            failure = failing(space, lambda: os.rmdir(web.route("y")))
            if failure:
                web.remove("y")
            stayed += any("no memory to take a route out" in line for line in ktap.kernel_lines())
            equal([client.ask(target) for target in ("/x/y", "/x")], [503, 503], f"answers after a removal with {space} bytes")
            equal(web.counts("x")["requests"], 2, "requests of the shorter path")
            web.remove("x")
            equal(client.ask("/x/y"), 404, "answer without the route")
        ktap.note(f"{stayed} removed routes stayed in a table")
        check(stayed > 0, "no removal was without memory")


@case("a setting counts for its route alone and at once, and 'default' is the sysctl's value again")
def settings():
    silent = lambda peer, _number: peer.read_rest()
    quick = ktap.PACE * 200
    with wire.RawServer(silent) as server, squall.sysctl(response_timeout_ms=60_000):
        with Web() as web, contextlib.ExitStack() as stack:
            for name in ("one", "two"):
                web.add(name, name, "/", server)
                equal(squall.read(f"{web.route(name)}/response_timeout_ms"), "default 60000", "before")
            web.set("one", "response_timeout_ms", quick)
            equal([squall.read(f"{web.route(name)}/response_timeout_ms") for name in ("one", "two")], [str(quick), "default 60000"], "files")
            first, second = (stack.enter_context(web.connect()) for _ in range(2))
            for client, host in ((first, "one"), (second, "two")):
                client.send(head_of("/", host))
            start = time.monotonic()
            equal(first.read_response()[0].status, 504, "status of the route with the setting")
            took = time.monotonic() - start
            check(quick / 2000 <= took < ktap.seconds(5), f"it took {took:.2f} s")
            check(second.silent_for(2 * quick / 1000), "the other route was answered too")
            # On the same connection.
            web.set("one", "response_timeout_ms", "default")
            equal(squall.read(f"{web.route('one')}/response_timeout_ms"), "default 60000", "after")
            first.send(head_of("/", "one"))
            check(first.silent_for(2 * quick / 1000), "the setting still counts after 'default'")
            with squall.sysctl(response_timeout_ms=quick):
                equal(squall.read(f"{web.route('one')}/response_timeout_ms"), f"default {quick}", "with another sysctl")


@case("body_max_kib of a route is the limit of its requests alone")
def content():
    with Web() as web, web.served(small=("small", "/"), large=("large", "/")) as web:

        def post(host):
            with web.connect() as client:
                client.send(wire.request("/", "POST", body=bytes(1025), host=host))
                return client.read_response()[0].status

        web.set("small", "body_max_kib", 1)
        equal([post("small"), post("large")], [413, 200], "statuses")
        web.set("small", "body_max_kib", 2)
        equal(post("small"), 200, "status with another setting")
        with squall.sysctl(body_max_kib=1):
            equal([post("small"), post("large")], [200, 413], "statuses when the sysctl is smaller")
            web.set("small", "body_max_kib", "default")
            equal(post("small"), 413, "status with the default")


def refusal(path, value):
    """The name of the error with which a value is refused, or None."""
    try:
        squall.write(path, value)
        return None
    except OSError as error:
        return errno.errorcode[error.errno]


@case("a setting takes what its sysctl takes, and what it refuses is named in the log", log=REFUSED)
def ranges():
    names = [name for name in os.listdir(squall.SYSCTL)]
    with Web(one=("", "/")) as web:
        files = [name for name in os.listdir(web.route("one")) if name in names]
        check(len(files) > 15, f"settings of a route: {files}")
        for name in files:
            file, sysctl = f"{web.route('one')}/{name}", f"{squall.SYSCTL}/{name}"
            default = squall.read(sysctl)
            for value in (0, 1, 2, 101, 86_400_001, 2_592_000_001, 4_294_967_295, "x", "-1"):
                squall.write(file, "default")
                wanted = refusal(sysctl, value)
                squall.write(sysctl, default)
                if value == 4_294_967_295:
                    wanted = "ERANGE"  # which is no value of its own
                elif wanted:
                    wanted = "EINVAL" if value in ("x", "-1") else "ERANGE"
                ktap.kernel_lines()
                equal(refusal(file, value), wanted, f"{name} = {value}")
                if wanted:
                    named = f"one/{name}: '{value}' refused"
                    check(any(named in line for line in ktap.kernel_lines()), f"no line names {name} = {value}")
                equal(squall.read(file), f"default {default}" if wanted else str(value), f"{name} after {value}")
            squall.write(file, "default")
            equal(squall.read(file), f"default {default}", name)


session.main()
