# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copy a file that is written to, and later only what has changed."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from typing import Callable, Iterator, List, Optional, Tuple

# For copies from file to file, which no processor looks at: large, so that the system takes its memory in large pieces.
BUFFER = 1 << 20
_ALIVE_EVERY = 16 * BUFFER
# What a disk writes in a fraction of a second.
_WRITE_BACK = 128 << 20
# Larger ones would be taken from and given back to the system one by one.
_BLOCK = 1 << 16
# MADV_POPULATE_READ of Linux 5.14.
_POPULATE = 22


class WriteBack:
    """Has what was written to a file brought to the disk now and then, and waits for it.

    Else gigabytes would gather in memory, and each commit of a server on the same disk had to wait for them.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._waiting = 0

    def grown(self, size: int) -> None:
        """So many bytes more were written."""
        self._waiting += size
        if self._waiting >= _WRITE_BACK:
            os.fdatasync(self._target)
            self._waiting = 0


def copy_all(
    source: int, target: int, alive: Callable[[], None], start: int = 0, *, write_back: Optional[WriteBack] = None
) -> None:
    """Copy from descriptor to descriptor, from the byte at start to the last; target ends there too.

    Where nothing was ever written to the source, nothing is written: target is empty from start on.
    """
    buffer = memoryview(bytearray(BUFFER))
    offset = start
    while True:
        offset = _next_data(source, offset)
        size = os.preadv(source, [buffer[: _next_hole(source, offset) - offset]], offset)
        if not size:
            break
        _write(target, buffer[:size], offset)
        if write_back:
            write_back.grown(size)
        offset += size
        if offset % _ALIVE_EVERY < BUFFER:
            alive()
    os.ftruncate(target, offset)


class Changes:
    """What changes in a file while and after it is copied. Made when it was copied, it has both files in memory.

    Then to compare them takes a fraction of a second for a gigabyte, as long as they fit there.
    """

    def __init__(self, source: int, target: int, alive: Callable[[], None]) -> None:
        self._source = source
        self._target = target
        self._alive = alive
        self._size = min(os.fstat(source).st_size, os.fstat(target).st_size)
        self._maps: List[mmap.mmap] = []
        if self._size:
            self._maps = [mmap.mmap(file, self._size, access=mmap.ACCESS_READ) for file in (source, target)]
        if 2 * self._size < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            self._populate()

    def fetch(self) -> None:
        """Make the copy what the file is now, while nobody writes to it."""
        size = os.fstat(self._source).st_size
        # Beyond the end of a file that became shorter there is nothing to compare.
        common = min(size, self._size)
        os.ftruncate(self._target, common)
        for start, stop in self._written(common):
            for offset in range(start, stop, _BLOCK):
                end = min(offset + _BLOCK, stop)
                now, then = (content[offset:end] for content in self._maps)
                if now != then:
                    _write(self._target, memoryview(now), offset)
                if offset % _ALIVE_EVERY == 0:
                    self._alive()
        copy_all(self._source, self._target, self._alive, common)

    def close(self) -> None:
        """Give the memory back."""
        for content in self._maps:
            content.close()

    def _populate(self) -> None:
        # Older kernels do not know it; a file that became shorter is no fault here.
        with contextlib.suppress(OSError):
            for start, stop in self._written(self._size):
                for content in self._maps:
                    for offset in range(start, stop, _ALIVE_EVERY):
                        content.madvise(_POPULATE, offset, min(_ALIVE_EVERY, stop - offset))
                        self._alive()

    def _written(self, size: int) -> Iterator[Tuple[int, int]]:
        """Where one of the two has data, in whole blocks: there can be terabytes of nothing between."""
        offset = 0
        while True:
            start = min(_next_data(file, offset) for file in (self._source, self._target))
            start -= start % _BLOCK
            if start >= size:
                return
            holes = [_next_hole(file, start) for file in (self._source, self._target)]
            stop = min(max(start + _BLOCK, -(-max(holes) // _BLOCK) * _BLOCK), size)
            yield start, stop
            offset = stop
            if offset >= size:
                return


def _next_data(file: int, offset: int) -> int:
    """Where the first byte at or after the offset is that was ever written, or else the end of the file."""
    try:
        return os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            # A file system that does not tell.
            return offset
        return max(offset, os.fstat(file).st_size)


def _next_hole(file: int, offset: int) -> int:
    """Where the data ends that begins at the offset; somewhere behind it where that is not told."""
    try:
        return os.lseek(file, offset, os.SEEK_HOLE)
    except OSError:
        return offset + BUFFER


def _write(target: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(target, data, offset)
        data, offset = data[written:], offset + written
