# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules, run by Ansible from the checkout: what they return, predict, change and refuse."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import backup
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository import locks
from ansible_collections.embedded.db_backup.tests.tools import (
    CHECKOUT,
    Ansible,
    assert_told,
    bytes_of,
    content_of,
    counts_of,
    keys_told,
    make_environment,
    snapshot,
)

COLLECTION = "embedded.db_backup"
OUTSIDE_OF_CHECK_MODE = "success, outside of check mode"
WITHOUT_DRILL = "success, without O(drill)"
TO_FILES = "success, of a restore to files"
MODULES = (
    "lmdb_backup",
    "files_backup",
    "sqlite_backup",
    "chroma_sqlite_backup",
    "backup_verify",
    "backup_restore",
    "backup_info",
    "backup_protect",
    "backup_prune",
    "backup_install",
)
CHROMA = CHECKOUT / "tests/fixtures/chroma_versions/chroma-1.5.9.tar.xz"


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """The parameters of a job whose environment is there."""
    make_environment(tmp_path / "environment")
    return {"name": "kg", "path": str(tmp_path / "environment"), "repository": str(tmp_path / "repository")}


@pytest.fixture
def saved(job: dict[str, Any]) -> dict[str, Any]:
    """What names the job in the other modules, once it has a backup."""
    backup.back_up(jobs.parse({"type": "lmdb", **job}))
    return {"name": job["name"], "repository": job["repository"]}


def stored_file(saved: dict[str, Any]) -> Path:
    """The stored file of the only backup."""
    (path,) = Path(saved["repository"], saved["name"]).glob("[0-9]*/data.mdb.zst")
    return path


class TestBackup:
    def test_short_name_with_simple_arguments(self, ansible: Ansible, job: dict[str, Any]) -> None:
        arguments = " ".join(f"{key}={value}" for key, value in job.items())
        done = ansible.run("ansible", "localhost", "-m", "lmdb_backup", "-a", arguments + " compact=yes")
        result = done.json["plays"][0]["tasks"][0]["hosts"]["localhost"]
        assert result["changed"], done
        assert (Path(result["path"]) / "manifest.json").exists()

    def test_prediction_and_run_have_the_same_keys(self, ansible: Ansible, job: dict[str, Any], tmp_path: Path) -> None:
        before = snapshot(tmp_path)
        predicted = ansible.module(f"{COLLECTION}.lmdb_backup", "--check", "--diff", **job)
        assert snapshot(tmp_path) == before, "check mode changed something"
        real = ansible.module(f"{COLLECTION}.lmdb_backup", "--diff", **job)
        assert predicted.keys() == real.keys()
        assert predicted["backup"].keys() <= real["backup"].keys()
        assert predicted["diff"]["after"].keys() == real["diff"]["after"].keys()
        for result in (predicted, real):
            assert (result["changed"], result["reason"]) == (True, None)
            assert Path(result["path"]).parent == Path(job["repository"]) / "kg"
        assert predicted["backup"]["status"] == "predicted"
        assert real["backup"] == json.loads((Path(real["path"]) / "manifest.json").read_text())

        counts = {entry["name"]: entry["entries"] for entry in real["backup"]["source"]["environments"][0]["databases"]}
        assert counts == counts_of(content_of(Path(job["path"])))

    def test_skipping_is_predicted_alike(self, ansible: Ansible, job: dict[str, Any], tmp_path: Path) -> None:
        first = ansible.module("lmdb_backup", **job)
        for options in ({"skip_unchanged": True}, {"min_age_hours": 1}):
            before = snapshot(tmp_path)
            predicted = ansible.module("lmdb_backup", "--check", **job, **options)
            assert snapshot(tmp_path) == before
            real = ansible.module("lmdb_backup", **job, **options)
            # The reason tells an age.
            assert {**predicted, "reason": None} == {**real, "reason": None}
            assert (real["changed"], real["path"]) == (False, first["path"])
            assert real["backup"] == first["backup"]
            assert first["backup"]["id"] in real["reason"]
        assert ansible.module("lmdb_backup", **job, min_age_hours=1, skip_unchanged=True, force=True)["changed"]

    def test_diff_has_metadata_only(self, ansible: Ansible, job: dict[str, Any]) -> None:
        first = ansible.module("lmdb_backup", "--diff", **job)
        second = ansible.module("lmdb_backup", "--diff", **job)
        assert first["diff"]["before"] == {}
        assert second["diff"]["before"] == first["diff"]["after"]
        assert set(second["diff"]["after"]) == {"id", "size", "repo_size", "sha256"}
        assert len(json.dumps(second["diff"])) < 1000

    @pytest.mark.parametrize("check", [[], ["--check"]], ids=["run", "check"])
    def test_skipped_is_told_to_the_tasks_that_follow(
        self, ansible: Ansible, job: dict[str, Any], tmp_path: Path, check: list[str]
    ) -> None:
        ansible.module("lmdb_backup", **job)
        tasks = []
        for number, (options, skipped) in enumerate([({}, False), ({"skip_unchanged": True}, True)]):
            tasks.append({f"{COLLECTION}.lmdb_backup": {**job, **options}, "register": f"result_{number}"})
            tasks.append({"ansible.builtin.assert": {"that": [f"result_{number}.skipped == {str(skipped).lower()}"]}})
        playbook = tmp_path / "playbook.yml"
        playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        done = ansible.run("ansible-playbook", playbook, *check)
        assert done.code == 0, done

    def test_warnings_are_shown(self, ansible: Ansible, job: dict[str, Any]) -> None:
        media = Path(job["path"]) / "media"
        media.mkdir()
        (media / "link").symlink_to("elsewhere")
        result = ansible.module("lmdb_backup", **job, include=["media"])
        assert result["changed"]
        assert any(str(media / "link") in warning for warning in result["warnings"])

    @pytest.mark.parametrize(
        ("exit_code", "options", "words"),
        [
            (1, {"path": "/no/such/place"}, ["/no/such/place", "No such file or directory"]),
            (1, {"path": __file__}, [__file__, "not an LMDB environment"]),
            (2, {"name": "../kg"}, ["'../kg' is not a job name"]),
            (2, {"repository": "relative"}, ["relative", "absolute"]),
            (2, {"compression_level": 40}, ["compression_level 40"]),
            (2, {"include": ["../x"]}, ["'../x'"]),
            (2, {"min_age_hours": -1}, ["min_age_hours"]),
            (2, {"timeout": 0}, ["timeout"]),
            (None, {"compression": "lzma"}, ["compression", "zstd, gzip, none"]),
            (2, {"method": "cold"}, ["method cold", "name its service or container"]),
            (None, {"method": "tar"}, ["method"]),
            (None, {"path": None}, ["path"]),
            (None, {"compakt": True}, ["compakt", "Supported parameters include"]),
            (None, {"compact": "perhaps"}, ["compact"]),
        ],
        ids=str,
    )
    def test_what_fails_fails_with_one_sentence(
        self, ansible: Ansible, job: dict[str, Any], exit_code: int | None, options: dict[str, Any], words: list[str]
    ) -> None:
        parameters = {key: value for key, value in {**job, **options}.items() if value is not None}
        result = ansible.failure("lmdb_backup", **parameters)
        assert result.get("exit_code") == exit_code
        assert all(word in result["msg"] for word in words), result["msg"]
        assert "backup" not in result
        assert not list(Path(job["repository"]).glob("*/[0-9]*"))

    def test_a_second_run_at_the_same_time(self, ansible: Ansible, job: dict[str, Any]) -> None:
        directory = Path(job["repository"], "kg")
        directory.mkdir(parents=True)
        with locks.locked_file(directory / ".lock", "the job"):
            result = ansible.failure("lmdb_backup", **job)
        assert result["exit_code"] == 11
        assert f"process {os.getpid()}" in result["msg"]


class TestVerify:
    def test_good_backup(self, ansible: Ansible, saved: dict[str, Any]) -> None:
        result = ansible.module(f"{COLLECTION}.backup_verify", **saved)
        assert (result["changed"], result["opened"]) == (False, True)
        assert result["backup"] == json.loads((Path(result["path"]) / "manifest.json").read_text())

    def test_damage_fails_and_is_remembered_outside_of_check_mode(
        self, ansible: Ansible, saved: dict[str, Any], tmp_path: Path
    ) -> None:
        stored = stored_file(saved)
        stored.write_bytes(stored.read_bytes()[:-1])
        before = snapshot(tmp_path)
        result = ansible.failure("backup_verify", "--check", **saved)
        assert result["exit_code"] == 1
        assert "data.mdb.zst" in result["msg"]
        assert snapshot(tmp_path) == before
        assert ansible.failure("backup_verify", **saved)["msg"] == result["msg"]
        (told,) = ansible.module("backup_info", **saved)["jobs"]
        assert (told["backups"][0]["status"], told["backups"][0]["problem"]) == ("damaged", result["msg"])
        assert told["last_verify"]["status"] == "failed"

    @pytest.mark.parametrize(
        ("exit_code", "options"), [(10, {"name": "other"}), (10, {"id": "20200101T000000Z"}), (2, {"id": "latest"})]
    )
    def test_what_is_not_there(
        self, ansible: Ansible, saved: dict[str, Any], exit_code: int, options: dict[str, Any]
    ) -> None:
        assert ansible.failure("backup_verify", **{**saved, **options})["exit_code"] == exit_code


class TestRestore:
    def test_prediction_and_run_return_the_same(self, ansible: Ansible, saved: dict[str, Any], tmp_path: Path) -> None:
        dest = tmp_path / "restored"
        before = snapshot(tmp_path)
        predicted = ansible.module("backup_restore", "--check", "--diff", **saved, dest=str(dest))
        assert snapshot(tmp_path) == before
        real = ansible.module(f"{COLLECTION}.backup_restore", "--diff", **saved, dest=str(dest))
        assert predicted == real
        assert (real["changed"], real["dest"], real["aside"]) == (True, str(dest), [])
        assert real["files"] == [str(dest / "data.mdb")]
        assert real["map_sizes"] == {"data.mdb": 64 << 20}
        assert real["diff"]["before"] == {}
        assert set(real["diff"]["after"]) == {"dest", "owner", "id", "size", "repo_size", "sha256"}
        assert content_of(dest) == content_of(tmp_path / "environment")

        for options in ([], ["--check"]):
            again = ansible.module("backup_restore", *options, **saved, dest=str(dest))
            assert again["changed"] is False
        assert again.keys() == real.keys() - {"diff"}

    def test_diff_is_told_when_it_is_asked_for(self, ansible: Ansible, saved: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "environment"
        shutil.rmtree(path)
        make_environment(path, salt="newer")
        (path / "data.mdb").chmod(0o604)
        data = (path / "data.mdb").read_bytes()
        result = ansible.module("backup_restore", "--diff", **saved, force=True, mode="0640")
        before, after = result["diff"]["before"], result["diff"]["after"]
        assert before["sha256"] == {"data.mdb": hashlib.sha256(data).hexdigest()}
        assert (before["dest"], before["size"]) == (str(path), len(data))
        mine = f"{os.geteuid()}:{os.getegid()}"
        assert (before["owner"], after["owner"]) == ({"data.mdb": f"{mine} 0604"}, {"data.mdb": f"{mine} 0640"})
        assert before["sha256"] != after["sha256"]

        result = ansible.module("backup_restore", "--diff", **saved, mode="0600")
        before, after = result["diff"]["before"], result["diff"]["after"]
        assert before["sha256"] == after["sha256"]
        assert (before["owner"], after["owner"]) == ({"data.mdb": f"{mine} 0640"}, {"data.mdb": f"{mine} 0600"})
        (path / "data.mdb").unlink()
        assert "diff" not in ansible.module("backup_restore", **saved, force=True)

    def test_in_place_needs_force_and_keeps_the_old(
        self, ansible: Ansible, saved: dict[str, Any], tmp_path: Path
    ) -> None:
        path = tmp_path / "environment"
        content = content_of(path)
        shutil.rmtree(path)
        newer = make_environment(path, salt="newer")
        before = bytes_of(path)
        for options in ([], ["--check"]):
            result = ansible.failure("backup_restore", *options, **saved)
            assert (result["exit_code"], "force" in result["msg"]) == (1, True)
            assert bytes_of(path) == before
        result = ansible.module("backup_restore", **saved, force=True)
        assert content_of(path) == content
        assert [content_of(Path(aside)) for aside in result["aside"]] == [newer]

    @pytest.mark.parametrize("mode", ["0640", 0o640])
    def test_mode(self, ansible: Ansible, saved: dict[str, Any], tmp_path: Path, mode: str | int) -> None:
        ansible.module("backup_restore", **saved, dest=str(tmp_path / "restored"), mode=mode)
        assert (tmp_path / "restored/data.mdb").stat().st_mode & 0o7777 == 0o640

    @pytest.mark.root
    def test_owner_and_group(self, ansible: Ansible, saved: dict[str, Any], tmp_path: Path) -> None:
        dest = tmp_path / "restored"
        ansible.module("backup_restore", **saved, dest=str(dest), owner="nobody", group="nogroup")
        assert {(path.owner(), path.group()) for path in (dest, dest / "data.mdb")} == {("nobody", "nogroup")}

    @pytest.mark.parametrize(
        ("exit_code", "options"),
        [
            (10, {"name": "other"}),
            (10, {"id": "20200101T000000Z"}),
            (2, {"mode": "u=rw"}),
            (2, {"owner": "no-such-user"}),
            (2, {"dest": "relative"}),
        ],
        ids=str,
    )
    def test_what_fails_fails_with_one_sentence(
        self, ansible: Ansible, saved: dict[str, Any], tmp_path: Path, exit_code: int, options: dict[str, Any]
    ) -> None:
        parameters = {**saved, "dest": str(tmp_path / "restored"), **options}
        assert ansible.failure("backup_restore", **parameters)["exit_code"] == exit_code
        assert not (tmp_path / "restored").exists()


class TestInfo:
    def test_jobs_and_backups(self, ansible: Ansible, job: dict[str, Any], saved: dict[str, Any]) -> None:
        ansible.module("lmdb_backup", **{**job, "name": "another"}, verify=False)
        told = ansible.module(f"{COLLECTION}.backup_info", repository=saved["repository"])["jobs"]
        assert [entry["name"] for entry in told] == ["another", "kg"]
        another, kg = told
        assert (kg["count"], len(kg["backups"])) == (1, 1)
        assert kg["repo_size"] == kg["backups"][0]["repo_size"] == stored_file(saved).stat().st_size
        assert kg["backups"][0]["status"] == "complete"
        assert 0 <= kg["backups"][0]["age"] < 120
        assert kg["backups"][0]["verified"]["status"] == kg["last_verify"]["status"] == "passed"
        assert another["backups"][0]["verified"] is None
        assert kg["last_attempt"]["status"] == "succeeded"
        assert kg["last_attempt"]["id"] == kg["last_success"]["id"] == kg["backups"][0]["id"]

        ansible.failure("lmdb_backup", **{**job, "path": "/no/such/place"})
        (kg,) = ansible.module("backup_info", "--check", **saved)["jobs"]
        assert kg["last_attempt"]["status"] == "failed"
        assert "/no/such/place" in kg["last_attempt"]["message"]
        assert kg["last_success"]["status"] == "succeeded"

    def test_nothing_is_made_or_found(self, ansible: Ansible, tmp_path: Path) -> None:
        repository = tmp_path / "repository"
        assert ansible.module("backup_info", repository=str(repository)) == {"changed": False, "jobs": []}
        assert ansible.failure("backup_info", repository=str(repository), name="kg")["exit_code"] == 10
        assert not repository.exists()


def test_documented_results_are_returned(ansible: Ansible, job: dict[str, Any], tmp_path: Path) -> None:
    done = ansible.run("ansible-doc", "-j", *(f"{COLLECTION}.{name}" for name in MODULES))
    assert done.code == 0, done
    saved = {"name": job["name"], "repository": job["repository"]}
    with tarfile.open(CHROMA) as archive:
        archive.extractall(tmp_path / "chroma", filter="data")
    vectors = {"name": "vectors", "repository": job["repository"], "path": str(tmp_path / "chroma")}
    database = {**vectors, "name": "database", "path": str(tmp_path / "chroma/chroma.sqlite3")}
    results = {
        "lmdb_backup": ansible.module("lmdb_backup", **job, keep_last=2),
        "files_backup": ansible.module("files_backup", **{**vectors, "name": "directory"}),
        "chroma_sqlite_backup": ansible.module("chroma_sqlite_backup", **vectors),
        "sqlite_backup": ansible.module("sqlite_backup", **database, row_counts=True),
        "backup_verify": ansible.module("backup_verify", **saved),
        "backup_restore": ansible.module("backup_restore", **saved, dest=str(tmp_path / "restored")),
        "backup_prune": ansible.module("backup_prune", **saved, keep_last=1),
    }
    (backup_id,) = [entry["id"] for entry in results["backup_prune"]["keep"]]
    results["backup_protect"] = ansible.module("backup_protect", **saved, id=backup_id, reason="a test")
    never = {"schedule": None, "drill_schedule": None}
    kg = {"name": "kg", "type": "lmdb", "path": "/srv/kg", **never}
    # In check mode, as the rest is tested in a container.
    results["backup_install"] = ansible.module("backup_install", "--check", "--diff", scope="user", jobs=[kg])
    assert results["backup_install"].pop("diff")
    results["backup_info"] = ansible.module("backup_info", repository=saved["repository"])
    predicted = ansible.module("lmdb_backup", "--check", **job)
    failed = ansible.failure("lmdb_backup", **{**job, "path": "/no/such/place"})
    always: set[str | None] = {None, "success"}
    for name, result, when in [
        *(
            (name, result, always | {OUTSIDE_OF_CHECK_MODE, WITHOUT_DRILL, TO_FILES})
            for name, result in results.items()
        ),
        ("lmdb_backup", predicted, always),
        ("lmdb_backup", failed, {"failure"}),
    ]:
        told = keys_told(done.json[f"{COLLECTION}.{name}"]["return"], when)
        # Ansible shows it in another way than as a key.
        told.pop("skipped", None)
        shown = {"changed", "warnings", "failed", "msg", "exception"}
        assert_told(told, {key: value for key, value in result.items() if key not in shown}, name)
