# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that stored files are a backup: read back, decompressed, hashed, opened with the engine, read whole."""

from __future__ import annotations

import contextlib
import os
from typing import Dict, Iterator, List, Optional, Type

from ..errors import BackupError, CorruptError
from ..repository.manifest import FileRecord, Origin
from ..repository.published import PublishedBackup
from ..repository.staging import WorkingDirectory
from ..sources.base import Source, Tools, Tree
from ..stream.stages import Reader, SparseFileWriter, Stage
from ..stream.transfer import Stored, load
from .progress import Progress


def prove(
    stored: PublishedBackup,
    *,
    records: List[FileRecord],
    compression: str,
    source: Type[Source],
    origin: Origin,
    scratch: Optional[WorkingDirectory],
    tools: Tools,
    progress: Progress,
) -> Origin:
    """Read every stored file; with a scratch directory, open the content there with the engine too.

    Returns the origin completed with what the engine counted. Raises CorruptError.
    """
    trees = checked_trees(records, source, origin)
    unpacked = {}
    for record in records:
        target: Optional[Stage] = None
        if record.content == "tar" and not (scratch and trees[record.path].is_data):
            target = Reader(trees[record.path].check)
        elif scratch:
            unpacked[record.path] = scratch.path / record.path
            target = SparseFileWriter(scratch.create(record.path), durable=False)
        with stored.opened(record) as descriptor:
            # What was just written is to be read from the medium, not from memory.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        load_record(stored, record, compression, target, progress)
    return source.check(unpacked, origin, tools) if scratch else origin


def checked_trees(records: List[FileRecord], source: Type[Source], origin: Origin) -> Dict[str, Tree]:
    """What the tars bring, by record path.

    Raises CorruptError unless there is one tar for each, large enough for it, and none without.
    """
    sizes = {record.path: record.size for record in records if record.content == "tar"}
    trees = source.trees(origin)
    if set(sizes) != set(trees) or any(brought.least_size > sizes[path] for path, brought in trees.items()):
        raise CorruptError("the manifest is not valid: its files are not those that its source includes")
    return trees


@contextlib.contextmanager
def corruption_in(what: str) -> Iterator[None]:
    """Have a CorruptError tell what was found corrupt, and a plain BackupError what could not be read to its end."""
    try:
        yield
    except BackupError as error:
        if type(error) not in (BackupError, CorruptError):
            raise
        raise type(error)(f"{what}: {error}") from error


def load_record(
    stored: PublishedBackup,
    record: FileRecord,
    compression: str,
    target: Optional[Stage],
    progress: Progress,
    *,
    hash_content: bool = True,
) -> None:
    """Read one stored file into target. hash_content is that of stream.transfer.load.

    Raises CorruptError that names the file.
    """
    expected = Stored(record.size, record.sha256, record.repo_size, record.repo_sha256)
    try:
        with stored.opened(record) as descriptor:
            load(descriptor, compression, expected, target, progress, hash_content=hash_content)
    except BaseException as error:
        if target:
            target.abandon()
        if isinstance(error, CorruptError):
            raise CorruptError(f"{record.repo_path}: {error}") from error
        if isinstance(error, OSError):
            raise BackupError(f"cannot unpack {record.repo_path}: {error.strerror}") from error
        raise
