# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports that go to tables of a real SQLite and a real PostgreSQL too, and come back from there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import MissingError as MissingServerError
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import Server, nbb_logseq
from ansible_collections.embedded.db_backup.tests.postgresql import PASSWORD, Cluster, MissingError, postgresql
from ansible_collections.embedded.db_backup.tests.tools import NOBODY, Ansible, Command, hide_libraries, make_reachable

TEXT = '{:a "\U0001f600 \\u0001 \\"quoted\\" \\\\ \u2028" :b [1 2.5 nil]}'
EXPRESSION = json.dumps(TEXT)
ROWS = "SELECT name, data, created_at, sha256 FROM db_backup ORDER BY name"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Who exports."""
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(nbb_logseq(tmp_path_factory.mktemp("nbb")))
        except MissingServerError as missing:
            pytest.skip(str(missing))
        yield started


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL."""
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(postgresql())
        except MissingError as missing:
            pytest.skip(str(missing))
        yield started


@pytest.fixture
def database(cluster: Cluster) -> Cluster:
    """The same without our table."""
    cluster.ask("DROP TABLE IF EXISTS db_backup")
    return cluster


Storing = Callable[..., None]


@pytest.fixture
def storing(dbbackup: Command, server: Server) -> Storing:
    """Makes the job, which stores there."""

    def make(*stores: dict[str, Any], expression: str | None = EXPRESSION, **options: Any) -> None:
        options = {**server.options, "expression": expression, "min_records": 0, "also_to": list(stores), **options}
        file = dbbackup.job("notes", "", type="nrepl", **options)
        file.write_text(file.read_text().replace('"path": "", ', ""))

    return make


def rows(file: Path) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute(ROWS).fetchall()


def test_sqlite_has_a_row_of_each_backup(dbbackup: Command, storing: Storing, tmp_path: Path) -> None:
    file = tmp_path / "%20stores?mode=ro#.db"
    storing({"sqlite": str(file)})
    first, last = dbbackup.ok("run", "notes"), dbbackup.ok("run", "notes")
    assert first["also_in"] == [f"table db_backup of {file}"]
    digest = sha256(TEXT.encode()).hexdigest()
    assert rows(file) == [
        (f"notes/{told['backup']['id']}", TEXT, told["backup"]["timestamp_start"], digest) for told in (first, last)
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    restored = tmp_path / "restored.edn"
    told = dbbackup.ok("restore", "notes", "--from-sqlite", file, "--dest", restored)
    assert (told["backup"]["id"], restored.read_text()) == (last["backup"]["id"], TEXT)
    old = dbbackup.ok("restore", "notes", "--from-sqlite", file, "--id", first["backup"]["id"], "--dest", restored)
    assert (old["backup"]["id"], old["changed"]) == (first["backup"]["id"], False)
    error = dbbackup.fails(10, "restore", "notes", "--from-sqlite", file, "--id", "20200101T000000Z", "--dest", "/x")
    assert error.endswith("has no row of backup 20200101T000000Z of job notes")


def test_postgresql_has_a_row_of_each_backup(
    dbbackup: Command, storing: Storing, database: Cluster, tmp_path: Path
) -> None:
    storing({"postgresql": database.with_password})
    told = [dbbackup.ok("run", "notes") for _unused in range(2)]
    assert told[0]["also_in"] == ["table db_backup of PostgreSQL"]
    found = database.ask("SELECT name, data, created_at AT TIME ZONE 'UTC', sha256 FROM db_backup ORDER BY name")
    times = [one["backup"]["timestamp_start"].rstrip("Z") for one in told]
    assert [(name, data, at.isoformat(timespec="milliseconds"), digest) for name, data, at, digest in found] == [
        (f"notes/{one['backup']['id']}", TEXT, at, sha256(TEXT.encode()).hexdigest())
        for one, at in zip(told, times, strict=True)
    ]
    restored = tmp_path / "restored.edn"
    dbbackup.env["PGPASSWORD"] = PASSWORD
    back = dbbackup.ok("restore", "notes", "--from-postgresql", database.address, "--dest", restored)
    assert (back["backup"]["id"], restored.read_text()) == (told[-1]["backup"]["id"], TEXT)
    error = dbbackup.fails(2, "restore", "notes", "--from-postgresql", database.with_password, "--dest", "/x")
    assert (PASSWORD in error, error) == (
        False,
        "a password does not belong on a command line; use service=name or a password file",
    )


def test_old_rows_of_the_job_are_removed(
    dbbackup: Command, storing: Storing, database: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "stores.db"
    stores = {"sqlite": str(file), "keep_last": 2}, {"postgresql": database.with_password, "keep_last": 1}
    storing(*stores)
    first = dbbackup.ok("run", "notes")["backup"]["id"]
    other = f"INSERT INTO db_backup SELECT 'notes2/{first}', data, created_at, sha256 FROM db_backup"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(other)
    database.ask(other)
    ids = [dbbackup.ok("run", "notes")["backup"]["id"] for _unused in range(2)]
    assert [row[0] for row in rows(file)] == [*(f"notes/{one}" for one in ids), f"notes2/{first}"]
    assert [row[0] for row in database.ask(ROWS)] == [f"notes/{ids[-1]}", f"notes2/{first}"]
    assert len(dbbackup.backups("notes")) == 3


def test_a_store_that_fails_fails_the_run_and_not_the_backup(
    dbbackup: Command, storing: Storing, database: Cluster, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.db", tmp_path / "missing/bad.db"
    wrong = f"{database.address} password='not-the-{PASSWORD[:6]}'"
    storing({"sqlite": str(bad)}, {"sqlite": str(good)}, {"postgresql": wrong, "table": "other"})
    error = dbbackup.fails(1, "run", "notes")
    (made,) = dbbackup.backups("notes")
    assert error.startswith(f"backup {made} is published, but not in every store: table db_backup of {bad} cannot be")
    assert "table other of PostgreSQL" in error
    assert "password authentication failed" in error
    assert [row[0] for row in rows(good)] == [f"notes/{made}"]
    state = dbbackup.state("notes")
    assert (state["last_attempt"]["status"], state["last_attempt"]["message"]) == ("failed", error)
    assert state["last_success"]["id"] == made
    dbbackup.ok("verify", "notes")
    assert_nothing_tells(dbbackup, "not-the-", error)


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://postgres:{'p@ss'}word@localhost/x",
        "pass word is secretword",
        "host=/nowhere password=secretword",
        "postgresql://u:secretword@/x?host=/nowhere",
        "postgresql://u:secretword@localhost:1/x",
        "postgresql://u:secretword@localhost:port/x",
        "password=secretword",
        "host=secretword.invalid password=secretword",
        "service=secretword",
    ],
)
def test_no_message_tells_a_password(dbbackup: Command, storing: Storing, address: str) -> None:
    storing({"postgresql": address})
    done = dbbackup("run", "notes", "--json")
    assert done.code == 1
    told = done.stdout + done.stderr
    assert "is published, but not in every store: " in told
    if not address.startswith("service"):
        assert_nothing_tells(dbbackup, "secretword", told)
        assert_nothing_tells(dbbackup, "ssword@", told)


def assert_nothing_tells(dbbackup: Command, secret: str, told: str) -> None:
    """Neither what was said nor what is in the repository."""
    assert secret not in told
    for path in dbbackup.repository.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_server_that_is_silent_is_left(dbbackup: Command, storing: Storing, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / ".s.PGSQL.5432"))
        silent.listen()
        storing({"postgresql": f"host={tmp_path} user=x"})
        assert "table db_backup of PostgreSQL: " in dbbackup.fails(1, "run", "notes")


@pytest.mark.parametrize("table", ["a b", 'a"; DROP TABLE x; --', "1a", "", "a" * 64, "tablé", "a.b", "a\n", "<table>"])
def test_names_of_tables_are_plain(dbbackup: Command, storing: Storing, table: str, tmp_path: Path) -> None:
    file = tmp_path / "stores.db"
    storing({"sqlite": str(file), "table": table})
    assert "is not 1 to 63 letters" in dbbackup.fails(2, "run", "notes")
    assert "is not 1 to 63 letters" in dbbackup.fails(2, "restore", "notes", "--from-sqlite", file, "--table", table)
    assert (file.exists(), dbbackup.backups("notes")) == (False, [])


def test_a_name_may_mean_something_in_sql(
    dbbackup: Command, storing: Storing, cluster: Cluster, tmp_path: Path
) -> None:
    storing(*({place: at, "table": "Select"} for place, at in each_store(cluster, tmp_path).items()))
    dbbackup.ok("run", "notes")
    assert cluster.ask('SELECT data FROM "Select"') == [(TEXT,)]
    cluster.ask('DROP TABLE "Select"')


def each_store(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    return {"sqlite": str(tmp_path / "stores.db"), "postgresql": cluster.with_password}


@pytest.mark.parametrize(
    "store",
    [
        {},
        {"sqlite": "/x", "postgresql": "service=x"},
        {"sqlite": "/x", "keep_last": -1},
        {"sqlite": "/x", "tabel": "a"},
    ],
)
def test_of_a_store_that_makes_no_sense_nothing_is_made(
    dbbackup: Command, storing: Storing, store: dict[str, Any]
) -> None:
    storing(store)
    dbbackup.fails(2, "run", "notes")
    assert dbbackup.backups("notes") == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("data", "{:a 1}"), ("sha256", "0" * 64), ("sha256", ""), ("name", "notes/../../x"), ("name", "notes/")],
)
def test_a_row_that_was_changed_is_refused(dbbackup: Command, storing: Storing, column: str, value: str) -> None:
    file, restored = dbbackup.jobs.parent / "stores.db", dbbackup.jobs.parent / "restored.edn"
    problem = "is not JOB/ID of a backup" if column == "name" else "not have the SHA-256 that stands beside it"
    storing({"sqlite": str(file)})
    dbbackup.ok("run", "notes")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(f"UPDATE db_backup SET {column} = ?", (value,))
    assert problem in dbbackup.fails(1, "restore", "notes", "--from-sqlite", file, "--dest", restored)
    assert not restored.exists()


def test_a_log_of_transactions_is_not_stored(dbbackup: Command, storing: Storing, tmp_path: Path) -> None:
    of_log = {"database": "datascript", "connection": "a/b", "content": "tx_log"}
    storing({"sqlite": str(tmp_path / "stores.db")}, expression=None, **of_log)
    assert "takes whole exports, and content tx_log makes increments" in dbbackup.fails(2, "run", "notes")


def test_what_is_no_database_is_told(dbbackup: Command, storing: Storing, tmp_path: Path) -> None:
    file = tmp_path / "stores.db"
    file.write_text("no database, and never was one" * 100)
    content = file.read_bytes()
    storing({"sqlite": str(file)})
    assert "file is not a database" in dbbackup.fails(1, "run", "notes")
    assert "file is not a database" in dbbackup.fails(1, "restore", "notes", "--from-sqlite", file, "--dest", "/x")
    assert file.read_bytes() == content
    missing = tmp_path / "missing.db"
    assert "unable to open" in dbbackup.fails(1, "restore", "notes", "--from-sqlite", missing, "--dest", "/x")
    assert not missing.exists()


@pytest.mark.root
def test_root_does_not_follow_the_links_of_others(dbbackup: Command, storing: Storing, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, for another owner: run as root")
    theirs, secret = tmp_path / "theirs", tmp_path / "secret.db"
    theirs.mkdir()
    make_reachable(theirs)
    with contextlib.closing(sqlite3.connect(secret, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a)")
    secret.chmod(0o600)
    before = secret.read_bytes()
    (theirs / "stores.db").symlink_to(secret)
    os.chown(theirs, NOBODY, NOBODY)
    storing({"sqlite": str(theirs / "stores.db")})
    assert "unable to open" in dbbackup.fails(1, "run", "notes")
    assert secret.read_bytes() == before
    (theirs / "stores.db").unlink()
    dbbackup.ok("run", "notes")
    assert (theirs / "stores.db").stat().st_uid == NOBODY


def test_without_psycopg_it_is_named(dbbackup: Command, storing: Storing, tmp_path: Path) -> None:
    storing({"postgresql": "service=x"})
    dbbackup.env.update(hide_libraries(tmp_path / "hidden", "psycopg"))
    assert "needs the Python library psycopg 3" in dbbackup.fails(1, "run", "notes")
    assert len(dbbackup.backups("notes")) == 1


def test_a_run_that_waits_for_a_store_can_be_ended(dbbackup: Command, storing: Storing, tmp_path: Path) -> None:
    file = tmp_path / "stores.db"
    storing({"sqlite": str(file)})
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with subprocess.Popen(dbbackup.arguments("run", "notes"), stderr=subprocess.PIPE) as run:
            while not dbbackup.backups("notes"):
                assert run.poll() is None
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) in (0, 130)
    (made,) = dbbackup.backups("notes")
    dbbackup.ok("verify", "notes", "--id", made)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchall() == [(0,)]


def test_the_modules(dbbackup: Command, ansible: Ansible, server: Server, database: Cluster, tmp_path: Path) -> None:
    stores = [{place: at} for place, at in each_store(database, tmp_path).items()]
    given: dict[str, Any] = {"name": "notes", "repository": str(dbbackup.repository)}
    job = {**given, **server.options, "expression": EXPRESSION, "min_records": 0, "also_to": stores}
    told = ansible.module("embedded.db_backup.nrepl_export", **job)
    assert told["also_in"] == [f"table db_backup of {tmp_path}/stores.db", "table db_backup of PostgreSQL"]
    for number, store in enumerate(stores):
        restored = tmp_path / f"restored{number}.edn"
        one = {**given, "from": store, "dest": str(restored)}
        assert ansible.module("embedded.db_backup.backup_restore", **one)["changed"]
        assert restored.read_text() == TEXT
        assert not ansible.module("embedded.db_backup.backup_restore", **one)["changed"]
