# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A live database, held still for a moment by SQLite's own lock and copied. In a child process only.

POSIX locks belong to a process: to close any descriptor of a locked file drops them all. And the last one who closes a
database in WAL mode merges its WAL into it. So nothing that is opened here is ever closed; the end of the process
does it, which changes no file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
import urllib.parse
from typing import Any, Iterator, List, Optional, Tuple

from ...capture import blocks
from ...errors import SourceError
from ...optional import optional_module
from ...processes import Report
from ...repository.manifest import Position
from .format import HEADER_SIZE, Header, open_data, read_header

sqlite3 = optional_module("sqlite3")

_OPEN: List[Any] = []
# What tells a state of the WAL from another: its own header, and that of its index, which counts transactions.
_HEADERS_OF_WAL = {"-wal": 32, "-shm": 48}
_Stamp = Tuple[int, int]
_TICK = 0.02
_BETWEEN_TRIES = 0.001
_ANY_QUESTION = "SELECT count(*) FROM sqlite_master"


class LiveDatabase:
    """The database of this name in the working directory; shown is how messages call it.

    The steps of a copy: prepare, then, while locked, complete, then finish. lock_ms is the longest time locked.
    """

    def __init__(self, name: str, shown: str, report: Report) -> None:
        self._name = name
        self._shown = shown
        self._report = report
        self._data = _kept(open_data(name, shown))
        self.header: Header = read_header(self._data, shown)
        self._writable = os.access(name, os.W_OK)
        self._at_rest = self._stamp() if self._is_at_rest() else None
        self._connection: Any = None
        self._changes: Optional[blocks.Changes] = None
        self._before: Optional[_Stamp] = None
        self._held_until: Optional[float] = None
        self.lock_ms = 0

    @property
    def blocks_writers(self) -> bool:
        """Whether nobody can commit while it is locked: by the lock of a writer, or that of a reader without a WAL."""
        return bool(self._writable or self._at_rest or not self.header.wal)

    def position(self) -> Position:
        """The state the database is in, to be compared: SQLite counts its commits only where there is no WAL."""
        state = hashlib.sha256(os.pread(self._data, HEADER_SIZE, 0) + repr(self._stamp()).encode())
        for suffix, length in _HEADERS_OF_WAL.items():
            with contextlib.suppress(FileNotFoundError):
                descriptor = _kept(os.open(self._name + suffix, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
                status = os.fstat(descriptor)
                state.update(os.pread(descriptor, length, 0) + b"%d" % status.st_size)
        counter = read_header(self._data, self._shown).change_counter
        return Position("change_counter", counter, counter, state.hexdigest())

    def alive(self) -> None:
        """To be called now and then during long work, which must not keep writers out for too long.

        Raises SourceError when it did.
        """
        self._report.alive()
        if self._held_until is not None and time.monotonic() > self._held_until:
            raise SourceError(
                f"{self._shown} could not be copied in the time that writers may be kept out; it was given up, as they "
                "wait meanwhile: back it up when the application is stopped, or allow for more with lock_timeout"
            )

    def prepare(self, target: int) -> None:
        """Copy what can be copied without a lock."""
        if not self.header.wal:
            stamp = self._stamp()
            # A file that was written to just now may be written again without a new time.
            self._before = stamp if stamp[1] < (time.time() - _TICK) * 1e9 else None
            blocks.copy_all(self._data, target, self.alive, write_back=blocks.WriteBack(target))
            self._changes = blocks.Changes(self._data, target, self.alive)

    @contextlib.contextmanager
    def reading(self, patience: float) -> Iterator[Any]:
        """A connection for a look at the live database.

        Raises SourceError like locked.
        """
        if self._connection is None:
            self._connection = self.connect(patience)
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise SourceError(self._explain(error, patience)) from error

    @contextlib.contextmanager
    def locked(self, patience: float) -> Iterator[Any]:
        """A connection that keeps writers out; patience is how many seconds to wait for that, and then to hold at most.

        Raises SourceError when the time is over, or when the database cannot be opened.
        """
        with self.reading(patience) as connection:
            self._begin(connection, patience)
            begun = time.monotonic()
            self._held_until = begun + patience
            try:
                self._refuse_another()
                yield connection
            finally:
                self._held_until = None
                connection.execute("ROLLBACK")
                self.lock_ms = max(self.lock_ms, round((time.monotonic() - begun) * 1000))

    def _begin(self, connection: Any, patience: float) -> None:
        """Take the lock. SQLite itself would look for it so seldom that a busy writer never leaves it a gap."""
        connection.execute("PRAGMA busy_timeout = 0")
        deadline = time.monotonic() + patience
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE" if self._takes_writers_lock() else "BEGIN")
                connection.execute(_ANY_QUESTION).fetchall()
                return
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if not _is_locked(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_BETWEEN_TRIES)
            self.alive()

    def complete(self, wal: int) -> None:
        """While locked: bring the copy up to date, or what makes it so, the WAL, into a file of its own."""
        if self._changes:
            if self._before != self._stamp():
                self._changes.fetch()
        elif not self._at_rest:
            # While this reader lives, no frame of the WAL is used again and none that came later gets into the data.
            reader = self.connect(0)
            reader.execute("BEGIN")
            reader.execute(_ANY_QUESTION).fetchall()
            source = _kept(open_data(self._name + "-wal", self._shown + "-wal"))
            # Without the lock of a writer, a WAL that is in the file as a whole can begin anew; the file stays.
            before = None
            while before != os.pread(source, _HEADERS_OF_WAL["-wal"], 0):
                before = os.pread(source, _HEADERS_OF_WAL["-wal"], 0)
                blocks.copy_all(source, wal, self.alive)

    def finish(self, target: int) -> None:
        """Copy what needs no lock any more."""
        if self.header.wal:
            blocks.copy_all(self._data, target, self.alive, write_back=blocks.WriteBack(target))
        if self._at_rest and not (self._is_at_rest() and self._at_rest == self._stamp()):
            raise SourceError(f"an application began to use {self._shown} while it was copied; run it again")

    def connect(self, patience: float) -> Any:
        """A new connection, which changes nothing and waits so many seconds for locks."""
        mode = "mode=rw" if self._takes_writers_lock() else "mode=ro"
        if self._at_rest:
            # Without this, the files of a WAL would be made.
            mode = "mode=ro&immutable=1"
        try:
            name = urllib.parse.quote(os.fsencode(self._name))
            connection = sqlite3.connect(f"file:{name}?{mode}", uri=True, timeout=patience, isolation_level=None)
            connection.execute("PRAGMA temp_store = MEMORY")
        except sqlite3.Error as error:
            raise SourceError(self._explain(error, patience)) from error
        return _kept(connection)

    def _takes_writers_lock(self) -> bool:
        return self._writable and not self._at_rest

    def _is_at_rest(self) -> bool:
        """Whether nobody has a database in WAL mode open, and all of it is in the one file."""
        if not self.header.wal or os.path.lexists(self._name + "-shm"):
            return False
        try:
            size = os.lstat(self._name + "-wal").st_size
        except FileNotFoundError:
            size = 0
        if size:
            raise SourceError(
                f"{self._shown} has a -wal without its -shm, as after a copy or a crash; open it once with its "
                "application, or with sqlite3, which merges both"
            )
        return True

    def _stamp(self) -> _Stamp:
        status = os.fstat(self._data)
        return status.st_size, status.st_mtime_ns

    def _refuse_another(self) -> None:
        if not os.path.samestat(os.lstat(self._name), os.fstat(self._data)):
            raise SourceError(f"{self._shown} was replaced while it was copied; run it again")
        if read_header(self._data, self._shown).wal != self.header.wal:
            raise SourceError(f"the journal mode of {self._shown} was changed while it was copied; run it again")

    def _explain(self, error: Exception, patience: float) -> str:
        if _is_locked(error):
            return (
                f"{self._shown} is locked by another process and was not free within {patience:g} seconds; "
                "end its long transaction, or allow for more with lock_timeout"
            )
        if not self._writable and _size_of(self._name + "-journal"):
            return (
                f"{self._shown} was left in the middle of a transaction and cannot be written here, which its rollback "
                "needs; open it once with its application"
            )
        return f"{self._shown} cannot be read: {error}"


def _is_locked(error: Exception) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def _kept(opened: Any) -> Any:
    _OPEN.append(opened)
    return opened


def _size_of(name: str) -> Optional[int]:
    try:
        status = os.lstat(name)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
