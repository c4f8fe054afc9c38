# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands that look: list, status."""

from __future__ import annotations

import argparse
from typing import Dict, List, Tuple, Union

from .. import jobs, times
from ..errors import BackupError
from ..operations.health import overview
from ..operations.inform import BackupInfo, inform
from ..repository.retention import Policy
from ..repository.state import Attempt, Verification
from ..tables import printable, ratio_in_words, size_in_words, table
from .common import Told, repositories_of, warning_lines
from .retention import policy_of

_LIST = [
    *("JOB", "ID", "TYPE", "AGE", "SIZE", "STORED", "RATIO"),
    *("STATUS", "VERIFIED", "DRILLED", "PROTECTED", "KEPT BECAUSE"),
]
_STATUS = ["JOB", "HEALTH", "BACKUPS", "STORED", "LAST ATTEMPT", "LAST SUCCESS", "LAST VERIFY", "PROVEN RESTORABLE"]


def list_backups(options: argparse.Namespace) -> Told:
    """Every backup, newest first."""
    policies, warnings = _policies(options)
    repositories = repositories_of(options)
    found = [job for one in repositories for job in inform(one, options.job, policies, keep_catalogue=True)]
    if options.json:
        return Told([job.to_json() for job in found], "")
    rows = [_row(job.name, backup) for job in found for backup in job.backups]
    for job in found:
        warnings += [f"{job.path}/{name} is no backup" for name in job.foreign]
    lines = [*warning_lines(warnings), table(_LIST, rows) if rows else "no backups"]
    return Told(None, "\n".join(lines))


def status(options: argparse.Namespace) -> Told:
    """How the jobs fared, and whether somebody has to look after one."""
    found = overview(options.jobs_directory, repositories_of(options), options.job)
    rows = []
    for one in found:
        job = one.info
        told = [_moment(moment) for moment in (job.last_attempt, job.last_success, job.last_verify)]
        proven = job.proven_restorable.at[:16] if job.proven_restorable else "never"
        rows.append([job.name, one.health.status, str(job.count), size_in_words(job.repo_size), *told, proven])
    ill = [one for one in found if not one.health.good]
    lines = [table(_STATUS, rows) if rows else "no jobs"]
    lines += [
        printable(f"{one.info.name}: {one.health.status}: {one.health.reason or 'no reason is known'}") for one in ill
    ]
    named = ", ".join(f"{one.info.name} ({one.health.status})" for one in ill)
    return Told([one.to_json() for one in found], "\n".join(lines), f"not well: {named}" if ill else None)


def _row(job: str, backup: BackupInfo) -> List[str]:
    reasons = "-"
    if backup.retention:
        told = "; ".join(backup.retention.reasons)
        reasons = told if backup.retention.keep else f"goes: {told}"
    return [
        job,
        backup.id,
        backup.type or "-",
        times.age_in_words(backup.age),
        size_in_words(backup.size),
        size_in_words(backup.repo_size),
        ratio_in_words(backup.size, backup.repo_size),
        backup.status,
        _moment(backup.verified),
        _moment(backup.drilled),
        (backup.protected.reason or "yes") if backup.protected else "-",
        reasons,
    ]


def _moment(moment: Union[Attempt, Verification, None]) -> str:
    return f"{moment.status} {moment.at[:16]}" if moment else "never"


def _policies(options: argparse.Namespace) -> Tuple[Dict[str, Policy], List[str]]:
    """What the job files say to keep; a file that is not valid is told of and does not hide the backups."""
    policies: Dict[str, Policy] = {}
    warnings = []
    for name in [options.job] if options.job else jobs.names(options.jobs_directory):
        try:
            policy = policy_of(options, name)
        except BackupError as error:
            warnings.append(str(error))
        else:
            policies.update({name: policy} if policy else {})
    return policies, warnings
