# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Adopt: take files that another tool made into the repository, each as one backup. The files stay as they are."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
import os
import stat
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Set, Tuple

from .. import times
from ..errors import BackupError, CorruptError, Interrupted, UsageError, sentence
from ..interrupts import work_goes_on
from ..jobs import Job, Settings
from ..repository.manifest import Manifest
from ..repository.published import PublishedBackup
from ..repository.repository import JobDirectory
from ..repository.retention import Policy
from ..routine import Routine
from ..sources.file import kinds
from ..sources.file.moments import Moment, moment_of
from ..sources.file.source import FileSource
from ..stream import compression as codecs
from .backup import make, remember_proof
from .progress import Progress, silent

_TIMEOUT = 60


@dataclasses.dataclass(frozen=True)
class Adopted:
    """A file that is a backup now, or would be; what is known of its content is empty as long as nobody looked."""

    file: str
    id: str
    kind: str
    size: int
    time_from: str
    verified: List[str] = dataclasses.field(default_factory=list)
    not_verified: List[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Refused:
    """A file that was not adopted, and why."""

    file: str
    reason: str


@dataclasses.dataclass
class Adoption:
    """What became of the files. already has those that were adopted before, with the ids of their backups."""

    job: str
    adopted: List[Adopted] = dataclasses.field(default_factory=list)
    already: Dict[str, str] = dataclasses.field(default_factory=dict)
    refused: List[Refused] = dataclasses.field(default_factory=list)
    warnings: List[str] = dataclasses.field(default_factory=list)

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return dataclasses.asdict(self)


class _Found(NamedTuple):
    """A file as it was found."""

    path: Path
    status: os.stat_result

    @property
    def identity(self) -> Tuple[str, int, int]:
        """What must be the same for a file that was adopted before."""
        return str(self.path), self.status.st_size, self.status.st_mtime_ns


def adopt(directory: JobDirectory, folder: Path, pattern: str, progress: Progress = silent) -> Adoption:
    """Make a backup of the job of every file in the folder that matches the pattern.

    A file that does not pass its check is refused and does not stop the others. Raises BackupError when there is no
    such file, or the repository cannot be used.
    """
    adoption = Adoption(directory.name)
    files = _find(folder, pattern, adoption)
    directory.create()
    made: List[Manifest] = []

    def take(file: _Found, source: FileSource, moment: Moment) -> Adopted:
        made.append(_make(directory, file, source, moment, progress))
        manifest = made[-1]
        name, size = file.path.name, file.status.st_size
        return Adopted(name, manifest.id, size=size, time_from=moment.told_by, **manifest.source.details)

    with directory.lock():
        adoption.warnings.extend(directory.remove_leftovers())
        try:
            _each(directory, files, adoption, take)
        finally:
            _conclude(directory, made, adoption)
    return adoption


def predict(directory: JobDirectory, folder: Path, pattern: str) -> Adoption:
    """What adopt would do, without a look at more than the first bytes of each file."""
    adoption = Adoption(directory.name)
    files = _find(folder, pattern, adoption)
    taken: Set[str] = set()

    def foresee(file: _Found, source: FileSource, moment: Moment) -> Adopted:
        backup_id = directory.free_id(moment.time)
        while backup_id in taken:
            backup_id = directory.free_id(times.from_id(backup_id) + datetime.timedelta(seconds=1))
        taken.add(backup_id)
        return Adopted(file.path.name, backup_id, source.kind, file.status.st_size, moment.told_by)

    _each(directory, files, adoption, foresee)
    return adoption


def _find(folder: Path, pattern: str, adoption: Adoption) -> List[_Found]:
    """The regular files directly in the folder that match, oldest first."""
    if "/" in pattern:
        raise UsageError(f"pattern {pattern!r} has a '/'; it is for names of files directly in {folder}")
    # The folder is the user's choice, link or not; with one name for it, a file is known the second time.
    folder = Path(os.path.realpath(folder))
    found = []
    for name in sorted(os.listdir(folder)):
        is_hidden = name.startswith(".") and not pattern.startswith(".")
        if is_hidden or not fnmatch.fnmatchcase(name, pattern):
            continue
        # It may be gone by now.
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(folder / name)
            if stat.S_ISREG(status.st_mode):
                found.append(_Found(folder / name, status))
            else:
                adoption.warnings.append(f"{_shown(folder / name)} is not a regular file and is passed over")
    if not found:
        raise BackupError(f"no regular file in {folder} has a name like {pattern!r}")
    return sorted(found, key=lambda file: (file.status.st_mtime_ns, file.path))


def _each(
    directory: JobDirectory,
    files: List[_Found],
    adoption: Adoption,
    function: Callable[[_Found, FileSource, Moment], Adopted],
) -> None:
    """Call the function for each file that is not a backup yet, and write down what became of it."""
    known = _known(directory)
    for file in files:
        if file.identity in known:
            adoption.already[file.path.name] = known[file.identity]
            continue
        # The backup before was published, which no signal could stop any more.
        work_goes_on()
        try:
            moment = moment_of(_shown(file.path), file.status.st_mtime_ns)
            adoption.adopted.append(function(file, FileSource(file.path, file.status), moment))
        except Interrupted:
            raise
        except BackupError as error:
            adoption.refused.append(Refused(_shown(file.path), str(error)))
        except OSError as error:
            adoption.refused.append(Refused(_shown(file.path), sentence(error)))


def _known(directory: JobDirectory) -> Dict[Tuple[str, int, int], str]:
    """The ids of the sound backups that are adopted files, by what a file is known by."""
    known = {}
    state = directory.state()
    for entry in directory.catalogue():
        if entry.engine == FileSource.type and not entry.problem and not state.failure(entry.id):
            with contextlib.suppress(CorruptError):
                manifest = PublishedBackup(directory.path / entry.id).manifest()
                for record in manifest.files:
                    known[manifest.source.path, record.size, record.mtime] = entry.id
    return known


def _make(directory: JobDirectory, file: _Found, source: FileSource, moment: Moment, progress: Progress) -> Manifest:
    wanted = "none" if source.kind == kinds.ARCHIVE else "zstd"
    settings = Settings(directory.name, FileSource.type, str(directory.path.parent), wanted)
    job = Job(settings, Policy(), Routine(), source, codecs.choose(wanted), _TIMEOUT)
    annotation = {
        "adopted_from": str(file.path),
        "adopted_at": times.to_rfc3339(times.now()),
        "time_from": moment.told_by,
    }
    with directory.staging(moment.time, job.compression) as staging:
        return make(job, staging, moment.time, progress, annotation=annotation)[1]


def _conclude(directory: JobDirectory, made: List[Manifest], adoption: Adoption) -> None:
    """Write down what was proven. The backups are published: that it cannot be written is but a warning."""
    directory.keep_catalogue()
    if made:
        try:
            with directory.changed_state() as state:
                for manifest in made:
                    remember_proof(state, manifest.to_json())
        except OSError as error:
            adoption.warnings.append(f"the state of job {directory.name} could not be written: {sentence(error)}")


def _shown(path: Path) -> str:
    """The name of a file, as one line."""
    return path.name if path.name.isprintable() else repr(path.name)
