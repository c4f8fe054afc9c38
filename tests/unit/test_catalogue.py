# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue beside the manifests saves reading them, and whatever lies there does no harm."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import CorruptError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import inform, prune
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository import catalogue, documents
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.published import PublishedBackup
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import (
    JobDirectory,
    Repository,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import Policy
from ansible_collections.embedded.db_backup.tests.fixtures.many_backups import copy_backup, make_backups
from ansible_collections.embedded.db_backup.tests.tools import as_ordinary_user, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DAY = datetime.timedelta(days=1)
KEPT = 3
POLICY = Policy(keep_last=KEPT)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with six daily backups of a job."""
    repository = tmp_path_factory.mktemp("template")
    make_backups(repository, "kg", (times.now() - DAY * number for number in range(1, 7)))
    return repository


@pytest.fixture
def job(template: Path, tmp_path: Path) -> JobDirectory:
    """A copy of it, with a catalogue."""
    shutil.copytree(template, tmp_path / "repository")
    directory = Repository(tmp_path / "repository").job("kg")
    directory.keep_catalogue()
    return directory


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the backups whose manifests are read from now on."""
    read: list[str] = []
    original = PublishedBackup.manifest

    def manifest(self: PublishedBackup) -> Any:
        read.append(self.id)
        return original(self)

    monkeypatch.setattr(PublishedBackup, "manifest", manifest)
    return read


def file_of(job: JobDirectory) -> Path:
    return job.path / catalogue.FILE_NAME


def ids(job: JobDirectory) -> list[str]:
    """Newest first."""
    return [backup.id for backup in job.backups()]


def told(job: JobDirectory) -> Any:
    """What a person is told of the backups, but for their age."""
    backups = inform.inform(Repository(job.path.parent), "kg", {"kg": POLICY})[0].to_json()["backups"]
    return [{**backup, "age": None} for backup in backups]


def decided(job: JobDirectory) -> list[tuple[str, bool]]:
    return [(one.id, one.keep) for one in prune.plan(job, POLICY).decisions]


def damage_quietly(path: Path) -> None:
    """Change a byte and put the time of the last change back, as a clever user can."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def spoil(job: JobDirectory, **changes: Any) -> None:
    """Let every entry tell something else, under the stamps of the true files."""
    content = json.loads(file_of(job).read_text())
    content["backups"] = [{**entry, **changes} for entry in content["backups"]]
    file_of(job).write_text(json.dumps(content))


def test_manifests_are_read_once(job: JobDirectory, reads: list[str]) -> None:
    job.catalogue()
    assert reads == []
    file_of(job).unlink()
    job.catalogue()
    assert reads == ids(job)


def test_tells_what_the_manifests_tell(job: JobDirectory) -> None:
    with_catalogue = told(job)
    file_of(job).unlink()
    assert told(job) == with_catalogue


def test_looking_writes_nothing(job: JobDirectory) -> None:
    for change in (lambda: None, lambda: file_of(job).write_text("{"), lambda: file_of(job).unlink()):
        change()
        before = snapshot(job.path.parent)
        told(job)
        decided(job)
        assert snapshot(job.path.parent) == before


def test_a_list_keeps_what_it_read(job: JobDirectory, reads: list[str]) -> None:
    for change in (lambda: file_of(job).write_text("{"), lambda: file_of(job).unlink()):
        change()
        told_first = inform.inform(Repository(job.path.parent), keep_catalogue=True)[0].backups
        assert [backup.id for backup in told_first] == ids(job)
        assert not job.is_locked()
        reads.clear()
        job.catalogue()
        assert reads == []


def test_a_list_does_not_wait_for_a_run(job: JobDirectory) -> None:
    file_of(job).unlink()
    with job.lock():
        assert [entry.id for entry in job.catalogue(keep=True)] == ids(job)
        assert not file_of(job).exists()


@pytest.mark.root
def test_a_list_by_a_user_who_may_only_read(job: JobDirectory) -> None:
    file_of(job).unlink()
    job.path.chmod(0o555)
    before = sorted(os.listdir(job.path))
    said = as_ordinary_user(lambda: len(job.catalogue(keep=True)), job.path.parent)
    assert said == str(len(ids(job)))
    assert sorted(os.listdir(job.path)) == before


def test_what_is_new_or_gone_is_seen_and_read_alone(job: JobDirectory, reads: list[str]) -> None:
    shutil.rmtree(job.path / ids(job)[2])
    reads.clear()
    new = copy_backup(job.path / ids(job)[0], times.now())
    reads.clear()
    assert [entry.id for entry in job.catalogue()] == ids(job)
    assert reads == [new]
    job.keep_catalogue()
    reads.clear()
    assert [entry.id for entry in job.catalogue()] == ids(job)
    assert reads == []


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_a_quiet_change_is_seen(job: JobDirectory, name: str) -> None:
    """The time of the last change of the inode cannot be put back."""
    newest = ids(job)[0]
    damage_quietly(job.path / newest / name)
    assert [entry.id for entry in job.catalogue() if entry.problem] == [newest]


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_an_exchanged_file_is_seen(job: JobDirectory, name: str) -> None:
    one, other, *_rest = ids(job)
    (job.path / other / name).replace(job.path / one / name)
    assert {entry.id for entry in job.catalogue() if entry.problem} >= {one}


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, path.stat().st_size + 1),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.rename(path.with_name("elsewhere")), path.symlink_to("elsewhere")),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["gone", "empty", "longer", "a directory", "a link", "a pipe"],
)
def test_a_stored_file_that_is_not_there_whole_is_seen(job: JobDirectory, harm: Callable[[Path], Any]) -> None:
    newest = ids(job)[0]
    harm(job.path / newest / "data.mdb.zst")
    (entry,) = [entry for entry in job.catalogue() if entry.problem]
    assert entry.id == newest
    assert "data.mdb.zst" in str(entry.problem)


def test_a_stored_file_below_a_link_is_seen(job: JobDirectory, tmp_path: Path) -> None:
    """A restore refuses it, so it is no good backup."""
    newest = ids(job)[0]
    spoil(job, stored={"inner/data.mdb.zst": 1})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/data.mdb.zst").write_bytes(b"x")
    (job.path / newest / "inner").symlink_to(tmp_path / "elsewhere")
    assert job.catalogue()[0].problem


def test_a_problem_that_ends_is_forgotten(job: JobDirectory) -> None:
    stored = job.path / ids(job)[0] / "data.mdb.zst"
    stored.rename(stored.with_name("aside"))
    job.keep_catalogue()
    assert job.catalogue()[0].problem
    stored.with_name("aside").rename(stored)
    assert not job.catalogue()[0].problem


def test_a_disk_that_fails_for_a_moment_leaves_no_trace(job: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = ids(job)[0]

    def fail(self: PublishedBackup) -> Any:
        raise CorruptError(f"backup {self.id}: manifest.json cannot be opened: Input/output error")

    file_of(job).unlink(missing_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(PublishedBackup, "manifest", fail)
        job.keep_catalogue()
        assert job.catalogue()[0].problem
        assert not prune.prune(job, Policy(keep_days=0.001)).remove
    assert newest == job.catalogue()[0].id
    assert not any(entry.problem for entry in job.catalogue())


@pytest.mark.root
def test_a_manifest_that_may_not_be_read_is_tried_again(job: JobDirectory) -> None:
    (job.path / ids(job)[0] / "manifest.json").chmod(0)
    problem = as_ordinary_user(lambda: (job.keep_catalogue(), job.catalogue()[0].problem)[1], job.path.parent)
    assert "Permission denied" in problem
    assert not job.catalogue()[0].problem


def test_a_backup_that_is_removed_meanwhile_is_passed_over(job: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a prune, between the look at the directory and that at the backups."""
    listed = job.backups()
    monkeypatch.setattr(JobDirectory, "backups", lambda _self: listed)
    shutil.rmtree(listed[0].path)
    shutil.rmtree(listed[1].path)
    for _unused in range(2):
        assert [entry.id for entry in job.catalogue()] == [backup.id for backup in listed[2:]]
        assert job.latest_good() == listed[2]
        file_of(job).unlink(missing_ok=True)


@pytest.mark.root
def test_a_backup_that_cannot_be_read_hides_no_other(job: JobDirectory) -> None:
    newest, second = job.backups()[:2]
    (newest.path / "manifest.json").chmod(0)

    def look() -> str:
        with pytest.raises(PermissionError) as caught:
            newest.manifest()
        latest = job.latest_good()
        return f"{caught.value.filename} {latest.id if latest else None}"

    assert as_ordinary_user(look, job.path.parent) == f"{newest.path / 'manifest.json'} {second.id}"


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_link(path: Path) -> None:
    path.with_name("elsewhere").write_text('{"schema": 2, "backups": []}')
    path.symlink_to("elsewhere")


def as_directory(path: Path) -> None:
    (path / "inner").mkdir(parents=True)


def as_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


KINDS = [as_pipe, as_link, as_directory, as_huge, Path.touch]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_another_kind_of_file_in_its_place(job: JobDirectory, make: Callable[[Path], None]) -> None:
    before = decided(job)
    file_of(job).unlink()
    make(file_of(job))
    assert decided(job) == before
    job.keep_catalogue()
    assert decided(job) == before


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_another_kind_of_file_where_it_is_written(job: JobDirectory, make: Callable[[Path], None]) -> None:
    """A pipe would have a run wait for a reader for ever."""
    before = decided(job)
    file_of(job).unlink()
    make(job.path / ".catalogue.json.new")
    job.keep_catalogue()
    assert decided(job) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"schema": 2}',
        b'{"schema": 0, "backups": []}',
        b'{"schema": 2, "backups": 3}',
        b'{"schema": 2, "backups": {"id": 1}}',
        b'{"schema": 2, "backups": [null]}',
        b'{"schema": 2, "backups": [{"id": 1, "stamp": []}]}',
        b'{"schema": 2, "backups": [{"id": "x", "stamp": [1e999]}]}',
        b'{"schema": 2, "backups": [{"id": "x", "stamp": [], "surprise": 1}]}',
    ],
    ids=lambda content: repr(content[:40]),
)
def test_damaged_is_like_none(job: JobDirectory, content: bytes) -> None:
    before = decided(job)
    file_of(job).write_bytes(content)
    assert decided(job) == before
    job.keep_catalogue()
    assert len(json.loads(file_of(job).read_text())["backups"]) == len(before)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ODD_PATHS = st.sampled_from(["", "..", "/etc/passwd", "../../x", "a\0b", "\ud800", "manifest.json", "x" * 5000])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.one_of(
        st.dictionaries(
            st.sampled_from(["start", "size", "stored", "references", "proven", "problem", "type", "id"]), ANYTHING
        ),
        st.fixed_dictionaries({"stored": st.dictionaries(ODD_PATHS, st.integers())}),
        st.fixed_dictionaries({"references": st.lists(st.text(max_size=5))}),
        st.fixed_dictionaries(
            {"start": st.sampled_from(["", "yesterday", "0000-00-00T00:00:00.0Z", "0001-01-01T00:00:00.0Z",
                                       "9999-12-31T23:59:59.999999Z", "2026-13-01T00:00:00.000Z"])}
        ),
    )
)  # fmt: skip
def test_lies_never_lead_to_a_removal_of_another_backup(job: JobDirectory, changes: dict[str, Any]) -> None:
    """Told under the stamps of the true files, as nobody but an enemy can. Nothing ends with a traceback."""
    job.keep_catalogue()
    spoil(job, **changes)
    told(job)
    before = ids(job)
    made = prune.prune(job, POLICY)
    assert ids(job) in (before, before[:KEPT])
    assert {one.id for one in made.remove} == set(before) - set(ids(job))
    for number in range(1, 7):
        moment = times.from_id(before[0]) - DAY * number
        if times.to_id(moment) not in ids(job):
            copy_backup(job.path / before[0], moment)


def test_a_lie_about_which_is_the_newest_removes_nothing_of_worth(job: JobDirectory) -> None:
    newest = ids(job)[:KEPT]
    content = json.loads(file_of(job).read_text())
    for entry, other in zip(content["backups"], reversed(json.loads(file_of(job).read_text())["backups"]), strict=True):
        entry["start"] = other["start"]
    file_of(job).write_text(json.dumps(content))
    prune.prune(job, POLICY)
    assert ids(job) == newest


def test_rot_that_the_catalogue_does_not_show_is_found_before_anything_is_removed(
    job: JobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits that changed on the disk below the file system leave all times as they were."""
    true_stamps = {backup.id: catalogue._stamp(backup) for backup in job.backups()}
    before = ids(job)
    for rotten in before[:KEPT]:
        damage_quietly(job.path / rotten / "manifest.json")
    monkeypatch.setattr(catalogue, "_stamp", lambda backup: true_stamps[backup.id])
    assert [one.id for one in prune.plan(job, POLICY).remove] == before[KEPT:]
    made = prune.prune(job, POLICY)
    assert ids(job) == before
    assert not made.remove
    assert "are damaged" in made.warnings[0]


def test_a_prune_reads_what_goes_and_the_newest_that_stay(
    job: JobDirectory, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands that stay are as the catalogue has them."""
    monkeypatch.setattr(prune, "_READ_AGAIN", 1)
    job.keep_catalogue()
    reads.clear()
    before = ids(job)
    assert len(prune.prune(job, Policy(keep_last=len(before) - 1)).remove) == 1
    assert sorted(reads) == sorted([before[0], before[-1]])
    reads.clear()
    # What is left is written down.
    assert [entry.id for entry in job.catalogue()] == before[:-1]
    assert reads == []


def test_a_prune_with_nothing_to_remove_reads_no_manifest(job: JobDirectory, reads: list[str]) -> None:
    assert not prune.prune(job, Policy(keep_last=-1)).remove
    assert reads == []


def test_that_it_cannot_be_written_is_no_error(job: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    file_of(job).unlink()
    before = ids(job)
    monkeypatch.setattr(documents, "replace", fail)
    job.keep_catalogue()
    prune.prune(job, POLICY)
    assert ids(job) == before[:KEPT]
    assert not file_of(job).exists()
