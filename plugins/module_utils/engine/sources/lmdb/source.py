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
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

from ...capture import choice
from ...capture.base import nothing
from ...capture.choice import COLD, DEFAULT_FREEZE_SECONDS, FREEZE, SNAPSHOT, Halting
from ...containers.container import Address
from ...decoding import encode
from ...errors import CorruptError, RestoreError, SilentError, SourceError, UsageError
from ...paths import overlap
from ...repository.manifest import Kind, Manifest, Named, Origin, Position
from ...repository.staging import Staging
from .. import tree
from ..base import Capture, Inspection, Restoration, Source, Tools, Tree
from ..usage import lock_holder
from . import copying, engines, premises, reading
from .companions import companions_of, displaced_for
from .copying import AUTO, HOT, NREPL, Copy, Look
from .details import EACH, ONE, Details, Environment, details_of, engine_of, origin, refuse_mismatch
from .locations import Location, lock_path, other_locks
from .optimistic import OvertakenError
from .options import HELD, LmdbOptions
from .premises import Premises


class LmdbSource(Source):
    """An environment directory, a single file, or a tree with environments; and files that belong to them."""

    type = "lmdb"

    def __init__(self, options: LmdbOptions) -> None:
        options.check()
        self.container = Address(options.container, options.docker_host) if options.container else None
        self._halting = Halting(options.service, self.container, options.freeze_timeout, options.timeout)
        self._halting.check(options.method)
        self._options = options
        self._path = Path(options.path)
        self._owning = options.owning_process()
        self.places = [] if self.container else [self._path, *(self._owning.places if self._owning else [])]
        self.uses_network = self._owning is not None and options.socket is None
        self.halts_application = options.method in (FREEZE, COLD) or options.freeze_timeout is not None

    def obstacle(self) -> Optional[str]:
        is_asked = self._options.method == NREPL or self._options.library is None
        return self._owning.obstacle() if self._owning and is_asked else None

    def inspect(self) -> Inspection:
        with self._premises(None) as found:
            if not found:
                return Inspection(Origin(str(self._path), 0), Named("lmdb", ""), 1)
            with engines.at_hand(self._options.library) as at_hand:
                looks = self._looks(found, at_hand)
            environments = [look.environment() for look in looks]
            included = found.scan_included(self._included(looks), self._options.timeout)
        details = self._details(found, environments, included)
        size = sum(look.meta.used_size for look in looks) + sum(entry.size for entry in included)
        scratch_copies = 1 if self._options.method in HELD else 0
        return Inspection(origin(self._place(found), details, size), engine_of(environments), scratch_copies)

    def capture(self, staging: Staging) -> Capture:
        with engines.at_hand(self._options.library) as at_hand, self._premises(staging) as found:
            if not found:
                raise SourceError(f"{self._path} cannot be reached in container {self._options.container}")
            # All are looked at before the first is copied.
            looks = self._looks(found, at_hand)
            unread = copying.unread(looks, at_hand)
            include = self._included(looks)
            with self._standing(found, looks, include, staging) as held:
                copies = [self._copy(found, look, staging) for look in held.looks]
                included, lost = found.copy_included(held.root, include, staging, self._options.timeout)
        environments = [copy.environment for copy in copies]
        pauses = [pause for pause in (held.paused_ms, *(copy.paused_ms for copy in copies)) if pause is not None]
        details = dataclasses.replace(
            self._details(found, environments, included),
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
        warnings = dict.fromkeys(itertools.chain(held.warnings, *(copy.warnings for copy in copies), lost))
        told = [*found.warnings, *self._left_whole(looks, copies), *warnings, *unread]
        return Capture(
            origin(self._place(found), details, size),
            engine_of(environments),
            kind,
            told,
            needs_check=any(copy.is_unlocked for copy in copies),
            cannot_open=bool(unread),
        )

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

    @contextlib.contextmanager
    def _premises(self, staging: Optional[Staging]) -> Iterator[Optional[Premises]]:
        """Where the environments are; None when it takes a staging to tell."""
        options = self._options
        if not self.container:
            found = premises.on_host(self._path)
            self._check_include(found, found.locations.environments)
            yield found
            return
        may_pause = options.method == FREEZE or (options.method == AUTO and options.freeze_timeout is not None)
        with contextlib.ExitStack() as stack:
            reached = premises.in_container(
                self.container,
                self._path,
                stack.enter_context(staging.scratch()).path if staging else None,
                timeout=options.timeout,
                pause_limit=(options.freeze_timeout or DEFAULT_FREEZE_SECONDS) if may_pause else None,
                may_end=options.method == COLD,
            )
            inside = stack.enter_context(reached)
            if inside:
                self._check_include(inside, inside.locations.environments)
            yield inside

    def _place(self, found: Premises) -> str:
        """Where a restore goes: the file, or the directory also where its data.mdb was named."""
        if found.locations.is_single_file:
            return str(self._path)
        return found.container.directory if found.container else str(found.root)

    def _check_include(self, found: Premises, environments: List[Location]) -> None:
        found.check_include(self._options.include)
        for path, location in itertools.product(self._options.include, environments):
            if location.path == path or location.path.startswith(path + "/"):
                raise UsageError(f"include {path!r} holds the environment {location.name}, which is backed up anyway")
            if path == os.path.join(os.path.dirname(location.path), location.place.lock):
                raise UsageError(f"include {path!r} is the lock file of {location.name}, which is never copied")

    def _included(self, looks: List[Look]) -> List[str]:
        """What the options say, and what Datalevin needs beside its data."""
        companions = [path for look in looks for path in companions_of(look.location, look.meta.data_version)]
        return [*self._options.include, *(path for path in companions if not overlap([*self._options.include, path]))]

    def _looks(self, found: Premises, at_hand: engines.Engines) -> List[Look]:
        method, has_server = FREEZE if found.is_still else self._options.method, self._owning is not None
        looks = [copying.look_at(one, at_hand, method, has_server=has_server) for one in found.locations.environments]
        if found.is_still and self._options.method != FREEZE:
            return [
                look._replace(obstacle="the files can only be had of the engine of the container") for look in looks
            ]
        return looks

    def _details(self, found: Premises, environments: List[Environment], included: List[tree.Included]) -> Details:
        is_one = (len(environments) == 1 and not included) or self._options.method in HELD or found.is_still
        point = ONE if is_one else EACH
        return Details(environments, included, found.locations.is_single_file, point, container=found.container)

    def _left_whole(self, looks: List[Look], copies: List[Copy]) -> List[str]:
        """Warnings of copies that are not compact, though they should be."""
        if not self._options.compact:
            return []
        pairs = zip(looks, copies)
        return [
            f"{look.location.name} is not compact: {one.environment.reason}" for look, one in pairs if one.is_unlocked
        ]

    @contextlib.contextmanager
    def _standing(
        self, found: Premises, looks: List[Look], include: List[str], staging: Staging
    ) -> Iterator[_Standing]:
        """The environments where they can be copied: with freeze, cold and snapshot as all were at one time."""
        method, root = self._options.method, found.root
        if found.is_still:
            held_looks = [look.held_in(look.location.directory) for look in looks]
            yield _Standing(root, held_looks, paused_ms=found.container.paused_ms if found.container else None)
            return
        if method not in HELD:
            yield _Standing(root, looks)
            return
        if method == FREEZE:
            self._refuse_hidden(looks)
        if method == COLD:
            self._refuse_out_of_reach(found)
        paths = [*(look.location.path for look in looks), *include]
        with staging.scratch() as scratch:
            way = choice.snapshot(scratch.path) if method == SNAPSHOT else self._halting.way(method)
            with way.hold(root, paths, scratch.path, nothing) as held:
                moved = [look.held_in((held.root / look.location.path).parent) for look in looks]
                taken = way.taken.name if method == SNAPSHOT else None
                yield _Standing(held.root, moved, way.online, held.paused_ms, held.warnings, taken)

    def _refuse_out_of_reach(self, found: Premises) -> None:
        if found.container and found.container.way != "volume":
            raise SourceError(
                f"{self._path} of container {found.container.name} is not on a volume, and out of reach once it is "
                "stopped; use method freeze"
            )

    def _refuse_hidden(self, looks: List[Look]) -> None:
        """Who has files open is found through /proc, where not all can be seen from within a container."""
        hidden = [look.location.name for look in looks if look.company.is_hidden]
        if hidden and not self._options.service and not self.container:
            raise SourceError(
                f"{hidden[0]} is open in a process of another container, which cannot be frozen from here; run it "
                "on the Docker host, or name the container"
            )

    def _copy(self, found: Premises, look: Look, staging: Staging) -> Copy:
        options = self._options
        if look.engine:
            try:
                return copying.copy_hot(look, look.engine, staging, options.compact, options.timeout)
            except SilentError as error:
                if options.method != AUTO or not look.may_be_unlocked:
                    raise
                look = look.unlocked(str(error))
        if self._owning and look.method == NREPL:
            return self._owning.copy(look, staging, options.compact, options.timeout)
        if options.method != AUTO or look.is_held:
            return copying.copy_unlocked(look, staging, options.timeout)
        return self._copy_without_engine(found, look, staging)

    def _copy_without_engine(self, found: Premises, look: Look, staging: Staging) -> Copy:
        """A clone where that can be, else what is read without a lock, else of a frozen application if allowed."""
        options = self._options
        if not found.container and copying.can_be_cloned(look, staging):
            return copying.copy_held(look, choice.reflink(), found.root, staging, options.timeout)
        try:
            return copying.copy_unlocked(look, staging, options.timeout)
        except OvertakenError:
            if options.freeze_timeout is None:
                raise
        self._refuse_hidden([look])
        copy = copying.copy_held(look, self._halting.way(FREEZE), found.root, staging, options.timeout)
        return copy.because(f"{look.obstacle}, and it commits without a pause")


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
