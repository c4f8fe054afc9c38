# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command restore: for a script it says at once what it did, a person at a terminal is shown a plan and asked."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import List

from .. import jobs, times
from ..containers.container import Address
from ..errors import Interrupted, UsageError
from ..operations import restore as restoring
from ..operations.choice import NEWEST, Point
from ..operations.inform import BackupInfo, inform
from ..operations.request import Request
from ..operations.restored import Restored
from ..repository.repository import JobDirectory
from ..routine import Application
from ..sources.base import Tools
from ..tables import printable, size_in_words, table
from ..terminal import ProgressBar, ask, say
from .common import Told, job_with_backup, repository_of, time_of, tools_of, warning_lines

_LIST = ["", "ID", "AGE", "SIZE", "STATUS", "VERIFIED", "DRILLED"]
_LONGEST_LIST = 20


def restore(options: argparse.Namespace) -> Told:
    """Restore a backup, or with dry_run tell what would be done."""
    point = Point(options.id, time_of(options), options.position)
    if options.connection is not None or options.import_function is not None:
        from .loading import load  # noqa: PLC0415 - restores of files do not need its code

        return load(options, point)
    request = _request(options)
    with job_with_backup(options) as directory:
        if _is_asked(options):
            if not options.latest and point == NEWEST:
                point = Point(_choose(options, directory))
            request = dataclasses.replace(request, force=True)
            _confirm(options, directory, point, request)
        with ProgressBar("restoring", options.quiet) as progress:
            result = restoring.restore(directory, point, request, options.dry_run, progress)
    return Told(result.to_json(), _text(result, options, predicted=options.dry_run))


def _is_asked(options: argparse.Namespace) -> bool:
    if options.yes or options.force or options.dry_run or options.json:
        return False
    if sys.stdin.isatty() and sys.stdout.isatty():
        return True
    if options.ask:
        raise UsageError(
            "nobody is at a terminal to be asked; say --yes to restore, or --dry-run to see what would be done"
        )
    return False


def _request(options: argparse.Namespace) -> Request:
    """As the command line says; in place also as the job's file does."""
    known = _application(options) if options.dest is None else Application()
    is_elsewhere = options.container or options.service
    container = options.container or (None if is_elsewhere else known.container)
    docker_host = options.docker_host or known.docker_host
    mode = int(known.mode, 8) if known.mode and options.mode is None else options.mode
    return Request(
        destination=options.dest or (Path(known.dest) if known.dest else None),
        # To see what would be done, one need not decide it yet.
        force=options.force or options.yes or (options.ask and options.dry_run),
        owner=options.owner or known.owner,
        group=options.group or known.group,
        mode=mode,
        tools=tools_of(options, Tools(timeout=options.timeout, library=options.library)),
        container=Address(container, docker_host) if container else None,
        service=options.service or (None if is_elsewhere else known.service),
        heartbeat=options.heartbeat or known.heartbeat,
        health=known.health,
    )


def _application(options: argparse.Namespace) -> Application:
    """What the file of the job says, or that its database is in a container."""
    if options.job not in jobs.names(options.jobs_directory):
        return Application()
    job = jobs.load(options.jobs_directory, options.job)
    application, container = job.routine.restore, job.source.container
    if container and not (application.container or application.service or application.dest):
        return dataclasses.replace(application, container=container.name, docker_host=container.docker_host)
    return application


def _choose(options: argparse.Namespace, directory: JobDirectory) -> str:
    """Ask which one."""
    newest = directory.backup().id
    (job,) = inform(repository_of(options), options.job)
    shown = job.backups[:_LONGEST_LIST]
    say(table(_LIST, [_row(number, backup) for number, backup in enumerate(shown, 1)]))
    if len(job.backups) > len(shown):
        say(f"and {len(job.backups) - len(shown)} older ones; dbbackup list {options.job} shows all")
    answer = ask(f"Which one? A number or an id; Enter for the newest good one, {newest}: ")
    if answer.isdigit() and 1 <= int(answer) <= len(shown):
        return shown[int(answer) - 1].id
    return answer or newest


def _row(number: int, backup: BackupInfo) -> List[str]:
    looked = [f"{one.status} {one.at[:16]}" if one else "never" for one in (backup.verified, backup.drilled)]
    return [str(number), backup.id, times.age_in_words(backup.age), size_in_words(backup.size), backup.status, *looked]


def _confirm(options: argparse.Namespace, directory: JobDirectory, point: Point, request: Request) -> None:
    plan = restoring.restore(directory, point, request, predict=True)
    say(_text(plan, options, predicted=True))
    if plan.changed and ask("Restore it now? [y/N] ").lower() not in ("y", "yes"):
        raise Interrupted("nothing was restored")


def _text(result: Restored, options: argparse.Namespace, *, predicted: bool) -> str:
    lines = warning_lines(result.warnings)
    if not result.changed:
        return "\n".join([*lines, f"{options.job}: {result.destination} already holds backup {result.backup['id']}"])
    verb = "would restore" if predicted else "restored"
    position = f" up to position {result.position}" if options.at or options.position is not None else ""
    lines.append(f"{options.job}: {verb} backup {result.backup['id']}{position} to {result.destination}")
    if result.application:
        verb = (
            "would be stopped, started again and looked after" if predicted else "was stopped, runs again and is well"
        )
        lines.append(f"  {result.application} {verb}")
    lines += [f"  in place: {path}" for path in result.files]
    lines += [f"  kept aside: {path}" for path in result.aside]
    lines += [
        f"  the application needs a map size of at least {size} bytes for {name}"
        for name, size in result.map_sizes.items()
    ]
    if result.undo and not predicted:
        lines += ["  to undo it:", *(f"    {command}" for command in result.undo)]
    return "\n".join(printable(line) for line in lines)
