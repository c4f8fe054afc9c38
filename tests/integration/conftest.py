# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests with real parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures import datalevin_application, nrepl_servers
from ansible_collections.embedded.db_backup.tests.saboteur import Saboteur
from ansible_collections.embedded.db_backup.tests.tools import Ansible, Command


@pytest.fixture
def dbbackup(tmp_path: Path) -> Command:
    """bin/dbbackup with a repository and job files of its own."""
    return Command(tmp_path / "repository", tmp_path / "jobs.d")


@pytest.fixture
def repository(dbbackup: Command) -> Path:
    """The directory in which that command keeps backups; it does not exist before the first one."""
    return dbbackup.repository


@pytest.fixture
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """The programs of Ansible."""
    return Ansible(tmp_path_factory.mktemp("ansible"))


@pytest.fixture(scope="module")
def saboteur() -> Iterator[Saboteur]:
    """Runs dbbackup with faults, or as another user."""
    with Saboteur() as server:
        yield server


@contextmanager
def directory_in_memory() -> Iterator[Path]:
    """In memory where that is possible: a thousand runs that wait for a disk take long."""
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory."""
    with directory_in_memory() as directory:
        yield directory


@pytest.fixture(scope="module")
def memory_of_module() -> Iterator[Path]:
    """A directory in memory for all tests of a module."""
    with directory_in_memory() as directory:
        yield directory


@contextmanager
def running(
    factory: pytest.TempPathFactory, start: Callable[..., AbstractContextManager[nrepl_servers.Server]], **options: bool
) -> Iterator[nrepl_servers.Server]:
    """An nREPL server in a directory of its own; the test is skipped where it is missing."""
    try:
        with start(factory.mktemp(start.__name__), **options) as server:
            yield server
    except nrepl_servers.MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nrepl_servers.Server]:
    """Clojure on a JVM, for all tests that do not harm it."""
    with running(tmp_path_factory, nrepl_servers.jvm) as server:
        yield server


@pytest.fixture(scope="session")
def jvm_on_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nrepl_servers.Server]:
    """The same on a unix socket."""
    with running(tmp_path_factory, nrepl_servers.jvm, unix_socket=True) as server:
        yield server


@pytest.fixture(scope="session")
def nbb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nrepl_servers.Server]:
    """ClojureScript on Node.js."""
    with running(tmp_path_factory, nrepl_servers.nbb) as server:
        yield server


@pytest.fixture(scope="session")
def datascript(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nrepl_servers.Server]:
    """DataScript on Node.js."""
    with running(tmp_path_factory, nrepl_servers.nbb_logseq) as server:
        yield server


@pytest.fixture(scope="session")
def basilisp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nrepl_servers.Server]:
    """Clojure on Python."""
    with running(tmp_path_factory, nrepl_servers.basilisp) as server:
        yield server


@pytest.fixture(scope="session")
def datalevin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nrepl_servers.Server]:
    """Datalevin in a JVM."""
    with running(tmp_path_factory, nrepl_servers.datalevin) as server:
        yield server


@pytest.fixture(scope="module")
def busy_datalevin(
    datalevin: nrepl_servers.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[datalevin_application.Writer]:
    """A database of Datalevin that is written to, for all tests of a module."""
    with datalevin_application.writing(datalevin, tmp_path_factory.mktemp("busy") / "kg") as writer:
        yield writer


@pytest.fixture
def jar() -> Path:
    """The jar of Datalevin, which brings its library."""
    found = sorted(nrepl_servers.DATALEVIN.glob("lib/python3*/site-packages/datalevin/jars/datalevin-runtime-*.jar"))
    if not found:
        pytest.skip("needs Datalevin in .venv-datalevin: `.venv/bin/nox -s integration` provides it")
    return found[0].resolve()
