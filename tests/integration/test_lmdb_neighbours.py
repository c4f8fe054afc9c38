# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications beside which nobody reads as usual: of another C library, in other PID namespaces, with a closed lock.

Each of them goes on writing during and after every backup, whatever becomes of that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.backup import back_up
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.lmdb import company, copying
from ansible_collections.embedded.db_backup.tests.fixtures import musl_application
from ansible_collections.embedded.db_backup.tests.tools import Command, as_ordinary_user, eventually, process

MUTEXES = slice(8, 128)
# Commits five times a second and notes it in a ledger, after it has looked whether all is as it left it.
GENTLE = """
import lmdb, os, sys, time
environment = lmdb.open(sys.argv[1], map_size=64 << 20)
number = 0
while True:
    with environment.begin() as transaction:
        if any(int(transaction.get(b"%d" % key, b"0")) != number for key in range(64)):
            os._exit(3)
    number += 1
    with environment.begin(write=True) as transaction:
        for key in range(64):
            transaction.put(b"%d" % key, b"%d" % number)
    with open(sys.argv[2], "a") as ledger:
        ledger.write("%d 0\\n" % number)
    time.sleep(0.2)
"""
OPENED = """
import fcntl, sys, time
lock = open(sys.argv[1], "r+b")
fcntl.lockf(lock, fcntl.LOCK_SH, 1, 0)
print("ready", flush=True)
time.sleep(1000)
"""
IN_ITS_OWN_NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Application:
    """An application that writes as long as the with statement goes on."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self.data, self.ledger = directory / "data", directory / "ledger"
        self.data.mkdir()
        self.ledger.touch()
        self._command = [*command, str(self.data), str(self.ledger)]

    @contextlib.contextmanager
    def working(self) -> Iterator[Application]:
        with process(self._command) as self.process:
            self.goes_on()
            yield self
            self.goes_on()

    def acknowledged(self) -> int:
        lines = self.ledger.read_text().split("\n")[:-1]
        return int(lines[-1].split()[0]) if lines else 0

    def goes_on(self) -> None:
        before = self.acknowledged()
        eventually(lambda: self.acknowledged() > before + 1, "the application goes on")
        assert self.process.poll() is None


def application_of_this_host(directory: Path) -> Application:
    return Application([sys.executable, "-c", GENTLE], directory)


def application_elsewhere(directory: Path) -> Application:
    """One that is process 1 of its own namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make PID namespaces: run it as root")
    return Application([*IN_ITS_OWN_NAMESPACE, sys.executable, "-c", GENTLE], directory)


def number_in(copy: Path) -> int:
    """The last commit that a copy holds; all its records tell the same."""
    opened = contextlib.closing(lmdb.open(str(copy), readonly=True, lock=False))
    with opened as environment, environment.begin() as transaction:
        (only,) = {value for _key, value in transaction.cursor()}
    return int(only) if only.isdigit() else int(struct.unpack("<Q", only)[0])


def backed_up(command: Command, job: str, application: Application, place: Path) -> dict[str, str]:
    """Back up and restore beside the application; returns what the manifest tells of the environment."""
    acknowledged = application.acknowledged()
    (environment,) = command.ok("run", job)["backup"]["source"]["environments"]
    application.goes_on()
    command.ok("restore", job, "--dest", place)
    assert number_in(place) >= acknowledged
    shutil.rmtree(place)
    return dict(environment)


class TestMusl:
    def test_its_mutexes_are_left_alone(self, dbbackup: Command, tmp_path: Path) -> None:
        """A reader of glibc takes them for locked, waits for ever, and has changed their kind by then."""
        try:
            program = musl_application.program()
        except musl_application.MissingError as missing:
            pytest.skip(str(missing))
        with Application([str(program)], tmp_path).working() as application:
            mutexes = (application.data / "lock.mdb").read_bytes()[MUTEXES]
            assert mutexes[0] == 0x84
            dbbackup.job("kg", application.data, timeout=20)
            environment = backed_up(dbbackup, "kg", application, tmp_path / "restored")
            assert environment["method"] == "optimistic"
            assert "is used through musl" in environment["reason"]
            dbbackup.job("hot", application.data, method="hot", timeout=20)
            assert "is used through musl" in dbbackup.fails(1, "run", "hot")
            application.goes_on()
            dbbackup.job("frozen", application.data, method="freeze")
            assert backed_up(dbbackup, "frozen", application, tmp_path / "restored")["method"] == "freeze"
            assert (application.data / "lock.mdb").read_bytes()[MUTEXES][:4] == mutexes[:4]


class TestNamespaces:
    def test_a_reader_on_the_host_is_as_good_as_any(self, dbbackup: Command, tmp_path: Path) -> None:
        with application_elsewhere(tmp_path).working() as application:
            found = company.company_of(application.data / "lock.mdb")
            assert not found.is_hidden
            assert 1 in found.numbers
            dbbackup.job("kg", application.data)
            assert backed_up(dbbackup, "kg", application, tmp_path / "restored")["method"] == "hot"

    def test_who_has_not_read_yet_has_a_number_too(self, tmp_path: Path) -> None:
        """It may read any moment, and holds the lock that mdb_env_open takes."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to make PID namespaces: run it as root")
        lock = tmp_path / "lock.mdb"
        lock.write_bytes(bytes(8192))
        with process(
            [*IN_ITS_OWN_NAMESPACE, sys.executable, "-c", OPENED, str(lock)], stdout=subprocess.PIPE
        ) as opener:
            assert opener.stdout
            assert opener.stdout.readline() == b"ready\n"
            assert company.company_of(lock) == company.Company(frozenset([1]))

    def test_those_of_this_one_have_the_numbers_that_are_known(self, tmp_path: Path) -> None:
        with application_of_this_host(tmp_path).working() as application:
            assert company.company_of(application.data / "lock.mdb") == company.Company()

    def test_who_cannot_be_seen_is_not_joined(self, dbbackup: Command, tmp_path: Path) -> None:
        with application_elsewhere(tmp_path).working() as application:
            for method, advice in {"hot": "use method auto or optimistic", "freeze": "name the container"}.items():
                dbbackup.job(method, application.data, method=method)
                command = [*IN_ITS_OWN_NAMESPACE, *dbbackup.arguments("run", method)]
                refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
                assert refused.returncode == 1
                assert "data.mdb is open in a process of another container" in refused.stderr
                assert advice in refused.stderr
                application.goes_on()

    def test_a_number_that_is_taken_is_not_used(
        self, dbbackup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first child gets the number of the application; it does not open the environment, and another is made."""
        tried = tmp_path / "tried"
        tried.mkdir()

        def number() -> int:
            (tried / str(len(list(tried.iterdir())))).touch()
            return 1 if len(list(tried.iterdir())) == 1 else 1 << 22

        with application_elsewhere(tmp_path).working() as application:
            dbbackup.job("kg", application.data)
            job = jobs.load(dbbackup.jobs, "kg")
            monkeypatch.setattr(copying, "_own_number", number)
            (environment,) = back_up(job).backup["source"]["environments"]
            assert environment["method"] == "hot"
            assert len(list(tried.iterdir())) == 2


class TestClosedLock:
    def test_it_is_neither_opened_nor_changed(self, dbbackup: Command, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to run as a user who may not read the lock file: run it as root")
        with application_of_this_host(tmp_path).working() as application:
            lock, data = application.data / "lock.mdb", application.data / "data.mdb"
            lock.chmod(0o600)
            data.chmod(0o644)
            dbbackup.repository.mkdir()
            for method in ("auto", "hot"):
                dbbackup.job(method, application.data, method=method)

            def run(name: str) -> str:
                job = jobs.load(dbbackup.jobs, name)
                return json.dumps(back_up(job).backup["source"]["environments"][0])

            environment = json.loads(as_ordinary_user(lambda: run("auto"), dbbackup.repository))
            assert environment["method"] == "optimistic"
            assert "lock.mdb cannot be read: Permission denied" in environment["reason"]
            told = as_ordinary_user(lambda: run("hot"), dbbackup.repository)
            assert "lock.mdb cannot be read: Permission denied; use method auto or optimistic" in told
