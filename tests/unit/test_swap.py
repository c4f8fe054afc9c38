# SPDX-License-Identifier: GPL-3.0-or-later
"""New files in the place of old ones: all or none, whatever stood there."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import RestoreError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.ownership import Ownership
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.swap import Swap, holds_anything
from ansible_collections.embedded.db_backup.tests.tools import FaultAt, bytes_of

FORMS: dict[str, Callable[[Path, str], Any]] = {
    "nothing": lambda _path, _text: None,
    "file": lambda path, text: path.write_text(text),
    "directory": lambda path, text: (path.mkdir(), (path / "inside").write_text(text)),
    "link": lambda path, text: path.symlink_to(text),
}
NEW_FORMS = ("file", "directory")


def refuse(*_arguments: object, **_options: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["links", "no links"])
def _file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have no hard links."""
    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)


def staged_swap(swap: Swap, top: Path, new: str) -> None:
    """Bring new forms to one and two, and do away with a lock."""
    swap.open_directory(top, Ownership())
    for name in ("one", "two"):
        FORMS[new](swap.stage(top / name), f"new {name}")
    swap.discard(top / "lock")


def set_up(top: Path, old: str) -> None:
    top.mkdir()
    for name in ("one", "two"):
        FORMS[old](top / name, f"old {name}")
    (top / "lock").write_text("lock")


@pytest.mark.usefixtures("_file_system")
@pytest.mark.parametrize("old", FORMS)
@pytest.mark.parametrize("new", NEW_FORMS)
def test_new_is_in_place_and_old_is_kept(tmp_path: Path, old: str, new: str) -> None:
    top, wanted, kept = tmp_path / "top", tmp_path / "wanted", tmp_path / "kept"
    set_up(top, old)
    wanted.mkdir()
    kept.mkdir()
    for name in ("one", "two"):
        FORMS[new](wanted / name, f"new {name}")
        FORMS[old](kept / name, f"old {name}")
    with Swap(top) as swap:
        staged_swap(swap, top, new)
        asides = swap.commit()
    for aside in asides:
        aside.rename(tmp_path / aside.name.split(".before-restore-")[0])
    assert bytes_of(top) == bytes_of(wanted)
    found = {name for name in ("one", "two") if os.path.lexists(tmp_path / name)}
    assert found == set(os.listdir(kept))
    for name in found:
        (tmp_path / name).rename(kept / f"{name}-found")
    told = bytes_of(kept)
    assert {name: told[f"{name}-found"] for name in found} == {name: told[name] for name in found}


@pytest.mark.usefixtures("_file_system")
@pytest.mark.parametrize("old", FORMS)
@pytest.mark.parametrize("new", NEW_FORMS)
@pytest.mark.parametrize("function", ["rename", "fsync", "link"])
def test_any_failure_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, function: str
) -> None:
    for turn in range(1, 20):
        top = tmp_path / f"top-{turn}"
        set_up(top, old)
        before = bytes_of(top)
        fault = FaultAt(refuse, turn)
        with monkeypatch.context() as patch:
            fault.install(patch, function)
            failed = outcome_of_swap(top, new)
        if failed is not None:
            # The failure itself, not one of undoing it.
            assert (failed, function != "link") == (errno.EPERM, True)
            assert bytes_of(top) == before, f"call {turn}"
        if fault.calls < turn:
            return
    pytest.fail("it never ended")


def outcome_of_swap(top: Path, new: str) -> int | None:
    """The error with which the swap failed, if it did."""
    try:
        with Swap(top) as swap:
            staged_swap(swap, top, new)
            swap.commit()
    except OSError as error:
        return error.errno
    return None


def test_without_commit_nothing_stays(tmp_path: Path) -> None:
    set_up(tmp_path / "top", "file")
    before = bytes_of(tmp_path)
    with Swap(tmp_path / "top") as swap:
        swap.open_directory(tmp_path / "top/a/b", Ownership(mode=0o755))
        assert (tmp_path / "top/a/b").stat().st_mode & 0o777 == 0o700
        staged_swap(swap, tmp_path / "top", "directory")
        FORMS["file"](swap.stage(tmp_path / "top/a/b/file"), "new")
    assert bytes_of(tmp_path) == before


def test_more_directories_than_descriptors_by_default(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with Swap(tmp_path) as swap:
            for number in range(100):
                swap.open_directory(tmp_path / str(number), Ownership(mode=0o750))
                swap.stage(tmp_path / str(number) / "file").write_text("new")
            swap.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [path.read_text() for path in tmp_path.glob("*/file")] == ["new"] * 100


def test_failures_tell_the_path_that_people_know(tmp_path: Path) -> None:
    def fail() -> None:
        with Swap(tmp_path) as swap:
            swap.open_directory(tmp_path, Ownership())
            os.listdir(swap.stage(tmp_path / "file").with_name("missing"))

    with pytest.raises(FileNotFoundError) as caught:
        fail()
    assert caught.value.filename == str(tmp_path / "missing")


def test_names_of_what_was_kept_before_are_not_taken(tmp_path: Path) -> None:
    for number in range(5):
        with Swap(tmp_path) as swap:
            swap.open_directory(tmp_path, Ownership())
            swap.stage(tmp_path / "file").write_text(str(number))
            swap.commit()
    kept = sorted(path for path in tmp_path.iterdir() if path.name != "file")
    assert [path.read_text() for path in kept] == ["0", "1", "2", "3"]


def test_what_a_killed_restore_left_is_replaced(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f".{name}.restoring").mkdir()
        (tmp_path / f".{name}.restoring/file").write_text("half done")
    with Swap(tmp_path) as swap:
        staged_swap(swap, tmp_path, "file")
        swap.commit()
    assert bytes_of(tmp_path) == {"one": b"new one", "two": b"new two"}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda _top: None, False),
        (lambda top: (top / "a/b").mkdir(parents=True), False),
        (lambda top: (top / ".data.mdb.restoring").write_text(""), False),
        (lambda top: (top / ".media.restoring/deep").mkdir(parents=True), False),
        (lambda top: ((top / "a").mkdir(), (top / "a/file").write_text("")), True),
        (lambda top: (top / ".hidden").write_text(""), True),
        (lambda top: (top / "link").symlink_to("nowhere"), True),
        (lambda top: (top / "link").symlink_to("/etc"), True),
        (lambda top: os.mkfifo(top / "pipe"), True),
    ],
)
def test_what_counts_as_something(tmp_path: Path, make: Callable[[Path], Any], expected: bool) -> None:
    make(tmp_path)
    assert holds_anything(tmp_path) is expected


def test_what_an_application_made_while_it_was_tried_out_does_not_outlive_it(tmp_path: Path) -> None:
    top = tmp_path / "top"
    set_up(top, "file")
    before = bytes_of(top)

    def try_out() -> None:
        (top / "one-journal").write_text("of the new one")
        raise RestoreError("the application does not answer")

    def restore() -> None:
        with Swap(top) as swap:
            staged_swap(swap, top, "file")
            swap.displace(top / "one-journal")
            swap.commit(try_out)

    with pytest.raises(RestoreError, match="does not answer"):
        restore()
    assert bytes_of(top) == before
