# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies that share the blocks of their originals, on XFS, btrfs and others: each file as of one moment."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

from ..errors import SourceError, sentence
from ..paths import create
from .base import Held, Way
from .clones import NoCloneError, clone
from .sight import Sight, opened, walk
from .worker import working

_TRIES = 10
_PLACE = "reflink"


class KeepsChangingError(SourceError):
    """Files changed while each of them was taken, so that together they are of no one moment."""


class ReflinkWay(Way):
    """Has a copy of the files in the scratch directory, which must be on their file system."""

    name = "reflink"

    def __init__(self, place: Optional[Path] = None) -> None:
        """place is where the scratch directory will be, or a directory above it that is there already."""
        self._place = place

    def obstacle(self, directory: Path) -> Optional[str]:
        place = self._place
        while place and not place.is_dir():
            place = place.parent
        first = next((one for one in walk(directory, ["."]) if stat.S_ISREG(one.status.st_mode)), None)
        if not place or first is None:
            return None
        return self._try(directory, first.path, place)

    @contextlib.contextmanager
    def hold(self, directory: Path, paths: Sequence[str], scratch: Path, alive: Callable[[], None]) -> Iterator[Held]:
        place = scratch / _PLACE
        try:
            yield self._cloned(directory, paths, place, alive)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @staticmethod
    def _cloned(directory: Path, paths: Sequence[str], place: Path, alive: Callable[[], None]) -> Held:
        place.mkdir(mode=0o700)
        with working(directory, paths, place, alive, clones_only=True) as worker:
            for _unused in range(_TRIES):
                sight = Sight(directory, paths, alive)
                if sight.count > 1:
                    sight.settle()
                worker.copy_once()
                # That of one file is of one moment anyway.
                if sight.count == 1 or sight.is_same():
                    return Held(worker.root, warnings=worker.finish())
        raise KeepsChangingError(
            f"the files in {directory} changed while they were copied, {_TRIES} times; use the method freeze"
        )

    @staticmethod
    def _try(directory: Path, path: str, place: Path) -> Optional[str]:
        trial = place / f".reflink-{os.getpid()}"
        told = f"{directory} and {place} are not on one file system that can share blocks of files, as XFS or btrfs"
        try:
            descriptor = create(trial)
        except OSError as error:
            return f"{place} cannot be written to: {error.strerror}"
        try:
            for found in walk(directory, [path]):
                with opened(found) as source:
                    clone(source, descriptor)
        except NoCloneError:
            return told
        except OSError as error:
            return sentence(error)
        finally:
            os.unlink(trial)
            os.close(descriptor)
        return None
