# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manager of units that has the timers: that of the host, or of a user, who need not be logged in."""

from __future__ import annotations

import getpass
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

from ..engine.errors import BackupError, in_one_line
from ..engine.services import environment

_SECONDS = 120
_AT_ONCE = 100
_PATIENCE = 20.0
_PAUSE = 0.2
_LINGERING = Path("/var/lib/systemd/linger")


class Timer(NamedTuple):
    """How a timer is: enabled, and waiting for its next time, as systemd writes it."""

    unit: str
    is_enabled: bool
    is_active: bool
    next_time: Optional[str]

    @property
    def is_waiting(self) -> bool:
        """Whether it will run when it is due, also after a boot."""
        return self.is_enabled and self.is_active


class Manager:
    """systemctl, for root or for a user."""

    def __init__(self, is_system: bool) -> None:
        self._is_system = is_system
        self._systemctl = ["systemctl", "--no-ask-password", *([] if is_system else ["--user"])]

    def is_here(self) -> bool:
        """Whether systemd runs this host."""
        return Path("/run/systemd/system").is_dir()

    def needs_lingering(self) -> bool:
        """Whether the timers of this user would stop when the user logs out."""
        return not self._is_system and not (_LINGERING / getpass.getuser()).exists()

    def linger(self) -> None:
        """Have the units of the user run without a login. Raises BackupError where root has to allow it."""
        user = getpass.getuser()
        if self.needs_lingering():
            try:
                self._run(["loginctl", "--no-ask-password", "enable-linger"])
            except BackupError as error:
                raise BackupError(f"{error}; as root: loginctl enable-linger {user}") from error
        deadline = time.monotonic() + _PATIENCE
        while not (Path(environment()["XDG_RUNTIME_DIR"]) / "systemd/private").exists():
            if time.monotonic() > deadline:
                raise BackupError(f"no systemd runs for user {user}; as root: loginctl enable-linger {user}")
            time.sleep(_PAUSE)

    def reload(self) -> None:
        """Read the units again."""
        self._run([*self._systemctl, "daemon-reload"])

    def enable(self, units: Sequence[str]) -> None:
        """Have timers wait now and after each boot."""
        self._in_parts(["enable", "--now"], units)

    def restart(self, units: Sequence[str]) -> None:
        """Have timers work out their next time."""
        self._in_parts(["restart"], units)

    def disable(self, units: Sequence[str]) -> None:
        """Stop timers for good. A run that is under way goes on."""
        self._in_parts(["disable", "--now"], units)

    def look(self, units: Sequence[str]) -> List[Timer]:
        """How timers are; one that is not there is not enabled."""
        properties = "Id,UnitFileState,ActiveState,NextElapseUSecRealtime"
        found: Dict[str, Timer] = {}
        for part in _parts(units):
            told = self._run([*self._systemctl, "show", "--property", properties, *part])
            for block in told.strip().split("\n\n"):
                known = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
                timer = Timer(
                    unit=known.get("Id", ""),
                    is_enabled=known.get("UnitFileState") == "enabled",
                    is_active=known.get("ActiveState") == "active",
                    next_time=known.get("NextElapseUSecRealtime") or None,
                )
                found[timer.unit] = timer
        return [found.get(unit, Timer(unit, False, False, None)) for unit in units]

    def _in_parts(self, order: Sequence[str], units: Sequence[str]) -> None:
        for part in _parts(units):
            self._run([*self._systemctl, *order, *part])

    def _run(self, command: Sequence[str]) -> str:
        words = " ".join(command[:4])
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, env=_plain(), timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackupError(f"{words}: {in_one_line(str(error))}") from error
        if done.returncode:
            raise BackupError(f"{words}: {in_one_line(done.stderr.decode(errors='replace')) or 'failed'}")
        return done.stdout.decode(errors="replace")


def _parts(units: Sequence[str]) -> Iterator[Sequence[str]]:
    """A line of arguments has its limits."""
    return (units[start : start + _AT_ONCE] for start in range(0, len(units), _AT_ONCE))


def _plain() -> Dict[str, str]:
    return {**environment(), "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
