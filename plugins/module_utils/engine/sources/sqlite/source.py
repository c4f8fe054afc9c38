# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any SQLite database: copied beside its applications, which go on, under a short lock."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ...containers.locate import ContainerFacts, locate
from ...containers.place import Place
from ...decoding import DecodingError, decode, encode
from ...errors import CorruptError, RestoreError, SourceError, UsageError
from ...paths import is_safe_relative, overlap
from ...processes import NOBODY, Child, Report, lent_to_nobody
from ...repository.manifest import Kind, Manifest, Named, Origin, Position
from ...repository.staging import Staging, WorkingDirectory
from .. import tree, usage
from ..base import Capture, Inspection, Restoration, Source, Tools, Tree
from . import copies, snapshot
from .format import read_header
from .live import LiveDatabase
from .options import DatabaseOptions, Whereabouts
from .site import BESIDE, ELSEWHERE_PATH, Site

_ENGINE = Named("sqlite", "3")


@dataclasses.dataclass(frozen=True)
class SqliteOptions(DatabaseOptions):
    """Options of an sqlite job beside those of all jobs. row_counts: have the manifest tell the rows of each table."""

    row_counts: bool = False


@dataclasses.dataclass(frozen=True)
class Details:
    """What a manifest tells of an SQLite source beside the fields of all sources. rows are by table, if asked for.

    lock_ms is for how many milliseconds writers were kept out.
    """

    file: str
    journal_mode: str
    page_size: int
    user_version: int
    application_id: int
    written_by: str
    lock_ms: Optional[int] = None
    rows: Optional[Dict[str, int]] = None
    include: List[tree.Included] = dataclasses.field(default_factory=list)
    include_elsewhere: List[tree.Included] = dataclasses.field(default_factory=list)
    container: Optional[ContainerFacts] = None


class SqliteSource(Source):
    """A database file, and files that belong to it."""

    type = "sqlite"

    def __init__(self, options: SqliteOptions) -> None:
        options.check()
        if options.path is None:
            raise UsageError("give path, that of the database file in the container")
        self._options = options
        self._path = Path(options.path)
        self.container = options.address
        self.places = [] if self.container else [self._path]
        if not is_safe_relative(self._path.name):
            raise UsageError(f"path {options.path!r} has a name that cannot be written in a manifest; rename the file")

    def inspect(self) -> Inspection:
        copies.require_library()
        with self._whereabouts(None) as whereabouts:
            if not whereabouts.place:
                return Inspection(Origin(str(self._path), 0), _ENGINE, whereabouts.scratch_copies)
            site = self._site(whereabouts.place, whereabouts)
            with site.child(lambda report: _look(site, report), self._options.patience) as child:
                found = child.result()
            included = site.scan_included(self._options.included_below, self._options.timeout)
        details = Details(include=included, container=whereabouts.container, **found["details"])
        size = site.status.st_size + sum(entry.size for entry in included)
        origin = self._origin(details, found["position"], size)
        # Files elsewhere in a container are not looked at, so nobody knows whether all is as before.
        position = None if self._options.included_elsewhere else origin.position
        return Inspection(dataclasses.replace(origin, position=position), _ENGINE, whereabouts.scratch_copies)

    def capture(self, staging: Staging) -> Capture:
        copies.require_library()
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(staging.scratch())
            archive = stack.enter_context(staging.scratch())
            whereabouts = stack.enter_context(self._whereabouts(archive.path))
            if not whereabouts.place:
                raise SourceError(f"{self._path} cannot be reached in container {self._options.container}")
            site = self._site(whereabouts.place, whereabouts)
            found, rows = self._copy(site, scratch, staging)
            included, warnings = site.copy_included(self._options.included_below, staging, self._options.timeout)
            elsewhere, more = site.copy_elsewhere(
                whereabouts.surroundings, self._options.included_elsewhere, staging, self._options.timeout
            )
        details = Details(
            include=included,
            include_elsewhere=elsewhere,
            container=whereabouts.container,
            rows=rows,
            **found["details"],
        )
        kind = Kind("hot", "transaction", online=True, copied_by=f"SQLite {copies.sqlite3.sqlite_version}")
        size = sum(record.size for record in staging.records)
        told = whereabouts.warnings + warnings + more
        return Capture(self._origin(details, found["position"], size), _ENGINE, kind, told, opened=staging.verify)

    @staticmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        try:
            current, previous = _details(now), _details(then)
        except CorruptError:
            return False
        return (
            now.position is not None
            and now.position == then.position
            and current.include == previous.include
            and current.include_elsewhere == previous.include_elsewhere
        )

    @staticmethod
    def can_check(origin: Origin, tools: Tools) -> bool:  # noqa: ARG004 - for those that need to know
        return bool(copies.sqlite3)

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:
        details = _details(origin)
        if list(files) != [details.file]:
            raise CorruptError("the files of the manifest are not those of its source")
        copied = copies.Copy(files[details.file])
        with lent_to_nobody(files[details.file]) as descriptor:
            child = Child(
                lambda report: _examine(descriptor, copied, details, report),
                what="the process that reads it",
                timeout=tools.timeout,
                owner=NOBODY,
                prepare=copied.open,
                descriptors=[descriptor],
                failing=CorruptError,
            )
            with child:
                try:
                    child.result()
                except CorruptError as error:
                    raise CorruptError(f"{details.file}: {error}") from error
        return origin

    @staticmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        details = _details(origin)
        trees = {tree.RECORD_PATH: Tree(details.include), ELSEWHERE_PATH: Tree(details.include_elsewhere)}
        return {path: brought for path, brought in trees.items() if brought.included}

    @staticmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        details = _details(manifest.source)
        if [record.path for record in manifest.files if record.content == "file"] != [details.file]:
            raise CorruptError("the files of the manifest are not those of its source")
        if not destination and details.container:
            raise RestoreError(f"the backup is of container {details.container.name}; tell where to with dest")
        target = destination or Path(manifest.source.path)
        if target.is_dir():
            raise UsageError(f"dest {target} is a directory; give the path of the database file")
        displaced = [target.name + suffix for suffix in BESIDE]
        trees = [entry.path for entry in details.include + details.include_elsewhere]
        return Restoration(target.parent, {details.file: target.name}, trees, [], {}, displaced=displaced)

    @staticmethod
    def refuse_in_use(restoration: Restoration) -> List[str]:
        return usage.refuse_open([restoration.root / name for name in restoration.files.values()])

    @contextlib.contextmanager
    def _whereabouts(self, scratch: Optional[Path]) -> Iterator[Whereabouts]:
        if self._options.container is None:
            yield Whereabouts(Place(self._path.parent))
            return
        options, parent = self._options, self._path.parent
        elsewhere = ["/" + path for path in options.included_elsewhere]
        located = locate(
            self._options.container, options.docker_host, parent, self._path.name, scratch, include=elsewhere
        )
        with contextlib.ExitStack() as stack:
            yield Whereabouts.of(stack.enter_context(located))

    def _site(self, place: Place, whereabouts: Whereabouts) -> Site:
        shown = whereabouts.shown(str(self._path.parent), self._path.name)
        return Site.look(place, self._path.name, shown, self._options.timeout)

    def _copy(
        self, site: Site, scratch: WorkingDirectory, staging: Staging
    ) -> Tuple[Dict[str, Any], Optional[Dict[str, int]]]:
        verify, row_counts = staging.verify, self._options.row_counts
        with snapshot.files(scratch) as files:

            def copy(report: Report) -> Dict[str, Any]:
                live = LiveDatabase(site.name, site.shown, report)
                live.prepare(files.data)
                with live.locked(self._options.lock_timeout):
                    live.complete(files.wal)
                    found = _found(live, site.name)
                live.finish(files.data)
                found["details"]["lock_ms"] = live.lock_ms
                return found

            def examine(connection: Any, _report: Report) -> Optional[Dict[str, int]]:
                if verify:
                    copies.check_integrity(connection)
                return copies.count_rows(connection) if row_counts else None

            with site.child(copy, self._options.patience, files.descriptors) as child:
                found = child.result()
            snapshot.settle(files, site.shown, self._options.timeout)
            with snapshot.asking(files, examine, self._options.timeout) as child:
                snapshot.store(files, site.name, site.status, staging)
                rows = snapshot.answer(child, site.shown)
        return found, rows

    def _origin(self, details: Details, position: Dict[str, Any], size: int) -> Origin:
        return Origin(str(self._path), size, Position(**position), details=encode(details))


def _look(site: Site, report: Report) -> Dict[str, Any]:
    return _found(LiveDatabase(site.name, site.shown, report), site.name)


def _found(live: LiveDatabase, name: str) -> Dict[str, Any]:
    header = live.header
    return {
        "position": dataclasses.asdict(live.position()),
        "details": {
            "file": name,
            "journal_mode": header.journal_mode,
            "page_size": header.page_size,
            "user_version": header.user_version,
            "application_id": header.application_id,
            "written_by": header.written_by,
        },
    }


def _examine(descriptor: int, copied: copies.Copy, details: Details, report: Report) -> None:
    try:
        header = read_header(descriptor, "it")
    except SourceError as error:
        raise CorruptError(str(error)) from error
    found = (header.page_size, header.journal_mode)
    if found != (details.page_size, details.journal_mode):
        raise CorruptError(f"it is not the database that the manifest describes: it has {found}")
    with copied.connection(report) as connection:
        copies.check_integrity(connection)
        if details.rows is not None:
            counted = copies.count_rows(connection)
            if counted != details.rows:
                raise CorruptError(f"it has the rows {counted}, the manifest tells {details.rows}")


def _details(origin: Origin) -> Details:
    try:
        details = decode(Details, origin.details, "source")
    except DecodingError as error:
        raise CorruptError(f"the manifest is not valid: {error}") from error
    paths = [details.file, *(entry.path for entry in details.include + details.include_elsewhere)]
    if not all(is_safe_relative(path) for path in paths) or "/" in details.file or overlap(paths):
        raise CorruptError("the manifest is not valid: source: its paths are not sound")
    return details
