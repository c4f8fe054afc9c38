# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What commands share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import re
from typing import Any, ContextManager, List, Optional

from .. import jobs, times
from ..errors import UsageError
from ..repository.repository import JobDirectory, Repository
from ..sources.base import Tools
from ..tables import printable

_PASSWORD = re.compile(r"password\s*=|://[^@/?]*:[^/?]*@", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Told:
    """The result of a command, for programs and for people; failure is a sentence about what was not done of it."""

    json: Any
    text: str
    failure: Optional[str] = None


def repository_of(options: argparse.Namespace) -> Repository:
    """The one named, else that of the job's file, else the default one."""
    if options.repository is None and options.job and options.job in jobs.names(options.jobs_directory):
        return jobs.repository_at(jobs.load(options.jobs_directory, options.job).settings.repository)
    return jobs.repository_at(options.repository)


def repositories_of(options: argparse.Namespace) -> List[Repository]:
    """The one named or that of the job named; else those of all job files and the default one."""
    if options.repository or options.job:
        return [repository_of(options)]
    return jobs.repositories(options.jobs_directory)


def tools_of(options: argparse.Namespace, told: Tools) -> Tools:
    """What opens copies: as told, else as the file of the job says."""
    known = options.job in jobs.names(options.jobs_directory)
    return jobs.load(options.jobs_directory, options.job).source.tools(told) if known else told


def warning_lines(warnings: List[str]) -> List[str]:
    """A line for each."""
    return [f"warning: {printable(warning)}" for warning in warnings]


def job_with_backup(options: argparse.Namespace) -> ContextManager[JobDirectory]:
    """The job in the repository, or one that has but the backup which the options name a store for.

    Raises UsageError for a password, which everybody can read in the list of processes.
    """
    job = repository_of(options).job(options.job)
    if options.from_sqlite is None and options.from_postgresql is None:
        return contextlib.nullcontext(job)
    from ..operations.fetch import fetched  # noqa: PLC0415 - restores from the repository do not need its code
    from ..stores.table import Store  # noqa: PLC0415

    if options.from_postgresql is not None and _PASSWORD.search(options.from_postgresql):
        raise UsageError("a password does not belong on a command line; use service=name or a password file")
    store = Store(options.from_sqlite, options.from_postgresql, options.table)
    return fetched(store, job.name, options.id)


def time_of(options: argparse.Namespace) -> Optional[datetime.datetime]:
    """The time at which a restored state was the last one.

    Raises UsageError.
    """
    try:
        return times.from_person(options.at) if options.at else None
    except ValueError as error:
        raise UsageError(f"--at: {error}") from None
