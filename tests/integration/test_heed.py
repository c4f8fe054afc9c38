# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a live application of heed, whose lock file no stock library understands, judged by heed itself."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from contextlib import closing
from pathlib import Path

import lmdb
import pytest
from ansible_collections.embedded.db_backup.tests.fixtures import heed_application as application
from ansible_collections.embedded.db_backup.tests.tools import (
    NOBODY,
    Command,
    as_ordinary_user,
    eventually,
    give_away,
    snapshot,
)

GENTLE = 400
ORDER = ["vector/data.mdb", "vector/visual/data.mdb", "graph/data.mdb"]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The application; without it these tests are skipped."""
    try:
        application.program()
    except application.MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data of an application with all of Ucotron's environments."""
    directory = tmp_path / "data"
    application.seed(directory, 6, visual=True)
    return directory


def goes_on(writer: application.Writer) -> None:
    """The application still writes."""
    before = writer.acknowledged()
    eventually(lambda: writer.acknowledged() > before + 1, "the application goes on")
    assert writer.alive()


def lock_version_of(environment: Path) -> int:
    magic, version = struct.unpack("<II", (environment / "lock.mdb").read_bytes()[:8])
    assert magic == 0xBEEFC0DE
    return int(version) & 0xFFF


def test_stock_tools_refuse_the_running_application_and_take_its_files_afterwards(data: Path, tmp_path: Path) -> None:
    graph = data / "graph"
    with application.Writer(data, tmp_path / "ledger", pause=20) as writer:
        assert lock_version_of(graph) == 2
        with pytest.raises(lmdb.VersionMismatchError):
            lmdb.open(str(graph), readonly=True, max_dbs=16)
        if shutil.which("mdb_copy"):
            refused = subprocess.run(["mdb_copy", graph], capture_output=True, check=False)
            assert refused.returncode != 0
            assert b"MDB_VERSION_MISMATCH" in refused.stderr
        goes_on(writer)
    with closing(lmdb.open(str(graph), readonly=True, max_dbs=16)) as environment:
        assert environment.stat()["entries"] == 9


@pytest.mark.slow
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "nosync"])
def test_every_backup_of_a_gentle_application_restores_consistent(
    dbbackup: Command, data: Path, tmp_path: Path, sync: bool
) -> None:
    dbbackup.job("memory", data, include=["media"])
    advanced = 0
    with application.Writer(data, tmp_path / "ledger", pause=GENTLE, sync=sync) as writer:
        for number in range(20):
            acknowledged, restored = writer.acknowledged(), tmp_path / "restored"
            manifest = dbbackup.ok("run", "memory")["backup"]
            dbbackup.ok("restore", "memory", "--dest", restored)
            application.judge(restored, acknowledged)
            assert manifest["backup"]["method"] == "optimistic", f"backup {number}"
            assert manifest["check"]["opened"] is True
            assert manifest["source"]["point_in_time"] == "each"
            assert [entry["path"] for entry in manifest["source"]["environments"]] == ORDER
            assert {entry["lock_version"] for entry in manifest["source"]["environments"]} == {2}
            advanced += writer.acknowledged() > acknowledged
            shutil.rmtree(restored)
        assert advanced > 10, "the application stood still while backups were made"
        goes_on(writer)
    application.judge(data, writer.acknowledged())


def test_a_busy_application_is_not_backed_up_and_goes_on(dbbackup: Command, data: Path, tmp_path: Path) -> None:
    dbbackup.job("memory", data, method="optimistic")
    with application.Writer(data, tmp_path / "ledger", sync=False) as writer:
        before = writer.acknowledged()
        sentence = dbbackup.fails(1, "run", "memory")
        assert "data.mdb was written to faster than it could be copied, 6 times" in sentence
        assert "freeze" in sentence
        assert "cold" in sentence
        assert writer.acknowledged() > before
        goes_on(writer)
    assert sorted(entry.name for entry in (dbbackup.repository / "memory").iterdir()) == [".lock", "state.json"]
    application.judge(data, writer.acknowledged())


@pytest.mark.slow
def test_a_plain_copy_of_a_busy_application_fails_the_same_judge(data: Path, tmp_path: Path) -> None:
    with application.Writer(data, tmp_path / "ledger", sync=False) as writer:
        for number in range(30):
            acknowledged, copy = writer.acknowledged(), tmp_path / f"copy-{number}"
            copy.mkdir()
            for name in ("vector", "graph", "media"):
                subprocess.run(["cp", "-r", data / name, copy / name], check=True)
                (copy / name / "lock.mdb").unlink(missing_ok=True)
            try:
                application.judge(copy, acknowledged)
            except application.BrokenError:
                return
            shutil.rmtree(copy)
    pytest.fail("the judge found nothing wrong in 30 plain copies")


def test_the_source_is_not_touched_and_the_lock_of_ucotron_does_not_come_back(
    dbbackup: Command, data: Path, tmp_path: Path
) -> None:
    dbbackup.job("memory", data, method="optimistic", include=["media"])
    before = snapshot(data)
    dbbackup.ok("run", "memory")
    assert snapshot(data) == before
    target = tmp_path / "target"
    shutil.copytree(data, target)
    (target / "ucotron-writer.lock").touch()
    dbbackup.ok("restore", "memory", "--dest", target, "--force")
    assert not list(target.rglob("*.lock"))
    assert not list(target.rglob("lock.mdb"))
    application.judge(target, 1)


def test_both_meta_pages_of_the_copy_tell_of_its_transaction(dbbackup: Command, data: Path, tmp_path: Path) -> None:
    dbbackup.job("graph", data / "graph", method="optimistic")
    position = dbbackup.ok("run", "graph")["backup"]["source"]["position"]
    dbbackup.ok("restore", "graph", "--dest", tmp_path / "restored")
    head = (tmp_path / "restored/data.mdb").read_bytes()[:8192]
    assert [struct.unpack_from("<Q", head, page + 144)[0] for page in (0, 4096)] == [position["start"]] * 2
    assert [struct.unpack_from("<Q", head, page)[0] for page in (0, 4096)] == [0, 1]


@pytest.mark.root
def test_a_lock_file_that_may_not_be_read(dbbackup: Command, data: Path, tmp_path: Path) -> None:
    dbbackup.job("graph", data / "graph")
    dbbackup.repository.mkdir()
    give_away(data)
    give_away(dbbackup.repository)
    give_away(dbbackup.jobs)
    lock = data / "graph/lock.mdb"
    os.chown(lock, 0, 0)
    lock.chmod(0)
    told = as_ordinary_user(lambda: dbbackup.ok("run", "graph")["backup"]["backup"]["method"], data)
    assert told == "optimistic"
    assert (lock.stat().st_uid, lock.stat().st_mode & 0o777) == (0, 0)


@pytest.mark.root
def test_a_running_application_of_another_user(dbbackup: Command, data: Path, tmp_path: Path) -> None:
    dbbackup.job("memory", data)
    give_away(data)
    before = {path: path.stat().st_uid for path in data.rglob("*")}
    with application.Writer(data, tmp_path / "ledger", pause=GENTLE) as writer:
        dbbackup.ok("run", "memory")
        goes_on(writer)
    assert set(before.values()) == {NOBODY}
    assert not [path for path in data.rglob("data.mdb") if path.stat().st_uid != NOBODY]


@pytest.mark.parametrize("spoil", ["magic", "truncated"])
def test_a_spoiled_environment_is_refused(dbbackup: Command, data: Path, spoil: str) -> None:
    file = data / "graph/data.mdb"
    content = file.read_bytes()
    file.write_bytes(content[:16] + bytes(4) + content[20:] if spoil == "magic" else content[: len(content) // 2])
    dbbackup.job("memory", data, method="optimistic")
    words = {"magic": "is not an LMDB environment", "truncated": "is truncated"}
    assert words[spoil] in dbbackup.fails(1, "run", "memory")
    assert dbbackup.backups("memory") == []
