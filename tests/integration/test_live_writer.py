# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of environments that an application writes to, and of idle ones, judged by what is restored from them."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
from ansible_collections.embedded.db_backup.tests.fixtures import lmdb_application as application
from ansible_collections.embedded.db_backup.tests.tools import (
    NOBODY,
    Command,
    content_of,
    counts_of,
    eventually,
    hide_libraries,
    lock_file,
    make_environment,
    snapshot,
)


def txnid_of(data: Path) -> int:
    """The number of the last transaction, read off the two meta pages."""
    head = data.read_bytes()[:8192]
    return max(struct.unpack_from("<Q", head, page + 144)[0] for page in (0, 4096))


def commit(path: Path, key: bytes = b"more") -> None:
    """One small transaction."""
    with closing(lmdb.open(str(path), subdir=path.is_dir(), max_dbs=4)) as environment:
        nodes = environment.open_db(b"nodes")
        with environment.begin(write=True) as transaction:
            transaction.put(key, b"of it", db=nodes)


@pytest.mark.slow
@pytest.mark.parametrize(("sync", "backups"), [(True, 16), (False, 4)], ids=["sync", "nosync"])
def test_every_backup_of_a_busy_application_restores_consistent(
    dbbackup: Command, tmp_path: Path, sync: bool, backups: int
) -> None:
    path = tmp_path / "environment"
    application.seed(path, megabytes=12)
    # Every transaction of the application adds one to its generation.
    before_first_generation = txnid_of(path / "data.mdb") - 1
    for compact in (True, False):
        dbbackup.job(f"compact-{compact}".lower(), path, compact=compact)
    advanced = 0
    with application.Writer(path, tmp_path / "ledger", sync=sync) as writer:
        for number in range(backups):
            job, restored = f"compact-{bool(number % 2)}".lower(), tmp_path / f"restored-{number}"
            acknowledged, txnid = writer.acknowledged(), txnid_of(path / "data.mdb")
            backup = dbbackup.ok("run", job)["backup"]
            latest_txnid = txnid_of(path / "data.mdb")
            advanced += writer.acknowledged() > acknowledged
            dbbackup.ok("restore", job, "--dest", restored)

            judgement = application.judge(restored, at_least=acknowledged)
            assert judgement.good, f"backup {number}: {judgement.sentence}"
            (environment,) = backup["source"]["environments"]
            position = environment["position"]
            assert txnid <= position["start"] == position["stop"] <= latest_txnid
            assert position["start"] == before_first_generation + judgement.generation
            counts = {entry["name"]: entry["entries"] for entry in environment["databases"]}
            assert counts == {None: 5, **{name: found.entries for name, found in judgement.databases.items()}}
            shutil.rmtree(restored)
        assert writer.alive()
        assert advanced > backups // 2, "the application stood still while backups were made"
        acknowledged = writer.acknowledged()
        eventually(lambda: writer.acknowledged() > acknowledged, "the application goes on after the last backup")
    assert application.judge(path, at_least=writer.acknowledged()).good


@pytest.mark.slow
def test_tar_of_a_busy_application_fails_the_same_judge(tmp_path: Path) -> None:
    path, archive = tmp_path / "environment", tmp_path / "environment.tar.gz"
    application.seed(path, megabytes=12)
    verdicts = []
    with application.Writer(path, tmp_path / "ledger") as writer:
        for number in range(8):
            acknowledged = writer.acknowledged()
            subprocess.run(["tar", "czf", archive, "-C", path, "."], stderr=subprocess.DEVNULL, check=False)
            unpacked = tmp_path / f"unpacked-{number}"
            unpacked.mkdir()
            subprocess.run(["tar", "xzf", archive, "-C", unpacked], check=True)
            verdicts.append(application.judge(unpacked, at_least=acknowledged))
            if not verdicts[-1].good:
                return
    pytest.fail(f"the judge found nothing wrong in {len(verdicts)} torn copies: {verdicts[-1].sentence}")


@pytest.mark.parametrize("compact", [True, False])
def test_manifest_tells_what_the_environment_is(dbbackup: Command, tmp_path: Path, compact: bool) -> None:
    path = tmp_path / "environment"
    content = make_environment(path, map_size=48 << 20)
    dbbackup.job("kg", path, compact=compact)
    result = dbbackup.ok("run", "kg")
    manifest = result["backup"]
    (environment,) = manifest["source"]["environments"]
    txnid = txnid_of(path / "data.mdb")
    assert (environment["position"]["start"], environment["position"]["stop"]) == (txnid, txnid)
    assert environment["page_size"] == 4096
    assert environment["map_size"] == 48 << 20
    assert environment["data_version"] == environment["lock_version"] == 1
    assert {entry["name"]: entry["entries"] for entry in environment["databases"]} == counts_of(content)
    assert manifest["backup"]["consistency"] == "transaction"
    assert manifest["check"]["read_back"] is manifest["check"]["opened"] is True
    assert manifest["timestamp_start"] <= manifest["timestamp_copy_start"] <= manifest["timestamp_stop"]
    (record,) = manifest["files"]
    stored = Path(result["path"]) / record["repo_path"]
    assert record["repo_size"] == stored.stat().st_size
    assert record["repo_sha256"] == hashlib.sha256(stored.read_bytes()).hexdigest()
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    restored = (tmp_path / "restored/data.mdb").read_bytes()
    assert (record["size"], record["sha256"]) == (len(restored), hashlib.sha256(restored).hexdigest())
    assert content_of(tmp_path / "restored") == content


@pytest.mark.parametrize("compact", [True, False])
def test_repository_is_private(dbbackup: Command, tmp_path: Path, compact: bool) -> None:
    make_environment(tmp_path / "environment")
    dbbackup.job("kg", tmp_path / "environment", compact=compact)
    dbbackup.ok("run", "kg")
    for directory, _unused, files in os.walk(dbbackup.repository):
        assert Path(directory).stat().st_mode & 0o777 == 0o700
        assert all((Path(directory) / file).stat().st_mode & 0o777 == 0o600 for file in files)


@pytest.mark.parametrize("hidden", [[], ["lmdb"]], ids=["library", "program"])
@pytest.mark.parametrize("subdir", [True, False], ids=["directory", "file"])
@pytest.mark.parametrize("lock", [True, False], ids=["locked", "lockless"])
def test_source_stays_as_it_was(dbbackup: Command, tmp_path: Path, hidden: list[str], subdir: bool, lock: bool) -> None:
    path = tmp_path / "source/environment"
    content = make_environment(path, subdir=subdir, lock=lock)
    before = snapshot(tmp_path / "source")
    dbbackup.env = hide_libraries(tmp_path / "hidden", *hidden)
    for compact in (True, False):
        dbbackup.job("kg", path, compact=compact)
        dbbackup.ok("run", "kg")
    after = snapshot(tmp_path / "source")
    # A reader writes itself into the table of readers.
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed <= ({str(lock_file(path, subdir))} if lock else set())
    for name in changed:
        assert before[name][:3] == after[name][:3]
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    assert content_of(tmp_path / "restored") == content


@pytest.mark.root
@pytest.mark.parametrize("hidden", [[], ["lmdb"]], ids=["library", "program"])
@pytest.mark.parametrize("lock", [True, False], ids=["locked", "lockless"])
def test_root_leaves_nothing_of_its_own_with_the_data_of_others(
    dbbackup: Command, tmp_path: Path, hidden: list[str], lock: bool
) -> None:
    private = tmp_path / "private"
    path = private / "environment"
    content = make_environment(path, lock=lock)
    for place in (path, *path.iterdir()):
        os.chown(place, NOBODY, NOBODY)
    private.chmod(0o700)
    dbbackup.env = hide_libraries(tmp_path / "hidden", *hidden)
    dbbackup.job("kg", path)
    backup = dbbackup.ok("run", "kg")["backup"]
    assert sorted(place.name for place in path.iterdir()) == (["data.mdb", "lock.mdb"] if lock else ["data.mdb"])
    assert {place.stat().st_uid for place in path.iterdir()} == {NOBODY}
    assert {entry["name"]: entry["entries"] for entry in backup["source"]["environments"][0]["databases"]} == counts_of(
        content
    )


@pytest.mark.parametrize("compact", [True, False], ids=["compact", "plain"])
def test_skip_unchanged(dbbackup: Command, tmp_path: Path, compact: bool) -> None:
    path = tmp_path / "environment"
    make_environment(path)
    dbbackup.job("kg", path, skip_unchanged=True, compact=compact)
    first = dbbackup.ok("run", "kg")
    assert first["changed"]

    still = dbbackup.ok("run", "kg")
    assert (still["changed"], still["skipped"], still["path"]) == (False, True, first["path"])
    assert still["reason"] == f"nothing was committed since the last good backup {first['backup']['id']}"
    assert still["backup"] == first["backup"]
    assert dbbackup.ok("run", "kg", "--dry-run")["skipped"]

    commit(path)
    assert dbbackup.ok("run", "kg", "--dry-run")["changed"]
    moved = dbbackup.ok("run", "kg")
    assert (moved["changed"], moved["skipped"], moved["reason"]) == (True, False, None)
    assert dbbackup.ok("run", "kg")["skipped"]
    assert len(dbbackup.backups("kg")) == 2


def test_skip_unchanged_never_skips_while_the_application_writes(dbbackup: Command, tmp_path: Path) -> None:
    path = tmp_path / "environment"
    application.seed(path, megabytes=1)
    dbbackup.job("kg", path, skip_unchanged=True)
    with application.Writer(path, tmp_path / "ledger", sync=False):
        assert [dbbackup.ok("run", "kg")["changed"] for _unused in range(3)] == [True, True, True]
    last = dbbackup.ok("run", "kg")
    assert last["changed"]
    assert dbbackup.ok("run", "kg")["skipped"]


def test_skip_unchanged_knows_another_environment_of_the_same_age(dbbackup: Command, tmp_path: Path) -> None:
    path, other = tmp_path / "environment", tmp_path / "other"
    make_environment(path)
    make_environment(other, records=300)
    assert txnid_of(path / "data.mdb") == txnid_of(other / "data.mdb")
    dbbackup.job("kg", path, skip_unchanged=True)
    dbbackup.ok("run", "kg")
    (other / "data.mdb").rename(path / "data.mdb")
    assert dbbackup.ok("run", "kg")["changed"]


def test_skip_unchanged_looks_at_every_environment_of_a_tree(dbbackup: Command, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("graph", "vector", "vector/visual"):
        make_environment(tree / name, salt=name)
    dbbackup.job("kg", tree, skip_unchanged=True)
    dbbackup.ok("run", "kg")
    assert dbbackup.ok("run", "kg")["skipped"]
    commit(tree / "vector/visual")
    assert dbbackup.ok("run", "kg")["changed"]
    make_environment(tree / "text")
    assert dbbackup.ok("run", "kg")["changed"]
    assert dbbackup.ok("run", "kg")["skipped"]


def test_min_age_hours(dbbackup: Command, tmp_path: Path) -> None:
    path = tmp_path / "environment"
    make_environment(path)
    dbbackup.job("kg", path, min_age_hours=1)
    first = dbbackup.ok("run", "kg")
    commit(path)
    young = dbbackup.ok("run", "kg")
    assert (young["changed"], young["skipped"], young["path"]) == (False, True, first["path"])
    assert "younger than 1 h" in young["reason"]
    assert first["backup"]["id"] in young["reason"]

    dbbackup.job("kg", path, min_age_hours=0.0001)
    eventually(lambda: dbbackup.ok("run", "kg")["changed"], "the backup is older than 0.36 s")
    dbbackup.job("kg", path)
    assert dbbackup.ok("run", "kg")["changed"]


def test_force_backs_up_without_need(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "environment")
    options: dict[str, Any] = {"min_age_hours": 24, "skip_unchanged": True}
    dbbackup.job("kg", tmp_path / "environment", **options)
    dbbackup.ok("run", "kg")
    assert dbbackup.ok("run", "kg")["skipped"]
    dbbackup.job("kg", tmp_path / "environment", **options, force=True)
    assert dbbackup.ok("run", "kg")["changed"]


@pytest.mark.parametrize("options", [{"min_age_hours": 24}, {"skip_unchanged": True}], ids=["age", "unchanged"])
def test_a_backup_that_failed_verification_does_not_count(
    dbbackup: Command, tmp_path: Path, options: dict[str, Any]
) -> None:
    make_environment(tmp_path / "environment")
    dbbackup.job("kg", tmp_path / "environment", **options)
    first = dbbackup.ok("run", "kg")
    stored = Path(first["path"]) / "data.mdb.zst"
    stored.write_bytes(stored.read_bytes()[:-1])
    assert "data.mdb.zst" in dbbackup.fails(1, "verify", "kg")
    second = dbbackup.ok("run", "kg")
    assert second["changed"]
    assert dbbackup.ok("run", "kg")["path"] == second["path"]


def test_backups_of_the_same_second_have_ids_of_their_own(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "environment", records=1)
    dbbackup.job("kg", tmp_path / "environment")
    ids = [dbbackup.ok("run", "kg")["backup"]["id"] for _unused in range(4)]
    assert dbbackup.backups("kg") == ids
    assert len(set(ids)) == 4


def test_dry_run_predicts_and_leaves_nothing(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "environment")
    dbbackup.job("kg", tmp_path / "environment")
    before = snapshot(tmp_path)
    predicted = dbbackup.ok("run", "kg", "--dry-run")
    assert snapshot(tmp_path) == before
    assert predicted["changed"]
    assert predicted["backup"]["status"] == "predicted"
    real = dbbackup.ok("run", "kg")
    assert predicted.keys() == real.keys()
    assert predicted["backup"].keys() <= real["backup"].keys()
    assert Path(predicted["path"]).parent == Path(real["path"]).parent
    assert predicted["backup"]["source"]["size"] == real["backup"]["source"]["size"]
