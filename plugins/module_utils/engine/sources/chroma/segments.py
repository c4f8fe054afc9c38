# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directories of segments, and their copies: all files of all segments in one file, as a child without a name to
write to can make it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import os
import re
import stat
import tarfile
import time
from pathlib import Path
from typing import IO, Any, BinaryIO, Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple, cast

from ...capture.blocks import BUFFER, WriteBack
from ...errors import SourceError
from ...paths import is_safe_relative
from ...stream.stages import Stage
from .. import tree
from ..tree.members import checked_members, reading

_IDENTITY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Files that were written to so shortly before they were looked at may be written again without a new time.
_TICK = 0.02
_Stamp = Tuple[Tuple[str, int, int, int], ...]


def is_segment(name: str) -> bool:
    """Whether a directory of this name can be that of a segment."""
    return bool(_IDENTITY.fullmatch(name))


@dataclasses.dataclass(frozen=True)
class Status:
    """Whose a file or directory is, its mode, and its time in seconds."""

    mode: int
    uid: int
    gid: int
    mtime: int

    @classmethod
    def of(cls, status: os.stat_result) -> Status:
        """As the system tells."""
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, int(status.st_mtime))


@dataclasses.dataclass(frozen=True)
class FileCopy:
    """Where the copy of a file is."""

    name: str
    offset: int
    size: int
    status: Status


@dataclasses.dataclass(frozen=True)
class SegmentCopy:
    """The copies of the files of a segment."""

    id: str
    status: Status
    files: List[FileCopy]


class LiveSegments:
    """The segments in the working directory, and the latest copy of each in target. In a child process only.

    judge tells what keeps a copy from being whole, if anything. changed is when one was last found changed, in seconds
    of the monotonic clock.
    """

    def __init__(self, target: int, shown: str, alive: Any, judge: Callable[[SegmentCopy], Optional[str]]) -> None:
        self._target = target
        self._judge = judge
        self._shown = shown
        self._alive = alive
        self._end = 0
        self._write_back: Optional[WriteBack] = None
        self._slots: Dict[Tuple[str, str], Tuple[int, int]] = {}
        self.changed = time.monotonic()
        self._copies: Dict[str, SegmentCopy] = {}
        self._stamps: Dict[str, Optional[_Stamp]] = {}
        self._faults: Dict[str, str] = {}

    def refresh(self, wanted: Set[str], *, in_haste: bool = False) -> Optional[str]:
        """Copy what has changed of the wanted; returns what keeps one of them from being whole, if anything.

        In haste, as while others wait, nothing is waited for.
        """
        self._write_back = None if in_haste else WriteBack(self._target)
        present = {name for name in os.listdir() if name in wanted and is_segment(name)}
        for name in set(self._copies) - present:
            self._copies.pop(name)
        for name in sorted(present):
            stamp = self._stamps.get(name)
            if name not in self._copies or stamp is None or stamp != _stamp(name):
                self._copy(name)
            self._alive()
        return next((self._faults[name] for name in sorted(present) if name in self._faults), None)

    def copies(self) -> List[SegmentCopy]:
        """The copies of the last refresh."""
        return [self._copies[name] for name in sorted(self._copies)]

    def _copy(self, name: str) -> None:
        """A copy of a moment; one that changed meanwhile or is not whole is known as such."""
        self._faults.pop(name, None)
        self.changed = time.monotonic()
        started = time.time()
        before = _stamp(name)
        copied = self._copied(name)
        if before is None or copied is None:
            # It was removed meanwhile.
            self._copies.pop(name, None)
            return
        self._copies[name] = copied
        is_settled = all(entry[3] < (started - _TICK) * 1e9 for entry in before)
        self._stamps[name] = before if is_settled else None
        if before != _stamp(name):
            self._faults[name] = f"segment {name} in {self._shown} keeps changing"
            return
        fault = self._judge(copied)
        if fault:
            self._faults[name] = f"segment {name} in {self._shown} is not whole: {fault}"

    def _copied(self, name: str) -> Optional[SegmentCopy]:
        files = []
        try:
            directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(f"segment {name} in {self._shown} cannot be read: {error.strerror}") from error
        try:
            for file in sorted(os.listdir(directory)):
                try:
                    files.append(self._copied_file(directory, file, name))
                except FileNotFoundError:
                    continue
            return SegmentCopy(name, Status.of(os.fstat(directory)), files)
        finally:
            os.close(directory)

    def _copied_file(self, directory: int, name: str, of: str) -> FileCopy:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"segment {of} in {self._shown} has {name!r}, which is not a regular file")
            if not is_safe_relative(name):
                raise SourceError(f"segment {of} in {self._shown} has a file with the strange name {name!r}")
            start = self._slot((of, name), status.st_size)
            size = self._copied_bytes(descriptor, start, status.st_size)
            return FileCopy(name, start, size, Status.of(status))
        finally:
            os.close(descriptor)

    def _slot(self, key: Tuple[str, str], size: int) -> int:
        """Where to copy a file to: over its former copy where it fits, with some room to grow."""
        start, room = self._slots.get(key, (0, -1))
        if room < size:
            start, room = self._end, size + size // 4
            self._slots[key] = start, room
            self._end += room
            os.ftruncate(self._target, self._end)
        return start

    def _copied_bytes(self, descriptor: int, start: int, most: int) -> int:
        buffer = memoryview(bytearray(min(BUFFER, max(most, 1))))
        done = 0
        while done < most:
            size = os.preadv(descriptor, [buffer[: most - done]], done)
            if not size:
                break
            data = buffer[:size]
            while data:
                data = data[os.pwrite(self._target, data, start + done + size - len(data)) :]
            done += size
            if self._write_back:
                self._write_back.grown(size)
            self._alive()
        return done


def contents(descriptor: int, copied: SegmentCopy) -> Dict[str, memoryview]:
    """The content of the files of a copy."""
    if not any(file.size for file in copied.files):
        return {file.name: memoryview(b"") for file in copied.files}
    whole = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    return {file.name: whole[file.offset : file.offset + file.size] for file in copied.files}


class Contents:
    """The content of segments that were copied into one file, by id."""

    def __init__(self, descriptor: int, copies: Iterable[SegmentCopy]) -> None:
        self._descriptor = descriptor
        self._copies = {copied.id: copied for copied in copies}

    def __call__(self, identity: str) -> Optional[Mapping[str, memoryview]]:
        copied = self._copies.get(identity)
        return contents(self._descriptor, copied) if copied else None


class Archive:
    """The content of segments in a tar that anybody may have packed, by id; without one there are none.

    Raises CorruptError when the tar does not bring what is told.
    """

    def __init__(self, descriptor: Optional[int], told: List[tree.Included]) -> None:
        self._files: Dict[str, Dict[str, memoryview]] = {}
        if descriptor is None:
            return
        whole = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        with os.fdopen(os.dup(descriptor), "rb") as file, reading():
            for _unused, member, identity in checked_members(file, told):
                files = self._files.setdefault(identity, {})
                if member.isreg():
                    content = whole[member.offset_data : member.offset_data + member.size]
                    files[member.name[len(identity) + 1 :]] = content

    def __call__(self, identity: str) -> Optional[Mapping[str, memoryview]]:
        return self._files.get(identity)


class Directories:
    """The content of segments in directories of our own, by id."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = directories
        self._files: Dict[str, Mapping[str, memoryview]] = {}

    def open(self) -> None:
        """Open all files, of whose content nothing is looked at: to be done before a child gives up the rights to."""
        for identity, directory in self._directories.items():
            self._files[identity] = {path.name: _mapped(path) for path in directory.iterdir()}

    def __call__(self, identity: str) -> Optional[Mapping[str, memoryview]]:
        return self._files.get(identity)


def _mapped(path: Path) -> memoryview:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


def size_of(identities: Iterable[str]) -> int:
    """The bytes that segments in the working directory have, as far as they have one."""
    return sum(entry[2] for identity in identities for entry in _stamp(identity) or ())


def write(stream: Stage, source: BinaryIO, copies: List[SegmentCopy]) -> List[tree.Included]:
    """Write the copies as a tar with a directory per segment; returns what it brings."""
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for copied in copies:
            archive.addfile(_member(copied.id, copied.status, tarfile.DIRTYPE))
            for file in copied.files:
                source.seek(file.offset)
                member = _member(f"{copied.id}/{file.name}", file.status, tarfile.REGTYPE)
                member.size = file.size
                archive.addfile(member, source)
    return [_brought(copied) for copied in copies]


def _brought(copied: SegmentCopy) -> tree.Included:
    told = [(file.name, file.size, file.status.mtime) for file in copied.files]
    fingerprint = hashlib.sha256(repr(told).encode()).hexdigest()
    return tree.Included(copied.id, len(told), 1, sum(file.size for file in copied.files), fingerprint)


def _member(name: str, status: Status, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode, member.uid, member.gid, member.mtime = status.mode, status.uid, status.gid, status.mtime
    return member


def _stamp(name: str) -> Optional[_Stamp]:
    """Name, inode, size and time of all files of a segment; None when it is not there."""
    try:
        with os.scandir(name) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except FileNotFoundError:
        return None
    return tuple(sorted((file, status.st_ino, status.st_size, status.st_mtime_ns) for file, status in found))
