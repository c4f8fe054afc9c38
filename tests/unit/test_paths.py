# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and paths from outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import CorruptError, UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.paths import (
    check_job_name,
    is_safe_relative,
    make_directories,
    open_below,
)
from hypothesis import example, given
from hypothesis import strategies as st

ROOT = "/some/root"
PARTS = st.sampled_from(
    ["..", ".", "", "a", "b c", "\u00e9\u9898", "x\ny", "\\", "...", "~", "-", "\0", "\ud800", "\u202e"]
)


@given(st.one_of(st.text(max_size=20), st.lists(PARTS, max_size=5).map("/".join)))
@example("a/../b")
@example("/etc/passwd")
@example("a//b")
@example("a/")
@example("./a")
@example("a/.")
def test_a_safe_path_stays_below_whatever_it_is_joined_with(path: str) -> None:
    if is_safe_relative(path):
        joined = os.path.join(ROOT, path)
        assert os.path.normpath(joined) == joined
        assert os.path.commonpath([ROOT, joined]) == ROOT
        assert joined != ROOT
        assert "\0" not in path
        assert len(path.splitlines()) == 1


@given(st.lists(st.from_regex(r"[A-Za-z0-9 ._~-]*[A-Za-z0-9]", fullmatch=True), min_size=1, max_size=5))
def test_an_ordinary_path_is_safe(parts: list[str]) -> None:
    assert is_safe_relative("/".join(parts))


@pytest.mark.parametrize("path", ["", ".", "..", "/", "//a", "a/..", "..a/..", "a\nb", "a\tb", "a\\b", "a/./b", "\x7f"])
def test_unsafe(path: str) -> None:
    assert not is_safe_relative(path)


@pytest.mark.parametrize("name", ["a", "0", "kg", "kg-2_b", "x" * 100])
def test_job_names(name: str) -> None:
    assert check_job_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "_a", "A", "kg/x", "..", ".", "kg.json", "k g", "kg\n", "\u00e9", "x" * 101, "kg\0"]
)
def test_no_job_names(name: str) -> None:
    with pytest.raises(UsageError, match="is not a job name"):
        check_job_name(name)


@pytest.fixture
def below(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A directory with a file in a directory, and links, and a descriptor of it."""
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "inner/file").write_text("content")
    (top / "link").symlink_to("inner/file")
    (top / "inner-link").symlink_to("inner")
    descriptor = os.open(top, os.O_RDONLY)
    yield top, descriptor
    os.close(descriptor)


@contextmanager
def no_descriptor_is_lost() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def test_open_below(below: tuple[Path, int]) -> None:
    with no_descriptor_is_lost():
        descriptor = open_below(below[1], "inner/file", os.O_RDONLY)
        assert os.read(descriptor, 100) == b"content"
        os.close(descriptor)


@pytest.mark.parametrize("path", ["link", "inner-link/file", "inner/missing", "missing/file", "inner/file/x"])
def test_open_below_follows_no_link(below: tuple[Path, int], path: str) -> None:
    with no_descriptor_is_lost(), pytest.raises(OSError, match=r"."):
        open_below(below[1], path, os.O_RDONLY)


@pytest.mark.parametrize("path", ["../top/inner/file", "/etc/passwd", "inner/../inner/file", ""])
def test_open_below_refuses_what_leads_out(below: tuple[Path, int], path: str) -> None:
    with no_descriptor_is_lost(), pytest.raises(CorruptError):
        open_below(below[1], path, os.O_RDONLY)


def test_make_directories_are_private(tmp_path: Path) -> None:
    deep = tmp_path / "a/b/c"
    for _unused in range(2):
        with no_descriptor_is_lost():
            make_directories(deep)
        assert all(path.stat().st_mode & 0o777 == 0o700 for path in (deep, deep.parent, deep.parent.parent))


@pytest.mark.root
def test_what_root_makes_belongs_to_the_owner_of_the_place(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 4711)
    make_directories(tmp_path / "a/b")
    assert {((tmp_path / name).stat().st_uid, (tmp_path / name).stat().st_gid) for name in ("a", "a/b")} == {
        (65534, 4711)
    }
