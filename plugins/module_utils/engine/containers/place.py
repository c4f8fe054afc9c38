# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the files of a database are, whoever's file system that is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional


@dataclasses.dataclass(frozen=True)
class Place:
    """A directory as it is named below root, the directory to take for "/" before anything in it is looked at.

    Without root it is a directory of this host. With one, as that of a container, no path below it may be used as it
    is: a link there would lead to files of the host. Only a Child that changed its root follows it.
    """

    directory: Path
    root: Optional[Path] = None
