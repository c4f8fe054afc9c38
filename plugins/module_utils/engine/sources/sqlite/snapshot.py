# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a copy grows before it is stored: files in a private directory that a child fills by their descriptors."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence

from ...errors import CorruptError, SourceError, naming
from ...processes import Child, Report
from ...repository.staging import Staging
from ...stream.stages import CHUNK
from . import copies

_DATA = "database"
_WAL = _DATA + "-wal"
_SEGMENTS = "segments"


class Files(NamedTuple):
    """Descriptors of empty files: for the database, its WAL, and what else there is."""

    data: int
    wal: int
    segments: int


@contextlib.contextmanager
def files(scratch: Path) -> Iterator[Files]:
    """The files, open."""
    names = (_DATA, _WAL, _SEGMENTS)
    opened = []
    try:
        for name in names:
            opened.append(os.open(str(scratch / name), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        yield Files(*opened)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def make(scratch: Path, name: str) -> Path:
    """A private directory in the scratch directory."""
    (scratch / name).mkdir(0o700)
    return scratch / name


def settled(scratch: Path, shown: str, timeout: float) -> Path:
    """The copy as one file; what is in its WAL is merged into it.

    Raises SourceError.
    """
    if (scratch / _WAL).stat().st_size:
        path = data(scratch)
        child = Child(lambda _report: copies.merge_wal(path), what=f"the copy of {shown}", timeout=timeout)
        with child:
            try:
                child.result()
            except SourceError as error:
                raise SourceError(f"the copy of {shown} is not sound: {error}") from error
    return data(scratch)


def data(scratch: Path) -> Path:
    """The file of the database."""
    return scratch / _DATA


def segments(scratch: Path) -> Path:
    """The file of what belongs to the database beside it."""
    return scratch / _SEGMENTS


def examined(path: Path, question: Callable[[Any, Report], Any], timeout: float, keep: Sequence[int] = ()) -> Any:
    """What the question is answered, which a child asks with a connection to the copy; keep is that of Child.

    Raises CorruptError.
    """

    def ask(report: Report) -> Any:
        with copies.opened(path, report) as connection:
            return question(connection, report)

    child = Child(ask, what="the process that reads the copy", timeout=timeout, keep=keep, failing=CorruptError)
    with child:
        return child.result()


def store(copied: Path, path: str, status: os.stat_result, staging: Staging) -> None:
    """Take the copy into the backup as the file of this path."""
    buffer = memoryview(bytearray(CHUNK))
    with open(copied, "rb", buffering=0) as file, staging.store(path, status) as stream, naming(copied):
        while True:
            size = file.readinto(buffer)
            if not size:
                break
            stream.write(buffer[:size])
