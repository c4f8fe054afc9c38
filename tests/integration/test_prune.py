# SPDX-License-Identifier: GPL-3.0-or-later
"""Real backups are pruned, protected and passed over, by the command and by the modules."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs, times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import backup
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.prune import prune, prune_jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository import locks, protection
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.published import PublishedBackup
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import (
    JobDirectory,
    Repository,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import (
    Candidate,
    Policy,
    Standing,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.state import Verification
from ansible_collections.embedded.db_backup.tests.fixtures.many_backups import copy_backup, make_backups
from ansible_collections.embedded.db_backup.tests.tools import (
    Ansible,
    Command,
    as_ordinary_user,
    bytes_of,
    content_of,
    make_environment,
    process,
    snapshot,
)

HOUR = datetime.timedelta(hours=1)
DAY = 24 * HOUR
PRUNE, PROTECT, INFO = (f"embedded.db_backup.backup_{name}" for name in ("prune", "protect", "info"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a job of six daily backups."""
    repository = tmp_path_factory.mktemp("template")
    make_backups(repository, "kg", (times.now() - DAY * number for number in range(1, 7)))
    return repository


@pytest.fixture
def saved(template: Path, dbbackup: Command) -> list[str]:
    """The ids of the backups in a copy of it, newest first."""
    shutil.copytree(template, dbbackup.repository)
    return dbbackup.backups("kg")[::-1]


@pytest.fixture
def directory(saved: list[str], dbbackup: Command) -> JobDirectory:
    """The job they belong to."""
    assert saved
    return Repository(dbbackup.repository).job("kg")


def ids(directory: JobDirectory) -> list[str]:
    """Newest first."""
    return [backup.id for backup in directory.backups()]


def copy_job(repository: Path, name: str) -> None:
    """Another job with the same backups."""
    for path in (repository / "kg").glob("[0-9]*"):
        copy_backup(path, times.from_id(path.name), directory=repository / name)


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """A restore or a verification reads the backup."""
    with locks.locked_directory(path, "the backup", shared=True):
        yield


class TestRemoval:
    def test_what_stays_restores_what_was_there(self, dbbackup: Command, tmp_path: Path) -> None:
        dbbackup.job("kg", tmp_path / "environment")
        contents = []
        for number in range(4):
            contents.append(make_environment(tmp_path / "environment", 50 + number, salt=str(number)))
            dbbackup.ok("run", "kg")
        stay = dbbackup.backups("kg")[-2:]
        told = dbbackup.ok("prune", "kg", "--keep-last", "2")
        assert told["changed"]
        assert dbbackup.backups("kg") == stay
        assert [entry["id"] for entry in told["keep"]] == stay[::-1]
        for name, content in zip(stay, contents[-2:], strict=True):
            assert dbbackup.ok("verify", "kg", "--id", name)["opened"]
            dbbackup.ok("restore", "kg", "--id", name, "--dest", tmp_path / name)
            assert content_of(tmp_path / name) == content
        assert not dbbackup.ok("prune", "kg", "--keep-last", "2")["changed"]

    def test_what_failed_its_drill_is_no_good_backup(
        self, dbbackup: Command, directory: JobDirectory, saved: list[str]
    ) -> None:
        with directory.changed_state() as state:
            now = times.to_rfc3339(times.now())
            state.drilled[saved[0]] = Verification(now, "failed", "its searches find nothing")
        (told,) = dbbackup.ok("list", "kg")
        assert (told["backups"][0]["status"], told["backups"][0]["problem"]) == ("damaged", "its searches find nothing")
        assert directory.backup().id == saved[1]
        dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert saved[1] in ids(directory)

    def test_one_of_the_future_is_not_the_last_good_one(
        self, directory: JobDirectory, saved: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        yesterday = times.from_id(saved[0]) - HOUR
        monkeypatch.setattr(times, "now", lambda: yesterday)
        assert directory.backup().id == saved[1]
        monkeypatch.setattr(times, "now", lambda: times.from_id(saved[-1]) - HOUR)
        assert directory.backup().id == saved[0]

    def test_what_goes_is_forgotten(self, dbbackup: Command, saved: list[str]) -> None:
        for name in saved[:3]:
            dbbackup.ok("verify", "kg", "--id", name)
        dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert list(dbbackup.state("kg")["verified"]) == saved[:1]
        (entry,) = dbbackup.catalogue("kg")["backups"]
        assert entry["id"] == saved[0]

    def test_a_sentence_for_each_backup(self, dbbackup: Command, saved: list[str]) -> None:
        assert dbbackup("prune", "kg", "--keep-last", "1", "--dry-run").stdout.splitlines() == [
            f"kg: {saved[0]} stays: last 1 of 1",
            *(f"kg: {name} goes: not one of the last 1" for name in saved[1:]),
            "kg: 1 kept, 5 would be removed",
        ]
        lines = dbbackup("prune", "kg", "--keep-last", "1").stdout.splitlines()
        assert lines[1] == f"kg: {saved[1]} is removed: not one of the last 1"
        assert lines[-1] == "kg: 1 kept, 5 removed"

    def test_only_telling_changes_nothing_at_all(self, dbbackup: Command, ansible: Ansible, saved: list[str]) -> None:
        (dbbackup.repository / "kg/.partial-20200101T000000Z").mkdir()
        dbbackup.job("kg", "/srv/kg", keep_last=2)
        repository = str(dbbackup.repository)
        for prepare in (lambda: None, lambda: JobDirectory(dbbackup.repository / "kg").keep_catalogue()):
            prepare()
            before = snapshot(dbbackup.repository)
            told = dbbackup.ok("prune", "kg", "--dry-run")
            assert ([len(told["keep"]), len(told["remove"])], told["changed"]) == ([2, 4], False)
            dbbackup.ok("prune", "kg", "--simulate", "10")
            dbbackup.ok("status")
            predicted = ansible.module(PRUNE, "--check", "--diff", name="kg", repository=repository, keep_last=2)
            assert predicted["changed"]
            assert [entry["id"] for entry in predicted["remove"]] == saved[2:]
            assert snapshot(dbbackup.repository) == before

    def test_by_the_module(self, dbbackup: Command, ansible: Ansible, saved: list[str]) -> None:
        parameters = {"name": "kg", "repository": str(dbbackup.repository), "keep_last": 2}
        predicted = ansible.module(PRUNE, "--check", **parameters)
        done = ansible.module(PRUNE, **parameters)
        assert done == predicted
        assert dbbackup.backups("kg") == saved[1::-1]
        again = ansible.module(PRUNE, **parameters)
        assert (again["changed"], again["remove"]) == (False, [])

    @pytest.mark.parametrize("parameters", [{}, {"keep_min_good": 3}], ids=["empty", "only a floor"])
    @pytest.mark.parametrize("name", ["kg", None])
    def test_an_empty_policy_is_an_error(
        self, dbbackup: Command, ansible: Ansible, parameters: dict[str, Any], name: str | None
    ) -> None:
        """Also where there is no backup yet: the fault is to be found on the first day."""
        dbbackup.repository.mkdir()
        failed = ansible.failure(PRUNE, name=name, repository=str(dbbackup.repository), **parameters)
        assert failed["exit_code"] == 2
        assert "no rule tells what to keep" in failed["msg"]
        assert "no rule tells what to keep" in dbbackup.fails(2, "prune", "--keep-min-good", "3")
        assert "no policy says what to keep of job kg" in dbbackup.fails(2, "prune", "kg")

    def test_a_senseless_policy_removes_nothing(self, dbbackup: Command, saved: list[str]) -> None:
        assert "'1 week' is not a duration" in dbbackup.fails(2, "prune", "kg", "--keep-within", "1 week")
        assert "timezone: '../../etc/passwd'" in dbbackup.fails(
            2, "prune", "kg", "--keep-last", "1", "--timezone", "../../etc/passwd"
        )
        assert dbbackup.backups("kg") == saved[::-1]

    def test_of_all_jobs_by_their_own_policies(self, dbbackup: Command, saved: list[str]) -> None:
        copy_job(dbbackup.repository, "other")
        dbbackup.job("kg", "/srv/kg", keep_last=1)
        dbbackup.job("never-ran", "/srv/kg", keep_last=1)
        dbbackup.job("keeps", "/srv/kg")
        copy_job(dbbackup.repository, "keeps")
        told = dbbackup.ok("prune")
        assert {entry["job"] for entry in told["keep"]} == {"kg"}
        assert dbbackup.backups("kg") == saved[:1]
        assert len(dbbackup.backups("other")) == len(dbbackup.backups("keeps")) == 6

    def test_a_faulty_file_does_not_stop_the_others(self, dbbackup: Command, saved: list[str]) -> None:
        faulty = dbbackup.job("a-faulty", "/srv/kg", keep_lst=1)
        dbbackup.job("kg", "/srv/kg", keep_last=1)
        done = dbbackup("prune")
        assert done.code == 1
        assert done.stdout.endswith("kg: 1 kept, 5 removed\n")
        assert done.stderr == f"dbbackup: {faulty}: keep_lst: is not known; did you mean keep_last?\n"
        assert dbbackup.backups("kg") == saved[:1]
        assert "keep_lst" in dbbackup.fails(2, "prune", "a-faulty")


class TestStanding:
    def test_damaged_and_unverified_ones_take_no_slot(self, dbbackup: Command, saved: list[str]) -> None:
        job = dbbackup.repository / "kg"
        os.truncate(job / saved[0] / "data.mdb.zst", 10)
        unverified = copy_backup(job / saved[1], times.now() - HOUR, proven=False)
        told = dbbackup.ok("prune", "kg", "--keep-last", "2")
        assert dbbackup.backups("kg") == sorted([unverified, *saved[:3]])
        assert {entry["id"]: entry["standing"] for entry in told["keep"]} == {
            unverified: "unverified",
            saved[0]: "damaged",
            saved[1]: "good",
            saved[2]: "good",
        }
        assert told["warnings"] == [f"job kg: {saved[0]} is damaged"]

    def test_a_verification_makes_good_or_damaged(self, dbbackup: Command, saved: list[str]) -> None:
        job = dbbackup.repository / "kg"
        older = copy_backup(job / saved[0], times.now() - 2 * HOUR, proven=False)
        newer = copy_backup(job / saved[0], times.now() - HOUR, proven=False)
        for name in saved:
            shutil.rmtree(job / name)
        told = dbbackup.ok("prune", "kg", "--keep-days", "0.001")
        assert not told["remove"]
        assert "no backup of job kg is known to be good, so all stay" in told["warnings"][0]
        stored = job / newer / "data.mdb.zst"
        content = bytearray(stored.read_bytes())
        content[len(content) // 2] ^= 1
        stored.write_bytes(content)
        dbbackup.fails(1, "verify", "kg", "--id", newer)
        assert not dbbackup.ok("prune", "kg", "--keep-days", "0.001")["remove"]
        dbbackup.ok("verify", "kg", "--id", older)
        told = dbbackup.ok("prune", "kg", "--keep-days", "0.001")
        assert {entry["id"]: [entry["standing"], *entry["reasons"]] for entry in told["keep"]} == {
            newer: ["damaged", "else one of the newest 1 good backups (keep_min_good)"],
            older: ["good", "one of the newest 1 good backups (keep_min_good)"],
        }
        newest = copy_backup(job / older, times.now(), proven=False)
        dbbackup.ok("verify", "kg", "--id", newest)
        dbbackup.ok("prune", "kg", "--keep-days", "0.000001")
        assert dbbackup.backups("kg") == [newest]

    def test_without_a_good_one_all_stay(self, dbbackup: Command, saved: list[str]) -> None:
        for name in saved:
            (dbbackup.repository / "kg" / name / "SHA256SUMS").unlink()
        told = dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert not told["remove"]
        assert dbbackup.backups("kg") == saved[::-1]

    def test_one_of_the_future_stays_and_takes_no_slot(self, dbbackup: Command, saved: list[str]) -> None:
        future = copy_backup(dbbackup.repository / "kg" / saved[0], times.now() + 400 * DAY)
        told = dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert dbbackup.backups("kg") == [saved[0], future]
        assert told["warnings"] == [f"job kg: {future} is in the future, so to stay without a slot; look at the clock"]

    @pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
    def test_a_quiet_change_is_found(self, dbbackup: Command, directory: JobDirectory, name: str) -> None:
        """Of the same size, and with its old time: the catalogue does not hide it."""
        newest, second, *_rest = ids(directory)
        directory.keep_catalogue()
        path = directory.path / newest / name
        status, content = path.stat(), path.read_bytes()
        path.write_bytes(content.replace(b"a", b"b"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert second in ids(directory)


class TestProtection:
    def test_by_the_command(self, dbbackup: Command, saved: list[str]) -> None:
        oldest = saved[-1]
        assert dbbackup("protect", "kg", "--id", oldest).stdout == f"kg: {oldest} is now protected\n"
        assert dbbackup("protect", "kg", "--id", oldest).stdout == f"kg: {oldest} is already protected\n"
        assert dbbackup.ok("protect", "kg", "--id", oldest, "--reason", "before 2.0")["changed"]
        kept = dbbackup.ok("protect", "kg", "--id", oldest)
        assert (kept["changed"], kept["reason"]) == (False, "before 2.0")
        assert "before 2.0" in dbbackup("list", "kg").stdout
        told = dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert told["keep"][-1]["reasons"] == ["protected"]
        assert dbbackup.backups("kg") == [oldest, saved[0]]
        assert dbbackup("unprotect", "kg", "--id", oldest).stdout == f"kg: {oldest} is now not protected\n"
        assert dbbackup("unprotect", "kg", "--id", oldest).stdout == f"kg: {oldest} is already not protected\n"
        dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert dbbackup.backups("kg") == saved[:1]

    def test_by_the_module(self, dbbackup: Command, ansible: Ansible, saved: list[str]) -> None:
        parameters = {"name": "kg", "repository": str(dbbackup.repository), "id": saved[-1], "reason": "why"}
        for wanted, result in ((True, [True, "why"]), (False, [False, None])):
            before = snapshot(dbbackup.repository)
            given = (
                {**parameters, "protected": wanted} if wanted else {**parameters, "protected": False, "reason": None}
            )
            predicted = ansible.module(PROTECT, "--check", **given)
            assert snapshot(dbbackup.repository) == before
            done = ansible.module(PROTECT, **given)
            assert done == predicted
            assert done["changed"]
            assert [done["protected"], done.get("reason")] == result
            assert not ansible.module(PROTECT, **given)["changed"]
            assert not ansible.module(PROTECT, "--check", **given)["changed"]

    def test_does_not_touch_the_backup(self, dbbackup: Command, saved: list[str]) -> None:
        path = dbbackup.repository / "kg" / saved[0]
        before = bytes_of(path)
        dbbackup.ok("protect", "kg", "--id", saved[0])
        assert set(bytes_of(path)) - set(before) == {"protected.json"}
        assert dbbackup.ok("verify", "kg", "--id", saved[0])["opened"]
        dbbackup.ok("unprotect", "kg", "--id", saved[0])
        assert bytes_of(path) == before

    @pytest.mark.parametrize(
        "make",
        [
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"{"),
            lambda path: path.write_bytes(b'{"at": 3}'),
            lambda path: path.write_bytes(b"[" * 100_000),
            lambda path: path.symlink_to("/nowhere"),
            lambda path: path.mkdir(),
            os.mkfifo,
            lambda path: (path.touch(), os.truncate(path, 1 << 40)),
        ],
        ids=["empty", "cut", "wrong", "deep", "a broken link", "a directory", "a pipe", "huge"],
    )
    def test_one_that_is_damaged_protects_as_well(
        self, dbbackup: Command, saved: list[str], make: Callable[[Path], Any]
    ) -> None:
        make(dbbackup.repository / "kg" / saved[-1] / "protected.json")
        dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert dbbackup.backups("kg") == [saved[-1], saved[0]]
        assert "protected.json cannot be read" in dbbackup("list", "kg").stdout

    def test_of_what_is_not_there(self, dbbackup: Command, saved: list[str]) -> None:
        assert "no backup 20200101T000000Z" in dbbackup.fails(10, "protect", "kg", "--id", "20200101T000000Z")
        assert "there is no job other" in dbbackup.fails(10, "protect", "other", "--id", saved[0])
        assert "is not the id of a backup" in dbbackup.fails(2, "protect", "kg", "--id", "../kg")

    def test_that_comes_while_a_prune_is_under_way_counts(
        self, directory: JobDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, remove = ids(directory), JobDirectory.remove

        def remove_late(self: JobDirectory, backup: PublishedBackup) -> None:
            if backup.id == before[3]:
                protection.protect(backup.path, "just now")
            remove(self, backup)

        monkeypatch.setattr(JobDirectory, "remove", remove_late)
        made = prune(directory, Policy(keep_last=1))
        assert ids(directory) == [before[0], before[3]]
        assert f"backup {before[3]} of job kg is protected" in made.warnings
        assert [one.id for one in made.keep] == [before[0], before[3]]

    def test_a_backup_that_is_being_removed_cannot_be_protected(self, dbbackup: Command, saved: list[str]) -> None:
        with locks.locked_directory(dbbackup.repository / "kg" / saved[0], "the backup"):
            assert "in use by another process" in dbbackup.fails(11, "protect", "kg", "--id", saved[0])

    def test_many_at_once(self, dbbackup: Command, saved: list[str]) -> None:
        """Some say so, some say another reason; at the end it is protected, and nothing else is left."""
        path = dbbackup.repository / "kg" / saved[0]
        before = set(bytes_of(path))
        for _unused in range(3):
            arguments = [dbbackup.arguments("protect", "kg", "--id", saved[0], "--reason", str(n)) for n in range(6)]
            with process(arguments[0]) as a, process(arguments[1]) as b, process(arguments[2]) as c:
                assert [one.wait(60) for one in (a, b, c)] == [0, 0, 0]
        assert set(bytes_of(path)) - before == {"protected.json"}


class TestInTheWay:
    def test_a_backup_in_use_stays_until_the_next_time(self, dbbackup: Command, saved: list[str]) -> None:
        with in_use(dbbackup.repository / "kg" / saved[2]):
            told = dbbackup.ok("prune", "kg", "--keep-last", "1")
            assert dbbackup.backups("kg") == [saved[2], saved[0]]
            assert [entry["id"] for entry in told["remove"]] == [*saved[1:2], *saved[3:]]
            assert f"backup {saved[2]} of job kg is in use by another process" in told["warnings"][0]
            assert told["keep"][1]["reasons"][0] in told["warnings"]
        dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert dbbackup.backups("kg") == saved[:1]

    def test_what_one_in_use_builds_on_stays_too(
        self, directory: JobDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """This version makes no increments, so the candidates tell of them."""
        newest, increment, middle, base, *_rest = before = ids(directory)
        references = {increment: (middle, base), middle: (base,)}
        monkeypatch.setattr(
            "ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.prune.candidates_of",
            lambda *_: [
                Candidate(name, times.from_id(name), Standing.GOOD, references=references.get(name, ()))
                for name in ids(directory)
            ],
        )
        with in_use(directory.path / increment):
            made = prune(directory, Policy(keep_last=1))
        assert ids(directory) == [newest, increment, middle, base]
        assert [one.id for one in made.remove] == before[4:]

    def test_a_run_under_way(self, dbbackup: Command, saved: list[str]) -> None:
        """The other jobs are pruned all the same."""
        copy_job(dbbackup.repository, "later")
        copy_job(dbbackup.repository, "earlier")
        with locks.locked_file(dbbackup.repository / "kg/.lock", "job kg"):
            done = dbbackup("prune", "--keep-last", "1", "--json")
            assert done.code == 1
            (failure,) = done.json["failures"]
            assert f"job kg is in use by process {os.getpid()}" in failure
            assert done.stderr == f"dbbackup: {failure}\n"
            assert {entry["job"] for entry in done.json["remove"]} == {"earlier", "later"}
            assert len(done.json["remove"]) == 10
            assert dbbackup.fails(11, "prune", "kg", "--keep-last", "1") == failure
            assert dbbackup.backups("kg") == saved[::-1]
            assert dbbackup.backups("earlier") == dbbackup.backups("later") == saved[:1]
            # To look is always possible.
            assert len(dbbackup.ok("prune", "kg", "--keep-last", "1", "--dry-run")["remove"]) == 5

    def test_several_jobs_that_cannot_be_pruned_are_all_told(self, dbbackup: Command, saved: list[str]) -> None:
        copy_job(dbbackup.repository, "other")
        with (
            locks.locked_file(dbbackup.repository / "kg/.lock", "job kg"),
            locks.locked_file(dbbackup.repository / "other/.lock", "job other"),
        ):
            said = dbbackup.fails(1, "prune", "--keep-last", "1")
        assert "job kg is in use" in said
        assert "job other is in use" in said
        assert dbbackup.backups("kg") == saved[::-1]

    def test_leftovers_of_the_dead_are_removed_and_no_others(self, dbbackup: Command, saved: list[str]) -> None:
        job = dbbackup.repository / "kg"
        names = [f".{kind}-20200101T00000{number}Z" for kind in ("partial", "scratch", "removing") for number in "12"]
        for name in names:
            (job / name / "deep").mkdir(parents=True)
            (job / name / "deep/file").write_bytes(b"left")
        held = [name for name in names if name.endswith("1Z")]
        with in_use(job / held[0]), in_use(job / held[1]), in_use(job / held[2]):
            dbbackup.ok("prune", "kg", "--keep-last", "-1")
            assert [name for name in names if (job / name).exists()] == held
        assert dbbackup.backups("kg") == saved[::-1]

    def test_the_next_run_removes_them_as_well(self, dbbackup: Command, saved: list[str], tmp_path: Path) -> None:
        make_environment(tmp_path / "environment")
        dbbackup.job("kg", tmp_path / "environment")
        for kind in ("partial", "scratch", "removing"):
            shutil.copytree(dbbackup.repository / "kg" / saved[0], dbbackup.repository / f"kg/.{kind}-{saved[0]}")
        dbbackup.ok("run", "kg")
        left = [entry.name for entry in (dbbackup.repository / "kg").iterdir() if entry.name.startswith(".")]
        assert sorted(left) == [".catalogue.json", ".lock"]

    def test_what_is_foreign_is_told_and_not_touched(self, dbbackup: Command, saved: list[str], tmp_path: Path) -> None:
        job, elsewhere = dbbackup.repository / "kg", tmp_path / "elsewhere"
        shutil.copytree(job / saved[0], elsewhere)
        own = set(os.listdir(job))
        (job / "20200101T000000Z").symlink_to(elsewhere)
        (job / "20200102T000000Z").mkdir()
        (job / "20200102T000000Z/data.mdb.zst").write_bytes(b"precious")
        (job / "20200103T000000Z").write_bytes(b"a file")
        (job / "20201301T000000Z").mkdir()
        (job / "20201301T000000Z/manifest.json").write_bytes(b"{}")
        (job / ".partial-20200101T000000Z").symlink_to(elsewhere)
        (job / ".removing-20200101T000000Z").write_bytes(b"a file")
        os.mkfifo(job / "pipe")
        (job / "notes\n.txt").write_bytes(b"notes")
        foreign = sorted(set(os.listdir(job)) - own)
        before, before_elsewhere = {name: snapshot(job / name) for name in foreign}, snapshot(elsewhere)
        told = dbbackup.ok("prune", "kg", "--keep-last", "1")
        assert dbbackup.ok("list", "kg")[0]["foreign"] == foreign
        assert "and 5 more are no backup and not touched" in told["warnings"][-1]
        assert {name: snapshot(job / name) for name in foreign} == before
        assert snapshot(elsewhere) == before_elsewhere
        assert [entry["id"] for entry in told["keep"]] == saved[:1]

    def test_a_job_that_is_a_link_is_none(self, dbbackup: Command, saved: list[str], tmp_path: Path) -> None:
        (dbbackup.repository / "kg").rename(tmp_path / "elsewhere")
        (dbbackup.repository / "kg").symlink_to(tmp_path / "elsewhere")
        before = snapshot(tmp_path / "elsewhere")
        assert "there is no job kg" in dbbackup.fails(10, "prune", "kg", "--keep-last", "1")
        assert dbbackup.ok("prune", "--keep-last", "1")["remove"] == []
        assert dbbackup.fails(10, "protect", "kg", "--id", saved[0])
        dbbackup.job("kg", "/srv/kg", keep_last=1)
        assert "there is no job kg" in dbbackup.fails(1, "prune")
        assert snapshot(tmp_path / "elsewhere") == before

    def test_a_removal_that_fails_is_told(self, dbbackup: Command, saved: list[str]) -> None:
        """Something that is no directory lies where it is to be moved."""
        (dbbackup.repository / f"kg/.removing-{saved[2]}").write_bytes(b"in the way")
        said = dbbackup.fails(1, "prune", "kg", "--keep-last", "1")
        assert said.startswith("1 of 5 backups of job kg were removed, then: /")
        assert dbbackup.backups("kg") == sorted([saved[0], *saved[2:]])
        assert dbbackup.ok("verify", "kg", "--id", saved[2])["opened"]

    @pytest.mark.root
    def test_an_ordinary_user_prunes_what_is_his(self, directory: JobDirectory) -> None:
        newest = ids(directory)[0]
        said = as_ordinary_user(
            lambda: len(prune_jobs([(directory, Policy(keep_last=1))])[0].remove), directory.path.parent
        )
        assert said == "5"
        assert ids(directory) == [newest]

    @pytest.mark.root
    def test_a_repository_that_may_only_be_read(self, directory: JobDirectory) -> None:
        before = ids(directory)
        directory.path.chmod(0o555)
        targets = [(directory, Policy(keep_last=1))]
        said = as_ordinary_user(lambda: prune_jobs(targets), directory.path.parent)
        assert said == (
            f"BackupError: 0 of 5 backups of job kg were removed, then: {directory.path / before[1]}: Permission denied"
        )
        assert as_ordinary_user(lambda: len(prune_jobs(targets, predict=True)[0].remove), directory.path.parent) == "5"
        assert ids(directory) == before


class TestRuns:
    """keep_* and min_age_hours on a job."""

    @pytest.fixture
    def environment(self, tmp_path: Path) -> Path:
        """What the job backs up."""
        make_environment(tmp_path / "environment")
        return tmp_path / "environment"

    @pytest.fixture
    def aged(self, dbbackup: Command, environment: Path) -> list[str]:
        """Backups of it that are 1, 25 and 49 hours old, newest first."""
        dbbackup.job("kg", environment)
        template = Path(dbbackup.ok("run", "kg")["path"])
        made = [copy_backup(template, times.now() - HOUR * hours) for hours in (1, 25, 49)]
        shutil.rmtree(template)
        return made

    def test_prune_after_a_success(self, dbbackup: Command, environment: Path, aged: list[str]) -> None:
        dbbackup.job("kg", environment, keep_last=2)
        before = snapshot(dbbackup.repository)
        predicted = dbbackup.ok("run", "kg", "--dry-run")["pruned"]
        assert snapshot(dbbackup.repository) == before
        done = dbbackup.ok("run", "kg")
        assert [entry["id"] for entry in done["pruned"]["remove"]] == aged[1:]
        assert [entry["id"] for entry in predicted["remove"]] == aged[1:]
        assert [entry["id"] for entry in done["pruned"]["keep"]] == [Path(done["path"]).name, aged[0]]
        assert dbbackup.backups("kg") == [aged[0], Path(done["path"]).name]

    def test_never_after_a_failure(self, dbbackup: Command, tmp_path: Path, aged: list[str]) -> None:
        dbbackup.job("kg", tmp_path / "missing", keep_last=1)
        dbbackup.fails(1, "run", "kg")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken/data.mdb").write_bytes(b"no LMDB" * 5000)
        dbbackup.job("kg", tmp_path / "broken", keep_last=1)
        dbbackup.fails(1, "run", "kg")
        assert dbbackup.backups("kg") == aged[::-1]

    def test_never_after_a_skip(self, dbbackup: Command, environment: Path, aged: list[str]) -> None:
        dbbackup.job("kg", environment, keep_last=1, min_age_hours=2)
        done = dbbackup.ok("run", "kg")
        assert (done["skipped"], done["changed"], done["pruned"]) == (True, False, None)
        assert done["reason"] == f"the last good backup {aged[0]} is 60 min old, younger than 2 h"
        assert Path(done["path"]).name == aged[0]
        assert dbbackup("run", "kg").stdout == f"kg: skipped: {done['reason']}\n"
        assert dbbackup.backups("kg") == aged[::-1]

    def test_force_overrides_the_age(self, dbbackup: Command, environment: Path, aged: list[str]) -> None:
        dbbackup.job("kg", environment, min_age_hours=2, force=True)
        assert dbbackup.ok("run", "kg")["changed"]
        assert len(dbbackup.backups("kg")) == len(aged) + 1

    @pytest.mark.parametrize("hours", [2, 24, 25.5])
    @pytest.mark.parametrize("harm", ["cut", "verification failed", "no manifest"])
    def test_a_corrupt_one_does_not_suppress(
        self, dbbackup: Command, environment: Path, aged: list[str], harm: str, hours: float
    ) -> None:
        """The age that counts is that of the good one before it, 25 hours."""
        newest = dbbackup.repository / "kg" / aged[0]
        stored = newest / "data.mdb.zst"
        if harm == "no manifest":
            (newest / "manifest.json").unlink()
        elif harm == "cut":
            os.truncate(stored, stored.stat().st_size - 1)
        else:
            content = bytearray(stored.read_bytes())
            content[len(content) // 2] ^= 1
            stored.write_bytes(content)
            dbbackup.fails(1, "verify", "kg", "--id", aged[0])
        dbbackup.job("kg", environment, min_age_hours=hours)
        done = dbbackup.ok("run", "kg")
        assert done["skipped"] == (hours > 25)
        if done["skipped"]:
            assert done["reason"] == f"the last good backup {aged[1]} is 25 h old, younger than 25.5 h"

    def test_a_failed_run_does_not_suppress(self, dbbackup: Command, environment: Path, aged: list[str]) -> None:
        dbbackup.job("kg", environment.with_name("missing"), min_age_hours=0.9)
        dbbackup.fails(1, "run", "kg")
        dbbackup.job("kg", environment, min_age_hours=0.9)
        assert dbbackup.ok("run", "kg")["changed"]
        assert len(dbbackup.backups("kg")) == len(aged) + 1

    def test_one_of_the_future_does_not_suppress(self, dbbackup: Command, environment: Path, aged: list[str]) -> None:
        copy_backup(dbbackup.repository / "kg" / aged[0], times.now() + 400 * DAY)
        dbbackup.job("kg", environment, min_age_hours=0.5)
        assert dbbackup.ok("run", "kg")["changed"]

    def test_a_prune_that_fails_is_but_a_warning(self, dbbackup: Command, environment: Path, aged: list[str]) -> None:
        (dbbackup.repository / f"kg/.removing-{aged[1]}").write_bytes(b"in the way")
        dbbackup.job("kg", environment, keep_last=1)
        done = dbbackup.ok("run", "kg")
        assert Path(done["path"]).exists()
        assert done["warnings"][0].startswith("backups were not pruned: 1 of 3 backups of job kg were removed, then: /")

    def test_an_unverified_run_evicts_no_good_one(self, dbbackup: Command, environment: Path, aged: list[str]) -> None:
        dbbackup.job("kg", environment, keep_last=1, verify=False)
        for _unused in range(3):
            dbbackup.ok("run", "kg")
        assert dbbackup.backups("kg")[0] == aged[0]
        assert len(dbbackup.backups("kg")) == 2

    def test_what_is_known_of_an_earlier_backup_of_the_same_id_does_not_count(
        self, dbbackup: Command, environment: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When a clock was set back, an id can come a second time; the first may have been verified."""
        used = "20261121T013000Z"
        options = {"type": "lmdb", "name": "kg", "path": str(environment), "repository": str(dbbackup.repository)}
        job = jobs.parse({**options, "verify": False})
        job.directory.create()
        with job.directory.changed_state() as state:
            state.verified[used] = Verification("2026-11-21T01:30:00.000Z", "passed")
        monkeypatch.setattr(JobDirectory, "free_id", lambda *_: used)
        backup.back_up(job)
        assert dbbackup.backups("kg") == [used]
        assert dbbackup.state("kg")["verified"] == {}
