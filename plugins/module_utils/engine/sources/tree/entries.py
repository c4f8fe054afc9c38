# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files and directories that include names, found without following a link."""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
from pathlib import Path
from typing import Iterator, List

from ...errors import SourceError, UsageError
from ...paths import is_safe_relative, open_relative
from .included import Included, Tally


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or directory found below the root, and an open directory to reach it without following links."""

    path: str
    name: str
    directory: int
    status: os.stat_result


def check_include(root: Path, paths: List[str]) -> None:
    """Raise UsageError unless every path is a relative one that names something below the root."""
    for path in paths:
        if not is_safe_relative(path):
            raise UsageError(f"include {path!r}: give a path below {root}, relative to it")
        if not os.path.lexists(root / path):
            raise SourceError(f"include {path!r}: there is no {root / path}")
        if (root / path).is_symlink():
            raise UsageError(f"include {path!r}: {root / path} is a link; links are not followed")
    for path, other in itertools.permutations(paths, 2):
        if other == path or other.startswith(path + "/"):
            raise UsageError(f"include {path!r} names files that another entry of include names too")


def scan(root: Path, paths: List[str]) -> List[Included]:
    """Look at what include names, without reading content."""
    included = []
    for path in paths:
        tally = Tally(path)
        for entry in entries(root, path):
            count(tally, entry.path, entry.status)
        included.append(tally.result())
    return included


def count(tally: Tally, path: str, status: os.stat_result) -> None:
    """Add what was found; links and special files do not count."""
    if stat.S_ISDIR(status.st_mode):
        tally.add_directory(os.fsencode(path))
    elif stat.S_ISREG(status.st_mode):
        tally.add_file(os.fsencode(path), status.st_size, status.st_mtime_ns)


def entries(root: Path, path: str) -> Iterator[Entry]:
    """The path itself and all below it, directories before their content, never through a link.

    Raises SourceError.
    """
    try:
        top = os.open(str(root), os.O_RDONLY | os.O_DIRECTORY)
        try:
            parent, name = os.path.split(path)
            inner = open_relative(top, parent.split("/") if parent else [], os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(top)
        try:
            yield from _entries_in(inner, parent, name)
        finally:
            os.close(inner)
    except OSError as error:
        raise SourceError(f"include {path!r} cannot be read below {root}: {error.strerror}") from error


def _entries_in(top: int, parent: str, name: str) -> Iterator[Entry]:
    status = os.lstat(name, dir_fd=top)
    yield Entry(os.path.join(parent, name), name, top, status)
    if not stat.S_ISDIR(status.st_mode):
        return
    for directory, names, files, descriptor in os.fwalk(name, dir_fd=top, onerror=_raise):
        names.sort()
        for child in sorted(names + files):
            try:
                found = os.lstat(child, dir_fd=descriptor)
            except FileNotFoundError:
                continue
            yield Entry(os.path.join(parent, directory, child), child, descriptor, found)


def _raise(error: OSError) -> None:
    """A directory that vanished meanwhile is like a file that did; anything else is an error."""
    if not isinstance(error, FileNotFoundError):
        raise error
