# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether an application has a database open: the kernel knows who has a file open, and who holds a lock on it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Set, Tuple

from ..errors import RestoreError
from ..paths import is_directory

# struct flock of 64-bit Linux: type, whence, start, length, process
_FLOCK = struct.Struct("hhqqi4x")


def lock_holder(path: Path) -> Optional[int]:
    """The process that holds a lock on the first byte of a file, 0 for one in another PID namespace, None for none.

    Raises RestoreError when the file is there and cannot be opened: who holds it cannot be known then.
    """
    try:
        descriptor = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise RestoreError(f"whether an application has {path} open cannot be seen: {reason}") from error
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        kind, _whence, _start, _length, process = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    finally:
        os.close(descriptor)
    return max(process, 0) if kind != fcntl.F_UNLCK else None


def refuse_open(paths: Iterable[Path]) -> List[str]:
    """Raise RestoreError when a process has one of the files open; warns of processes that could not be looked at."""
    wanted = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            wanted[status.st_dev, status.st_ino] = path
    if not wanted:
        return []
    hidden = 0
    for process in [name for name in os.listdir("/proc") if name.isdigit()]:
        found = _open_in(process)
        if found is None:
            hidden += 1
            continue
        for file in found & set(wanted):
            raise RestoreError(f"{wanted[file]} is open in process {process}; stop the application before restoring")
    return [f"{hidden} processes of other users could not be looked at for open files"] if hidden else []


def refuse_open_below(root: Path) -> List[str]:
    """The same for all that is below a directory, however much that is."""
    if not is_directory(root):
        return []
    known: Dict[Tuple[int, int], str] = {}
    hidden = 0
    for process in [name for name in os.listdir("/proc") if name.isdigit()]:
        found = _open_in(process)
        hidden += found is None
        known.update(dict.fromkeys(found or (), process))
    for directory, _names, files, descriptor in os.fwalk(root):
        for name in files:
            with contextlib.suppress(OSError):
                status = os.lstat(name, dir_fd=descriptor)
                identity = status.st_dev, status.st_ino
                if identity in known and stat.S_ISREG(status.st_mode):
                    told = f"{os.path.join(directory, name)} is open in process {known[identity]}"
                    raise RestoreError(f"{told}; stop the application before restoring")
    return [f"{hidden} processes of other users could not be looked at for open files"] if hidden else []


def _open_in(process: str) -> Optional[Set[Tuple[int, int]]]:
    """Device and inode of all files a process has open; None when this user may not know."""
    directory = f"/proc/{process}/fd"
    found = set()
    try:
        for name in os.listdir(directory):
            # It may be closed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(f"{directory}/{name}")
                found.add((status.st_dev, status.st_ino))
    except PermissionError:
        return None
    except OSError:
        # It ended.
        return set()
    return found
