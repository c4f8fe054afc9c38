# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether an application has a database open, asked of the kernel's locks without taking one."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Optional

from ..errors import RestoreError

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
