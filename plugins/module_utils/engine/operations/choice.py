# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be restored: a backup with all that it builds on, as a whole or up to a point in its history."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

from .. import times
from ..errors import NotFoundError, UsageError
from ..repository.catalogue import Entry
from ..repository.chain import Chain, Link
from ..repository.manifest import INCREMENT, UNKNOWN, FileRecord, Manifest
from ..repository.published import PublishedBackup
from ..repository.repository import JobDirectory
from ..repository.retention import Standing
from ..sources.base import Moment
from ..sources.registry import source_of
from ..stream.lines import LinesWhile
from ..stream.stages import Meter, Stage
from .progress import Progress, silent
from .proof import corruption_in, load_record
from .prune import candidates_of

_SHOWN = 3


class Point(NamedTuple):
    """Which backup is asked for: the one with this id, else the latest good one; at and position as choose has them."""

    id: Optional[str] = None
    at: Optional[datetime.datetime] = None
    position: Optional[int] = None


NEWEST = Point()


class Until(NamedTuple):
    """The point after which everything is left out: a position, or a time."""

    position: Optional[int] = None
    time: Optional[datetime.datetime] = None

    def includes(self, moment: Moment) -> bool:
        """Whether it is not after that point."""
        if self.time is not None:
            return moment.time <= self.time
        return self.position is None or moment.position <= self.position


class Part(NamedTuple):
    """A stored file that is restored. record tells what its content is then: of a file that is cut, up to position."""

    link: Link
    stored: FileRecord
    record: FileRecord
    position: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """The backups that it takes, and the files in them, by the paths of their records.

    manifest is that of one backup that held just this. passed_over has a sentence about each newer backup that was no
    choice for the newest good one.
    """

    chain: Chain
    parts: Dict[str, Part]
    manifest: Manifest
    passed_over: List[str] = dataclasses.field(default_factory=list)

    @property
    def position(self) -> Optional[int]:
        """Where in the history of the database it ends, if that is known."""
        position = self.manifest.source.position
        return position.stop if position else None

    def load(self, path: str, target: Optional[Stage], progress: Progress) -> None:
        """Read the file, prove the stored bytes, and hand what is restored of it to the target, which is closed.

        That they decompress to their content was proven once, or is now. Raises CorruptError.
        """
        part = self.parts[path]
        check = part.link.manifest.check
        if part.position is not None and target:
            target = _Cut(part.link, Until(part.position)).stage(target)
        is_below = part.link is not self.chain.links[-1]
        with corruption_in(f"{part.link.backup.id}, which it builds on") if is_below else contextlib.nullcontext():
            _load(part, target, progress, hash_content=not (check and check.read_back))


def choose(directory: JobDirectory, point: Point) -> Choice:
    """The backup with the id of the point, or the latest good one.

    at chooses the state of that time as the newest good backup that began then or before has it, with what increments
    after it have up to then. position chooses the newest good backup that holds it, of those that the one with this id
    builds on, if that is given.
    Raises NotFoundError, or UsageError for what makes no sense; CorruptError when the backup is not whole.
    """
    backup_id, at, position = point
    if at is not None and (backup_id is not None or position is not None):
        raise UsageError("at already tells which backup; give id or position without it")
    until = Until(position, at)
    if at is not None:
        backup_id = _id_at(directory, at)
    elif position is not None:
        backup_id = _id_with(directory, position, backup_id)
    chain = directory.chain(backup_id)
    with chain.in_use():
        chain.check_sizes()
        choice = _chosen(chain, until)
    return dataclasses.replace(choice, passed_over=_passed_over(directory, chain.backup)) if point == NEWEST else choice


def _passed_over(directory: JobDirectory, backup: PublishedBackup) -> List[str]:
    newer = [other.id for other in directory.backups() if other.id > backup.id]
    told = "is newer, but damaged, perhaps torn, or of the future; this is the newest good one"
    return [f"backup {other} {told}" for other in newer]


def _id_at(directory: JobDirectory, at: datetime.datetime) -> str:
    usable = _usable(directory)
    older = [entry for entry in usable if times.from_id(entry.id) <= at]
    if not older:
        oldest = f"; the oldest one is {usable[-1].id}" if usable else ""
        when = times.to_rfc3339(at)
        raise NotFoundError(f"job {directory.name} has no good backup of {when} or before{oldest}")
    # What was committed after it and before that time is in increments that follow it. All of its chain are looked at:
    # the clock of the database may be another one, and an id may be some seconds late.
    return next(entry.id for entry in usable if _root(entry) == _root(older[0]))


def _id_with(directory: JobDirectory, position: int, backup_id: Optional[str]) -> str:
    usable = _usable(directory)
    if backup_id is not None:
        known = directory.chain(backup_id).ids
        usable = [entry for entry in usable if entry.id in known]
    for entry in usable:
        first, last = _held(entry)
        if first <= position <= last:
            return entry.id
    held = _ranges(usable)
    told = f"they hold {', '.join(held[:_SHOWN])}" if held else "there is none that tells its position"
    more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
    raise NotFoundError(f"no good backup of job {directory.name} holds position {position}; {told}{more}")


def _usable(directory: JobDirectory) -> List[Entry]:
    """The good backups, newest first."""
    known, now = directory.catalogue(), times.now()
    candidates = candidates_of(directory, known, directory.state())
    good = {one.id for one in candidates if one.standing is not Standing.DAMAGED and one.time <= now}
    return [entry for entry in known if entry.id in good and entry.consistency != UNKNOWN]


def _root(entry: Entry) -> str:
    """The full backup that it builds on, or is itself."""
    return (entry.references or [entry.id])[0]


def _held(entry: Entry) -> Tuple[int, int]:
    """The first and last position that can be restored from it; without any the first is the larger one."""
    start, stop = entry.position_start, entry.position_stop
    if start is None or stop is None:
        return 1, 0
    return (start + 1, stop) if entry.references else (stop, start)


def _ranges(usable: Iterable[Entry]) -> List[str]:
    """The positions that can be restored, for each full backup with all its increments, the newest first."""
    spans: Dict[str, List[int]] = {}
    for entry in usable:
        first, last = _held(entry)
        if first <= last:
            span = spans.setdefault(_root(entry), [first, last])
            span[:] = min(span[0], first), max(span[1], last)
    return [str(first) if first == last else f"{first} to {last}" for first, last in spans.values()]


def _chosen(chain: Chain, until: Until) -> Choice:
    parts: List[Part] = []
    for number, link in enumerate(chain.links, 1):
        of_link, is_whole = _parts_of(chain, link, until)
        parts += of_link
        if not is_whole:
            # What follows is later, and an increment of which nothing is left is none.
            chain = Chain(chain.links[: number if of_link else number - 1])
            break
    return Choice(chain, {part.record.path: part for part in parts}, _manifest(chain, parts))


def _manifest(chain: Chain, parts: List[Part]) -> Manifest:
    merged = chain.merged([part.record for part in parts])
    cut = [part.position for part in parts if part.position is not None]
    position = merged.source.position
    if not cut or not position:
        return merged
    return dataclasses.replace(
        merged, source=dataclasses.replace(merged.source, position=dataclasses.replace(position, stop=max(cut)))
    )


def _parts_of(chain: Chain, link: Link, until: Until) -> Tuple[List[Part], bool]:
    """The files of a backup as they are restored, and whether that is all of them."""
    files, position = link.manifest.files, link.manifest.source.position
    is_before = position and until.position is not None and position.stop <= until.position
    if until == Until() or is_before or link.manifest.backup.type != INCREMENT:
        return [Part(link, record, record) for record in files], True
    parts, is_whole = [], True
    for record in files:
        cut = _Cut(link, until)
        meter = Meter(None)
        with chain.blaming(link), corruption_in(f"backup {link.backup.id} of job {link.backup.job}"):
            _load(Part(link, record, record), cut.stage(meter), silent)
        if cut.is_whole:
            parts.append(Part(link, record, record))
        elif cut.last is not None:
            left = dataclasses.replace(record, size=meter.size, sha256=str(meter.sha256))
            parts.append(Part(link, record, left, cut.last))
        is_whole = is_whole and cut.is_whole
    return parts, is_whole


class _Cut:
    """Leaves out what is after a point; then last is the last position that is left, if any."""

    def __init__(self, link: Link, until: Until) -> None:
        self._source = source_of(link.manifest.engine.name)
        self._until = until
        self.last: Optional[int] = None
        self.is_whole = True

    def stage(self, following: Stage) -> Stage:
        """What lets only that pass."""
        return LinesWhile(following, self._takes)

    def _takes(self, line: bytes) -> bool:
        moment = self._source.moment_of(line)
        self.is_whole = self._until.includes(moment)
        if self.is_whole:
            self.last = moment.position
        return self.is_whole


def _load(part: Part, target: Optional[Stage], progress: Progress, *, hash_content: bool = True) -> None:
    compression = part.link.manifest.compression.type
    load_record(part.link.backup, part.stored, compression, target, progress, hash_content=hash_content)
