# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the files of a tar are in place already."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import IO, BinaryIO, List, cast

from ...paths import is_directory, opened_inside
from ...stream.digest import has_content, sha256_of
from .entries import scan
from .included import Included
from .members import checked_members, reading


def is_unpacked(archive: BinaryIO, included: List[Included], root: Path) -> bool:
    """Whether the files below root are those of the tar, by content, and no others."""
    found = scan(root, [entry.path for entry in included if os.path.lexists(root / entry.path)])
    same = [(entry.path, entry.counts) for entry in found] == [(entry.path, entry.counts) for entry in included]
    # Of a file that changed while it was read, the last copy counts: judged when another name follows.
    name, content_is_same = "", True
    with reading():
        for members, member, _unused in checked_members(archive, included):
            if member.name != name:
                same = same and content_is_same
                name, content_is_same = member.name, is_directory(root / member.name)
            if same and member.isreg():
                content_is_same = _is_in_place(root, members, member)
    return same and content_is_same


def _is_in_place(root: Path, members: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    content = cast(IO[bytes], members.extractfile(member))
    try:
        with opened_inside(root, member.name) as descriptor:
            return has_content(descriptor, member.size, sha256_of(content))
    except OSError:
        return False
