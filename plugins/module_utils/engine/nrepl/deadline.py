# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One moment by which all of a conversation has to be over."""

from __future__ import annotations

import time


class OutOfTime(Exception):
    """The deadline has passed."""


class Deadline:
    """A moment on the monotonic clock: time-outs of single calls never fire on a server that drips."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """The seconds until then, more than 0.

        Raises OutOfTime.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left
