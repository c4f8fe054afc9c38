# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A process that undoes what was done to an application when the one that did it is gone, even killed by SIGKILL."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import Callable, NoReturn, Optional

from .errors import BackupError, SourceError

_GUARD, _LEAVE, _RELEASE = b"g", b"l", b"r"
_READY = b"+"
_START_SECONDS = 60.0
_END_SECONDS = 10.0
_PAUSE = 0.2
_TRY_FOR = 900.0


class Guard:
    """A context manager that begins to guard at once: undo is called when it is left, or this process ends, without a
    release before; with a limit also after so many seconds.

    undo runs in a process of its own session, again and again until it returns True. It is called in the moment of the
    death, when an order that was given last may not have had its effect yet. prepare is called there first.
    """

    def __init__(self, prepare: Callable[[], None], undo: Callable[[], bool], limit: Optional[float] = None) -> None:
        answer, ready = os.pipe()
        life, writing = os.pipe()
        self._life: Optional[int] = writing
        self._pid = os.fork()
        if self._pid == 0:
            _watch(prepare, undo, limit, life, ready)
        for descriptor in (ready, life):
            os.close(descriptor)
        try:
            self._wait_for(answer)
        except BaseException:
            self.release()
            raise
        finally:
            os.close(answer)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        if self._life is None:
            return
        os.close(self._life)
        self._life = None

    def release(self) -> None:
        """Nothing is left to undo."""
        if self._life is None:
            return
        self._tell(_RELEASE)
        self.__exit__()
        deadline = time.monotonic() + _END_SECONDS
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                return
            time.sleep(_PAUSE / 10)

    def leave_as_it_is(self, leave: bool) -> None:
        """While it is left, a death changes nothing: for steps in which undoing would do harm."""
        self._tell(_LEAVE if leave else _GUARD)

    def _tell(self, message: bytes) -> None:
        # Somebody may have killed the guard; whoever uses it undoes all by itself in any case but its own death.
        with contextlib.suppress(BrokenPipeError):
            if self._life is not None:
                os.write(self._life, message)

    def _wait_for(self, answer: int) -> None:
        readable = select.select([answer], [], [], _START_SECONDS)[0]
        message = os.read(answer, 1000) if readable else b""
        if message != _READY:
            raise SourceError(
                message.decode(errors="replace") or "the process that guards the application did not start"
            )


def _watch(
    prepare: Callable[[], None], undo: Callable[[], bool], limit: Optional[float], life: int, ready: int
) -> NoReturn:
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        _close_others(life, ready)
        with contextlib.suppress(BrokenPipeError):
            _prepare(prepare, ready)
            os.close(ready)
            if _is_to_undo(life, limit):
                _undo(undo)
            status = 0
    finally:
        os._exit(status)


def _prepare(prepare: Callable[[], None], ready: int) -> None:
    try:
        prepare()
    except BackupError as error:
        os.write(ready, str(error).encode())
        raise
    os.write(ready, _READY)


def _is_to_undo(life: int, limit: Optional[float]) -> bool:
    """Wait for the end of the parent, its release, or the limit."""
    last = _GUARD
    deadline = None if limit is None else time.monotonic() + limit
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([life], [], [], left)[0]:
            return True
        message = os.read(life, 1)
        if not message:
            return last == _GUARD
        if message == _RELEASE:
            return False
        last = message


def _undo(undo: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TRY_FOR
    while time.monotonic() < deadline:
        with contextlib.suppress(BackupError):
            if undo():
                return
        time.sleep(_PAUSE)


def _close_others(*wanted: int) -> None:
    """No lock, pipe or terminal of the parent may live on with the guard."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in wanted:
            os.closerange(int(name), int(name) + 1)
