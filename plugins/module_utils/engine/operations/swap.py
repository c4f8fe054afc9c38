# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put new files and trees in the place of old ones: all of them or none, the old ones kept aside.

A file is replaced by one rename onto it, so that a kill in between leaves the old one or the new one, never neither.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional

from .. import times
from ..interrupts import held_back
from ..paths import fsync_directory, is_directory

_PREFIX = "."
_SUFFIX = ".restoring"
_ASIDE = ".before-restore-"


class _Item(NamedTuple):
    target: Path
    staged: Path


class Swap:
    """As a context manager: what was not committed is undone and removed at the end."""

    def __init__(self) -> None:
        self._items: List[_Item] = []
        self._stale: List[Path] = []
        self._displaced: List[Path] = []
        self._undo = contextlib.ExitStack()
        self._suffix = ""

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, *_: object) -> None:
        with held_back():
            self._undo.close()

    def make_directory(self, path: Path) -> List[Path]:
        """Create a directory and those above it where they are missing; returns the new ones."""
        missing = []
        while not os.path.lexists(path):
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            directory.mkdir(0o700)
            self._undo.callback(directory.rmdir)
            fsync_directory(directory.parent)
        return missing

    def stage(self, target: Path) -> Path:
        """Where to make what will come to target: beside it, so that a rename can bring it there.

        The caller holds the lock of the destination: what is found at this place was left by a killed restore.
        """
        staged = target.with_name(_PREFIX + target.name + _SUFFIX)
        _remove(staged)
        self._undo.callback(_remove, staged)
        self._items.append(_Item(target, staged))
        return staged

    def discard(self, path: Path) -> None:
        """Have a file that must not stay beside the new ones removed on commit."""
        self._stale.append(path)

    def displace(self, path: Path) -> None:
        """Have a file or tree that must not stay beside the new ones put aside on commit, and kept."""
        self._displaced.append(path)

    def commit(self, accept: Optional[Callable[[], None]] = None) -> List[Path]:
        """Swap; returns where the old files and trees are now. Any failure undoes every step.

        accept is called when all is in place, as the last thing that may fail.
        """
        self._suffix = self._free_suffix()
        removable = [self._aside(path) for path in self._stale if self._put_aside(path)]
        kept = [self._aside(path) for path in self._displaced if self._put_aside(path)]
        kept += [self._aside(item.target) for item in self._items if self._replace(item)]
        for directory in {item.target.parent for item in self._items}:
            fsync_directory(directory)
        if accept:
            accept()
        self._undo.pop_all()
        for path in removable:
            # The restore is done; a file more beside it harms nobody.
            with contextlib.suppress(OSError):
                path.unlink()
        return kept

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

    def _free_suffix(self) -> str:
        moment = times.now()
        while True:
            self._suffix = _ASIDE + times.to_id(moment)
            paths = [item.target for item in self._items] + self._stale + self._displaced
            if not any(os.path.lexists(self._aside(path)) for path in paths):
                return self._suffix
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


def _is_staged(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _remove(path: Path) -> None:
    """Remove a file or a tree that may not be there."""
    if is_directory(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
