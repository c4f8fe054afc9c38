# SPDX-License-Identifier: GPL-3.0-or-later
"""Datalevin, copied by the process that has it open: real Datalevin under load, and servers that do not do it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures.datalevin_application import Writer
from ansible_collections.embedded.db_backup.tests.nrepl_exports import literal
from ansible_collections.embedded.db_backup.tests.nrepl_fakes import Conversation, Play, fake_server
from ansible_collections.embedded.db_backup.tests.tools import Command, eventually, make_environment, process

BACKUPS = 20
REFUSED = "was not copied by its application"
NO_LIBRARY = "there is no library that reads it"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Where the server puts its copies."""
    directory = tmp_path / "shared"
    directory.mkdir()
    return directory


@contextmanager
def copying(writer: Writer, function: str) -> Iterator[None]:
    """Have the application copy by another function; real does what it did before."""
    try:
        writer.server.evaluate(
            f"(let [real @#'datalevin.core/copy] (def real-copy real)"
            f" (alter-var-root #'datalevin.core/copy (constantly {function})) nil)"
        )
        yield
    finally:
        writer.server.evaluate("(do (alter-var-root #'datalevin.core/copy (constantly user/real-copy)) nil)")


def nothing_is_left(dbbackup: Command, shared: Path) -> bool:
    return os.listdir(shared) == [] and not list(dbbackup.repository.glob("kg/2*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_copy_by_the_application_opens_in_datalevin(
    busy_datalevin: Writer, jar: Path, dbbackup: Command, tmp_path: Path, shared: Path
) -> None:
    writer, path = busy_datalevin, busy_datalevin.path
    server = {**writer.server.options, "directory": str(shared)}
    before = writer.server.sessions()
    dbbackup.job("by-path", path, **server)
    dbbackup.job("by-var", path, **server, method="nrepl", connection="user/conn", library=str(jar), compact=True)
    for number in range(BACKUPS):
        job, restored = ("by-path", "by-var")[number % 2], tmp_path / f"restored-{number}"
        acknowledged = writer.acknowledged()
        told = dbbackup.ok("run", job)
        backup = told["backup"]
        assert backup["backup"]["copied_by"].startswith("Datalevin 1.")
        (environment,) = backup["source"]["environments"]
        opened = job == "by-var"
        assert (environment["method"], environment["reason"]) == ("nrepl", "method is nrepl" if opened else NO_LIBRARY)
        assert backup["check"]["read_back"]
        assert backup["check"]["opened"] == opened
        assert bool(environment["databases"]) == opened
        assert [NO_LIBRARY in warning for warning in told["warnings"]] == ([] if opened else [True])
        assert environment["position"]["start"] > 100
        dbbackup.ok("restore", job, "--dest", restored)
        assert (restored / "VERSION").read_bytes() == (path / "VERSION").read_bytes()
        assert writer.judge(restored) >= acknowledged
        shutil.rmtree(restored)
    assert os.listdir(shared) == []
    assert writer.server.sessions() == before
    writer.goes_on()


HALF = '(do (spit (str dest "/data.mdb") (apply str (repeat 9000 "x"))) <then>)'
CUT = """(with-open [file (java.io.RandomAccessFile. (str dest "/data.mdb") "rw")]
           (.setLength file (- (.length file) 4096)))"""
LINK = """(java.nio.file.Files/createSymbolicLink
            (.toPath (java.io.File. dest "data.mdb")) (.toPath (java.io.File. "/etc/passwd"))
            (make-array java.nio.file.attribute.FileAttribute 0))"""
DELIVERS: dict[str, tuple[str, str]] = {
    "throws half way": (
        HALF.replace("<then>", '(throw (ex-info "the disk is on fire" {}))'),
        f"{REFUSED}: .*the disk is on fire",
    ),
    "writes something else": (HALF.replace("<then>", "nil"), "is not a whole environment"),
    "writes nothing": ("nil", "it needs a directory that is the same one for both"),
    "cuts it off": (f"(do (real-copy db dest false) {CUT})", "is not a whole environment"),
    "writes a link": (LINK, "Too many levels of symbolic links"),
    "hangs": (HALF.replace("<then>", "@(promise)"), f"{REFUSED}: .*the 2 seconds for it are over"),
}


@pytest.mark.parametrize("kind", DELIVERS)
def test_what_the_application_does_not_copy_is_no_backup(
    kind: str, busy_datalevin: Writer, dbbackup: Command, shared: Path
) -> None:
    body, words = DELIVERS[kind]
    dbbackup.job("kg", busy_datalevin.path, **busy_datalevin.server.options, directory=str(shared), timeout=2)
    with busy_datalevin.going_on(), copying(busy_datalevin, f"(fn [db ^String dest compact] {body})"):
        told = dbbackup.fails(1, "run", "kg")
    assert re.search(words, told)
    assert nothing_is_left(dbbackup, shared)


def test_an_older_copy_is_not_taken_for_a_new_one(
    busy_datalevin: Writer, dbbackup: Command, tmp_path: Path, shared: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    busy_datalevin.server.evaluate(f"(do (datalevin.core/copy (datalevin.core/datalog-kv conn) {literal(old)}) nil)")
    busy_datalevin.goes_on()
    put = f'(clojure.java.io/copy (java.io.File. {literal(old / "data.mdb")}) (java.io.File. dest "data.mdb"))'
    dbbackup.job("kg", busy_datalevin.path, **busy_datalevin.server.options, directory=str(shared))
    with copying(busy_datalevin, f"(fn [db ^String dest compact] {put})"):
        assert "as it was in this run" in dbbackup.fails(1, "run", "kg")
    assert nothing_is_left(dbbackup, shared)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "no such var": ({"connection": "user/no-such"}, "there is no user/no-such"),
    "another database": ({"connection": "user/other"}, "the database that it has open is in"),
    "no database": ({"connection": "user/checksum"}, REFUSED),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_var_that_does_not_hold_this_database(
    kind: str, busy_datalevin: Writer, dbbackup: Command, tmp_path: Path, shared: Path
) -> None:
    options, sentence = OTHERS[kind]
    server = busy_datalevin.server
    server.evaluate(f"(do (def other (d/create-conn {literal(tmp_path / 'other')})) nil)")
    dbbackup.job("kg", busy_datalevin.path, **server.options, directory=str(shared), **options)
    try:
        with busy_datalevin.going_on():
            assert sentence in dbbackup.fails(1, "run", "kg")
    finally:
        server.evaluate("(do (d/close other) nil)")
    assert nothing_is_left(dbbackup, shared)
    # Closed now, it is not open in that process any more.
    dbbackup.job("kg", tmp_path / "other", **server.options, directory=str(shared))
    assert "no database is open in" in dbbackup.fails(1, "run", "kg")


def test_a_killed_backup_leaves_a_directory_that_the_next_one_removes(
    busy_datalevin: Writer, dbbackup: Command, shared: Path
) -> None:
    dbbackup.job("kg", busy_datalevin.path, **busy_datalevin.server.options, directory=str(shared))
    with busy_datalevin.going_on():
        hanging = f"(fn [db ^String dest compact] {HALF.replace('<then>', '@(promise)')})"
        with copying(busy_datalevin, hanging), process(dbbackup.arguments("run", "kg")) as run:
            eventually(lambda: list(shared.glob("*/data.mdb")), "the copy begins")
            run.send_signal(signal.SIGKILL)
            run.wait()
        assert list(shared.glob("*/data.mdb"))
        dbbackup.ok("run", "kg")
    assert os.listdir(shared) == []


@pytest.mark.root
def test_a_full_disk_where_the_copy_goes(busy_datalevin: Writer, dbbackup: Command, shared: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", str(shared)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a tmpfs: give the tests the capability SYS_ADMIN to include it")
    try:
        dbbackup.job("kg", busy_datalevin.path, **busy_datalevin.server.options, directory=str(shared))
        with busy_datalevin.going_on():
            assert "No space left on device" in dbbackup.fails(1, "run", "kg")
        assert nothing_is_left(dbbackup, shared)
    finally:
        subprocess.run(["umount", "--lazy", str(shared)], check=True)


def says(*values: str, then: Callable[[Conversation], None] = Conversation.hang) -> Play:
    """Answers to one evaluation after the other with these values."""

    def play(conversation: Conversation) -> None:
        conversation.give_session()
        for value in values:
            conversation.tell(value=value, status=["done"])
            conversation.hear()
        then(conversation)

    return play


LIES: dict[str, tuple[Play, str]] = {
    "is killed": (says('""', then=Conversation.reset), REFUSED),
    "falls silent": (says('""'), "the 1 seconds for it are over"),
    "says that it is done": (says('""', '"Datalevin 1.2.8"'), "it needs a directory that is the same one for both"),
    "says something else": (says('""', '"rm -rf /"'), "which is nothing that it was asked for"),
    "gives no text": (says(":done"), "which is nothing that it was asked for"),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_server_that_is_none(kind: str, busy_datalevin: Writer, dbbackup: Command, shared: Path) -> None:
    play, sentence = LIES[kind]
    with fake_server(play) as (port, _conversations), busy_datalevin.going_on():
        dbbackup.job("kg", busy_datalevin.path, port=port, directory=str(shared), timeout=1)
        assert sentence in dbbackup.fails(1, "run", "kg")
    assert nothing_is_left(dbbackup, shared)


def test_method_nrepl_is_for_datalevin_alone(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "plain")
    dbbackup.job("kg", tmp_path / "plain", method="nrepl", port=1)
    assert "is not a database of Datalevin" in dbbackup.fails(1, "run", "kg")
    # What else can be copied needs no server.
    dbbackup.job("kg", tmp_path / "plain", port=1)
    assert dbbackup.ok("run", "kg")["backup"]["backup"]["method"] == "hot"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "nrepl"}, "a server is named by port, socket or port_file"),
        ({"connection": "my.app/conn"}, "a server is named by port, socket or port_file"),
        ({"port": 0}, "port 0 is out of range"),
        ({"port": 7888, "method": "freeze"}, "method freeze asks no server"),
        ({"port": 7888, "connection": "(evil)"}, "is not a name with its namespace"),
        ({"port": 7888, "directory": "here"}, "directory here is not absolute"),
        ({"port": 7888, "directory": "/srv/kg/exchange"}, "is in /srv/kg, which is backed up"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], sentence: str, dbbackup: Command) -> None:
    dbbackup.job("kg", "/srv/kg", **options)
    assert sentence in dbbackup.fails(2, "run", "kg")
