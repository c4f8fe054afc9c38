# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which environments a path names: one directory, one file, or a tree in which they are discovered."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path
from typing import List, Sequence

from ...errors import SourceError
from ...paths import is_safe_relative
from .library import Place

_DATA = "data.mdb"
_LOCK = "lock.mdb"
_MOST_WARNINGS = 20
# The environments of Ucotron. What one of them refers to is in those behind it, so it is copied before them.
_UCOTRON = ("vector", "visual", "graph")
_UCOTRON_LOCK = "ucotron-writer.lock"


@dataclasses.dataclass(frozen=True)
class Location:
    """One environment: its directory, its files there, and the path of the data file below the root of the source.

    entered is the directory in which a process opens it.
    """

    directory: Path
    place: Place
    path: str

    @property
    def entered(self) -> Path:
        """Its own, or that of the links to it."""
        return self.place.links.directory if self.place.links else self.directory

    @property
    def data(self) -> Path:
        """The data file."""
        return self.entered / self.place.data

    @property
    def lock(self) -> Path:
        """The lock file, which need not exist."""
        return self.entered / self.place.lock

    @property
    def name(self) -> str:
        """How messages name the data file."""
        return str(self.place.shown_data or self.data)


@dataclasses.dataclass(frozen=True)
class Locations:
    """What a path names. Stored paths are relative to root; warnings tell what was passed over."""

    root: Path
    is_single_file: bool
    environments: List[Location]
    warnings: List[str] = dataclasses.field(default_factory=list)


def lock_path(data_path: str, is_single_file: bool) -> str:
    """The name of the lock file of a data file, as LMDB forms it."""
    return data_path + "-lock" if is_single_file else os.path.join(os.path.dirname(data_path), _LOCK)


def locate(path: Path) -> Locations:
    """Find the environments that the path names, a directory's own before those below it, by name.

    Raises SourceError when there is none.
    """
    if not path.is_absolute():
        raise SourceError(f"path {path} is not absolute")
    try:
        status = os.stat(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be backed up: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        return _below(path)
    if path.name == _DATA and not (path.parent / (_DATA + "-lock")).exists():
        # The data file of an environment directory: its readers are in the lock.mdb beside it.
        return Locations(path.parent, False, [_in_directory(path.parent, path.parent)])
    place = Place(path.name, lock_path(path.name, True), subdir=False)
    return Locations(path.parent, True, [Location(path.parent, place, path.name)])


def _below(root: Path) -> Locations:
    search = _Search(root)
    for directory, names, files in os.walk(root, onerror=search.failed):
        search.pass_over(Path(directory), names)
        names.sort()
        if _DATA in files:
            search.found.append(_in_directory(root, Path(directory)))
    if not search.found:
        reason = f"there is no LMDB environment in {root}: neither it nor a directory below it has a {_DATA}"
        raise SourceError("; ".join([reason, *search.warnings()]))
    return Locations(root, False, in_order(search.found), search.warnings())


def in_order(found: List[Location]) -> List[Location]:
    """The environments in the order in which they are copied when they are not held together: by name, as found.

    Those of Ucotron, known by the names of their directories, come in an order in which what a copy refers to is in the
    copies made after it.
    """
    if not is_ucotron([location.path for location in found]):
        return found
    return sorted(found, key=_rank)


def is_ucotron(paths: Sequence[str]) -> bool:
    """Whether these data files are the environments of Ucotron, by the names of their directories."""
    return {"vector", "graph"} <= {os.path.basename(os.path.dirname(path)) for path in paths}


def other_locks(paths: Sequence[str]) -> List[str]:
    """Lock files that an application keeps in the directories of these data files and above, beside those of LMDB."""
    if not is_ucotron(paths):
        return []
    below = [os.path.join(os.path.dirname(path), _UCOTRON_LOCK) for path in paths]
    return [_UCOTRON_LOCK, *(lock for lock in below if lock != _UCOTRON_LOCK)]


def _rank(location: Location) -> int:
    name = os.path.basename(os.path.dirname(location.path))
    return _UCOTRON.index(name) if name in _UCOTRON else len(_UCOTRON)


class _Search:
    """What was found below a root, and what was passed over: in hidden directories, behind links, or unreadable."""

    def __init__(self, root: Path) -> None:
        self.found: List[Location] = []
        self._root = root
        self._passed_over: List[str] = []

    def pass_over(self, directory: Path, names: List[str]) -> None:
        """Take the names that are not searched out of a directory's; note what is there."""
        for name in list(names):
            path = directory / name
            if path.is_symlink():
                names.remove(name)
                self._look(path, "it is behind a link")
            elif name.startswith("."):
                names.remove(name)
                for hidden, _names, _files in os.walk(path):
                    self._look(Path(hidden), "it is in a hidden directory")

    def failed(self, error: OSError) -> None:
        """A directory that may not be read is told, one that is gone is not; other errors fail, and all of the root."""
        path = Path(os.fsdecode(error.filename))
        if path == self._root or not isinstance(error, (PermissionError, FileNotFoundError)):
            raise SourceError(f"{path} cannot be searched for LMDB environments: {error.strerror}") from error
        if not isinstance(error, FileNotFoundError):
            self._passed_over.append(f"{path} was not searched for environments: {error.strerror}")

    def warnings(self) -> List[str]:
        """Not more than somebody would read."""
        hidden = len(self._passed_over) - _MOST_WARNINGS
        more = [f"{hidden} more places were passed over for such reasons"] if hidden > 0 else []
        return self._passed_over[:_MOST_WARNINGS] + more

    def _look(self, directory: Path, reason: str) -> None:
        if (directory / _DATA).is_file():
            self._passed_over.append(f"the environment in {directory} was passed over: {reason}")


def _in_directory(root: Path, directory: Path) -> Location:
    path = os.path.relpath(directory / _DATA, root)
    if not is_safe_relative(path):
        raise SourceError(f"{str(directory)!r} has a name that cannot be written in a manifest; rename the directory")
    return Location(directory, Place(_DATA, _LOCK, subdir=True), path)
