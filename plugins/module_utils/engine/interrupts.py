# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SIGTERM and SIGINT end the work like an error does, so that what was begun is cleaned up."""

from __future__ import annotations

import signal
from typing import NoReturn

from .errors import Interrupted


def end_work_on_signals() -> None:
    """From now on the signals raise Interrupted in the main thread."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise Interrupted(f"interrupted by {signal.Signals(number).name}; nothing was left half done")
