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
from typing import ContextManager, Iterator, List

from ..errors import BackupError, CorruptError, naming
from ..interrupts import end_of_work, held_back
from ..paths import fsync_directory, hand_over, make_directories
from ..stream.compression import SUFFIXES, Compression
from ..stream.stages import FileWriter
from ..stream.transfer import StoreStream
from . import locks
from . import manifest as manifests
from .manifest import FileRecord, Manifest
from .published import PublishedBackup

PREFIX = ".partial-"
SCRATCH_PREFIX = ".scratch-"


class Staging:
    """Collects the stored files of one backup; publish makes it a backup."""

    def __init__(self, path: Path, backup_id: str, compression: Compression) -> None:
        self.path = path
        self.id = backup_id
        self.compression = compression
        self.records: List[FileRecord] = []

    @contextlib.contextmanager
    def store(self, path: str, status: os.stat_result, content: str = "file") -> Iterator[StoreStream]:
        """A stream to write the content of a file to; path is its place in the source, status its owner and mode."""
        repo_path = path + (".tar" if content == "tar" else "") + SUFFIXES[self.compression.type]
        taken = [manifests.FILE_NAME, manifests.CHECKSUMS_NAME, *(record.repo_path for record in self.records)]
        if repo_path in taken:
            raise BackupError(
                f"{path} cannot be stored as {repo_path}: there is another file of this name in the backup"
            )
        stored_path = self.path / repo_path
        make_directories(stored_path.parent)
        stream = StoreStream(_create(stored_path), self.compression)
        try:
            yield stream
            stream.close()
        except OSError as error:
            stream.abandon()
            raise BackupError(f"cannot write {stored_path}: {error.strerror}") from error
        except BaseException:
            stream.abandon()
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

    def scratch(self) -> ContextManager[Path]:
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
                writer = FileWriter(_create(self.path / name))
                writer.write(content)
                writer.close()
        for directory, _unused, _unused in os.walk(self.path, onerror=_raise):
            fsync_directory(Path(directory))
        if PublishedBackup(self.path).read() != manifest:
            raise CorruptError("%s does not read back as it was written" % (self.path / manifests.FILE_NAME))
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
def working_directory(path: Path) -> Iterator[Path]:
    """A private directory that is gone afterwards, unless it was renamed; held, so that it is known to be in use."""
    with contextlib.ExitStack() as stack:
        # The directory above is held meanwhile: else a run could take the new one for the leftover of a killed one.
        with held_back(), locks.briefly_locked(path.parent):
            path.mkdir(0o700)
            stack.callback(_remove, path)
            hand_over(path)
            stack.enter_context(locks.locked_directory(path, str(path)))
        yield path


def scratch_directory(job: Path) -> ContextManager[Path]:
    """A private working directory in the directory of a job."""
    return working_directory(job / f"{SCRATCH_PREFIX}{os.getpid()}-{time.monotonic_ns()}")


def _remove(path: Path) -> None:
    with held_back():
        shutil.rmtree(path, ignore_errors=True)


def _raise(error: OSError) -> None:
    raise error


def _create(path: Path) -> int:
    descriptor = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    hand_over(path)
    return descriptor
