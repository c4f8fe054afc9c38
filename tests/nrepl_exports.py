# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of exports share: a job at a real server, what it brought, and that nothing of it is left there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from .fixtures.nrepl_servers import Server
from .tools import Command, bytes_of, eventually

ROW = "20261121T013000Z"
THREADS = (
    '(count (filter (fn [thread] (= "embedded.db_backup export" (.getName thread))) (keys (Thread/getAllStackTraces))))'
)


def literal(path: Path) -> str:
    """A path as Clojure code."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@dataclass
class Job:
    """An nrepl job of this name, at a server."""

    dbbackup: Command
    server: Server
    name: str = "export"
    options: dict[str, Any] = field(default_factory=dict)

    def described(self, **options: Any) -> None:
        """Write its file."""
        described = {**self.server.options, **self.options, **options}
        file = self.dbbackup.job(self.name, "", type="nrepl", **described)
        text = file.read_text().replace('"path": "", ', "")
        file.write_text(text)

    def run(self, **options: Any) -> dict[str, Any]:
        """Back up now; returns the manifest."""
        self.described(**options)
        backup: dict[str, Any] = self.dbbackup.ok("run", self.name, timeout=600)["backup"]
        return backup

    def fails(self, code: int = 1, **options: Any) -> str:
        """Fail to back up: nothing is published, and what there was is as before. Returns the sentence."""
        self.described(**options)
        before = self.published()
        sentence = self.dbbackup.fails(code, "run", self.name, timeout=600)
        assert self.published() == before
        return sentence

    def published(self) -> dict[str, Any]:
        """All that is in the directory of the job, but for its state."""
        place = self.dbbackup.repository / self.name
        found = bytes_of(place) if place.exists() else {}
        return {name: content for name, content in found.items() if name not in ("state.json", ".lock")}

    def restored(self, place: Path) -> Path:
        """The newest backup as a file."""
        self.dbbackup.ok("restore", self.name, "--dest", place, "--force", timeout=600)
        return place


@contextmanager
def nothing_left(server: Server, *, on_jvm: bool = True) -> Iterator[None]:
    """Afterwards there is no session, thread or temporary file that was not there before."""
    before = server.sessions() if on_jvm else set()
    yield
    if on_jvm:
        eventually(lambda: server.evaluate(THREADS) == "0", "no thread of an export")
        # One of before may have been about to be closed.
        eventually(lambda: server.sessions() <= before, "no new session")
    assert [entry.name for entry in server.temporary.iterdir() if entry.name.startswith("db-backup-")] == []


@contextmanager
def without_bindings(server: Server) -> Iterator[int]:
    """The port of one more nREPL server in the same JVM, as an application starts one in a thread of its own.

    That of the command line hands what it has bound to its sessions, which then see nothing of the roots.
    """
    started = '(deliver bare (nrepl.server/start-server :bind "127.0.0.1" :port 0))'
    server.evaluate(f"(do (def bare (promise)) (.start (Thread. (fn [] {started}))) nil)")
    try:
        yield int(server.evaluate("(:port @bare)"))
    finally:
        server.evaluate("(do (nrepl.server/stop-server @bare) nil)")


def row(tmp_path: Path, datoms: str, number: int, database: str = "datascript", basis: int = 536870913) -> list[str]:
    """Options that restore a text which no server has made, whose numbers are right."""
    text = f"{{:embedded.db_backup/export 1, :database :{database}, :content :snapshot, :max-tx {basis}, :max-eid 9"
    text += f", :schema {{:n {{}}}}, :datoms [\n{datoms}\n], :count {number}}}\n"
    file = tmp_path / "rows.sqlite3"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE db_backup (name TEXT, data TEXT, created_at TEXT, sha256 TEXT)")
        values = f"notes/{ROW}", text, "2026-11-21T01:30:00.000Z", sha256(text.encode()).hexdigest()
        connection.execute("INSERT INTO db_backup VALUES (?, ?, ?, ?)", values)
    return ["--from-sqlite", str(file)]
