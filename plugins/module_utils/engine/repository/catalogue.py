# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the manifests of a job say in short, kept beside them so that thousands of backups are listed at once.

An entry counts only while the files that it was made from are the same ones, by inode, size and times; else, and where
the catalogue is missing or damaged, the manifest is read. Whether all stored files are there is looked at each time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from pathlib import Path
from typing import Dict, List, Optional

from ..decoding import decode, encode
from ..errors import CorruptError, sentence
from ..paths import opened_directory
from . import documents
from . import manifest as manifests
from .published import PublishedBackup

FILE_NAME = ".catalogue.json"
_SCHEMA = 1
_SOURCES = (manifests.FILE_NAME, manifests.CHECKSUMS_NAME)


@dataclasses.dataclass
class Entry:
    """One backup: start as RFC 3339, sizes in bytes; problem tells why it cannot be used, then the rest is unknown.

    stored has the size of each stored file by its path, references the ids of the backups that it builds on.
    """

    id: str
    stamp: List[int]
    problem: Optional[str] = None
    start: Optional[str] = None
    size: Optional[int] = None
    repo_size: Optional[int] = None
    duration_ms: Optional[int] = None
    engine: Optional[str] = None
    type: Optional[str] = None
    proven: bool = False
    stored: Dict[str, int] = dataclasses.field(default_factory=dict)
    references: List[str] = dataclasses.field(default_factory=list)


def entries(directory: Path, backups: List[PublishedBackup], *, keep: bool = False) -> List[Entry]:
    """An entry for each of the backups, in their order. With keep, a stale catalogue is written anew."""
    known = _read(directory)
    found = [_entry(backup, known.get(backup.id)) for backup in backups]
    if keep and (len(found) != len(known) or any(entry is not known.get(entry.id) for entry in found)):
        # It only saves time: that it cannot be written is no error.
        with contextlib.suppress(OSError):
            content = {"schema": _SCHEMA, "backups": [encode(entry) for entry in found]}
            with opened_directory(directory) as descriptor:
                documents.replace(descriptor, FILE_NAME, content, durable=False)
    return [_with_files(backup, entry) for backup, entry in zip(backups, found)]


def _read(directory: Path) -> Dict[str, Entry]:
    """What is in the catalogue; nothing where there is none, or one that is damaged or of another version."""
    try:
        content = documents.read(directory / FILE_NAME)
        if content["schema"] != _SCHEMA:
            return {}
        listed = [decode(Entry, entry) for entry in content["backups"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {entry.id: entry for entry in listed}


def _entry(backup: PublishedBackup, known: Optional[Entry]) -> Entry:
    try:
        stamp = _stamp(backup)
        if known and known.stamp == stamp:
            return known
        manifest = backup.manifest()
    except CorruptError as error:
        return Entry(backup.id, stamp, str(error))
    except OSError as error:
        # It may be readable at another time, or for another user.
        return Entry(backup.id, [], sentence(error))
    return Entry(
        id=backup.id,
        stamp=stamp,
        start=manifest.timestamp_start,
        size=manifest.summary.size,
        repo_size=manifest.summary.repo_size,
        duration_ms=manifest.summary.duration_ms,
        engine=manifest.engine.name,
        type=manifest.backup.type,
        proven=manifest.check is not None,
        stored={record.repo_path: record.repo_size for record in manifest.files},
        references=manifest.backup.reference,
    )


def _stamp(backup: PublishedBackup) -> List[int]:
    """What changes when one of the files that an entry is made from is changed or replaced."""
    stamp = []
    for name in _SOURCES:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(backup.path / name)
            stamp += [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return stamp


def _with_files(backup: PublishedBackup, entry: Entry) -> Entry:
    """The entry, with a problem when a stored file is not there with its size."""
    for path, size in entry.stored.items():
        try:
            status = os.lstat(os.path.join(backup.path, path))
        except OSError as error:
            return dataclasses.replace(entry, problem=f"{path}: {error.strerror}")
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return dataclasses.replace(
                entry, problem=f"{path} is not a file of the {size} bytes that the manifest tells"
            )
    return entry
