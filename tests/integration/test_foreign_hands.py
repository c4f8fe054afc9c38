# SPDX-License-Identifier: GPL-3.0-or-later
"""Root at work where another user may move directories and put links in their place: nothing outside is touched."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs, processes, times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError, CorruptError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import prune
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.backup import back_up
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import NEWEST
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.ownership import Ownership
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.restore import restore
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.swap import Swap
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.verify import verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.paths import make_directory
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.processes import Report, lent_to_nobody
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import (
    JobDirectory,
    Repository,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import Policy
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources import tree
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.chroma import (
    drill,
    examination,
    segment,
    segments,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.lmdb import library
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.sqlite import copies
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.stages import FileWriter
from ansible_collections.embedded.db_backup.tests.saboteur import Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    CHECKOUT,
    NOBODY,
    Command,
    content_of,
    give_away,
    make_environment,
    snapshot,
)

pytestmark = pytest.mark.root

ROUNDS = 25


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What belongs to root, has the names that a restore uses, and must not change."""
    outside = tmp_path / "outside"
    make_environment(outside, salt="outside")
    for name in ("media", ".media.restoring", "deep"):
        (outside / name).mkdir()
        (outside / name / "one.txt").write_text("outside")
    return outside


@pytest.fixture
def job(tmp_path: Path) -> JobDirectory:
    """A backup of an environment with media, all of it of a user."""
    source = tmp_path / "source"
    make_environment(source / "graph")
    (source / "graph/media/deep").mkdir(parents=True)
    for number in range(50):
        (source / f"graph/media/deep/{number}.txt").write_text("media")
    give_away(source)
    return backed_up(source, tmp_path / "repository", include=["graph/media"])


def backed_up(source: Path, repository: Path, **options: Any) -> JobDirectory:
    back_up(jobs.parse({"name": "kg", "type": "lmdb", "path": str(source), "repository": str(repository), **options}))
    return Repository(repository).job("kg")


@contextmanager
def another_user(mischief: Callable[[], None]) -> Iterator[None]:
    """A process without rights that does its mischief again and again."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        while True:
            with suppress(OSError):
                mischief()
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def swap_for_link(directory: Path, target: Path) -> None:
    """Put a link in the place of a directory, and later the directory back."""
    away = directory.with_name(directory.name + ".away")
    os.rename(directory, away)
    os.symlink(target, directory)
    time.sleep(0.0005)
    os.unlink(directory)
    os.rename(away, directory)


@pytest.mark.parametrize("name", ["graph", "graph/.media.restoring", "graph/.media.restoring/deep"])
def test_a_race_against_a_restore_leads_nowhere(job: JobDirectory, outside: Path, tmp_path: Path, name: str) -> None:
    dest = tmp_path / "home/dest"
    dest.mkdir(parents=True)
    give_away(tmp_path / "home")
    before = snapshot(outside)
    with another_user(lambda: swap_for_link(dest / name, outside)):
        for _unused in range(ROUNDS):
            # Disturbed, it may fail. What it does, it does inside.
            with suppress(BackupError, FileExistsError):
                shutil.rmtree(dest / "graph", ignore_errors=True)
                (dest / "graph").mkdir()
                os.chown(dest / "graph", NOBODY, NOBODY, follow_symlinks=False)
                restore(job, NEWEST, Request(destination=dest, force=True))
    assert snapshot(outside) == before


def test_what_is_unpacked_is_closed_to_its_owner_until_all_is_there(job: JobDirectory, tmp_path: Path) -> None:
    """The directory, which was the user's at once, is asked for its mode whenever more of the tar is read."""
    source, staged = tmp_path / "source", tmp_path / "staged"
    archive, seen = io.BytesIO(), []
    included, _warnings = tree.write(FileWriter(os.dup(memory := os.memfd_create("tar"))), source, ["graph/media"])

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if staged.exists():
                seen.append((staged.stat().st_uid, staged.stat().st_mode & 0o777))
            return super().read(size)

    archive = Watched(os.pread(memory, 1 << 20, 0))
    os.close(memory)
    tree.unpack(archive, included, {"graph/media": staged}, None, None)
    assert set(seen) == {(0, 0o700)}
    assert staged.stat().st_uid == (staged / "deep").stat().st_uid == NOBODY
    assert job.backups()


def test_a_directory_that_moved_is_still_the_one_that_is_written_to(outside: Path, tmp_path: Path) -> None:
    before = snapshot(outside)
    (tmp_path / "dest/inner").mkdir(parents=True)
    (tmp_path / "dest/inner/data.mdb").write_text("old")
    with Swap(tmp_path / "dest") as swap:
        swap.open_directory(tmp_path / "dest/inner", Ownership())
        swap.open_directory(tmp_path / "dest/new", Ownership(NOBODY, NOBODY, 0o755))
        for name in ("inner", "new"):
            (tmp_path / "dest" / name).rename(tmp_path / f"moved-{name}")
            (tmp_path / "dest" / name).symlink_to(outside)
            swap.stage(tmp_path / "dest" / name / "data.mdb").write_text("new")
        (aside,) = swap.commit()
    assert snapshot(outside) == before
    assert (tmp_path / "moved-inner/data.mdb").read_text() == (tmp_path / "moved-new/data.mdb").read_text() == "new"
    assert (tmp_path / "moved-inner" / aside.name).read_text() == "old"
    assert (tmp_path / "moved-new").stat().st_uid == NOBODY


def test_a_link_in_place_of_a_directory_to_be_opened_is_refused(outside: Path, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest/inner").symlink_to(outside)
    before = snapshot(outside)
    with pytest.raises(OSError, match="Not a directory"), Swap(tmp_path / "dest") as swap:
        swap.open_directory(tmp_path / "dest/inner/deep", Ownership(NOBODY, NOBODY))
    assert snapshot(outside) == before


def test_another_directory_in_place_of_a_new_one_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir_and_replace(path: Path, mode: int) -> None:
        mkdir(path, mode)
        os.chown(path, NOBODY, NOBODY)

    mkdir = os.mkdir
    monkeypatch.setattr(os, "mkdir", mkdir_and_replace)
    with pytest.raises(BackupError, match="was replaced"):
        make_directory(tmp_path / "new")


def test_a_directory_that_cannot_be_opened_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> list[str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(OSError, match="Input/output error"):
        make_directory(tmp_path / "new")
    assert not (tmp_path / "new").exists()


class TestRepositoryOfAUser:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        repository = tmp_path / "home/repository"
        repository.mkdir(parents=True)
        give_away(tmp_path / "home")
        return repository

    def test_a_race_against_a_backup_leads_nowhere(self, repository: Path, outside: Path, tmp_path: Path) -> None:
        make_environment(tmp_path / "source/graph", salt="source")
        (outside / "graph").mkdir()
        before = snapshot(outside)

        def mischief() -> None:
            for partial in (repository / "kg").iterdir():
                if partial.name.startswith("."):
                    swap_for_link(partial, outside)

        with another_user(mischief):
            for _unused in range(ROUNDS):
                with suppress(BackupError, OSError):
                    backed_up(tmp_path / "source", repository)
        assert snapshot(outside) == before

    def test_a_backup_is_written_where_its_directory_is(self, repository: Path, outside: Path, tmp_path: Path) -> None:
        job = Repository(repository).job("kg")
        job.create()
        before = snapshot(outside)
        compression = jobs.parse({"type": "lmdb", "name": "kg", "path": "/x", "compression": "none"}).compression
        with job.staging(times.now(), compression) as staging:
            staging.path.rename(tmp_path / "moved")
            staging.path.symlink_to(outside)
            with staging.store("deep/shadow", os.stat("/")) as stream:
                stream.write(b"content")
            staging.path.unlink()
        assert snapshot(outside) == before
        assert (tmp_path / "moved/deep/shadow").read_bytes() == b"content"
        assert (tmp_path / "moved").stat().st_uid == 0

    @pytest.mark.parametrize("after", ["remove_leftovers", "catalogue", "lock"])
    def test_a_prune_removes_where_it_looked(
        self, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
    ) -> None:
        """The owner of a repository puts a link to another one in place of the job, just after it was looked at."""
        make_environment(tmp_path / "source")
        of_root = tmp_path / "of-root"
        for place in (repository, of_root):
            for _unused in range(3):
                backed_up(tmp_path / "source", place)
        before, ids = snapshot(of_root), sorted(path.name for path in (repository / "kg").glob("2*"))
        honest = getattr(JobDirectory, after)

        def swap(self: JobDirectory, *arguments: Any, **options: Any) -> Any:
            found = honest(self, *arguments, **options)
            if not (tmp_path / "moved").exists():
                (repository / "kg").rename(tmp_path / "moved")
                (repository / "kg").symlink_to(of_root / "kg")
            return found

        monkeypatch.setattr(JobDirectory, after, swap)
        made = prune.prune_job(Repository(repository).job("kg"), Policy(keep_last=1))
        assert snapshot(of_root) == before
        assert sorted(path.name for path in (tmp_path / "moved").glob("2*")) == ids[-1:]
        assert len(made.remove) == 2

    def test_a_link_in_place_of_a_job_is_not_pruned(self, repository: Path, tmp_path: Path) -> None:
        make_environment(tmp_path / "source")
        backed_up(tmp_path / "source", tmp_path / "of-root")
        (repository / "kg").symlink_to(tmp_path / "of-root/kg")
        with pytest.raises(BackupError):
            prune.prune_job(Repository(repository).job("kg"), Policy(keep_last=1))

    def test_a_second_name_of_a_file_of_root_stays_roots(self, repository: Path, tmp_path: Path) -> None:
        make_environment(tmp_path / "source")
        (tmp_path / "of-root").write_text("secret")
        (repository / "kg").mkdir()
        for name in (".lock", ".state.json.new"):
            os.link(tmp_path / "of-root", repository / "kg" / name)
        give_away(repository)
        os.chown(tmp_path / "of-root", 0, 0)
        with suppress(BackupError):
            backed_up(tmp_path / "source", repository)
        assert (tmp_path / "of-root").stat().st_uid == 0

    def test_what_a_killed_run_of_root_left_does_not_stop_the_user(
        self, repository: Path, saboteur: Saboteur, tmp_path: Path
    ) -> None:
        make_environment(tmp_path / "source")
        command = Command(repository, tmp_path / "jobs.d")
        command.job("kg", tmp_path / "source")
        left = [repository / "kg" / name for name in (".partial-20200101T000000Z", ".scratch-1-1")]
        for path in left:
            path.mkdir(parents=True)
            (path / "data.mdb.zst").write_text("half done")
        for path in (tmp_path / "source", repository):
            give_away(path)
        for path in left:
            os.chown(path, 0, 0)
            path.chmod(0o700)
        ended = saboteur.run(command.arguments("run", "kg")[2:], user=NOBODY)
        assert ended.code == 0, ended
        assert [path.exists() for path in left] == [True, True]
        assert saboteur.run(command.arguments("run", "kg")[2:]).code == 0
        assert [path.exists() for path in left] == [False, False]

    def test_all_of_a_published_backup_is_the_users(self, repository: Path, tmp_path: Path) -> None:
        make_environment(tmp_path / "source/graph")
        backed_up(tmp_path / "source", repository)
        assert {path.stat().st_uid for path in [repository, *repository.rglob("*")]} == {NOBODY}


class TestTheProcessThatParsesACopy:
    @pytest.fixture(autouse=True)
    def _spied_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = library.read_all

        def read_all(report: Report, descriptor: int, name: str) -> list[dict[str, Any]]:
            found = os.getresuid(), os.getresgid(), os.getgroups()
            if found != ((NOBODY,) * 3, (NOBODY,) * 3, [NOBODY]):
                raise CorruptError(f"it runs as {found}")
            with pytest.raises(PermissionError):
                os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)
            return original(report, descriptor, name)

        monkeypatch.setattr(library, "read_all", read_all)

    @pytest.mark.parametrize("owner", [0, NOBODY, 4711])
    def test_is_nobodys(self, tmp_path: Path, owner: int) -> None:
        source = tmp_path / "source"
        content = make_environment(source)
        for path in (source, *source.iterdir()):
            os.chown(path, owner, owner)
            path.chmod(0o700)
        job = backed_up(source, tmp_path / "repository")
        assert verify(job).opened
        unproven = backed_up(source, tmp_path / "repository-2", verify=False)
        restore(unproven, NEWEST, Request(destination=tmp_path / "restored"))
        status = (tmp_path / "restored/data.mdb").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (owner, owner, 0o700)
        assert content_of(tmp_path / "restored") == content

    @pytest.mark.parametrize("how", ["of another user", "with a second name", "readable", "a link"])
    def test_gets_no_other_file(self, tmp_path: Path, how: str) -> None:
        copy = tmp_path / "copy"
        copy.write_text("secret")
        copy.chmod(0o644 if how == "readable" else 0o600)
        if how == "of another user":
            os.chown(copy, 4711, 4711)
        elif how == "with a second name":
            os.link(copy, tmp_path / "second")
        elif how == "a link":
            copy.rename(tmp_path / "target")
            copy.symlink_to("target")
        before = snapshot(tmp_path)
        with pytest.raises((BackupError, OSError)), lent_to_nobody(copy):
            pass
        assert snapshot(tmp_path) == before


class TestTheProcessThatReadsAFreshCopyOfChroma:
    """It is nobody's from the moment it opens the copy, whoever owns the data."""

    @pytest.fixture
    def persist(self, tmp_path: Path) -> Path:
        with tarfile.open(CHECKOUT / "tests/fixtures/chroma_versions/chroma-1.5.9.tar.xz") as archive:
            archive.extractall(tmp_path / "persist", filter="data")
        (database,) = (tmp_path / "persist").rglob("chroma.sqlite3")
        return database.parent

    @pytest.fixture(autouse=True)
    def seen(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """Those who look at a copy write their names here, and fail when they have rights."""
        seen = tmp_path / "seen"
        note = os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        keep = processes._keep_open
        monkeypatch.setattr(processes, "_keep_open", lambda *wanted: keep(note, *wanted))

        def watch(place: Any, name: str) -> None:
            honest = getattr(place, name)

            def watched(*arguments: Any, **options: Any) -> Any:
                if os.getresuid() != (NOBODY,) * 3 or os.getgroups() != [NOBODY]:
                    raise CorruptError(f"{name} runs as {os.getresuid()}")
                if name != "parse":
                    os.write(note, f"{name}\n".encode())
                return honest(*arguments, **options)

            monkeypatch.setattr(place, name, watched)

        for place, name in (
            (segment, "parse"),
            (examination, "examine"),
            (examination, "vectors"),
            (copies, "check_integrity"),
            (copies, "merge_wal"),
        ):
            watch(place, name)
        return seen

    @pytest.mark.parametrize("owner", [0, 4711])
    @pytest.mark.parametrize("mode", ["delete", "wal"])
    def test_as_it_is_captured(self, persist: Path, seen: Path, tmp_path: Path, owner: int, mode: str) -> None:
        script = (
            f"import os, sqlite3; c = sqlite3.connect('chroma.sqlite3'); c.execute('PRAGMA journal_mode = {mode}'); "
        )
        # What does not close it leaves its WAL behind.
        script += "c.execute(\"INSERT INTO tenants VALUES ('another')\"); c.commit(); os._exit(0)"
        subprocess.run([sys.executable, "-c", script], check=True, cwd=persist)
        for path in (persist, *persist.rglob("*")):
            os.chown(path, owner, owner)
        options = {"type": "chroma", "name": "vectors", "path": str(persist), "repository": str(tmp_path / "r")}
        outcome = back_up(jobs.parse(options))
        assert outcome.backup["source"]["tenants"] == ["another", "default_tenant"]
        merged = ["merge_wal"] if mode == "wal" else []
        assert seen.read_text().split() == [*merged, "examine", "check_integrity"]

    def test_in_a_drill(self, persist: Path, seen: Path, tmp_path: Path) -> None:
        for path in (persist, *persist.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)
        directories = {path.name: path for path in persist.iterdir() if path.is_dir()}
        drill._expect(
            copies.Copy(persist / "chroma.sqlite3"), segments.Directories(directories), tmp_path / "expected", 60
        )
        with closing(sqlite3.connect(tmp_path / "expected")) as connection:
            found = dict(connection.execute("SELECT name, vectors FROM collections"))
            (vectors,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
            lengths = {row[0] for row in connection.execute("SELECT length(vector) FROM vectors")}
        expected = json.loads((CHECKOUT / "tests/fixtures/chroma_versions/expected.json").read_text())
        assert found == {name: len(records) for name, records in expected.items() if name != "dropped"}
        assert vectors == sum(found.values())
        assert min(lengths) > 0
        assert seen.read_text().split() == ["vectors"] * len(found)
