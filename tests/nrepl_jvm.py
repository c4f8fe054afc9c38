# SPDX-License-Identifier: GPL-3.0-or-later
"""A real nREPL server in a JVM, of Debian's packages."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.address import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.bencode import Decoder, encode
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.client import Client
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.deadline import Deadline

from .tools import eventually, process

JARS = [Path("/usr/share/java", f"{name}.jar") for name in ("clojure", "core.specs.alpha", "spec.alpha", "nrepl")]
# A JVM takes a few seconds to start, and many on a busy machine.
PATIENCE = 120
PORT_FILE = ".nrepl-port"


@dataclass
class Jvm:
    """A running server, on a port or a unix socket; directory is that in which it was started."""

    directory: Path
    process: subprocess.Popen[bytes]
    socket: Path | None = None

    @property
    def port(self) -> int:
        return int((self.directory / PORT_FILE).read_text())

    @property
    def address(self) -> Address:
        return Address(socket=str(self.socket)) if self.socket else Address(port=self.port)

    def evaluate(self, code: str, seconds: float = PATIENCE) -> str:
        """The value of a form."""
        with Client(self.address, Deadline(seconds)) as client:
            return client.evaluate(code).only_value()

    def sessions(self) -> set[str]:
        """The sessions that are open in the server."""
        with contextlib.closing(self._connect()) as connection:
            connection.sendall(encode({"op": "ls-sessions", "id": "1"}))
            decoder = Decoder()
            answers: list[Any] = []
            while not answers:
                answers = decoder.feed(connection.recv(1 << 16))
        return {session.decode() for session in answers[0][b"sessions"]}

    def _connect(self) -> socket.socket:
        if self.socket is None:
            return socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return connection

    def answers(self) -> bool:
        """Whether it is ready to talk."""
        assert self.process.poll() is None, "the server ended at its start"
        with contextlib.suppress(OSError, ValueError):
            return self.sessions() == set()
        return False

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


@contextlib.contextmanager
def jvm(directory: Path, *, unix_socket: bool = False) -> Iterator[Jvm]:
    """Start a server in a directory, and end it; skips the test where the packages are missing."""
    if not shutil.which("java") or not all(jar.exists() for jar in JARS):
        pytest.skip("needs clojure and nREPL for a JVM: apt-get install clojure libnrepl-clojure")
    place = ["--socket", "nrepl.socket"] if unix_socket else ["--port", "0", "--bind", "127.0.0.1"]
    command = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", ":".join(map(str, JARS)), "clojure.main"]
    options = {"cwd": directory, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with process([*command, "-m", "nrepl.cmdline", *place], **options) as started:
        server = Jvm(directory, started, directory / "nrepl.socket" if unix_socket else None)
        eventually(server.answers, "an nREPL server that answers", PATIENCE)
        yield server
