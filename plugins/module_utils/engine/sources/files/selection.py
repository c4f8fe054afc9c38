# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of a directory is wanted: not what the options exclude, and nothing of other file systems below it."""

from __future__ import annotations

import fnmatch
import os
import stat
from pathlib import Path
from typing import List, Optional, Set

from ...capture.mounts import mounts
from ...capture.sight import Found
from ...errors import UsageError


def check(patterns: List[str]) -> None:
    """Raise UsageError for a pattern that can match nothing."""
    for pattern in patterns:
        if any(part in ("", ".", "..") for part in pattern.strip("/").split("/")) or "\0" in pattern:
            raise UsageError(
                f"exclude {pattern!r}: give a name or a path below the directory, both with * and ? and []"
            )


class Selection:
    """Tells of everything below a root, once it is asked for what is above it, whether it belongs to the tree.

    A pattern without a slash is matched with the name of anything at any level, another one with the whole path, part
    by part.
    """

    def __init__(self, root: Path, patterns: List[str]) -> None:
        self._patterns = patterns
        self._names = [pattern for pattern in patterns if "/" not in pattern.rstrip("/")]
        self._paths = [pattern.strip("/").split("/") for pattern in patterns if "/" in pattern.rstrip("/")]
        self._ends = {os.path.relpath(mount.point, root) for mount in mounts() if root in mount.point.parents}
        self._met: Set[str] = set()
        self._device: Optional[int] = None

    @property
    def warnings(self) -> List[str]:
        """What was met where another file system begins."""
        return [f"{path} is on another file system; what is in it was left out" for path in sorted(self._met)]

    def begin(self, root: Path) -> None:
        """From now on it is asked of this directory, which holds the same."""
        self._device = os.stat(root).st_dev

    def __call__(self, found: Found) -> bool:
        if found.path == ".":
            return True
        if os.path.dirname(found.path) in self._ends or self._is_excluded(found.path):
            return False
        is_other = stat.S_ISDIR(found.status.st_mode) and found.status.st_dev != self._device
        if is_other or found.path in self._ends:
            self._ends.add(found.path)
            self._met.add(found.path)
        return True

    def excludes(self, path: str) -> bool:
        """Whether something below the root is excluded, itself or with what it is in."""
        parts = path.split("/")
        return any(self._is_excluded("/".join(parts[: number + 1])) for number in range(len(parts)))

    def _is_excluded(self, path: str) -> bool:
        parts = path.split("/")
        if any(fnmatch.fnmatchcase(parts[-1], pattern.rstrip("/")) for pattern in self._names):
            return True
        return any(
            len(parts) == len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern)) for pattern in self._paths
        )
