# SPDX-License-Identifier: GPL-3.0-or-later
"""Included files as a tar: whatever a file system holds comes back, whatever a stranger packed is refused."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import CorruptError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources import tree
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.stages import Bytes, Stage
from ansible_collections.embedded.db_backup.tests.tools import bytes_of
from hypothesis import given
from hypothesis import strategies as st


class Memory(Stage):
    """The end of a stream in memory."""

    def __init__(self) -> None:
        super().__init__(None)
        self.content = io.BytesIO()

    def write(self, data: Bytes) -> int:
        return self.content.write(data)


NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not {*b"/\0"} & {*name} and name not in (b".", b".."))
TREES: st.SearchStrategy[Any] = st.recursive(
    st.binary(max_size=3000), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def plant(path: bytes, content: Any) -> None:
    if isinstance(content, bytes):
        Path(os.fsdecode(path)).write_bytes(content)
        return
    os.mkdir(path)
    for name, inner in content.items():
        plant(os.path.join(path, name), inner)


@given(st.dictionaries(st.sampled_from(["media", "media-2", "a/b", "a/c"]), TREES, min_size=1))
def test_any_tree_comes_back(trees: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, dest = Path(folder, "root"), Path(folder, "dest")
        (root / "a").mkdir(parents=True)
        (dest / "a").mkdir(parents=True)
        for path, content in trees.items():
            plant(os.fsencode(root / path), content)
        memory, paths = Memory(), sorted(trees)
        included, warnings = tree.write(memory, root, paths)
        assert (included, warnings) == (tree.scan(root, paths), [])
        archive = memory.content.getvalue()
        tree.check(io.BytesIO(archive), included)
        tree.unpack(io.BytesIO(archive), included, {path: dest / path for path in paths}, None, None)
        assert bytes_of(dest) == bytes_of(root)
        assert tree.is_unpacked(io.BytesIO(archive), included, dest)


def packed(*members: tuple[str, dict[str, Any], bytes]) -> io.BytesIO:
    """A tar by somebody else."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, attributes, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in attributes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    archive.seek(0)
    return archive


FILE: tuple[str, dict[str, Any], bytes] = ("media/file", {}, b"content")
DIRECTORY: tuple[str, dict[str, Any], bytes] = ("media", {"type": tarfile.DIRTYPE}, b"")


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", {}, b"x"),
        ("media/../../outside", {}, b"x"),
        ("/etc/outside", {}, b"x"),
        ("outside", {}, b"x"),
        ("media-2", {}, b"x"),
        ("media//file", {}, b"x"),
        ("./media/file", {}, b"x"),
        ("media/link", {"type": tarfile.SYMTYPE, "linkname": "/etc"}, b""),
        ("media/link", {"type": tarfile.LNKTYPE, "linkname": "media/file"}, b""),
        ("media/device", {"type": tarfile.CHRTYPE}, b""),
        ("media/block", {"type": tarfile.BLKTYPE}, b""),
        ("media/pipe", {"type": tarfile.FIFOTYPE}, b""),
    ],
    ids=lambda member: f"{member[0]} {member[1].get('type', b'').decode()}",
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_what_a_stranger_packed_is_refused(
    tmp_path: Path, member: tuple[str, dict[str, Any], bytes], first: bool
) -> None:
    # The stranger has counted right.
    told = [tree.Included(path="media", files=2, directories=1, size=7 + len(member[2]), fingerprint="")]
    members = [member, DIRECTORY, FILE] if first else [DIRECTORY, FILE, member]
    with pytest.raises(CorruptError, match="have a member"):
        tree.check(packed(*members), told)
    staged = tmp_path / "deep/inside/staged"
    staged.parent.mkdir(parents=True)
    with pytest.raises(CorruptError, match="have a member"):
        tree.unpack(packed(*members), told, {"media": staged}, None, None)
    outside = [path for path in tmp_path.rglob("*") if staged not in (path, *path.parents) and path.is_file()]
    assert outside == []
    assert not (tmp_path.parent / "outside").exists()
    assert all(path.is_file() or path.is_dir() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "member",
    [("media/more", {}, b"a file more"), ("media/empty", {"type": tarfile.DIRTYPE}, b"")],
    ids=["file", "directory"],
)
def test_more_than_told_is_refused(tmp_path: Path, member: tuple[str, dict[str, Any], bytes]) -> None:
    told = [tree.Included(path="media", files=1, directories=1, size=7, fingerprint="")]
    with pytest.raises(CorruptError, match="include 'media' has"):
        tree.check(packed(DIRECTORY, FILE, member), told)
    with pytest.raises(CorruptError, match="include 'media' has"):
        tree.unpack(packed(DIRECTORY, FILE, member), told, {"media": tmp_path / "staged"}, None, None)


def test_less_than_told_is_refused(tmp_path: Path) -> None:
    told = [tree.Included(path="media", files=1, directories=1, size=7, fingerprint="")]
    tree.check(packed(DIRECTORY, FILE), told)
    for members in ([DIRECTORY], [FILE], [DIRECTORY, ("media/file", {}, b"short")]):
        with pytest.raises(CorruptError, match="include 'media' has"):
            tree.check(packed(*members), told)
    with pytest.raises(CorruptError):
        tree.unpack(packed(FILE), told, {"media": tmp_path / "staged"}, None, None)


@given(st.integers(0, 10_240))
def test_a_tar_that_ends_early_is_refused(size: int) -> None:
    archive = packed(DIRECTORY, FILE).getvalue()
    told = [tree.Included(path="media", files=1, directories=1, size=7, fingerprint="")]
    # All that matters is in the first blocks; the rest is padding.
    if size < 2 * 512 + 7:
        with pytest.raises(CorruptError):
            tree.check(io.BytesIO(archive[:size]), told)


def test_what_is_no_tar_is_refused() -> None:
    for content in (b"x" * 5000, bytes(512) + b"x", os.urandom(2000)):
        with pytest.raises(CorruptError):
            tree.check(io.BytesIO(content), [tree.Included("media", 1, 0, 1, "")])
