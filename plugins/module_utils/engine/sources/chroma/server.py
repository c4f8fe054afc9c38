# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Chroma server on a directory, for a drill: in a container of its own, or as a program.

It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator, List, Optional

from ...containers import heartbeat
from ...containers.container import Container
from ...containers.daemon import Daemon
from ...errors import CorruptError, SourceError, in_one_line
from ...guard import Guard
from ...processes import Child, Report
from ..base import Tools
from .locations import HEARTBEAT_PATHS

_PORT = 8000
# Where images keep their data: 1.x, and the versions before. A server uses one of them.
_DATA = ("/data", "/chroma/chroma")
_CALL_SECONDS = 120.0
_PAUSE = 0.5
_LONGEST_MESSAGE = 300
_OK = 200


class Client:
    """The HTTP interface of a server; prefix is that of its version, as /api/v2."""

    def __init__(self, endpoint: heartbeat.Endpoint) -> None:
        self.prefix = endpoint.path.rsplit("/", 1)[0]
        self._connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=_CALL_SECONDS)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def call(self, path: str, content: Any = None) -> Any:
        """Post the content, or get.

        Raises CorruptError when the server refuses or dies: its data is a copy, and the questions are simple ones.
        """
        body = None if content is None else json.dumps(content)
        try:
            headers = {"Content-Type": "application/json"}
            self._connection.request("GET" if content is None else "POST", self.prefix + path, body, headers)
            answer = self._connection.getresponse()
            text = answer.read()
            if answer.status == _OK:
                return json.loads(text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CorruptError(f"the Chroma server stopped to answer: {error!r}") from error
        reason = " ".join(text.decode(errors="replace").split())[:_LONGEST_MESSAGE]
        raise CorruptError(f"the Chroma server answers {answer.status}: {reason}")


@contextlib.contextmanager
def serving(directory: Path, tools: Tools) -> Iterator[Client]:
    """A server that works on this directory, which it changes.

    Raises SourceError when there is none to start, CorruptError when it does not come up on the directory.
    """
    start = _in_container if tools.image else _as_program
    with start(directory, tools) as endpoint, contextlib.closing(Client(endpoint)) as client:
        yield client


@contextlib.contextmanager
def _in_container(directory: Path, tools: Tools) -> Iterator[heartbeat.Endpoint]:
    name = f"db-backup-drill-{secrets.token_hex(8)}"
    connections: List[Daemon] = []

    def remove() -> bool:
        connections[0].remove(name)
        connections[0].remove_network(name)
        return True

    with Daemon(tools.docker_host) as daemon:
        if not daemon.is_local:
            raise SourceError(f"a drill needs a Docker engine on this host, {daemon.address} is elsewhere")
        # Should this process be killed, another one removes what it leaves.
        with Guard(lambda: connections.append(Daemon(tools.docker_host)), remove) as guard:
            try:
                daemon.create_network(name)
                container = _created(daemon, name, directory, str(tools.image))
                daemon.start(container)
                yield _wait_for_container(daemon, container, tools)
            finally:
                daemon.remove(name)
                daemon.remove_network(name)
                guard.release()


def _created(daemon: Daemon, name: str, directory: Path, image: str) -> Container:
    try:
        return daemon.create(name, image, network=name, port=_PORT, directory=directory, at=_DATA)
    except SourceError as error:
        raise SourceError(f"no drill can be held with this engine: {error}") from error


def _wait_for_container(daemon: Daemon, container: Container, tools: Tools) -> heartbeat.Endpoint:
    servers = [f"http://{address}" for address in daemon.look(container.id).addresses]
    found = heartbeat.wait_for(
        heartbeat.endpoints(servers, HEARTBEAT_PATHS), tools.timeout, lambda: daemon.look(container.id).is_running
    )
    if not found:
        words = daemon.last_words(container) or "nothing"
        raise CorruptError(f"the Chroma server of image {tools.image} gives no heartbeat on the copy; it said: {words}")
    return found


@contextlib.contextmanager
def _as_program(directory: Path, tools: Tools) -> Iterator[heartbeat.Endpoint]:
    program = shutil.which(tools.command or "chroma")
    if not program:
        missing = (
            f"drill_command {tools.command} is not a program here" if tools.command else "chroma is not on the PATH"
        )
        raise SourceError(f"a drill needs a Chroma server: {missing}; name an image with drill_image, or a program")
    port = _free_port()
    log, ended = directory.parent / "server.log", directory.parent / f"server-{port}.ended"
    command = [program, "run", "--path", str(directory), "--host", "127.0.0.1", "--port", str(port)]
    with Child(lambda report: _serve(report, command, log, ended), what="the Chroma server", timeout=tools.timeout):
        wanted = heartbeat.endpoints([f"http://127.0.0.1:{port}"], HEARTBEAT_PATHS)
        found = heartbeat.wait_for(wanted, tools.timeout, lambda: not ended.exists())
        if not found:
            raise CorruptError(
                f"the Chroma server {program} gives no heartbeat on the copy; it said: {_last_line(log)}"
            )
        yield found


def _serve(report: Report, command: List[str], log: Path, ended: Path) -> None:
    """Runs in a child, whose end is that of all it started."""
    environment = {**os.environ, "ANONYMIZED_TELEMETRY": "False"}
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        while server.poll() is None:
            # Fails when the parent does not listen any more.
            report.alive()
            time.sleep(_PAUSE)
    finally:
        server.terminate()
        server.wait()
        ended.touch()


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return "nothing"
    said: Optional[str] = next((line.strip() for line in reversed(lines) if line.strip()), None)
    return in_one_line(said[:_LONGEST_MESSAGE]) if said else "nothing"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
