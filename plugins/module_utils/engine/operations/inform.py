# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there: jobs, their backups, and how they fared."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any, Dict, List, Mapping, Optional

from .. import times
from ..decoding import encode
from ..repository import protection
from ..repository.catalogue import Entry
from ..repository.manifest import FULL
from ..repository.protection import Protection
from ..repository.repository import JobDirectory, Repository
from ..repository.retention import Decision, Policy, decide
from ..repository.state import Attempt, State, Verification
from .prune import candidates_of


@dataclasses.dataclass(frozen=True)
class Retention:
    """Whether the next prune keeps a backup, and why."""

    keep: bool
    reasons: List[str]


@dataclasses.dataclass(frozen=True)
class BackupInfo:
    """One backup; sizes in bytes, age in seconds. problem tells why it is not usable.

    retention tells whether the next prune keeps it, and why, where the policy of the job is known.
    """

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
    protected: Optional[Protection] = None
    retention: Optional[Retention] = None
    problem: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class JobInfo:
    """One job, its backups newest first, its last attempt, success, verification and drill.

    proven_restorable is the last drill that passed. trend tells by how many percent the newest full backup is larger
    than the one before. foreign has the names of what lies in its directory and is none of ours.
    """

    name: str
    path: str
    count: int
    repo_size: int
    last_attempt: Optional[Attempt]
    last_success: Optional[Attempt]
    last_verify: Optional[Attempt]
    last_drill: Optional[Attempt]
    proven_restorable: Optional[Attempt]
    trend: Optional[float]
    foreign: List[str]
    backups: List[BackupInfo]

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        value: Dict[str, Any] = encode(self)
        return value


def inform(
    repository: Repository,
    name: Optional[str] = None,
    policies: Optional[Mapping[str, Policy]] = None,
    keep_catalogue: bool = False,
) -> List[JobInfo]:
    """All jobs, or the one of this name. policies are those of the jobs that have one.

    Changes nothing; only with keep_catalogue what was read is written down where it can be, to save time the next time.

    Raises NotFoundError when there is no such job.
    """
    policies = policies or {}
    if name is None:
        return [_job(directory, policies.get(directory.name), keep_catalogue) for directory in repository.jobs()]
    directory = repository.job(name)
    directory.refuse_missing()
    return [_job(directory, policies.get(name), keep_catalogue)]


def _job(directory: JobDirectory, policy: Optional[Policy], keep_catalogue: bool) -> JobInfo:
    state, known, now = directory.state(), directory.catalogue(keep=keep_catalogue), times.now()
    decided = decide(candidates_of(directory, known, state), policy, now) if policy else []
    decisions = {decision.id: decision for decision in decided}
    backups = [_backup(directory, entry, state, decisions.get(entry.id), now) for entry in known]
    return JobInfo(
        name=directory.name,
        path=str(directory.path),
        count=len(backups),
        repo_size=sum(backup.repo_size or 0 for backup in backups),
        last_attempt=settled(directory, state.last_attempt),
        last_success=state.last_success,
        last_verify=state.last_verify,
        last_drill=state.last_drill,
        proven_restorable=_proven(state),
        trend=_trend([backup.size for backup in backups if backup.size is not None and backup.type == FULL]),
        foreign=directory.foreign(),
        backups=backups,
    )


def _proven(state: State) -> Optional[Attempt]:
    drills = [Attempt(drill.at, drill.status, known, drill.message) for known, drill in state.drilled.items()]
    # The backup of the last one may have been pruned since.
    drills += [state.last_drill] if state.last_drill else []
    passed = [drill for drill in drills if drill.status == "passed"]
    return max(passed, key=lambda drill: (drill.at, drill.id or ""), default=None)


def _trend(sizes: List[int]) -> Optional[float]:
    """sizes are those of full backups, the newest first; that of an increment tells nothing of the database."""
    return round((sizes[0] / sizes[1] - 1) * 100, 1) if len(sizes) > 1 and sizes[1] else None


def _backup(
    directory: JobDirectory, entry: Entry, state: State, decision: Optional[Decision], now: datetime.datetime
) -> BackupInfo:
    problem = entry.problem or _failure(entry, state)
    path = directory.path / entry.id
    return BackupInfo(
        id=entry.id,
        path=str(path),
        status="damaged" if problem else "complete",
        age=int((now - times.from_id(entry.id)).total_seconds()),
        size=entry.size,
        repo_size=entry.repo_size,
        duration_ms=entry.duration_ms,
        engine=entry.engine,
        type=entry.type,
        verified=state.verified.get(entry.id),
        drilled=state.drilled.get(entry.id),
        protected=protection.read(path),
        retention=Retention(decision.keep, decision.reasons) if decision else None,
        problem=problem,
    )


def _failure(entry: Entry, state: State) -> Optional[str]:
    """What the last verification or drill found wrong with the backup, or with one that it builds on."""
    for backup_id in [entry.id, *entry.references]:
        failure = state.failure(backup_id)
        if failure:
            told = failure.message or "it failed its last verification or drill"
            return told if backup_id == entry.id else f"it builds on {backup_id}: {told}"
    return None


def settled(directory: JobDirectory, attempt: Optional[Attempt]) -> Optional[Attempt]:
    """A run that is written down as running although nobody holds the lock was killed."""
    if attempt and attempt.status == "running" and not directory.is_locked():
        return dataclasses.replace(attempt, status="interrupted")
    return attempt
