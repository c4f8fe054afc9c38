# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stop an application, and have it run again afterwards, even when this process is killed."""

from __future__ import annotations

import abc
import contextlib
import time
from pathlib import Path, PurePosixPath
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from . import hooks
from .errors import BackupError, RestoreError
from .guard import Guard
from .interrupts import held_back

# Nothing to ask for a heartbeat: a server that cannot open its data ends soon.
_STEADY_SECONDS = 3.0
_HEALTHY_SECONDS = 60.0
_PAUSE = 0.2


class StillRunningError(RestoreError):
    """What was started on new files is not well and cannot be stopped: its files must stay what they are."""


class Standstill(abc.ABC):
    """As a context manager, an application that can be stopped and started within; in the end it runs when it did so at
    the beginning. What was not running before is never started.

    health is a program with its arguments that has to end with 0 once the application is started.
    """

    def __init__(self, name: str, was_running: bool, health: Sequence[str]) -> None:
        self.name = name
        self.was_running = was_running
        self._health = health
        self._guarding: Optional[Guard] = None

    def __enter__(self) -> Standstill:
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if error is None:
            with held_back():
                self._finish()
            return
        # The error of the work is the one to tell. Where this fails, the guard goes on trying.
        with held_back(), contextlib.suppress(BackupError):
            self._finish()

    @property
    @abc.abstractmethod
    def commands(self) -> Tuple[List[str], List[str]]:
        """What a person types to stop and to start it."""

    @abc.abstractmethod
    def refuse(self) -> None:
        """Raise RestoreError when it must not be stopped."""

    def stop(self) -> None:
        """Stop it, from now on guarded: should this process die, it is started again."""
        if not self.was_running:
            return
        if not self._guarding:
            self._guarding = self._guard()
        self._order_stop()

    def begin_exchange(self) -> None:
        """Its files are exchanged from now on: should this process die, it had better not run on half of them."""
        self._guarded(False)

    def start(self) -> None:
        """Start it again when it was running: its files are all of one kind now.

        Raises RestoreError when it does not stay up or is not well in time; then it is stopped again, or the error is
        a StillRunningError.
        """
        if not self.was_running:
            return
        self._guarded(True)
        try:
            self._order_start()
            self._check()
            self._check_health()
        except BaseException as error:
            self._guarded(False)
            with held_back():
                self._stop_again(error)
            raise

    def host_directory(self, _directory: PurePosixPath) -> Path:
        """Where on this host the directory of a container is. Raises as locate.host_directory does."""
        raise RestoreError(f"the backup is of a container, {self.name} is none; tell where to restore to with dest")

    @abc.abstractmethod
    def refuse_unseen(self, root: Path, staged: Sequence[Path]) -> None:
        """Raise RestoreError unless the application sees what was made below root, where its files may be."""

    @abc.abstractmethod
    def _guard(self) -> Guard:
        """What starts it when this process is gone."""

    @abc.abstractmethod
    def _order_stop(self) -> None:
        """Stop it and wait for that."""

    @abc.abstractmethod
    def _order_start(self) -> None:
        """Start it."""

    @abc.abstractmethod
    def _check(self) -> None:
        """Raise RestoreError unless it is up after a start, and stays so."""

    @abc.abstractmethod
    def _may_run(self) -> bool:
        """Whether it is up, or nobody knows."""

    def _stop_again(self, error: BaseException) -> None:
        try:
            self._order_stop()
        except BackupError as refusal:
            if self._may_run():
                raise StillRunningError(f"{error}; it could not be stopped: {refusal}") from error

    def _check_health(self) -> None:
        if not self._health:
            return
        facts: Dict[str, Optional[str]] = {"application": self.name}
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while True:
            left = deadline - time.monotonic()
            try:
                hooks.call_all("health", [self._health], facts, max(1.0, left))
                return
            except BackupError as error:
                if left < 0:
                    raise RestoreError(f"{self.name} was started and is not well: {error}") from error
            time.sleep(_PAUSE)

    def _finish(self) -> None:
        if not self._guarding:
            return
        self._order_start()
        self._guarding.release()
        self._guarding = None

    def _guarded(self, guarded: bool) -> None:
        if self._guarding:
            self._guarding.leave_as_it_is(not guarded)


def stays(is_up: Callable[[], bool]) -> bool:
    """Whether it is up for a while."""
    deadline = time.monotonic() + _STEADY_SECONDS
    while is_up() and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return is_up()
