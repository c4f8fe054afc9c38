# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file system a directory is on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, List, NamedTuple

from ..errors import SourceError


class Mount(NamedTuple):
    """A line of the table of mounts: which part (root) of what (source) is seen at a point, and its kind, as xfs."""

    root: str
    point: Path
    kind: str
    source: str


def mounts() -> List[Mount]:
    """All mounts of this process; see proc(5), /proc/PID/mountinfo."""
    return parse(Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape"))


def parse(table: str) -> List[Mount]:
    """Mounts of the text of such a table."""
    found = []
    for line in table.splitlines():
        before, _separator, after = line.partition(" - ")
        root, point = before.split(" ")[3:5]
        kind, source = after.split(" ")[:2]
        found.append(Mount(_plain(root), Path(_plain(point)), kind, _plain(source)))
    return found


def holding(directory: Path, table: Callable[[], List[Mount]] = mounts) -> Mount:
    """The mount a directory, of which no link is left in the path, is seen through. Raises SourceError."""
    found = [mount for mount in table() if mount.point == directory or mount.point in directory.parents]
    if not found:
        raise SourceError(f"{directory} is on no file system that is known to this process")
    # Of those at one point the last one is on top.
    return max(reversed(found), key=lambda mount: len(mount.point.parts))


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)
