# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LMDB 0.9: hot copies out of a read transaction, restored by replacing the data file."""

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
from . import library, optimistic
from .format import Meta, foreign_lock, lock_version, parse_metas, read_metas
from .library import Database
from .locations import Location, Locations, locate, lock_path, other_locks

_ENGINE = Named("lmdb", "0.9")
_HEAD = 1 << 17
# Lock versions of which it is known that pages are used again as the optimistic copy expects; None where unreadable.
_PAGES_REUSED_ALIKE = (None, 1, 2)
_COPIED_BY = "unlocked reading"
ONE, EACH = "one", "each"


@dataclasses.dataclass(frozen=True)
class LmdbOptions:
    """What a job of type lmdb can say. timeout is the longest silence of a child process, in seconds."""

    path: str
    method: str = "auto"
    compact: bool = False
    include: List[str] = dataclasses.field(default_factory=list)
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

    meta: Meta
    lock_version: Optional[int]
    obstacle: Optional[str]


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
        environments, size = [], 0
        for location in locations.environments:
            look = self._look_at(location)
            if look.obstacle is None:
                library.copier()
            meta = look.meta
            position = Position("txnid", meta.txnid, meta.txnid, meta.fingerprint)
            environments.append(_environment(location, look, position, []))
            size += meta.used_size
        included = tree.scan(locations.root, self._options.include)
        details = self._details(locations, environments, included)
        return Inspection(
            _origin(self._place(locations), details, size + sum(entry.size for entry in included)), _ENGINE
        )

    def capture(self, staging: Staging) -> Capture:
        locations = locate(self._path)
        self._check_include(locations.root, locations.environments)
        looks = [self._look_at(location) for location in locations.environments]
        is_optimistic = any(look.obstacle for look in looks)
        copied_by = _COPIED_BY if all(look.obstacle for look in looks) else library.copier()
        environments = [self._copy(*pair, staging) for pair in zip(locations.environments, looks)]
        included, warnings = self._copy_included(locations.root, staging)
        details = self._details(locations, environments, included)
        size = sum(record.size for record in staging.records)
        method = "optimistic" if is_optimistic else "hot"
        kind = Kind(method=method, consistency="transaction", online=True, copied_by=copied_by)
        warnings = [*locations.warnings, *self._left_whole(locations, looks), *warnings]
        return Capture(
            _origin(self._place(locations), details, size), _ENGINE, kind, warnings, needs_check=is_optimistic
        )

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
    def can_check(origin: Origin, tools: Tools) -> bool:  # noqa: ARG004 - for those that need to know
        return library.can_read()

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:
        details = _details(origin)
        _match(details, list(files))
        environments = []
        for environment in details.environments:
            databases = _read_copy(files[environment.path], environment.path, tools.timeout)
            if environment.databases and environment.databases != databases:
                raise CorruptError(
                    f"{environment.path} has the databases {_counts(databases)}, "
                    f"its source had {_counts(environment.databases)}"
                )
            environments.append(dataclasses.replace(environment, databases=databases))
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
        return Restoration(target, names, trees, stale, map_sizes)

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

    def _look_at(self, location: Location) -> Look:
        """What the files tell of an environment, and so in which way it is copied.

        Raises SourceError unless it is of LMDB 0.9, or of a fork with the same data file.
        """
        meta = read_metas(location.data)[0]
        version, method = None, self._options.method
        try:
            version = lock_version(location.lock)
            obstacle = foreign_lock(location.data, version)
        except SourceError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
            obstacle = str(error)
        if obstacle and method == "hot":
            raise SourceError(f"{obstacle}; use method auto or optimistic")
        if version not in _PAGES_REUSED_ALIKE and method == "auto":
            raise SourceError(f"{obstacle}; that method optimistic is right for it is for you to know")
        if method == "optimistic":
            obstacle = obstacle or "method is optimistic"
        return Look(meta, version, obstacle)

    def _left_whole(self, locations: Locations, looks: List[Look]) -> List[str]:
        if not self._options.compact:
            return []
        pairs = zip(locations.environments, looks)
        return [f"{location.data} is not compact: {look.obstacle}" for location, look in pairs if look.obstacle]

    def _details(self, locations: Locations, environments: List[Environment], included: List[tree.Included]) -> Details:
        is_one = len(environments) == 1 and not included
        return Details(environments, included, locations.is_single_file, ONE if is_one else EACH)

    def _copy(self, location: Location, look: Look, staging: Staging) -> Environment:
        if look.obstacle is None:
            return self._copy_hot(location, look, staging)
        copied = optimistic.store(staging, location, self._options.timeout)
        position = Position("txnid", copied.txnid, copied.txnid, copied.fingerprint)
        return dataclasses.replace(_environment(location, look, position, []), tries=copied.tries)

    def _copy_hot(self, location: Location, look: Look, staging: Staging) -> Environment:
        before = look.meta
        status = os.stat(location.data)
        child = Child(
            lambda report: library.copy(report, location.place, self._options.compact),
            what=f"the copy of {location.data}",
            timeout=self._options.timeout,
            owner=Owner.of(status),
            directory=location.directory,
        )
        with child, staging.store(location.path, status) as stream:
            head = b""
            for chunk in child.chunks():
                head += chunk[: _HEAD - len(head)]
                stream.write(chunk)
            known = child.result()
        after = read_metas(location.data)[0]
        _check_whole(location, head, staging.records[-1].size)
        if look.lock_version is None and after.txnid > before.txnid + 1:
            raise SourceError(f"an application began to write to {location.data} while it was copied; run it again")
        position = self._position(known, head, before, after)
        databases = [Database(**entry) for entry in known.get("databases") or []]
        return _environment(location, look, position, databases)

    def _position(self, known: Dict[str, Any], head: bytes, before: Meta, after: Meta) -> Position:
        """The transaction of the copy, or the span it lies in where a compact copy does not tell."""
        if not self._options.compact:
            copied = parse_metas(head)[0]
            return Position("txnid", copied.txnid, copied.txnid, copied.fingerprint)
        if known:
            return Position("txnid", known["txnid"], known["txnid"], known["fingerprint"])
        same = before.fingerprint == after.fingerprint
        return Position("txnid", before.txnid, after.txnid, before.fingerprint if same else None)

    def _copy_included(self, root: Path, staging: Staging) -> Tuple[List[tree.Included], List[str]]:
        if not self._options.include:
            return [], []
        with staging.store(tree.RECORD_PATH, os.stat(root), content="tar") as stream:
            return tree.write(stream, root, self._options.include)


def _check_whole(location: Location, head: bytes, size: int) -> None:
    metas = parse_metas(head)
    if not metas or size < metas[0].used_size:
        raise SourceError(f"the copy of {location.data} is not a whole environment")


def _origin(path: Path, details: Details, size: int) -> Origin:
    only = details.environments[0].position if len(details.environments) == 1 else None
    return Origin(path=str(path), size=size, position=only, details=encode(details))


def _environment(location: Location, look: Look, position: Position, databases: List[Database]) -> Environment:
    meta, version = look.meta, look.lock_version
    return Environment(location.path, meta.data_version, version, meta.page_size, meta.map_size, position, databases)


def _read_copy(data: Path, name: str, timeout: float) -> List[Database]:
    with lent_to_nobody(data) as descriptor:
        child = Child(
            lambda report: library.read_all(report, descriptor, name),
            what="the process that reads it",
            timeout=timeout,
            owner=NOBODY,
            descriptors=[descriptor],
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
