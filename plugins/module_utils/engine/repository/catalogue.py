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
from pathlib import Path, PurePosixPath
from typing import ContextManager, Dict, List, Optional

from ..decoding import decode, encode
from ..errors import CorruptError, LockedError, NotFoundError, sentence
from ..paths import is_directory, is_safe_relative, opened_directory
from ..times import from_rfc3339
from . import documents
from . import manifest as manifests
from .published import PublishedBackup

FILE_NAME = ".catalogue.json"
_SCHEMA = 3
_SOURCES = (manifests.FILE_NAME, manifests.CHECKSUMS_NAME)


@dataclasses.dataclass
class Entry:
    """One backup: start as RFC 3339, sizes in bytes; problem tells why it cannot be used, then the rest is unknown.

    position_start and position_stop are those of its position. stored has the size of each stored file by its path,
    references the ids of the backups that it builds on.
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
    consistency: Optional[str] = None
    proven: bool = False
    position_start: Optional[int] = None
    position_stop: Optional[int] = None
    stored: Dict[str, int] = dataclasses.field(default_factory=dict)
    references: List[str] = dataclasses.field(default_factory=list)


def entries(
    directory: Path, backups: List[PublishedBackup], *, keep: Optional[ContextManager[None]] = None
) -> List[Entry]:
    """An entry for each of the backups, in their order. A stale catalogue is written anew within keep, if given."""
    known = _read(directory)
    found = [_entry(backup, known.get(backup.id)) for backup in backups]
    # What has a problem may be readable at another time, or for another user.
    sound = [entry for entry in found if not entry.problem]
    if keep and (len(sound) != len(known) or any(entry is not known.get(entry.id) for entry in sound)):
        write(directory, sound, keep)
    checked = _with_references([_with_files(backup, entry) for backup, entry in zip(backups, found)])
    # One that a prune removes meanwhile is no problem.
    return [entry for backup, entry in zip(backups, checked) if not entry.problem or backup.has_manifest()]


def entry(backup: PublishedBackup) -> Entry:
    """What the manifest of a backup says, and whether its files are there."""
    return _with_files(backup, _entry(backup, None))


def write(directory: Path, known: List[Entry], keep: ContextManager[None]) -> None:
    """Write a catalogue of what has no problem, within keep."""
    content = {"schema": _SCHEMA, "backups": [encode(entry) for entry in known if not entry.problem]}
    # It only saves time: that it cannot be written, or that another process may just now, is no error.
    with contextlib.suppress(OSError, LockedError), keep, opened_directory(directory) as descriptor:
        documents.replace(descriptor, FILE_NAME, content, disposable=True)


def _read(directory: Path) -> Dict[str, Entry]:
    """What is in the catalogue; nothing where there is none, or one that is damaged or of another version."""
    try:
        content = documents.read(directory / FILE_NAME)
        if content["schema"] != _SCHEMA:
            return {}
        listed = [_checked(decode(Entry, entry)) for entry in content["backups"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {entry.id: entry for entry in listed}


def _checked(entry: Entry) -> Entry:
    """Raise ValueError for what the types alone do not say."""
    if entry.start is not None:
        from_rfc3339(entry.start)
    if not all(map(is_safe_relative, entry.stored)):
        raise ValueError(f"a path of {entry.id} does not lead below it")
    return entry


def _entry(backup: PublishedBackup, known: Optional[Entry]) -> Entry:
    try:
        stamp = _stamp(backup)
        if known and known.stamp == stamp:
            return known
        manifest = backup.manifest()
    except (CorruptError, NotFoundError) as error:
        return Entry(backup.id, [], str(error))
    except OSError as error:
        return Entry(backup.id, [], sentence(error))
    position = manifest.source.position
    return Entry(
        id=backup.id,
        stamp=stamp,
        start=manifest.timestamp_start,
        size=manifest.summary.size,
        repo_size=manifest.summary.repo_size,
        duration_ms=manifest.summary.duration_ms,
        engine=manifest.engine.name,
        type=manifest.backup.type,
        consistency=manifest.backup.consistency,
        proven=manifest.check is not None,
        position_start=position.start if position else None,
        position_stop=position.stop if position else None,
        stored={record.repo_path: record.repo_size for record in manifest.files},
        references=manifest.backup.reference,
    )


def _stamp(backup: PublishedBackup) -> List[int]:
    """What changes when one of the files that an entry is made from is changed or replaced."""
    stamp = []
    for name in _SOURCES:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(os.path.join(backup.place, name))
            stamp += [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return stamp


def _with_files(backup: PublishedBackup, entry: Entry) -> Entry:
    """The entry, with a problem when a stored file is not there with its size."""
    problems = (_problem_of_file(backup.place, path, size) for path, size in entry.stored.items())
    problem = next(filter(None, problems), None)
    if not problem:
        return entry
    return dataclasses.replace(entry, problem=f"backup {backup.id} of job {backup.job}: {problem}")


def _with_references(entries_of_job: List[Entry]) -> List[Entry]:
    """The entries, with a problem where one that is built on has a problem, or is not there."""
    problems = {entry.id: entry.problem for entry in entries_of_job}
    return [
        dataclasses.replace(entry, problem=_problem_below(entry, problems))
        if entry.references and not entry.problem
        else entry
        for entry in entries_of_job
    ]


def _problem_below(entry: Entry, problems: Dict[str, Optional[str]]) -> Optional[str]:
    for reference in entry.references:
        if reference not in problems:
            return f"it builds on {reference}, which is not there"
        if problems[reference]:
            return f"it builds on what is not sound: {problems[reference]}"
    return None


def _problem_of_file(directory: Path, path: str, size: int) -> Optional[str]:
    """Told as by PublishedBackup.check_sizes, which opens the file and takes longer."""
    try:
        status = os.lstat(os.path.join(directory, path))
    except OSError as error:
        return f"{path} cannot be opened: {error.strerror}"
    # A restore follows no link either.
    parents = [directory / parent for parent in PurePosixPath(path).parents] if "/" in path else []
    if not stat.S_ISREG(status.st_mode) or not all(map(is_directory, parents)):
        return f"{path} is not a regular file"
    if status.st_size != size:
        return f"{path} has {status.st_size} bytes, the manifest tells {size}"
    return None
