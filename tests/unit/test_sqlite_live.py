# SPDX-License-Identifier: GPL-3.0-or-later
"""Each step of the copy of a live SQLite database, with a writer that comes just between two of them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture import blocks
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.processes import Child, Report
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.sqlite.copies import merge_wal
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.sqlite.live import LiveDatabase
from ansible_collections.embedded.db_backup.tests.tools import process

ROWS = 2000
WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
connection.execute("UPDATE rows SET number = number + 1")
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
"""
WRITE_WITH_PATIENCE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("UPDATE rows SET number = number + 1")
"""
READ = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
connection.execute("SELECT sum(number) FROM rows").fetchall()
"""
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM rows").fetchall()
print(flush=True)
sys.stdin.read()
"""
CAN_LOCK = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
"""

Between = Callable[[str], None]


@pytest.fixture(params=["delete", "wal"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "live.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {request.param}")
        connection.execute("CREATE TABLE rows (number INTEGER, padding BLOB)")
        connection.executemany("INSERT INTO rows VALUES (0, ?)", [(os.urandom(500),) for _unused in range(ROWS)])
        connection.commit()
    return path


def other_process(program: str, path: Path) -> int:
    return subprocess.run([sys.executable, "-c", program, str(path)], stderr=subprocess.DEVNULL, check=False).returncode


def copy(path: Path, target: Path, between: Between) -> int:
    """Copy in a child; between is called with the name of each step that was done. Returns how long it was locked."""

    def work(report: Report) -> int:
        os.chdir(path.parent)
        data = os.open(target, os.O_RDWR | os.O_CREAT)
        wal = os.open(f"{target}-wal", os.O_RDWR | os.O_CREAT)
        live = LiveDatabase(path.name, str(path), report)
        between("opened")
        live.prepare(data)
        between("prepared")
        with live.locked(5):
            between("locked")
            live.complete(wal)
            between("completed")
        between("unlocked")
        live.finish(data)
        return live.lock_ms

    # Another process has the database open all the time, else it is at rest.
    with process([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with Child(work, what="the copy", timeout=60) as child:
            milliseconds: int = child.result()
    if os.stat(f"{target}-wal").st_size:
        merge_wal(target)
    else:
        os.unlink(f"{target}-wal")
    return milliseconds


def number_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = connection.execute("SELECT DISTINCT number, count(*) FROM rows GROUP BY number").fetchall()
    assert [count for _unused, count in found] == [ROWS]
    return int(found[0][0])


@pytest.mark.parametrize(("step", "expected"), [("opened", 1), ("prepared", 1), ("unlocked", 0)])
def test_a_copy_is_of_the_moment_of_the_lock(database: Path, tmp_path: Path, step: str, expected: int) -> None:
    def between(done: str) -> None:
        if done == step:
            assert other_process(WRITE, database) == 0

    copy(database, tmp_path / "copy", between)
    assert number_of(tmp_path / "copy") == expected
    assert number_of(database) == 1


def test_readers_never_wait(database: Path, tmp_path: Path) -> None:
    """Not even for an instant: they have no patience."""

    def between(step: str) -> None:
        assert other_process(READ, database) == 0, step

    copy(database, tmp_path / "copy", between)


def test_a_writer_waits_for_the_lock_alone(database: Path, tmp_path: Path) -> None:
    """It comes while others are kept out, and goes on as soon as they are not any more."""
    writers: list[subprocess.Popen[bytes]] = []

    def between(step: str) -> None:
        if step == "locked":
            writers.append(subprocess.Popen([sys.executable, "-c", WRITE_WITH_PATIENCE, str(database)]))
        elif step == "completed":
            assert writers[0].poll() is None
        elif step == "unlocked":
            # What is left of the copy needs no lock.
            assert writers[0].wait(60) == 0

    copy(database, tmp_path / "copy", between)
    assert number_of(database) == 1
    assert number_of(tmp_path / "copy") == 0


@pytest.mark.parametrize("step", ["locked", "completed"])
def test_nobody_writes_under_the_lock(database: Path, tmp_path: Path, step: str) -> None:
    def between(done: str) -> None:
        can_lock = other_process(CAN_LOCK, database) == 0
        assert can_lock == (done not in ("locked", "completed")), done
        if done == step:
            assert other_process(WRITE, database) != 0

    assert copy(database, tmp_path / "copy", between) > 0
    assert number_of(tmp_path / "copy") == 0


def test_a_file_that_was_replaced_is_noticed(database: Path, tmp_path: Path) -> None:
    def between(done: str) -> None:
        if done == "prepared":
            (tmp_path / "other").write_bytes(database.read_bytes())
            os.replace(tmp_path / "other", database)

    with pytest.raises(SourceError, match="was replaced while it was copied"):
        copy(database, tmp_path / "copy", between)


@pytest.mark.parametrize("database", ["delete"], indirect=True)
def test_a_change_of_the_journal_mode_is_noticed(database: Path, tmp_path: Path) -> None:
    def between(done: str) -> None:
        if done == "opened":
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA journal_mode = wal")

    with pytest.raises(SourceError, match="was changed while it was copied"):
        copy(database, tmp_path / "copy", between)


@pytest.mark.parametrize("database", ["wal"], indirect=True)
def test_a_wal_that_begins_anew_while_it_is_copied(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot write here keeps no writer out. The first transactions of the old WAL alone would spoil the copy."""
    statements = ["UPDATE rows SET number = 5 WHERE rowid <= 500", "UPDATE rows SET number = 7"]
    target, writes = tmp_path / "copy", []
    honest = blocks._write

    def work(report: Report) -> None:
        os.chdir(database.parent)
        data, wal = (os.open(f"{target}{suffix}", os.O_RDWR | os.O_CREAT) for suffix in ("", "-wal"))
        live = LiveDatabase(database.name, "it", report)
        live._writable = False

        def write(descriptor: int, content: memoryview, offset: int) -> None:
            honest(descriptor, content, offset)
            writes.append(descriptor)
            if writes.count(wal) == 1 and descriptor == wal:
                assert other_process(execute("UPDATE rows SET number = 8"), database) == 0

        monkeypatch.setattr(blocks, "_write", write)
        live.prepare(data)
        with live.locked(5):
            live.complete(wal)
        live.finish(data)
        assert writes.count(wal) > 2

    with process([sys.executable, "-c", HOLD, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        for statement in [*statements, "PRAGMA wal_checkpoint(FULL)"]:
            assert other_process(execute(statement), database) == 0
        assert os.stat(f"{database}-wal").st_size > blocks.BUFFER
        with Child(work, what="the copy", timeout=60) as child:
            child.result()
    merge_wal(target)
    assert number_of(target) in (7, 8)


def execute(statement: str) -> str:
    """A program that does so, and leaves the WAL as it is."""
    connect = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)"
    return f"{connect}; c.execute('PRAGMA wal_autocheckpoint = 0'); c.execute('{statement}')"


@pytest.mark.parametrize("database", ["wal"], indirect=True)
def test_a_database_at_rest_that_is_used_meanwhile(database: Path, tmp_path: Path) -> None:
    opened: list[Any] = []

    def work(report: Report) -> None:
        os.chdir(database.parent)
        data = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
        live = LiveDatabase(database.name, "it", report)
        live.prepare(data)
        with live.locked(5):
            live.complete(data)
        opened.append(sqlite3.connect(database))
        opened[0].execute("SELECT count(*) FROM rows").fetchall()
        live.finish(data)

    with Child(work, what="the copy", timeout=60) as child, pytest.raises(SourceError, match="began to use it"):
        child.result()
