# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold an application still for a moment; it goes on whatever becomes of this process."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Callable, Iterator, Optional

from .errors import SourceError
from .guard import Guard
from .interrupts import held_back


@dataclasses.dataclass
class Pause:
    """deadline is the time.monotonic() at which the application goes on at the latest.

    milliseconds is how long it was paused, known afterwards; None when it was so before and stayed so. others stops
    what belongs to the application and was not found before, and tells whether there was anything.
    """

    deadline: float
    milliseconds: Optional[int] = None
    others: Callable[[], bool] = lambda: False


@contextlib.contextmanager
def guarded_pause(
    name: str, pause: Pause, guard: Callable[[float], Guard], stop: Callable[[], None], go_on: Callable[[], None]
) -> Iterator[Pause]:
    """Have stop and go_on called before and after, go_on by all means and in time.

    guard makes what undoes it after so many seconds, or when this process is gone. Raises SourceError when the deadline
    has passed: what was read is worthless then.
    """
    limit = pause.deadline - time.monotonic()
    with guard(limit) as guarding:
        begun = time.monotonic()
        try:
            stop()
            yield pause
        finally:
            with held_back():
                in_time = time.monotonic() < pause.deadline
                go_on()
                pause.milliseconds = round((time.monotonic() - begun) * 1000)
                guarding.release()
    if not in_time:
        raise SourceError(f"{name} could be paused for {limit:.3g} seconds only, which was too short")
