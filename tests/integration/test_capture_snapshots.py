# SPDX-License-Identifier: GPL-3.0-or-later
"""Files held still by reflinks and snapshots on real file systems, while real applications write to them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.base import Way
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.btrfs import BtrfsWay
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.reflink import (
    KeepsChangingError,
    ReflinkWay,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.snapshot import AnySnapshot
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError
from ansible_collections.embedded.db_backup.tests.fixtures import lmdb_application as application
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT, eventually
from ansible_collections.embedded.db_backup.tests.volumes import mounted_below, volume

TIMES = 20


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that can share blocks."""
    with volume(request.param, tmp_path_factory.mktemp("volume"), 600) as point:
        yield point


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    with volume("btrfs", tmp_path) as point:
        yield point


def alive() -> None:
    """Nobody is told."""


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def subvolumes(point: Path) -> list[str]:
    told = subprocess.run(["btrfs", "subvolume", "list", str(point)], capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in told.stdout.splitlines()]


def nothing_is_left(point: Path) -> bool:
    """Whether there is neither a snapshot nor a mount of one."""
    return not mounted_below("/run/db-backup") and not [name for name in subvolumes(point) if "db-backup" in name]


def fill(path: Path) -> None:
    """Write to a file until there is no room."""
    with contextlib.suppress(OSError), path.open("wb") as file:
        while True:
            file.write(os.urandom(1 << 20))
            file.flush()


def failure(way: Way, path: Path, scratch: Path) -> str | None:
    """Why a file cannot be held, if so."""
    try:
        with way.hold(path, ["."], scratch, alive) as held:
            assert (held.root / "file").read_bytes() == b"content"
    except SourceError as error:
        return str(error)
    return None


def twenty_of_twenty(way: Way, path: Path, folder: Path, paths: list[str]) -> None:
    application.seed(path, megabytes=8)
    advanced = 0
    with application.Writer(path, folder / f"ledger-{path.name}") as writer:
        for _unused in range(TIMES):
            acknowledged = writer.acknowledged()
            with way.hold(path, paths, fresh(folder / f"scratch-{path.name}"), alive) as held:
                copy = fresh(folder / f"copy-{path.name}")
                shutil.copy(held.root / "data.mdb", copy)
            advanced += writer.acknowledged() > acknowledged
            judgement = application.judge(copy, at_least=acknowledged)
            assert judgement.good, judgement.sentence
        assert advanced > TIMES // 2, "the application stood still"
    assert application.judge(path, at_least=writer.acknowledged()).good


def test_a_reflink_of_a_busy_environment_is_of_one_moment(place: Path) -> None:
    twenty_of_twenty(ReflinkWay(), place / "kg", place, ["data.mdb"])


def test_a_snapshot_of_a_busy_subvolume_is_of_one_moment(btrfs: Path) -> None:
    before = set(os.listdir(btrfs))
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(btrfs / "sub")], check=True)
    twenty_of_twenty(BtrfsWay(), btrfs / "sub/kg", btrfs, ["."])
    assert nothing_is_left(btrfs)
    assert set(os.listdir(btrfs / "sub")) == {"kg"}
    assert set(os.listdir(btrfs)) - before == {"sub", "ledger-kg", "scratch-kg", "copy-kg"}


class Busy:
    """Writes the same number to two files, one after the other, again and again."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._files = [path / "first", path / "second"]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Busy:
        self._thread.start()
        eventually(lambda: all(file.exists() for file in self._files), "it writes")
        return self

    def __exit__(self, *_unused: object) -> None:
        self._end.set()
        self._thread.join()

    def _write(self) -> None:
        number = 0
        while not self._end.is_set():
            number += 1
            for file in self._files:
                file.write_text(str(number))


def test_files_that_keep_changing_are_refused_or_taken_by_a_snapshot(btrfs: Path) -> None:
    path = btrfs / "busy"
    with Busy(path):
        with (
            pytest.raises(KeepsChangingError, match="use the method freeze"),
            ReflinkWay().hold(path, ["."], fresh(btrfs / "scratch"), alive),
        ):
            pass
        assert os.listdir(btrfs / "scratch") == []
        way = AnySnapshot(btrfs)
        with way.hold(path, ["."], btrfs / "scratch", alive) as held:
            assert set(os.listdir(held.root)) == {"first", "second"}
            first = (held.root / "first").read_text()
            eventually(lambda: (path / "first").read_text() not in ("", first), "it goes on")
            assert (held.root / "first").read_text() == first
        assert way.taken
        assert way.taken.name == "btrfs"
    assert nothing_is_left(btrfs)


def test_a_reflink_of_a_file_that_grows_ends_where_it_did(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fresh(place / "growing")
    (path / "log").write_bytes(b"x" * 5000)
    honest = fcntl.ioctl

    def ioctl(*arguments: Any) -> Any:
        value = honest(*arguments)
        with (path / "log").open("ab") as file:
            file.write(b"later")
        return value

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with ReflinkWay().hold(path, ["log"], fresh(place / "scratch"), alive) as held:
        assert (held.root / "log").read_bytes() == b"x" * 5000
    assert (path / "log").read_bytes() == b"x" * 5000 + b"later"


def test_a_reflink_keeps_what_belongs_to_files(place: Path) -> None:
    path = fresh(place / "rich")
    (path / "file").write_bytes(b"content")
    os.truncate(path / "file", 1 << 30)
    os.setxattr(path / "file", "user.colour", b"\xffblue")
    os.chown(path / "file", 1234, 4321)
    (path / "file").chmod(0o640)
    os.link(path / "file", path / "second")
    os.symlink("/nowhere", path / "link")
    os.mkfifo(path / "pipe")
    os.utime(path / "file", ns=(1, 1_234_567_890_123_456_789))
    with ReflinkWay().hold(path, ["."], fresh(place / "scratch"), alive) as held:
        status = (held.root / "file").stat()
        assert (held.root / "file").read_bytes()[:7] == b"content"
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777, status.st_nlink) == (1234, 4321, 0o640, 2)
        assert (status.st_size, status.st_mtime_ns) == (1 << 30, 1_234_567_890_123_456_789)
        assert status.st_blocks * 512 < 1 << 20
        assert os.getxattr(held.root / "file", "user.colour") == b"\xffblue"
        assert (held.root / "second").stat().st_ino == status.st_ino
        assert os.readlink(held.root / "link") == "/nowhere"
        assert held.warnings == [f"{path}/pipe is neither a file nor a directory and was left out"]
        assert not (held.root / "pipe").exists()
    assert os.listdir(place / "scratch") == []


def test_a_reflink_to_another_file_system_is_refused_in_a_sentence(place: Path, tmp_path: Path) -> None:
    path = fresh(place / "other")
    (path / "file").write_bytes(b"content")
    obstacle = ReflinkWay(tmp_path / "repository/kg").obstacle(path)
    assert obstacle
    assert "are not on one file system that can share blocks" in obstacle
    assert os.listdir(tmp_path) == []
    assert ReflinkWay(place / "repository/kg").obstacle(path) is None
    with (
        pytest.raises(SourceError, match="other/file cannot be cloned"),
        ReflinkWay().hold(path, ["."], fresh(tmp_path / "scratch"), alive),
    ):
        pytest.fail("it was held")
    assert os.listdir(tmp_path / "scratch") == []


OBSTACLE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.btrfs import BtrfsWay
print(BtrfsWay().obstacle(Path(sys.argv[2])))
"""


def test_a_sandbox_without_the_right_to_mount_is_told_of(btrfs: Path) -> None:
    assert BtrfsWay().obstacle(btrfs) is None
    told = subprocess.run(
        [
            *("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"),
            *(sys.executable, "-c", OBSTACLE, str(CHECKOUT / ".ansible/collections"), str(btrfs)),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "the sandbox of this service keeps it from mounting a snapshot" in told


def test_a_full_file_system_ends_in_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with volume("btrfs", tmp_path, 120) as point:
        path = fresh(point / "data")
        (path / "file").write_bytes(b"content")
        fresh(point / "scratch")
        fill(point / "ballast")
        for way in (ReflinkWay(), BtrfsWay()):
            told = failure(way, path, point / "scratch")
            assert "\n" not in (told or "")
            assert not os.listdir(point / "scratch")
        assert nothing_is_left(point)
        assert (path / "file").read_bytes() == b"content"


def test_a_subvolume_inside_is_refused(btrfs: Path) -> None:
    path = fresh(btrfs / "data")
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(path / "inner")], check=True)
    with (
        pytest.raises(SourceError, match="data/inner is a subvolume of its own"),
        BtrfsWay().hold(path, ["."], fresh(btrfs / "scratch"), alive),
    ):
        pass
    assert nothing_is_left(btrfs)


HOLD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.btrfs import BtrfsWay
with BtrfsWay().hold(Path(sys.argv[2]), ["."], Path("/nowhere"), lambda: None) as held:
    print(held.root, flush=True)
    signal.pause()
"""


def holding(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(CHECKOUT / ".ansible/collections"), str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "/run/db-backup" in process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def guard_of(process: subprocess.Popen[str]) -> int:
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def test_a_snapshot_goes_with_a_process_that_is_killed(btrfs: Path) -> None:
    path = fresh(btrfs / "data")
    process = holding(path)
    assert not nothing_is_left(btrfs)
    end(process)
    eventually(lambda: nothing_is_left(btrfs), "the guard removes it")


def test_what_a_killed_guard_left_is_removed_by_the_next_run(btrfs: Path) -> None:
    path = fresh(btrfs / "data")
    process, other = holding(path), holding(path)
    os.kill(guard_of(process), signal.SIGKILL)
    end(process)
    assert len(subvolumes(btrfs)) == 2
    with BtrfsWay().hold(path, ["."], btrfs, alive):
        # Its own, and that of the other process, which lives.
        assert len(subvolumes(btrfs)) == 2
    assert len(mounted_below("/run/db-backup")) == 1
    end(other)
    eventually(lambda: nothing_is_left(btrfs), "all is removed")
