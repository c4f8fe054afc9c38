# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The unlocked copy of a live environment whose lock file no library here understands, as that of heed.

The rule is that of mdb_find_oldest and mdb_page_alloc in mdb.c, the same in LMDB 0.9 and in mdb.master: a transaction W
takes pages that were freed by W - 2 or before, and new ones at the end. A page of the state that T committed is freed
by T + 1 at the earliest, so the first transaction that can write over it is T + 3. That one begins after T + 2 has
written its meta page, and T + 2 writes it where that of T was: the slot is txnid & 1 (mdb_env_write_meta). So while the
slot of T has not changed, no page of T has, and that is all that is asked after the last page was read:

- A commit under way at the first look has written either nothing of its meta page, and T is the one before; or all;
  or a part, and then that slot is another at the end, and the copy is not taken.
- Pages reach the file before the meta page that speaks of them, with any of MDB_NOSYNC, MDB_NOMETASYNC, MDB_MAPASYNC
  and MDB_WRITEMAP: those leave out what makes it durable. What the kernel has is read here, not what the disk has.
- A transaction that ends without a commit keeps to the same rule, and its number is taken again.
- The file may grow: T uses nothing behind its last page. If it shrinks, or another takes its name, that is seen.
- MDB_PREVSNAPSHOT goes back to the state before, whose next commit is another T: its slot changes.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import time
from pathlib import Path
from typing import Any, Dict, Iterator

from ...errors import SourceError
from ...processes import Child, Owner, Report
from ...repository.staging import Staging
from ...stream.stages import CHUNK, write_all
from .format import KNOWN, Meta, metas_of, open_data, parse_metas
from .library import Place
from .locations import Location

TRIES = 6
_FIRST_WAIT = 0.25
_METAS = 2
_PAGE_NUMBER = struct.Struct("<Q")


class OvertakenError(SourceError):
    """The application was faster than the copy, in every try."""


class _Overtaken(Exception):
    """The application has committed too much, or done something else to the file, for the copy to be of one state."""


@dataclasses.dataclass(frozen=True)
class Copied:
    """The transaction that the stored copy is of, and how many tries that took."""

    txnid: int
    fingerprint: str
    tries: int


def store(staging: Staging, location: Location, timeout: float, *, is_held: bool = False) -> Copied:
    """Copy an environment into the staging, tried again when the application was faster.

    timeout is the longest silence of a child process, in seconds. The child has the rights of the owner of the data,
    but for files that are held still in a directory of this process. Raises OvertakenError.
    """
    for tries in range(1, TRIES + 1):
        try:
            return _store_once(staging, location, timeout, tries, is_held)
        except _Overtaken:
            if tries < TRIES:
                # Writers come in bursts: the next try may fall between two of them.
                time.sleep(_FIRST_WAIT * 2 ** (tries - 1))
    raise OvertakenError(
        f"{location.name} was written to faster than it could be copied, {TRIES} times; use method freeze, or allow it "
        "with freeze_timeout, or use method cold with the service of the application"
    )


def copy(report: Report, place: Place) -> Dict[str, Any]:
    """Copy the environment in the working directory to the report's output, once. Its lock file is never opened.

    Returns txnid and fingerprint, and as kept whether what was written is of that one state.
    """
    data = Path(place.data)
    descriptor = open_data(data, place.shown_data)
    try:
        # Before the metas: what is missing behind it was seen to be free pages.
        size = os.fstat(descriptor).st_size
        meta = metas_of(descriptor, place.shown_data or data, KNOWN)[0]
        kept = True
        try:
            for chunk in _pages(descriptor, meta, size):
                write_all(report.output, chunk)
            if not place.links:
                _check_same_file(descriptor, data)
        except _Overtaken:
            kept = False
        return {"kept": kept, "txnid": meta.txnid, "fingerprint": meta.fingerprint}
    finally:
        os.close(descriptor)


def _store_once(staging: Staging, location: Location, timeout: float, tries: int, is_held: bool) -> Copied:
    status = os.stat(location.data)
    child = Child(
        lambda report: copy(report, location.place),
        what=f"the copy of {location.name}",
        timeout=timeout,
        owner=None if is_held else Owner.of(status),
        directory=location.entered,
        descriptors=location.place.descriptors,
    )
    with child, staging.store(location.path, status) as stream:
        for chunk in child.chunks():
            stream.write(chunk)
        told = child.result()
        if not told["kept"]:
            raise _Overtaken
        if location.place.links:
            _check_linked_file(location)
    return Copied(told["txnid"], told["fingerprint"], tries)


def _pages(descriptor: int, meta: Meta, size: int) -> Iterator[bytes]:
    """All pages of the state of this meta page, read once; free ones that the file of this size lacks are zeros.

    Raises _Overtaken once they may be of another.
    """
    place = (meta.txnid & 1) * meta.page_size
    slot = os.pread(descriptor, meta.page_size, place)
    if parse_metas(slot, KNOWN) != [meta]:
        raise _Overtaken
    # Both meta pages of the copy tell of this one state, as both of a new environment do. The one before is of no use:
    # its pages may be written over as soon as T + 1 is there, and somebody could ask for it with MDB_PREVSNAPSHOT.
    for number in range(_METAS):
        yield _PAGE_NUMBER.pack(number) + slot[_PAGE_NUMBER.size :]
    offset = _METAS * meta.page_size
    os.posix_fadvise(descriptor, offset, meta.used_size - offset, os.POSIX_FADV_SEQUENTIAL)
    while offset < meta.used_size:
        wanted = min(CHUNK, meta.used_size - offset)
        chunk = os.pread(descriptor, wanted, offset)
        if not chunk and offset >= size:
            chunk = bytes(wanted)
        if not chunk or os.pread(descriptor, meta.page_size, place) != slot:
            raise _Overtaken
        offset += len(chunk)
        yield chunk
    # Asked here once more: an environment of nothing but its meta pages has no chunk.
    if os.pread(descriptor, meta.page_size, place) != slot:
        raise _Overtaken


def _check_linked_file(location: Location) -> None:
    """Links lead to the file that is open, whatever has become of its name."""
    named = location.directory / location.place.data
    if not os.path.samestat(os.stat(location.data), os.stat(named, follow_symlinks=False)):
        raise SourceError(f"{location.name} was replaced by another file while it was copied; run it again")


def _check_same_file(descriptor: int, data: Path) -> None:
    try:
        named = os.stat(data, follow_symlinks=False)
    except FileNotFoundError:
        raise _Overtaken from None
    if not os.path.samestat(named, os.fstat(descriptor)):
        raise _Overtaken
