# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is below some paths, to see later whether anything changed meanwhile."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
import time
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Sequence

from ..errors import SourceError
from ..paths import open_directory, open_relative

# The clock by which file systems stamp changes goes in steps of up to 10 ms.
_STEP_NS = 20_000_000
_DEEPEST = 200
_BLOCK = 512
_STATE = struct.Struct("<QQIqqqI")


class Found(NamedTuple):
    """Something below a directory: its path there, its name in an open directory, and what it is."""

    path: str
    name: str
    directory: int
    status: os.stat_result


Wanted = Callable[[Found], bool]


class Sight:
    """What the paths below a directory are at a moment. Applications that write through a map of memory are seen too.

    settle brings to the disk what they wrote there: from then on the first write to a page changes the time of its
    file. So whatever was copied after settle is of one point in time if is_same tells so afterwards.
    """

    def __init__(
        self, directory: Path, paths: Sequence[str], alive: Callable[[], None], wanted: Wanted = lambda _found: True
    ) -> None:
        """wanted is that of walk."""
        self._directory = directory
        self._paths = paths
        self._alive = alive
        self._wanted = wanted
        self._seen = self._look()

    def settle(self) -> None:
        """Wait until a further change has another time, and have no page be writable without one.

        Raises SourceError for a file that cannot be read.
        """
        time.sleep(max(0, min(_STEP_NS, self._seen.newest_ns + _STEP_NS - time.time_ns())) / 1e9)
        for found in walk(self._directory, self._paths, self._wanted):
            if stat.S_ISREG(found.status.st_mode):
                self._sync(found)
                self._alive()

    def is_same(self) -> bool:
        """Whether all is as it was when this was made."""
        return self._seen == self._look()

    @property
    def count(self) -> int:
        """How many files, directories and others there are."""
        return self._seen.entries

    @property
    def size(self) -> int:
        """The bytes in files, without holes."""
        return self._seen.size

    @property
    def fingerprint(self) -> str:
        """A hash of which files there are, their sizes, and the times of their content and of anything about them."""
        return self._seen.fingerprint

    def _sync(self, found: Found) -> None:
        try:
            with opened(found) as descriptor:
                os.fsync(descriptor)
        except OSError as error:
            # One that is gone meanwhile is seen as a change.
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                raise SourceError(f"{self._directory / found.path} cannot be read: {error.strerror}") from error

    def _look(self) -> _Seen:
        count = size = newest = 0
        # Not one by one: there may be millions.
        seen = hashlib.sha256()
        for found in walk(self._directory, self._paths, self._wanted):
            path, status = os.fsencode(found.path), found.status
            times = status.st_size, status.st_mtime_ns, status.st_ctime_ns
            seen.update(_STATE.pack(status.st_dev, status.st_ino, status.st_mode, *times, len(path)) + path)
            count, newest = count + 1, max(newest, status.st_ctime_ns)
            if stat.S_ISREG(status.st_mode):
                size += min(status.st_size, status.st_blocks * _BLOCK)
            self._alive()
        return _Seen(count, size, newest, seen.hexdigest())


class _Seen(NamedTuple):
    entries: int
    size: int
    newest_ns: int
    fingerprint: str


def walk(directory: Path, paths: Sequence[str], wanted: Wanted = lambda _found: True) -> Iterator[Found]:
    """The paths and all below them, directories before their content, by name; never through a link.

    What is not wanted is passed over, a directory with all below it. Raises SourceError.
    """
    try:
        top = open_directory(Path(os.path.realpath(directory)))
        try:
            for path in paths:
                parts = [part for part in path.split("/") if part != "."]
                inner = open_relative(top, parts[:-1], os.O_RDONLY | os.O_DIRECTORY)
                try:
                    yield from _walk(inner, "/".join(parts[:-1]), parts[-1] if parts else ".", wanted)
                finally:
                    os.close(inner)
        finally:
            os.close(top)
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        raise SourceError(f"what is in {directory} cannot be read: {error.strerror}{named}") from error


def _walk(directory: int, parent: str, name: str, wanted: Wanted) -> Iterator[Found]:
    try:
        status = os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return
    path = name if not parent or parent == "." else f"{parent}/{name}"
    found = Found(path, name, directory, status)
    if not wanted(found):
        return
    yield found
    if not stat.S_ISDIR(status.st_mode):
        return
    if path.count("/") >= _DEEPEST - 1:
        raise SourceError(f"{path} is nested too deeply; at most {_DEEPEST} levels are copied")
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    try:
        for child in sorted(os.listdir(inner), key=os.fsencode):
            yield from _walk(inner, path, child, wanted)
    finally:
        os.close(inner)


@contextlib.contextmanager
def opened(found: Found, kind: int = os.O_NONBLOCK) -> Iterator[int]:
    """A file that was found, for reading, or with O_DIRECTORY as the kind a directory. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind
    descriptor = os.open(found.name, flags, dir_fd=found.directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
