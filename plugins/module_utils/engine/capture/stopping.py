# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stop processes for a moment, by SIGSTOP; they go on whatever becomes of this one."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import Callable, Iterator, List, Sequence, Set

from ..errors import SourceError
from ..guard import Guard
from ..halts import Halt
from ..pause import Pause, guarded_pause
from ..running import Process, ourselves

_LOOK_AGAIN = 0.001


@contextlib.contextmanager
def stopped(name: str, find: Callable[[], Sequence[Process]], limit: float) -> Iterator[Pause]:
    """All processes that find returns, and those that it returns later, stand still for at most limit seconds.

    Those that were stopped before stay so. Raises SourceError when one may not be stopped, or the limit was reached.
    """
    pause = Pause(time.monotonic() + limit)
    with _Group(name, find, pause) as group, guarded_pause(name, pause, group.guard, group.stop_first, group.go_on):
        yield pause


def refuse(name: str, processes: Sequence[Process]) -> None:
    """Raise SourceError when one of them is this one, what started it, or somebody else's."""
    own = ourselves()
    for process in processes:
        if process.number in own:
            raise SourceError(
                f"{name} cannot be stopped, as this very backup runs in it or below it (process {process.number})"
            )
        try:
            process.send(0)
        except PermissionError:
            raise SourceError(
                f"process {process.number} of {name} belongs to another user and may not be stopped; run it as root"
            ) from None


class _Group:
    """Stops what is found, each new batch with a guard of its own before that."""

    def __init__(self, name: str, find: Callable[[], Sequence[Process]], pause: Pause) -> None:
        self._name = name
        self._find = find
        self._pause = pause
        self._known: Set[Process] = set()
        self._ours: List[Process] = []
        self._guards: List[Guard] = []
        self._first = self._new()

    def __enter__(self) -> _Group:
        self._pause.others = self.stop_others
        return self

    def __exit__(self, *_: object) -> None:
        for guard in self._guards:
            guard.__exit__()

    def guard(self, limit: float) -> Guard:
        """For those found first."""
        return _guard(self._first, limit)

    def stop_first(self) -> None:
        """Stop those found first."""
        self._stop(self._first)

    def stop_others(self) -> bool:
        """Stop whom nobody has stopped yet; whether there was anybody."""
        others = self._new()
        if not others:
            return False
        self._guards.append(_guard(others, max(0.0, self._pause.deadline - time.monotonic())))
        self._stop(others)
        return True

    def go_on(self) -> None:
        """Let all that were stopped here go on."""
        for process in self._ours:
            process.send(signal.SIGCONT)
        for guard in self._guards:
            guard.release()

    def _new(self) -> List[Process]:
        found = [process for process in self._find() if process not in self._known]
        self._known.update(found)
        running = [process for process in found if not process.is_stopped]
        refuse(self._name, running)
        return running

    def _stop(self, processes: Sequence[Process]) -> None:
        for process in processes:
            self._ours.append(process)
            process.send(signal.SIGSTOP)
        for process in processes:
            while process.is_here and not process.is_stopped:
                if time.monotonic() > self._pause.deadline:
                    raise SourceError(f"process {process.number} of {self._name} could not be stopped in time")
                time.sleep(_LOOK_AGAIN)


def let_go_on(processes: Sequence[Process]) -> bool:
    """Have all of them go on, whatever became of them; always True, as nothing more can be done."""
    for process in processes:
        # A process that changed its user cannot be helped any more.
        with contextlib.suppress(PermissionError):
            process.send(signal.SIGCONT)
    return True


def _guard(processes: Sequence[Process], limit: float) -> Guard:
    wanted = list(processes)
    return Guard(lambda: None, lambda: let_go_on(wanted), limit, halt=Halt.of(wanted))
