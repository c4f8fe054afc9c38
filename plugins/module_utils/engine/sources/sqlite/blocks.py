# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copy a file that is written to, and later only what has changed."""

from __future__ import annotations

import os
from typing import Callable

from ...stream.stages import CHUNK

_ALIVE_EVERY = 64 * CHUNK


def copy_all(source: int, target: int, alive: Callable[[], None]) -> None:
    """Copy from descriptor to descriptor, from the first byte to the last."""
    buffer = memoryview(bytearray(CHUNK))
    offset = 0
    while True:
        size = os.preadv(source, [buffer], offset)
        if not size:
            break
        _write(target, buffer[:size], offset)
        offset += size
        if offset % _ALIVE_EVERY == 0:
            alive()
    os.ftruncate(target, offset)


def copy_changes(source: int, target: int, alive: Callable[[], None]) -> int:
    """Make target, a copy made before, what source is now; returns the number of bytes that had changed.

    Nobody may write to source meanwhile. Comparing costs reading both, from memory as a rule.
    """
    ours, theirs = bytearray(CHUNK), bytearray(CHUNK)
    changed = offset = 0
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    while offset < size:
        length = os.preadv(source, [theirs], offset)
        if not length:
            raise OSError("it became shorter while it was locked")
        known = os.preadv(target, [ours], offset)
        if known != length or ours != theirs:
            _write(target, memoryview(theirs)[:length], offset)
            changed += length
            # What lies behind the end of a short block is compared too.
            ours[:] = theirs
        offset += length
        if offset % _ALIVE_EVERY == 0:
            alive()
    return changed


def _write(target: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(target, data, offset)
        data, offset = data[written:], offset + written
