# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first page of an SQLite database: what it is, read from the file without SQLite.

Source: "Database File Format" of the SQLite documentation, section "The Database Header".
"""

from __future__ import annotations

import dataclasses
import os
import stat
import struct
from pathlib import Path

from ...errors import SourceError, naming

MAGIC = b"SQLite format 3\0"
HEADER_SIZE = 100
_WAL = 2
_PAGE_SIZES = (1, *(1 << power for power in range(9, 16)))
# page size, versions for writing and reading
_LAYOUT = struct.Struct(">16x H B B")
# change counter, user version, application id, version of the SQLite that wrote last
_NUMBERS = struct.Struct(">24x I 32x i 4x I 24x I")


@dataclasses.dataclass(frozen=True)
class Header:
    """What a database tells of itself. wal: it is in WAL mode, else it has a rollback journal."""

    page_size: int
    wal: bool
    user_version: int
    application_id: int
    written_by: str
    change_counter: int

    @property
    def journal_mode(self) -> str:
        """wal, or rollback for all modes with a rollback journal."""
        return "wal" if self.wal else "rollback"


def open_data(name: str, shown: str) -> int:
    """A descriptor for reading a database file, which must be a regular one. shown is its name in messages.

    Raises SourceError. The caller must not close it while SQLite holds a lock on the file in the same process.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{shown} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise SourceError(f"{shown} is not a regular file")
    return descriptor


def read_header(descriptor: int, shown: str) -> Header:
    """The header of an open database file.

    Raises SourceError when it is none, with what it is instead.
    """
    with naming(Path(shown)):
        head = os.pread(descriptor, HEADER_SIZE, 0)
    if not head:
        raise SourceError(f"{shown} is empty, not an SQLite database")
    if not head.startswith(MAGIC) or len(head) < HEADER_SIZE:
        raise SourceError(f"{shown} is not an SQLite database, or an encrypted one")
    page_size, writing, reading = _LAYOUT.unpack_from(head)
    if page_size not in _PAGE_SIZES:
        raise SourceError(f"{shown} has the header of an SQLite database and a page size that makes no sense")
    if max(writing, reading) > _WAL:
        raise SourceError(f"{shown} has the unknown SQLite format version {max(writing, reading)}; 1 and 2 are known")
    counter, user_version, application_id, number = _NUMBERS.unpack_from(head)
    return Header(
        page_size=1 << 16 if page_size == 1 else page_size,
        wal=reading == _WAL,
        user_version=user_version,
        application_id=application_id,
        written_by=_text(number),
        change_counter=counter,
    )


def _text(number: int) -> str:
    """3040001 becomes 3.40.1."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
