# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands that make, read and restore backups: run, verify, restore."""

from __future__ import annotations

import argparse
import dataclasses

from .. import jobs
from ..containers.container import Address
from ..operations import backup
from ..operations import restore as restoring
from ..operations import verify as verifying
from ..tables import size_in_words
from ..terminal import ProgressBar
from .common import Told, repository_of, warning_lines


def run(options: argparse.Namespace) -> Told:
    """Back up now, or with dry_run tell what would be done."""
    job = jobs.load(options.jobs_directory, options.job, options.repository)
    if options.force:
        job = dataclasses.replace(job, settings=dataclasses.replace(job.settings, force=True))
    with ProgressBar("verifying", options.quiet) as progress:
        outcome = backup.predict(job) if options.dry_run else backup.back_up(job, progress)
    return Told(outcome.to_json(), _run_text(outcome, options))


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


def verify(options: argparse.Namespace) -> Told:
    """Read a backup and open it."""
    with ProgressBar("verifying", options.quiet) as progress:
        job = repository_of(options).job(options.job)
        result = verifying.verify(job, options.id, progress, timeout=options.timeout)
    lines = warning_lines(result.warnings)
    lines.append(f"{options.job}: {result.path}: verified{', opened and read' if result.opened else ''}")
    return Told(result.to_json(), "\n".join(lines))


def restore(options: argparse.Namespace) -> Told:
    """Restore a backup, or with dry_run tell what would be done."""
    request = restoring.Request(
        destination=options.dest,
        force=options.force,
        owner=options.owner,
        group=options.group,
        mode=options.mode,
        timeout=options.timeout,
        container=Address(options.container, options.docker_host) if options.container else None,
        heartbeat=options.heartbeat,
    )
    with ProgressBar("restoring", options.quiet) as progress:
        result = restoring.restore(
            repository_of(options).job(options.job), options.id, request, predict=options.dry_run, progress=progress
        )
    return Told(result.to_json(), _restore_text(result, options))


def _restore_text(result: restoring.Restored, options: argparse.Namespace) -> str:
    lines = warning_lines(result.warnings)
    if not result.changed:
        return "\n".join([*lines, f"{options.job}: {result.destination} already holds backup {result.backup['id']}"])
    verb = "would restore" if options.dry_run else "restored"
    lines += [f"{options.job}: {verb} backup {result.backup['id']} to {result.destination}"]
    lines += [f"  in place: {path}" for path in result.files]
    lines += [f"  kept aside: {path}" for path in result.aside]
    lines += [
        f"  the application needs a map size of at least {size} bytes for {name}"
        for name, size in result.map_sizes.items()
    ]
    return "\n".join(lines)
