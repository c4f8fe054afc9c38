# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills and checks of jobs without a server or a container: what they find, say, and remember."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import restore as restoring
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import NEWEST
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository import locks
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.tools import (
    Ansible,
    Command,
    bytes_of,
    content_of,
    eventually,
    hide_libraries,
    make_environment,
    only_programs,
    snapshot,
)


@pytest.fixture
def saved(dbbackup: Command, tmp_path: Path) -> str:
    """The id of the backup of a job kg."""
    make_environment(tmp_path / "kg")
    (tmp_path / "kg/media").mkdir()
    (tmp_path / "kg/media/picture").write_bytes(b"picture")
    dbbackup.job("kg", tmp_path / "kg", include=["media"])
    dbbackup.ok("run", "kg")
    (found,) = dbbackup.backups("kg")
    return found


def findings(told: Any) -> dict[str, bool]:
    return {entry["question"]: entry["good"] for entry in told["findings"]}


def kill_in_the_exchange(dbbackup: Command, data: Path) -> None:
    """Restore what replaces the data, and die when the first of it was renamed."""
    child = os.fork()
    if child == 0:
        honest = os.rename

        def rename(one: Any, other: Any) -> None:
            honest(one, other)
            os.kill(os.getpid(), signal.SIGKILL)

        os.rename = rename
        restoring.restore(Repository(dbbackup.repository).job("kg"), NEWEST, Request(force=True))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert list(data.glob("*.before-restore-*"))


class TestDrill:
    def test_restores_and_reads(self, dbbackup: Command, saved: str, tmp_path: Path) -> None:
        before = bytes_of(tmp_path / "kg")
        told = dbbackup.ok("drill", "kg")
        assert told["proven"] == ["opened and read whole by its engine"]
        assert Path(told["path"]).name == told["backup"]["id"] == saved
        (job,) = dbbackup.seen("kg")
        assert (job["last_drill"]["status"], job["last_drill"]["id"]) == ("passed", saved)
        assert job["backups"][0]["drilled"]["status"] == "passed"
        assert job["backups"][0]["drilled"]["at"] == job["last_drill"]["at"]
        assert "PROVEN RESTORABLE" in dbbackup("status").stdout.splitlines()[0]
        assert "drill passed" in dbbackup("drill", "kg", "--id", saved).stdout
        assert bytes_of(tmp_path / "kg") == before
        assert not list((dbbackup.repository / "kg").glob(".scratch*"))

    def test_of_a_tree_and_of_a_single_file(self, dbbackup: Command, tmp_path: Path) -> None:
        for name in ("graph", "vector/visual"):
            make_environment(tmp_path / "tree" / name)
        make_environment(tmp_path / "one.mdb", subdir=False)
        for job, path in (("tree", tmp_path / "tree"), ("one", tmp_path / "one.mdb")):
            dbbackup.job(job, path)
            dbbackup.ok("run", job)
            assert dbbackup.ok("drill", job)["proven"]

    def test_a_damaged_backup_fails_and_is_remembered(self, dbbackup: Command, saved: str) -> None:
        stored = dbbackup.repository / "kg" / saved / "data.mdb.zst"
        content = bytearray(stored.read_bytes())
        content[len(content) // 2] ^= 1
        stored.write_bytes(content)
        assert f"drill of backup {saved} of job kg" in dbbackup.fails(1, "drill", "kg")
        (job,) = dbbackup.seen("kg")
        assert job["last_drill"]["status"] == job["backups"][0]["drilled"]["status"] == "failed"
        assert not list((dbbackup.repository / "kg").glob(".scratch*"))

    def test_without_the_engine_says_nothing_of_the_backup(self, dbbackup: Command, saved: str, tmp_path: Path) -> None:
        assert saved
        dbbackup.env = {**hide_libraries(tmp_path / "hidden", "lmdb"), **only_programs("zstd")}
        assert "needs the engine of lmdb" in dbbackup.fails(1, "drill", "kg")
        (job,) = dbbackup.seen("kg")
        assert job["last_drill"] is None

    def test_what_there_is_not(self, dbbackup: Command, saved: str) -> None:
        assert saved
        dbbackup.fails(10, "drill", "other")
        dbbackup.fails(10, "drill", "kg", "--id", "20200101T000000Z")
        dbbackup.fails(2, "drill", "kg", "--id", "latest")

    def test_by_the_module(self, dbbackup: Command, saved: str, ansible: Ansible) -> None:
        common = {"name": "kg", "repository": str(dbbackup.repository), "drill": True}
        before = snapshot(dbbackup.repository / "kg" / saved)
        everything = snapshot(dbbackup.repository)
        predicted = ansible.module("backup_verify", "--check", **common)
        assert snapshot(dbbackup.repository) == everything
        (job,) = dbbackup.seen("kg")
        assert job["last_drill"] is None
        result = ansible.module("backup_verify", **common)
        assert result == predicted
        assert not result["changed"]
        assert result["proven"]
        (told,) = ansible.module("backup_info", **{key: common[key] for key in ("name", "repository")})["jobs"]
        assert told["last_drill"]["status"] == "passed"
        assert snapshot(dbbackup.repository / "kg" / saved) == before

    @pytest.mark.root
    def test_in_a_repository_that_is_read_only(self, dbbackup: Command, saved: str) -> None:
        mount = ["mount", "--bind", "-o", "ro", str(dbbackup.repository), str(dbbackup.repository)]
        if subprocess.run(mount, check=False).returncode:
            pytest.skip("mounting is not allowed here: run the tests with CAP_SYS_ADMIN")
        try:
            told = dbbackup.ok("drill", "kg")
            assert "warning: that the drill" in dbbackup("drill", "kg").stdout
        finally:
            subprocess.run(["umount", str(dbbackup.repository)], check=True)
        assert told["proven"] == ["opened and read whole by its engine"]
        (warning,) = told["warnings"]
        assert f"that the drill of backup {saved} passed could not be remembered" in warning

    def test_a_signal_ends_it_and_nothing_stays(self, dbbackup: Command, tmp_path: Path) -> None:
        make_environment(tmp_path / "large", 100_000, map_size=1 << 30)
        dbbackup.job("large", tmp_path / "large", compression="none")
        dbbackup.ok("run", "large")
        with subprocess.Popen(
            dbbackup.arguments("drill", "large"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            scratch = dbbackup.repository / "large"
            eventually(lambda: list(scratch.glob(".scratch*")) or running.poll() is not None, "the drill is at work")
            running.terminate()
            _unused, errors = running.communicate()
        assert running.returncode == 130
        assert "interrupted by SIGTERM" in errors
        assert not list(scratch.glob(".scratch*"))


class TestCheck:
    def test_all_is_well(self, dbbackup: Command, saved: str, tmp_path: Path) -> None:
        before = snapshot(tmp_path)
        told = dbbackup.ok("check", "kg")
        assert told["good"]
        assert findings(told) == {"database": True, "last attempt": True, "last backup": True, "room": True}
        text = dbbackup("check", "kg").stdout
        assert saved in text
        assert "WRONG" not in text
        assert len(text.splitlines()) == 1 + len(told["findings"])
        assert {path: entry[:3] for path, entry in snapshot(tmp_path).items()} == {
            path: entry[:3] for path, entry in before.items()
        }

    def test_before_the_first_backup(self, dbbackup: Command, tmp_path: Path) -> None:
        make_environment(tmp_path / "kg")
        dbbackup.job("kg", tmp_path / "kg")
        done = dbbackup("check", "kg", "--json")
        assert done.code == 1
        assert findings(done.json) == {"database": True, "last backup": False, "room": True}
        assert not dbbackup.repository.exists()
        assert done.stderr == "dbbackup: job kg is not well: last backup\n"

    def test_a_database_that_is_gone(self, dbbackup: Command, saved: str, tmp_path: Path) -> None:
        (tmp_path / "kg").rename(tmp_path / "elsewhere")
        assert dbbackup("run", "kg").code == 1
        done = dbbackup("check", "kg", "--json")
        assert done.code == 1
        assert findings(done.json) == {"database": False, "last attempt": False, "last backup": True, "room": True}
        assert saved in done.json["findings"][2]["text"]
        assert "No such file" in dbbackup("check", "kg").stdout

    def test_an_old_backup(self, dbbackup: Command, saved: str) -> None:
        assert saved
        time.sleep(0.01)
        done = dbbackup("check", "kg", "--max-age-hours", "0", "--json")
        assert done.code == 1
        assert findings(done.json)["last backup"] is False
        assert dbbackup("check", "kg", "--max-age-hours", "1").code == 0
        dbbackup.fails(10, "check", "other")

    @pytest.mark.root
    def test_no_room(self, dbbackup: Command, tmp_path: Path) -> None:
        make_environment(tmp_path / "kg", 5000)
        small = tmp_path / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
        try:
            dbbackup.repository = small / "repository"
            dbbackup.job("kg", tmp_path / "kg")
            told = dbbackup("check", "kg", "--json").json
            assert findings(told)["room"] is False
        finally:
            subprocess.run(["umount", small], check=True)

    def test_room_for_the_copy_that_is_captured(self, dbbackup: Command, tmp_path: Path) -> None:
        """What is copied before it is compressed needs room, verified or not."""
        with closing(sqlite3.connect(tmp_path / "texts.db")) as connection:
            connection.execute("CREATE TABLE texts (text TEXT)")
            connection.executemany("INSERT INTO texts VALUES (?)", [("same " * 1000,) for _unused in range(1000)])
            connection.commit()
        told = {}
        for verify in (True, False):
            dbbackup.job("texts", tmp_path / "texts.db", type="sqlite", verify=verify)
            dbbackup.ok("run", "texts")
            told[verify] = dbbackup.ok("check", "texts")["findings"][-1]["text"].partition("needs about ")[2]
        size = (tmp_path / "texts.db").stat().st_size / (1 << 20)
        assert told[True] == told[False] == f"{size:.1f} MiB"

    def test_a_restore_that_was_killed_in_the_middle(self, dbbackup: Command, saved: str, tmp_path: Path) -> None:
        content = content_of(tmp_path / "kg")
        make_environment(tmp_path / "kg", 10, salt="later")
        kill_in_the_exchange(dbbackup, tmp_path / "kg")
        done = dbbackup("check", "kg", "--json")
        assert done.code == 1
        assert findings(done.json)["restore"] is False
        wanted = f"a restore of backup {saved} to {tmp_path / 'kg'} was killed"
        assert wanted in done.json["findings"][-2]["text"]
        with locks.locked_directory(tmp_path / "kg", "another restore"):
            # One that is under way is no fault.
            assert "restore" not in findings(dbbackup.ok("check", "kg"))
        assert wanted in dbbackup("restore", "kg", "--force", "--dry-run").stdout
        assert dbbackup("check", "kg").code == 1
        told = dbbackup.ok("restore", "kg", "--force")
        assert wanted in told["warnings"][0]
        assert content_of(tmp_path / "kg") == content
        assert dbbackup.ok("check", "kg")["good"]
        assert dbbackup.ok("restore", "kg")["warnings"] == []

    def test_only_a_restore_to_the_same_place_heals(self, dbbackup: Command, saved: str, tmp_path: Path) -> None:
        assert saved
        make_environment(tmp_path / "kg", 10, salt="later")
        kill_in_the_exchange(dbbackup, tmp_path / "kg")
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "other")
        assert dbbackup("check", "kg").code == 1
        shutil.rmtree(tmp_path / "kg")
        dbbackup.ok("restore", "kg")
        assert dbbackup.ok("check", "kg")["good"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: as another user all of it is unreadable anyway")
    def test_a_state_that_is_no_file(self, dbbackup: Command, saved: str) -> None:
        state = dbbackup.repository / "kg/state.json"
        state.unlink()
        state.symlink_to("/etc/passwd")
        done = dbbackup("check", "kg", "--json")
        assert done.code == 1
        assert findings(done.json)["repository"] is False
        assert saved
