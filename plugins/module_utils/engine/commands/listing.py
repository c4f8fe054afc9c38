# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands that look: list, status."""

from __future__ import annotations

import argparse
from typing import Dict, List, Optional, Tuple

from .. import jobs, times
from ..errors import BackupError
from ..operations.inform import BackupInfo, inform
from ..repository.retention import Policy
from ..repository.state import Verification
from ..tables import ratio_in_words, size_in_words, table
from .common import Told, repositories_of, warning_lines
from .retention import policy_of

_LIST = [
    *("JOB", "ID", "TYPE", "AGE", "SIZE", "STORED", "RATIO"),
    *("STATUS", "VERIFIED", "DRILLED", "PROTECTED", "KEPT BECAUSE"),
]
_STATUS = ["JOB", "BACKUPS", "STORED", "LAST ATTEMPT", "LAST SUCCESS", "LAST VERIFY", "LAST DRILL"]


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
    """How the jobs fared."""
    found = [job for one in repositories_of(options) for job in inform(one, options.job)]
    rows = []
    for job in found:
        moments = [job.last_attempt, job.last_success, job.last_verify, job.last_drill]
        told = [f"{moment.status} {moment.at[:16]}" if moment else "never" for moment in moments]
        rows.append([job.name, str(job.count), size_in_words(job.repo_size), *told])
    return Told([job.to_json() for job in found], table(_STATUS, rows) if rows else "no jobs")


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


def _moment(verification: Optional[Verification]) -> str:
    return f"{verification.status} {verification.at[:16]}" if verification else "never"


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
