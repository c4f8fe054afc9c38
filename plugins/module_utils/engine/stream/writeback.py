# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have the kernel begin to write a file out early, so that the fsync at its end has little left to wait for."""

from __future__ import annotations

import ctypes

_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def begin_writeback(descriptor: int) -> None:
    """Begin to write out what is written so far, without waiting; nothing where the system cannot.

    Durability never rests on it: that is fsync's.
    """
    if _sync_file_range:
        _sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)
