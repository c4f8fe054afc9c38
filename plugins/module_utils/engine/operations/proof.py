# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that stored files are a backup: read back, decompressed, hashed, opened with the engine, read whole."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Type

from ..errors import BackupError, CorruptError
from ..paths import make_directories
from ..repository.manifest import FileRecord, Origin
from ..repository.published import PublishedBackup
from ..sources import tree
from ..sources.base import Source, Tree
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
    scratch: Optional[Path],
    timeout: float,
    progress: Progress,
) -> Origin:
    """Read every stored file; with a scratch directory, open the content there with the engine too.

    Returns the origin completed with what the engine counted. Raises CorruptError.
    """
    trees = checked_trees(records, source, origin)
    unpacked = {}
    for record in records:
        target: Optional[Stage] = None
        if record.content == "tar":
            brought = trees[record.path]
            if scratch and brought.is_data:
                targets = {entry.path: scratch / entry.path for entry in brought.included}
                unpacked.update(targets)
                target = unpacker(brought, targets, os.geteuid(), os.getegid(), durable=False)
            else:
                target = Reader(functools.partial(tree.check, included=brought.included))
        elif scratch:
            unpacked[record.path] = scratch / record.path
            target = SparseFileWriter(create(scratch / record.path), durable=False)
        with stored.opened(record) as descriptor:
            # What was just written is to be read from the medium, not from memory.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        load_record(stored, record, compression, target, progress)
    return source.check(unpacked, origin, timeout) if scratch else origin


def checked_trees(records: List[FileRecord], source: Type[Source], origin: Origin) -> Dict[str, Tree]:
    """What the tars bring, by record path.

    Raises CorruptError unless there is one tar for each, large enough for it, and none without.
    """
    sizes = {record.path: record.size for record in records if record.content == "tar"}
    trees = source.trees(origin)
    if set(sizes) != set(trees) or any(
        sum(entry.size for entry in brought.included) > sizes[path] for path, brought in trees.items()
    ):
        raise CorruptError("the manifest is not valid: its files are not those that its source includes")
    return trees


def unpacker(
    brought: Tree, targets: Dict[str, Path], uid: Optional[int], gid: Optional[int], durable: bool = True
) -> Stage:
    """The end of a stream that unpacks a tar; the arguments are those of sources.tree.unpack."""
    return Reader(
        functools.partial(tree.unpack, included=brought.included, targets=targets, uid=uid, gid=gid, durable=durable)
    )


@contextlib.contextmanager
def corruption_in(what: str) -> Iterator[None]:
    """Have a CorruptError tell what was found corrupt."""
    try:
        yield
    except CorruptError as error:
        raise CorruptError(f"{what}: {error}") from error


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


def create(path: Path) -> int:
    """A new private file, and the directories above it."""
    make_directories(path.parent)
    return os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
