# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A child process that copies files when it is told to, while this one sees to the application and to the time."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence

from ..errors import SourceError, naming
from ..processes import DEFAULT_TIMEOUT, Child, Report
from ..stream.stages import write_all
from .mirror import Mirror

_RUNNING, _STILL, _FINISH = b"r", b"s", b"f"
_ALIVE, _DONE = b".", b"+"
_SECONDS_BETWEEN_SIGNS = 0.5
_ROOT = "tree"


class Worker:
    """Keeps a copy of files in root. Its process is pid."""

    def __init__(self, child: Child, orders: int, alive: Callable[[], None], root: Path) -> None:
        self._child = child
        self._orders = orders
        self._alive = alive
        self.root = root

    @property
    def pid(self) -> int:
        """The process that has the files open, beside their application."""
        return self._child.pid

    def copy(self) -> None:
        """Copy all while the application runs, and what has changed meanwhile once more."""
        self.copy_once()
        self.copy_once()

    def copy_once(self) -> None:
        """Copy all once, as it is at that time; what comes and goes meanwhile may be missing."""
        self._order(_RUNNING)

    def refresh(self, deadline: Optional[float] = None) -> None:
        """Bring the copy up to date while nobody writes; deadline is a time.monotonic().

        Raises SourceError, also when the deadline has passed.
        """
        self._order(_STILL, deadline)

    def finish(self) -> List[str]:
        """What takes nobody to stand still; returns warnings."""
        self._order(_FINISH)
        warnings: List[str] = self._child.result()
        return warnings

    def _order(self, order: bytes, deadline: Optional[float] = None) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, order)
        for chunk in self._child.chunks(deadline):
            self._alive()
            if _DONE in bytes(chunk):
                return
        self._child.result()
        raise SourceError("the process that copies the files ended early")


@contextlib.contextmanager
def working(
    directory: Path,
    paths: Sequence[str],
    scratch: Path,
    alive: Callable[[], None],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    clones_only: bool = False,
) -> Iterator[Worker]:
    """A worker for what is at the paths below the directory. timeout is its longest silence, in seconds.

    The copy is in a directory of its own in scratch, as it gets the owner and the mode of that which is copied.
    """
    with contextlib.ExitStack() as stack:
        try:
            source = os.open(str(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"{directory} cannot be read: {error.strerror}") from error
        stack.callback(os.close, source)
        root = scratch / _ROOT
        os.mkdir(root, 0o700)
        target = os.open(str(root), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, target)
        reading, orders = os.pipe()
        stack.callback(os.close, orders)

        def work(report: Report) -> List[str]:
            mirror = Mirror(source, target, paths, _sign_of_life(report), shown=directory, clones_only=clones_only)
            return _obey(mirror, reading, report, root)

        try:
            child = Child(work, what=f"the copy of {directory}", timeout=timeout, descriptors=[source, target, reading])
        finally:
            os.close(reading)
        yield Worker(stack.enter_context(child), orders, alive, root)


def _obey(mirror: Mirror, reading: int, report: Report, root: Path) -> List[str]:
    while True:
        order = os.read(reading, 1)
        with naming(root):
            if order == _FINISH:
                mirror.finish()
            elif order:
                mirror.refresh(still=order == _STILL)
            else:
                return []
        write_all(report.output, _DONE)
        if order == _FINISH:
            return mirror.warnings


def _sign_of_life(report: Report) -> Callable[[], None]:
    last = [time.monotonic()]

    def alive() -> None:
        now = time.monotonic()
        if now - last[0] > _SECONDS_BETWEEN_SIGNS:
            last[0] = now
            write_all(report.output, _ALIVE)

    return alive
