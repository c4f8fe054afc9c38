# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a tar that anybody may have packed: every member is checked, and all are counted."""

from __future__ import annotations

import contextlib
import os
import tarfile
from typing import BinaryIO, Iterator, List, Tuple

from ...errors import CorruptError
from ...paths import is_owner
from .included import Included, Tally

_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
_DEEPEST = 200
_LATEST = 1 << 33


def check(archive: BinaryIO, included: List[Included]) -> None:
    """Read such a tar to its end.

    Raises CorruptError for a member that is no regular file or directory or lies outside of what was included, and
    when the number of files or bytes differs.
    """
    with reading():
        for _unused in checked_members(archive, included):
            pass


def checked_members(
    archive: BinaryIO, included: List[Included]
) -> Iterator[Tuple[tarfile.TarFile, tarfile.TarInfo, str]]:
    """Every member that was checked, with the included path it belongs to; at the end the counts are compared."""
    tallies = {entry.path: Tally(entry.path) for entry in included}
    previous = tarfile.TarInfo()
    with tarfile.open(fileobj=archive, mode="r|") as members:
        for member in members:
            path = _path_of(member, included)
            _count(tallies[path], member, previous)
            previous = member
            yield members, member, path
            # The library would keep every member in memory.
            members.members = []  # type: ignore[attr-defined]
    for entry in included:
        _compare(tallies[entry.path].result(), entry)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Have what is wrong with a tar, or with the content of a member, be a CorruptError."""
    try:
        yield
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise CorruptError(f"the included files are not a readable tar: {error}") from error


def _count(tally: Tally, member: tarfile.TarInfo, previous: tarfile.TarInfo) -> None:
    name = os.fsencode(member.name)
    if member.isdir():
        tally.add_directory(name)
    elif previous.name == member.name:
        # A file that changed while it was read follows itself.
        tally.resize_file(previous.size, member.size)
    else:
        tally.add_file(name, member.size, 0)


def _compare(found: Included, told: Included) -> None:
    if found.counts != told.counts:
        raise CorruptError(
            f"include {told.path!r} has {found.files} files of {found.size} bytes in {found.directories} directories, "
            f"the manifest tells {told.files} of {told.size} in {told.directories}"
        )


def _path_of(member: tarfile.TarInfo, included: List[Included]) -> str:
    """The include path a member belongs to."""
    parts = member.name.split("/")
    # By its type: a sparse file calls itself regular and can be larger than any disk.
    if member.type not in _TYPES or member.issparse():
        raise CorruptError(f"the included files have a member {member.name!r} that is neither a file nor a directory")
    if any(part in ("", ".", "..") or "\0" in part for part in parts) or len(parts) > _DEEPEST:
        raise CorruptError(f"the included files have a member with the unsafe name {member.name[:_DEEPEST]!r}")
    if not is_owner(member.uid, member.gid) or not abs(member.mtime) < _LATEST:
        raise CorruptError(f"the included files have a member {member.name!r} with an owner or a time out of range")
    for entry in included:
        if member.name == entry.path or member.name.startswith(entry.path + "/"):
            return entry.path
    raise CorruptError(f"the included files have a member {member.name!r} outside of what was included")
