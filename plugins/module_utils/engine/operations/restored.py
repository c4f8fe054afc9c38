# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a restore tells of its work, done or predicted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, List, Optional


@dataclasses.dataclass(frozen=True)
class Difference:
    """What is at the destination before, and what after that is not told by the manifest."""

    before: Dict[str, Any] = dataclasses.field(default_factory=dict)
    after: Dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Restored:
    """What was done, or is predicted: files are in place at these paths, aside has those that were there before.

    position is where in the history of the database the restored state is, if that is known. application is what is
    stopped meanwhile; undo has the commands of a shell that bring back what was there.
    """

    changed: bool
    destination: Path
    files: List[Path]
    aside: List[Path]
    map_sizes: Dict[str, int]
    backup: Dict[str, Any]
    warnings: List[str]
    position: Optional[int] = None
    application: Optional[str] = None
    undo: List[str] = dataclasses.field(default_factory=list)
    difference: Difference = dataclasses.field(default_factory=Difference)

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return {
            "changed": self.changed,
            "dest": str(self.destination),
            "files": [str(path) for path in self.files],
            "aside": [str(path) for path in self.aside],
            "map_sizes": self.map_sizes,
            "position": self.position,
            "undo": self.undo,
            "backup": self.backup,
            "warnings": self.warnings,
        }
