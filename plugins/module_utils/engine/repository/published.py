# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A published backup, read with the distrust that a file from anywhere deserves."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import ContextManager, Iterator, Optional

from ..errors import CorruptError, NotFoundError, naming
from ..paths import open_below
from . import locks
from . import manifest as manifests
from .manifest import FileRecord, Manifest

_LARGEST_MANIFEST = 64 << 20


class PublishedBackup:
    """The directory of one backup, named by its id.

    path is how people know it; place, where it is worked on, may lead through an open directory.
    """

    def __init__(self, path: Path, place: Optional[Path] = None) -> None:
        self.path = path
        self.place = place or path
        self.id = path.name
        self.job = path.parent.name

    def has_manifest(self) -> bool:
        """Whether it is a backup at all."""
        return os.path.lexists(self.place / manifests.FILE_NAME)

    def manifest(self) -> Manifest:
        """Read the manifest and hold it against SHA256SUMS, the directory's name and the job's.

        Raises CorruptError, or NotFoundError where there is no manifest.
        """
        try:
            found = self.read()
        except CorruptError as error:
            raise CorruptError(f"backup {self.id} of job {self.job}: {error}") from error
        if (found.id, found.job) != (self.id, self.job):
            raise CorruptError(
                f"backup {self.id} of job {self.job}: its manifest is that of backup {found.id} of job {found.job}"
            )
        return found

    def check_sizes(self, manifest: Manifest) -> None:
        """See that every stored file is there with its size, before anything long begins.

        Raises CorruptError.
        """
        for record in manifest.files:
            try:
                with self.opened(record) as descriptor:
                    size = os.fstat(descriptor).st_size
            except CorruptError as error:
                raise CorruptError(f"backup {self.id} of job {self.job}: {error}") from error
            if size != record.repo_size:
                raise CorruptError(
                    f"backup {self.id} of job {self.job}: "
                    f"{record.repo_path} has {size} bytes, the manifest tells {record.repo_size}"
                )

    @contextlib.contextmanager
    def opened(self, record: FileRecord) -> Iterator[int]:
        """A descriptor for reading a stored file, which must be a regular file below the backup."""
        with self._directory() as directory:
            descriptor = self._open(directory, record.repo_path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def in_use(self) -> ContextManager[int]:
        """While it is held, no other process removes the backup."""
        return locks.locked_directory(self.place, f"backup {self.id} of job {self.job}", shared=True)

    def read(self) -> Manifest:
        """Read the manifest, held against SHA256SUMS only.

        Raises CorruptError.
        """
        with self._directory() as directory:
            data = self._content(directory, manifests.FILE_NAME)
            sums = self._content(directory, manifests.CHECKSUMS_NAME)
        manifest = manifests.parse(data)
        if sums != manifests.checksums(manifest, data):
            raise CorruptError(f"{manifests.CHECKSUMS_NAME} and {manifests.FILE_NAME} do not belong together")
        return manifest

    @contextlib.contextmanager
    def _directory(self) -> Iterator[int]:
        try:
            with naming(self.path):
                descriptor = os.open(str(self.place), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFoundError(f"job {self.job} has no backup {self.id}") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _content(self, directory: int, name: str) -> bytes:
        descriptor = self._open(directory, name)
        with naming(self.path / name), os.fdopen(descriptor, "rb") as file:
            data = file.read(_LARGEST_MANIFEST + 1)
        if len(data) > _LARGEST_MANIFEST:
            raise CorruptError(f"{name} is larger than {_LARGEST_MANIFEST} bytes")
        return data

    def _open(self, directory: int, path: str) -> int:
        try:
            # Without O_NONBLOCK a pipe put in place of the file would wait for a writer.
            with naming(self.path / path):
                descriptor = open_below(directory, path, os.O_RDONLY | os.O_NONBLOCK)
        except PermissionError:
            raise
        except OSError as error:
            raise CorruptError(f"{path} cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise CorruptError(f"{path} is not a regular file")
        return descriptor
