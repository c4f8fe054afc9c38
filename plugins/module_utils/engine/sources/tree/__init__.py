# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ordinary files that belong to a database, as uploaded media, as a tar stream; and back from hostile hands.

Only directories and regular files travel. Links and special files are left out with a warning, and refused when read.
"""

from __future__ import annotations

from .comparing import is_unpacked
from .entries import check_include, entries, scan
from .included import RECORD_PATH, Included
from .members import check
from .unpacking import unpack
from .writing import write

__all__ = [
    "RECORD_PATH",
    "Included",
    "check",
    "check_include",
    "entries",
    "is_unpacked",
    "scan",
    "unpack",
    "write",
]
