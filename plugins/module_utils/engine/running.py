# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes of this host, known by number and time of birth, so that none is taken for one that ended before."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Iterator, List, NamedTuple, Optional, Set

# As after SIGSTOP or under a debugger, or dead.
_NOT_RUNNING = ("T", "t", "Z", "X")


class Process(NamedTuple):
    """One process; born is in clock ticks since the start of the system."""

    number: int
    born: int

    @classmethod
    def of(cls, number: int) -> Optional[Process]:
        """The process that has this number now, if any."""
        fields = _fields(f"/proc/{number}/stat")
        return cls(number, int(fields[19])) if fields else None

    @property
    def is_here(self) -> bool:
        """Whether it has not ended."""
        fields = _fields(f"/proc/{self.number}/stat")
        return bool(fields) and int(fields[19]) == self.born and fields[0] not in ("Z", "X")

    @property
    def is_stopped(self) -> bool:
        """Whether not one of its threads runs."""
        states = []
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{self.number}/task"):
                fields = _fields(f"/proc/{self.number}/task/{thread}/stat")
                states += fields[:1]
        return all(state in _NOT_RUNNING for state in states)

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended.

        Raises PermissionError.
        """
        # From Python 3.9 and Linux 5.3 on; what is opened stays the same process, whoever gets its number.
        find: Any = getattr(os, "pidfd_open", None)
        with contextlib.suppress(ProcessLookupError):
            try:
                descriptor = None if find is None else find(self.number)
            except OSError as error:
                if isinstance(error, ProcessLookupError):
                    return
                descriptor = None
            try:
                if not self.is_here:
                    return
                if descriptor is None:
                    os.kill(self.number, number)
                else:
                    deliver: Any = signal.pidfd_send_signal  # type: ignore[attr-defined,unused-ignore]
                    deliver(descriptor, number)
            finally:
                if descriptor is not None:
                    os.close(descriptor)


def all_processes() -> Iterator[int]:
    """The numbers of all that can be seen."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def ourselves() -> Set[int]:
    """This process and those that it descends from."""
    found: Set[int] = set()
    number = os.getpid()
    while number > 0 and number not in found:
        found.add(number)
        fields = _fields(f"/proc/{number}/stat")
        number = int(fields[1]) if fields else 0
    return found


def _fields(path: str) -> List[str]:
    """From the state of a process or thread on: its name before that can hold anything. Empty when it has ended."""
    try:
        with open(path, "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return []
