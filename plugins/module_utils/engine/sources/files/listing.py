# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a tree amounts to, the same in a directory and in a tar: sums, and hashes of all that is in it."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from typing import Optional

from ...stream.stages import Bytes
from . import members
from .members import Member

_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)
# What follows the content of a member instead of the number of a block.
_END = b"\xff" * 8
_FIELDS = struct.Struct("<cIqqI")
_NUMBER = struct.Struct("<Q")
_OWNER = struct.Struct("<II")


@dataclasses.dataclass(frozen=True)
class Listing:
    """files counts regular files, names further names of them (hard links), size the bytes in them, holes as well.

    digest is a hash of all names, kinds, modes, times, contents and of where links lead to; owners and attributes are
    hashes of these, as not everybody can restore them everywhere.
    """

    files: int
    directories: int
    links: int
    names: int
    size: int
    digest: str
    owners: str
    attributes: str


class Tally:
    """Sums up members in the order of the tar, the content of each after its member."""

    def __init__(self) -> None:
        self._counts = {members.FILE: 0, members.DIRECTORY: 0, members.LINK: 0, members.HARD_LINK: 0}
        self._size = 0
        self._digest = hashlib.sha256()
        self._owners = hashlib.sha256()
        self._attributes = hashlib.sha256()
        self._pending: Optional[_Pending] = None
        self._length = 0

    def add(self, member: Member) -> None:
        """The next member."""
        self._end_content()
        self._counts[member.kind] += 1
        self._size += member.size
        self._length = member.size
        fields = _FIELDS.pack(member.kind, member.mode, member.mtime, member.size, len(member.path))
        self._digest.update(fields + member.path + _NUMBER.pack(len(member.target)) + member.target)
        self._owners.update(_OWNER.pack(member.uid, member.gid))
        for name, value in sorted(member.attributes.items()):
            self._attributes.update(_NUMBER.pack(len(name)) + name + _NUMBER.pack(len(value)) + value)
        self._attributes.update(_NUMBER.pack(0))

    def add_content(self, offset: int, data: Bytes) -> None:
        """Some bytes of the member that was added last; those that lie between are zero.

        Blocks of zeros do not count, so it makes no difference which of them are holes.
        """
        view = memoryview(data)
        while view:
            number, inside = divmod(offset, _BLOCK)
            part = view[: _BLOCK - inside]
            if self._pending and self._pending.number != number:
                self._flush()
            length = min(_BLOCK, self._length - number * _BLOCK)
            if len(part) == length:
                self._add_block(number, part)
            else:
                self._pending = self._pending or _Pending(number, length)
                self._pending.block[inside : inside + len(part)] = part
            offset, view = offset + len(part), view[len(part) :]

    def result(self) -> Listing:
        """The sums."""
        self._end_content()
        return Listing(
            files=self._counts[members.FILE],
            directories=self._counts[members.DIRECTORY],
            links=self._counts[members.LINK],
            names=self._counts[members.HARD_LINK],
            size=self._size,
            digest=self._digest.hexdigest(),
            owners=self._owners.hexdigest(),
            attributes=self._attributes.hexdigest(),
        )

    def _end_content(self) -> None:
        self._flush()
        self._digest.update(_END)

    def _flush(self) -> None:
        if self._pending:
            self._add_block(self._pending.number, memoryview(self._pending.block))
            self._pending = None

    def _add_block(self, number: int, block: memoryview) -> None:
        if block[0] == 0 and block.tobytes() == _ZEROS[: len(block)]:
            return
        self._digest.update(_NUMBER.pack(number))
        self._digest.update(block)


class _Pending:
    """A block of which not all is there yet."""

    def __init__(self, number: int, length: int) -> None:
        self.number = number
        self.block = bytearray(length)
