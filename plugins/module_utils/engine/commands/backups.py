# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands that make backups, and what belongs to that: run, alert, thaw."""

from __future__ import annotations

import argparse
import dataclasses

from .. import jobs
from ..decoding import encode
from ..operations import backup
from ..operations import run as running
from ..tables import printable, size_in_words
from ..terminal import ProgressBar
from .common import Told, warning_lines


def run(options: argparse.Namespace) -> Told:
    """Back up now, or with dry_run tell what would be done."""
    job = jobs.load(options.jobs_directory, options.job, options.repository)
    if options.force:
        job = dataclasses.replace(job, settings=dataclasses.replace(job.settings, force=True))
    with ProgressBar("verifying", options.quiet) as progress:
        outcome = backup.predict(job) if options.dry_run else running.run(job, progress, options.unattended)
    return Told(outcome.to_json(), _run_text(outcome, options))


def alert(options: argparse.Namespace) -> Told:
    """Call the programs that are to know of a failure."""
    job = jobs.load(options.jobs_directory, options.job, options.repository)
    called = running.alert(job, options.drill)
    return Told({"called": called}, f"{options.job}: {'told of its failure' if called else 'nobody is to be told'}")


def thaw(options: argparse.Namespace) -> Told:
    """Let an application go on that a killed run has left frozen or stopped."""
    from ..operations import thaw as thawing  # noqa: PLC0415 - a run does without it

    job = jobs.load(options.jobs_directory, options.job, options.repository)
    thawed = thawing.thaw(job)
    nothing = [] if thawed.done or thawed.failed or options.quiet else ["nothing was left halted"]
    lines = ["a run is under way"] if thawed.under_way else [*thawed.done, *nothing]
    failure = "; ".join(thawed.failed) or None
    return Told(encode(thawed), "\n".join(f"{options.job}: {printable(line)}" for line in lines), failure)


def _run_text(outcome: backup.Outcome, options: argparse.Namespace) -> str:
    lines = warning_lines(outcome.warnings)
    if outcome.skipped:
        lines.append(f"{options.job}: skipped: {outcome.reason}")
    elif options.dry_run:
        lines.append(
            f"{options.job}: would back up {size_in_words(outcome.backup['summary']['size'])} to {outcome.path}"
        )
    else:
        summary = outcome.backup["summary"]
        proven = "verified" if outcome.backup["check"] else "not verified"
        lines.append(
            f"{options.job}: {outcome.path}: {size_in_words(summary['size'])}, "
            f"stored {size_in_words(summary['repo_size'])}, {proven}, {summary['duration_ms'] / 1000:.1f} s"
        )
    if outcome.pruned:
        verb = "would be removed" if options.dry_run else "removed"
        lines.append(f"{options.job}: {len(outcome.pruned.keep)} kept, {len(outcome.pruned.remove)} {verb}")
    return "\n".join(lines)
