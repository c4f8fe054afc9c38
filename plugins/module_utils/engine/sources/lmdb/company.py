# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who else has an environment open, as the locks on its lock file tell. Nothing is written, no lock is taken.

Source: mdb_env_excl_lock and mdb_reader_pid in mdb.c. Who has it open holds a lock on byte 0, and once it reads one on
the byte of its own process number. A second process that happens to have this number, in a PID namespace of its own,
cannot read then: the later one fails, which may be the application. So a number that is taken is not used here.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import struct
from pathlib import Path
from typing import FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

from .format import open_data

# struct flock of 64-bit Linux: type, whence, start, length, process
_FLOCK = struct.Struct("hhqqi4x")
_END = (1 << 63) - 1
_MOST_LOCKS = 4096
_NUMBERS = "NSpid:"


@dataclasses.dataclass(frozen=True)
class Company:
    """The processes beside us. numbers are those that processes of other PID namespaces have there.

    is_hidden: some of them are in namespaces that cannot be looked into from here, so that their numbers are not known.
    """

    numbers: FrozenSet[int] = frozenset()
    is_hidden: bool = False


class _Lock(NamedTuple):
    start: int
    length: int
    holder: int


def company_of(lock: Path, shown: Optional[Path] = None) -> Company:
    """Who has locks on a lock file, which need not exist; shown as for format.open_data. Raises SourceError.

    Must not be called by a process that has the environment open: it would lose its own locks.
    """
    try:
        descriptor = open_data(lock, shown)
    except FileNotFoundError:
        return Company()
    try:
        locks = list(_locks(descriptor))
    finally:
        os.close(descriptor)
    numbers: Set[int] = set()
    for found in locks:
        own = _numbers_of(found.holder)
        if found.start and found.start != found.holder:
            numbers.add(found.start)
        if len(own) > 1:
            numbers.add(own[-1])
    return Company(frozenset(numbers), any(found.holder <= 0 for found in locks))


def _locks(descriptor: int) -> Iterator[_Lock]:
    """All locks of others; of several on one byte one."""
    todo: List[Tuple[int, int]] = [(0, _END)]
    for _unused in range(_MOST_LOCKS):
        if not todo:
            return
        start, end = todo.pop()
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        kind, _whence, found, length, holder = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
        if kind == fcntl.F_UNLCK:
            continue
        yield _Lock(found, length, holder)
        after = found + length if length else end
        todo += [(low, high) for low, high in ((start, found), (after, end)) if low < high]


def _numbers_of(process: int) -> List[int]:
    """The numbers of a process, from our PID namespace to its own; none when that cannot be seen."""
    if process <= 0:
        return []
    try:
        lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return []
    told = next((line[len(_NUMBERS) :].split() for line in lines if line.startswith(_NUMBERS)), [])
    return [int(number) for number in told]
