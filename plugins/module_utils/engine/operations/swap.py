# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put new files and trees in the place of old ones: all of them or none, the old ones kept aside.

A file is replaced by one rename onto it, so that a kill in between leaves the old one or the new one, never neither.

Other users may be at work in the directories. So these are held open and never reached by path again, and what is new
gets its owner through its descriptor, when all of it is there.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import resource
import shutil
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .. import times
from ..interrupts import held_back
from ..paths import anchored, is_directory, make_directory, open_directory, open_relative
from .ownership import Ownership

_PREFIX = "."
_SUFFIX = ".restoring"
_ASIDE = ".before-restore-"


class _Item(NamedTuple):
    target: Path
    staged: Path


class Swap:
    """As a context manager: what was not committed is undone and removed at the end.

    Paths that go in and come out are those that people know; inside they are anchored in open directories.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directories: Dict[Path, int] = {}
        self._given: List[Tuple[int, Ownership]] = []
        self._items: List[_Item] = []
        self._stale: List[Path] = []
        self._displaced: List[Path] = []
        self._undo = contextlib.ExitStack()
        self._suffix = ""

    def __enter__(self) -> Swap:
        # Three descriptors for each of many environments are more than a process may have by default.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        try:
            with held_back():
                self._undo.close()
        finally:
            if isinstance(error, OSError) and error.filename is not None:
                error.filename = str(self._known(Path(os.fsdecode(error.filename))))
            for descriptor in [*self._directories.values(), *(descriptor for descriptor, _unused in self._given)]:
                os.close(descriptor)

    def open_directory(self, path: Path, ownership: Ownership) -> int:
        """Open a directory below the root, or the root; create it and those above it where they are missing.

        New ones are closed to others until the commit, which gives them to their owner.
        """
        if path not in self._directories:
            try:
                descriptor = self._open(path, ownership)
            except FileNotFoundError:
                self.open_directory(path.parent, ownership)
                descriptor = make_directory(self._anchored(path))
                self._undo.callback(os.rmdir, self._anchored(path))
                self.give(descriptor, ownership)
            self._directories[path] = descriptor
        return self._directories[path]

    def _open(self, path: Path, ownership: Ownership) -> int:
        if self._root not in path.parents:
            return open_directory(path)
        return open_relative(self.open_directory(path.parent, ownership), [path.name], os.O_RDONLY | os.O_DIRECTORY)

    def stage(self, target: Path) -> Path:
        """Where to make what will come to target: beside it, so that a rename can bring it there.

        The directory was opened before, and the caller holds the lock of the destination: what is found at this place
        was left by a killed restore.
        """
        target = self._anchored(target)
        staged = target.with_name(_PREFIX + target.name + _SUFFIX)
        _remove(staged)
        self._undo.callback(_remove, staged)
        self._items.append(_Item(target, staged))
        return staged

    def give(self, descriptor: int, ownership: Ownership) -> None:
        """Have something new get its owner and mode on commit."""
        self._given.append((os.dup(descriptor), ownership))

    def discard(self, path: Path) -> None:
        """Have a file that must not stay beside the new ones removed on commit."""
        self._stale.append(self._anchored(path))

    def displace(self, path: Path) -> None:
        """Have a file or tree that must not stay beside the new ones put aside on commit, and kept."""
        self._displaced.append(self._anchored(path))

    @contextlib.contextmanager
    def spare(self, target: Path) -> Iterator[Path]:
        """Where to make what is needed for a moment only, as stage has it; it is removed at the end."""
        target = self._anchored(target)
        spare = target.with_name(_PREFIX + target.name + _SUFFIX)
        _remove(spare)
        try:
            yield spare
        finally:
            _remove(spare)

    def commit(self, accept: Optional[Callable[[], None]] = None) -> List[Path]:
        """Swap; returns where the old files and trees are now. Any failure undoes every step.

        accept is called when all is in place, as the last thing that may fail.
        """
        for descriptor, ownership in self._given:
            ownership.give(descriptor)
            os.fsync(descriptor)
        self._suffix = free_suffix([item.target for item in self._items] + self._stale + self._displaced)
        removable = [self._aside(path) for path in self._stale if self._put_aside(path)]
        kept = [self._known(self._aside(path)) for path in self._displaced if self._put_aside(path)]
        kept += [self._known(self._aside(item.target)) for item in self._items if self._replace(item)]
        # Those above come after those below.
        for descriptor in reversed(list(self._directories.values())):
            os.fsync(descriptor)
        if accept:
            for path in [*self._displaced, *self._stale]:
                # Undone first of all: what came there meanwhile, as a journal, would spoil the old files.
                self._undo.callback(_remove, path)
            accept()
        self.keep()
        for path in removable:
            # The restore is done; a file more beside it harms nobody.
            with contextlib.suppress(OSError):
                path.unlink()
        return kept

    def keep(self) -> str:
        """Leave all as it is now; returns what the names of things that were put aside end with."""
        self._undo.pop_all()
        return self._suffix

    def _anchored(self, path: Path) -> Path:
        return anchored(self._directories[path.parent], path.name)

    def _known(self, path: Path) -> Path:
        """The path that people know, the reverse of anchored."""
        known = {anchored(descriptor): directory for directory, descriptor in self._directories.items()}
        return known[path.parent] / path.name if path.parent in known else path

    def _replace(self, item: _Item) -> bool:
        """Returns whether something was there before."""
        existed = os.path.lexists(item.target)
        if existed and self._link_aside(item):
            os.rename(item.staged, item.target)
            self._undo.callback(os.replace, self._aside(item.target), item.target)
        else:
            self._put_aside(item.target)
            os.rename(item.staged, item.target)
            self._undo.callback(_remove, item.target)
        return existed

    def _link_aside(self, item: _Item) -> bool:
        """A second name for the old file, which stays in place until the new one is renamed onto it."""
        if is_directory(item.target) or is_directory(item.staged):
            return False
        try:
            os.link(item.target, self._aside(item.target), follow_symlinks=False)
        except OSError:
            # Some file systems have no hard links.
            return False
        self._undo.callback(_remove, self._aside(item.target))
        return True

    def _put_aside(self, path: Path) -> bool:
        """Rename, which leaves nothing in place for a moment. Returns whether there was something."""
        if not os.path.lexists(path):
            return False
        os.rename(path, self._aside(path))
        self._undo.callback(os.rename, self._aside(path), path)
        return True

    def _aside(self, path: Path) -> Path:
        return path.with_name(path.name + self._suffix)


def free_suffix(paths: List[Path]) -> str:
    """What the names of things that were put aside now end with."""
    moment = times.now()
    while True:
        suffix = _ASIDE + times.to_id(moment)
        if not any(os.path.lexists(path.with_name(path.name + suffix)) for path in paths):
            return suffix
        moment += datetime.timedelta(seconds=1)


def holds_anything(directory: Path) -> bool:
    """Whether there is a file below the directory, other than what a killed restore left there."""
    for parent, names, files in os.walk(directory):
        names[:] = [name for name in names if not _is_staged(name)]
        links = [name for name in names if os.path.islink(os.path.join(parent, name))]
        if links or any(not _is_staged(name) for name in files):
            return True
    return False


def is_aside(name: str) -> bool:
    """Whether an earlier restore put this aside, or left it unfinished."""
    stem, found, moment = name.rpartition(_ASIDE)
    return _is_staged(name) or bool(stem and found and times.is_id(moment))


def original_of(path: Path) -> Path:
    """Where what was put aside was before."""
    return path.with_name(path.name.rpartition(_ASIDE)[0])


def _is_staged(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _remove(path: Path) -> None:
    """Remove a file or a tree that may not be there."""
    if is_directory(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
