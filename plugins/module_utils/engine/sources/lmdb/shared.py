# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What library does, by a shared library of LMDB or of a fork: copy a live environment, read a copy to its end.

Loaded and called in a child process only, once that has taken the rights it works with: it is the code of others, and
a damaged file may crash it. Source of the interface: lmdb.h of LMDB 0.9, which the forks kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Type

from ...errors import BackupError, CorruptError, SourceError
from ...paths import anchored
from ...processes import Report
from .artifact import Artifact
from .format import DESCRIPTION_SIZE, KNOWN, metas_of
from .library import Database, Place

_NOSUBDIR, _RDONLY, _NOTLS, _NOLOCK = 0x4000, 0x20000, 0x200000, 0x400000
_COMPACT = 1
_FIRST, _NEXT = 0, 8
_NOTFOUND, _INCOMPATIBLE = -30798, -30784
_MODE = 0o600
_BATCH = 1_000
_MOST_DATABASES = 1 << 16


class _Value(ctypes.Structure):
    """struct MDB_val."""

    _fields_ = (("size", ctypes.c_size_t), ("data", ctypes.c_void_p))

    def content(self) -> bytes:
        """A copy of the bytes."""
        return ctypes.string_at(self.data, self.size)


class _Statistics(ctypes.Structure):
    """struct MDB_stat; larger than it is, for forks that tell more."""

    _fields_ = (
        ("page_size", ctypes.c_uint),
        ("depth", ctypes.c_uint),
        ("branch_pages", ctypes.c_size_t),
        ("leaf_pages", ctypes.c_size_t),
        ("overflow_pages", ctypes.c_size_t),
        ("entries", ctypes.c_size_t),
        ("more", ctypes.c_size_t * 16),
    )


_POINTER, _INT, _UINT = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_TO_POINTER, _TO_VALUE = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(_Value)
_FUNCTIONS: Dict[str, List[Any]] = {
    "mdb_env_create": [_TO_POINTER],
    "mdb_env_set_mapsize": [_POINTER, ctypes.c_size_t],
    "mdb_env_set_maxdbs": [_POINTER, _UINT],
    "mdb_env_open": [_POINTER, ctypes.c_char_p, _UINT, _UINT],
    "mdb_env_copyfd2": [_POINTER, _INT, _UINT],
    "mdb_env_close": [_POINTER],
    "mdb_reader_check": [_POINTER, ctypes.POINTER(_INT)],
    "mdb_txn_begin": [_POINTER, _POINTER, _UINT, _TO_POINTER],
    "mdb_txn_abort": [_POINTER],
    "mdb_dbi_open": [_POINTER, ctypes.c_char_p, _UINT, ctypes.POINTER(_UINT)],
    "mdb_stat": [_POINTER, _UINT, ctypes.POINTER(_Statistics)],
    "mdb_cursor_open": [_POINTER, _UINT, _TO_POINTER],
    "mdb_cursor_get": [_POINTER, _TO_VALUE, _TO_VALUE, _INT],
    "mdb_cursor_close": [_POINTER],
    "mdb_strerror": [_INT],
    "mdb_version": [_POINTER, _POINTER, _POINTER],
}
_TEXTS = ("mdb_strerror", "mdb_version")
_NOTHING = ("mdb_env_close", "mdb_txn_abort", "mdb_cursor_close")


def copy(report: Report, artifact: Artifact, place: Place, compact: bool) -> Dict[str, Any]:
    """Copy the environment in the working directory to the report's output, out of one read transaction.

    Returns what the library calls itself, under "library". Raises SourceError.
    """
    calls = _Calls(artifact, f"{place.name()} cannot be copied", SourceError)
    # Without a lock file no application runs, and opening must not create one.
    locked = os.path.exists(place.lock)
    path = "." if place.subdir else place.data
    flags = _RDONLY | (0 if place.subdir else _NOSUBDIR) | (0 if locked else _NOLOCK)
    with calls.environment(path, flags) as environment:
        if locked:
            # A reader that was killed keeps its place in the table, and freed pages from being used again.
            calls("mdb_reader_check", environment, ctypes.byref(_INT()))
        calls("mdb_env_copyfd2", environment, report.output, _COMPACT if compact else 0)
    return {"library": calls.version()}


def read_all(report: Report, artifact: Artifact, descriptor: int, name: str) -> List[Dict[str, Any]]:
    """Read every record of every database of an open copy; returns the databases. name is for messages.

    Raises CorruptError. A damaged copy may crash the process instead.
    """
    meta = metas_of(descriptor, Path(name), KNOWN)[0]
    calls = _Calls(artifact, "does not open", CorruptError)
    flags = _RDONLY | _NOSUBDIR | _NOLOCK | _NOTLS
    databases = min(meta.main_entries, _MOST_DATABASES) + 1
    opened = calls.environment(str(anchored(descriptor)), flags, databases=databases, map_size=meta.used_size)
    with opened as environment, calls.transaction(environment) as transaction:
        names: List[bytes] = []
        found = [_read(report, calls, transaction, None, names)]
        for key in (name for name in names if b"\0" not in name):
            database = _read(report, calls, transaction, key, None)
            found += [database] if database else []
    return [dataclasses.asdict(database) for database in found if database]


def _read(
    report: Report, calls: _Calls, transaction: ctypes.c_void_p, name: Optional[bytes], names: Optional[List[bytes]]
) -> Optional[Database]:
    """Read a database whole; None when a record only looked like the description of one.

    names, if given, gets the keys whose values may describe a database.
    """
    handle = calls.database(transaction, name)
    if handle is None:
        return None
    count = 0
    for key, value in calls.records(transaction, handle):
        if count % _BATCH == 0:
            report.alive()
        count += 1
        if names is not None and len(value) == DESCRIPTION_SIZE:
            # Its flags are not looked at: forks have more of them, and the library tells what is no database.
            names.append(key[:-1] if key.endswith(b"\0") else key)
    told = calls.entries(transaction, handle)
    if count != told:
        raise CorruptError(f"a database has {count} records where its own header tells {told}")
    return Database(None if name is None else name.decode("utf-8", errors="backslashreplace"), count)


class _Calls:
    """The functions of a loaded library; one that returns an error raises it, in a sentence that begins with failing.

    Raises SourceError when the library cannot be loaded or lacks one of them.
    """

    def __init__(self, artifact: Artifact, failing: str, error: Type[BackupError]) -> None:
        self._artifact, self._failing, self._error = artifact, failing, error
        try:
            for file in artifact.files():
                # Those before it are what the last one needs.
                self._library = ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)
        except OSError as problem:
            raise SourceError(f"library {artifact.path} cannot be loaded: {self._named(problem)}") from problem
        for name, arguments in _FUNCTIONS.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as problem:
                raise SourceError(f"library {artifact.path} is not one of LMDB: it has no {name}") from problem
            function.argtypes = arguments
            function.restype = ctypes.c_char_p if name in _TEXTS else None if name in _NOTHING else _INT

    def __call__(self, name: str, *arguments: Any, expected: int = 0) -> int:
        """Call a function; returns 0 or the expected error, raises any other."""
        code = int(getattr(self._library, name)(*arguments))
        if code not in (0, expected):
            raise self._error(f"{self._failing} with {self._artifact.path.name}: {self._text(code)} ({name})")
        return code

    def version(self) -> str:
        """What the library calls itself."""
        text: bytes = self._library.mdb_version(None, None, None)
        return text.decode(errors="replace").split(":")[0].strip()

    @contextlib.contextmanager
    def environment(
        self, path: str, flags: int, *, databases: int = 1, map_size: Optional[int] = None
    ) -> Iterator[ctypes.c_void_p]:
        """An open environment. Closing it frees its place in the table of readers."""
        environment = ctypes.c_void_p()
        self("mdb_env_create", ctypes.byref(environment))
        try:
            self("mdb_env_set_maxdbs", environment, databases)
            if map_size is not None:
                self("mdb_env_set_mapsize", environment, map_size)
            self("mdb_env_open", environment, os.fsencode(path), flags, _MODE)
            yield environment
        finally:
            self._library.mdb_env_close(environment)

    @contextlib.contextmanager
    def transaction(self, environment: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
        """A read transaction."""
        transaction = ctypes.c_void_p()
        self("mdb_txn_begin", environment, None, _RDONLY, ctypes.byref(transaction))
        try:
            yield transaction
        finally:
            self._library.mdb_txn_abort(transaction)

    def database(self, transaction: ctypes.c_void_p, name: Optional[bytes]) -> Optional[ctypes.c_uint]:
        """A handle of a database, the main one without a name; None when there is none of this name."""
        handle = ctypes.c_uint()
        arguments = (transaction, name, 0, ctypes.byref(handle))
        code = self._library.mdb_dbi_open(*arguments)
        if code in (_NOTFOUND, _INCOMPATIBLE):
            return None
        if code:
            raise self._error(f"{self._failing} with {self._artifact.path.name}: {self._text(code)} (mdb_dbi_open)")
        return handle

    def records(self, transaction: ctypes.c_void_p, handle: ctypes.c_uint) -> Iterator[Any]:
        """Copies of every key and value, which touches every page."""
        cursor, key, value = ctypes.c_void_p(), _Value(), _Value()
        self("mdb_cursor_open", transaction, handle, ctypes.byref(cursor))
        try:
            step = _FIRST
            while not self("mdb_cursor_get", cursor, ctypes.byref(key), ctypes.byref(value), step, expected=_NOTFOUND):
                yield key.content(), value.content()
                step = _NEXT
        finally:
            self._library.mdb_cursor_close(cursor)

    def entries(self, transaction: ctypes.c_void_p, handle: ctypes.c_uint) -> int:
        """How many records a database says it has."""
        statistics = _Statistics()
        self("mdb_stat", transaction, handle, ctypes.byref(statistics))
        return int(statistics.entries)

    def _text(self, code: int) -> str:
        text: Optional[bytes] = self._library.mdb_strerror(code)
        return text.decode(errors="replace") if text else f"error {code}"

    def _named(self, problem: OSError) -> str:
        """The words of the loader, with names in place of descriptors."""
        words = str(problem)
        for file in self._artifact.files():
            words = words.replace(f"{file}: ", "")
        return words
