# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a tar that anybody may have made: nothing is taken that this version would not write just so."""

from __future__ import annotations

import os
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Tuple

from ...errors import CorruptError
from ...stream.stages import CHUNK
from . import members
from .listing import Listing, Tally
from .members import BLOCK, Member, Segment, shown

_MOST_NAMES = 1 << 20

Content = Iterator[Tuple[int, bytes]]


class Entry(NamedTuple):
    """A member, and the bytes of a file: each part with its offset, without holes, to be read before the next entry."""

    member: Member
    content: Content


def entries(archive: BinaryIO, told: Listing) -> Iterator[Entry]:
    """Everything in the tar, to its end.

    Raises CorruptError for what is never written, for what is out of order, and if not all is as told.
    """
    reader = _Reader(archive)
    tally = Tally()
    order = _Order()
    while True:
        member, _raw = members.decode(reader.read)
        if not member.kind:
            break
        order.check(member)
        tally.add(member)
        content = reader.content(member, tally) if member.kind == members.FILE else iter(())
        yield Entry(member, content)
        for _unused in content:
            pass
        if member.kind == members.FILE and reader.read(-member.stored % BLOCK).strip(b"\0"):
            raise CorruptError(f"the tar has something behind the end of {shown(member.path)}")
    reader.end()
    if tally.result() != told:
        raise CorruptError(_difference(tally.result(), told))


def check(archive: BinaryIO, told: Listing) -> None:
    """Read all of a tar. Raises as entries does."""
    for _unused in entries(archive, told):
        pass


class _Reader:
    """Takes exactly what is asked for."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive

    def read(self, size: int) -> bytes:
        data = self._archive.read(size)
        if len(data) != size:
            raise CorruptError("the tar ends too early")
        return data

    def content(self, member: Member, tally: Tally) -> Content:
        segments = [Segment(0, member.size)]
        if member.is_sparse:
            segments = members.decode_map(self.read, member)
        for start, size in segments:
            for offset in range(start, start + size, CHUNK):
                data = self.read(min(CHUNK, start + size - offset))
                tally.add_content(offset, data)
                yield offset, data

    def end(self) -> None:
        if self.read(BLOCK).strip(b"\0") or self._archive.read(1):
            raise CorruptError("the tar goes on after its end")


class _Order:
    """Knows the directories that are being filled, the last name in each, and files of which further names may come.

    By name and each directory before what is in it: so no name can come twice, and none below what is no directory.
    """

    def __init__(self) -> None:
        self._directories: List[bytes] = []
        self._last: List[bytes] = []
        self._names: Dict[bytes, int] = {}

    def check(self, member: Member) -> None:
        """Raise CorruptError if the member cannot come now."""
        if not self._directories:
            if member.path != members.TOP:
                raise CorruptError("the tar does not begin with the directory itself")
            self._begin(member.path)
            return
        above, name = os.path.split(member.path)
        while self._directories and self._directories[-1] != (above or members.TOP):
            self._directories.pop()
            self._last.pop()
        if not self._directories or member.path == members.TOP or name <= self._last[-1]:
            raise CorruptError(f"the tar has {shown(member.path)} out of order, twice, or in no directory")
        self._last[-1] = name
        if member.kind == members.DIRECTORY:
            self._begin(member.path)
        elif member.kind == members.HARD_LINK:
            self._name(member)
        elif member.names > 1:
            if len(self._names) >= _MOST_NAMES:
                raise CorruptError("the tar has too many files of several names")
            self._names[member.path] = member.names - 1

    def _begin(self, path: bytes) -> None:
        self._directories.append(path)
        self._last.append(b"")

    def _name(self, member: Member) -> None:
        left = self._names.pop(member.target, 0)
        if not left:
            raise CorruptError(f"the tar has {shown(member.path)} as a further name of what did not come before")
        if left > 1:
            self._names[member.target] = left - 1


def _difference(found: Listing, told: Listing) -> str:
    counts = ("files", "directories", "links", "names", "size")
    for name in counts:
        if getattr(found, name) != getattr(told, name):
            return f"the tar has {name}: {getattr(found, name)}, the manifest tells {getattr(told, name)}"
    return "the tar has not the content that the manifest tells"
