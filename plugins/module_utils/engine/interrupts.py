# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SIGTERM and SIGINT end the work like an error does, so that what was begun is cleaned up."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from typing import Iterator, List

from .errors import Interrupted


@dataclasses.dataclass
class _State:
    """What to do with a signal now: raise, wait for the end of a step, or nothing as the work is done."""

    held: int = 0
    too_late: bool = False
    pending: List[int] = dataclasses.field(default_factory=list)


_state = _State()


def end_work_on_signals() -> None:
    """From now on the signals raise Interrupted in the main thread."""
    _state.held, _state.too_late, _state.pending = 0, False, []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _arrived)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """A step that must not be left half done: signals that arrive meanwhile take effect at its end."""
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
    _raise_pending()


def end_of_work() -> None:
    """The work can only be finished now: signals have no effect any more."""
    _state.too_late = True


def work_goes_on() -> None:
    """What was to be the end was but a step: signals have their effect again, also one that came meanwhile."""
    _state.too_late = False
    _raise_pending()


def _arrived(number: int, _frame: object) -> None:
    _state.pending.append(number)
    _raise_pending()


def _raise_pending() -> None:
    if _state.pending and not _state.held and not _state.too_late:
        name = signal.Signals(_state.pending[0]).name
        _state.pending = []
        raise Interrupted(f"interrupted by {name}; nothing was left half done")
