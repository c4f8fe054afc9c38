# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold a container still for a moment; it goes on whatever becomes of this process."""

from __future__ import annotations

import contextlib
import time
from typing import ContextManager, Optional

from ..errors import SourceError
from ..guard import Guard
from ..halts import Halt
from ..pause import Pause, guarded_pause
from .container import Container
from .daemon import Daemon, NoContainerError
from .watchdog import Watchdog

# How long an order given before a death may take to have its effect.
_SETTLED_SECONDS = 5.0


def paused(daemon: Daemon, container: Container, limit: float) -> ContextManager[Pause]:
    """Pause the container for at most limit seconds.

    One that was paused before stays so. Raises SourceError when the limit was reached: what was read is worthless then.
    """
    pause = Pause(time.monotonic() + limit)
    if container.is_paused:
        return contextlib.nullcontext(pause)
    watchdog = watchdog_of(daemon.docker_host, container)
    return guarded_pause(
        f"container {container.name}",
        pause,
        lambda seconds: Guard(watchdog.connect, watchdog.undo, seconds, halt=Halt(container=container.id)),
        lambda: daemon.pause(container),
        lambda: _unpause(daemon, container),
    )


def watchdog_of(docker_host: Optional[str], container: Container) -> Watchdog:
    """What lets a paused container go on."""
    return Watchdog(
        docker_host,
        container,
        is_bad=lambda found: found.is_paused,
        help_it=Daemon.unpause,
        settle_seconds=_SETTLED_SECONDS,
    )


def _unpause(daemon: Daemon, container: Container) -> None:
    try:
        daemon.unpause(container)
    except SourceError:
        with contextlib.suppress(NoContainerError):
            if daemon.look(container.id).is_paused:
                raise
