# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows in an SQLite database."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path
from typing import Iterator, Optional

from ..errors import BackupError, in_one_line
from ..processes import Owner
from .table import Row, Store, Table

# Seconds to wait for others that write.
_LOCK_TIMEOUT = 30.0

_CREATE = """
CREATE TABLE IF NOT EXISTS <table>
    (name TEXT PRIMARY KEY, data TEXT NOT NULL, created_at TEXT NOT NULL, sha256 TEXT NOT NULL)"""
_INSERT = "INSERT INTO <table> (name, data, created_at, sha256) VALUES (?, CAST(? AS TEXT), ?, ?)"
_REMOVE = """
DELETE FROM <table> WHERE substr(name, 1, length(:prefix)) = :prefix AND name NOT IN
    (SELECT name FROM <table> WHERE substr(name, 1, length(:prefix)) = :prefix ORDER BY name DESC LIMIT :keep)"""
_DATA = "SELECT CAST(data AS BLOB) FROM <table> WHERE name = ?"
_ROW = "SELECT name, created_at, sha256, CAST(data AS BLOB) FROM <table>"
_NAMED = f"{_ROW} WHERE name = :name"
_NEWEST = f"{_ROW} WHERE substr(name, 1, length(:prefix)) = :prefix ORDER BY name DESC LIMIT 1"


class SqliteTable(Table):
    """A table in a file, which is made where it is missing, with mode 0600."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__(store)
        self._path = Path(path)
        if not self._path.is_absolute():
            raise BackupError(f"sqlite {path} is not absolute")

    def owner(self) -> Optional[Owner]:
        """That of the directory, unless it is root's: who owns that could put a link there. Else that of the file."""
        try:
            above = os.stat(self._path.parent)
            if above.st_uid != 0 or not os.path.lexists(self._path):
                return Owner.of(above)
            status = os.lstat(self._path)
        except OSError as error:
            raise BackupError(f"{self.store} cannot be reached: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise BackupError(f"{self._path} is not a file")
        return Owner.of(status)

    def insert(self, row: Row) -> bytes:
        os.umask(0o077)
        with self._told(), self._open("rwc") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(self.sql(_CREATE))
            connection.execute(self.sql(_INSERT), (row.name, row.data, row.created_at, row.sha256))
            if self.store.keep_last:
                connection.execute(self.sql(_REMOVE), {"prefix": f"{row.job}/", "keep": self.store.keep_last})
            found = connection.execute(self.sql(_DATA), (row.name,)).fetchone()
            data = bytes(found[0]) if found else b""
            if data == row.data:
                connection.execute("COMMIT")
            return data

    def select(self, job: str, name: Optional[str]) -> Optional[Row]:
        with self._told(), self._open("ro") as connection:
            statement = self.sql(_NAMED if name else _NEWEST)
            row = connection.execute(statement, {"name": name, "prefix": f"{job}/"}).fetchone()
        return Row(*row) if row else None

    @contextlib.contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self._path.as_uri()}?mode={mode}"
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=_LOCK_TIMEOUT, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise BackupError(f"{self.store}: {in_one_line(str(error))}") from error
