# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a host to what a list of jobs describes, all of it at once: many jobs take hardly longer than one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..engine import jobs as parsing
from ..engine.errors import BackupError, UsageError
from ..engine.jobs import Job
from ..engine.repository import documents
from . import calendar, units
from .environment import Libraries, choose
from .files import Wanted, read
from .layout import Layout
from .manager import Manager
from .runner import Runner

_SCRIPT = """\
#!/bin/sh
exec {command} --jobs-directory {jobs} restore {name} --ask "$@"
"""
_CRON = """\
# Installed by the role embedded.db_backup.backup, which replaces it.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


@dataclasses.dataclass(frozen=True)
class Installed:
    """What was changed, or would be: files that were written, paths that were removed, each with its text before and
    after where it may be shown; and the timers as they are now.
    """

    changed: bool
    version: str
    environment: Optional[str]
    files: List[str]
    removed: List[str]
    texts: List[Tuple[str, str, str]]
    timers: List[Dict[str, Any]]
    warnings: List[str]

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        names = ("changed", "version", "environment", "files", "removed", "timers", "warnings")
        return {name: getattr(self, name) for name in names}


def install(
    options: Sequence[Dict[str, Any]],
    layout: Layout,
    python: str,
    repository: Optional[str],
    *,
    libraries: Libraries,
    predict: bool,
) -> Installed:
    """Install the jobs and remove those that were installed earlier and are not among them; never a backup.

    Raises UsageError, before anything is changed, for a job that makes no sense; BackupError when libraries cannot be
    installed, with the runner as it was, or when systemd refuses.
    """
    manager = Manager(layout.is_system)
    with_systemd = manager.is_here()
    described = [_complete(one, layout, repository, with_systemd) for one in options]
    jobs = [parsing.parse(one, f"job {one['name']}") for one in described]
    names = [job.settings.name for job in jobs]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(f"job {name}: name: another job before it has the same name")
    runner = Runner(layout, python, choose(layout, python, libraries))
    wanted = _wanted(layout, jobs, described, runner.program, with_systemd)
    work = _Work(layout, manager if with_systemd else None, runner, wanted, jobs)
    return work.predict() if predict else work.do()


def _complete(options: Dict[str, Any], layout: Layout, repository: Optional[str], with_systemd: bool) -> Dict[str, Any]:
    """The options with what the job file says for its readers: where the backups are, and when they are late."""
    completed = {"repository": repository or str(layout.repository), **options}
    place = f"job {options.get('name')}"
    routine = parsing.parse(completed, place).routine
    if not with_systemd and not layout.is_system and (routine.schedule or routine.drill_schedule):
        raise UsageError(f"{place}: schedule: a user has timers only where systemd runs; say null")
    try:
        gap = _longest_gap("schedule", routine.schedule, with_systemd)
        _longest_gap("drill_schedule", routine.drill_schedule, with_systemd)
        if not with_systemd:
            _cron_times(routine.schedule, routine.cron, "cron")
            _cron_times(routine.drill_schedule, routine.drill_cron, "drill_cron")
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
    if gap is not None and routine.max_age_hours is None:
        completed["max_age_hours"] = round(gap + calendar.slack_hours(gap), 1)
    return completed


def _longest_gap(name: str, event: Optional[str], with_systemd: bool) -> Optional[float]:
    if not event:
        return None
    if not with_systemd:
        return calendar.gap_without_systemd(event)
    try:
        return calendar.longest_gap(event)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _cron_times(event: Optional[str], told: Optional[str], name: str) -> Optional[str]:
    if told:
        calendar.check_cron(name, told)
    return (told or calendar.to_cron(event)) if event else None


def _wanted(
    layout: Layout, jobs: Sequence[Job], described: Sequence[Dict[str, Any]], command: str, with_systemd: bool
) -> List[Wanted]:
    files = [Wanted(layout.command, command, 0o755)]
    for job, options in zip(jobs, described):
        name = job.settings.name
        text = json.dumps(options, indent=2, sort_keys=True) + "\n"
        files.append(Wanted(layout.jobs / f"{name}.json", text, 0o640, _group_of(job), is_shown=False))
        script = _SCRIPT.format(command=layout.command, jobs=layout.jobs, name=name)
        files.append(Wanted(layout.programs / f"restore-{name}", script, 0o755))
    if with_systemd:
        texts = dict(units.templates(layout)) if jobs else {}
        for job in jobs:
            texts.update(units.drop_ins(layout, job))
        files += [Wanted(path, text) for path, text in texts.items()]
    elif jobs and layout.is_system:
        files.append(Wanted(layout.crontab, _CRON + "".join(_cron_lines(layout, job) for job in jobs)))
    return files


def _cron_lines(layout: Layout, job: Job) -> str:
    routine, name = job.routine, job.settings.name
    command = f"{layout.command} --jobs-directory {layout.jobs} --quiet"
    user = routine.unit.user or "root"
    lines = ""
    for times, order, alert in (
        (_cron_times(routine.schedule, routine.cron, "cron"), f"run {name} --unattended", f"alert {name}"),
        (
            _cron_times(routine.drill_schedule, routine.drill_cron, "drill_cron"),
            f"drill {name}",
            f"alert {name} --drill",
        ),
    ):
        if times:
            lines += f"{times} {user} {command} {order} >/dev/null || {command} {alert} >/dev/null\n"
    return lines


def _group_of(job: Job) -> Optional[int]:
    """Who runs it has to read its file."""
    user = job.routine.unit.user
    return _account(user).pw_gid if user else None


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise UsageError(f"unit.user: there is no user {user} on this host") from None


class _Work:
    """The difference between what is there and what is wanted."""

    def __init__(
        self, layout: Layout, manager: Optional[Manager], runner: Runner, wanted: Sequence[Wanted], jobs: Sequence[Job]
    ) -> None:
        self._layout = layout
        self._manager = manager
        self._runner = runner
        self._jobs = jobs
        self._timers = [unit for job in jobs for unit in units.timer_units(job)] if manager else []
        self._record = {"files": [str(one.path) for one in wanted], "timers": self._timers}
        earlier = _earlier(layout.record)
        self._stale = [Path(path) for path in earlier["files"] if path not in self._record["files"]]
        self._stale = [path for path in self._stale if os.path.lexists(path)]
        self._stale_timers = [unit for unit in earlier["timers"] if unit not in self._timers] if manager else []
        self._written = [one for one in wanted if not one.is_there()]
        self._is_recorded = earlier == self._record
        self._new_runner = not runner.is_there()
        self._directories = _directories(layout, jobs)
        self._missing = [
            (path, mode, owner) for path, mode, owner in self._directories if not _is_as(path, mode, owner)
        ]

    def predict(self) -> Installed:
        """Only tell. Where systemd knows no timer yet, all are to be enabled."""
        return self._told([], self._is_changed(self._sleeping()))

    def do(self) -> Installed:
        """All of it; the runner first, as what is installed later calls it."""
        sleeping = self._sleeping()
        changed, texts = self._is_changed(sleeping), self._texts()
        for path, mode, owner in self._missing:
            _make(path, mode, owner)
        if self._new_runner:
            self._runner.install()
        self._remove()
        for wanted in self._written:
            wanted.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            wanted.write()
        if self._manager:
            self._settle(self._manager, sleeping)
        self._runner.remove_others()
        if not self._is_recorded:
            _remember(self._layout.record, self._record)
        return self._told(texts, changed)

    def _is_changed(self, sleeping: Sequence[str]) -> bool:
        return bool(self._missing or self._new_runner or self._stale or self._written or self._stale_timers or sleeping)

    def _sleeping(self) -> List[str]:
        """Timers that do not wait."""
        if not self._manager:
            return []
        if self._manager.needs_lingering():
            return self._timers
        return [timer.unit for timer in self._manager.look(self._timers) if not timer.is_waiting]

    def _remove(self) -> None:
        if self._manager and self._stale_timers:
            self._manager.disable(self._stale_timers)
        for path in self._stale:
            path.unlink()
            if path.parent.name.endswith(".d") and path.parent != self._layout.jobs:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    def _settle(self, manager: Manager, sleeping: Sequence[str]) -> None:
        if not self._layout.is_system and self._timers:
            manager.linger()
        places = [*(one.path for one in self._written), *self._stale]
        if any(self._layout.units in path.parents for path in places):
            manager.reload()
        manager.enable(sleeping)
        changed = {
            one.path.parent.name[: -len(".d")] for one in self._written if one.path.parent.name.endswith(".timer.d")
        }
        manager.restart([unit for unit in self._timers if unit in changed and unit not in sleeping])
        asleep = [timer.unit for timer in manager.look(self._timers) if not timer.is_waiting]
        if asleep:
            raise BackupError(f"{', '.join(asleep)} was enabled and does not wait; systemctl status tells why")

    def _texts(self) -> List[Tuple[str, str, str]]:
        shown = [(str(one.path), read(one.path), one.content) for one in self._written if one.is_shown]
        hidden = [(str(one.path), "", "not shown\n") for one in self._written if not one.is_shown]
        return [*shown, *hidden, *((str(path), "removed\n", "") for path in self._stale)]

    def _told(self, texts: List[Tuple[str, str, str]], changed: bool) -> Installed:
        timers = []
        if self._manager and not self._manager.needs_lingering():
            timers = [{"unit": one.unit, "next": one.next_time} for one in self._manager.look(self._timers)]
        warnings = []
        if not self._manager and self._jobs and self._layout.is_system:
            warnings = ["this host has no systemd: cron runs the jobs, without a sandbox and limits"]
        return Installed(
            changed=changed,
            version=self._runner.version,
            environment=str(self._runner.environment.directory) if self._runner.environment else None,
            files=[str(one.path) for one in self._written],
            removed=[str(path) for path in self._stale],
            texts=texts or self._texts(),
            timers=timers,
            warnings=warnings,
        )


_Owner = Tuple[int, int]


def _directories(layout: Layout, jobs: Sequence[Job]) -> List[Tuple[Path, int, Optional[_Owner]]]:
    """Those that are needed, with a mode and an owner, those above first; None leaves one as it is."""
    found: Dict[Path, Tuple[int, Optional[_Owner]]] = {}
    for path in (layout.jobs.parent, layout.jobs, layout.library, layout.programs):
        found[path] = (0o755, None)
    for job in jobs:
        repository, user = job.directory.path.parent, job.routine.unit.user if layout.is_system else None
        is_shared = bool(user) or found.get(repository, (0, None))[0] == 0o711
        found[repository] = (0o711 if is_shared else 0o700, None)
        if user:
            found[job.directory.path] = (0o700, (_account(user).pw_uid, _account(user).pw_gid))
    return [(path, mode, owner) for path, (mode, owner) in found.items()]


def _is_as(path: Path, mode: int, owner: Optional[_Owner]) -> bool:
    """A directory that is there may be more open than needed; only who shall pass it must be able to."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    is_open = stat.S_IMODE(status.st_mode) & mode & 0o011 == mode & 0o011
    return stat.S_ISDIR(status.st_mode) and is_open and (owner is None or (status.st_uid, status.st_gid) == owner)


def _make(path: Path, mode: int, owner: Optional[_Owner]) -> None:
    if not path.is_dir():
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.mkdir(mode=mode)
        path.chmod(mode)
    else:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | mode & 0o011)
    if owner:
        os.chown(path, *owner)


def _earlier(record: Path) -> Dict[str, List[str]]:
    """What was installed the last time; nothing when that is not known, so nothing is removed then."""
    try:
        value = documents.read(record)
        return {name: [str(entry) for entry in value[name]] for name in ("files", "timers")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"files": [], "timers": []}


def _remember(record: Path, value: Dict[str, List[str]]) -> None:
    directory = os.open(str(record.parent), os.O_RDONLY | os.O_DIRECTORY)
    try:
        documents.replace(directory, record.name, value)
    finally:
        os.close(directory)
