# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done with a copy: make it one file, look into it, prove it. In a child process only."""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from pathlib import Path
from typing import Any, Dict, Iterator, List

from ...errors import CorruptError, SourceError, in_one_line
from ...optional import optional_module
from ...processes import Report

sqlite3 = optional_module("sqlite3")

# Steps of SQLite's machine between two signs of life: a fraction of a second.
_STEPS = 500_000
_MOST_PROBLEMS = 3


def require_library() -> None:
    """Raise SourceError where Python was built without SQLite."""
    if not sqlite3:
        raise SourceError("this Python has no sqlite3 module; install the package that brings it")


def merge_wal(path: Path) -> None:
    """Bring what lies in the WAL beside a copy into it; the WAL is gone then.

    Raises CorruptError.
    """
    with _faults(), contextlib.closing(_connect(path, "mode=rw")) as connection:
        _restrict(connection)
        connection.execute("PRAGMA synchronous = OFF")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy or os.path.lexists(str(path) + "-wal"):
        raise CorruptError("its WAL could not be merged")


class Copy:
    """A copy that nobody else uses; no file is made beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: Any = None

    def open(self) -> None:
        """Open it, which looks at none of its content: to be done before a child gives up the rights to."""
        self._opened = _connect(self._path, "mode=ro&immutable=1")

    @contextlib.contextmanager
    def connection(self, report: Report) -> Iterator[Any]:
        """A connection, once it is open. Long work gives signs of life.

        Raises CorruptError for whatever SQLite finds wrong.
        """
        with _faults(), contextlib.closing(self._opened) as connection:
            _restrict(connection)
            connection.set_progress_handler(report.alive, _STEPS)
            yield connection


def check_integrity(connection: Any) -> None:
    """Have SQLite check every page, record and index.

    Raises CorruptError.
    """
    problems = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_MOST_PROBLEMS})")]
    if problems != ["ok"]:
        raise CorruptError("SQLite finds it damaged: " + "; ".join(map(in_one_line, problems)))


def count_rows(connection: Any) -> Dict[str, int]:
    """The number of rows of each table, without those of virtual tables and of SQLite itself."""
    names: List[str] = [
        name
        for name, statement in connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        if not name.startswith("sqlite_") and not (statement or "").upper().startswith("CREATE VIRTUAL")
    ]
    count = "SELECT count(*) FROM "
    return {name: connection.execute(count + quoted(name)).fetchone()[0] for name in sorted(names)}


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _connect(path: Path, mode: str) -> Any:
    name = urllib.parse.quote(os.fsencode(path))
    with _faults():
        return sqlite3.connect(f"file:{name}?{mode}", uri=True, isolation_level=None)


def _restrict(connection: Any) -> None:
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise CorruptError(f"SQLite cannot read it: {in_one_line(str(error))}") from error
    except (UnicodeError, OverflowError) as error:
        raise CorruptError(f"it holds a value that cannot be: {error}") from error
