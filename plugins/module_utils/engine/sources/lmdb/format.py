# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file format of LMDB: who wrote an environment, and is it whole. Read from the files, never from an error number.

Source: struct MDB_meta and MDB_page in mdb.c of LMDB 0.9, 1.0 and their forks, on 64-bit little-endian machines.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import List, Optional, Tuple

from ...errors import SourceError, naming
from .free_pages import are_free

# Data versions: of LMDB 0.9 and mdb.master; of DLMDB, Datalevin's fork; of LMDB 1.0.
LMDB, DLMDB, LMDB_1 = 1, 2, 3
KNOWN = (LMDB, DLMDB, LMDB_1)

_MAGIC = 0xBEEFC0DE
# Size of the header of a page, after which the meta begins: LMDB 1.0 added the transaction that wrote the page.
_HEADERS = {LMDB: 16, DLMDB: 16, LMDB_1: 24}
_META_SIZE = 136
_LARGEST_PAGE = 65536
_LOCK_VERSION_MASK = 0xFFF
_LOCK_HEAD = 28
# C libraries, and the kind of a robust mutex that is shared by processes.
GLIBC, MUSL = "glibc", "musl"
_GLIBC_KIND, _MUSL_KIND = 0x90, 0x84
_TRIES = 10

# magic, data version, fixed address, map size; free and main database of 48 bytes each; last page, transaction id
_META = struct.Struct("<II Q Q 48s 48s Q Q")
DESCRIPTION_SIZE = 48
_NO_PAGE = (1 << 64) - 1
_KNOWN_FLAGS = 0x7F
_DEEPEST = 64
# page size (in the free database only), flags, depth, branch, leaf, overflow pages, entries, root
_DATABASE = struct.Struct("<I H H Q Q Q Q Q")


@dataclasses.dataclass(frozen=True)
class Meta:
    """A meta page: the environment as of one transaction. fingerprint identifies the state it describes.

    free_root is the page at which the list of its free pages begins.
    """

    data_version: int
    page_size: int
    map_size: int
    main_entries: int
    last_page: int
    txnid: int
    fingerprint: str
    free_root: int

    @property
    def used_size(self) -> int:
        """Bytes from the start of the file to the end of the last page in use."""
        return (self.last_page + 1) * self.page_size


def parse_metas(head: bytes, versions: Tuple[int, ...] = (LMDB,)) -> List[Meta]:
    """The valid meta pages at the start of a data file of these versions, the current one first; else nothing."""
    first = _parse(head, 0, versions)
    if first is None:
        return []
    second = _parse(head, first.page_size, (first.data_version,))
    metas = [first] if second is None else [first, second]
    return sorted(metas, key=lambda meta: meta.txnid, reverse=True)


def read_metas(data: Path, versions: Tuple[int, ...] = (LMDB,), shown: Optional[Path] = None) -> List[Meta]:
    """The meta pages of a data file of these versions that an application may be writing to.

    shown as for open_data. Raises SourceError when it is not a whole one, with what it is instead.
    """
    descriptor = open_data(data, shown)
    try:
        return metas_of(descriptor, shown or data, versions)
    finally:
        os.close(descriptor)


def metas_of(descriptor: int, data: Path, versions: Tuple[int, ...] = (LMDB,)) -> List[Meta]:
    """The same of an open file; data is its name for messages."""
    metas: List[Meta] = []
    for _unused in range(_TRIES):
        before = metas
        with naming(data):
            head = _stable_head(descriptor)
            # The size after the meta: data pages reach the file before the meta page that speaks of them.
            size = os.fstat(descriptor).st_size
            _refuse_others(data, head, size, versions)
            metas = parse_metas(head, versions)
            if not metas:
                raise SourceError(f"{data} has the magic of LMDB and a meta page that makes no sense: it is damaged")
            if size >= metas[0].used_size or _lacks_free_pages_only(descriptor, metas[0], size):
                return metas
        if metas == before:
            break
    raise SourceError(f"{data} is truncated: it has {size} bytes and its own header speaks of {metas[0].used_size}")


def _lacks_free_pages_only(descriptor: int, meta: Meta, size: int) -> bool:
    missing = range(size // meta.page_size, meta.last_page + 1)
    return are_free(descriptor, meta.page_size, _HEADERS[meta.data_version], meta.free_root, missing)


def describes_database(value: bytes) -> bool:
    """Whether a record of the main database can be the description of a named one (struct MDB_db)."""
    pad, flags, depth, branch, leaf, _overflow, entries, root = _DATABASE.unpack(value)
    if flags & ~_KNOWN_FLAGS or depth > _DEEPEST or pad > _LARGEST_PAGE:
        return False
    if root == _NO_PAGE:
        return not (depth or branch or leaf or entries)
    return bool(depth > 0 and leaf > 0 and entries > 0 and root > 1)


def lock_version(lock: Path, shown: Optional[Path] = None) -> Optional[int]:
    """The version of the lock file, None where there is none or it is still empty; shown as for open_data."""
    head = _head_of_lock(lock, shown)
    if len(head) < 8:
        return None
    if _word(head, 0) != _MAGIC:
        raise SourceError(f"{shown or lock} is not the lock file of an LMDB environment")
    return _word(head, 4) & _LOCK_VERSION_MASK


def lock_library(lock: Path, shown: Optional[Path] = None) -> Optional[str]:
    """The C library whose mutexes are in a lock file of version 1, glibc or musl; None where that cannot be told.

    Each takes the mutex of the other for a locked one, and harms it: it must not be touched. Source: the member of
    pthread_mutex_t that has its kind, robust and shared, on 64-bit machines; the first mutex begins at byte 8.
    """
    head = _head_of_lock(lock, shown)
    kind = _word(head, 24) if len(head) >= _LOCK_HEAD else None
    if kind == _GLIBC_KIND:
        return GLIBC
    return MUSL if kind == 0 and _word(head, 8) == _MUSL_KIND else None


def foreign_lock(data: Path, version: Optional[int]) -> Optional[str]:
    """Why no library here can take part in the locking of the application, in a sentence; None when one can."""
    if version == 2:
        return f"{data} is used through heed (mdb.master, lock version 2), which the libraries here cannot lock"
    if version not in (None, 1):
        return f"{data} has a lock file of version {version}; only version 1, of LMDB 0.9, is known"
    return None


def open_data(path: Path, shown: Optional[Path] = None) -> int:
    """Open a data or lock file for reading. Raises SourceError, also for a link and for what is no regular file.

    With shown, the name for messages, path is a link of our own to an open file, and followed.
    """
    follow = 0 if shown else os.O_NOFOLLOW
    try:
        descriptor = os.open(str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | follow)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "it is a link; name the file that it leads to" if error.errno == errno.ELOOP else error.strerror
        raise SourceError(f"{shown or path} cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceError(f"{shown or path} is not a regular file")
    return descriptor


def _head_of_lock(lock: Path, shown: Optional[Path]) -> bytes:
    try:
        descriptor = open_data(lock, shown)
    except FileNotFoundError:
        return b""
    try:
        with naming(shown or lock):
            return os.pread(descriptor, _LOCK_HEAD, 0)
    finally:
        os.close(descriptor)


def _stable_head(descriptor: int) -> bytes:
    """Both meta pages, read again until two readings agree: a commit may be writing one of them."""
    head = os.pread(descriptor, 2 * _LARGEST_PAGE, 0)
    for _unused in range(_TRIES):
        again = os.pread(descriptor, 2 * _LARGEST_PAGE, 0)
        if _metas_of(again) == _metas_of(head):
            break
        head = again
    return head


def _metas_of(head: bytes) -> bytes:
    first = _parse(head, 0, KNOWN)
    second = first.page_size if first else _LARGEST_PAGE
    size = max(_HEADERS.values()) + _META_SIZE
    return head[:size] + head[second : second + size]


def _refuse_others(data: Path, head: bytes, size: int, versions: Tuple[int, ...]) -> None:
    if size == 0:
        raise SourceError(f"{data} is empty, not an LMDB environment")
    if head.startswith(b"SQLite format 3\0"):
        raise SourceError(f"{data} is an SQLite database, not an LMDB environment")
    if _word(head, 24) == _MAGIC:
        if _word(head, 28) in versions:
            return
        raise SourceError(
            f"{data} was written by LMDB 1.0 (data version {_word(head, 28)}), which py-lmdb 3 or newer can copy"
        )
    if _word(head, 12) == _MAGIC:
        raise SourceError(f"{data} was written by LMDB on a 32-bit machine, which only such a machine can read")
    if _word(head, 16) == int.from_bytes(_MAGIC.to_bytes(4, "little"), "big"):
        raise SourceError(f"{data} was written by LMDB on a big-endian machine, which only such a machine can read")
    if _word(head, 16) != _MAGIC:
        raise SourceError(f"{data} is not an LMDB environment: it does not have the magic 0xBEEFC0DE")
    version = _word(head, 20)
    if version == DLMDB and DLMDB not in versions:
        raise SourceError(
            f"{data} was written by DLMDB (Datalevin, data version 2); name its library, as the jar of Datalevin, "
            "by the option library"
        )
    if version not in (LMDB, DLMDB):
        raise SourceError(f"{data} has the unknown LMDB data version {version}; only version 1, of LMDB 0.9, is known")


def _word(head: bytes, offset: int) -> int:
    return int.from_bytes(head[offset : offset + 4], "little")


def _parse(head: bytes, page: int, versions: Tuple[int, ...]) -> Optional[Meta]:
    for version in versions:
        start = page + _HEADERS[version]
        if len(head) >= start + _META_SIZE and (_word(head, start), _word(head, start + 4)) == (_MAGIC, version):
            return _parse_at(head, start)
    return None


def _parse_at(head: bytes, start: int) -> Optional[Meta]:
    _magic, version, _address, map_size, free, main, last_page, txnid = _META.unpack_from(head, start)
    page_size, free_root = _DATABASE.unpack(free)[0], _DATABASE.unpack(free)[7]
    if not 256 <= page_size <= _LARGEST_PAGE or page_size & (page_size - 1):
        return None
    # Not the fixed address: it says nothing of the content.
    fingerprint = hashlib.sha256(head[start + 16 : start + _META_SIZE]).hexdigest()
    return Meta(version, page_size, map_size, _DATABASE.unpack(main)[6], last_page, txnid, fingerprint, free_root)
