# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of a container as a tar from the Docker engine, unpacked with the distrust that a tar from anywhere deserves.

Only directories and regular files are unpacked; links, devices and pipes are left out.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import time
from pathlib import Path
from typing import IO, Iterator, List, Optional, Tuple, cast

from ..errors import SourceError
from ..paths import is_owner
from ..stream.stages import CHUNK, write_all

_MOST_MEMBERS = 1_000_000
_DEEPEST = 200
_LATEST = 1 << 33
# The headers before one member, with room for the longest names. A larger one would fill the memory.
_LARGEST_HEADER = 1 << 20


def unpack(chunks: Iterator[bytes], directory: Path, deadline: Optional[float] = None) -> List[str]:
    """Unpack a tar into an empty private directory; returns the names that were left out.

    Raises SourceError when it is not such a tar, would fill the disk, or is not read at time.monotonic() deadline.
    """
    left_out = []
    room = _room(directory)
    with _reading(chunks, deadline) as (members, source):
        for member in _members(members, source):
            parts = _parts(member.name)
            if member.islnk():
                # A second name of a file that came before; the engine has it that way.
                _copy(directory.joinpath(*_parts(member.linkname)), directory.joinpath(*parts), member)
                continue
            if not (member.isdir() or member.isreg()) or member.issparse():
                left_out.append(member.name)
                continue
            room -= member.size
            if room < 0:
                raise SourceError(f"there is no room in {directory} for the files of the container")
            _write(members, member, directory.joinpath(*parts))
    return left_out


def read_file(chunks: Iterator[bytes], limit: int) -> Optional[bytes]:
    """At most limit bytes of the regular file that a tar begins with, None when it begins with something else."""
    with _reading(chunks, None) as (members, source):
        member = next(_members(members, source), None)
        if not member or not member.isreg() or member.issparse():
            return None
        return cast(IO[bytes], members.extractfile(member)).read(limit)


class _Bounded:
    """The tar as a file that refuses to go on and on before the next member, or beyond the deadline."""

    def __init__(self, chunks: Iterator[bytes], deadline: Optional[float]) -> None:
        self._chunks = chunks
        self._deadline = deadline
        self._pending = b""
        self._left = _LARGEST_HEADER

    def allow(self, size: int) -> None:
        """The content of a member and the header after it may come."""
        self._left = size + _LARGEST_HEADER

    def read(self, size: int) -> bytes:
        """Like that of a file."""
        while len(self._pending) < size:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise SourceError("the container goes on; the time it may be paused was too short to read its files")
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._pending += chunk
        data, self._pending = self._pending[:size], self._pending[size:]
        self._left -= len(data)
        if self._left < 0:
            raise SourceError("the engine sends something that is not a tar of files")
        return data


@contextlib.contextmanager
def _reading(chunks: Iterator[bytes], deadline: Optional[float]) -> Iterator[Tuple[tarfile.TarFile, _Bounded]]:
    source = _Bounded(chunks, deadline)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r|") as members:
            yield members, source
    except (tarfile.TarError, EOFError, UnicodeError, OverflowError) as error:
        raise SourceError(f"what the engine sends is not a readable tar: {error}") from error


def _members(archive: tarfile.TarFile, source: _Bounded) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(archive):
        if number >= _MOST_MEMBERS or member.size < 0:
            raise SourceError("the engine sends more files than there can be")
        source.allow(member.size)
        yield member
        # The library would keep every member in memory.
        archive.members = []  # type: ignore[attr-defined]


def _parts(name: str) -> List[str]:
    parts = [part for part in name.split("/") if part != "."]
    if name.startswith("/") or len(parts) > _DEEPEST or any(part in ("", "..") or "\0" in part for part in parts):
        raise SourceError(f"the engine sends a file with the unsafe name {name[:_DEEPEST]!r}")
    return parts


def _room(directory: Path) -> int:
    """Free bytes, less a little that others may need."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize - status.f_blocks * status.f_frsize // 100


def _copy(first: Path, second: Path, member: tarfile.TarInfo) -> None:
    """Have what was unpacked under one name under another, below a private directory in which no links exist."""
    try:
        if not stat.S_ISREG(os.lstat(first).st_mode):
            raise SourceError(f"the engine sends {member.name!r} as a second name of what is no file")
        second.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.link(first, second, follow_symlinks=False)
    except OSError as error:
        raise SourceError(
            f"{member.name!r} cannot be unpacked as a second name of {member.linkname!r}: {error.strerror}"
        ) from error


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one member below a private directory in which no links exist."""
    if not is_owner(member.uid, member.gid) or not 0 <= member.mtime < _LATEST:
        raise SourceError(f"the engine sends a file {member.name!r} with an owner or a time out of range")
    try:
        if member.isdir():
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(str(target), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        else:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(
                str(target), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
    except OSError as error:
        raise SourceError(f"{member.name!r} cannot be unpacked to {target.parent}: {error.strerror}") from error
    try:
        if member.isreg():
            content = cast(IO[bytes], members.extractfile(member))
            while chunk := content.read(CHUNK):
                write_all(descriptor, chunk)
        if os.geteuid() == 0:
            os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode & 0o777 | (0o700 if member.isdir() else 0))
        os.utime(descriptor, (member.mtime, member.mtime))
    except OSError as error:
        raise SourceError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        os.close(descriptor)
