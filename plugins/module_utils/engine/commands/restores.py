# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command that brings backups back: restore."""

from __future__ import annotations

import argparse

from ..containers.container import Address
from ..operations import restore as restoring
from ..terminal import ProgressBar
from .common import Told, job_with_backup, time_of, warning_lines


def restore(options: argparse.Namespace) -> Told:
    """Restore a backup, or with dry_run tell what would be done."""
    if options.connection is not None or options.import_function is not None:
        from .loading import load  # noqa: PLC0415 - restores of files do not need its code

        return load(options)
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
    at = time_of(options)
    with ProgressBar("restoring", options.quiet) as progress, job_with_backup(options) as job:
        result = restoring.restore(
            job, options.id, request, options.dry_run, progress, at=at, position=options.position
        )
    return Told(result.to_json(), _restore_text(result, options))


def _restore_text(result: restoring.Restored, options: argparse.Namespace) -> str:
    lines = warning_lines(result.warnings)
    if not result.changed:
        return "\n".join([*lines, f"{options.job}: {result.destination} already holds backup {result.backup['id']}"])
    verb = "would restore" if options.dry_run else "restored"
    position = f" up to position {result.position}" if options.at or options.position is not None else ""
    lines += [f"{options.job}: {verb} backup {result.backup['id']}{position} to {result.destination}"]
    lines += [f"  in place: {path}" for path in result.files]
    lines += [f"  kept aside: {path}" for path in result.aside]
    lines += [
        f"  the application needs a map size of at least {size} bytes for {name}"
        for name, size in result.map_sizes.items()
    ]
    return "\n".join(lines)
