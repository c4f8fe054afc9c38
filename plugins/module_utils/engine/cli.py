# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command dbbackup: the engine for a person at a terminal, and for systemd."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Callable, List, Optional

from . import VERSION, jobs
from .commands.common import Told
from .errors import BackupError, sentence
from .interrupts import end_work_on_signals
from .processes import DEFAULT_TIMEOUT
from .repository.retention import Policy
from .terminal import say


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command.

    Returns the exit code: 0 ok, 1 failed, 2 usage, 10 not found, 11 locked, 130 interrupted.
    """
    end_work_on_signals()
    options = _parser().parse_args(arguments)
    try:
        told = options.command(options)
        if options.json or told.text:
            say(json.dumps(told.json, indent=2) if options.json else told.text)
        if told.failure:
            sys.stderr.write(f"dbbackup: {told.failure}\n")
            return BackupError.exit_code
    except BackupError as error:
        return _failed(options, str(error), error.exit_code)
    except OSError as error:
        return _failed(options, sentence(error), BackupError.exit_code)
    return 0


def _command(place: str) -> Callable[[argparse.Namespace], Told]:
    """The function at this place in commands, loaded when it is called: no run has the code of others in memory."""
    module, function = place.split(".")

    def command(options: argparse.Namespace) -> Told:
        told: Told = getattr(importlib.import_module(f".commands.{module}", __package__), function)(options)
        return told

    return command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dbbackup", description="Hot backups of embedded databases, proven restorable."
    )
    parser.add_argument("--version", action="version", version=f"dbbackup {VERSION}")
    _add_common(parser)
    parser.set_defaults(jobs_directory=jobs.default_directory())
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_common(common)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, place: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=text, description=text.capitalize() + ".")
        added.set_defaults(command=_command(place))
        return added

    def add_for_job(name: str, place: str, text: str) -> argparse.ArgumentParser:
        added = add(name, place, text)
        added.add_argument("job", metavar="JOB")
        return added

    def add_for_jobs(name: str, place: str, text: str) -> argparse.ArgumentParser:
        added = add(name, place, text)
        added.add_argument("job", metavar="JOB", nargs="?", help="default: all")
        return added

    run = add_for_job("run", "backups.run", "back up now, as the job's file says")
    run.add_argument("--force", action="store_true", help="whatever min_age_hours and skip_unchanged say")
    run.add_argument("--unattended", action="store_true", help="wait for the server, and try again when it fails")
    _dry_run(run)
    alert = add_for_job("alert", "backups.alert", "call the programs of on_failure")
    alert.add_argument("--drill", action="store_true", help="for a drill that failed, not a run")
    add_for_job("thaw", "backups.thaw", "let an application go on that a killed run has left frozen or stopped")
    add_for_jobs("list", "listing.list_backups", "list backups")
    add_for_jobs("status", "listing.status", "tell how jobs fared")
    verify = add_for_job("verify", "trials.verify", "read a backup and open it")
    verify.add_argument("--id", help="default: the newest")
    _opening_options(verify)
    look = add_for_job("check", "trials.check", "tell whether a job could run and how its backups are")
    look.add_argument("--max-age-hours", type=float, help="an older last good backup is a fault")
    _drill_options(add_for_job("drill", "trials.drill", "restore a backup aside and open it with the real engine"))
    _restore_options(add_for_job("restore", "restoring.restore", "restore a backup"))
    _adopt_options(add("adopt", "adoption.adopt", "take backup files of other tools into the repository"))
    _prune_options(add_for_jobs("prune", "retention.prune", "remove backups that need not be kept"))
    protect = add_for_job("protect", "retention.protect", "keep a backup whatever the policy says")
    protect.add_argument("--id", required=True)
    protect.add_argument("--reason", help="what for; shown by list")
    unprotect = add_for_job("unprotect", "retention.unprotect", "leave a backup to the policy again")
    unprotect.add_argument("--id", required=True)
    _evaluate_options(add("nrepl-eval", "evaluation.evaluate", "have an nREPL server evaluate code"))
    return parser


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    text = "one form; - or none: from standard input, where no list of processes shows it"
    parser.add_argument("code", metavar="CODE", nargs="?", help=text)
    parser.add_argument("--ns", metavar="NAMESPACE", help="evaluate it there, default: that of the server")
    parser.add_argument(
        "--timeout", type=int, metavar="SECONDS", default=DEFAULT_TIMEOUT, help=f"for all, default: {DEFAULT_TIMEOUT}"
    )
    _server_options(parser)


def _server_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the nREPL server", "default: that of .nrepl-port in the working directory")
    group.add_argument("--host", help="default: 127.0.0.1")
    group.add_argument("--port", type=int)
    group.add_argument("--socket", metavar="PATH", help="a unix socket")
    group.add_argument("--port-file", metavar="PATH", help="the file that the server wrote its port to")
    group.add_argument("--tls-keys", metavar="PATH", help="file with the certificates and the key of a client")


def _drill_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", help="default: the newest")
    parser.add_argument("--drill-image", metavar="IMAGE", help="image of the server to open it with")
    parser.add_argument("--drill-command", metavar="PROGRAM", help="program of the server to open it with")
    _library(parser)
    _docker_host(parser)


def _docker_host(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--docker-host", metavar="ADDRESS", help="the Docker engine, default: as for docker")


def _restore_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", help="default: the newest good one")
    parser.add_argument(
        "--at", metavar="TIME", help="the state of this time, as '2026-11-21 01:30', as far as backups have it"
    )
    parser.add_argument("--position", type=int, help="the state of this position, as a backup has it")
    parser.add_argument("--latest", action="store_true", help="the newest good one, without a question")
    parser.add_argument("--yes", action="store_true", help="the same as --force: replace what is there, ask nothing")
    parser.add_argument("--ask", action="store_true", help="fail where nobody can be asked, unless told --yes")
    parser.add_argument("--dest", type=Path, metavar="PATH", help="default: where it came from")
    parser.add_argument("--force", action="store_true", help="replace what is there, which is kept aside")
    parser.add_argument("--owner", help="user of the restored files")
    parser.add_argument("--group", help="group of the restored files")
    parser.add_argument("--mode", type=_octal, help="mode of the restored database files, octal")
    parser.add_argument("--container", help="stop it while its files are exchanged, and start it again")
    parser.add_argument("--service", help="the same with a service of systemd")
    _docker_host(parser)
    parser.add_argument("--heartbeat", metavar="URL", help="what must answer afterwards, else all is undone")
    _opening_options(parser)
    _dry_run(parser)
    group = parser.add_argument_group("load an export back into a running application, not into files")
    group.add_argument("--connection", metavar="NAME", help="the var with the connection, as my.app/conn")
    group.add_argument(
        "--import-function", metavar="NAME", help="instead, the function to call with the path of a file"
    )
    text = "for all of it, default: %(default)s"
    group.add_argument("--load-timeout", type=int, metavar="SECONDS", default=3600, help=text)
    _server_options(parser)
    group = parser.add_argument_group("restore an export from a table beside the repository")
    group.add_argument("--from-sqlite", metavar="FILE")
    group.add_argument("--from-postgresql", metavar="CONNECTION", help="without a password, as service=name")
    group.add_argument("--table", metavar="NAME", default="db_backup", help="default: %(default)s")


def _adopt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    parser.add_argument("--pattern", required=True, help="which files directly in it, as 'datahike-*.edn'")
    parser.add_argument("--job", metavar="JOB", help="default: what the pattern begins with, before '-' or a wildcard")
    _dry_run(parser)


def _prune_options(parser: argparse.ArgumentParser) -> None:
    _policy_options(parser)
    _dry_run(parser)
    parser.add_argument("--simulate", type=int, metavar="DAYS", help="tell what would be kept after so many days")
    parser.add_argument("--every", type=float, metavar="HOURS", help="simulate a backup so often; default: as so far")


def _policy_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to keep", "instead of what the job's file says")
    for field in dataclasses.fields(Policy):
        kind = {"int": int, "float": float}.get(str(field.type), str)
        metavar = {"keep_days": "DAYS", "timezone": "ZONE"}.get(field.name, "N" if kind is int else "DURATION")
        group.add_argument(f"--{field.name.replace('_', '-')}", type=kind, metavar=metavar)


def _opening_options(parser: argparse.ArgumentParser) -> None:
    text = f"seconds of silence after which opening the copy fails, default: {DEFAULT_TIMEOUT}"
    parser.add_argument("--timeout", type=int, metavar="SECONDS", default=DEFAULT_TIMEOUT, help=text)
    _library(parser)


def _library(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--library", metavar="PATH", help="what opens copies of Datalevin, as libdtlv.so or its jar")


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")


def _add_common(parser: argparse.ArgumentParser) -> None:
    """What can be said before the command and after it; there it has no default, which would undo what was said."""
    parser.add_argument("--repository", metavar="DIRECTORY", help="where the backups are")
    parser.add_argument("--jobs-directory", metavar="DIRECTORY", type=Path, help=f"default: {jobs.default_directory()}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


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
