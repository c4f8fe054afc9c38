# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a directory as a tar: by name, each directory before what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

from ...capture.sight import Wanted
from ...stream.stages import Stage
from . import members
from .inventory import Inventory, Piece
from .listing import Listing, Tally


def write(stream: Stage, root: Path, wanted: Wanted) -> Tuple[Listing, List[str]]:
    """Write all that is wanted; returns what was written, and warnings of what was left out.

    Raises SourceError when something cannot be read, ChangedError when it changes meanwhile.
    """
    inventory = Inventory(root, wanted)
    tally = Tally()
    for piece in inventory.pieces():
        stream.write(members.encode(piece.member))
        tally.add(piece.member)
        if piece.descriptor >= 0:
            _write_content(stream, piece, tally)
    stream.write(members.END)
    return tally.result(), inventory.warnings


def _write_content(stream: Stage, piece: Piece, tally: Tally) -> None:
    if piece.segments is not None:
        stream.write(members.encode_map(piece.segments))
    for offset, data in piece.content():
        tally.add_content(offset, data)
        stream.write(data)
    stream.write(bytes(-piece.member.stored % members.BLOCK))
