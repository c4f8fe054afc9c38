# SPDX-License-Identifier: GPL-3.0-or-later
"""Real containers for tests: made from the base image, removed at the end; and an engine that is reached over TCP."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import docker
import pytest

from .tools import CHECKOUT, eventually, process

IMAGE = "embedded-db-backup-target"
CHROMA_IMAGE = "embedded-db-backup-chroma"
HOW_TO = "needs a Docker engine and root: run them as root with `.venv/bin/nox -s containers`"
# Writes a database and a file of known bytes, holds the database open, and answers on port 8000 while it can read it.
PROGRAM = """
import http.server, os, signal, sqlite3, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
directory, link = sys.argv[1], sys.argv[2:]
os.makedirs(directory, exist_ok=True)
if link:
    os.symlink(directory, link[0])
database = sqlite3.connect(os.path.join(directory, "chroma.sqlite3"), check_same_thread=False)
database.execute("CREATE TABLE IF NOT EXISTS records (content BLOB)")
with open(os.path.join(directory, "bytes"), "wb") as file:
    file.write(bytes(range(256)) * 4096)
database.commit()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        database.execute("SELECT count(*) FROM records").fetchone()
        self.send_response(200)
        self.end_headers()
http.server.ThreadingHTTPServer(("", 8000), Answer).serve_forever()
"""
# Takes connections over TCP and hands them on to a socket.
FORWARDER = """
import contextlib, socket, sys, threading
def forward(one, other):
    try:
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        # As a network would tell it, so that the engine ends what nobody wants any more.
        for end in one, other:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    accepted, engine = listener.accept()[0], socket.socket(socket.AF_UNIX)
    engine.connect(sys.argv[1])
    for pair in (accepted, engine), (engine, accepted):
        threading.Thread(target=forward, args=pair, daemon=True).start()
"""
BYTES = hashlib.sha256(bytes(range(256)) * 4096).hexdigest()


@dataclass
class Containers:
    """Makes containers; all of them are gone at the end."""

    client: docker.APIClient
    made: list[str] = field(default_factory=list)

    def run(self, command: list[str] | None, *, image: str = IMAGE, ready: str = "", **settings: Any) -> str:
        """Start a container and wait until the file ready is there; returns its id."""
        names = {
            key: settings.pop(key)
            for key in ("name", "environment", "working_dir", "entrypoint", "user")
            if key in settings
        }
        volumes = [*settings.pop("volumes", []), *(bind.split(":")[1] for bind in settings.get("binds", []))]
        host = self.client.create_host_config(**settings)
        common = {"volumes": volumes, "host_config": host, "stop_signal": "SIGTERM"}
        made = self.client.create_container(image, command, **common, **names)["Id"]
        self.made.append(made)
        self.client.start(made)
        if ready:
            eventually(lambda: self.exists(made, ready), f"{ready} in the container")
        return str(made)

    def server(self, directory: str = "/data", *links: str, **settings: Any) -> str:
        """A container with the program above."""
        return self.run(["python3", "-c", PROGRAM, directory, *links], ready=f"{directory}/bytes", **settings)

    def exists(self, container: str, path: str) -> bool:
        made = self.client.exec_create(container, ["test", "-e", path])
        self.client.exec_start(made)
        return bool(self.client.exec_inspect(made)["ExitCode"] == 0)

    def state(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = self.client.inspect_container(container)["State"]
        return state

    def execute(self, container: str, *command: str) -> str:
        """What a command prints in the container. Only tests do such a thing."""
        made = self.client.exec_create(container, list(command))
        output: bytes = self.client.exec_start(made)
        return output.decode().strip()

    def remove(self) -> None:
        for container in self.made:
            with contextlib.suppress(docker.errors.NotFound):
                self.client.remove_container(container, force=True, v=True)


def engine() -> docker.APIClient:
    """The engine that DOCKER_HOST names, with the base image; skips the test where there is none."""
    if os.geteuid() != 0 or "DOCKER_HOST" not in os.environ:
        pytest.skip(HOW_TO)
    client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto")
    if not client.images(IMAGE):
        subprocess.run([CHECKOUT / "tests/docker/base-image.sh"], check=True)
    return client


@contextlib.contextmanager
def over_tcp() -> Iterator[str]:
    """The address under which the same engine is reached over TCP, like one on another host."""
    command = [sys.executable, "-c", FORWARDER, os.environ["DOCKER_HOST"].removeprefix("unix://")]
    with process(command, stdout=subprocess.PIPE) as forwarder:
        assert forwarder.stdout
        yield f"tcp://127.0.0.1:{int(forwarder.stdout.readline())}"
