# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a database file is, on this host or in a container, and processes that see its directory and nothing else."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ...containers.place import Place
from ...errors import SourceError, UsageError
from ...paths import is_safe_relative
from ...processes import Child, Owner, Report
from ...repository.staging import Staging
from ...stream.stages import FileWriter
from .. import tree

BESIDE = ("-wal", "-shm", "-journal")
# The tar of what lies in the container, but not in the directory of the database.
ELSEWHERE_PATH = ".container"


@dataclasses.dataclass(frozen=True)
class Site:
    """A database file: name in the directory of its place; shown is how messages call it, status that of the file."""

    place: Place
    name: str
    shown: str
    status: os.stat_result

    @classmethod
    def look(cls, place: Place, name: str, shown: str, timeout: float) -> Site:
        """See that the file is there.

        Raises SourceError.
        """
        with _child(place, lambda _report: _look(name, shown), shown, timeout) as child:
            numbers, nanoseconds = child.result()
        return cls(place, name, shown, os.stat_result(numbers, {"st_mtime_ns": nanoseconds}))

    @property
    def owner(self) -> Owner:
        """The owner of the data."""
        return Owner.of(self.status)

    def child(self, function: Callable[[Report], Any], timeout: float, descriptors: Iterable[int] = ()) -> Child:
        """A process with the rights of the owner of the data."""
        return _child(self.place, function, self.shown, timeout, owner=self.owner, descriptors=tuple(descriptors))

    def scan_included(self, paths: List[str], timeout: float) -> List[tree.Included]:
        """Look at what include names.

        Raises UsageError for a path that names what is backed up anyway, SourceError for one that is not there.
        """
        self.check_include(paths)
        if not paths:
            return []

        def scan(_report: Report) -> List[Dict[str, Any]]:
            tree.check_include(Path(), paths)
            return [dataclasses.asdict(entry) for entry in tree.scan(Path(), paths)]

        with _child(self.place, scan, self.shown, timeout) as child:
            return [tree.Included(**entry) for entry in child.result()]

    def copy_included(
        self, paths: List[str], staging: Staging, timeout: float
    ) -> Tuple[List[tree.Included], List[str]]:
        """Store what include names; returns it, and warnings of what was left out."""
        self.check_include(paths)
        return self._copy_tree(self.place, tree.RECORD_PATH, paths, staging, timeout)

    def copy_elsewhere(
        self, place: Optional[Place], paths: List[str], staging: Staging, timeout: float
    ) -> Tuple[List[tree.Included], List[str]]:
        """The same for paths below the root of a container."""
        if paths and not place:
            raise SourceError(f"include '/{paths[0]}': the files beside {self.shown} cannot be reached")
        return self._copy_tree(place or self.place, ELSEWHERE_PATH, paths, staging, timeout)

    def _copy_tree(
        self, place: Place, record_path: str, paths: List[str], staging: Staging, timeout: float
    ) -> Tuple[List[tree.Included], List[str]]:
        if not paths:
            return [], []

        def write(report: Report) -> Any:
            tree.check_include(Path(), paths)
            stream = FileWriter(os.dup(report.output), durable=False)
            included, warnings = tree.write(stream, Path(), paths)
            return [dataclasses.asdict(entry) for entry in included], warnings

        child = _child(place, write, self.shown, timeout)
        with child, staging.store(record_path, self.status, content="tar") as stream:
            for chunk in child.chunks():
                stream.write(chunk)
            included, warnings = child.result()
        return [tree.Included(**entry) for entry in included], warnings

    def check_include(self, paths: List[str]) -> None:
        """Raise UsageError for a path that cannot be included."""
        files = [self.name, *(self.name + suffix for suffix in BESIDE)]
        for path in paths:
            if not is_safe_relative(path):
                raise UsageError(f"include {path!r}: give a path relative to the directory of {self.shown}")
            if path in files:
                raise UsageError(f"include {path!r} belongs to the database, which is backed up anyway")


def _child(
    place: Place,
    function: Callable[[Report], Any],
    shown: str,
    timeout: float,
    *,
    owner: Optional[Owner] = None,
    descriptors: Tuple[int, ...] = (),
) -> Child:
    return Child(
        function,
        what=f"the process that reads {shown}",
        timeout=timeout,
        owner=owner,
        root=place.root,
        directory=place.directory,
        # So the owner of the data need not be able to pass the directories above it.
        confined=True,
        descriptors=descriptors,
    )


def _look(name: str, shown: str) -> Tuple[List[int], int]:
    try:
        status = os.lstat(name)
    except OSError as error:
        raise SourceError(f"{shown} cannot be backed up: {error.strerror}") from error
    if stat.S_ISLNK(status.st_mode):
        raise SourceError(f"{shown} is a link; give the path of the file itself, as SQLite has its locks there")
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{shown} is not a regular file")
    return [int(number) for number in status[:10]], status.st_mtime_ns
