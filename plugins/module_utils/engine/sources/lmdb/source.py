# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LMDB and its forks: hot copies out of a read transaction, restored by replacing the data file."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ...decoding import DecodingError, decode, encode
from ...errors import CorruptError, RestoreError, SourceError, UsageError
from ...paths import is_safe_relative, overlap
from ...processes import DEFAULT_TIMEOUT, NOBODY, Child, Owner, check_timeout, lent_to_nobody
from ...repository.manifest import Kind, Manifest, Named, Origin, Position
from ...repository.staging import Staging
from .. import tree
from ..base import Capture, Inspection, Restoration, Source, Tools, Tree
from ..usage import lock_holder
from . import engines, optimistic
from .companions import companions_of, displaced_for
from .format import DLMDB, KNOWN, LMDB, LMDB_1, Meta, foreign_lock, lock_version, metas_of, parse_metas, read_metas
from .library import Database
from .locations import Location, Locations, locate, lock_path, other_locks

_VERSIONS = {LMDB: "0.9", DLMDB: "DLMDB", LMDB_1: "1.0"}
_HEAD = 1 << 17
# Lock versions of which it is known that pages are used again as the optimistic copy expects; None where unreadable.
_PAGES_REUSED_ALIKE = (None, 1, 2)
_COPIED_BY = "unlocked reading"
ONE, EACH = "one", "each"


@dataclasses.dataclass(frozen=True)
class LmdbOptions:
    """What a job of type lmdb can say. timeout is the longest silence of a child process, in seconds.

    library is the shared library of a fork, or the jar, uberjar or wheel of Datalevin that brings one.
    """

    path: str
    method: str = "auto"
    compact: bool = False
    include: List[str] = dataclasses.field(default_factory=list)
    library: Optional[str] = None
    timeout: int = DEFAULT_TIMEOUT


@dataclasses.dataclass(frozen=True)
class Environment:
    """One environment in a manifest; path is that of its data file below the source.

    tries is how often it was copied until no commit could have touched the copy; only an unlocked one needs several.
    """

    path: str
    data_version: int
    lock_version: Optional[int]
    page_size: int
    map_size: int
    position: Position
    databases: List[Database]
    tries: int = 1


@dataclasses.dataclass(frozen=True)
class Details:
    """What a manifest tells of an LMDB source beside the fields of all sources.

    point_in_time: whether all environments and included files are as of one point in time, or each as of its own, in
    the order in which they stand here, the included files last.
    """

    environments: List[Environment]
    include: List[tree.Included] = dataclasses.field(default_factory=list)
    single_file: bool = False
    point_in_time: str = EACH


class Look(NamedTuple):
    """What the files tell of an environment; obstacle is why it is not copied out of a read transaction."""

    location: Location
    meta: Meta
    lock_version: Optional[int]
    engine: engines.Engine
    obstacle: Optional[str]

    @property
    def position(self) -> Position:
        """Its last transaction."""
        return Position("txnid", self.meta.txnid, self.meta.txnid, self.meta.fingerprint)


class LmdbSource(Source):
    """An environment directory, a single file, or a tree with environments; and files that belong to them."""

    type = "lmdb"

    def __init__(self, options: LmdbOptions) -> None:
        if options.method not in ("auto", "hot", "optimistic"):
            raise UsageError(f"method {options.method!r} is not known for lmdb; choose auto, hot or optimistic")
        if options.method == "optimistic" and options.compact:
            raise UsageError("method optimistic copies the file as it is; leave out compact")
        check_timeout(options.timeout)
        self._options = options
        self._path = Path(options.path)
        self.places = [self._path]

    def inspect(self) -> Inspection:
        locations = locate(self._path)
        self._check_include(locations.root, locations.environments)
        with engines.at_hand(self._options.library) as at_hand:
            looks = [self._look_at(location, at_hand) for location in locations.environments]
        environments = [_environment(look, look.position, []) for look in looks]
        size = sum(look.meta.used_size for look in looks)
        included = tree.scan(locations.root, self._included(looks))
        details = self._details(locations, environments, included)
        return Inspection(
            _origin(self._place(locations), details, size + sum(entry.size for entry in included)), _engine_of(looks)
        )

    def capture(self, staging: Staging) -> Capture:
        locations = locate(self._path)
        self._check_include(locations.root, locations.environments)
        with engines.at_hand(self._options.library) as at_hand:
            # All are looked at before the first is copied.
            looks = [self._look_at(location, at_hand) for location in locations.environments]
            copies = [self._copy(look, staging) for look in looks]
        environments = [environment for environment, _name in copies]
        copied_by = ", ".join(dict.fromkeys(name for _environment, name in copies))
        is_optimistic = any(look.obstacle for look in looks)
        included, warnings = self._copy_included(locations.root, self._included(looks), staging)
        details = self._details(locations, environments, included)
        size = sum(record.size for record in staging.records)
        method = "optimistic" if is_optimistic else "hot"
        kind = Kind(method=method, consistency="transaction", online=True, copied_by=copied_by)
        warnings = [*locations.warnings, *self._left_whole(looks), *warnings]
        origin = _origin(self._place(locations), details, size)
        return Capture(origin, _engine_of(looks), kind, warnings, needs_check=is_optimistic)

    @staticmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        try:
            current, previous = _details(now), _details(then)
        except CorruptError:
            return False
        if [entry.path for entry in current.environments] != [entry.path for entry in previous.environments]:
            return False
        pairs = zip(current.environments, previous.environments)
        return current.include == previous.include and all(
            _same_state(one.position, other.position) for one, other in pairs
        )

    @staticmethod
    def can_check(origin: Origin, tools: Tools) -> bool:
        return all(engines.can_read(entry.data_version, tools.library) for entry in _details(origin).environments)

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:
        details = _details(origin)
        _match(details, list(files))
        with engines.at_hand(tools.library) as at_hand:
            environments = [
                _checked(environment, files[environment.path], at_hand, tools.timeout)
                for environment in details.environments
            ]
        completed = dataclasses.replace(details, environments=environments)
        return dataclasses.replace(origin, details=encode(completed))

    @staticmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        included = _details(origin).include
        return {tree.RECORD_PATH: Tree(included)} if included else {}

    @staticmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        details = _details(manifest.source)
        target = destination or Path(manifest.source.path)
        names = {environment.path: environment.path for environment in details.environments}
        _match(details, [record.path for record in manifest.files if record.content == "file"])
        if details.single_file:
            names = dict.fromkeys(names, target.name)
            target = target.parent
        stale = [lock_path(path, details.single_file) for path in names.values()] + other_locks(list(names.values()))
        trees = [entry.path for entry in details.include]
        map_sizes = {names[entry.path]: entry.map_size for entry in details.environments}
        displaced = [
            path
            for entry in details.environments
            for path in displaced_for(names[entry.path], entry.data_version)
            if path not in trees
        ]
        return Restoration(target, names, trees, stale, map_sizes, displaced)

    @staticmethod
    def refuse_in_use(restoration: Restoration) -> List[str]:
        for lock in restoration.stale:
            holder = lock_holder(restoration.root / lock)
            if holder is not None:
                raise RestoreError(
                    "{} is open in {}; stop the application before restoring".format(
                        restoration.root, f"process {holder}" if holder else "a process of another container"
                    )
                )
        return []

    def tools(self, told: Tools) -> Tools:
        return dataclasses.replace(told, library=told.library or self._options.library)

    def _place(self, locations: Locations) -> Path:
        """Where a restore goes: the file, or the directory also where its data.mdb was named."""
        return self._path if locations.is_single_file else locations.root

    def _check_include(self, root: Path, environments: List[Location]) -> None:
        tree.check_include(root, self._options.include)
        for path, location in itertools.product(self._options.include, environments):
            if location.path == path or location.path.startswith(path + "/"):
                raise UsageError(f"include {path!r} holds the environment {location.data}, which is backed up anyway")
            if root / path == location.lock:
                raise UsageError(f"include {path!r} is the lock file of {location.data}, which is never copied")

    def _included(self, looks: List[Look]) -> List[str]:
        """What the options say, and what Datalevin needs beside its data."""
        companions = [path for look in looks for path in companions_of(look.location, look.meta.data_version)]
        return [*self._options.include, *(path for path in companions if not overlap([*self._options.include, path]))]

    def _look_at(self, location: Location, at_hand: engines.Engines) -> Look:
        """What the files tell of an environment, and so in which way it is copied.

        Raises SourceError when nothing that is at hand may copy it beside the application.
        """
        meta = read_metas(location.data, KNOWN)[0]
        version, engine, method = None, None, self._options.method
        try:
            version = lock_version(location.lock)
            engine = at_hand.for_live(location.data, meta.data_version, version)
            obstacle = None if engine else foreign_lock(location.data, version)
        except SourceError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
            obstacle = str(error)
        if obstacle and method == "hot":
            raise SourceError(f"{obstacle}; use method auto or optimistic")
        if obstacle and version not in _PAGES_REUSED_ALIKE and method == "auto":
            raise SourceError(f"{obstacle}; that method optimistic is right for it is for you to know")
        if method == "optimistic":
            obstacle = obstacle or "method is optimistic"
        if obstacle and meta.data_version != LMDB:
            raise SourceError(f"{location.data} cannot be copied without its lock file: {obstacle}")
        return Look(location, meta, version, engine or engines.Engine(), obstacle)

    def _left_whole(self, looks: List[Look]) -> List[str]:
        if not self._options.compact:
            return []
        return [f"{look.location.data} is not compact: {look.obstacle}" for look in looks if look.obstacle]

    def _details(self, locations: Locations, environments: List[Environment], included: List[tree.Included]) -> Details:
        is_one = len(environments) == 1 and not included
        return Details(environments, included, locations.is_single_file, ONE if is_one else EACH)

    def _copy(self, look: Look, staging: Staging) -> Tuple[Environment, str]:
        """The copy, and what made it."""
        if look.obstacle is None:
            return self._copy_hot(look, staging)
        copied = optimistic.store(staging, look.location, self._options.timeout)
        position = Position("txnid", copied.txnid, copied.txnid, copied.fingerprint)
        return dataclasses.replace(_environment(look, position, []), tries=copied.tries), _COPIED_BY

    def _copy_hot(self, look: Look, staging: Staging) -> Tuple[Environment, str]:
        location, engine = look.location, look.engine
        status = os.stat(location.data)
        child = Child(
            lambda report: engine.copy(report, location.place, self._options.compact),
            what=f"the copy of {location.data} by {engine}",
            timeout=self._options.timeout,
            owner=Owner.of(status),
            directory=location.directory,
            descriptors=engine.descriptors,
        )
        with child, staging.store(location.path, status) as stream:
            head = b""
            for chunk in child.chunks():
                head += chunk[: _HEAD - len(head)]
                stream.write(chunk)
            known = child.result()
        after = read_metas(location.data, KNOWN)[0]
        copied = _check_whole(location, head, staging.records[-1].size)
        if look.lock_version is None and after.txnid > look.meta.txnid + 1:
            raise SourceError(f"an application began to write to {location.data} while it was copied; run it again")
        position = self._position(known, copied, look.meta, after)
        databases = [Database(**entry) for entry in known.get("databases") or []]
        name = "{}, {}".format(engine, known["library"]) if "library" in known else str(engine)
        return _environment(look, position, databases), name

    def _position(self, known: Dict[str, Any], copied: Meta, before: Meta, after: Meta) -> Position:
        """The transaction of the copy, or the span it lies in where a compact copy does not tell."""
        if not self._options.compact:
            return Position("txnid", copied.txnid, copied.txnid, copied.fingerprint)
        if "txnid" in known:
            return Position("txnid", known["txnid"], known["txnid"], known["fingerprint"])
        same = before.fingerprint == after.fingerprint
        return Position("txnid", before.txnid, after.txnid, before.fingerprint if same else None)

    @staticmethod
    def _copy_included(root: Path, include: List[str], staging: Staging) -> Tuple[List[tree.Included], List[str]]:
        if not include:
            return [], []
        with staging.store(tree.RECORD_PATH, os.stat(root), content="tar") as stream:
            return tree.write(stream, root, include)


def _check_whole(location: Location, head: bytes, size: int) -> Meta:
    metas = parse_metas(head, KNOWN)
    if not metas or size < metas[0].used_size:
        raise SourceError(f"the copy of {location.data} is not a whole environment")
    return metas[0]


def _origin(path: Path, details: Details, size: int) -> Origin:
    only = details.environments[0].position if len(details.environments) == 1 else None
    return Origin(path=str(path), size=size, position=only, details=encode(details))


def _engine_of(looks: List[Look]) -> Named:
    versions = sorted({look.meta.data_version for look in looks})
    return Named("lmdb", ", ".join(_VERSIONS[version] for version in versions))


def _environment(look: Look, position: Position, databases: List[Database]) -> Environment:
    meta = look.meta
    return Environment(
        look.location.path, meta.data_version, look.lock_version, meta.page_size, meta.map_size, position, databases
    )


def _checked(environment: Environment, data: Path, at_hand: engines.Engines, timeout: float) -> Environment:
    databases = _read_copy(data, environment.path, at_hand, timeout)
    if environment.databases and environment.databases != databases:
        raise CorruptError(
            f"{environment.path} has the databases {_counts(databases)}, "
            f"its source had {_counts(environment.databases)}"
        )
    return dataclasses.replace(environment, databases=databases)


def _read_copy(data: Path, name: str, at_hand: engines.Engines, timeout: float) -> List[Database]:
    with lent_to_nobody(data) as descriptor:
        try:
            # From the file itself: what a manifest says of it may not be true.
            engine = at_hand.for_copy(metas_of(descriptor, Path(name), KNOWN)[0].data_version)
        except SourceError as error:
            raise CorruptError(str(error)) from error
        if engine is None:
            raise CorruptError(f"{name} is of another version of LMDB than its manifest says")
        child = Child(
            lambda report: engine.read_all(report, descriptor, name),
            what="the process that reads it",
            timeout=timeout,
            owner=NOBODY,
            descriptors=[descriptor, *engine.descriptors],
            failing=CorruptError,
        )
        with child:
            try:
                found = child.result()
            except CorruptError as error:
                raise CorruptError(f"{name}: {error}") from error
    return [Database(**entry) for entry in found]


def _match(details: Details, paths: List[str]) -> None:
    if sorted(environment.path for environment in details.environments) != sorted(paths):
        raise CorruptError("the files and the environments of the manifest do not match")


def _same_state(now: Position, then: Position) -> bool:
    return now.fingerprint is not None and (now.start, now.fingerprint) == (then.start, then.fingerprint)


def _details(origin: Origin) -> Details:
    try:
        details = decode(Details, origin.details, "source")
    except DecodingError as error:
        raise CorruptError(f"the manifest is not valid: {error}") from error
    for path in [entry.path for entry in details.environments] + [entry.path for entry in details.include]:
        if not is_safe_relative(path):
            raise CorruptError(f"the manifest is not valid: source: {path!r} is not a path below the source")
    included = [entry.path for entry in details.include]
    environments = [entry.path for entry in details.environments]
    if overlap(included + environments) or (details.single_file and len(environments) != 1):
        raise CorruptError("the manifest is not valid: source: its environments and included paths overlap")
    return details


def _counts(databases: List[Database]) -> str:
    return ", ".join("{} ({})".format(database.name or "main", database.entries) for database in databases)
