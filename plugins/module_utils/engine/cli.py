# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command dbbackup: the engine for a person at a terminal, and for systemd."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from . import VERSION, jobs, times
from .containers.container import Address
from .errors import BackupError, sentence
from .interrupts import end_work_on_signals
from .operations import backup, check, drill, inform, restore, verify
from .repository.repository import Repository
from .sources.base import Tools
from .tables import ratio_in_words, size_in_words, table
from .terminal import ProgressBar, say


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command; returns the exit code: 0 ok, 1 failed, 2 usage, 10 not found, 11 locked, 130 interrupted."""
    end_work_on_signals()
    options = _parser().parse_args(arguments)
    try:
        result = options.command(options)
        say(json.dumps(result["json"], indent=2) if options.json else result["text"])
        return int(result.get("exit_code", 0))
    except BackupError as error:
        return _failed(options, str(error), error.exit_code)
    except OSError as error:
        return _failed(options, sentence(error), BackupError.exit_code)


def _run(options: argparse.Namespace) -> Dict[str, Any]:
    job = jobs.load(options.jobs_directory, options.job, options.repository)
    with ProgressBar("verifying", options.quiet) as progress:
        outcome = backup.predict(job) if options.dry_run else backup.back_up(job, progress)
    return {"json": outcome.to_json(), "text": _run_text(outcome, options)}


def _run_text(outcome: backup.Outcome, options: argparse.Namespace) -> str:
    lines = [f"warning: {warning}" for warning in outcome.warnings]
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
    return "\n".join(lines)


def _list(options: argparse.Namespace) -> Dict[str, Any]:
    found = inform.inform(_repository(options), options.job)
    rows = []
    for job in found:
        for entry in job.backups:
            verified = f"{entry.verified.status} {entry.verified.at[:16]}" if entry.verified else "never"
            ratio = ratio_in_words(entry.size, entry.repo_size)
            age, stored = times.age_in_words(entry.age), size_in_words(entry.repo_size)
            rows.append([job.name, entry.id, age, size_in_words(entry.size), stored, ratio, entry.status, verified])
    text = table(["JOB", "ID", "AGE", "SIZE", "STORED", "RATIO", "STATUS", "VERIFIED"], rows)
    return {"json": [job.to_json() for job in found], "text": text if rows else "no backups"}


def _status(options: argparse.Namespace) -> Dict[str, Any]:
    found = inform.inform(_repository(options), options.job)
    rows = []
    for job in found:
        moments = [job.last_attempt, job.last_success, job.last_verify, job.last_drill]
        told = [f"{moment.status} {moment.at[:16]}" if moment else "never" for moment in moments]
        rows.append([job.name, str(job.count), size_in_words(job.repo_size), *told])
    text = table(["JOB", "BACKUPS", "STORED", "LAST ATTEMPT", "LAST SUCCESS", "LAST VERIFY", "LAST DRILL"], rows)
    return {"json": [job.to_json() for job in found], "text": text if rows else "no jobs"}


def _verify(options: argparse.Namespace) -> Dict[str, Any]:
    with ProgressBar("verifying", options.quiet) as progress:
        result = verify.verify(_repository(options).job(options.job), options.id, progress)
    lines = [f"warning: {warning}" for warning in result.warnings]
    lines.append(f"{options.job}: {result.path}: verified{', opened and read' if result.opened else ''}")
    return {"json": result.to_json(), "text": "\n".join(lines)}


def _check(options: argparse.Namespace) -> Dict[str, Any]:
    job = jobs.load(options.jobs_directory, options.job, options.repository)
    checked = check.check(job, options.max_age_hours)
    rows = [["ok" if entry.good else "WRONG", entry.question, entry.text] for entry in checked.findings]
    text = table([options.job, "", ""], rows)
    return {"json": checked.to_json(), "text": text, "exit_code": 0 if checked.good else BackupError.exit_code}


def _drill(options: argparse.Namespace) -> Dict[str, Any]:
    told = Tools(options.drill_image, options.drill_command, options.docker_host)
    known = options.job in jobs.names(options.jobs_directory)
    tools = jobs.load(options.jobs_directory, options.job).source.tools(told) if known else told
    with ProgressBar("restoring", options.quiet) as progress:
        result = drill.drill(_repository(options).job(options.job), options.id, tools, progress)
    lines = [f"{options.job}: {result.path}: drill passed", *(f"  {sentence}" for sentence in result.proven)]
    return {"json": result.to_json(), "text": "\n".join(lines)}


def _restore(options: argparse.Namespace) -> Dict[str, Any]:
    request = restore.Request(
        destination=options.dest,
        force=options.force,
        owner=options.owner,
        group=options.group,
        mode=options.mode,
        container=Address(options.container, options.docker_host) if options.container else None,
        heartbeat=options.heartbeat,
    )
    with ProgressBar("restoring", options.quiet) as progress:
        result = restore.restore(
            _repository(options).job(options.job), options.id, request, predict=options.dry_run, progress=progress
        )
    return {"json": result.to_json(), "text": _restore_text(result, options)}


def _restore_text(result: restore.Restored, options: argparse.Namespace) -> str:
    if not result.changed:
        return f"{options.job}: {result.destination} already holds backup {result.backup['id']}"
    verb = "would restore" if options.dry_run else "restored"
    lines = [f"warning: {warning}" for warning in result.warnings]
    lines += [f"{options.job}: {verb} backup {result.backup['id']} to {result.destination}"]
    lines += [f"  in place: {path}" for path in result.files]
    lines += [f"  kept aside: {path}" for path in result.aside]
    lines += [
        f"  the application needs a map size of at least {size} bytes for {name}"
        for name, size in result.map_sizes.items()
    ]
    return "\n".join(lines)


def _repository(options: argparse.Namespace) -> Repository:
    """The one named, else that of the job's file, else the default one."""
    if options.repository is None and options.job and options.job in jobs.names(options.jobs_directory):
        return jobs.repository_at(jobs.load(options.jobs_directory, options.job).settings.repository)
    return jobs.repository_at(options.repository)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dbbackup", description="Hot backups of embedded databases, proven restorable."
    )
    parser.add_argument("--version", action="version", version=f"dbbackup {VERSION}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--repository", metavar="DIRECTORY", help="where the backups are")
    common.add_argument("--jobs-directory", metavar="DIRECTORY", type=Path, default=jobs.DEFAULT_DIRECTORY)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--quiet", action="store_true", help="no progress bar")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Any, text: str, one_job: bool) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=text, description=text.capitalize() + ".")
        added.add_argument("job", metavar="JOB", nargs=None if one_job else "?")
        added.set_defaults(command=command)
        return added

    run = add("run", _run, "back up now, as the job's file says", True)
    run.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    add("list", _list, "list backups", False)
    add("status", _status, "tell how jobs fared", False)
    add("verify", _verify, "read a backup and open it", True).add_argument("--id", help="default: the newest")
    look = add("check", _check, "tell whether a job could run and how its backups are", True)
    look.add_argument("--max-age-hours", type=float, help="an older last good backup is a fault")
    trial = add("drill", _drill, "restore a backup aside and open it with the real engine", True)
    trial.add_argument("--id", help="default: the newest")
    trial.add_argument("--drill-image", metavar="IMAGE", help="image of the server to open it with")
    trial.add_argument("--drill-command", metavar="PROGRAM", help="program of the server to open it with")
    trial.add_argument("--docker-host", metavar="ADDRESS", help="the Docker engine, default: as for docker")
    again = add("restore", _restore, "restore a backup", True)
    again.add_argument("--id", help="default: the newest good one")
    again.add_argument("--dest", type=Path, metavar="PATH", help="default: where it came from")
    again.add_argument("--force", action="store_true", help="replace what is there, which is kept aside")
    again.add_argument("--owner", help="user of the restored files")
    again.add_argument("--group", help="group of the restored files")
    again.add_argument("--mode", type=_octal, help="mode of the restored database files, octal")
    again.add_argument("--container", help="stop it while its files are exchanged, and start it again")
    again.add_argument("--docker-host", metavar="ADDRESS", help="the Docker engine, default: as for docker")
    again.add_argument("--heartbeat", metavar="URL", help="what must answer afterwards, else all is undone")
    again.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    return parser


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not octal, as 0640 is") from None


def _failed(options: argparse.Namespace, message: str, exit_code: int) -> int:
    if options.json:
        with contextlib.suppress(OSError):
            say(json.dumps({"error": message, "exit_code": exit_code}))
    sys.stderr.write(f"dbbackup: {message}\n")
    return exit_code
