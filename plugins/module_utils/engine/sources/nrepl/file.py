# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Way file: the server writes a file where this host can read it. No other file there is touched."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Callable, Iterator, Optional

from ...errors import SourceError, naming
from ...nrepl.client import Client
from ...paths import anchored
from ...repository import locks
from ...repository.staging import WorkingDirectory, working_directory
from ...stream.stages import CHUNK
from .runtime import Runtime
from .told import Told, parse, unquoted

_PREFIX = "db-backup-export-"
# The server may run as anybody, and must make its file there. Nobody can list it, and the name cannot be guessed.
_MODE = 0o733


def take_file(client: Client, runtime: Runtime, directory: Optional[str], write: Callable[[bytes], int]) -> Told:
    """Hand the text of the file that the server writes below directory to write, and remove it.

    Raises SourceError with what the server says went wrong, or when the file is not here.
    """
    with _exchange(Path(directory or tempfile.gettempdir())) as place:
        name = f"{secrets.token_hex(16)}.edn"
        told = parse(unquoted(client.evaluate(runtime.in_file(str(place.path / name))).only_value()))
        with naming(place.path / name):
            _take(place, name, write)
    return told


@contextlib.contextmanager
def _exchange(directory: Path) -> Iterator[WorkingDirectory]:
    """A directory for one file, gone afterwards; those that killed runs left are removed too."""
    try:
        for left in directory.glob(f"{_PREFIX}*"):
            if left.lstat().st_uid == os.geteuid() and locks.is_dead(left):
                shutil.rmtree(left, ignore_errors=True)
        with working_directory(directory / f"{_PREFIX}{secrets.token_hex(8)}") as place:
            os.fchmod(place.descriptor, _MODE)
            yield place
    except OSError as error:
        raise SourceError(f"the server's file cannot be taken from {directory}: {error.strerror}") from error


def _take(place: WorkingDirectory, name: str, write: Callable[[bytes], int]) -> None:
    try:
        descriptor = os.open(
            str(anchored(place.descriptor, name)), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except FileNotFoundError:
        raise SourceError(
            f"the server says that it wrote a file in {place.path}, and there is none; way file needs a directory that "
            "is the same one for both, way pull does not"
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
