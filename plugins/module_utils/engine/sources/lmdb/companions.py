# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that Datalevin keeps beside data.mdb and cannot open it without."""

from __future__ import annotations

import os
import stat
from typing import List

from ...paths import is_safe_relative
from .format import DLMDB
from .locations import Location

# The version of what is in the environment, and the codes that keys and values are compressed with. What its logs
# (txlog) and its locks hold is in data.mdb when that is copied out of a transaction, or is of the running process.
_OF_DATALEVIN = ("VERSION", "keycode.bin", "valcode.bin")


def companions_of(location: Location, data_version: int) -> List[str]:
    """The companions that are beside an environment, relative to the root of the source."""
    if data_version != DLMDB or not location.place.subdir:
        return []
    above = os.path.dirname(location.path)
    found = [os.path.join(above, name) for name in _OF_DATALEVIN if _is_file(location, name)]
    return [path for path in found if is_safe_relative(path)]


def displaced_for(data: str, data_version: int) -> List[str]:
    """What must not stay beside a restored data file when the backup does not bring it.

    Codes of later keys and values would garble it, and a log of later transactions be replayed into it.
    """
    if data_version != DLMDB:
        return []
    return [os.path.join(os.path.dirname(data), name) for name in (*_OF_DATALEVIN, "txlog")]


def _is_file(location: Location, name: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(location.directory / name).st_mode)
    except FileNotFoundError:
        return False
