# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is below some paths, to see later whether anything changed meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, NamedTuple, Sequence

from ..errors import SourceError
from ..paths import open_directory, open_relative

# The clock by which file systems stamp changes goes in steps of up to 10 ms.
_STEP_NS = 20_000_000


class State(NamedTuple):
    """What changes with a file: which it is, its size, and the times of its content and of anything about it."""

    device: int
    inode: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> State:
        """Of a file or directory."""
        return cls(status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Found(NamedTuple):
    """Something below a directory: its path there, its name in an open directory, and what it is."""

    path: str
    name: str
    directory: int
    status: os.stat_result


class Sight:
    """What the paths below a directory are at a moment. Applications that write through a map of memory are seen too.

    settle brings to the disk what they wrote there: from then on the first write to a page changes the time of its
    file. So whatever was copied after settle is of one point in time if is_same tells so afterwards.
    """

    def __init__(self, directory: Path, paths: Sequence[str], alive: Callable[[], None]) -> None:
        self._directory = directory
        self._paths = paths
        self._alive = alive
        self._states = self._look()

    def settle(self) -> None:
        """Wait until a further change has another time, and have no page be writable without one."""
        newest = max((state.ctime_ns for state in self._states.values()), default=0)
        time.sleep(max(0, min(_STEP_NS, newest + _STEP_NS - time.time_ns())) / 1e9)
        for found in walk(self._directory, self._paths):
            if stat.S_ISREG(found.status.st_mode):
                # One that is gone meanwhile is seen as a change.
                with contextlib.suppress(FileNotFoundError), opened(found) as descriptor:
                    os.fsync(descriptor)
                self._alive()

    def is_same(self) -> bool:
        """Whether all is as it was when this was made."""
        return self._states == self._look()

    @property
    def count(self) -> int:
        """How many files, directories and others there are."""
        return len(self._states)

    def _look(self) -> Dict[str, State]:
        states = {}
        for found in walk(self._directory, self._paths):
            states[found.path] = State.of(found.status)
            self._alive()
        return states


def walk(directory: Path, paths: Sequence[str]) -> Iterator[Found]:
    """The paths and all below them, directories before their content, by name; never through a link.

    Raises SourceError.
    """
    try:
        top = open_directory(Path(os.path.realpath(directory)))
        try:
            for path in paths:
                parts = [part for part in path.split("/") if part != "."]
                inner = open_relative(top, parts[:-1], os.O_RDONLY | os.O_DIRECTORY)
                try:
                    yield from _walk(inner, "/".join(parts[:-1]), parts[-1] if parts else ".")
                finally:
                    os.close(inner)
        finally:
            os.close(top)
    except OSError as error:
        raise SourceError(f"what is in {directory} cannot be read: {error.strerror}") from error


def _walk(directory: int, parent: str, name: str) -> Iterator[Found]:
    try:
        status = os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return
    path = name if not parent or parent == "." else f"{parent}/{name}"
    yield Found(path, name, directory, status)
    if not stat.S_ISDIR(status.st_mode):
        return
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        for child in sorted(os.listdir(inner), key=os.fsencode):
            yield from _walk(inner, path, child)
    finally:
        os.close(inner)


@contextlib.contextmanager
def opened(found: Found) -> Iterator[int]:
    """A file that was found, for reading. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(found.name, flags, dir_fd=found.directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
