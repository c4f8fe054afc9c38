# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs and backups in their directories; locks and states beside them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import (
    LockedError,
    NotFoundError,
    UsageError,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import inform, prune
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository import locks, state
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import (
    JobDirectory,
    Repository,
    default_repository,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import Policy
from ansible_collections.embedded.db_backup.tests.tools import NOBODY, as_ordinary_user, process, snapshot

HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_SH if sys.argv[2] == "shared" else fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, how: str = "alone") -> Iterator[subprocess.Popen[bytes]]:
    """Another process holds the lock of a file or directory."""
    command = [sys.executable, "-c", HOLD, str(path), how]
    with process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield holder


class TestLocks:
    def test_file_is_held_by_one(self, tmp_path: Path) -> None:
        path = tmp_path / ".lock"
        with locks.locked_file(path, "job kg"):
            assert locks.is_held(path)
            assert path.read_text() == f"{os.getpid()}\n"
            with pytest.raises(LockedError, match=f"job kg is in use by process {os.getpid()}; try again"):
                with_lock(lambda: locks.locked_file(path, "job kg"))
        assert not locks.is_held(path)
        with_lock(lambda: locks.locked_file(path, "job kg"))
        assert path.stat().st_mode & 0o777 == 0o600

    def test_ends_with_the_process_that_held_it(self, tmp_path: Path) -> None:
        path = tmp_path / ".lock"
        path.write_text("4711\n")
        with held(path) as holder:
            with pytest.raises(LockedError, match="process 4711"):
                with_lock(lambda: locks.locked_file(path, "job kg"))
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            with_lock(lambda: locks.locked_file(path, "job kg"))

    def test_looking_creates_nothing(self, tmp_path: Path) -> None:
        assert not locks.is_held(tmp_path / ".lock")
        assert list(tmp_path.iterdir()) == []

    def test_a_link_is_no_lock(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_text("precious")
        (tmp_path / ".lock").symlink_to("elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            with_lock(lambda: locks.locked_file(tmp_path / ".lock", "job kg"))
        assert (tmp_path / "elsewhere").read_text() == "precious"

    def test_a_second_name_of_another_file_is_no_lock(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_text("precious")
        os.link(tmp_path / "elsewhere", tmp_path / ".lock")
        with pytest.raises(UsageError, match=r"\.lock is no lock file"):
            with_lock(lambda: locks.locked_file(tmp_path / ".lock", "job kg"))
        assert (tmp_path / "elsewhere").read_text() == "precious"

    @pytest.mark.parametrize(
        ("theirs", "shared", "refused"),
        [("shared", True, False), ("shared", False, True), ("alone", True, True), ("alone", False, True)],
    )
    def test_directories_have_readers(self, tmp_path: Path, theirs: str, shared: bool, refused: bool) -> None:
        with held(tmp_path, theirs):
            if refused:
                with pytest.raises(LockedError, match="the place is in use by another process"):
                    with_lock(lambda: locks.locked_directory(tmp_path, "the place", shared))
            else:
                with_lock(lambda: locks.locked_directory(tmp_path, "the place", shared))
            assert not locks.is_dead(tmp_path)
        assert locks.is_dead(tmp_path)


def with_lock(lock: Callable[[], Any]) -> None:
    with lock():
        pass


def write_state(directory: Path, written: state.State) -> None:
    with locks.briefly_locked(directory) as descriptor:
        state.write(descriptor, written)


class TestState:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"[" * 100_000,
            b"null",
            b"\xff",
            b'{"verified": []}',
            b'{"surprise": 1}',
            b'{"last_attempt": {"at": 1}}',
        ],
        ids=lambda content: repr(content[:20]),
    )
    def test_damaged_is_no_error(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "state.json").write_bytes(content)
        assert state.read(tmp_path) == state.State()
        with JobDirectory(tmp_path).changed_state() as changed:
            changed.last_attempt = state.Attempt("2026-11-21T01:30:00.000Z", "failed")
        found = state.read(tmp_path).last_attempt
        assert found
        assert found.status == "failed"

    def test_there_and_back(self, tmp_path: Path) -> None:
        attempt = state.Attempt("2026-11-21T01:30:00.000Z", "succeeded", "20261121T013000Z", "mes\nsage \ud800")
        verified = {"20261121T013000Z": state.Verification("2026-11-21T01:30:00.000Z", "failed", "why")}
        written = state.State(attempt, attempt, attempt, attempt, verified, verified)
        write_state(tmp_path, written)
        assert state.read(tmp_path) == written
        assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
        assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600

    def test_what_cannot_be_written_leaves_the_old(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_state(tmp_path, state.State(state.Attempt("2026-11-21T01:30:00.000Z", "succeeded")))
        before = snapshot(tmp_path)

        def fail(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            write_state(tmp_path, state.State())
        assert {path: entry[4:] for path, entry in snapshot(tmp_path).items()} == {
            path: entry[4:] for path, entry in before.items()
        }

    def test_that_may_not_be_read_is_an_error(self, tmp_path: Path) -> None:
        """It may tell that a backup is damaged."""
        write_state(tmp_path, state.State())
        (tmp_path / "state.json").chmod(0)
        assert "Permission denied" in as_ordinary_user(lambda: state.read(tmp_path), tmp_path)

    @pytest.mark.root
    def test_of_root_belongs_to_the_owner_of_the_job(self, tmp_path: Path) -> None:
        os.chown(tmp_path, NOBODY, NOBODY)
        write_state(tmp_path, state.State())
        assert (tmp_path / "state.json").stat().st_uid == NOBODY


class TestCatalogue:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Repository:
        """A repository with two jobs, and things that are none."""
        for path in ("kg", "kg-2", "Not a job", ".hidden", "elsewhere"):
            (tmp_path / path).mkdir()
        (tmp_path / "file").write_text("")
        (tmp_path / "link").symlink_to("elsewhere")
        (tmp_path / "elsewhere").rename(tmp_path / ".elsewhere")
        return Repository(tmp_path)

    def test_jobs(self, repository: Repository) -> None:
        assert [job.name for job in repository.jobs()] == ["kg", "kg-2"]
        assert Repository(repository.path / "missing").jobs() == []

    def test_backups_newest_first(self, repository: Repository) -> None:
        job = repository.job("kg")
        for name in ("20261121T013000Z", "20261122T013000Z", "20261120T013000Z", ".partial-20261123T013000Z", "notes"):
            (job.path / name).mkdir()
            (job.path / name / "manifest.json").write_text("{}")
        (job.path / "20261124T013000Z").mkdir()
        (job.path / "20261125T013000Z").write_text("a file")
        (job.path / "20261126T013000Z").symlink_to("20261121T013000Z")
        expected = ["20261122T013000Z", "20261121T013000Z", "20261120T013000Z"]
        assert [backup.id for backup in job.backups()] == expected
        assert job.latest_good() is None
        told = inform.inform(repository, "kg")[0]
        assert [(backup.id, backup.status) for backup in told.backups] == [(name, "damaged") for name in expected]
        with pytest.raises(NotFoundError, match="no good backup"):
            job.backup()
        with pytest.raises(NotFoundError, match="no backup 20261124T013000Z"):
            job.backup("20261124T013000Z")

    def test_leftovers_of_the_dead_are_removed_only(self, repository: Repository) -> None:
        job = repository.job("kg")
        for name in (".partial-20261121T013000Z", ".scratch-4711-1", ".partial-20261122T013000Z", "20261121T013000Z"):
            (job.path / name / "deep").mkdir(parents=True)
        (job.path / ".partial-link").symlink_to("/etc")
        with held(job.path / ".partial-20261122T013000Z"):
            job.remove_leftovers()
        assert sorted(path.name for path in job.path.iterdir()) == [
            ".partial-20261122T013000Z",
            ".partial-link",
            "20261121T013000Z",
        ]
        job.remove_leftovers()
        assert not (job.path / ".partial-20261122T013000Z").exists()

    def test_a_leftover_that_cannot_be_removed_stops_nothing(
        self, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = repository.job("kg")
        bad, good = job.path / ".partial-20261121T013000Z", job.path / ".scratch-4711-1"
        for path in (bad, good):
            (path / "deep").mkdir(parents=True)
        original = shutil.rmtree

        def rmtree(path: Path) -> None:
            if path == bad:
                raise OSError(5, "Input/output error", "deep")
            original(path)

        monkeypatch.setattr(shutil, "rmtree", rmtree)
        told = f"{bad} was left behind by a killed process and cannot be removed: Input/output error"
        assert job.remove_leftovers() == [told]
        assert (bad.exists(), good.exists()) == (True, False)
        assert prune.prune(job, Policy(keep_last=1)).warnings == [told]

    def test_a_killed_run_is_told_as_interrupted(self, repository: Repository) -> None:
        job = repository.job("kg")
        (job.path / ".lock").write_text("")
        with job.changed_state() as changed:
            changed.last_attempt = state.Attempt("2026-11-21T01:30:00.000Z", "running")
        with held(job.path / ".lock"):
            assert json.dumps(inform.inform(repository, "kg")[0].to_json()["last_attempt"]).count("running") == 1
        assert inform.inform(repository, "kg")[0].to_json()["last_attempt"]["status"] == "interrupted"

    def test_place_of_a_job_that_is_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "kg").symlink_to("elsewhere")
        with pytest.raises(UsageError, match="is a link"):
            Repository(tmp_path).job("kg").create()

    def test_relative_path(self) -> None:
        with pytest.raises(UsageError, match="not an absolute path"):
            Repository(Path("relative"))

    def test_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/somebody")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert default_repository() == Path("/home/somebody/backups")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert default_repository() == Path("/var/backups/db-backup")
