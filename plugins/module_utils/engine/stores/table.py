# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A table that has a row for each export: name, data, created_at and sha256; the name is JOB/ID of the backup.

What speaks with a database runs in a child, which is ended when it is silent for too long.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import re
from typing import Any, Callable, NamedTuple, Optional

from ..errors import BackupError, CorruptError, NotFoundError, UsageError
from ..paths import check_job_name
from ..processes import Child, Owner, Report
from ..stream.stages import CHUNK, write_all
from ..times import is_id

# Bytes of the text of a row: SQLite takes no longer one as it is usually built, and PostgreSQL little more.
LARGEST = 1_000_000_000

_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Row(NamedTuple):
    """A row; created_at is a time as RFC 3339 has it."""

    name: str
    created_at: str
    sha256: str
    data: bytes

    @property
    def job(self) -> str:
        """The job of its backup."""
        return self.name.partition("/")[0]

    @property
    def backup_id(self) -> str:
        """The id of its backup."""
        return self.name.partition("/")[2]


@dataclasses.dataclass(frozen=True)
class Store:
    """The file of an SQLite database, or the connection string of a PostgreSQL database, which may hold a password.

    With keep_last, only so many rows of a job stay.
    """

    sqlite: Optional[str] = None
    postgresql: Optional[str] = dataclasses.field(default=None, repr=False)
    table: str = "db_backup"
    keep_last: int = 0

    def check(self) -> None:
        """Raise UsageError for what makes no sense; it never tells the connection string."""
        if (self.sqlite is None) == (self.postgresql is None):
            raise UsageError("a store is either sqlite, with a file, or postgresql, with a connection string")
        if not _TABLE.fullmatch(self.table):
            raise UsageError(f"table {self.table!r} is not 1 to 63 letters, digits and _ of ASCII, no digit first")
        if self.keep_last < 0:
            raise UsageError(f"keep_last {self.keep_last} is negative")

    def __str__(self) -> str:
        return f"table {self.table} of {self.sqlite if self.sqlite is not None else 'PostgreSQL'}"


class Table(abc.ABC):
    """A table of one kind of database. Its work is done in a child that has the rights of owner."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def sql(self, statement: str) -> str:
        """The statement with the quoted name of the table in the place of <table>; a checked name has no quote."""
        return statement.replace("<table>", f'"{self.store.table}"')

    @abc.abstractmethod
    def owner(self) -> Optional[Owner]:
        """Whose rights the child takes."""

    @abc.abstractmethod
    def insert(self, row: Row) -> bytes:
        """Add the row, in a table that is made where it is missing, remove those beyond keep_last, and do it for good.

        Returns the data as it was read back. Raises BackupError; then the table is as it was.
        """

    @abc.abstractmethod
    def select(self, job: str, name: Optional[str]) -> Optional[Row]:
        """The row of this name, or the newest of the job.

        Raises BackupError.
        """


def put(table: Table, row: Row, timeout: float) -> None:
    """Add a row, and compare what is there then.

    Raises BackupError naming the store.
    """
    if len(row.data) > LARGEST:
        raise BackupError(f"{table.store} cannot take {len(row.data)} bytes; a row holds at most {LARGEST}")

    def work(_report: Report) -> None:
        if table.insert(row) != row.data:
            raise CorruptError("what it gives back is not what was written")

    with _child(table, work, timeout) as child:
        child.result()


def get(table: Table, job: str, backup_id: Optional[str], timeout: float) -> Row:
    """The row of a backup, or the newest row of the job, once its SHA-256 was compared.

    Raises NotFoundError, CorruptError, or BackupError naming the store.
    """
    check_job_name(job)
    if backup_id is not None and not is_id(backup_id):
        raise UsageError(f"{backup_id!r} is not the id of a backup; an id looks like 20261121T013000Z")

    def work(report: Report) -> Any:
        row = table.select(job, f"{job}/{backup_id}" if backup_id else None)
        if row is None:
            return None
        write_all(report.output, row.data)
        return [row.name, row.created_at, row.sha256]

    with _child(table, work, timeout) as child:
        data = bytearray()
        for chunk in child.chunks():
            data += chunk
            if len(data) > LARGEST + CHUNK:
                raise CorruptError(f"the row in {table.store} is too large")
        found = child.result()
    if found is None:
        wanted = f"backup {backup_id}" if backup_id else "any backup"
        raise NotFoundError(f"{table.store} has no row of {wanted} of job {job}")
    name, created_at, sha256 = found
    return _checked(table.store, Row(name, created_at, sha256, bytes(data)), job)


def _checked(store: Store, row: Row, job: str) -> Row:
    if not isinstance(row.name, str) or row.job != job or not is_id(row.backup_id):
        raise CorruptError(f"the name of the row in {store} is not JOB/ID of a backup")
    is_told = isinstance(row.sha256, str) and _SHA256.fullmatch(row.sha256)
    if not is_told or hashlib.sha256(row.data).hexdigest() != row.sha256:
        raise CorruptError(f"row {row.name} in {store} does not have the SHA-256 that stands beside it")
    return row


def _child(table: Table, work: Callable[[Report], Any], timeout: float) -> Child:
    what = f"the process that speaks with {table.store}"
    return Child(work, what=what, timeout=timeout, owner=table.owner(), failing=BackupError)
