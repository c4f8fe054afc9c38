# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens around a job on its host: when it runs, what is called before and after, how its data is put back."""

from __future__ import annotations

import dataclasses
import math
from typing import List, Optional

from .errors import UsageError

_MOST_ATTEMPTS = 100
_LONGEST_WAIT = 86400
_IO_CLASSES = ("idle", "best-effort")


@dataclasses.dataclass(frozen=True)
class Unit:
    """What systemd is told of the services of a job: as systemd.exec and systemd.timer have it, user as a name."""

    user: Optional[str] = None
    random_delay: str = "15min"
    time_limit: str = "6h"
    memory_max: str = "2G"
    nice: int = 10
    io_class: str = "idle"

    def check(self) -> None:
        """Raise UsageError for what makes no sense in a unit."""
        for name in ("user", "random_delay", "time_limit", "memory_max"):
            _refuse_unprintable(f"unit.{name}", getattr(self, name))
        if not -20 <= self.nice <= 19:
            raise UsageError(f"unit.nice: {self.nice} is out of range; give -20 to 19")
        if self.io_class not in _IO_CLASSES:
            raise UsageError(f"unit.io_class: {self.io_class!r} is not known; choose {' or '.join(_IO_CLASSES)}")


@dataclasses.dataclass(frozen=True)
class Application:
    """How the data of a job is put back: dest, owner, group and mode as for a restore.

    service, a unit of systemd, or container is stopped meanwhile. Afterwards heartbeat, a URL, has to answer and
    health, a program with its arguments, to end with 0; else all is undone.
    """

    dest: Optional[str] = None
    owner: Optional[str] = None
    group: Optional[str] = None
    mode: Optional[str] = None
    service: Optional[str] = None
    container: Optional[str] = None
    docker_host: Optional[str] = dataclasses.field(default=None, repr=False)
    heartbeat: Optional[str] = None
    health: List[str] = dataclasses.field(default_factory=list)

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if self.service and self.container:
            raise UsageError("restore: give service or container, not both")
        if (self.heartbeat or self.health) and not self.service and not self.container:
            raise UsageError("restore: heartbeat and health are asked of a service or container that is started again")
        if self.mode is not None:
            try:
                int(self.mode, 8)
            except ValueError:
                raise UsageError(f"restore.mode: {self.mode!r} is not octal, as 0640 is") from None


@dataclasses.dataclass(frozen=True)
class Routine:
    """schedule and drill_schedule are calendar events of systemd, null for never. Of cron only who has no systemd needs
    the times, in its own words.

    max_age_hours: an older last good backup is late. wait is for how many seconds an unattended run waits for the
    server, attempts how often it tries, attempt_pause the seconds in between. before, after and on_failure are
    programs with their arguments; hook_timeout is for how many seconds each may run.
    """

    schedule: Optional[str] = "daily"
    drill_schedule: Optional[str] = "weekly"
    cron: Optional[str] = None
    drill_cron: Optional[str] = None
    max_age_hours: Optional[float] = None
    wait: int = 60
    attempts: int = 3
    attempt_pause: int = 60
    before: List[List[str]] = dataclasses.field(default_factory=list)
    after: List[List[str]] = dataclasses.field(default_factory=list)
    on_failure: List[List[str]] = dataclasses.field(default_factory=list)
    hook_timeout: int = 300
    restore: Application = dataclasses.field(default_factory=Application)
    unit: Unit = dataclasses.field(default_factory=Unit)

    def check(self) -> None:
        """Raise UsageError naming the option that makes no sense."""
        for name in ("schedule", "drill_schedule", "cron", "drill_cron"):
            _refuse_unprintable(name, getattr(self, name))
        if not 1 <= self.attempts <= _MOST_ATTEMPTS:
            raise UsageError(f"attempts: {self.attempts} is out of range; give 1 to {_MOST_ATTEMPTS}")
        for name, least in (("wait", 0), ("attempt_pause", 0), ("hook_timeout", 1)):
            seconds = getattr(self, name)
            if not least <= seconds <= _LONGEST_WAIT:
                raise UsageError(f"{name}: {seconds} is out of range; give {least} to {_LONGEST_WAIT} seconds")
        if self.max_age_hours is not None and not (self.max_age_hours > 0 and math.isfinite(self.max_age_hours)):
            raise UsageError(f"max_age_hours: {self.max_age_hours:g} is not a number of hours")
        for name in ("before", "after", "on_failure"):
            for index, command in enumerate(getattr(self, name)):
                if not command or not command[0]:
                    raise UsageError(f"{name}[{index}]: is no program with its arguments")
        self.restore.check()
        self.unit.check()


def _refuse_unprintable(name: str, text: Optional[str]) -> None:
    """It is written into a line of a unit, of which it must not make two."""
    if text is not None and (not text.strip() or not text.isprintable() or "%" in text):
        raise UsageError(f"{name}: {text!r} is not one line of text without '%'")
