# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kinds of files that can be checked, each in a room of its own."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Callable, Dict, Tuple

from ...errors import CorruptError
from ...processes import Report
from . import archive, edn, sqlite
from .findings import Findings

SQLITE, ARCHIVE, EDN, OTHER = "sqlite3", "tar.gz", "edn", "other"
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


def check_of(kind: str) -> Callable[[Report, Path], Findings]:
    """The check of this kind, for a child process; it raises CorruptError for a file that is not whole.

    Raises CorruptError for an unknown kind.
    """
    checks = {SQLITE: sqlite.check, ARCHIVE: archive.check, EDN: edn.check, OTHER: _check_other}
    if kind not in checks:
        raise CorruptError(f"the manifest is not valid: source.kind: {kind!r} is not known")
    return checks[kind]


def _check_other(_report: Report, _path: Path) -> Findings:
    return Findings([], ["its content: files of this kind are not known"])


def _is_packed_tar(head: bytes) -> bool:
    try:
        start = zlib.decompressobj(31).decompress(head, _TAR_MAGIC_AT + len(_TAR_MAGIC))
    except zlib.error:
        return False
    return start[_TAR_MAGIC_AT:] == _TAR_MAGIC
