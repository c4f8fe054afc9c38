# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services of systemd: of the host for root, of the user for anybody else."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from .containers import heartbeat
from .errors import RestoreError, SourceError, UsageError, in_one_line
from .guard import Guard
from .halts import Halt
from .running import all_processes
from .standstill import Standstill, stays

_NAME = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?(\.service)?")
# As systemd waits by default before it kills.
_ORDER_SECONDS = 120.0
_START_SECONDS = 60.0
_SETTLED_SECONDS = 5.0
_PAUSE = 0.2
_LONGEST_MESSAGE = 300


class Service:
    """One service by its name. Raises UsageError for a name that is none, SourceError when there is no such service."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"service {name!r} is not the name of a service, as kg.service is")
        self.name = name if name.endswith(".service") else name + ".service"
        self.scope = [] if os.geteuid() == 0 else ["--user"]
        if self.look()["LoadState"] != "loaded":
            raise SourceError(f"there is no service {self.name} on this host")

    def look(self) -> Dict[str, str]:
        """How it is now, as systemd calls it: LoadState, ActiveState and others."""
        properties = ["LoadState", "ActiveState", "NRestarts", "RefuseManualStop"]
        properties += ["ControlGroup", "CanFreeze", "FreezerState"]
        told = self.systemctl("show", "--property", ",".join(properties), self.name)
        found = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
        return {name: found.get(name, "") for name in properties}

    @property
    def is_up(self) -> bool:
        """Whether it runs, or is on its way to."""
        return self.look()["ActiveState"] in ("active", "activating", "reloading")

    def systemctl(self, *arguments: str) -> str:
        """Raises SourceError when the order fails, with what systemctl says."""
        try:
            done = subprocess.run(
                ["systemctl", *self.scope, "--no-ask-password", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment(),
                timeout=_ORDER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SourceError(f"systemctl {arguments[0]} {self.name}: {in_one_line(str(error))}") from error
        if done.returncode:
            told = in_one_line(done.stderr.decode(errors="replace"))[:_LONGEST_MESSAGE]
            raise SourceError(f"systemctl {arguments[0]} {self.name}: {told or 'failed'}")
        return done.stdout.decode(errors="replace")

    def processes(self) -> List[int]:
        """The numbers of all that belong to it now."""
        group = self.look()["ControlGroup"]
        if not group:
            return []
        return [number for number in all_processes() if _is_in(number, group)]

    def last_words(self) -> str:
        """The last line that it has written to the journal, if that can be read."""
        command = ["journalctl", *self.scope, "--unit" if not self.scope else "--user-unit", self.name]
        try:
            done = subprocess.run(
                [*command, "--lines", "20", "--output", "cat", "--no-pager", "_TRANSPORT=stdout"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SETTLED_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        return in_one_line(lines[-1])[:_LONGEST_MESSAGE] if lines else ""


class ServiceStandstill(Standstill):
    """A service of systemd. url is where to ask for a heartbeat; paths are asked there."""

    def __init__(self, name: str, url: Optional[str], paths: Sequence[str], health: Sequence[str]) -> None:
        self._service = Service(name)
        self._wanted = heartbeat.endpoints([url] if url else [], paths)
        super().__init__(self._service.name, self._service.is_up, health)

    @property
    def commands(self) -> Tuple[List[str], List[str]]:
        systemctl = ["systemctl", *self._service.scope]
        return [*systemctl, "stop", self.name], [*systemctl, "start", self.name]

    def refuse(self) -> None:
        if os.getpid() in self._service.processes():
            raise RestoreError(f"{self.name} cannot be stopped from within, and this process belongs to it")
        if self._service.look()["RefuseManualStop"] == "yes":
            raise RestoreError(f"{self.name} refuses to be stopped by hand; stop it yourself")

    def refuse_unseen(self, root: Path, staged: Sequence[Path]) -> None:
        """It is on this host and sees what is there."""

    def _guard(self) -> Guard:
        return Guard(lambda: None, Starter(self._service).undo, halt=Halt(service=self.name, is_stopped=True))

    def _order_stop(self) -> None:
        self._service.systemctl("stop", self.name)
        if self._service.is_up:
            raise RestoreError(f"{self.name} was stopped and runs again; something else starts it")

    def _order_start(self) -> None:
        # One that failed too often before would be refused. What did not fail may not be known any more.
        with contextlib.suppress(SourceError):
            self._service.systemctl("reset-failed", self.name)
        self._service.systemctl("start", self.name)

    def _may_run(self) -> bool:
        try:
            return self._service.is_up
        except SourceError:
            return True

    def _check(self) -> None:
        before = self._service.look()["NRestarts"]

        def is_up() -> bool:
            return self._service.is_up and self._service.look()["NRestarts"] == before

        if not self._wanted:
            if not stays(is_up):
                raise RestoreError(f"{self.name} did not stay up after it was started{self._last_words()}")
        elif not heartbeat.wait_for(self._wanted, _START_SECONDS, is_up):
            asked = " or ".join(str(address) for address in self._wanted)
            raise RestoreError(f"{self.name} gave no heartbeat at {asked} after it was started{self._last_words()}")

    def _last_words(self) -> str:
        words = self._service.last_words()
        return f"; its last words: {words}" if words else ""


class Starter:
    """What the guarding process does: starts the service unless it runs, also when it is still about to stop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._first_try: Optional[float] = None

    def undo(self) -> bool:
        """Whether it needs no help any more."""
        now = time.monotonic()
        self._first_try = self._first_try or now
        if not self._service.is_up:
            self._service.systemctl("start", self._service.name)
            return True
        return now - self._first_try > _SETTLED_SECONDS


def _is_in(number: int, group: str) -> bool:
    """Whether a process is in a control group or below it, in any hierarchy."""
    try:
        with open(f"/proc/{number}/cgroup", encoding="utf-8", errors="replace") as file:
            groups = [line.rstrip("\n").split(":", 2)[2] for line in file]
    except OSError:
        return False
    return any(found == group or found.startswith(group + "/") for found in groups)


def environment() -> Dict[str, str]:
    """With the place where the manager of a user is found, also for one who did not log in."""
    known = dict(os.environ)
    if os.geteuid() != 0:
        known.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    return known
