# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a file that ends before its last page lacks nothing but free pages.

A transaction takes new pages at the end of the file and may give them back before it commits. Such a page is counted
(mm_last_pg) and listed as free, and never written, so the file of a healthy environment can be shorter than its header
says, until another transaction takes the page again (mdb_page_flush leaves out P_LOOSE; mdb_env_copyfd0 copies no more
than the file has).

The free pages are in the free database, the tree at mm_dbs[FREE_DBI]: each key is a transaction, each value a list of
page numbers (MDB_IDL: how many, then the numbers). Pages, nodes and flags are those of mdb.c.
"""

from __future__ import annotations

import os
import struct
from array import array
from typing import Iterator, Set, Tuple

_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG = 0x01
_DEEPEST = 64
# The end of a page's header: flags, then where its free room begins and ends, or of how many pages an overflow is.
_TAIL = struct.Struct("<H H H")
# lower and upper half of the size, or of the page number; flags, or the third part of that; size of the key
_NODE = struct.Struct("<H H H H")
_NUMBER = struct.Struct("<Q")


class _UnreadableError(Exception):
    """The pages are no tree of lists."""


def are_free(descriptor: int, page_size: int, header_size: int, root: int, missing: range) -> bool:
    """Whether all missing pages are in the free database with this root; False when it cannot be read.

    header_size is that of a page. It may be asked of a file that an application writes to: what it says is worth
    something as long as the transaction that the root is of has its meta page.
    """
    tree = _Tree(descriptor, page_size, header_size, missing.start)
    found: Set[int] = set()
    try:
        for numbers in tree.lists(root, 0):
            found.update(number for number in numbers if number in missing)
    except (_UnreadableError, struct.error):
        return False
    return len(found) == len(missing)


class _Tree:
    """The free database of a file, of which only so many pages are there. Each is read once at most."""

    def __init__(self, descriptor: int, page_size: int, header_size: int, pages: int) -> None:
        self._descriptor = descriptor
        self._page_size = page_size
        self._header_size = header_size
        self._pages = pages
        self._left = pages

    def lists(self, number: int, depth: int) -> Iterator[array[int]]:
        """The lists of free pages in the tree below a page."""
        flags, page = self._page(number)
        if depth > _DEEPEST or not flags & (_BRANCH | _LEAF):
            raise _UnreadableError
        (lower,) = struct.unpack_from("<H", page, self._header_size - 4)
        for place in range(self._header_size, min(lower, self._page_size - 1), 2):
            (start,) = struct.unpack_from("<H", page, place)
            low, high, node_flags, key_size = _NODE.unpack_from(page, start)
            if flags & _BRANCH:
                yield from self.lists(low | high << 16 | node_flags << 32, depth + 1)
            else:
                start += _NODE.size + key_size
                size = low | high << 16
                yield _numbers(self._big(page, start, size) if node_flags & _BIG else page[start : start + size])

    def _page(self, number: int) -> Tuple[int, bytes]:
        """The flags of a page, and all of it."""
        page = self._read(number, self._page_size)
        return _TAIL.unpack_from(page, self._header_size - _TAIL.size)[0], page

    def _big(self, page: bytes, start: int, size: int) -> bytes:
        """A value that has pages of its own."""
        (number,) = _NUMBER.unpack_from(page, start)
        content = self._read(number, self._header_size + size)
        if not _TAIL.unpack_from(content, self._header_size - _TAIL.size)[0] & _OVERFLOW:
            raise _UnreadableError
        return content[self._header_size :]

    def _read(self, number: int, size: int) -> bytes:
        count = -(-size // self._page_size)
        self._left -= count
        if number + count > self._pages or self._left < 0:
            raise _UnreadableError
        content = os.pread(self._descriptor, size, number * self._page_size)
        if len(content) < size:
            raise _UnreadableError
        return content


def _numbers(value: bytes) -> array[int]:
    (count,) = _NUMBER.unpack_from(value)
    if len(value) < _NUMBER.size * (count + 1):
        raise _UnreadableError
    return array("Q", value[_NUMBER.size : _NUMBER.size * (count + 1)])
