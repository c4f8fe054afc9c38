# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a directory, as members of a tar in its order: the same for what is stored and for what was restored."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ...capture.metadata import stamp
from ...capture.sight import Found, Wanted, opened, walk
from ...errors import SourceError
from ...stream.stages import CHUNK, Bytes
from . import members
from .listing import Listing, Tally
from .members import Member, Segment

_BLOCK = 512
_MOST_NAMES = 1 << 20
_MOST_TOLD = 100
# They are made anew wherever a file is, by the rules of the host; the last are how XFS shows access lists to root.
_OF_THE_HOST = (
    "security.selinux",
    "security.evm",
    "security.ima",
    "trusted.SGI_ACL_FILE",
    "trusted.SGI_ACL_DEFAULT",
)
_ROOM = 64
_SMALLEST_HOLE = 4096


class ChangedError(SourceError):
    """Something is not any more what it was when it was looked at."""


class Piece(NamedTuple):
    """A member, and for a regular file the open file and what in it is no hole."""

    member: Member
    descriptor: int = -1
    segments: Optional[List[Segment]] = None

    def content(self) -> Iterator[Tuple[int, Bytes]]:
        """Its bytes, each part with its offset; without holes. Raises ChangedError when it is shorter than it was."""
        whole = [Segment(0, self.member.size)]
        for start, size in whole if self.segments is None else self.segments:
            offset, end = start, start + size
            while offset < end:
                data = os.pread(self.descriptor, min(CHUNK, end - offset), offset)
                if not data:
                    raise ChangedError(f"{members.shown(self.member.path)} became shorter while it was read")
                yield offset, data
                offset += len(data)


class Inventory:
    """Goes through a directory. warnings tell afterwards what was left out."""

    def __init__(self, root: Path, wanted: Wanted) -> None:
        self._root = root
        self._wanted = wanted
        self._known: Dict[Tuple[int, int], Tuple[int, bytes]] = {}
        self._left_out: List[str] = []
        self._others = 0
        self._attributes: Set[str] = set()
        self._is_root = os.geteuid() == 0

    @property
    def warnings(self) -> List[str]:
        """Not more than a hundred names."""
        told = list(self._left_out)
        if self._others:
            told.append(f"{self._others} more were left out or changed likewise")
        return told + [f"the attribute {name} of files was left out" for name in sorted(self._attributes)]

    def pieces(self) -> Iterator[Piece]:
        """Everything. A file stays open until the next piece is asked for.

        Raises SourceError when something cannot be read, ChangedError when it changes meanwhile.
        """
        for found in walk(self._root, ["."], self._wanted):
            try:
                yield from self._piece(found)
            except OSError as error:
                told = f"{self._root / found.path} cannot be read: {error.strerror}"
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE):
                    raise ChangedError(f"{self._root / found.path} was removed while it was read") from error
                raise SourceError(told) from error

    def _piece(self, found: Found) -> Iterator[Piece]:
        mode = found.status.st_mode
        if stat.S_ISDIR(mode):
            with opened(found, os.O_DIRECTORY) as descriptor:
                yield Piece(_member(found, members.DIRECTORY, attributes=self._attributes_of(descriptor)))
        elif stat.S_ISLNK(mode):
            target = os.fsencode(os.readlink(found.name, dir_fd=found.directory))
            yield Piece(_member(found, members.LINK, target=target))
        elif not stat.S_ISREG(mode):
            self._tell(f"{self._root / found.path} is neither a file nor a directory nor a link and was left out")
        else:
            first = self._first_name(found)
            if first is None:
                yield from self._file(found)
            else:
                yield Piece(_member(found, members.HARD_LINK, target=first))

    def _file(self, found: Found) -> Iterator[Piece]:
        with opened(found) as descriptor:
            status = os.fstat(descriptor)
            if stamp(status) != stamp(found.status):
                raise ChangedError(f"{self._root / found.path} changed while it was read")
            segments = _segments(descriptor, status)
            stored = status.st_size
            if segments is not None:
                stored = len(members.encode_map(segments)) + sum(segment.size for segment in segments)
            member = _member(
                found,
                members.FILE,
                size=status.st_size,
                stored=stored,
                names=status.st_nlink,
                is_sparse=segments is not None,
                attributes=self._attributes_of(descriptor),
            )
            if stat.S_IMODE(status.st_mode) & ~0o777:
                self._tell(f"{self._root / found.path} was stored without its right to run as its owner or group")
            yield Piece(member, descriptor, segments)
            if stamp(os.fstat(descriptor)) != stamp(status):
                raise ChangedError(f"{self._root / found.path} changed while it was read")

    def _first_name(self, found: Found) -> Optional[bytes]:
        """The path under which this file came before, if it did. One whose names all came is forgotten."""
        status = found.status
        if status.st_nlink < 2:
            return None
        identity = status.st_dev, status.st_ino
        if identity not in self._known:
            if len(self._known) >= _MOST_NAMES:
                raise SourceError(f"more than {_MOST_NAMES} files below {self._root} have several names")
            self._known[identity] = status.st_nlink - 1, os.fsencode(found.path)
            return None
        left, first = self._known.pop(identity)
        if left > 1:
            self._known[identity] = left - 1, first
        return first

    def _attributes_of(self, descriptor: int) -> Dict[bytes, bytes]:
        kept: Dict[bytes, bytes] = {}
        for name in _attribute_names(descriptor):
            if not members.is_kept(os.fsencode(name)):
                if name not in _OF_THE_HOST and len(self._attributes) < _MOST_TOLD:
                    self._attributes.add(name)
                continue
            with contextlib.suppress(OSError):
                kept[os.fsencode(name)] = os.getxattr(descriptor, name)
        if sum(len(name) + len(value) + _ROOM for name, value in kept.items()) > members.MOST_ATTRIBUTES:
            raise OSError(errno.E2BIG, "it has more extended attributes than can be stored")
        return kept

    def _tell(self, warning: str) -> None:
        if len(self._left_out) < _MOST_TOLD:
            self._left_out.append(warning)
        else:
            self._others += 1


def survey(root: Path) -> Listing:
    """What is in a directory, all of it read. Raises SourceError."""
    tally = Tally()
    for piece in Inventory(root, lambda _found: True).pieces():
        tally.add(piece.member)
        if piece.descriptor >= 0:
            for offset, data in piece.content():
                tally.add_content(offset, data)
    return tally.result()


def _member(found: Found, kind: bytes, **fields: Any) -> Member:
    status = found.status
    kept = 0o3777 if kind == members.DIRECTORY else 0o777
    return Member(
        path=os.fsencode(found.path),
        kind=kind,
        mode=stat.S_IMODE(status.st_mode) & kept,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        **fields,
    )


def _attribute_names(descriptor: int) -> List[str]:
    try:
        return sorted(os.listxattr(descriptor))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def _segments(descriptor: int, status: os.stat_result) -> Optional[List[Segment]]:
    """What is no hole, ending where the file does; None for a file without holes."""
    if status.st_blocks * _BLOCK >= status.st_size:
        return None
    segments: List[Segment] = []
    smallest = _SMALLEST_HOLE
    offset = 0
    while offset < status.st_size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
            offset = min(os.lseek(descriptor, start, os.SEEK_HOLE), status.st_size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            if error.errno == errno.EINVAL:
                return None
            raise
        segments.append(Segment(start, offset - start))
        while len(segments) >= members.MOST_SEGMENTS:
            smallest *= 2
            segments = _merged(segments, smallest)
    if not segments or sum(segments[-1]) != status.st_size:
        segments.append(Segment(status.st_size, 0))
    return segments if segments != [Segment(0, status.st_size)] else None


def _merged(segments: List[Segment], smallest: int) -> List[Segment]:
    """Without the holes that are smaller: the zeros in them are stored."""
    merged = segments[:1]
    for segment in segments[1:]:
        last = merged[-1]
        if segment.offset - sum(last) < smallest:
            merged[-1] = Segment(last.offset, sum(segment) - last.offset)
        else:
            merged.append(segment)
    return merged
