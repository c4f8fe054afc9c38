# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command restore, where it loads a backup back into a running application."""

from __future__ import annotations

import argparse

from ..errors import UsageError
from ..operations import load as loading
from ..operations.choice import Point
from ..terminal import ProgressBar
from .common import Told, job_with_backup, warning_lines
from .evaluation import address_of

_FOR_FILES = ("dest", "owner", "group", "mode", "container", "docker_host", "service", "heartbeat")


def load(options: argparse.Namespace, point: Point) -> Told:
    """Load a backup, or with dry_run tell what would be done."""
    for name in _FOR_FILES:
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for restoring files, not for loading into an application")
    request = loading.Request(
        address=address_of(options),
        connection=options.connection,
        import_function=options.import_function,
        force=options.force or options.yes,
        timeout=options.load_timeout,
        silence=options.timeout,
    )
    with ProgressBar("verifying", options.quiet) as progress, job_with_backup(options) as job:
        result = loading.load(job, point, request, options.dry_run, progress)
    return Told(result.to_json(), _text(result, options))


def _text(result: loading.Loaded, options: argparse.Namespace) -> str:
    lines = warning_lines(result.warnings)
    if not result.changed:
        return "\n".join([*lines, f"{options.job}: {result.destination} already holds backup {result.backup['id']}"])
    verb = "would load" if options.dry_run else "loaded"
    lines.append(f"{options.job}: {verb} backup {result.backup['id']} into {result.destination}")
    if result.before and result.after:
        after = "as many as it leads to" if result.after.datoms is None else result.after.datoms
        lines.append(f"  {result.before.datoms} datoms before, {after} after")
    if result.replaced:
        lines.append(f"  what was there before: {result.replaced}, until the server ends")
    return "\n".join(lines)
