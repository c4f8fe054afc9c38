# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there: jobs, their backups, and how they fared."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Optional

from .. import times
from ..errors import CorruptError, NotFoundError
from ..repository.published import PublishedBackup
from ..repository.repository import JobDirectory, Repository
from ..repository.state import Attempt, State, Verification


@dataclasses.dataclass(frozen=True)
class BackupInfo:
    """One backup; sizes in bytes, age in seconds. problem tells why it is not usable."""

    id: str
    path: str
    status: str
    age: int
    size: Optional[int] = None
    repo_size: Optional[int] = None
    duration_ms: Optional[int] = None
    engine: Optional[str] = None
    type: Optional[str] = None
    verified: Optional[Verification] = None
    drilled: Optional[Verification] = None
    problem: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class JobInfo:
    """One job, its backups newest first, and its last attempt, success, verification and drill."""

    name: str
    path: str
    count: int
    repo_size: int
    last_attempt: Optional[Attempt]
    last_success: Optional[Attempt]
    last_verify: Optional[Attempt]
    last_drill: Optional[Attempt]
    backups: List[BackupInfo]

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return dataclasses.asdict(self)


def inform(repository: Repository, name: Optional[str] = None) -> List[JobInfo]:
    """All jobs, or the one of this name. Changes nothing.

    Raises NotFoundError when there is no such job.
    """
    if name is None:
        return [_job(directory) for directory in repository.jobs()]
    directory = repository.job(name)
    if not directory.path.is_dir():
        raise NotFoundError(f"there is no job {name} in {repository.path}")
    return [_job(directory)]


def _job(directory: JobDirectory) -> JobInfo:
    state = directory.state()
    backups = [_backup(backup, state) for backup in directory.backups()]
    return JobInfo(
        name=directory.name,
        path=str(directory.path),
        count=len(backups),
        repo_size=sum(backup.repo_size or 0 for backup in backups),
        last_attempt=settled(directory, state.last_attempt),
        last_success=state.last_success,
        last_verify=state.last_verify,
        last_drill=state.last_drill,
        backups=backups,
    )


def _backup(backup: PublishedBackup, state: State) -> BackupInfo:
    age = int((times.now() - times.from_id(backup.id)).total_seconds())
    verified, drilled = state.verified.get(backup.id), state.drilled.get(backup.id)
    try:
        manifest = backup.manifest()
        backup.check_sizes(manifest)
    except (CorruptError, OSError) as error:
        return BackupInfo(
            backup.id, str(backup.path), "damaged", age, verified=verified, drilled=drilled, problem=str(error)
        )
    failed = verified is not None and verified.status == "failed"
    return BackupInfo(
        id=backup.id,
        path=str(backup.path),
        status="damaged" if failed else manifest.status,
        age=age,
        size=manifest.summary.size,
        repo_size=manifest.summary.repo_size,
        duration_ms=manifest.summary.duration_ms,
        engine=manifest.engine.name,
        type=manifest.backup.type,
        verified=verified,
        drilled=drilled,
        problem=verified.message if failed and verified else None,
    )


def settled(directory: JobDirectory, attempt: Optional[Attempt]) -> Optional[Attempt]:
    """A run that is written down as running although nobody holds the lock was killed."""
    if attempt and attempt.status == "running" and not directory.is_locked():
        return dataclasses.replace(attempt, status="interrupted")
    return attempt
