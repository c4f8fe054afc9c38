# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a live application of heed, whose lock file no stock library understands, judged by heed itself."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
from contextlib import closing
from pathlib import Path

import lmdb
import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.backup import back_up
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import NEWEST
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.restore import restore
from ansible_collections.embedded.db_backup.tests.fixtures import heed_application as application
from ansible_collections.embedded.db_backup.tests.saboteur import Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    NOBODY,
    Command,
    eventually,
    give_away,
    snapshot,
)
from ansible_collections.embedded.db_backup.tests.volumes import volume

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


def fault_in(copy: Path, acknowledged: int) -> str:
    """What the judge finds wrong, nothing in a good copy."""
    try:
        application.judge(copy, acknowledged)
    except application.BrokenError as error:
        return str(error)
    return ""


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
            # Where the tests run on XFS or btrfs, auto takes a clone.
            assert manifest["backup"]["method"] in ("optimistic", "reflink"), f"backup {number}"
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


def test_every_frozen_backup_of_a_busy_application_is_of_one_moment(
    dbbackup: Command, data: Path, tmp_path: Path
) -> None:
    dbbackup.job("memory", data, include=["media"], method="freeze", freeze_timeout=20)
    job = jobs.load(dbbackup.jobs, "memory")
    # Without any pause the media become tens of thousands of files, and the test is about them.
    with application.Writer(data, tmp_path / "ledger", pause=10, sync=False) as writer:
        for number in range(20):
            acknowledged, restored = writer.acknowledged(), tmp_path / "restored"
            manifest = back_up(job).backup
            restore(job.directory, NEWEST, Request(destination=restored))
            application.judge(restored, acknowledged)
            assert manifest["backup"]["method"] == "freeze", f"backup {number}"
            assert manifest["source"]["point_in_time"] == "one"
            assert 0 < manifest["source"]["paused_ms"] < 20_000
            shutil.rmtree(restored)
        goes_on(writer)
    application.judge(data, writer.acknowledged())


def test_a_busy_application_is_frozen_where_that_is_allowed(dbbackup: Command, data: Path, tmp_path: Path) -> None:
    dbbackup.job("memory", data, include=["media"], freeze_timeout=20)
    with application.Writer(data, tmp_path / "ledger", sync=False) as writer:
        acknowledged = writer.acknowledged()
        manifest = dbbackup.ok("run", "memory")["backup"]
        goes_on(writer)
    told = [(entry["method"], entry["reason"]) for entry in manifest["source"]["environments"]]
    assert ("freeze", "and it commits without a pause") in [(method, reason[-30:]) for method, reason in told]
    assert manifest["backup"]["method"] in ("freeze", "optimistic")
    assert 0 < manifest["source"]["paused_ms"] < 40_000
    dbbackup.ok("restore", "memory", "--dest", tmp_path / "restored")
    # Each is of its own moment, so that only what is inside of each can be judged.
    assert manifest["source"]["point_in_time"] == "each"
    verdict = fault_in(tmp_path / "restored", acknowledged)
    assert not verdict or "refers to" in verdict


def test_a_snapshot_of_a_gentle_application_on_xfs(dbbackup: Command, tmp_path: Path) -> None:
    with volume("xfs", tmp_path) as point:
        data = point / "data"
        application.seed(data, 6)
        near = dataclasses.replace(dbbackup, repository=point / "backups")
        near.job("memory", data, include=["media"], method="snapshot")
        with application.Writer(data, tmp_path / "ledger", pause=GENTLE, sync=False) as writer:
            acknowledged = writer.acknowledged()
            manifest = near.ok("run", "memory")["backup"]
            goes_on(writer)
        restored = tmp_path / "restored"
        near.ok("restore", "memory", "--dest", restored)
        application.judge(restored, acknowledged)
        assert manifest["backup"]["method"] == "snapshot"
        assert manifest["source"]["snapshot"] == "reflink"
        assert manifest["source"]["point_in_time"] == "one"


def test_auto_clones_the_files_of_a_busy_application_where_it_can(dbbackup: Command, tmp_path: Path) -> None:
    with volume("xfs", tmp_path) as point:
        data, restored = point / "data", tmp_path / "restored"
        application.seed(data, 2)
        near = dataclasses.replace(dbbackup, repository=point / "backups")
        near.job("memory", data, verify=False)
        job = jobs.load(near.jobs, "memory")
        # Without a pause, in which a copy of the live file would never get to its end.
        with application.Writer(data, tmp_path / "ledger", sync=False) as writer:
            for number in range(20):
                acknowledged = writer.acknowledged()
                manifest = back_up(job).backup
                told = [(entry["method"], entry["tries"]) for entry in manifest["source"]["environments"]]
                assert told == [("reflink", 1), ("reflink", 1)], f"backup {number}"
                restore(job.directory, NEWEST, Request(destination=restored))
                (restored / "media").symlink_to(data / "media")
                application.judge(restored, acknowledged)
                shutil.rmtree(restored)
            goes_on(writer)
        assert manifest["backup"]["method"] == "reflink"
        assert manifest["check"]["opened"] is True
        assert manifest["source"]["paused_ms"] is None
        assert "lock" in manifest["source"]["environments"][0]["reason"]
        assert not list(near.repository.rglob(".scratch-*"))


@pytest.mark.slow
def test_tar_of_a_busy_application_fails_the_same_judge(tmp_path: Path) -> None:
    data = tmp_path / "data"
    application.seed(data, 24)
    with application.Writer(data, tmp_path / "ledger", sync=False) as writer:
        for number in range(12):
            acknowledged, copy, archive = writer.acknowledged(), tmp_path / f"copy-{number}", tmp_path / "data.tar.gz"
            copy.mkdir()
            # In the order in which copies one after the other do no harm: what is wrong then is each of them.
            order = ["vector", "graph", "media"]
            subprocess.run(["tar", "czf", archive, "-C", data, *order], stderr=subprocess.DEVNULL, check=False)
            subprocess.run(["tar", "xzf", archive, "-C", copy], check=True)
            verdict = fault_in(copy, acknowledged)
            if verdict and "refers to" not in verdict:
                return
            shutil.rmtree(copy)
    pytest.fail("the judge found nothing wrong in 12 torn copies")


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
def test_a_running_application_is_backed_up_by_an_ordinary_user(
    dbbackup: Command, data: Path, tmp_path: Path, saboteur: Saboteur
) -> None:
    dbbackup.job("memory", data)
    dbbackup.repository.mkdir()
    for directory in (data, dbbackup.repository, dbbackup.jobs):
        give_away(directory)
    with application.Writer(data, tmp_path / "ledger", pause=GENTLE) as writer:
        acknowledged = writer.acknowledged()
        give_away(data)
        ended = saboteur.run(dbbackup.arguments("run", "memory")[2:], user=NOBODY)
        assert ended.code == 0, ended
        goes_on(writer)
    dbbackup.ok("restore", "memory", "--dest", tmp_path / "restored")
    (tmp_path / "restored/media").symlink_to(data / "media")
    application.judge(tmp_path / "restored", acknowledged)


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
