# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LMDB and its forks: copied while the application runs, restored by replacing the data file."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...capture.choice import COLD, FREEZE, Halting
from ...capture.reflink import ReflinkWay
from ...capture.snapshot import AnySnapshot
from ...decoding import encode
from ...errors import CorruptError, RestoreError, UsageError
from ...paths import overlap
from ...repository.manifest import Kind, Manifest, Origin, Position
from ...repository.staging import Staging
from .. import tree
from ..base import Capture, Inspection, Restoration, Source, Tools, Tree
from ..usage import lock_holder
from . import copying, engines, reading
from .companions import companions_of, displaced_for
from .copying import AUTO, HOT, NREPL, Copy, Look
from .details import EACH, ONE, Details, Environment, details_of, engine_of, origin, refuse_mismatch
from .locations import Location, Locations, locate, lock_path, other_locks
from .optimistic import OvertakenError
from .options import HELD, LmdbOptions


class LmdbSource(Source):
    """An environment directory, a single file, or a tree with environments; and files that belong to them."""

    type = "lmdb"

    def __init__(self, options: LmdbOptions) -> None:
        options.check()
        self._halting = Halting(options.service, None, options.freeze_timeout, options.timeout)
        self._halting.check(options.method)
        self._options = options
        self._path = Path(options.path)
        self._owning = options.owning_process()
        self.places = [self._path, *(self._owning.places if self._owning else [])]
        self.uses_network = self._owning is not None and options.socket is None
        self.halts_application = options.method in (FREEZE, COLD) or options.freeze_timeout is not None

    def obstacle(self) -> Optional[str]:
        is_asked = self._options.method == NREPL or self._options.library is None
        return self._owning.obstacle() if self._owning and is_asked else None

    def inspect(self) -> Inspection:
        locations = locate(self._path)
        self._check_include(locations.root, locations.environments)
        with engines.at_hand(self._options.library) as at_hand:
            looks = self._looks(locations, at_hand)
        environments = [look.environment() for look in looks]
        included = tree.scan(locations.root, self._included(looks))
        details = self._details(locations, environments, included)
        size = sum(look.meta.used_size for look in looks) + sum(entry.size for entry in included)
        scratch_copies = 1 if self._options.method in HELD else 0
        return Inspection(origin(self._place(locations), details, size), engine_of(environments), scratch_copies)

    def capture(self, staging: Staging) -> Capture:
        locations = locate(self._path)
        self._check_include(locations.root, locations.environments)
        with engines.at_hand(self._options.library) as at_hand:
            # All are looked at before the first is copied.
            looks = self._looks(locations, at_hand)
            unread = copying.unread(looks, at_hand)
            include = self._included(looks)
            with self._standing(locations, looks, include, staging) as held:
                copies = [self._copy(look, staging) for look in held.looks]
                included, warnings = self._copy_included(held.root, include, staging)
        environments = [copy.environment for copy in copies]
        pauses = [pause for pause in (held.paused_ms, *(copy.paused_ms for copy in copies)) if pause is not None]
        details = dataclasses.replace(
            self._details(locations, environments, included),
            paused_ms=sum(pauses) if pauses else None,
            snapshot=held.snapshot,
        )
        kind = Kind(
            method=next((environment.method for environment in environments if environment.method != HOT), HOT),
            consistency="transaction",
            online=held.online,
            copied_by=", ".join(dict.fromkeys(copy.by for copy in copies)),
        )
        size = sum(record.size for record in staging.records)
        found = itertools.chain(held.warnings, *(copy.warnings for copy in copies), warnings)
        warnings = [*locations.warnings, *self._left_whole(looks), *dict.fromkeys(found), *unread]
        told = origin(self._place(locations), details, size)
        needs_check = any(look.is_copied_unlocked for look in looks)
        return Capture(told, engine_of(environments), kind, warnings, needs_check=needs_check, cannot_open=bool(unread))

    @staticmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        try:
            current, previous = details_of(now), details_of(then)
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
        return all(engines.can_read(entry.data_version, tools.library) for entry in details_of(origin).environments)

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:
        details = details_of(origin)
        refuse_mismatch(details, list(files))
        with engines.at_hand(tools.library) as at_hand:
            environments = [
                reading.checked(environment, files[environment.path], at_hand, tools.timeout)
                for environment in details.environments
            ]
        completed = dataclasses.replace(details, environments=environments)
        return dataclasses.replace(origin, details=encode(completed))

    @staticmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        included = details_of(origin).include
        return {tree.RECORD_PATH: Tree(included)} if included else {}

    @staticmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        details = details_of(manifest.source)
        target = destination or Path(manifest.source.path)
        names = {environment.path: environment.path for environment in details.environments}
        refuse_mismatch(details, [record.path for record in manifest.files if record.content == "file"])
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

    def _looks(self, locations: Locations, at_hand: engines.Engines) -> List[Look]:
        method, has_server = self._options.method, self._owning is not None
        return [copying.look_at(one, at_hand, method, has_server=has_server) for one in locations.environments]

    def _details(self, locations: Locations, environments: List[Environment], included: List[tree.Included]) -> Details:
        is_one = (len(environments) == 1 and not included) or self._options.method in HELD
        return Details(environments, included, locations.is_single_file, ONE if is_one else EACH)

    def _left_whole(self, looks: List[Look]) -> List[str]:
        """Warnings of copies that are not compact, though they should be."""
        if not self._options.compact:
            return []
        return [f"{look.location.data} is not compact: {look.obstacle}" for look in looks if look.is_copied_unlocked]

    @contextlib.contextmanager
    def _standing(
        self, locations: Locations, looks: List[Look], include: List[str], staging: Staging
    ) -> Iterator[_Standing]:
        """The environments where they can be copied: with freeze, cold and snapshot as all were at one time."""
        method = self._options.method
        if method not in HELD:
            yield _Standing(locations.root, looks)
            return
        root, paths = locations.root, [*(look.location.path for look in looks), *include]
        with staging.scratch() as scratch:
            way = AnySnapshot(scratch.path) if method == AnySnapshot.name else self._halting.way(method)
            with way.hold(root, paths, scratch.path, copying.nothing) as held:
                moved = [look.held_in((held.root / look.location.path).parent) for look in looks]
                taken = way.taken.name if isinstance(way, AnySnapshot) and way.taken else None
                yield _Standing(held.root, moved, way.online, held.paused_ms, held.warnings, taken)

    def _copy(self, look: Look, staging: Staging) -> Copy:
        options = self._options
        if look.engine:
            return copying.copy_hot(look, look.engine, staging, options.compact, options.timeout)
        if self._owning and look.method == NREPL:
            return self._owning.copy(look, staging, options.compact, options.timeout)
        if options.method != AUTO:
            return copying.copy_unlocked(look, staging, options.timeout)
        if copying.can_be_cloned(look, staging):
            return copying.copy_held(look, ReflinkWay(), staging, options.timeout)
        try:
            return copying.copy_unlocked(look, staging, options.timeout)
        except OvertakenError:
            if options.freeze_timeout is None:
                raise
        copy = copying.copy_held(look, self._halting.way(FREEZE), staging, options.timeout)
        return copy.because(f"{look.obstacle}, and it commits without a pause")

    @staticmethod
    def _copy_included(root: Path, include: List[str], staging: Staging) -> Tuple[List[tree.Included], List[str]]:
        if not include:
            return [], []
        with staging.store(tree.RECORD_PATH, os.stat(root), content="tar") as stream:
            return tree.write(stream, root, include)


class _Standing(NamedTuple):
    """Where environments and included files are copied from, and what that meant for the application.

    snapshot is the way that the method of this name took.
    """

    root: Path
    looks: List[Look]
    online: bool = True
    paused_ms: Optional[int] = None
    warnings: Sequence[str] = ()
    snapshot: Optional[str] = None


def _same_state(now: Position, then: Position) -> bool:
    return now.fingerprint is not None and (now.start, now.fingerprint) == (then.start, then.fingerprint)
