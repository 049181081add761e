# SPDX-License-Identifier: GPL-2.0
"""Real servers and clients: processes that are started once, told by their first line that they are ready."""

import json
import os
import select
import signal
import subprocess
import tempfile

from . import ktap, wire

PEERS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "peers")
# Where Debian's node packages install.
NODE_ENV = {**os.environ, "NODE_PATH": "/usr/share/nodejs:/usr/lib/nodejs"}

_processes = []


def _end(process):
    """Ends a process, also a stopped one, and gives back what was held for it."""
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    # A pipe takes kernel memory, which would look as if the module had lost it.
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    if process in _processes:
        _processes.remove(process)


@ktap.at_end
def end_all():
    """Ends every process that was started here."""
    for process in list(_processes):
        _end(process)


class Peer:
    """A server process on an address of its own; lives until stop() or the end of the tests."""

    def __init__(self, command, host="127.0.0.1", namespace=None):
        self.command = command
        self.host, self.port = host, wire.free_port()
        self.namespace = namespace
        self.process = None

    @property
    def address(self):
        """The address as configuration writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def start(self):
        """Starts the process and waits until it serves."""
        prefix = self.namespace.prefix if self.namespace else []
        self.process = subprocess.Popen(
            prefix + self.command(self), stdout=subprocess.PIPE, env=NODE_ENV
        )
        _processes.append(self.process)
        line = self.process.stdout.readline().strip()
        ktap.equal(line, b"ready", f"first line of {self.command(self)}")
        return self

    def stop(self):
        """Kills the process (its sockets are closed by the kernel)."""
        _end(self.process)

    def signal(self, number):
        """Sends a signal, such as SIGSTOP."""
        self.process.send_signal(number)

    def __enter__(self):
        return self if self.process else self.start()

    def __exit__(self, *_):
        self.stop()


def node_app(**options):
    """HTTP and WebSocket (`ws`) application in Node."""
    return Peer(lambda peer: ["node", f"{PEERS}/app.js", peer.host, str(peer.port)], **options)


def python_app(**options):
    """WebSocket application with Python's `websockets`."""
    return Peer(lambda peer: ["python3", f"{PEERS}/app.py", peer.host, str(peer.port)], **options)


class Echo(Peer):
    """The server for very many connections, peers/echo.py."""

    def __init__(self, **options):
        super().__init__(lambda peer: ["python3", f"{PEERS}/echo.py", peer.host, str(peer.port)], **options)

    def counts(self):
        """What it has seen."""
        with wire.Wire.connect(self.address) as client:
            client.send(wire.request("/stats"))
            return json.loads(client.read_response()[1])


_shared = {}


def shared(make):
    """The one peer of its kind that the cases of a file share."""
    if make not in _shared:
        _shared[make] = make().start()
    return _shared[make]


NGINX_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; keepalive_requests 1000000;
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    gzip on; gzip_types *;
    server {{ listen {address}; root {folder}/www; }}
}}
"""


class Nginx:
    """nginx that serves the given files: a dictionary of name and content."""

    def __init__(self, files, host="127.0.0.1"):
        self.host, self.port, self.files = host, wire.free_port(), files
        self.folder = self.process = None

    @property
    def address(self):
        """The address as configuration writes it."""
        return f"{self.host}:{self.port}"

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="nginx.")
        # Workers that nginx starts as another user must be able to read the files.
        os.chmod(self.folder.name, 0o755)
        os.mkdir(f"{self.folder.name}/www")
        for name, content in self.files.items():
            with open(f"{self.folder.name}/www/{name}", "wb") as file:
                file.write(content)
        config = f"{self.folder.name}/nginx.conf"
        with open(config, "w", encoding="ascii") as file:
            file.write(NGINX_CONFIG.format(folder=self.folder.name, address=self.address))
        self.process = subprocess.Popen(["nginx", "-c", config, "-e", "stderr"])
        _processes.append(self.process)
        ktap.until(self._listens, 20, "nginx listening")
        return self

    def _listens(self):
        ktap.check(self.process.poll() is None, "nginx ended")
        try:
            wire.Wire.connect(self.address).close()
            return True
        except ConnectionRefusedError:
            return False

    def __exit__(self, *_):
        _end(self.process)
        self.folder.cleanup()


def run(command, limit=60, **options):
    """Runs a client; (exit status, its output)."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=ktap.seconds(limit),
        check=False,
        env=NODE_ENV,
        **options,
    )
    return done.returncode, done.stdout


def curl(*arguments, limit=60):
    """curl's output; fails if curl does."""
    command = ["curl", "-sS", "--max-time", str(ktap.seconds(limit)), "--noproxy", "*", *arguments]
    status, output = run(command, limit + 5)
    ktap.check(status == 0, lambda: f"{' '.join(command)}: {status}: {output[-500:]!r}")
    return output


_node_clients = []


def node_client(url, scenario, argument="", limit=60):
    """Runs a scenario of the Node client, a process that the cases of a file share, and fails if it does."""
    if not _node_clients:
        command = ["node", f"{PEERS}/client.js"]
        _node_clients.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=NODE_ENV))
        _processes.append(_node_clients[0])
    process = _node_clients[0]
    process.stdin.write(json.dumps([url, scenario, str(argument)]).encode() + b"\n")
    ready = select.select([process.stdout], [], [], ktap.seconds(limit))[0]
    result = json.loads(process.stdout.readline() or '"has died"') if ready else "takes too long"
    if result != "ok":
        # Who knows what it still has open.
        _node_clients.clear()
        _end(process)
        raise AssertionError(f"{scenario} {argument}: {result}")
