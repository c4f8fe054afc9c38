# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of SQLite databases that others write to, lock, crash on, or only claim to have."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.tests.saboteur import Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    NOBODY,
    Command,
    bytes_of,
    eventually,
    give_away,
    process,
    snapshot,
)

ACCOUNTS, BALANCE = 500, 1000
STRANGE = "it's 100% ü ? # &mode=memory"

# Moves money between accounts, and writes every transaction's number into all of a second table.
WRITER = """
import random, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("PRAGMA cache_size = 20")
number = connection.execute("SELECT max(number) FROM numbers").fetchone()[0]
while True:
    number += 1
    one, other = random.sample(range(500), 2)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE accounts SET balance = balance - 1 WHERE id = ?", (one,))
    connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = ?", (other,))
    connection.execute("UPDATE numbers SET number = ?", (number,))
    if len(sys.argv) > 2:
        print("in the middle", flush=True)
        sys.stdin.read()
    connection.execute("COMMIT")
    if number % 50 == 0:
        print(number, flush=True)
"""


def make(path: Path, mode: str = "delete") -> None:
    """A bank of two megabytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("PRAGMA user_version = 7")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER, padding BLOB)")
        connection.execute("CREATE TABLE numbers (id INTEGER PRIMARY KEY, number INTEGER, padding BLOB)")
        rows = [(number, BALANCE, os.urandom(2000)) for number in range(ACCOUNTS)]
        connection.executemany("INSERT INTO accounts VALUES (?, ?, ?)", rows)
        connection.executemany("INSERT INTO numbers VALUES (?, 0, ?)", [(row[0], row[2]) for row in rows])
        connection.execute("COMMIT")


def judge(path: Path) -> int:
    """The number of the transaction that a copy is of; it must be whole."""
    assert not [name for name in os.listdir(path.parent) if name.startswith(path.name + "-")]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT sum(balance) FROM accounts").fetchone() == (ACCOUNTS * BALANCE,)
        (numbers,) = zip(*connection.execute("SELECT DISTINCT number FROM numbers"), strict=True)
    assert len(numbers) == 1
    return int(numbers[0])


@contextmanager
def writing(path: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", WRITER, str(path), *options]
    with process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline()
        yield writer


def restored(dbbackup: Command, job: str, place: Path) -> Path:
    dbbackup.ok("restore", job, "--dest", place / "restored.db")
    return place / "restored.db"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_every_backup_of_a_busy_bank_is_of_one_transaction(dbbackup: Command, tmp_path: Path, mode: str) -> None:
    make(tmp_path / "bank.db", mode)
    dbbackup.job("bank", tmp_path / "bank.db", type="sqlite", row_counts=True)
    last = 0
    with writing(tmp_path / "bank.db"):
        for number in range(30):
            source = dbbackup.ok("run", "bank")["backup"]["source"]
            assert source["rows"] == {"accounts": ACCOUNTS, "numbers": ACCOUNTS}
            assert (source["user_version"], source["page_size"]) == (7, 4096)
            now = judge(restored(dbbackup, "bank", tmp_path / f"restored-{number}"))
            assert now > last
            last = now


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_nothing_beside_the_source_changes(dbbackup: Command, tmp_path: Path, mode: str) -> None:
    """Closed by its application, and left open by one that was killed, with a WAL that nobody merged."""
    make(tmp_path / "data" / STRANGE, mode)
    dbbackup.job("closed", tmp_path / "data" / STRANGE, type="sqlite")
    before = snapshot(tmp_path / "data")
    dbbackup.ok("run", "closed")
    assert snapshot(tmp_path / "data") == before
    assert judge(restored(dbbackup, "closed", tmp_path / "one")) == 0
    with writing(tmp_path / "data" / STRANGE) as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    names = os.listdir(tmp_path / "data")
    assert (STRANGE + "-wal" in names) == (mode == "wal")
    dbbackup.ok("run", "closed")
    assert sorted(os.listdir(tmp_path / "data")) in (sorted(names), [STRANGE])
    assert judge(restored(dbbackup, "closed", tmp_path / "two")) >= 49


def test_a_wal_counts_although_no_process_has_it(dbbackup: Command, tmp_path: Path) -> None:
    make(tmp_path / "bank.db", "wal")
    with writing(tmp_path / "bank.db") as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    frames = (tmp_path / "bank.db-wal").read_bytes()
    data = (tmp_path / "bank.db").read_bytes()
    assert frames
    dbbackup.job("bank", tmp_path / "bank.db", type="sqlite")
    dbbackup.ok("run", "bank")
    assert ((tmp_path / "bank.db-wal").read_bytes(), (tmp_path / "bank.db").read_bytes()) == (frames, data)
    assert judge(restored(dbbackup, "bank", tmp_path / "restored")) >= 49


def test_a_wal_without_its_index_is_refused(dbbackup: Command, tmp_path: Path) -> None:
    make(tmp_path / "bank.db", "wal")
    with writing(tmp_path / "bank.db") as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    (tmp_path / "bank.db-shm").unlink()
    dbbackup.job("bank", tmp_path / "bank.db", type="sqlite")
    assert "has a -wal without its -shm" in dbbackup.fails(1, "run", "bank")
    assert not (tmp_path / "bank.db-shm").exists()


@contextmanager
def crashed(path: Path) -> Iterator[None]:
    """A writer was killed when part of its transaction was in the file already."""
    make(path)
    sound = path.read_bytes()
    with writing(path, "stop in the middle") as writer:
        eventually(lambda: path.read_bytes() != sound, "the cache spills into the file")
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert path.with_name(path.name + "-journal").stat().st_size
    yield


def test_what_was_not_committed_is_rolled_back(dbbackup: Command, tmp_path: Path) -> None:
    with crashed(tmp_path / "bank.db"):
        dbbackup.job("bank", tmp_path / "bank.db", type="sqlite")
        dbbackup.ok("run", "bank")
        assert judge(restored(dbbackup, "bank", tmp_path / "restored")) == 0


@pytest.mark.root
def test_what_cannot_be_rolled_back_is_refused(dbbackup: Command, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with crashed(data / "bank.db"), read_only(data):
        dbbackup.job("bank", data / "bank.db", type="sqlite")
        assert "was left in the middle of a transaction" in dbbackup.fails(1, "run", "bank")


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    for command in (["mount", "--bind", directory, directory], ["mount", "-o", "remount,bind,ro", directory]):
        subprocess.run([*map(str, command)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_read_only_file_systems(dbbackup: Command, tmp_path: Path, mode: str) -> None:
    data = tmp_path / "data"
    make(data / "bank.db", mode)
    dbbackup.job("bank", data / "bank.db", type="sqlite")
    with read_only(data):
        dbbackup.ok("run", "bank")
    assert judge(restored(dbbackup, "bank", tmp_path / "restored")) == 0


@pytest.mark.root
def test_an_ordinary_user(dbbackup: Command, tmp_path: Path, saboteur: Saboteur) -> None:
    make(tmp_path / "data/bank.db")
    dbbackup.job("bank", tmp_path / "data/bank.db", type="sqlite")
    dbbackup.repository.mkdir()
    give_away(tmp_path)
    ended = saboteur.run(dbbackup.arguments("run", "bank")[2:], user=NOBODY)
    assert ended.code == 0, ended
    assert judge(restored(dbbackup, "bank", tmp_path / "restored")) == 0


@pytest.mark.root
def test_the_owner_need_not_pass_the_directories_above(dbbackup: Command, tmp_path: Path) -> None:
    """As the owner of a volume below /var/lib/docker; and what root opens stays the owner's."""
    make(tmp_path / "closed/data/bank.db", "wal")
    for path in (tmp_path / "closed/data").rglob("*"):
        os.chown(path, NOBODY, NOBODY)
    os.chown(tmp_path / "closed/data", NOBODY, NOBODY)
    (tmp_path / "closed").chmod(0o700)
    dbbackup.job("bank", tmp_path / "closed/data/bank.db", type="sqlite")
    dbbackup.ok("run", "bank")
    assert {path.stat().st_uid for path in (tmp_path / "closed/data").rglob("*")} == {NOBODY}
    assert judge(restored(dbbackup, "bank", tmp_path / "restored")) == 0


@pytest.mark.parametrize("statement", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"])
def test_a_lock_that_is_held_for_longer(dbbackup: Command, tmp_path: Path, statement: str) -> None:
    make(tmp_path / "bank.db")
    dbbackup.job("bank", tmp_path / "bank.db", type="sqlite", lock_timeout=1)
    with closing(sqlite3.connect(tmp_path / "bank.db", isolation_level=None)) as connection:
        connection.execute(statement)
        begun = time.monotonic()
        assert "is locked by another process" in dbbackup.fails(1, "run", "bank")
        assert time.monotonic() - begun < 30
        connection.execute("ROLLBACK")
    assert dbbackup.backups("bank") == []
    dbbackup.ok("run", "bank")


def test_what_is_no_database(dbbackup: Command, tmp_path: Path) -> None:
    make(tmp_path / "bank.db")
    (tmp_path / "text").write_text("SQL" * 100)
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("bank.db")
    (tmp_path / "future").write_bytes(b"SQLite format 3\0\x10\x00\x03\x03" + bytes(80))
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in (
        ("text", "is not an SQLite database, or an encrypted one"),
        ("empty", "is empty, not an SQLite database"),
        ("link", "is a link"),
        ("future", "unknown SQLite format version 3"),
        ("pipe", "is not a regular file"),
        ("missing", "No such file or directory"),
        ("no/where", "No such file or directory"),
    ):
        dbbackup.job("job", tmp_path / name, type="sqlite")
        assert sentence in dbbackup.fails(1, "run", "job")
    assert dbbackup.backups("job") == []


@pytest.mark.parametrize("damage", ["page", "truncated"])
def test_a_damaged_database_is_not_published(dbbackup: Command, tmp_path: Path, damage: str) -> None:
    make(tmp_path / "bank.db")
    content = (tmp_path / "bank.db").read_bytes()
    page = random.Random(1).randbytes(4096)
    damaged = content[:8192] + page + content[12288:] if damage == "page" else content[: len(content) // 2]
    (tmp_path / "bank.db").write_bytes(damaged)
    dbbackup.job("bank", tmp_path / "bank.db", type="sqlite")
    told = "is not sound and was not published" if damage == "page" else "disk image is malformed"
    assert told in dbbackup.fails(1, "run", "bank")
    assert bytes_of(dbbackup.repository / "bank").keys() <= {".lock", "state.json"}


def test_a_restore_keeps_the_files_beside_aside(dbbackup: Command, tmp_path: Path) -> None:
    make(tmp_path / "bank.db", "wal")
    dbbackup.job("bank", tmp_path / "bank.db", type="sqlite")
    dbbackup.ok("run", "bank")
    with writing(tmp_path / "bank.db") as writer:
        assert "is open in process" in dbbackup.fails(1, "restore", "bank", "--force")
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    shutil.copy(tmp_path / "bank.db-wal", tmp_path / "bank.db-journal")
    frames = (tmp_path / "bank.db-wal").read_bytes()
    aside = dbbackup.ok("restore", "bank", "--force")["aside"]
    assert sorted(Path(path).name.split(".before")[0] for path in aside) == [
        "bank.db",
        "bank.db-journal",
        "bank.db-shm",
        "bank.db-wal",
    ]
    assert [Path(path).read_bytes() for path in aside if "-wal.before" in path] == [frames]
    assert not list(tmp_path.glob("bank.db-???"))
    assert dbbackup.ok("restore", "bank")["changed"] is False
    # The same file with a WAL beside it is another database.
    (tmp_path / "bank.db-wal").write_bytes(frames)
    assert "is not empty" in dbbackup.fails(1, "restore", "bank")


def test_unchanged_databases_are_skipped(dbbackup: Command, tmp_path: Path) -> None:
    for mode in ("delete", "wal"):
        make(tmp_path / f"{mode}.db", mode)
        dbbackup.job(mode, tmp_path / f"{mode}.db", type="sqlite", skip_unchanged=True)
        assert dbbackup.ok("run", mode)["changed"]
        assert dbbackup.ok("run", mode)["skipped"]
        with closing(sqlite3.connect(tmp_path / f"{mode}.db")) as connection:
            connection.execute("UPDATE numbers SET number = 1")
            connection.commit()
            assert dbbackup.ok("run", mode)["changed"]
            assert dbbackup.ok("run", mode)["skipped"]


def test_options_that_make_no_sense(dbbackup: Command, tmp_path: Path) -> None:
    make(tmp_path / "bank.db")
    for options, sentence in (
        ({"lock_timeout": 0}, "lock_timeout 0 is out of range"),
        ({"docker_host": "unix:///x"}, "docker_host is of use only together with container"),
        ({"include": ["/etc/passwd"]}, "give a path relative to the directory of the database"),
        ({"include": ["../x"]}, "is not a path that can be included"),
        ({"include": ["bank.db-wal"]}, "belongs to the database"),
        ({"include": ["a", "a/b"]}, "would be restored to where another entry"),
    ):
        dbbackup.job("bank", tmp_path / "bank.db", type="sqlite", **options)
        done = dbbackup("run", "bank")
        assert sentence in done.stderr, done
        assert done.code in (1, 2), done
