# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write files as a tar while they may change."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import IO, BinaryIO, List, Optional, Tuple, cast

from ...errors import SourceError
from ...stream.stages import Stage
from .entries import Entry, count, entries
from .included import Included, Tally

_TRIES = 3


def write(stream: Stage, root: Path, paths: List[str]) -> Tuple[List[Included], List[str]]:
    """Write what include names as a tar; returns what was written and warnings of what was left out.

    A file that changes while it is read is written again; the last one counts, as tar has it.
    Raises SourceError when a file keeps changing.
    """
    included = []
    warnings: List[str] = []
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            tally = Tally(path)
            for entry in entries(root, path):
                if stat.S_ISDIR(entry.status.st_mode):
                    archive.addfile(_header(entry.path, entry.status))
                    count(tally, entry.path, entry.status)
                elif stat.S_ISREG(entry.status.st_mode):
                    _write_file(archive, root, entry, tally, warnings)
                else:
                    warnings.append("%s is neither a file nor a directory and was left out" % (root / entry.path))
            included.append(tally.result())
    return included, warnings


def _write_file(archive: tarfile.TarFile, root: Path, entry: Entry, tally: Tally, warnings: List[str]) -> None:
    """Add the file as it stands still; one that is gone is left out."""
    path = root / entry.path
    written: Optional[os.stat_result] = None
    for _unused in range(_TRIES):
        try:
            descriptor = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=entry.directory)
        except FileNotFoundError:
            break
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            written = os.fstat(descriptor)
            archive.addfile(_header(entry.path, written), _Padded(file, path))
            after = os.fstat(descriptor)
        if (written.st_size, written.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            count(tally, entry.path, written)
            return
    else:
        raise SourceError(f"{path} keeps changing while it is read")
    if written:
        count(tally, entry.path, written)
        warnings.append(f"{path} changed while it was read and is gone; its copy may be torn")


class _Padded:
    """A file that never ends early: one that shrinks while it is read must not break the archive."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def read(self, size: int = -1, /) -> bytes:
        """Exactly size bytes."""
        try:
            return self._file.read(size).ljust(size, b"\0")
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror}") from error


def _header(path: str, status: os.stat_result) -> tarfile.TarInfo:
    header = tarfile.TarInfo(path)
    header.mode = stat.S_IMODE(status.st_mode)
    header.uid, header.gid = status.st_uid, status.st_gid
    header.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        header.type = tarfile.DIRTYPE
    else:
        header.size = status.st_size
    return header
