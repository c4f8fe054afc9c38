# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One ordinary file, taken as it is, with a word on what could be seen of it. Not a type of jobs."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from ...decoding import DecodingError, decode, encode
from ...errors import CorruptError, SourceError, naming
from ...paths import is_safe_relative
from ...processes import NOBODY, Child, lent_to_nobody
from ...repository.manifest import UNKNOWN, Kind, Manifest, Named, Origin
from ...repository.staging import Staging
from ...stream.stages import CHUNK
from .. import usage
from ..base import Capture, Inspection, Restoration, Source, Tools, Tree
from ..sqlite import copies
from . import kinds
from .findings import Findings

_ENGINE = Named("file", "1")


@dataclasses.dataclass(frozen=True)
class Details:
    """What a manifest tells of a file: its kind, and what could and what could not be verified, in sentences."""

    kind: str
    verified: List[str] = dataclasses.field(default_factory=list)
    not_verified: List[str] = dataclasses.field(default_factory=list)


class FileSource(Source):
    """A file at a path that must stay what it was when its status was read."""

    type = "file"

    def __init__(self, path: Path, status: os.stat_result) -> None:
        self._path = path
        self._status = status

    @property
    def kind(self) -> str:
        """Told by name and content; raises SourceError as inspect does."""
        descriptor = self._open()
        try:
            with naming(self._path):
                return kinds.kind_of(self._path.name, os.pread(descriptor, kinds.HEAD, 0))
        finally:
            os.close(descriptor)

    def inspect(self) -> Inspection:
        details = Details(self.kind)
        return Inspection(Origin(str(self._path), self._status.st_size, details=encode(details)), _ENGINE)

    def capture(self, staging: Staging) -> Capture:
        inspection = self.inspect()
        descriptor = self._open()
        try:
            with staging.store(self._path.name, self._status) as stream:
                while chunk := self._read(descriptor):
                    stream.write(chunk)
                self._refuse_changed(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        is_logical = inspection.origin.details["kind"] == kinds.EDN
        kind = Kind(
            method="adopt",
            consistency="logical" if is_logical else UNKNOWN,
            # Nothing tells; that an application was writing is the worse of the two.
            online=True,
            copied_by="unknown",
        )
        return Capture(inspection.origin, inspection.engine, kind, [])

    @staticmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        # Nobody asks: files are not backed up again and again.
        return (now.path, now.size, now.details) == (then.path, then.size, then.details)

    @staticmethod
    def can_check(origin: Origin, tools: Tools) -> bool:  # noqa: ARG004 - for those that need to know
        return copies.sqlite3 is not None

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:
        details = _details(origin)
        _name, path = _only(files)
        copied = copies.Copy(path)
        with lent_to_nobody(path) as descriptor:
            lent = Path(f"/proc/self/fd/{descriptor}")
            child = Child(
                lambda report: kinds.check(details.kind, report, lent, copied),
                what="the process that reads it",
                timeout=tools.timeout,
                owner=NOBODY,
                # SQLite must be given its name, which leads through directories of others.
                prepare=copied.open if details.kind == kinds.SQLITE else None,
                descriptors=[descriptor],
                failing=CorruptError,
            )
            with child:
                findings = Findings(*child.result())
        return dataclasses.replace(origin, details=encode(dataclasses.replace(details, **findings._asdict())))

    @staticmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        _details(origin)
        return {}

    @staticmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        _details(manifest.source)
        name, _path = _only({record.path: Path(record.path) for record in manifest.files})
        return Restoration(destination or Path(manifest.source.path).parent, {name: name}, [], [], {})

    @staticmethod
    def refuse_in_use(restoration: Restoration) -> List[str]:
        return usage.refuse_open([restoration.root / name for name in restoration.files.values()])

    def _open(self) -> int:
        if not is_safe_relative(self._path.name):
            raise SourceError(f"{self._path.name!r} is a name that no stored file can have; rename it")
        try:
            descriptor = os.open(str(self._path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            self._refuse_changed(status)
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"{self._path} is not a regular file")
            if not status.st_size:
                raise SourceError(f"{self._path} is empty")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _read(self, descriptor: int) -> bytes:
        try:
            return os.read(descriptor, CHUNK)
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror}") from error

    def _refuse_changed(self, now: os.stat_result) -> None:
        if _identity(now) != _identity(self._status):
            raise SourceError(f"{self._path} changed while it was read; adopt it when it is complete")


def _identity(status: os.stat_result) -> Tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _details(origin: Origin) -> Details:
    try:
        details = decode(Details, origin.details, "source")
    except DecodingError as error:
        raise CorruptError(f"the manifest is not valid: {error}") from error
    if details.kind not in kinds.KINDS:
        raise CorruptError(f"the manifest is not valid: source.kind: {details.kind!r} is not known")
    return details


def _only(files: Dict[str, Path]) -> Tuple[str, Path]:
    """The one file with its name, which must be no more than a name."""
    if len(files) != 1 or "/" in next(iter(files)):
        raise CorruptError("the manifest is not valid: it must tell of one file in no directory")
    return next(iter(files.items()))
