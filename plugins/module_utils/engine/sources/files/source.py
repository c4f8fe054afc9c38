# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories of any application, held still or proven to be still, copied as they are."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from ...capture import choice
from ...capture.base import CRASH, Held, Way, nothing
from ...capture.choice import COLD, FREEZE, SNAPSHOT, Halting
from ...capture.sight import Sight
from ...containers.container import Address
from ...decoding import DecodingError, decode, encode
from ...errors import CorruptError, RestoreError, SourceError, UsageError, in_one_line
from ...processes import DEFAULT_TIMEOUT, check_timeout
from ...repository.manifest import Kind, Manifest, Named, Origin
from ...repository.staging import Staging
from .. import usage
from ..base import Capture, Inspection, Restoration, Source, Tools, Tree
from . import selection
from .inventory import ChangedError, survey
from .listing import Listing
from .selection import Selection
from .whole import ITSELF, RECORD_PATH, WholeDirectory, is_same
from .writing import write

AUTO, OPTIMISTIC = "auto", "optimistic"
_METHODS = (AUTO, OPTIMISTIC, FREEZE, COLD, SNAPSHOT)
_ENGINE = Named("files", "1")
_TRIES = 4
_FIRST_WAIT = 0.5
_HINT = (
    "use method freeze, or allow it with freeze_timeout, or use method cold with the service or container of the "
    "application"
)


@dataclasses.dataclass(frozen=True)
class FilesOptions:
    """What a job of type files can say. timeout is the longest silence of a child process, in seconds.

    service or container is the application, freeze_timeout for how many seconds it may stand still.
    """

    path: str
    method: str = AUTO
    exclude: List[str] = dataclasses.field(default_factory=list)
    service: Optional[str] = None
    container: Optional[str] = None
    docker_host: Optional[str] = None
    freeze_timeout: Optional[float] = None
    timeout: int = DEFAULT_TIMEOUT


@dataclasses.dataclass(frozen=True)
class Details:
    """What a manifest tells of a directory beside the fields of all sources.

    fingerprint is a hash of all names, sizes, inodes and times before it was copied; listing what was copied, which is
    not known before. paused_ms is for how many milliseconds the application stood still, if it did; tries how often all
    was read until nothing had changed meanwhile.
    """

    fingerprint: str
    exclude: List[str] = dataclasses.field(default_factory=list)
    listing: Optional[Listing] = None
    paused_ms: Optional[int] = None
    tries: int = 1


class FilesSource(Source):
    """A directory with all below it on its file system."""

    type = "files"
    untar = "tar x -p --numeric-owner --xattrs --xattrs-include='*'"

    def __init__(self, options: FilesOptions) -> None:
        if options.method not in _METHODS:
            raise UsageError(f"method {options.method!r} is not known for files; choose one of {', '.join(_METHODS)}")
        if options.docker_host is not None and options.container is None:
            raise UsageError("docker_host is of use only together with container")
        check_timeout(options.timeout)
        selection.check(options.exclude)
        address = Address(options.container, options.docker_host) if options.container else None
        self._halting = Halting(options.service, address, options.freeze_timeout, options.timeout)
        self._halting.check(options.method)
        self._options = options
        self._path = Path(options.path)
        self.places = [self._path]
        self.container = address
        self.halts_application = options.method in (FREEZE, COLD) or options.freeze_timeout is not None

    def obstacle(self) -> Optional[str]:
        """An application that does not run is none: its files are still already."""
        return None

    def inspect(self) -> Inspection:
        with _in_one_line():
            root = self._root()
            sight = self._sight(root, Selection(root, self._options.exclude))
        scratch_copies = 1 if self._options.method in (FREEZE, COLD) else 0
        return Inspection(self._origin(Details(sight.fingerprint), sight.size), _ENGINE, scratch_copies)

    def capture(self, staging: Staging) -> Capture:
        with _in_one_line():
            root = self._root()
            wanted = Selection(root, self._options.exclude)
            self._refuse_inside(root, staging.path, wanted)
            copied = self._copied(root, wanted, staging)
        details = Details(copied.fingerprint, listing=copied.listing, paused_ms=copied.paused_ms, tries=copied.tries)
        kind = Kind(copied.method, copied.consistency, online=copied.method != COLD, copied_by=copied.copied_by)
        size = sum(record.size for record in staging.records)
        warnings = [in_one_line(warning) for warning in [*copied.warnings, *wanted.warnings]]
        return Capture(self._origin(details, size), _ENGINE, kind, list(dict.fromkeys(warnings)))

    @staticmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        try:
            current, previous = _details(now), _details(then)
        except CorruptError:
            return False
        return (current.fingerprint, current.exclude) == (previous.fingerprint, previous.exclude)

    @staticmethod
    def can_check(origin: Origin, tools: Tools) -> bool:  # noqa: ARG004 - for those that need to know
        return True

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:  # noqa: ARG004 - all is in the tar
        """Nothing is left to do: the tar was read to its end, member by member, and compared with the listing."""
        _details(origin)
        return origin

    @staticmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        return {RECORD_PATH: WholeDirectory([], listing=_listing(origin))}

    @staticmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        _listing(manifest.source)
        root = destination or Path(manifest.source.path)
        if not Path(os.path.realpath(root)).name:
            raise RestoreError(f"{root} cannot be exchanged as a whole; tell with dest where else to restore to")
        return Restoration(root, {}, [ITSELF], [], {})

    @staticmethod
    def refuse_in_use(restoration: Restoration) -> List[str]:
        return usage.refuse_open_below(restoration.root)

    @classmethod
    def drill(cls, manifest: Manifest, restored: Restoration, tools: Tools) -> List[str]:  # noqa: ARG003 - needs none
        told, found = _listing(manifest.source), survey(restored.root)
        has_attributes = found.attributes == told.attributes
        if not is_same(dataclasses.replace(found, attributes=told.attributes), told, any_owner=True):
            raise CorruptError(f"the restored directory is not as the backup has it: {found}, not {told}")
        links = found.links + found.names
        attributes = "compared" if has_attributes else "could not be kept here"
        return [
            f"{found.files} files, {found.directories} directories, {links} links, {found.size} bytes compared",
            f"extended attributes and access lists {attributes}",
        ]

    def _root(self) -> Path:
        """The directory itself, also where the path is a link to it."""
        path = self._path
        if not path.is_absolute():
            raise SourceError(f"path {path} is not absolute")
        try:
            status = os.stat(path)
        except OSError as error:
            raise SourceError(f"{path} cannot be backed up: {error.strerror}") from error
        if not stat.S_ISDIR(status.st_mode):
            raise SourceError(f"{path} is not a directory; give the directory it is in, with exclude for the rest")
        return Path(os.path.realpath(path))

    @staticmethod
    def _refuse_inside(root: Path, staging: Path, wanted: Selection) -> None:
        """A backup must not hold the backups before it."""
        place = Path(os.path.realpath(staging.parent))
        if place == root or (root in place.parents and not wanted.excludes(str(place.relative_to(root)))):
            raise SourceError(f"the repository {place} is inside of {root}; exclude it, or keep backups elsewhere")

    def _origin(self, details: Details, size: int) -> Origin:
        told = dataclasses.replace(details, exclude=sorted(self._options.exclude))
        return Origin(str(self._path), size, details=encode(told))

    @staticmethod
    def _sight(root: Path, wanted: Selection) -> Sight:
        wanted.begin(root)
        return Sight(root, ["."], nothing, wanted)

    def _copied(self, root: Path, wanted: Selection, staging: Staging) -> _Copied:
        """By the method that is asked for; AUTO tries those that hurt nobody first."""
        method, told = self._options.method, []
        if method in (AUTO, SNAPSHOT):
            way = choice.snapshot(staging.path)
            # Asked before all is looked at and synced, which is done again for another way.
            obstacle = way.obstacle(root)
            if not obstacle:
                try:
                    return self._held(way, root, wanted, staging)
                except _NotHeldError as error:
                    obstacle = str(error)
            if method == SNAPSHOT:
                raise SourceError(obstacle)
        if method in (AUTO, OPTIMISTIC):
            try:
                return self._optimistic(root, wanted, staging)
            except ChangedError as error:
                if method == OPTIMISTIC or self._options.freeze_timeout is None:
                    raise SourceError(f"{error}; {_HINT}") from error
                told = [f"{error}, so the application was frozen"]
        copied = self._held(self._halting.way(COLD if method == COLD else FREEZE), root, wanted, staging)
        return dataclasses.replace(copied, warnings=[*told, *copied.warnings])

    def _held(self, way: Way, root: Path, wanted: Selection, staging: Staging) -> _Copied:
        sight = self._sight(root, wanted)
        # From now on every write has its time, so that the next run sees whether there was one.
        sight.settle()
        with staging.scratch() as scratch, contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(way.hold(root, ["."], scratch.path, nothing))
            except SourceError as error:
                raise _NotHeldError(str(error)) from error
            copied = self._stored(held, sight, wanted, staging, way)
        return dataclasses.replace(copied, copied_by=way.taken.name)

    def _optimistic(self, root: Path, wanted: Selection, staging: Staging) -> _Copied:
        """Read all, and take it if nothing has changed meanwhile."""
        for tries in range(1, _TRIES + 1):
            try:
                sight = self._sight(root, wanted)
                sight.settle()
                copied = self._stored(Held(root), sight, wanted, staging)
                return dataclasses.replace(copied, tries=tries)
            except ChangedError as error:
                reason = str(error)
            if tries < _TRIES:
                # Writers come in bursts: the next try may fall between two of them.
                time.sleep(_FIRST_WAIT * 2 ** (tries - 1))
        raise ChangedError(f"{reason}, in each of {_TRIES} tries")

    @staticmethod
    def _stored(held: Held, sight: Sight, wanted: Selection, staging: Staging, way: Optional[Way] = None) -> _Copied:
        """From where the files are held by the way, or without one from where they are used."""
        wanted.begin(held.root)
        with staging.store(RECORD_PATH, os.stat(held.root), content="tar") as stream:
            listing, warnings = write(stream, held.root, wanted)
            if not way and not sight.is_same():
                raise ChangedError(f"files in {held.root} changed while they were read")
        name, consistency = (way.name, way.consistency) if way else (OPTIMISTIC, CRASH)
        told = [*held.warnings, *warnings]
        return _Copied(name, consistency, sight.fingerprint, listing, held.paused_ms, told)


@dataclasses.dataclass(frozen=True)
class _Copied:
    """What was stored, and how."""

    method: str
    consistency: str
    fingerprint: str
    listing: Listing
    paused_ms: Optional[int]
    warnings: List[str]
    tries: int = 1
    copied_by: str = _ENGINE.name


class _NotHeldError(SourceError):
    """A way could not hold the files."""


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Names of files can hold anything; what is told of them is told in one line."""
    try:
        yield
    except SourceError as error:
        raise SourceError(in_one_line(str(error))) from error


def _details(origin: Origin) -> Details:
    try:
        return decode(Details, origin.details, "source")
    except DecodingError as error:
        raise CorruptError(f"the manifest is not valid: {error}") from error


def _listing(origin: Origin) -> Listing:
    listing = _details(origin).listing
    if listing is None:
        raise CorruptError("the manifest is not valid: source.listing: is missing")
    return listing
