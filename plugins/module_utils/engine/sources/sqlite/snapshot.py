# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a copy grows before it is stored: files that children fill, and look at with the rights of the data's owner."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple

from ...errors import BackupError, CorruptError, SourceError
from ...paths import anchored, create, make_directory
from ...processes import Child, Owner, Report
from ...repository.staging import Staging, WorkingDirectory
from ...stream.stages import CHUNK
from . import copies

_DATA = "database"
_WAL = _DATA + "-wal"
_SEGMENTS = "segments"


class Files(NamedTuple):
    """Descriptors of empty files, for the database, its WAL, and what else there is; and of their directory.

    They are used by these alone: the names are in the hands of the owner, who may have taken over a child.
    """

    data: int
    wal: int
    segments: int
    directory: int
    owner: Owner

    @property
    def descriptors(self) -> List[int]:
        """What a child needs to fill them."""
        return [self.data, self.wal, self.segments]

    def child(self, function: Callable[[Report], Any], what: str, timeout: float) -> Child:
        """A process that sees them as the files of its directory, and nothing else."""
        return Child(
            function,
            what=what,
            timeout=timeout,
            owner=self.owner,
            directory=anchored(self.directory),
            confined=True,
            descriptors=[self.segments, self.directory],
            failing=CorruptError,
        )


@contextlib.contextmanager
def files(scratch: WorkingDirectory, owner: Owner) -> Iterator[Files]:
    """The files, in a private directory of the owner of the data."""
    with contextlib.ExitStack() as stack:
        directory = make_directory(anchored(scratch.descriptor, "copy"))
        stack.callback(os.close, directory)
        opened = {}
        for name in (_DATA, _WAL, _SEGMENTS):
            opened[name] = create(anchored(directory, name))
            stack.callback(os.close, opened[name])
        if os.geteuid() == 0:
            for descriptor in (*opened.values(), directory):
                os.fchown(descriptor, *owner)
        yield Files(opened[_DATA], opened[_WAL], opened[_SEGMENTS], directory, owner)


def settle(files: Files, shown: str, timeout: float) -> None:
    """Make the copy one file: what is in its WAL is merged into it.

    Raises SourceError.
    """
    if os.fstat(files.wal).st_size:
        with files.child(lambda _report: copies.merge_wal(Path(_DATA)), f"the copy of {shown}", timeout) as child:
            try:
                child.result()
            except CorruptError as error:
                raise SourceError(f"the copy of {shown} is not sound: {error}") from error


def asked(files: Files, question: Callable[[Any, Report], Any], timeout: float) -> Any:
    """What the question is answered, which a child asks with a connection to the copy.

    Raises CorruptError.
    """
    copied = copies.Copy(Path(_DATA))

    def ask(report: Report) -> Any:
        copied.open()
        with copied.connection(report) as connection:
            return question(connection, report)

    with files.child(ask, "the process that reads the copy", timeout) as child:
        return child.result()


def examined(path: Path, question: Callable[[Any, Report], Any], timeout: float) -> Any:
    """The same for a copy of our own that is anywhere, with our own rights."""
    copied = copies.Copy(path)

    def ask(report: Report) -> Any:
        with copied.connection(report) as connection:
            return question(connection, report)

    child = Child(
        ask,
        what="the process that reads the copy",
        timeout=timeout,
        prepare=copied.open,
        failing=CorruptError,
    )
    with child:
        return child.result()


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
