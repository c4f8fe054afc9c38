# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written down while an application is halted, for the case that whoever halted it is killed with its guard.

A note is a small private file in the directory of the job: written before the application is halted, removed when it
goes on. Where one is left and no run is under way, somebody has to help the application.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from .decoding import DecodingError, decode, encode
from .errors import naming
from .paths import anchored, create, opened_directory
from .running import Process

PREFIX = ".halted-"
# A hundred thousand processes.
_LARGEST = 4 << 20


@dataclasses.dataclass(frozen=True)
class Halt:
    """What was halted: a service by its name, a container by its id, or processes, with their births by their numbers.

    is_stopped: it was ended and has to be started; else it stands still and has to be let go on, which means something
    only where it was done: that is one start of one host, for processes also one namespace of their numbers.
    """

    service: Optional[str] = None
    container: Optional[str] = None
    processes: Dict[str, int] = dataclasses.field(default_factory=dict)
    is_stopped: bool = False
    where: str = ""

    @classmethod
    def of(cls, processes: List[Process]) -> Halt:
        """Processes that stand still."""
        return cls(processes={str(process.number): process.born for process in processes})

    @property
    def is_here(self) -> bool:
        """Whether it can be undone by this process at all."""
        return self.is_stopped or self.where == _here()

    def __str__(self) -> str:
        name = f"container {self.container[:12]}" if self.container else self.service
        return name or f"process {', '.join(self.processes)}"


class Note:
    """A halt that is, or will be, written down in an open directory."""

    def __init__(self, directory: int, name: str, halt: Halt) -> None:
        self.directory = directory
        self.halt = halt
        self._name = name

    def write(self) -> None:
        """Raises OSError."""
        try:
            descriptor = create(anchored(self.directory, self._name))
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(encode(self.halt)).encode())
                file.flush()
                # What stands still does so no more after a power cut, and would have to wait for the disk.
                if self.halt.is_stopped:
                    os.fsync(descriptor)
        except BaseException:
            self.remove()
            raise
        if self.halt.is_stopped:
            os.fsync(self.directory)

    def remove(self) -> None:
        """Also one that was never written."""
        with contextlib.suppress(OSError):
            os.unlink(anchored(self.directory, self._name))


@dataclasses.dataclass
class _State:
    """The open directory that notes are written to. There is one run at a time in a process."""

    directory: Optional[int] = None


_state = _State()


@contextlib.contextmanager
def noted_in(directory: Path) -> Iterator[None]:
    """Have what is halted meanwhile written down in this directory."""
    with opened_directory(directory) as descriptor:
        _state.directory = descriptor
        try:
            yield
        finally:
            _state.directory = None


def note_of(halt: Halt) -> Optional[Note]:
    """A note to be written; None where none is wanted."""
    if _state.directory is None:
        return None
    name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    return Note(_state.directory, name, dataclasses.replace(halt, where=_here()))


@contextlib.contextmanager
def left_in(directory: Path) -> Iterator[List[Note]]:
    """The notes in a directory that this user wrote. What anybody else put there is nothing to act upon."""
    with opened_directory(directory) as descriptor:
        with naming(directory):
            names = sorted(os.listdir(descriptor))
        notes = []
        for name in names:
            halt = _read(descriptor, name) if name.startswith(PREFIX) else None
            notes += [Note(descriptor, name, halt)] if halt else []
        yield notes


def told_of(directory: Path) -> List[str]:
    """What is halted by a run that is gone, if the caller knows that none is under way."""
    with contextlib.suppress(OSError), left_in(directory) as notes:
        return [
            f"a killed run left {note.halt} {'stopped' if note.halt.is_stopped else 'frozen'}"
            for note in notes
            if note.halt.is_here
        ]
    return []


def _read(directory: int, name: str) -> Optional[Halt]:
    with contextlib.suppress(OSError, ValueError, RecursionError, DecodingError):
        path = str(anchored(directory, name))
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
                return decode(Halt, json.loads(file.read(_LARGEST)))
    return None


def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
