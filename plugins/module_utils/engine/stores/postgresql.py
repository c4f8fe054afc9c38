# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows in a PostgreSQL database, reached with psycopg 3. The connection string is never told, whatever goes wrong."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, Optional

from ..errors import BackupError, UsageError, in_one_line
from ..optional import optional_module
from ..processes import Owner
from .table import Row, Store, Table

_CONNECT_TIMEOUT = 10
_SHOWN = 300
_SECRETS = ("password", "sslpassword", "oauth_client_secret")

_CREATE = """
CREATE TABLE IF NOT EXISTS <table>
    (name text PRIMARY KEY, data text NOT NULL, created_at timestamptz NOT NULL, sha256 text NOT NULL)"""
_INSERT = "INSERT INTO <table> (name, data, created_at, sha256) VALUES (%s, convert_from(%s, 'UTF8'), %s, %s)"
_REMOVE = """
DELETE FROM <table> WHERE starts_with(name, %(prefix)s) AND name NOT IN
    (SELECT name FROM <table> WHERE starts_with(name, %(prefix)s) ORDER BY name COLLATE "C" DESC LIMIT %(keep)s)"""
_DATA = "SELECT convert_to(data, 'UTF8') FROM <table> WHERE name = %s"
_ROW = """
SELECT name, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), sha256, convert_to(data, 'UTF8')
    FROM <table>"""
_NAMED = f"{_ROW} WHERE name = %(name)s"
_NEWEST = f'{_ROW} WHERE starts_with(name, %(prefix)s) ORDER BY name COLLATE "C" DESC LIMIT 1'


class PostgresqlTable(Table):
    """A table in the first schema of the search path of the user."""

    def __init__(self, store: Store, address: str) -> None:
        super().__init__(store)
        self._address = address
        # Before the child: it is not to be looked for with the rights of others.
        self._psycopg: Any = optional_module("psycopg")
        if not self._psycopg:
            raise BackupError(f"{store} needs the Python library psycopg 3 on this host")
        self._parameters = self._parse()

    def owner(self) -> Optional[Owner]:
        """Nobody else: a password file is one's own."""
        return None

    def insert(self, row: Row) -> bytes:
        with self._told(), self._connected() as connection:
            # Only where it is missing: who may write to it may not be allowed to make one.
            if connection.execute("SELECT to_regclass(%s)", (self.sql("<table>"),)).fetchone()[0] is None:
                connection.execute(self.sql(_CREATE))
            connection.execute(self.sql(_INSERT), (row.name, row.data, row.created_at, row.sha256))
            if self.store.keep_last:
                connection.execute(self.sql(_REMOVE), {"prefix": f"{row.job}/", "keep": self.store.keep_last})
            found = connection.execute(self.sql(_DATA), (row.name,), binary=True).fetchone()
            data = bytes(found[0]) if found else b""
            if data == row.data:
                connection.commit()
            return data

    def select(self, job: str, name: Optional[str]) -> Optional[Row]:
        with self._told(), self._connected() as connection:
            statement = self.sql(_NAMED if name else _NEWEST)
            row = connection.execute(statement, {"name": name, "prefix": f"{job}/"}, binary=True).fetchone()
        return Row(row[0], row[1], row[2], bytes(row[3])) if row else None

    def _connected(self) -> Any:
        given = {"connect_timeout": _CONNECT_TIMEOUT, "application_name": "embedded.db_backup", **self._parameters}
        return contextlib.closing(self._psycopg.connect(**given))

    def _parse(self) -> Dict[str, Any]:
        try:
            parameters: Dict[str, Any] = self._psycopg.conninfo.conninfo_to_dict(self._address)
        except (self._psycopg.Error, UnicodeError, ValueError):
            # What libpq says of it may hold a part of the password.
            parameters = {}
        # A password with @ that is not written as %40 would become a part of the name of the host.
        if not parameters or any("@" in str(parameters.get(name, "")) for name in ("host", "hostaddr", "port")):
            raise UsageError(
                "postgresql is no connection string such as postgresql://user@host/database or service=name"
            )
        return parameters

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.Error as error:
            told = str(error)
            for secret in [self._address, *(str(self._parameters.get(name) or "") for name in _SECRETS)]:
                told = told.replace(secret, "***") if secret else told
            raise BackupError(f"{self.store}: {in_one_line(told)[:_SHOWN]}") from None
