# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clones of files, on XFS, btrfs and others: a copy that shares the blocks of its original, as of one moment."""

from __future__ import annotations

import errno
import fcntl
import os

# FICLONE of ioctl_ficlone(2).
_FICLONE = 0x40049409
# The two are on different file systems, or theirs, or the system, cannot do it.
_NEVER = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS)


class NoCloneError(Exception):
    """The file cannot be cloned to there; never tells whether this is so of all files of its file system."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.never = error.errno in _NEVER


def clone(source: int, target: int) -> None:
    """Make the open file target what source is, whatever it was before.

    Raises NoCloneError, and OSError for what has to do with the two themselves, as a full disk.
    """
    # A clone does not make a longer file shorter.
    os.ftruncate(target, 0)
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (*_NEVER, errno.EINVAL):
            raise NoCloneError(error) from error
        raise
