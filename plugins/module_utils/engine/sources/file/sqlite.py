# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An SQLite database that stands alone, as chroma.sqlite3 without the directories beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import CorruptError
from ...optional import optional_module
from ...processes import Report
from .findings import Findings

# A Python can be built without it.
sqlite3: Any = optional_module("sqlite3")

MAGIC = b"SQLite format 3\0"
# Where the header tells how the database is written, and with what; source: the file format of SQLite, 1.3.3.
_WRITTEN_BY_AT = 18
_WRITE_AHEAD_LOG = 2
_CHROMA = {"collections", "segments", "embeddings", "embeddings_queue"}
_LONGEST_FAULT = 200


def check(_report: Report, path: Path) -> Findings:
    """Have SQLite read all of it, without locks, journals or functions that its schema asks for.

    Raises CorruptError with the first fault that SQLite finds.
    """
    with open(path, "rb") as file:
        header = file.read(100)
    if not header.startswith(MAGIC):
        raise CorruptError("it is not an SQLite database: it does not begin with the magic of one")
    if not sqlite3:
        raise CorruptError("it cannot be checked, as the Python of this host has no sqlite3")
    try:
        tables = _read_all(path)
    except sqlite3.Error as error:
        raise CorruptError(f"SQLite cannot read it: {str(error)[:_LONGEST_FAULT]!r}") from error
    not_verified = ["whether a transaction was under way while it was copied"]
    if header[_WRITTEN_BY_AT] == _WRITE_AHEAD_LOG:
        not_verified.append("what was in its write-ahead log, a file of its own that is not here")
    if tables >= _CHROMA:
        not_verified.append(
            "the vectors: Chroma keeps most or all of them in segment directories, which are not here; "
            "a restore brings back the others only, up to none"
        )
    else:
        not_verified.append("whether files that belong to it are missing")
    return Findings(["SQLite's integrity_check reads all of it and finds no fault"], not_verified)


def _read_all(path: Path) -> set[str]:
    """The names of its tables, once all of it was read."""
    # Nobody else has this copy: SQLite need not look for a journal or a lock.
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        (fault,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if fault != "ok":
            raise CorruptError(f"SQLite finds a fault in it: {str(fault)[:_LONGEST_FAULT]!r}")
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()
