# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a copy grows before it is stored: files that a child fills as the owner of the data, others read as nobody."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence

from ...errors import BackupError, CorruptError, SourceError
from ...paths import anchored, create, make_directory
from ...processes import NOBODY, Child, Report
from ...repository.staging import Staging, WorkingDirectory
from ...stream.stages import CHUNK
from . import copies

_DATA = "database"
_WAL = _DATA + "-wal"
_SEGMENTS = "segments"


class Files(NamedTuple):
    """Descriptors of empty files, for the database, its WAL, and what else there is; and of their directory.

    reading is a second one of the latter file, that nothing can be written through.
    """

    data: int
    wal: int
    segments: int
    reading: int
    directory: int

    @property
    def descriptors(self) -> List[int]:
        """What a child needs to fill them."""
        return [self.data, self.wal, self.segments]

    def child(
        self,
        function: Callable[[Report], Any],
        what: str,
        timeout: float,
        *,
        prepare: Optional[Callable[[], None]] = None,
        descriptors: Sequence[int] = (),
    ) -> Child:
        """A process that sees them as the files of its directory, and nothing else, and has no rights to them.

        A hostile copy may take over whoever opens it.
        """
        return Child(
            function,
            what=what,
            timeout=timeout,
            owner=NOBODY,
            directory=anchored(self.directory),
            confined=True,
            prepare=prepare,
            descriptors=[self.reading, self.directory, *descriptors],
            failing=CorruptError,
        )


@contextlib.contextmanager
def files(scratch: WorkingDirectory) -> Iterator[Files]:
    """The files, in a private directory."""
    with contextlib.ExitStack() as stack:
        directory = make_directory(anchored(scratch.descriptor, "copy"))
        stack.callback(os.close, directory)
        opened = []
        for name in (_DATA, _WAL, _SEGMENTS):
            opened.append(create(anchored(directory, name)))
            stack.callback(os.close, opened[-1])
        reading = os.open(str(anchored(directory, _SEGMENTS)), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, reading)
        yield Files(opened[0], opened[1], opened[2], reading, directory)


def settle(files: Files, shown: str, timeout: float) -> None:
    """Make the copy one file: what is in its WAL is merged into it.

    Raises SourceError.
    """
    if not os.fstat(files.wal).st_size:
        return
    what = f"the process that merges the WAL of the copy of {shown}"
    with _given_to_nobody(files), files.child(lambda _report: copies.merge_wal(Path(_DATA)), what, timeout) as child:
        answer(child, shown)
    # The names were in the hands of a process that may have been taken over.
    if not os.path.samestat(os.lstat(anchored(files.directory, _DATA)), os.fstat(files.data)):
        raise SourceError(f"the copy of {shown} was replaced while its WAL was merged")


@contextlib.contextmanager
def _given_to_nobody(files: Files) -> Iterator[None]:
    """SQLite makes files beside the copy while it merges."""
    owned = (files.data, files.wal, files.directory) if os.geteuid() == 0 else ()
    try:
        for descriptor in owned:
            os.fchown(descriptor, *NOBODY)
        yield
    finally:
        for descriptor in owned:
            os.fchown(descriptor, os.geteuid(), os.getegid())


def asking(files: Files, question: Callable[[Any, Report], Any], timeout: float) -> Child:
    """A process that asks the question, with a connection to the copy, while this one goes on; see answer."""
    copied = copies.Copy(Path(_DATA))

    def ask(report: Report) -> Any:
        with copied.connection(report) as connection:
            return question(connection, report)

    return files.child(ask, "the process that reads the copy", timeout, prepare=copied.open)


def answer(child: Child, shown: str) -> Any:
    """What the child found.

    Raises SourceError.
    """
    try:
        return child.result()
    except CorruptError as error:
        raise SourceError(f"the copy of {shown} is not sound and was not published: {error}") from error


def store(files: Files, path: str, status: os.stat_result, staging: Staging) -> None:
    """Take the copy into the backup as the file of this path."""
    buffer = memoryview(bytearray(CHUNK))
    offset = 0
    with staging.store(path, status) as stream:
        while True:
            try:
                size = os.preadv(files.data, [buffer], offset)
            except OSError as error:
                raise BackupError(f"the copy of {path} cannot be read: {error.strerror}") from error
            if not size:
                break
            stream.write(buffer[:size])
            offset += size
