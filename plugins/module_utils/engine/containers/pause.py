# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold a container still for a moment; it goes on whatever becomes of this process."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Iterator, Optional

from ..errors import SourceError
from ..interrupts import held_back
from .container import Container
from .daemon import Daemon, NoContainerError
from .guard import Guard
from .watchdog import Watchdog

# How long an order given before a death may take to have its effect.
_SETTLED_SECONDS = 5.0


@dataclasses.dataclass
class Pause:
    """deadline is the time.monotonic() at which the container goes on at the latest.

    milliseconds is how long it was paused, known afterwards; None when it was so before and stayed so.
    """

    deadline: float
    milliseconds: Optional[int] = None


@contextlib.contextmanager
def paused(daemon: Daemon, container: Container, limit: float) -> Iterator[Pause]:
    """Pause the container for at most limit seconds.

    One that was paused before stays so. Raises SourceError when the limit was reached: what was read is worthless then.
    """
    pause = Pause(time.monotonic() + limit)
    if container.is_paused:
        yield pause
        return
    watchdog = Watchdog(
        daemon.docker_host,
        container,
        is_bad=lambda found: found.is_paused,
        help_it=Daemon.unpause,
        settle_seconds=_SETTLED_SECONDS,
    )
    with Guard(watchdog.connect, watchdog.undo, limit) as guard:
        begun = time.monotonic()
        pause.deadline = begun + limit
        try:
            daemon.pause(container)
            yield pause
        finally:
            with held_back():
                in_time = time.monotonic() < pause.deadline
                _unpause(daemon, container)
                pause.milliseconds = round((time.monotonic() - begun) * 1000)
                guard.release()
    if not in_time:
        raise SourceError(f"container {container.name} could be paused for {limit:g} seconds only, which was too short")


def _unpause(daemon: Daemon, container: Container) -> None:
    try:
        daemon.unpause(container)
    except SourceError:
        with contextlib.suppress(NoContainerError):
            if daemon.look(container.id).is_paused:
                raise
