# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tar of a whole directory, as the operations read it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import BinaryIO, Dict, List, Optional

from ...errors import CorruptError, SourceError
from ...paths import is_directory
from ..base import Tree
from .inventory import survey
from .listing import Listing
from .reading import check
from .unpacking import unpack

RECORD_PATH = "files"
# What the tar brings, relative to the root of a restore: that itself.
ITSELF = "."


@dataclasses.dataclass(frozen=True)
class WholeDirectory(Tree):
    """What such a tar must bring is told by the listing."""

    listing: Optional[Listing] = None

    @property
    def paths(self) -> List[str]:
        return [ITSELF]

    @property
    def least_size(self) -> int:
        return 0

    def check(self, archive: BinaryIO) -> None:
        check(archive, self._told)

    def unpack(self, archive: BinaryIO, targets: Dict[str, Path], uid: Optional[int], gid: Optional[int]) -> List[str]:
        return unpack(archive, self._told, targets[ITSELF], uid, gid)

    def is_unpacked(self, archive: BinaryIO, root: Path, any_owner: bool) -> bool:
        if not is_directory(root):
            return False
        self.check(archive)
        try:
            return is_same(survey(root), self._told, any_owner=any_owner or os.geteuid() != 0)
        except SourceError:
            return False

    @property
    def _told(self) -> Listing:
        if self.listing is None:
            raise CorruptError("the manifest does not tell what the tar brings")
        return self.listing


def is_same(found: Listing, told: Listing, *, any_owner: bool) -> bool:
    """Whether this is what was told, whoever it belongs to where that does not count."""
    return found == (dataclasses.replace(told, owners=found.owners) if any_owner else told)
