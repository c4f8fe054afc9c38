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
from typing import List, NamedTuple

from .. import times
from ..paths import fsync_directory, is_directory


class _Item(NamedTuple):
    target: Path
    staged: Path


class Swap:
    """As a context manager: what was not committed is undone and removed at the end."""

    def __init__(self) -> None:
        self._items: List[_Item] = []
        self._stale: List[Path] = []
        self._undo = contextlib.ExitStack()
        self._suffix = ""

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, *_: object) -> None:
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
        staged = target.with_name(f".{target.name}.restoring")
        _remove(staged)
        self._undo.callback(_remove, staged)
        self._items.append(_Item(target, staged))
        return staged

    def discard(self, path: Path) -> None:
        """Have a file that must not stay beside the new ones removed on commit."""
        self._stale.append(path)

    def commit(self) -> List[Path]:
        """Swap; returns where the old files and trees are now. Any failure undoes every step."""
        self._suffix = self._free_suffix()
        removable = [self._aside(path) for path in self._stale if self._put_aside(path)]
        kept = [self._aside(item.target) for item in self._items if self._replace(item)]
        for directory in {item.target.parent for item in self._items}:
            fsync_directory(directory)
        self._undo.pop_all()
        for path in removable:
            path.unlink()
        return kept

    def _replace(self, item: _Item) -> bool:
        """Returns whether something was there before."""
        if is_directory(item.target) or is_directory(item.staged):
            existed = self._put_aside(item.target)
        else:
            existed = self._link_aside(item.target)
        os.rename(item.staged, item.target)
        self._undo.callback(self._take_back, item.target)
        return existed

    def _take_back(self, target: Path) -> None:
        """Undo the rename: by one rename of the old file where it is a file, else by making room for it."""
        if is_directory(target) or not os.path.lexists(self._aside(target)):
            _remove(target)
        else:
            os.replace(self._aside(target), target)

    def _put_aside(self, path: Path) -> bool:
        """Rename, which leaves nothing in place for a moment. Returns whether there was something."""
        if not os.path.lexists(path):
            return False
        os.rename(path, self._aside(path))
        self._undo.callback(os.rename, self._aside(path), path)
        return True

    def _link_aside(self, path: Path) -> bool:
        """A second name for the old file, which stays in place until the new one is renamed onto it."""
        try:
            os.link(path, self._aside(path), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            # Some file systems have no hard links.
            return self._put_aside(path)
        self._undo.callback(_remove, self._aside(path))
        return True

    def _aside(self, path: Path) -> Path:
        return path.with_name(path.name + self._suffix)

    def _free_suffix(self) -> str:
        moment = times.now()
        while True:
            self._suffix = ".before-restore-" + times.to_id(moment)
            paths = [item.target for item in self._items] + self._stale
            if not any(os.path.lexists(self._aside(path)) for path in paths):
                return self._suffix
            moment += datetime.timedelta(seconds=1)


def _remove(path: Path) -> None:
    """Remove a file or a tree that may not be there."""
    if is_directory(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
