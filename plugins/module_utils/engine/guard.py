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
from .halts import Halt, Note, note_of

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

    halt is what is to be undone. It is noted until that is done, or is released, as the guard may be killed too.
    """

    def __init__(
        self,
        prepare: Callable[[], None],
        undo: Callable[[], bool],
        limit: Optional[float] = None,
        *,
        halt: Optional[Halt] = None,
    ) -> None:
        answer, ready = os.pipe()
        life, writing = os.pipe()
        self._life: Optional[int] = writing
        self._note = note_of(halt) if halt else None
        self._pid = os.fork()
        if self._pid == 0:
            _watch(prepare, undo, limit, life, ready, note=self._note)
        for descriptor in (ready, life):
            os.close(descriptor)
        try:
            self._wait_for(answer)
            self._write_note()
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
        if self._note:
            self._note.remove()
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

    def _write_note(self) -> None:
        try:
            if self._note:
                self._note.write()
        except OSError as error:
            raise SourceError(
                f"nothing was halted, as that could not be written down beside the backups: {error.strerror}"
            ) from error

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


def undo_by_all_means(undo: Callable[[], bool], seconds: float = _TRY_FOR) -> bool:
    """Call it again and again until it returns True, for so long; whether it did."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(BackupError):
            if undo():
                return True
        time.sleep(_PAUSE)
    return False


def _watch(
    prepare: Callable[[], None],
    undo: Callable[[], bool],
    limit: Optional[float],
    life: int,
    ready: int,
    *,
    note: Optional[Note],
) -> NoReturn:
    status, parent = 1, os.getppid()
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        _close_others(life, ready, *([note.directory] if note else []))
        with contextlib.suppress(BrokenPipeError):
            _prepare(prepare, ready)
            os.close(ready)
            # A parent that lives may halt it only now, after the limit, and removes the note itself.
            if _is_to_undo(life, limit) and undo_by_all_means(undo) and note and os.getppid() != parent:
                note.remove()
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


def _close_others(*wanted: int) -> None:
    """No lock, pipe or terminal of the parent may live on with the guard."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in wanted:
            os.closerange(int(name), int(name) + 1)
