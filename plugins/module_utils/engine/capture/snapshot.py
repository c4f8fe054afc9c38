# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The method snapshot: whichever of the ways that need nobody to stop fits the file system."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence

from ..errors import SourceError
from .base import Held, Way
from .btrfs import BtrfsWay
from .choice import SNAPSHOT
from .lvm import LvmWay
from .reflink import KeepsChangingError, ReflinkWay
from .zfs import ZfsWay


class AnySnapshot(Way):
    """The first of them without an obstacle. Where single files change too fast for one, the next one is taken."""

    name = SNAPSHOT

    def __init__(self, place: Optional[Path] = None, ways: Optional[Sequence[Way]] = None) -> None:
        """place is that of a ReflinkWay."""
        self._ways = ways if ways is not None else (ReflinkWay(place), BtrfsWay(), LvmWay(), ZfsWay())
        self._taken: Optional[Way] = None

    @property
    def taken(self) -> Way:
        return self._taken or self

    def obstacle(self, directory: Path) -> Optional[str]:
        return None if self._fit(directory) else self._told(directory)

    @contextlib.contextmanager
    def hold(self, directory: Path, paths: Sequence[str], scratch: Path, alive: Callable[[], None]) -> Iterator[Held]:
        fit = self._fit(directory)
        if not fit:
            raise SourceError(self._told(directory))
        with contextlib.ExitStack() as stack:
            for way in fit:
                try:
                    held = stack.enter_context(way.hold(directory, paths, scratch, alive))
                except KeepsChangingError:
                    if way is fit[-1]:
                        raise
                    continue
                self._taken = way
                break
            yield held

    def _fit(self, directory: Path) -> List[Way]:
        return [way for way in self._ways if not way.obstacle(directory)]

    def _told(self, directory: Path) -> str:
        obstacles = "; ".join(f"{way.name}: {way.obstacle(directory)}" for way in self._ways)
        return f"no snapshot can be made of {directory} ({obstacles})"
