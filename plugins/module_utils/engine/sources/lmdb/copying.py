# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at an environment, and copy it out of a read transaction, or unlocked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ...errors import SourceError
from ...processes import Child, Owner, Report
from ...repository.manifest import Position
from ...repository.staging import Staging
from . import optimistic
from .company import Company, company_of
from .details import Environment
from .engines import Engine, Engines
from .format import (
    GLIBC,
    KNOWN,
    LMDB,
    MUSL,
    Meta,
    foreign_lock,
    lock_library,
    lock_version,
    parse_metas,
    read_metas,
)
from .library import Database
from .locations import Location

AUTO, HOT, OPTIMISTIC = "auto", "hot", "optimistic"
UNLOCKED = "unlocked reading"
_HEAD = 1 << 17
# Lock versions of which it is known that pages are used again as the optimistic copy expects; None where unreadable.
_PAGES_REUSED_ALIKE = (None, 1, 2)


class Look(NamedTuple):
    """An environment before it is copied. engine may read it beside the application, or obstacle tells why none may.

    company are those who have it open; is_held: it is where nobody writes to it.
    """

    location: Location
    meta: Meta
    lock_version: Optional[int]
    engine: Optional[Engine]
    obstacle: Optional[str]
    method: str
    company: Company = Company()
    is_held: bool = False

    @property
    def position(self) -> Position:
        """Its last transaction."""
        return Position("txnid", self.meta.txnid, self.meta.txnid, self.meta.fingerprint)

    def held_in(self, directory: Path) -> Look:
        """The same environment in a directory where its files are held still."""
        place = dataclasses.replace(self.location.place, links=None)
        held = dataclasses.replace(self.location, directory=directory, place=place)
        return self._replace(location=held, is_held=True)

    def unlocked(self, obstacle: str) -> Look:
        """The same environment, to be copied without a lock for the reason that is given."""
        return self._replace(engine=None, obstacle=obstacle, method=OPTIMISTIC)

    @property
    def may_be_unlocked(self) -> bool:
        """Whether it is known that a copy without a lock comes out right."""
        return self.meta.data_version == LMDB and self.lock_version in _PAGES_REUSED_ALIKE

    def environment(self) -> Environment:
        """What a manifest tells of it."""
        meta = self.meta
        return Environment(
            self.location.path,
            meta.data_version,
            self.lock_version,
            meta.page_size,
            meta.map_size,
            self.position,
            [],
            method=self.method,
            reason=self.obstacle,
        )


def look_at(location: Location, at_hand: Engines, method: str) -> Look:
    """What the files tell of an environment, and so in which way it is copied.

    Raises SourceError when that cannot be by this method.
    """
    meta = read_metas(location.data, KNOWN, location.place.shown_data)[0]
    version, company, obstacle = _lock_of(location)
    if method not in (AUTO, HOT):
        obstacle = f"method is {method}"
    engine = None if obstacle else at_hand.for_live(Path(location.name), meta.data_version, version)
    if engine:
        return Look(location, meta, version, engine, None, HOT, company)
    obstacle = obstacle or foreign_lock(Path(location.name), version)
    if method == HOT:
        raise SourceError(f"{obstacle}; use method auto or optimistic")
    if method in (AUTO, OPTIMISTIC) and meta.data_version != LMDB:
        raise SourceError(f"{location.name} is not of LMDB 0.9 or heed, and {obstacle}; use method hot, freeze or cold")
    if version not in _PAGES_REUSED_ALIKE and method == AUTO:
        raise SourceError(
            f"{obstacle}; method optimistic copies it, which is right if it uses pages again as LMDB 0.9 does"
        )
    at_hand.needed(Path(location.name), meta.data_version)
    return Look(location, meta, version, None, obstacle, OPTIMISTIC if method == AUTO else method, company)


def copy_hot(look: Look, engine: Engine, staging: Staging, compact: bool, timeout: float) -> Tuple[Environment, str]:
    """Copy it out of a read transaction; returns what the manifest tells, and what made the copy.

    timeout is the longest silence of the child process, in seconds. Raises SourceError.
    """
    location = look.location
    while True:
        with contextlib.suppress(_NumberTakenError):
            known, head = _store_hot(look, engine, staging, compact, timeout)
            break
    after = read_metas(location.data, KNOWN, location.place.shown_data)[0]
    copied = _check_whole(location, head, staging.records[-1].size)
    if look.lock_version is None and after.txnid > look.meta.txnid + 1:
        raise SourceError(f"an application began to write to {location.name} while it was copied; run it again")
    position = _position(known, copied, look.meta, after, compact)
    databases = [Database(**entry) for entry in known.get("databases") or []]
    name = "{}, {}".format(engine, known["library"]) if "library" in known else str(engine)
    return dataclasses.replace(look.environment(), position=position, databases=databases), name


def copy_unlocked(look: Look, staging: Staging, timeout: float) -> Environment:
    """Copy it as it lies there, tried again when the application was faster. Raises SourceError."""
    copied = optimistic.store(staging, look.location, timeout, is_held=look.is_held)
    position = Position("txnid", copied.txnid, copied.txnid, copied.fingerprint)
    return dataclasses.replace(look.environment(), position=position, tries=copied.tries)


class _NumberTakenError(Exception):
    """A process of another PID namespace that has the environment open has the number of the child."""


def _store_hot(
    look: Look, engine: Engine, staging: Staging, compact: bool, timeout: float
) -> Tuple[Dict[str, Any], bytes]:
    """What the child tells of the copy, and its first bytes."""
    location = look.location
    status = os.stat(location.data)

    def copy(report: Report) -> Optional[Dict[str, Any]]:
        return None if _own_number() in look.company.numbers else engine.copy(report, location.place, compact)

    child = Child(
        copy,
        what=f"the copy of {location.name} by {engine}",
        timeout=timeout,
        owner=Owner.of(status),
        directory=location.entered,
        descriptors=[*engine.descriptors, *location.place.descriptors],
    )
    with child, staging.store(location.path, status) as stream:
        head = b""
        for chunk in child.chunks():
            head += chunk[: _HEAD - len(head)]
            stream.write(chunk)
        known = child.result()
        if known is None:
            raise _NumberTakenError
    return known, head


def _lock_of(location: Location) -> Tuple[Optional[int], Company, Optional[str]]:
    """The version of the lock file, who uses it, and why it may not be used here."""
    lock, shown = location.lock, location.place.shown_lock
    try:
        version, company = lock_version(lock, shown), company_of(lock, shown)
        library = lock_library(lock, shown) if version == 1 else None
    except SourceError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        return None, Company(), str(error)
    if company.is_hidden:
        return version, company, f"{location.name} is open in a process of another container, unseen from here"
    if library and library != _own_library():
        return version, company, f"{location.name} is used through {library}, another C library than that of this host"
    return version, company, None


def _own_number() -> int:
    """Of the child."""
    return os.getpid()


def _own_library() -> str:
    """The C library of this process; of these two only one answers."""
    try:
        return GLIBC if os.confstr("CS_GNU_LIBC_VERSION") else MUSL
    except (ValueError, OSError):
        return MUSL


def _check_whole(location: Location, head: bytes, size: int) -> Meta:
    metas = parse_metas(head, KNOWN)
    if not metas or size < metas[0].used_size:
        raise SourceError(f"the copy of {location.name} is not a whole environment")
    return metas[0]


def _position(known: Dict[str, Any], copied: Meta, before: Meta, after: Meta, compact: bool) -> Position:
    """The transaction of the copy, or the span it lies in where a compact copy does not tell."""
    if not compact:
        return Position("txnid", copied.txnid, copied.txnid, copied.fingerprint)
    if "txnid" in known:
        return Position("txnid", known["txnid"], known["txnid"], known["fingerprint"])
    same = before.fingerprint == after.fingerprint
    return Position("txnid", before.txnid, after.txnid, before.fingerprint if same else None)
