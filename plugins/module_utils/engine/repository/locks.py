# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel locks on open files: they end with the process that holds them, so none can be left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Iterator

from ..errors import LockedError, naming
from ..paths import hand_over

_PATIENCE = 0.5
_PAUSE = 0.05


@contextlib.contextmanager
def locked_file(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file alone; it tells who holds it, and stays when the lock ends.

    Raises LockedError when another process holds it.
    """
    descriptor = os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        hand_over(path)
        if not _try(descriptor, fcntl.LOCK_EX):
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise LockedError(f"{what} is in use by process {holder}; try again when it has finished")
        with naming(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_directory(path: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold a directory, alone or among readers.

    Raises LockedError when another process holds it in a way that excludes this one.
    """
    descriptor = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _try(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            raise LockedError(f"{what} is in use by another process; try again when it has finished")
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def briefly_locked(path: Path) -> Iterator[None]:
    """Wait for the directory, for a change that takes no time."""
    descriptor = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file; looks without creating it."""
    try:
        descriptor = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def is_dead(path: Path) -> bool:
    """Whether nobody holds this working directory."""
    try:
        with locked_directory(path, str(path)):
            return True
    except FileNotFoundError:
        # Gone meanwhile.
        return False
    except LockedError:
        return False


def _try(descriptor: int, operation: int) -> bool:
    """Try for a moment: a look at who holds a lock takes it for an instant itself."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
