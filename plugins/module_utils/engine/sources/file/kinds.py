# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kinds of files that can be checked, each in a room of its own."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Dict, Tuple

from ...processes import Report
from ..sqlite import copies
from . import archive, export, sqlite
from .findings import Findings

SQLITE, ARCHIVE, EDN, OTHER = "sqlite3", "tar.gz", "edn", "other"
KINDS = (SQLITE, ARCHIVE, EDN, OTHER)
HEAD = 4096

_ENDINGS: Dict[str, Tuple[str, ...]] = {SQLITE: (".sqlite3", ".sqlite"), ARCHIVE: (".tar.gz", ".tgz"), EDN: (".edn",)}
# Of a tar, and where it stands in its first header.
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257


def kind_of(name: str, head: bytes) -> str:
    """The kind that a file claims by its name or, where the name tells nothing, by its first bytes."""
    for kind, endings in _ENDINGS.items():
        if name.lower().endswith(endings):
            return kind
    if head.startswith(sqlite.MAGIC):
        return SQLITE
    return ARCHIVE if _is_packed_tar(head) else OTHER


def check(kind: str, report: Report, path: Path, copied: copies.Copy) -> Findings:
    """Check a file of this kind, in a child process; copied is the same file for SQLite, opened where it is of SQLite.

    Raises CorruptError for a file that is not whole.
    """
    if kind == SQLITE:
        return sqlite.check(report, path, copied)
    if kind == ARCHIVE:
        return archive.check(report, path)
    if kind == EDN:
        return export.check(report, path)
    return Findings([], ["its content: files of this kind are not known"])


def _is_packed_tar(head: bytes) -> bool:
    try:
        start = zlib.decompressobj(31).decompress(head, _TAR_MAGIC_AT + len(_TAR_MAGIC))
    except zlib.error:
        return False
    return start[_TAR_MAGIC_AT:] == _TAR_MAGIC
