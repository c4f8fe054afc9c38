# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An SQLite database that stands alone, as chroma.sqlite3 without the directories beside it."""

from __future__ import annotations

from pathlib import Path

from ...errors import CorruptError
from ...processes import Report
from ..sqlite import copies
from .findings import Findings

MAGIC = b"SQLite format 3\0"
_HEADER = 100
# Where the header tells how the database is written, and with what; source: the file format of SQLite, 1.3.3.
_WRITTEN_BY_AT = 18
_WRITE_AHEAD_LOG = 2
_CHROMA = {"collections", "segments", "embeddings", "embeddings_queue"}


def check(report: Report, path: Path, copied: copies.Copy) -> Findings:
    """Have SQLite read all of it, without locks, journals or functions that its schema asks for.

    Raises CorruptError with the first fault that SQLite finds.
    """
    with open(path, "rb") as file:
        header = file.read(_HEADER)
    if not header.startswith(MAGIC):
        raise CorruptError("it is not an SQLite database: it does not begin with the magic of one")
    with copied.connection(report) as connection:
        copies.check_integrity(connection)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
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
