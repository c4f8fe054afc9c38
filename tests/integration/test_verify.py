# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifications where nothing can or may be written, and how long the process that reads a copy may be silent."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.verify import verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.processes import Report
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.lmdb import library
from ansible_collections.embedded.db_backup.tests.saboteur import Fault, Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    NOBODY,
    Ansible,
    Command,
    give_away,
    make_environment,
    snapshot,
)


@pytest.fixture
def stored(dbbackup: Command, tmp_path: Path) -> Path:
    """The stored file of a backup."""
    make_environment(tmp_path / "source")
    dbbackup.job("kg", tmp_path / "source")
    return Path(dbbackup.ok("run", "kg")["path"]) / "data.mdb.zst"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    return place


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """The directory on a file system that cannot be written to."""
    command = ["mount", "--bind", "-o", "ro", str(directory), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here ({done.stderr.strip()}): run the tests with CAP_SYS_ADMIN")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def damage(stored: Path) -> None:
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")


@pytest.mark.root
def test_a_repository_that_is_read_only_is_verified(dbbackup: Command, stored: Path, temporary: Path) -> None:
    with read_only(dbbackup.repository):
        result = dbbackup.ok("verify", "kg")
        assert result["opened"]
        (warning,) = result["warnings"]
        assert "passed could not be remembered" in warning
        assert "Read-only file system" in warning
    damage(stored)
    with read_only(dbbackup.repository):
        sentence = dbbackup.fails(1, "verify", "kg")
    assert sentence.index("data.mdb.zst: ") < sentence.index("failed could not be remembered")
    assert os.listdir(temporary) == []


@pytest.mark.root
def test_a_repository_of_another_user_is_verified(
    dbbackup: Command, stored: Path, temporary: Path, saboteur: Saboteur
) -> None:
    give_away(temporary)
    for path in (dbbackup.repository, *dbbackup.repository.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    arguments = [*dbbackup.arguments("verify", "kg")[2:], "--json"]
    before = snapshot(dbbackup.repository)
    ended = saboteur.run(arguments, user=NOBODY)
    assert ended.code == 0, ended
    assert '"opened": true' in ended.stdout
    damage(stored)
    ended = saboteur.run(arguments, user=NOBODY)
    assert ended.code == 1
    assert ended.stderr.index("data.mdb.zst: ") < ended.stderr.index("failed could not be remembered")
    assert snapshot(dbbackup.repository).keys() == before.keys()
    assert os.listdir(temporary) == []


@pytest.mark.usefixtures("stored")
def test_check_mode_leaves_no_trace(ansible: Ansible, dbbackup: Command) -> None:
    before = snapshot(dbbackup.repository)
    result = ansible.module("backup_verify", "--check", name="kg", repository=str(dbbackup.repository))
    assert result["opened"]
    assert snapshot(dbbackup.repository) == before


@pytest.mark.usefixtures("stored")
def test_the_copy_is_unpacked_elsewhere_when_nothing_is_remembered(dbbackup: Command, temporary: Path) -> None:
    before = snapshot(dbbackup.repository)
    assert verify(Repository(dbbackup.repository).job("kg"), remember=False).opened
    assert snapshot(dbbackup.repository) == before
    assert os.listdir(temporary) == []


class TestTimeout:
    @pytest.mark.usefixtures("stored")
    def test_of_a_verification(self, dbbackup: Command, saboteur: Saboteur) -> None:
        arguments = [*dbbackup.arguments("verify", "kg")[2:], "--timeout", "1"]
        ended = saboteur.run(arguments, Fault("SIGSTOP", 4, process=1))
        assert (ended.code, ended.struck) == (1, True)
        assert "gave no sign of life for 1 seconds" in ended.stderr
        verified = Repository(dbbackup.repository).job("kg").state().verified.values()
        assert [verification.status for verification in verified if verification.status == "failed"] == []

    def test_of_a_restore_of_what_was_never_opened(self, dbbackup: Command, saboteur: Saboteur, tmp_path: Path) -> None:
        make_environment(tmp_path / "source")
        dbbackup.job("kg", tmp_path / "source", verify=False)
        dbbackup.ok("run", "kg")
        arguments = [*dbbackup.arguments("restore", "kg", "--dest", tmp_path / "dest")[2:], "--timeout", "1"]
        ended = saboteur.run(arguments, Fault("SIGSTOP", 4, process=1))
        assert (ended.code, ended.struck) == (1, True)
        assert "gave no sign of life for 1 seconds" in ended.stderr
        assert not (tmp_path / "dest").exists()

    @pytest.mark.usefixtures("stored")
    @pytest.mark.parametrize("timeout", [0, -1, 86401])
    def test_out_of_range(self, dbbackup: Command, ansible: Ansible, tmp_path: Path, timeout: int) -> None:
        for command in (["verify", "kg"], ["restore", "kg", "--dest", tmp_path / "dest"]):
            assert "timeout" in dbbackup.fails(2, *command, f"--timeout={timeout}")
        options = {"name": "kg", "repository": str(dbbackup.repository), "timeout": timeout}
        for module, more in (("backup_verify", {}), ("backup_restore", {"dest": str(tmp_path / "dest")})):
            assert ansible.failure(module, **options, **more)["exit_code"] == 2


@pytest.mark.parametrize("count", [5000, 1])
def test_a_scan_over_many_names_gives_signs_of_life(tmp_path: Path, count: int) -> None:
    """Plain records of the main database are looked at too, as any of them could be the name of a database."""
    with lmdb.open(str(tmp_path), map_size=64 << 20) as environment, environment.begin(write=True) as transaction:
        for number in range(count):
            transaction.put(b"%08d" % number, b"plain")
    signs = []

    class Witness(Report):
        def alive(self) -> None:
            signs.append(True)

    with lmdb.open(str(tmp_path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert library._names(Witness(-1, -1), transaction) == []
    assert len(signs) == -(-count // library._BATCH)
