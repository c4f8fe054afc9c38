# SPDX-License-Identifier: GPL-3.0-or-later
"""Ordinary files beside environments: they travel with the backup, come back as they were, and change while read."""

from __future__ import annotations

import io
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import backup
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources import tree
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.stages import Bytes, Stage
from ansible_collections.embedded.db_backup.tests.tools import (
    Command,
    as_ordinary_user,
    bytes_of,
    content_of,
    make_environment,
    snapshot,
)

NAMES = (
    b"plain.txt",
    b" leading and trailing ",
    "gr\u00fcn \u9898\u76ee \U0001f600.jpg".encode(),
    b"new\nline",
    b"not utf-8 \xff\xfe",
    b"-rf",
    b"back\\slash * ? $HOME 'quoted\"",
    b"x" * 255,
)
# Larger than what tarfile copies at once, so that there is a middle in which things can happen.
LARGE = 300_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An environment with media beside it."""
    source = tmp_path / "source"
    make_environment(source, records=10)
    media = source / "media"
    media.mkdir()
    for number, name in enumerate(NAMES):
        for place in (media, media / "deep" / ("er" * 60)):
            place.mkdir(parents=True, exist_ok=True)
            file = Path(os.fsdecode(os.path.join(os.fsencode(place), name)))
            file.write_bytes(os.urandom(number * 1000))
            os.utime(file, (1_000_000_000 + number, 1_000_000_000 + number))
            file.chmod((0o644, 0o600, 0o755, 0o400)[number % 4])
    (media / "large").write_bytes(os.urandom(3 << 20))
    (media / "empty directory/inside").mkdir(parents=True)
    return source


def appearance(directory: Path) -> dict[str, tuple[int, int | None]]:
    """Mode and time in seconds of every file, the mode of every directory."""
    return {
        os.path.relpath(path, directory): (
            path.stat().st_mode & 0o7777,
            int(path.stat().st_mtime) if path.is_file() else None,
        )
        for path in directory.rglob("*")
    }


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}], ids=["utf-8", "C"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_files_come_back(
    dbbackup: Command, source: Path, tmp_path: Path, locale: dict[str, str], compression: str
) -> None:
    dbbackup.env = locale
    dbbackup.job("kg", source, include=["media"], compression=compression)
    result = dbbackup.ok("run", "kg")
    assert result["warnings"] == []
    (included,) = result["backup"]["source"]["include"]
    files = [path for path in (source / "media").rglob("*") if path.is_file()]
    assert (included["path"], included["files"]) == ("media", len(files))
    assert included["size"] == sum(path.stat().st_size for path in files)

    dbbackup.ok("verify", "kg")
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    assert bytes_of(tmp_path / "restored/media") == bytes_of(source / "media")
    assert appearance(tmp_path / "restored/media") == appearance(source / "media")
    assert content_of(tmp_path / "restored") == content_of(source)


def test_files_directories_and_deep_paths_can_be_named(dbbackup: Command, source: Path, tmp_path: Path) -> None:
    (source / "settings.toml").write_text("a = 1")
    (source / "nothing").mkdir()
    (source / "media-2").mkdir()
    (source / "media-2/file").write_text("not of media")
    include = ["settings.toml", "nothing", "media/deep", "media-2"]
    dbbackup.job("kg", source, include=include)
    dbbackup.ok("run", "kg")
    dest = tmp_path / "restored"
    dbbackup.ok("restore", "kg", "--dest", dest)
    assert sorted(os.listdir(dest)) == sorted(["data.mdb", "media", "media-2", "nothing", "settings.toml"])
    assert os.listdir(dest / "media") == ["deep"]
    for name in ("nothing", "media/deep", "media-2"):
        assert bytes_of(dest / name) == bytes_of(source / name)
    assert (dest / "settings.toml").read_text() == "a = 1"


def test_beside_a_single_file_and_within_a_tree(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "app/data.lmdb", subdir=False)
    make_environment(tmp_path / "tree/vector")
    for place in (tmp_path / "app/media", tmp_path / "tree/vector/media"):
        place.mkdir()
        (place / "file").write_text(str(place))
    dbbackup.job("file", tmp_path / "app/data.lmdb", include=["media"])
    dbbackup.job("tree", tmp_path / "tree", include=["vector/media"])
    for job, dest in (("file", "new/other.lmdb"), ("tree", "new-tree")):
        dbbackup.ok("run", job)
        dbbackup.ok("restore", job, "--dest", tmp_path / dest)
    assert (tmp_path / "new/media/file").read_text() == str(tmp_path / "app/media")
    assert (tmp_path / "new-tree/vector/media/file").read_text() == str(tmp_path / "tree/vector/media")


@pytest.mark.root
def test_owners_come_back(dbbackup: Command, source: Path, tmp_path: Path) -> None:
    owners = {"plain.txt": (65534, 4711), "deep": (1234, 65534), "large": (0, 3_000_000)}
    for name, (uid, gid) in owners.items():
        os.chown(source / "media" / name, uid, gid)
    dbbackup.job("kg", source, include=["media"])
    dbbackup.ok("run", "kg")
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    for name, owner in owners.items():
        status = (tmp_path / "restored/media" / name).stat()
        assert (status.st_uid, status.st_gid) == owner


def test_no_right_that_only_root_could_give_comes_back(dbbackup: Command, source: Path, tmp_path: Path) -> None:
    (source / "media/plain.txt").chmod(0o6755)
    dbbackup.job("kg", source, include=["media"])
    dbbackup.ok("run", "kg")
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    assert (tmp_path / "restored/media/plain.txt").stat().st_mode & 0o7777 == 0o755


def test_links_and_special_files_are_left_out_with_a_warning(
    dbbackup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    make_environment(source)
    media = source / "media"
    media.mkdir()
    (media / "file").write_text("stays")
    (media / "link").symlink_to("file")
    (media / "dangling").symlink_to("/nowhere")
    (media / "directory").symlink_to("/etc")
    os.mkfifo(media / "pipe")
    monkeypatch.chdir(media)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    dbbackup.job("kg", source, include=["media"])
    result = dbbackup.ok("run", "kg")
    named = {name for name in os.listdir(media) for warning in result["warnings"] if str(media / name) in warning}
    assert named == {"link", "dangling", "directory", "pipe", "socket"}
    assert len(result["warnings"]) == 5
    assert "warning: " in dbbackup("run", "kg").stdout
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    assert os.listdir(tmp_path / "restored/media") == ["file"]


@pytest.mark.parametrize(
    ("code", "include", "word"),
    [
        (2, ["../outside"], "../outside"),
        (2, ["media/../media"], "media/../media"),
        (2, ["/etc"], "/etc"),
        (2, ["."], "."),
        (2, [""], "include"),
        (2, ["media//deep"], "media//deep"),
        (2, ["media\nx"], "media"),
        (2, ["media", "media/deep"], "media"),
        (2, ["media/deep", "media"], "media"),
        (2, ["media", "media"], "media"),
        (2, ["m", "m"], "m"),
        (2, ["link"], "link"),
        (2, ["data.mdb"], "environment"),
        (2, ["graph"], "environment"),
        (2, ["lock.mdb"], "lock.mdb"),
        (1, ["missing"], "missing"),
        (1, ["link/inside"], "link"),
        (2, "media", "include: must be a list"),
        (2, [1], "include[0]"),
    ],
    ids=str,
)
def test_what_cannot_be_included_is_refused(
    dbbackup: Command, source: Path, code: int, include: Any, word: str
) -> None:
    make_environment(source / "graph")
    (source / "m").mkdir()
    (source / "link").symlink_to("media")
    (source / "media/inside").write_text("")
    dbbackup.job("kg", source, include=include)
    assert word in dbbackup.fails(code, "run", "kg")
    assert word in dbbackup.fails(code, "run", "kg", "--dry-run")
    assert dbbackup.backups("kg") == []


CHANGES: dict[str, Callable[[Path], Any]] = {
    "content": lambda media: (media / "plain.txt").write_text("other"),
    "content of the same size": lambda media: (media / "large").write_bytes(os.urandom(3 << 20)),
    "size": lambda media: (media / "large").write_bytes(b"x"),
    "added": lambda media: (media / "new").write_text("new"),
    "removed": lambda media: (media / "large").unlink(),
    "renamed": lambda media: (media / "large").rename(media / "larger"),
    "moved": lambda media: (media / "large").rename(media / "deep/large"),
    "directory added": lambda media: (media / "new directory").mkdir(),
    "directory removed": lambda media: (media / "empty directory/inside").rmdir(),
    "directory renamed": lambda media: (media / "deep").rename(media / "deeper"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_skip_unchanged_and_restore_notice(
    dbbackup: Command, source: Path, tmp_path: Path, change: Callable[[Path], Any]
) -> None:
    dbbackup.job("kg", source, include=["media"], skip_unchanged=True)
    dbbackup.ok("run", "kg")
    assert dbbackup.ok("run", "kg")["skipped"]
    shutil.copytree(source / "media", tmp_path / "media", symlinks=True)

    change(source / "media")
    result = dbbackup.ok("restore", "kg", "--force")
    assert result["changed"]
    assert bytes_of(source / "media") == bytes_of(tmp_path / "media")
    shutil.rmtree(source / "media")
    shutil.copytree(tmp_path / "media", source / "media", symlinks=True)
    assert dbbackup.ok("run", "kg")["skipped"]
    change(source / "media")
    assert dbbackup.ok("run", "kg")["changed"]
    assert dbbackup.ok("run", "kg")["skipped"]


def test_a_link_in_place_of_a_file_is_noticed_and_replaced(dbbackup: Command, source: Path, tmp_path: Path) -> None:
    dbbackup.job("kg", source, include=["media"])
    dbbackup.ok("run", "kg")
    before = bytes_of(source / "media")
    (source / "media/large").rename(tmp_path / "large")
    (source / "media/large").symlink_to(tmp_path / "large")
    assert dbbackup.ok("restore", "kg", "--force")["changed"]
    assert bytes_of(source / "media") == before


def test_restore_in_place_keeps_the_old_directory_and_then_changes_nothing(dbbackup: Command, source: Path) -> None:
    dbbackup.job("kg", source, include=["media"])
    dbbackup.ok("run", "kg")
    backed_up = bytes_of(source / "media")
    (source / "media/new").write_text("since the backup")
    (source / "media/plain.txt").unlink()
    since = bytes_of(source / "media")
    result = dbbackup.ok("restore", "kg", "--force")
    assert bytes_of(source / "media") == backed_up
    (aside,) = [path for path in result["aside"] if "/media." in path]
    assert bytes_of(Path(aside)) == since
    before = snapshot(source)
    assert dbbackup.ok("restore", "kg", "--force")["changed"] is False
    assert snapshot(source) == before


# A file that changes while it is read. The tar is made by the engine's own room, so that the moment can be chosen.


class Witness(Stage):
    """The end of a stream in memory; calls back when so many bytes have come."""

    def __init__(self, moment: int = 1 << 62, then: Callable[[], Any] = lambda: None, again: int = 0) -> None:
        super().__init__(None)
        self.content = io.BytesIO()
        self._moment, self._then, self._again = moment, then, again

    def write(self, data: Bytes) -> int:
        self.content.write(data)
        if self.content.tell() >= self._moment:
            self._moment = self.content.tell() + self._again if self._again else 1 << 62
            self._then()
        return len(data)

    def archive(self) -> io.BytesIO:
        return io.BytesIO(self.content.getvalue())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """media/a, media/large and media/z/last, read in this order."""
    (tmp_path / "root/media/z").mkdir(parents=True)
    (tmp_path / "root/media/a").write_text("a")
    (tmp_path / "root/media/large").write_bytes(b"1" * LARGE)
    (tmp_path / "root/media/z/last").write_text("last")
    return tmp_path / "root"


def travel(witness: Witness, root: Path, dest: Path) -> list[tree.Included]:
    """Write the media, see that the tar is sound, and unpack it."""
    included, warnings = tree.write(witness, root, ["media"])
    assert warnings == []
    tree.check(witness.archive(), included)
    tree.unpack(witness.archive(), included, {"media": dest / "media"}, None, None)
    assert tree.is_unpacked(witness.archive(), included, dest)
    return included


@pytest.mark.parametrize("size", [LARGE * 2, LARGE // 2, LARGE, 0], ids=["grows", "shrinks", "same size", "emptied"])
def test_a_file_that_changes_while_it_is_read_comes_as_it_is_after(root: Path, tmp_path: Path, size: int) -> None:
    large = root / "media/large"
    witness = Witness(LARGE // 2, lambda: large.write_bytes(b"2" * size))
    included = travel(witness, root, tmp_path)
    assert bytes_of(tmp_path / "media") == bytes_of(root / "media")
    assert included == tree.scan(root, ["media"])


def test_a_file_that_never_stands_still_is_an_error(root: Path) -> None:
    large, versions = root / "media/large", iter(range(1000))
    witness = Witness(LARGE // 2, lambda: large.write_bytes(b"%d" % (next(versions) % 10) * LARGE), again=LARGE // 2)
    with pytest.raises(SourceError, match="media/large keeps changing while it is read"):
        tree.write(witness, root, ["media"])


@pytest.mark.parametrize("vanishing", ["media/large", "media/z/last", "media/z"])
def test_what_vanishes_meanwhile_is_left_out(root: Path, tmp_path: Path, vanishing: str) -> None:
    # The first kilobytes come when media/a has been read and media/large has been found.
    path = root / vanishing
    witness = Witness(10_000, lambda: shutil.rmtree(path) if path.is_dir() else path.unlink())
    travel(witness, root, tmp_path)
    left = bytes_of(tmp_path / "media")
    if vanishing == "media/large":
        # It was open already, and was read to its end.
        assert left.pop("large") == b"1" * LARGE
    assert set(left) - {"z"} == set(bytes_of(root / "media")) - {"z"}


def test_a_file_that_changes_and_then_vanishes_is_counted_or_left_out(root: Path, tmp_path: Path) -> None:
    large = root / "media/large"

    def change_then_vanish() -> None:
        large.write_bytes(b"2" * LARGE)
        large.unlink()

    witness = Witness(LARGE // 2, change_then_vanish)
    included, warnings = tree.write(witness, root, ["media"])
    tree.check(witness.archive(), included)
    tree.unpack(witness.archive(), included, {"media": tmp_path / "media"}, None, None)
    is_there = (tmp_path / "media/large").exists()
    assert included[0].files == 2 + is_there
    assert any("media/large" in warning for warning in warnings) == is_there


def test_a_file_that_may_not_be_read_is_named(root: Path, tmp_path: Path) -> None:
    make_environment(root)
    (root / "media/large").chmod(0)
    job = {"name": "kg", "type": "lmdb", "path": str(root), "include": ["media"]}
    job["repository"] = str(tmp_path / "repository")
    (tmp_path / "repository").mkdir()
    answer = as_ordinary_user(lambda: backup.back_up(jobs.parse(job)), tmp_path)
    assert str(root / "media/large") in answer
    assert "cannot be read" in answer or "Permission denied" in answer
