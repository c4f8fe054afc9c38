# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel locks on open files: they end with the process that holds them, so none can be left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Iterator

from ..errors import LockedError, UsageError, naming
from ..paths import anchored, create, hand_over, open_no_link

_PATIENCE = 0.5
_PAUSE = 0.05


@contextlib.contextmanager
def locked_file(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file alone; it tells who holds it, and stays when the lock ends.

    Raises LockedError when another process holds it, UsageError when it is no lock file.
    """
    directory = open_no_link(path.parent)
    try:
        with naming(path):
            descriptor = _open_or_create(anchored(directory, path.name), directory)
    finally:
        os.close(directory)
    try:
        _refuse_foreign(descriptor, path)
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
def locked_directory(path: Path, what: str, shared: bool = False) -> Iterator[int]:
    """Hold a directory, alone or among readers; yields its descriptor.

    Raises LockedError when another process holds it in a way that excludes this one.
    """
    descriptor = open_no_link(path)
    try:
        with locked(descriptor, what, shared):
            yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(descriptor: int, what: str, shared: bool = False) -> Iterator[None]:
    """The same for a directory that is open already."""
    if not _try(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        raise LockedError(f"{what} is in use by another process; try again when it has finished")
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def briefly_locked(path: Path) -> Iterator[int]:
    """Wait for the directory, for a change that takes no time; yields its descriptor."""
    descriptor = open_no_link(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
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
    except (FileNotFoundError, PermissionError):
        # Gone meanwhile, or of root in the repository of a user, who could not remove it.
        return False
    except LockedError:
        return False


def _refuse_foreign(descriptor: int, path: Path) -> None:
    """Root must not overwrite a file that the owner of the directory gave a second name."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise UsageError(f"{path} is no lock file but something else or another file's second name; remove it")


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


def _open_or_create(path: Path, directory: int) -> int:
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(str(path), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(FileExistsError):
            descriptor = create(path)
            # Only what is new: another may be a second name that a user gave to a file of root.
            hand_over(descriptor, directory)
            return descriptor
