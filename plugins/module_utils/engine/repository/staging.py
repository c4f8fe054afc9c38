# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup in the making: a hidden directory that becomes visible, whole and durable, by one rename."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import ContextManager, Iterator, List, NamedTuple

from ..errors import BackupError, CorruptError, naming
from ..interrupts import end_of_work, held_back
from ..paths import anchored, create, fsync_directory, hand_over, make_directories, make_directory, opened, walk_up
from ..stream.compression import SUFFIXES, Compression
from ..stream.stages import FileWriter
from ..stream.transfer import StoreStream
from . import locks
from . import manifest as manifests
from .manifest import FileRecord, Manifest
from .published import PublishedBackup

PREFIX = ".partial-"
SCRATCH_PREFIX = ".scratch-"


class WorkingDirectory(NamedTuple):
    """A private directory, at path and open. Files are made through the descriptor.

    While root works here it is root's, in the repository of whomever: nobody can put a link into it.
    """

    path: Path
    descriptor: int

    def create(self, path: str) -> int:
        """Open a new file of this relative path, in directories that are made where they are missing."""
        place = anchored(self.descriptor, path)
        with naming(self.path / path):
            make_directories(place.parent)
            return create(place)

    def remove(self, path: str) -> None:
        """Remove a file of this relative path; what cannot be removed now goes with the whole directory."""
        with contextlib.suppress(OSError):
            os.unlink(anchored(self.descriptor, path))

    def make_durable(self) -> None:
        """Sync all directories, those above after those below."""
        with naming(self.path):
            for directory, _files in walk_up(self.descriptor):
                os.fsync(directory)

    def hand_over(self) -> None:
        """Give all of it to the owner of the directory it is in, itself at last."""
        above = os.open(str(anchored(self.descriptor, "..")), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with naming(self.path):
                for directory, files in walk_up(self.descriptor):
                    for name in files:
                        with opened(directory, name) as file:
                            hand_over(file, above)
                    hand_over(directory, above)
        finally:
            os.close(above)


class Staging:
    """Collects the stored files of one backup; publish makes it a backup. verify: it is to be opened before that."""

    def __init__(
        self, directory: WorkingDirectory, backup_id: str, compression: Compression, verify: bool = True
    ) -> None:
        self.path = directory.path
        self.verify = verify
        self._directory = directory
        self.id = backup_id
        self.compression = compression
        self.records: List[FileRecord] = []

    @contextlib.contextmanager
    def store(self, path: str, status: os.stat_result, content: str = "file") -> Iterator[StoreStream]:
        """A stream to write the content of a file to; path is its place in the source, status its owner and mode.

        Left with an error, it leaves nothing behind: the same file can be stored again.
        """
        repo_path = path + (".tar" if content == "tar" else "") + SUFFIXES[self.compression.type]
        taken = [*manifests.RESERVED_NAMES, *(record.repo_path for record in self.records)]
        if repo_path in taken:
            raise BackupError(
                f"{path} cannot be stored as {repo_path}: there is another file of this name in the backup"
            )
        stored_path = self.path / repo_path
        stream = StoreStream(self._directory.create(repo_path), self.compression)
        try:
            yield stream
            stream.close()
        except BaseException as error:
            stream.abandon()
            self._directory.remove(repo_path)
            if isinstance(error, OSError):
                raise BackupError(f"cannot write {stored_path}: {error.strerror}") from error
            raise
        stored = stream.result()
        self.records.append(
            FileRecord(
                path=path,
                size=stored.size,
                sha256=stored.sha256,
                repo_path=repo_path,
                repo_size=stored.repo_size,
                repo_sha256=stored.repo_sha256,
                mode=status.st_mode & 0o7777,
                mtime=status.st_mtime_ns,
                uid=status.st_uid,
                gid=status.st_gid,
                content=content,
            )
        )

    def scratch(self) -> ContextManager[WorkingDirectory]:
        """A private directory for what is on its way into the backup, gone afterwards."""
        return scratch_directory(self.path.parent)

    def publish(self, manifest: Manifest) -> PublishedBackup:
        """Write manifest and SHA256SUMS, read them back, and rename the directory to its id."""
        data = manifest.to_bytes()
        for name, content in (
            (manifests.FILE_NAME, data),
            (manifests.CHECKSUMS_NAME, manifests.checksums(manifest, data)),
        ):
            with naming(self.path / name):
                writer = FileWriter(self._directory.create(name))
                writer.write(content)
                writer.close()
        self._directory.make_durable()
        if PublishedBackup(self.path).read() != manifest:
            raise CorruptError("%s does not read back as it was written" % (self.path / manifests.FILE_NAME))
        self._directory.hand_over()
        target = self.path.parent / self.id
        end_of_work()
        os.rename(self.path, target)
        try:
            fsync_directory(target.parent)
        except OSError:
            # Not known to be durable, so not published.
            os.rename(target, self.path)
            raise
        return PublishedBackup(target)


@contextlib.contextmanager
def working_directory(path: Path) -> Iterator[WorkingDirectory]:
    """A private directory that is gone afterwards, unless it was renamed; held, so that it is known to be in use."""
    with contextlib.ExitStack() as stack:
        # The directory above is held meanwhile: else a run could take the new one for the leftover of a killed one.
        with held_back(), naming(path), locks.briefly_locked(path.parent) as parent:
            descriptor = make_directory(anchored(parent, path.name))
            stack.callback(os.close, descriptor)
            stack.callback(_remove, path)
            stack.enter_context(locks.locked(descriptor, str(path)))
        yield WorkingDirectory(path, descriptor)


def scratch_directory(job: Path) -> ContextManager[WorkingDirectory]:
    """A private working directory in the directory of a job."""
    return working_directory(job / f"{SCRATCH_PREFIX}{os.getpid()}-{time.monotonic_ns()}")


def _remove(path: Path) -> None:
    with held_back():
        shutil.rmtree(path, ignore_errors=True)
