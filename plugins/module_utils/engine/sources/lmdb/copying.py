# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at an environment, and copy it out of a read transaction, or unlocked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...capture import choice
from ...capture.base import Way, nothing
from ...errors import SourceError
from ...processes import Child, Owner, Report
from ...repository.manifest import Position
from ...repository.staging import Staging
from . import optimistic
from .company import Company, company_of
from .details import Environment
from .engines import Engine, Engines
from .format import (
    DLMDB,
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

AUTO, HOT, OPTIMISTIC, NREPL = "auto", "hot", "optimistic", "nrepl"
UNLOCKED = "unlocked reading"
# Bytes of a copy in which both of its meta pages are.
HEAD = 1 << 17
# Lock versions of which it is known that pages are used again as the optimistic copy expects; None where unreadable.
_PAGES_REUSED_ALIKE = (None, 1, 2)


class Look(NamedTuple):
    """An environment before it is copied. engine may read it beside the application, or obstacle tells why none does.

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
    def is_copied_unlocked(self) -> bool:
        """Whether neither an engine nor the application itself copies it."""
        return self.engine is None and self.method != NREPL

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


class Copy(NamedTuple):
    """What a manifest tells of a copy, what made it, and what having the file stand still for it brought with it."""

    environment: Environment
    by: str
    paused_ms: Optional[int] = None
    warnings: Sequence[str] = ()

    @property
    def is_unlocked(self) -> bool:
        """Whether nothing but reading it whole can tell that it is sound."""
        return self.by == UNLOCKED

    def because(self, reason: str) -> Copy:
        """The same with another reason for its method."""
        return self._replace(environment=dataclasses.replace(self.environment, reason=reason))


def look_at(location: Location, at_hand: Engines, method: str, *, has_server: bool = False) -> Look:
    """What the files tell of an environment, and so in which way it is copied.

    has_server: the nREPL server of its application is known. Raises SourceError when that cannot be by this method.
    """
    meta = read_metas(location.data, KNOWN, location.place.shown_data)[0]
    version, company, obstacle = _lock_of(location)
    if method == NREPL or (method == AUTO and has_server and meta.data_version == DLMDB and not at_hand.given):
        return _by_its_application(Look(location, meta, version, None, None, NREPL), at_hand)
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


def _by_its_application(look: Look, at_hand: Engines) -> Look:
    if look.meta.data_version != DLMDB or not look.location.place.subdir:
        raise SourceError(f"{look.location.name} is not a database of Datalevin, and method nrepl is for these alone")
    return look._replace(obstacle="method is nrepl" if at_hand.given else "there is no library that reads it")


def unread(looks: Sequence[Look], at_hand: Engines) -> List[str]:
    """Warnings of copies by an application that nothing here can open.

    Raises SourceError when there is another beside them that is no backup before it was opened.
    """
    closed = [look for look in looks if look.method == NREPL and at_hand.for_copy(look.meta.data_version) is None]
    unlocked = [look.location.name for look in looks if look.is_copied_unlocked]
    if closed and unlocked:
        raise SourceError(
            f"{unlocked[0]} is copied without a lock, so that all has to be opened, and for {closed[0].location.name} "
            f"{closed[0].obstacle}; name one by the option library, or have a job for each"
        )
    return [
        f"the copy of {look.location.name} was not opened, as {look.obstacle}; name one by the option library"
        for look in closed
    ]


def copy_hot(look: Look, engine: Engine, staging: Staging, compact: bool, timeout: float) -> Copy:
    """Copy it out of a read transaction.

    timeout is the longest silence of the child process, in seconds. Raises SourceError.
    """
    location = look.location
    while True:
        with contextlib.suppress(_NumberTakenError):
            known, head, least = _store_hot(look, engine, staging, compact, timeout)
            break
    after = read_metas(location.data, KNOWN, location.place.shown_data)[0]
    copied = check_whole(location, head, staging.records[-1].size, least)
    if look.lock_version is None and after.txnid > look.meta.txnid + 1:
        raise SourceError(f"an application began to write to {location.name} while it was copied; run it again")
    if compact and "txnid" in known:
        position = Position("txnid", known["txnid"], known["txnid"], known["fingerprint"])
    else:
        position = position_of(copied, look.meta, after, compact)
    databases = [Database(**entry) for entry in known.get("databases") or []]
    name = "{}, {}".format(engine, known["library"]) if "library" in known else str(engine)
    return Copy(dataclasses.replace(look.environment(), position=position, databases=databases), name)


def can_be_cloned(look: Look, staging: Staging) -> bool:
    """Whether the repository is where its file can be cloned to, in an instant."""
    with contextlib.suppress(SourceError):
        return not choice.reflink(staging.path).obstacle(look.location.directory)
    return False


def copy_held(look: Look, way: Way, root: Path, staging: Staging, timeout: float) -> Copy:
    """Copy its file, which is below root, as it is while that is held in this way, alone. Raises SourceError."""
    path = look.location.path
    with staging.scratch() as scratch, way.hold(root, [path], scratch.path, nothing) as held:
        copy = copy_unlocked(look.held_in((held.root / path).parent), staging, timeout)
    environment = dataclasses.replace(copy.environment, method=way.name)
    return Copy(environment, copy.by, held.paused_ms, held.warnings)


def copy_unlocked(look: Look, staging: Staging, timeout: float) -> Copy:
    """Copy it as it lies there, tried again when the application was faster. Raises SourceError."""
    copied = optimistic.store(staging, look.location, timeout, is_held=look.is_held)
    position = Position("txnid", copied.txnid, copied.txnid, copied.fingerprint)
    return Copy(dataclasses.replace(look.environment(), position=position, tries=copied.tries), UNLOCKED)


class _NumberTakenError(Exception):
    """A process of another PID namespace that has the environment open has the number of the child."""


def _store_hot(
    look: Look, engine: Engine, staging: Staging, compact: bool, timeout: float
) -> Tuple[Dict[str, Any], bytes, int]:
    """What the child tells of the copy, its first bytes, and the size of the file before."""
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
            head += chunk[: HEAD - len(head)]
            stream.write(chunk)
        known = child.result()
        if known is None:
            raise _NumberTakenError
    return known, head, status.st_size


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


def check_whole(location: Location, head: bytes, size: int, least: Optional[int] = None) -> Meta:
    """The current meta page of a copy that begins with head. Raises SourceError when it is shorter than that says.

    least is the size of the source, for who copies all that is there: where that lacks free pages at its end, so does
    the copy.
    """
    metas = parse_metas(head, KNOWN)
    if not metas or size < min(metas[0].used_size, metas[0].used_size if least is None else least):
        raise SourceError(f"the copy of {location.name} is not a whole environment")
    return metas[0]


def position_of(copied: Meta, before: Meta, after: Meta, compact: bool) -> Position:
    """The transaction of the copy, or the span it lies in where a compact copy does not tell."""
    if not compact:
        return Position("txnid", copied.txnid, copied.txnid, copied.fingerprint)
    same = before.fingerprint == after.fingerprint
    return Position("txnid", before.txnid, after.txnid, before.fingerprint if same else None)
