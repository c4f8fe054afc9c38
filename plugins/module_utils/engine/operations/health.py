# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether jobs are well: their last runs and drills succeeded, and their backups are as fresh as they should be."""

from __future__ import annotations

import dataclasses
import datetime
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from .. import jobs, times
from ..decoding import encode
from ..errors import BackupError, NotFoundError
from ..jobs import Job
from ..repository.repository import JobDirectory, Repository
from ..routine import Routine
from .inform import JobInfo, inform

OK = "ok"


@dataclasses.dataclass(frozen=True)
class Health:
    """One word about a job, ok when it is good, and why it is another."""

    status: str
    reason: Optional[str] = None

    @property
    def good(self) -> bool:
        """Whether nobody has to look after it."""
        return self.status in (OK, "new")


@dataclasses.dataclass(frozen=True)
class Overview:
    """A job with all that is known of it. schedule and max_age_hours are those of its file, if it has one."""

    info: JobInfo
    health: Health
    schedule: Optional[str] = None
    max_age_hours: Optional[float] = None

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        health = {"good": self.health.good, "status": self.health.status, "reason": self.health.reason}
        expected = {"schedule": self.schedule, "max_age_hours": self.max_age_hours}
        value: Dict[str, Any] = {**encode(self.info), "health": health, **expected}
        return value


def overview(jobs_directory: Path, repositories: Sequence[Repository], name: Optional[str] = None) -> List[Overview]:
    """All jobs of these repositories, or the one of this name, and those that have a file and no backup there yet.

    Raises NotFoundError when there is no job of this name.
    """
    found: List[Overview] = []
    files = {known: _load(jobs_directory, known) for known in jobs.names(jobs_directory) if name in (None, known)}
    for repository in repositories:
        infos = {info.name: info for info in _informed(repository, name)}
        for known, job in files.items():
            if isinstance(job, Job) and job.directory.path == repository.path / known:
                infos.setdefault(known, _nothing(job))
        for info in infos.values():
            mine = files.get(info.name)
            belongs = isinstance(mine, Job) and str(mine.directory.path) == info.path
            routine = mine.routine if isinstance(mine, Job) and belongs else None
            installed = _modified(jobs_directory / f"{info.name}.json")
            found.append(_overview(info, routine, installed))
    for known, problem in files.items():
        if isinstance(problem, BackupError):
            found = [one for one in found if one.info.name != known]
            found.append(Overview(_empty(known, ""), Health("faulty", str(problem))))
    if name and not found:
        raise NotFoundError(f"there is no job {name} in {' or '.join(str(one.path) for one in repositories)}")
    return sorted(found, key=lambda one: (one.info.name, one.info.path))


def judge(info: JobInfo, max_age_hours: Optional[float], installed: datetime.datetime) -> Health:
    """What is wrong first. A job that never ran is late when it has been known for long enough."""
    attempt, drill = info.last_attempt, info.last_drill
    if attempt and attempt.status in ("failed", "interrupted"):
        return Health(attempt.status, attempt.message)
    if drill and drill.status == "failed":
        return Health("drill failed", drill.message)
    if info.backups and info.backups[0].status != "complete":
        return Health("damaged", info.backups[0].problem)
    # One that was skipped, as nothing had changed, was as good as made.
    fresh = attempt if attempt and attempt.status == "skipped" else info.last_success
    if max_age_hours is not None:
        since = times.from_rfc3339(fresh.at) if fresh else installed
        age = (times.now() - since).total_seconds()
        if age > max_age_hours * 3600:
            what = "the last good run was" if fresh else "there was no good run since it was installed"
            return Health("late", f"{what} {times.age_in_words(age)} ago, {max_age_hours:g} h are allowed")
    return Health(OK) if fresh else Health("new", "there was no run yet")


def _overview(info: JobInfo, routine: Optional[Routine], installed: datetime.datetime) -> Overview:
    halted = JobDirectory(Path(info.path)).halted()
    if halted:
        told = f"{'; '.join(halted)}; call dbbackup thaw {info.name}"
        return Overview(info, Health("halted", told), routine.schedule if routine else None)
    if not routine:
        return Overview(info, judge(info, None, installed))
    health = judge(info, routine.max_age_hours, installed)
    return Overview(info, health, routine.schedule, routine.max_age_hours)


def _load(jobs_directory: Path, name: str) -> Union[Job, BackupError]:
    try:
        return jobs.load(jobs_directory, name)
    except BackupError as error:
        return error


def _informed(repository: Repository, name: Optional[str]) -> List[JobInfo]:
    try:
        return inform(repository, name)
    except NotFoundError:
        return []


def _nothing(job: Job) -> JobInfo:
    return _empty(job.settings.name, str(job.directory.path))


def _empty(name: str, path: str) -> JobInfo:
    return JobInfo(name, path, 0, 0, None, None, None, None, None, None, [], [])


def _modified(path: Path) -> datetime.datetime:
    try:
        return datetime.datetime.fromtimestamp(os.stat(path).st_mtime, datetime.timezone.utc)
    except OSError:
        return times.now()
