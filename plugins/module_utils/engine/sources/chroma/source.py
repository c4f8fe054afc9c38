# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A persist directory of Chroma: chroma.sqlite3 and the segments that hold the vectors, of one and the same moment."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from ...containers.locate import ContainerFacts
from ...containers.place import Place
from ...decoding import DecodingError, decode, encode
from ...errors import CorruptError, RestoreError, SourceError, UsageError
from ...paths import is_safe_relative, overlap
from ...processes import NOBODY, Child, Report, lent_to_nobody
from ...repository.manifest import Kind, Manifest, Named, Origin, Position
from ...repository.staging import Staging, WorkingDirectory
from .. import tree, usage
from ..base import Capture, Inspection, Restoration, Source, Tools, Tree
from ..sqlite import copies, snapshot
from ..sqlite.live import LiveDatabase
from ..sqlite.options import DatabaseOptions, Whereabouts
from ..sqlite.site import BESIDE, ELSEWHERE_PATH, Site
from . import copying, drill, examination, schema, segments
from .copying import NotWhole
from .examination import CollectionState, Found
from .judging import judging
from .locations import FILE_NAME, HEARTBEAT_PATHS, locate
from .segments import SegmentCopy

_SEGMENTS = "segments"
_MOST_RETRIES = 1000


@dataclasses.dataclass(frozen=True)
class ChromaOptions(DatabaseOptions):
    """Options of a chroma job beside those of all jobs. retries: how often the lock may be taken again."""

    include_segments: bool = True
    retries: int = 10
    drill_image: Optional[str] = None
    drill_command: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Details:
    """What a manifest tells of a Chroma source beside the fields of all sources.

    lock_ms is for how many milliseconds writers were kept out at most, retries how often the lock was taken again.
    """

    include_segments: bool
    journal_mode: Optional[str] = None
    lock_ms: Optional[int] = None
    retries: int = 0
    tenants: List[str] = dataclasses.field(default_factory=list)
    databases: List[str] = dataclasses.field(default_factory=list)
    collections: List[CollectionState] = dataclasses.field(default_factory=list)
    migrations: Dict[str, int] = dataclasses.field(default_factory=dict)
    segments: List[tree.Included] = dataclasses.field(default_factory=list)
    include: List[tree.Included] = dataclasses.field(default_factory=list)
    include_elsewhere: List[tree.Included] = dataclasses.field(default_factory=list)
    container: Optional[ContainerFacts] = None


class ChromaSource(Source):
    """A persist directory, and files that belong to it."""

    type = "chroma"
    heartbeat_paths = HEARTBEAT_PATHS

    def __init__(self, options: ChromaOptions) -> None:
        options.check()
        if not 0 <= options.retries <= _MOST_RETRIES:
            raise UsageError(f"retries {options.retries} is out of range; give 0 to {_MOST_RETRIES}")
        if any(segments.is_segment(path.split("/")[0]) for path in options.included_below):
            raise UsageError("include names a segment of Chroma, which is backed up anyway")
        self._options = options
        self._directory = Path(options.path) if options.path else None
        self.container = options.address
        self.places = [] if self.container or not self._directory else [self._directory]

    def inspect(self) -> Inspection:
        copies.require_library()
        with self._whereabouts(None) as whereabouts:
            path = self._path(whereabouts)
            if not whereabouts.place:
                return Inspection(Origin(path, 0), _engine({}), whereabouts.scratch_copies)
            site = self._site(whereabouts.place, whereabouts)
            with site.child(self._look(site), self._options.patience) as child:
                found = child.result()
            included = site.scan_included(self._options.included_below, self._options.timeout)
        details = Details(self._options.include_segments, include=included, container=whereabouts.container)
        size = found["size"] + sum(entry.size for entry in included)
        # Files elsewhere in a container are not looked at, so nobody knows whether all is as before.
        position = None if self._options.included_elsewhere else Position(**found["position"])
        origin = Origin(path, size, position, details=encode(details))
        return Inspection(origin, _engine(found["migrations"]), whereabouts.scratch_copies)

    def capture(self, staging: Staging) -> Capture:
        copies.require_library()
        retries = 0
        while True:
            try:
                with staging.scratch() as scratch, staging.scratch() as archive:
                    return self._capture(staging, scratch, archive.path, retries)
            except NotWhole as error:
                retries += 1 + error.retries
                if retries > self._options.retries:
                    raise SourceError(f"{error}; gave up after {self._options.retries} retries") from error

    @staticmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        try:
            current, previous = _details(now), _details(then)
        except CorruptError:
            return False
        return (
            now.position is not None
            and now.position == then.position
            and current.include_segments == previous.include_segments
            and current.include == previous.include
            and current.include_elsewhere == previous.include_elsewhere
        )

    @staticmethod
    def can_check(origin: Origin, tools: Tools) -> bool:  # noqa: ARG004 - for those that need to know
        return bool(copies.sqlite3)

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:
        details = _details(origin)
        if set(files) != {FILE_NAME, *([_SEGMENTS] if details.segments else [])}:
            raise CorruptError("the files of the manifest are not those of its source")
        copied = copies.Copy(files[FILE_NAME])
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(lent_to_nobody(files[_SEGMENTS])) if details.segments else None
            child = Child(
                lambda report: _check(copied, archive, details, report),
                what="the process that reads it",
                timeout=tools.timeout,
                owner=NOBODY,
                prepare=copied.open,
                descriptors=[] if archive is None else [archive],
                failing=CorruptError,
            )
            stack.enter_context(child).result()
        return origin

    @staticmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        details = _details(origin)
        trees = {
            _SEGMENTS: Tree(details.segments, is_data=True),
            tree.RECORD_PATH: Tree(details.include),
            ELSEWHERE_PATH: Tree(details.include_elsewhere),
        }
        return {path: brought for path, brought in trees.items() if brought.included}

    @staticmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        details = _details(manifest.source)
        if [record.path for record in manifest.files if record.content == "file"] != [FILE_NAME]:
            raise CorruptError("the files of the manifest are not those of its source")
        if not destination and details.container:
            raise RestoreError(f"the backup is of container {details.container.name}; tell where to with dest")
        trees = [entry.path for entry in details.segments + details.include + details.include_elsewhere]
        root = destination or Path(manifest.source.path)
        beside = [FILE_NAME + suffix for suffix in BESIDE]
        return Restoration(root, {FILE_NAME: FILE_NAME}, trees, [], {}, displaced=beside, whole=True)

    @staticmethod
    def refuse_in_use(restoration: Restoration) -> List[str]:
        return usage.refuse_open([restoration.root / FILE_NAME])

    def tools(self, told: Tools) -> Tools:
        options = self._options
        return dataclasses.replace(
            told,
            image=told.image or (None if told.command else options.drill_image),
            command=told.command or options.drill_command,
            docker_host=told.docker_host or options.docker_host,
        )

    @classmethod
    def drill(cls, manifest: Manifest, restored: Restoration, tools: Tools) -> List[str]:
        return drill.drill(manifest, restored, tools)

    @contextlib.contextmanager
    def _whereabouts(self, scratch: Optional[Path]) -> Iterator[Whereabouts]:
        options = self._options
        if options.container is not None:
            elsewhere = ["/" + path for path in options.included_elsewhere]
            located = locate(options.container, options.docker_host, self._directory, scratch, elsewhere)
            with contextlib.ExitStack() as stack:
                yield Whereabouts.of(stack.enter_context(located))
        elif self._directory:
            yield Whereabouts(Place(self._directory))

    def _path(self, whereabouts: Whereabouts) -> str:
        return whereabouts.container.directory if whereabouts.container else str(self._directory)

    def _site(self, place: Place, whereabouts: Whereabouts) -> Site:
        return Site.look(place, FILE_NAME, whereabouts.shown(self._options.path, FILE_NAME), self._options.timeout)

    def _look(self, site: Site) -> Any:
        def look(report: Report) -> Dict[str, Any]:
            live = LiveDatabase(site.name, site.shown, report)
            with live.reading(self._options.lock_timeout) as connection:
                schema.refuse_others(connection, site.shown)
                return {
                    "position": dataclasses.asdict(_position(live.position(), schema.last_seq_id(connection))),
                    "size": site.status.st_size + segments.size_of(schema.vector_segments(connection)),
                    "migrations": schema.migrations(connection),
                }

        return look

    def _capture(self, staging: Staging, scratch: WorkingDirectory, archive: Path, retries: int) -> Capture:
        """Raises NotWhole when it is worth to try it again from the start."""
        options = self._options
        with self._whereabouts(archive) as whereabouts:
            path = self._path(whereabouts)
            if not whereabouts.place:
                raise SourceError(f"{path} cannot be reached in container {options.container}")
            site = self._site(whereabouts.place, whereabouts)
            with snapshot.files(scratch) as files:
                copied = self._copy(site, files, 0 if whereabouts.is_still else options.retries)
                with self._examining(files, copied["segments"], staging.verify) as child:
                    snapshot.store(files, FILE_NAME, site.status, staging)
                    brought = _store_segments(files, copied["segments"], site.status, staging)
                    found = decode(Found, snapshot.answer(child, site.shown))
            included, warnings = site.copy_included(options.included_below, staging, options.timeout)
            elsewhere, more = site.copy_elsewhere(
                whereabouts.surroundings, options.included_elsewhere, staging, options.timeout
            )
        details = Details(
            include_segments=options.include_segments,
            journal_mode=copied["journal_mode"],
            lock_ms=copied["lock_ms"],
            retries=retries + copied["retries"],
            tenants=found.tenants,
            databases=found.databases,
            collections=found.collections,
            migrations=found.migrations,
            segments=brought,
            include=included,
            include_elsewhere=elsewhere,
            container=whereabouts.container,
        )
        position = _position(Position(**copied["position"]), found.last_seq_id)
        origin = Origin(path, sum(record.size for record in staging.records), position, details=encode(details))
        kind = Kind("hot", "transaction", online=True, copied_by=f"SQLite {copies.sqlite3.sqlite_version}")
        told = whereabouts.warnings + self._loss(found) + warnings + more
        return Capture(origin, _engine(found.migrations), kind, told, opened=staging.verify)

    def _copy(self, site: Site, files: snapshot.Files, retries: int) -> Dict[str, Any]:
        """Copy into the files."""
        options = self._options
        limits = copying.Limits(options.lock_timeout, retries)

        with contextlib.ExitStack() as stack:
            judge = stack.enter_context(judging(files, options.patience)) if options.include_segments else None
            child = site.child(
                lambda report: copying.copy(report, site, files, limits, judge),
                options.patience,
                files.descriptors if judge is None else [*files.descriptors, judge],
            )
            copied: Dict[str, Any] = stack.enter_context(child).result()
        if "torn" in copied:
            raise NotWhole(copied["torn"], retries)
        snapshot.settle(files, site.shown, options.timeout)
        return {**copied, "segments": [decode(SegmentCopy, entry) for entry in copied["segments"]]}

    def _examining(self, files: snapshot.Files, copied: List[SegmentCopy], verify: bool) -> Child:
        """A process that looks at all of the copy."""

        def examine(connection: Any, report: Report) -> Dict[str, Any]:
            content = segments.Contents(files.reading, copied) if self._options.include_segments else None
            found = examination.examine(connection, content, report.alive)
            if verify:
                copies.check_integrity(connection)
            return dataclasses.asdict(found)

        return snapshot.asking(files, examine, self._options.timeout)

    def _loss(self, found: Found) -> List[str]:
        records = sum(collection.records for collection in found.collections)
        if self._options.include_segments or not records:
            return []
        share = 100 * found.without_vector / records
        lost = f"the vectors of {found.without_vector} of {records} records ({share:.1f} %)"
        return [f"include_segments is false: a restore loses {lost}, while count and queries go on to look right"]


def _store_segments(
    files: snapshot.Files, copied: List[SegmentCopy], status: os.stat_result, staging: Staging
) -> List[tree.Included]:
    if not copied:
        return []
    source = os.fdopen(os.dup(files.segments), "rb")
    with source, staging.store(_SEGMENTS, status, content="tar") as stream:
        return segments.write(stream, source, copied)


def _check(copied: copies.Copy, archive: Optional[int], details: Details, report: Report) -> None:
    with copied.connection(report) as connection:
        copies.check_integrity(connection)
        content = segments.Archive(archive, details.segments) if details.include_segments else None
        found = examination.examine(connection, content, report.alive)
    for entry in details.segments:
        if content and entry.path not in {one.segment.id for one in found.collections if one.segment}:
            raise CorruptError(f"segment {entry.path} belongs to no collection")
    if found.collections != details.collections or found.migrations != details.migrations:
        raise CorruptError(f"{FILE_NAME}: its collections are not those that the manifest tells")


def _position(position: Position, seq_id: int) -> Position:
    return dataclasses.replace(position, kind="seq_id", start=seq_id, stop=seq_id)


def _engine(migrations: Dict[str, int]) -> Named:
    """Chroma writes its version nowhere; that of its schema is the nearest to it."""
    return Named("chroma", "schema " + (".".join(str(version) for version in migrations.values()) or "unknown"))


def _details(origin: Origin) -> Details:
    try:
        details = decode(Details, origin.details, "source")
    except DecodingError as error:
        raise CorruptError(f"the manifest is not valid: {error}") from error
    paths = [FILE_NAME, *(entry.path for entry in details.segments + details.include + details.include_elsewhere)]
    if not all(is_safe_relative(path) for path in paths) or overlap(paths):
        raise CorruptError("the manifest is not valid: source: its paths are not sound")
    if not all(segments.is_segment(entry.path) for entry in details.segments):
        raise CorruptError("the manifest is not valid: source: a segment has a name that no segment has")
    return details
