# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands that try whether all is well before it is needed: verify, check, drill."""

from __future__ import annotations

import argparse

from .. import jobs
from ..operations import check as checking
from ..operations import drill as drilling
from ..operations import verify as verifying
from ..sources.base import Tools
from ..tables import table
from ..terminal import ProgressBar
from .common import Told, repository_of, tools_of, warning_lines


def verify(options: argparse.Namespace) -> Told:
    """Read a backup and open it."""
    with ProgressBar("verifying", options.quiet) as progress:
        told = Tools(timeout=options.timeout, library=options.library)
        result = verifying.verify(
            repository_of(options).job(options.job), options.id, progress, tools=tools_of(options, told)
        )
    lines = warning_lines(result.warnings)
    lines.append(f"{options.job}: {result.path}: verified{', opened and read' if result.opened else ''}")
    return Told(result.to_json(), "\n".join(lines))


def check(options: argparse.Namespace) -> Told:
    """Tell whether a job could run and how its backups are."""
    job = jobs.load(options.jobs_directory, options.job, options.repository)
    checked = checking.check(job, options.max_age_hours)
    rows = [["ok" if entry.good else "WRONG", entry.question, entry.text] for entry in checked.findings]
    text = table([options.job, "", ""], rows)
    wrong = ", ".join(entry.question for entry in checked.findings if not entry.good)
    return Told(checked.to_json(), text, f"job {options.job} is not well: {wrong}" if wrong else None)


def drill(options: argparse.Namespace) -> Told:
    """Restore a backup aside and open it with the real engine."""
    told = Tools(options.drill_image, options.drill_command, options.docker_host, library=options.library)
    with ProgressBar("restoring", options.quiet) as progress:
        result = drilling.drill(repository_of(options).job(options.job), options.id, tools_of(options, told), progress)
    lines = warning_lines(result.warnings)
    lines += [f"{options.job}: {result.path}: drill passed", *(f"  {sentence}" for sentence in result.proven)]
    return Told(result.to_json(), "\n".join(lines))
