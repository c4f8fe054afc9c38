# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The freezer of systemd, which has all processes of a service stand still at once, on hosts with cgroup v2."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Dict, Iterator

from ..errors import SourceError
from ..guard import Guard
from ..halts import Halt
from ..pause import Pause, guarded_pause
from ..services import Service

_GROUPS = Path("/sys/fs/cgroup")
_STANDING = ("frozen", "freezing")


def has_freezer(state: Dict[str, str]) -> bool:
    """Whether a service that looks so can be frozen.

    Systemd 252 says CanFreeze also where the host has version 1 of control groups, and then cannot.
    """
    return state["CanFreeze"] == "yes" and (_GROUPS / state["ControlGroup"].lstrip("/") / "cgroup.freeze").exists()


def is_frozen(state: Dict[str, str]) -> bool:
    """Whether it stands still, or is about to."""
    return state["FreezerState"] in _STANDING


@contextlib.contextmanager
def frozen(service: Service, limit: float) -> Iterator[Pause]:
    """Have a service stand still for at most limit seconds."""
    pause = Pause(time.monotonic() + limit)

    def undo() -> bool:
        thaw(service)
        return True

    with guarded_pause(
        service.name,
        pause,
        lambda seconds: Guard(lambda: None, undo, seconds, halt=Halt(service=service.name)),
        lambda: _freeze(service),
        lambda: thaw(service),
    ):
        yield pause


def thaw(service: Service) -> None:
    """Let it go on. Raises SourceError when it stands still nevertheless."""
    try:
        service.systemctl("thaw", service.name)
    except SourceError:
        # The guard may have done it, or the service may have ended.
        if is_frozen(service.look()):
            raise


def _freeze(service: Service) -> None:
    service.systemctl("freeze", service.name)
