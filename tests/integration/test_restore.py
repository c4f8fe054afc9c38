# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores: what comes back, what is kept, what is refused, and what failures and kills leave behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import restore as restoring
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import NEWEST
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.restored import Restored
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository import locks
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.saboteur import Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    NOBODY,
    Command,
    Content,
    FaultAt,
    bytes_of,
    content_of,
    give_away,
    hide_libraries,
    lock_file,
    make_environment,
    process,
    snapshot,
)

TREE = ("vector", "graph", "vector/visual")
OPEN = "import lmdb, sys; e = lmdb.open(sys.argv[1], subdir=sys.argv[2] == '1'); print(flush=True); sys.stdin.read()"
# What a restore asks of the system to change something.
CHANGES = ("rename", "replace", "link", "fsync", "unlink", "mkdir", "rmdir", "fchown", "fchmod", "ftruncate", "utime")


def in_process(command: Command, job: str = "kg", dest: Path | None = None, force: bool = True) -> Restored:
    """A restore inside this process, where the system can be made to fail."""
    directory = Repository(command.repository).job(job)
    return restoring.restore(directory, NEWEST, Request(destination=dest, force=force))


def make_tree(root: Path, salt: str = "") -> dict[str, Content]:
    """Three environments and some media."""
    content = {name: make_environment(root / name, records=30, salt=salt + name) for name in TREE}
    (root / "media/empty").mkdir(parents=True)
    (root / "media/one.txt").write_text(f"one {salt}")
    (root / "media/two.txt").write_text(f"two {salt}" * 99)
    return content


@contextmanager
def opened_elsewhere(path: Path, subdir: bool = True) -> Iterator[int]:
    """Another process has the environment open; yields its id."""
    command = [sys.executable, "-c", OPEN, str(path), str(int(subdir))]
    with process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as application:
        assert application.stdout
        application.stdout.readline()
        yield application.pid


@contextmanager
def mounted(directory: Path, size: int) -> Iterator[None]:
    """A small file system of its own at the directory."""
    directory.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here ({done.stderr.strip()}): run the tests with CAP_SYS_ADMIN")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


class TestInPlace:
    @pytest.mark.parametrize("subdir", [True, False], ids=["directory", "file"])
    def test_old_data_is_kept_aside_and_told(self, dbbackup: Command, tmp_path: Path, subdir: bool) -> None:
        path = tmp_path / "place/environment"
        content = make_environment(path, subdir=subdir)
        dbbackup.job("kg", path)
        backup_id = dbbackup.ok("run", "kg")["backup"]["id"]
        shutil.rmtree(tmp_path / "place")
        newer = make_environment(path, records=50, salt="newer", subdir=subdir)
        before = (path / "data.mdb" if subdir else path).read_bytes()

        result = dbbackup.ok("restore", "kg", "--force")
        assert result["changed"]
        assert result["backup"]["id"] == backup_id
        assert result["dest"] == str(path)
        assert content_of(path) == content
        (aside,) = result["aside"]
        assert Path(aside).read_bytes() == before
        assert content_of(Path(aside)) == newer
        assert not lock_file(path, subdir).exists(), "a lock file of the old data was left beside the new"
        assert result["files"] == [str(path / "data.mdb" if subdir else path)]
        assert list(result["map_sizes"].values()) == [64 << 20]
        with closing(lmdb.open(str(path), subdir=subdir, map_size=0, readonly=True)) as environment:
            assert environment.info()["map_size"] == 64 << 20

    def test_a_tree_comes_back_whole(self, dbbackup: Command, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        content, media = make_tree(tree), None
        media = bytes_of(tree / "media")
        dbbackup.job("kg", tree, include=["media"])
        dbbackup.ok("run", "kg")
        shutil.rmtree(tree)
        newer = make_tree(tree, salt="newer")
        newer_media = bytes_of(tree / "media")

        result = dbbackup.ok("restore", "kg", "--force")
        assert {name: content_of(tree / name) for name in TREE} == content
        assert bytes_of(tree / "media") == media
        asides = [Path(path) for path in result["aside"]]
        kept = {os.path.relpath(path.parent, tree): path for path in asides}
        assert {name: content_of(kept[name]) for name in TREE} == newer
        assert bytes_of(kept["."]) == newer_media
        assert not list(tree.rglob("lock.mdb"))
        assert set(result["map_sizes"]) == {f"{name}/data.mdb" for name in TREE}

    def test_job_that_names_the_data_file_of_a_directory(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        content = make_environment(path)
        dbbackup.job("kg", path / "data.mdb")
        dbbackup.ok("run", "kg")
        (path / "data.mdb").write_bytes(b"damaged")
        dbbackup.ok("restore", "kg", "--force")
        assert content_of(path) == content

    def test_lost_data_needs_no_force(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        content = make_environment(path)
        dbbackup.job("kg", path)
        dbbackup.ok("run", "kg")
        shutil.rmtree(path)
        assert dbbackup.ok("restore", "kg")["aside"] == []
        assert content_of(path) == content

    @pytest.mark.parametrize("subdir", [True, False], ids=["directory", "file"])
    def test_nothing_is_done_where_the_backup_already_is(self, dbbackup: Command, tmp_path: Path, subdir: bool) -> None:
        path = tmp_path / "place/environment"
        make_environment(path, subdir=subdir)
        dbbackup.job("kg", path)
        dbbackup.ok("run", "kg")
        dbbackup.ok("restore", "kg", "--force")
        before = snapshot(tmp_path / "place")
        for force in ([], ["--force"]):
            result = dbbackup.ok("restore", "kg", *force)
            assert (result["changed"], result["aside"]) == (False, [])
        assert snapshot(tmp_path / "place") == before

    def test_each_restore_keeps_what_it_replaced(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        dbbackup.job("kg", path)
        content, ids = [], []
        for number in range(3):
            shutil.rmtree(path, ignore_errors=True)
            content.append(make_environment(path, salt=str(number)))
            ids.append(dbbackup.ok("run", "kg")["backup"]["id"])
        asides = []
        for number in (0, 1, 2):
            asides += dbbackup.ok("restore", "kg", "--id", ids[number], "--force")["aside"]
            assert content_of(path) == content[number]
        assert [content_of(Path(aside)) for aside in asides] == [content[2], content[0], content[1]]

    def test_a_linked_directory_is_where_its_link_points(self, dbbackup: Command, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        path = tmp_path / "environment"
        path.symlink_to("disk")
        content = make_environment(path)
        dbbackup.job("kg", path)
        dbbackup.ok("run", "kg")
        (path / "data.mdb").write_bytes(b"damaged")
        dbbackup.ok("restore", "kg", "--force")
        assert path.is_symlink()
        assert content_of(tmp_path / "disk") == content


class TestElsewhere:
    def test_single_file_gets_the_name_that_is_wanted(self, dbbackup: Command, tmp_path: Path) -> None:
        content = make_environment(tmp_path / "place/original.lmdb", subdir=False)
        dbbackup.job("kg", tmp_path / "place/original.lmdb")
        dbbackup.ok("run", "kg")
        result = dbbackup.ok("restore", "kg", "--dest", tmp_path / "other/copy.lmdb")
        assert os.listdir(tmp_path / "other") == ["copy.lmdb"]
        assert content_of(tmp_path / "other/copy.lmdb") == content
        assert set(result["map_sizes"]) == {"copy.lmdb"}

    def test_tree_into_directories_that_are_not_there(self, dbbackup: Command, tmp_path: Path) -> None:
        content = make_tree(tmp_path / "tree")
        dbbackup.job("kg", tmp_path / "tree", include=["media"])
        dbbackup.ok("run", "kg")
        dest = tmp_path / "not/yet/there"
        dbbackup.ok("restore", "kg", "--dest", dest)
        assert {name: content_of(dest / name) for name in TREE} == content
        assert bytes_of(dest / "media") == bytes_of(tmp_path / "tree/media")
        assert dbbackup.ok("restore", "kg", "--dest", dest)["changed"] is False

    def test_of_an_older_backup(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        old = make_environment(path)
        dbbackup.job("kg", path)
        old_id = dbbackup.ok("run", "kg")["backup"]["id"]
        shutil.rmtree(path)
        new = make_environment(path, records=5)
        dbbackup.ok("run", "kg")
        dbbackup.ok("restore", "kg", "--id", old_id, "--dest", tmp_path / "old")
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "new")
        assert (content_of(tmp_path / "old"), content_of(tmp_path / "new")) == (old, new)

    @pytest.mark.parametrize("found", [True, False], ids=["found by verify", "found by its size"])
    def test_of_the_newest_good_one_with_a_warning(self, dbbackup: Command, tmp_path: Path, found: bool) -> None:
        path = tmp_path / "environment"
        dbbackup.job("kg", path)
        content, stored = [], []
        for number in range(3):
            shutil.rmtree(path, ignore_errors=True)
            content.append(make_environment(path, salt=str(number)))
            stored.append(Path(dbbackup.ok("run", "kg")["path"]) / "data.mdb.zst")
        data = stored[2].read_bytes()
        stored[2].write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if found else data[:-1])
        if found:
            dbbackup.fails(1, "verify", "kg")
        result = dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
        assert content_of(tmp_path / "restored") == content[1]
        (warning,) = result["warnings"]
        assert stored[2].parent.name in warning
        assert dbbackup.ok("restore", "kg", "--id", stored[0].parent.name, "--dest", tmp_path / "old")["warnings"] == []

    def test_sparse_environment_stays_small(self, dbbackup: Command, tmp_path: Path) -> None:
        path, map_size = tmp_path / "environment", 10 << 30
        with closing(lmdb.open(str(path), map_size=map_size, writemap=True)) as environment:
            transaction = environment.begin(write=True)
            transaction.put(b"zeros", bytes(20 << 20))
            transaction.commit()
        assert (path / "data.mdb").stat().st_size == map_size
        dbbackup.job("kg", path)
        backup = dbbackup.ok("run", "kg")["backup"]
        assert backup["summary"]["repo_size"] < 1 << 16
        result = dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
        assert result["map_sizes"] == {"data.mdb": map_size}
        status = (tmp_path / "restored/data.mdb").stat()
        assert status.st_size > 20 << 20
        assert status.st_blocks * 512 < 1 << 20
        with closing(lmdb.open(str(tmp_path / "restored"), map_size=map_size, readonly=True)) as environment:
            assert environment.begin().get(b"zeros") == bytes(20 << 20)

    def test_dry_run_tells_and_changes_nothing(self, dbbackup: Command, tmp_path: Path) -> None:
        make_tree(tmp_path / "tree")
        dbbackup.job("kg", tmp_path / "tree", include=["media"])
        dbbackup.ok("run", "kg")
        before = snapshot(tmp_path)
        predicted = dbbackup.ok("restore", "kg", "--dest", tmp_path / "out", "--dry-run")
        assert snapshot(tmp_path) == before
        real = dbbackup.ok("restore", "kg", "--dest", tmp_path / "out")
        assert predicted == real

    def test_dry_run_tells_what_would_be_put_aside(self, dbbackup: Command, tmp_path: Path) -> None:
        make_tree(tmp_path / "tree")
        dbbackup.job("kg", tmp_path / "tree", include=["media"])
        dbbackup.ok("run", "kg")
        (tmp_path / "tree/graph/data.mdb").write_bytes(b"changed")
        (tmp_path / "tree/vector/data.mdb").unlink()
        predicted = dbbackup.ok("restore", "kg", "--force", "--dry-run")
        real = dbbackup.ok("restore", "kg", "--force")

        def without_time(result: dict[str, Any]) -> dict[str, Any]:
            named = {
                name: [re.sub(r"(before-restore-)\w+", r"\1", line) for line in result[name]]
                for name in ("aside", "undo")
            }
            return {**result, **named}

        assert without_time(predicted) == without_time(real)
        assert len(predicted["aside"]) == 3

    def test_directories_are_durable_after_what_is_in_them(
        self, dbbackup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_tree(tmp_path / "tree")
        (tmp_path / "tree/media/a/b").mkdir(parents=True)
        (tmp_path / "tree/media/a/b/file").write_text("file")
        dbbackup.job("kg", tmp_path / "tree", include=["media"])
        dbbackup.ok("run", "kg")
        dest, synced, fsync = tmp_path / "new/dest", [], os.fsync

        def note_and_sync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}").replace(".media.restoring", "media")
            synced.append(Path(path.replace(".data.mdb.restoring", "data.mdb")))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", note_and_sync)
        in_process(dbbackup, dest=dest)
        last = {path: number for number, path in enumerate(synced)}
        for path in (tmp_path, dest.parent, dest, *dest.rglob("*")):
            assert path in last, f"{path} was not synced"
            inner = [last.get(child, -1) for child in path.iterdir()] if path.is_dir() else []
            assert max(inner, default=-1) < last[path], path


class TestRefused:
    @pytest.fixture
    def saved(self, dbbackup: Command, tmp_path: Path) -> Path:
        """A tree with a backup."""
        tree = tmp_path / "tree"
        make_tree(tree)
        dbbackup.job("kg", tree, include=["media"])
        dbbackup.ok("run", "kg")
        return tree

    @pytest.mark.usefixtures("saved")
    def test_destination_that_is_not_empty(self, dbbackup: Command, tmp_path: Path) -> None:
        dest = tmp_path / "dest"
        dest.mkdir()
        (dest / "precious").write_text("precious")
        before = snapshot(dest)
        sentence = dbbackup.fails(1, "restore", "kg", "--dest", dest)
        assert str(dest) in sentence
        assert "force" in sentence
        assert "force" in dbbackup.fails(1, "restore", "kg", "--dest", dest, "--dry-run")
        assert snapshot(dest) == before
        dbbackup.ok("restore", "kg", "--dest", dest, "--force")
        assert (dest / "precious").read_text() == "precious"

    def test_in_place_without_force(self, dbbackup: Command, saved: Path) -> None:
        (saved / "graph/data.mdb").write_bytes(b"changed")
        before = snapshot(saved)
        assert "force" in dbbackup.fails(1, "restore", "kg")
        assert snapshot(saved) == before

    @pytest.mark.parametrize("existing", ["copy.lmdb", "media"])
    def test_single_file_beside_what_it_would_replace(self, dbbackup: Command, tmp_path: Path, existing: str) -> None:
        make_environment(tmp_path / "place/original.lmdb", subdir=False)
        (tmp_path / "place/media").mkdir()
        dbbackup.job("kg", tmp_path / "place/original.lmdb", include=["media"])
        dbbackup.ok("run", "kg")
        (tmp_path / "dest").mkdir()
        (tmp_path / "dest" / existing).write_text("precious")
        before = snapshot(tmp_path / "dest")
        assert existing in dbbackup.fails(1, "restore", "kg", "--dest", tmp_path / "dest/copy.lmdb")
        assert snapshot(tmp_path / "dest") == before

    @pytest.mark.parametrize("subdir", [True, False], ids=["directory", "file"])
    def test_destination_that_an_application_has_open(self, dbbackup: Command, tmp_path: Path, subdir: bool) -> None:
        path = tmp_path / "environment"
        content = make_environment(path, subdir=subdir)
        dbbackup.job("kg", path)
        dbbackup.ok("run", "kg")
        with closing(lmdb.open(str(path), subdir=subdir)) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"newer", b"data")
        with opened_elsewhere(path, subdir) as application:
            before = snapshot(tmp_path)
            for options in (["--force"], ["--force", "--dry-run"]):
                sentence = dbbackup.fails(1, "restore", "kg", *options)
                assert f"process {application}" in sentence
            assert snapshot(tmp_path) == before
        dbbackup.ok("restore", "kg", "--force")
        assert content_of(path) == content

    @pytest.mark.root
    def test_lock_file_that_cannot_be_looked_at(self, dbbackup: Command, tmp_path: Path, saboteur: Saboteur) -> None:
        path = tmp_path / "environment"
        make_environment(path)
        dbbackup.job("kg", path)
        dbbackup.ok("run", "kg")
        (path / "data.mdb").write_bytes(b"changed")
        for place in (path, dbbackup.repository):
            give_away(place)
        os.chown(path / "lock.mdb", 0, 0)
        (path / "lock.mdb").chmod(0o600)
        before = bytes_of(path)
        for options in ([], ["--dry-run"]):
            ended = saboteur.run(dbbackup.arguments("restore", "kg", "--force", *options)[2:], user=NOBODY)
            assert ended.code == 1
            assert f"whether an application has {path}/lock.mdb open cannot be seen: Permission denied" in ended.stderr
        (path / "lock.mdb").unlink()
        (path / "lock.mdb").symlink_to("elsewhere")
        assert "cannot be seen: it is a link" in dbbackup.fails(1, "restore", "kg", "--dest", path, "--force")
        (path / "lock.mdb").unlink()
        assert bytes_of(path) == {name: content for name, content in before.items() if name != "lock.mdb"}

    def test_tree_of_which_one_environment_is_open(self, dbbackup: Command, saved: Path) -> None:
        (saved / "media/one.txt").write_text("changed")
        with opened_elsewhere(saved / "vector/visual") as application:
            before = bytes_of(saved / "media")
            assert f"process {application}" in dbbackup.fails(1, "restore", "kg", "--force")
            assert bytes_of(saved / "media") == before
        dbbackup.ok("restore", "kg", "--force")

    def test_destination_in_which_another_restore_works(self, dbbackup: Command, saved: Path) -> None:
        (saved / "media/one.txt").write_text("changed")
        before = snapshot(saved)
        with locks.locked_directory(saved, "a restore"):
            assert str(saved) in dbbackup.fails(11, "restore", "kg", "--force")
        assert snapshot(saved) == before

    @pytest.mark.parametrize(
        ("code", "arguments"),
        [
            (10, ["kg", "--id", "20200101T000000Z"]),
            (10, ["other"]),
            (2, ["kg", "--id", "yesterday"]),
            (2, ["kg", "--id", "../kg"]),
            (2, ["../kg"]),
            (2, ["kg", "--dest", "relative/path"]),
            (2, ["kg", "--dest", "/somewhere", "--owner", "no-such-user"]),
            (2, ["kg", "--dest", "/somewhere", "--group", "no-such-group"]),
        ],
    )
    @pytest.mark.usefixtures("saved")
    def test_arguments_that_name_nothing(self, dbbackup: Command, code: int, arguments: list[str]) -> None:
        dbbackup.fails(code, "restore", *arguments)

    @pytest.mark.usefixtures("saved")
    def test_destination_below_a_file(self, dbbackup: Command, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("a file")
        sentence = dbbackup.fails(1, "restore", "kg", "--dest", tmp_path / "file/dest")
        assert str(tmp_path / "file") in sentence


class TestLinksInTheDestination:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        """What the links point to."""
        outside = tmp_path / "outside"
        make_environment(outside, salt="outside")
        (outside / "file").write_text("outside")
        return outside

    @pytest.fixture
    def dest(self, dbbackup: Command, tmp_path: Path) -> Path:
        """A destination for the backup of a tree."""
        make_tree(tmp_path / "tree")
        (tmp_path / "tree/deep/media").mkdir(parents=True)
        dbbackup.job("kg", tmp_path / "tree", include=["media", "deep/media"])
        dbbackup.ok("run", "kg")
        (tmp_path / "dest").mkdir()
        return tmp_path / "dest"

    @pytest.mark.parametrize("name", ["vector", "graph", "deep"])
    def test_directory_on_the_way(self, dbbackup: Command, dest: Path, outside: Path, name: str) -> None:
        (dest / name).symlink_to(outside)
        before = snapshot(dest), snapshot(outside)
        assert "link" in dbbackup.fails(1, "restore", "kg", "--dest", dest, "--force")
        assert (snapshot(dest), snapshot(outside)) == before

    def test_target_itself_is_replaced(self, dbbackup: Command, dest: Path, outside: Path) -> None:
        (dest / "graph").mkdir()
        (dest / "graph/data.mdb").symlink_to(outside / "data.mdb")
        (dest / "media").symlink_to(outside)
        before = snapshot(outside)
        result = dbbackup.ok("restore", "kg", "--dest", dest, "--force")
        assert snapshot(outside) == before
        assert not (dest / "graph/data.mdb").is_symlink()
        assert not (dest / "media").is_symlink()
        assert {os.readlink(path) for path in result["aside"]} == {str(outside), str(outside / "data.mdb")}

    def test_name_of_the_file_in_the_making(self, dbbackup: Command, dest: Path, outside: Path) -> None:
        (dest / "graph").mkdir()
        (dest / "graph/.data.mdb.restoring").symlink_to(outside / "file")
        (dest / ".media.restoring").symlink_to(outside)
        before = snapshot(outside)
        dbbackup.ok("restore", "kg", "--dest", dest, "--force")
        assert snapshot(outside) == before


class TestOwner:
    @pytest.mark.root
    def test_as_in_the_backup(self, dbbackup: Command, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        make_tree(tree)
        for place in (tree, *tree.rglob("*")):
            os.chown(place, NOBODY, 4711)
        (tree / "graph/data.mdb").chmod(0o640)
        dbbackup.job("kg", tree, include=["media"])
        dbbackup.ok("run", "kg")
        dest = tmp_path / "new/dest"
        dbbackup.ok("restore", "kg", "--dest", dest)
        for place in (dest, *dest.rglob("*")):
            assert (place.stat().st_uid, place.stat().st_gid) == (NOBODY, 4711), place
        assert (dest / "graph/data.mdb").stat().st_mode & 0o7777 == 0o640

    @pytest.mark.root
    @pytest.mark.parametrize(("owner", "group"), [("nobody", "nogroup"), ("65534", "65534")])
    def test_as_asked(self, dbbackup: Command, tmp_path: Path, owner: str, group: str) -> None:
        make_tree(tmp_path / "tree")
        dbbackup.job("kg", tmp_path / "tree", include=["media"])
        dbbackup.ok("run", "kg")
        dest = tmp_path / "dest"
        dbbackup.ok("restore", "kg", "--dest", dest, "--owner", owner, "--group", group, "--mode", "0600")
        for place in (dest, *dest.rglob("*")):
            assert (place.stat().st_uid, place.stat().st_gid) == (NOBODY, NOBODY), place
        assert (dest / "graph/data.mdb").stat().st_mode & 0o7777 == 0o600
        assert (dest / "media/one.txt").stat().st_mode & 0o7777 == 0o644

    def test_mode(self, dbbackup: Command, tmp_path: Path) -> None:
        make_environment(tmp_path / "environment")
        (tmp_path / "environment/data.mdb").chmod(0o604)
        dbbackup.job("kg", tmp_path / "environment")
        dbbackup.ok("run", "kg")
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "as-it-was")
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "as-asked", "--mode", "0660")
        assert (tmp_path / "as-it-was/data.mdb").stat().st_mode & 0o7777 == 0o604
        assert (tmp_path / "as-asked/data.mdb").stat().st_mode & 0o7777 == 0o660
        assert dbbackup("restore", "kg", "--dest", tmp_path / "x", "--mode", "rw").code == 2

    @pytest.mark.parametrize(
        ("mode", "expected"), [("0600", 0o700), ("0640", 0o750), ("0604", 0o705), ("0660", 0o770), ("0666", 0o775)]
    )
    def test_new_directories_can_be_entered_by_those_who_may_read(
        self, dbbackup: Command, tmp_path: Path, mode: str, expected: int
    ) -> None:
        make_tree(tmp_path / "tree")
        dbbackup.job("kg", tmp_path / "tree", include=["media"])
        dbbackup.ok("run", "kg")
        dest = tmp_path / "new/dest"
        dbbackup.ok("restore", "kg", "--dest", dest, "--mode", mode)
        for directory in (dest.parent, dest, dest / "graph", dest / "vector/visual"):
            assert directory.stat().st_mode & 0o777 == expected, directory
        assert (dest / "media").stat().st_mode & 0o777 == (tmp_path / "tree/media").stat().st_mode & 0o777

    def test_mode_of_what_is_in_place(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        make_environment(path)
        dbbackup.job("kg", path)
        dbbackup.ok("run", "kg")
        before = bytes_of(path)
        (path / "data.mdb").chmod(0o600)
        assert dbbackup.ok("restore", "kg", "--mode", "0640", "--dry-run")["changed"]
        assert (path / "data.mdb").stat().st_mode & 0o777 == 0o600
        result = dbbackup.ok("restore", "kg", "--mode", "0640")
        assert (result["changed"], result["aside"]) == (True, [])
        assert (path / "data.mdb").stat().st_mode & 0o777 == 0o640
        for options in ([], ["--mode", "0640"]):
            assert not dbbackup.ok("restore", "kg", *options)["changed"]
        assert bytes_of(path) == before

    @pytest.mark.root
    def test_owner_of_what_is_in_place(self, dbbackup: Command, tmp_path: Path) -> None:
        make_tree(tmp_path / "tree")
        dbbackup.job("kg", tmp_path / "tree", include=["media"])
        dbbackup.ok("run", "kg")
        dest = tmp_path / "dest"
        dbbackup.ok("restore", "kg", "--dest", dest)
        options = ["--dest", dest, "--owner", "nobody"]
        assert dbbackup.ok("restore", "kg", *options, "--dry-run")["changed"]
        assert (dest / "media/one.txt").stat().st_uid == 0
        assert dbbackup.ok("restore", "kg", *options)["changed"]
        for place in (*dest.rglob("*.mdb"), dest / "media", *(dest / "media").rglob("*")):
            assert (place.stat().st_uid, place.stat().st_gid) == (NOBODY, 0), place
        assert not dbbackup.ok("restore", "kg", *options)["changed"]
        # Only the owner of one file of the media differs.
        os.chown(dest / "media/two.txt", 4711, 0)
        assert dbbackup.ok("restore", "kg", *options)["changed"]
        assert (dest / "media/two.txt").stat().st_uid == NOBODY

    @pytest.mark.root
    def test_second_name_of_a_file_is_not_given_away(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        make_environment(path)
        dbbackup.job("kg", path)
        dbbackup.ok("run", "kg")
        os.link(path / "data.mdb", tmp_path / "of-somebody-else")
        assert "second name" in dbbackup.fails(1, "restore", "kg", "--owner", "nobody")
        assert (path / "data.mdb").stat().st_uid == 0

    @pytest.mark.root
    def test_of_an_existing_directory_stays(self, dbbackup: Command, tmp_path: Path) -> None:
        make_environment(tmp_path / "environment")
        dbbackup.job("kg", tmp_path / "environment")
        dbbackup.ok("run", "kg")
        dest = tmp_path / "dest"
        dest.mkdir(0o751)
        os.chown(dest, NOBODY, NOBODY)
        dbbackup.ok("restore", "kg", "--dest", dest)
        status = dest.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (NOBODY, NOBODY, 0o751)


class TestUnproven:
    def test_copy_that_nobody_opened_is_opened_before_the_swap(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        make_environment(path, records=3000)
        data = path / "data.mdb"
        whole = data.read_bytes()
        # The header and the size are right; what lies behind them is not.
        data.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
        dbbackup.job("kg", path, verify=False)
        dbbackup.ok("run", "kg")
        data.write_bytes(whole)
        before = bytes_of(path)
        dbbackup.fails(1, "restore", "kg", "--force")
        assert bytes_of(path) == before
        dbbackup.fails(1, "restore", "kg", "--dest", tmp_path / "dest")
        assert not (tmp_path / "dest").exists()

    @pytest.mark.parametrize("hidden", [[], ["lmdb"]], ids=["library", "program"])
    def test_good_copy_leaves_no_trace_of_the_proof(self, dbbackup: Command, tmp_path: Path, hidden: list[str]) -> None:
        content = make_environment(tmp_path / "environment")
        dbbackup.job("kg", tmp_path / "environment", verify=False)
        dbbackup.ok("run", "kg")
        dbbackup.env = hide_libraries(tmp_path / "hidden", *hidden)
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "dest")
        assert os.listdir(tmp_path / "dest") == ["data.mdb"]
        assert content_of(tmp_path / "dest") == content


@pytest.mark.root
class TestFileSystems:
    def test_destination_that_is_a_mount_point(self, dbbackup: Command, tmp_path: Path) -> None:
        content = make_tree(tmp_path / "tree")
        dbbackup.job("kg", tmp_path / "tree", include=["media"])
        dbbackup.ok("run", "kg")
        dest = tmp_path / "dest"
        with mounted(dest, 16 << 20):
            dbbackup.ok("restore", "kg", "--dest", dest)
            assert {name: content_of(dest / name) for name in TREE} == content
            (dest / "graph/data.mdb").write_bytes(b"changed")
            (dest / "media/one.txt").write_text("changed")
            assert len(dbbackup.ok("restore", "kg", "--dest", dest, "--force")["aside"]) == len(TREE) + 1
            assert {name: content_of(dest / name) for name in TREE} == content

    @pytest.mark.parametrize("room", [0, 150, 300, 450, 600, 750])
    def test_destination_that_is_full(self, dbbackup: Command, tmp_path: Path, room: int) -> None:
        """Room for room KiB more than what is there; the backup needs about 1000."""
        path = tmp_path / "environment"
        make_environment(path, records=600)
        (path / "media").mkdir()
        (path / "media/large").write_bytes(os.urandom(700_000))
        dbbackup.job("kg", path, include=["media"])
        dbbackup.ok("run", "kg")
        dest = tmp_path / "dest"
        with mounted(dest, 40960 + (room << 10)):
            (dest / "data.mdb").write_bytes(b"precious" * 5000)
            before = snapshot(dest)
            sentence = dbbackup.fails(1, "restore", "kg", "--dest", dest, "--force")
            assert "No space left on device" in sentence
            assert snapshot(dest).keys() == before.keys()
            assert bytes_of(dest) == {"data.mdb": b"precious" * 5000}


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Scene:
    """A backup, and a destination that is set up anew for every try."""

    command: Command
    new: Path
    old: Path
    dest: Path
    target: Path
    is_fresh: bool
    before: dict[str, Any] = field(default_factory=dict)

    def set_up(self) -> None:
        shutil.rmtree(self.dest, ignore_errors=True)
        if not self.is_fresh:
            shutil.copytree(self.old, self.dest)
        self.before = bytes_of(self.dest)

    def restore(self) -> Restored:
        return in_process(self.command, dest=self.target)


@pytest.fixture(params=["tree", "file", "fresh"])
def scene(request: pytest.FixtureRequest, dbbackup: Command, tmp_path: Path) -> Scene:
    new, old = tmp_path / "new", tmp_path / "old"
    for place, salt in ((new, "new"), (old, "old")):
        if request.param == "file":
            make_environment(place / "environment", records=20, salt=salt, subdir=False)
            (place / "settings.txt").write_text(salt)
        else:
            make_tree(place, salt)
    path, include = (new / "environment", "settings.txt") if request.param == "file" else (new, "media")
    dbbackup.job("kg", path, include=[include])
    dbbackup.ok("run", "kg")
    dest = tmp_path / "dest"
    target = dest / "environment" if request.param == "file" else dest
    return Scene(dbbackup, new, old, dest, target, request.param == "fresh")


def data_of(directory: Path) -> dict[str, bytes | str | None]:
    """What the application has in a directory: no lock files, nothing that was put aside."""
    return {
        name: content
        for name, content in bytes_of(directory).items()
        if not name.endswith(("lock.mdb", "-lock")) and ".before-restore-" not in name
    }


def test_a_failure_of_any_call_is_undone(scene: Scene) -> None:
    for function in CHANGES:
        failures = 0
        while (failed := failed_at(scene, function, failures + 1)) is not None:
            failures += 1
            what = f"call {failures} of {function} failed"
            if failed:
                assert bytes_of(scene.dest) == scene.before, what
                assert scene.is_fresh == (not scene.dest.exists()), what
            else:
                assert data_of(scene.dest) == data_of(scene.new), what
        assert failures or function in {"replace", "rmdir", "unlink", "link", "mkdir"}, f"{function} was never called"


def failed_at(scene: Scene, function: str, turn: int) -> bool | None:
    """Restore with a failure at a call; returns whether the restore failed, None when there was no such call."""
    scene.set_up()
    fault = FaultAt(fail, turn)
    failed = False
    with pytest.MonkeyPatch.context() as patch:
        fault.install(patch, function)
        try:
            scene.restore()
        except BackupError:
            failed = True
    return failed if fault.calls >= turn else None


def killed_at(scene: Scene, turn: int) -> bool:
    """Restore in a child that is killed at a call; returns whether it came so far."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                FaultAt(die, turn).install(patch, *CHANGES)
                scene.restore()
            status = 0
        finally:
            os._exit(status)
    _unused, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the restore of turn {turn} ended with {status}"
    return status == signal.SIGKILL


@pytest.mark.slow
def test_a_kill_at_any_call_leaves_the_old_or_the_new(scene: Scene) -> None:
    turn, killed = 0, True
    new, old = data_of(scene.new), {} if scene.is_fresh else data_of(scene.old)
    files = [name for name in new if name.endswith(("data.mdb", "environment", "settings.txt"))]
    while killed:
        turn += 1
        scene.set_up()
        killed = killed_at(scene, turn)
        found = data_of(scene.dest) if scene.dest.exists() else {}
        for name in files:
            assert found.get(name) in (old.get(name), new[name]), f"killed at call {turn}: {name}"

        in_process(scene.command, dest=scene.target, force=any(name in found for name in files))
        assert data_of(scene.dest) == new, f"after the kill at call {turn}"
        everything = bytes_of(scene.dest)
        for name in files if old else []:
            kept = {content for other, content in everything.items() if other.startswith(f"{name}.before-restore-")}
            assert old[name] in kept, f"killed at call {turn}: the old {name} is lost"
    assert turn > 10, "hardly anything was tried"


def test_a_refused_restore_leaves_no_new_directory(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "environment")
    dbbackup.job("kg", tmp_path / "environment")
    stored = Path(dbbackup.ok("run", "kg")["path"]) / "data.mdb.zst"
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    before = snapshot(tmp_path)
    assert "data.mdb.zst" in dbbackup.fails(1, "restore", "kg", "--dest", tmp_path / "not/there")
    assert snapshot(tmp_path).keys() == before.keys()
