# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one path of include amounts to, counted alike in a directory and in a tar."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Tuple

# The path of the record that the tar is in a manifest.
RECORD_PATH = ".include"


@dataclasses.dataclass(frozen=True)
class Included:
    """One path of include: its regular files, their bytes, its directories, a hash of all names, sizes and times."""

    path: str
    files: int
    directories: int
    size: int
    fingerprint: str

    @property
    def counts(self) -> Tuple[int, int, int]:
        """Files, directories and bytes."""
        return self.files, self.directories, self.size


class Tally:
    """Sums up the files and directories of one include path, in the order in which they are found."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = 0
        self._directories = 0
        self._size = 0
        self._fingerprint = hashlib.sha256()

    def add_directory(self, name: bytes) -> None:
        """Without its time, which changes with every file that comes and goes: the files tell that already."""
        self._directories += 1
        self._fingerprint.update(b"%s\0" % name)

    def add_file(self, name: bytes, size: int, mtime: int) -> None:
        """A regular file; mtime in nanoseconds."""
        self._files += 1
        self._size += size
        self._fingerprint.update(b"%s\0%d\0%d\0" % (name, size, mtime))

    def resize_file(self, before: int, size: int) -> None:
        """The file that was added last follows again, with another size."""
        self._size += size - before

    def result(self) -> Included:
        """The sums."""
        return Included(self._path, self._files, self._directories, self._size, self._fingerprint.hexdigest())
