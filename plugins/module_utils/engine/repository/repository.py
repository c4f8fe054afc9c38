# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The repository: a directory with a directory per job."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import tempfile
from pathlib import Path
from typing import Collection, ContextManager, Iterator, List, Optional

from .. import halts, times
from ..errors import BackupError, CorruptError, LockedError, NotFoundError, UsageError, naming, naming_behind
from ..interrupts import held_back
from ..paths import (
    JOB_NAME_PATTERN,
    anchored,
    check_job_name,
    fsync_directory,
    is_directory,
    make_directories,
    opened_directory,
)
from ..stream.compression import Compression
from . import catalogue, documents, locks, protection
from . import manifest as manifests
from . import state as states
from .catalogue import Entry
from .chain import Chain, Chains
from .manifest import Manifest
from .published import PublishedBackup
from .staging import PREFIX as STAGING_PREFIX
from .staging import SCRATCH_PREFIX, Staging, WorkingDirectory, scratch_directory, working_directory
from .state import State

_REMOVAL_PREFIX = ".removing-"
_WORKING_PREFIXES = (STAGING_PREFIX, SCRATCH_PREFIX, _REMOVAL_PREFIX)
_LOCK = ".lock"
_DOCUMENTS = (states.FILE_NAME, catalogue.FILE_NAME)
_OWN_FILES = (_LOCK, *_DOCUMENTS, *map(documents.aside_of, _DOCUMENTS))


class JobDirectory:
    """The backups of one job, REPOSITORY/JOB.

    path is how people know it; place, where it is worked on, leads through an open directory when it is held.
    """

    def __init__(self, path: Path, place: Optional[Path] = None) -> None:
        self.path = path
        self.place = place or path
        self.name = path.name

    @contextlib.contextmanager
    def held(self) -> Iterator[JobDirectory]:
        """This directory, whatever its owner may put in its place meanwhile.

        Raises NotFoundError when there is no such job.
        """
        self.refuse_missing()
        with opened_directory(self.place) as descriptor, naming_behind(anchored(descriptor), self.path):
            yield JobDirectory(self.path, anchored(descriptor))

    def lock(self) -> ContextManager[None]:
        """Be the only run of this job.

        Raises LockedError.
        """
        return locks.locked_file(self.place / _LOCK, f"job {self.name}")

    def is_locked(self) -> bool:
        """Whether a run of this job is under way."""
        return locks.is_held(self.place / _LOCK)

    def halted(self) -> List[str]:
        """What a killed run has left halted, in sentences."""
        return [] if self.is_locked() else halts.told_of(self.place)

    def refuse_missing(self) -> None:
        """Raise NotFoundError when there is no such job."""
        if self.place == self.path and not is_directory(self.path):
            raise NotFoundError(f"there is no job {self.name} in {self.path.parent}")

    def create(self) -> None:
        """Make the directory where it is missing."""
        try:
            make_directories(self.path)
        except OSError as error:
            raise BackupError(f"cannot create {self.path}: {error.strerror}") from error
        if not is_directory(self.path):
            raise UsageError(f"{self.path} is a link; a job has a directory of its own in the repository")

    @contextlib.contextmanager
    def staging(self, started: datetime.datetime, compression: Compression, verify: bool = True) -> Iterator[Staging]:
        """A new backup in the making; what is not published is removed at the end."""
        backup_id = self.free_id(started)
        with working_directory(self.path / (STAGING_PREFIX + backup_id)) as directory:
            yield Staging(directory, backup_id, compression, verify)

    def scratch(self) -> ContextManager[WorkingDirectory]:
        """A private directory to unpack into, gone afterwards."""
        return scratch_directory(self.path)

    @contextlib.contextmanager
    def scratch_elsewhere(self) -> Iterator[WorkingDirectory]:
        """The same below the system's temporary directory, for a repository that cannot or must not be written to."""
        with tempfile.TemporaryDirectory(prefix="db-backup-") as above, working_directory(Path(above, "copy")) as inner:
            yield inner

    def is_writable(self) -> bool:
        """Whether this user can make files here, on a file system that is not read-only."""
        return os.access(self.path, os.W_OK | os.X_OK)

    def free_id(self, started: datetime.datetime) -> str:
        """The id of a backup that starts now: a collision takes the next free second."""
        while True:
            backup_id = times.to_id(started)
            if not any(os.path.lexists(self.path / (prefix + backup_id)) for prefix in ("", STAGING_PREFIX)):
                return backup_id
            started += datetime.timedelta(seconds=1)

    def remove_leftovers(self) -> List[str]:
        """Remove what killed processes left behind; directories that somebody holds stay.

        Returns a sentence about each that cannot be removed.
        """
        kept: List[str] = []
        with locks.briefly_locked(self.place):
            names = [name for name in os.listdir(self.place) if name.startswith(_WORKING_PREFIXES)]
            found = [self.place / name for name in names if is_directory(self.place / name)]
            dead = []
            for path in found:
                with _telling(self.path / path.name, kept):
                    dead += [path] if locks.is_dead(path) else []
        for path in dead:
            with _telling(self.path / path.name, kept):
                shutil.rmtree(path)
        return kept

    def backups(self) -> List[PublishedBackup]:
        """All backups, newest first. A directory without a manifest is none."""
        names = sorted((entry.name for entry in self._listed() if _is_backup(entry)), reverse=True)
        return [self.published(name) for name in names]

    def published(self, backup_id: str) -> PublishedBackup:
        """What should be the backup of this id."""
        return PublishedBackup(self.path / backup_id, self.place / backup_id)

    def catalogue(self, keep: bool = False) -> List[Entry]:
        """What is known of all backups, newest first. With keep it is written down, unless a run is under way."""
        # Read before, as a run that begins meanwhile must not find the job locked for long.
        return catalogue.entries(self.place, self.backups(), keep=self.lock() if keep else None)

    def keep_catalogue(self) -> None:
        """Write down what is known of all backups, to know it at once the next time; for the holder of the lock."""
        catalogue.entries(self.place, self.backups(), keep=contextlib.nullcontext())

    def reread(self, known: List[Entry], doubtful: Collection[str]) -> List[Entry]:
        """What is known of the backups, with the doubtful ones as their manifests have it now."""
        return [catalogue.entry(self.published(entry.id)) if entry.id in doubtful else entry for entry in known]

    def write_catalogue(self, known: List[Entry]) -> None:
        """Write down what is known of the backups; for the holder of the lock. That it cannot be is no error."""
        catalogue.write(self.place, known, contextlib.nullcontext())

    def foreign(self) -> List[str]:
        """The names of what is in the directory and is none of ours; it is never touched."""
        return sorted(entry.name for entry in self._listed() if not _is_own(entry))

    def remove(self, backup: PublishedBackup) -> None:
        """Remove a backup: whole until one rename, gone after it, whenever this process is killed.

        Raises LockedError while another process uses it, or when it was protected meanwhile.
        """
        place, aside = self.place / backup.id, self.place / (_REMOVAL_PREFIX + backup.id)
        what = f"backup {backup.id} of job {self.name}"
        with held_back(), naming(backup.path), locks.locked_directory(place, what):
            if protection.read(place):
                raise LockedError(f"{what} is protected")
            os.rename(place, aside)
            fsync_directory(self.place)
            shutil.rmtree(aside)

    def backup(self, backup_id: Optional[str] = None) -> PublishedBackup:
        """The backup with this id, or the latest good one.

        Raises NotFoundError.
        """
        self.refuse_missing()
        if backup_id is None:
            latest = self.latest_good()
            if not latest:
                raise NotFoundError(f"job {self.name} has no good backup in {self.path.parent}")
            return latest
        if not times.is_id(backup_id):
            raise UsageError(f"{backup_id!r} is not the id of a backup; an id looks like 20261121T013000Z")
        backup = self.published(backup_id)
        if not is_directory(backup.place) or not backup.has_manifest():
            raise NotFoundError(f"job {self.name} has no backup {backup_id} in {self.path.parent}")
        return backup

    def chain(self, backup_id: Optional[str] = None) -> Chain:
        """The backup with this id, or the latest good one, with all that it builds on.

        Raises NotFoundError, or CorruptError when that is not all there.
        """
        return Chains().of(self.backup(backup_id))

    def latest_good(self) -> Optional[PublishedBackup]:
        """The newest backup with a sound, readable manifest whose last verification or drill did not fail.

        An increment is as good as the worst of what it builds on. Where there is any other, it is none of which nobody
        knows whether it is consistent, and none of the future.
        """
        latest = self.latest_good_chain()
        return latest.backup if latest else None

    def latest_good_chain(self) -> Optional[Chain]:
        """The same with all that it builds on."""
        state, now = self.state(), times.now()
        chains = Chains()
        doubtful: Optional[Chain] = None
        for backup in self.backups():
            if state.failure(backup.id):
                continue
            try:
                chain = chains.of(backup)
                chain.check_sizes()
            except (CorruptError, NotFoundError, OSError):
                # A prune may remove it just now; and one that cannot be read must not hide those that can.
                continue
            if any(map(state.failure, chain.ids)):
                continue
            started = times.from_rfc3339(chain.manifest.timestamp_start)
            if chain.manifest.backup.consistency != manifests.UNKNOWN and started <= now:
                return chain
            doubtful = doubtful or chain
        return doubtful

    def latest_good_manifest(self) -> Optional[Manifest]:
        """Its manifest."""
        latest = self.latest_good_chain()
        return latest.manifest if latest else None

    def state(self) -> State:
        """What is known beside the manifests."""
        return states.read(self.place)

    @contextlib.contextmanager
    def changed_state(self) -> Iterator[State]:
        """The state, to be changed and written back while no other process does."""
        with naming(self.path / states.FILE_NAME), locks.briefly_locked(self.place) as directory:
            state = states.read(self.place)
            yield state
            states.write(directory, state)

    def _listed(self) -> List[os.DirEntry[str]]:
        try:
            with os.scandir(self.place) as entries:
                return list(entries)
        except FileNotFoundError:
            return []


@contextlib.contextmanager
def _telling(leftover: Path, kept: List[str]) -> Iterator[None]:
    """Add a sentence where it cannot be removed: it must not stop the run."""
    try:
        yield
    except FileNotFoundError:
        # A verification that ended just now may have removed its own.
        pass
    except OSError as error:
        kept.append(f"{leftover} was left behind by a killed process and cannot be removed: {error.strerror}")


def _is_own(entry: os.DirEntry[str]) -> bool:
    is_work = entry.name.startswith(_WORKING_PREFIXES) and entry.is_dir(follow_symlinks=False)
    is_note = entry.name.startswith(halts.PREFIX)
    return entry.name in _OWN_FILES or is_work or is_note or _is_backup(entry)


def _is_backup(entry: os.DirEntry[str]) -> bool:
    return (
        times.is_id(entry.name)
        and entry.is_dir(follow_symlinks=False)
        and os.path.lexists(f"{entry.path}/{manifests.FILE_NAME}")
    )


class Repository:
    """The directory all jobs of a host share."""

    def __init__(self, path: Path) -> None:
        if not path.is_absolute():
            raise UsageError(f"repository {path} is not an absolute path")
        self.path = path

    def job(self, name: str) -> JobDirectory:
        """The directory of a job, which need not exist yet.

        Raises UsageError for a bad name.
        """
        return JobDirectory(self.path / check_job_name(name))

    def jobs(self) -> List[JobDirectory]:
        """All jobs with a directory, by name."""
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        return [JobDirectory(self.path / name) for name in names if self._is_job(name)]

    def _is_job(self, name: str) -> bool:
        return bool(JOB_NAME_PATTERN.fullmatch(name)) and is_directory(self.path / name)


def default_repository() -> Path:
    """Where backups go unless told: /var/backups/db-backup for root, else backups in the home directory."""
    try:
        return Path("/var/backups/db-backup") if os.geteuid() == 0 else Path.home() / "backups"
    except RuntimeError:
        raise UsageError("this user has no home directory for backups; give a repository") from None
