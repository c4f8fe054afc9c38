# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that a server writes where this host can read them. No other file there is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import Callable, Iterator

from ..errors import SourceError, naming
from ..paths import anchored
from ..repository import locks
from ..repository.staging import WorkingDirectory, working_directory
from ..stream.stages import CHUNK

PREFIX = "db-backup-export-"
_NAME_BYTES = 16
# The server may run as anybody, and must make its files there. Nobody can list it, and the name cannot be guessed.
_MODE = 0o733


@contextlib.contextmanager
def exchange(directory: Path) -> Iterator[WorkingDirectory]:
    """An empty directory for the files of a server, gone afterwards; those that killed runs left are removed too."""
    try:
        for left in directory.glob(f"{PREFIX}*"):
            if left.lstat().st_uid == os.geteuid() and locks.is_dead(left):
                shutil.rmtree(left, ignore_errors=True)
        with working_directory(directory / f"{PREFIX}{os.urandom(_NAME_BYTES).hex()}") as place:
            os.fchmod(place.descriptor, _MODE)
            yield place
    except OSError as error:
        raise SourceError(f"the server's file cannot be taken from {directory}: {error.strerror}") from error


def take(place: WorkingDirectory, name: str, write: Callable[[bytes], int], advice: str) -> None:
    """Hand a file of the server to write. advice is for who finds none there: a clause after the sentence.

    Raises SourceError when there is none, or it is not a plain file that nobody writes to any more.
    """
    with naming(place.path / name):
        try:
            descriptor = os.open(
                str(anchored(place.descriptor, name)), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except FileNotFoundError:
            raise SourceError(
                f"the server says that it wrote a file in {place.path}, and there is none; {advice}"
            ) from None
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode) or before.st_nlink != 1:
                raise SourceError(f"what the server wrote in {place.path} is not a file of its own")
            while chunk := os.read(descriptor, CHUNK):
                write(chunk)
            after = os.fstat(descriptor)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise SourceError("the file of the server changed while it was read; something else still writes to it")
        finally:
            os.close(descriptor)
