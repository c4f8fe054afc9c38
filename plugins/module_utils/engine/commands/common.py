# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What commands share."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, List, Optional

from .. import jobs
from ..repository.repository import Repository
from ..tables import printable


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


def warning_lines(warnings: List[str]) -> List[str]:
    """A line for each."""
    return [f"warning: {printable(warning)}" for warning in warnings]
