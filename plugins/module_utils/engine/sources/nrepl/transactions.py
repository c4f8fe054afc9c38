# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of transactions, one on each line as an EDN map, in the order in which they were committed.

{:tx 536870915, :time #inst "2026-11-21T01:30:00.120Z", :max-eid 7, :datoms [[7 :name "x" 536870915 true] ]}
The time is that of the server's clock, never earlier than the one before. A datom has entity, attribute, value,
transaction, and whether it was added; what else a value may be is told in literals.
"""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path
from typing import NamedTuple

from ... import times
from ...errors import CorruptError
from ...processes import Report
from ...stream.lines import HEAD
from .. import edn
from ..base import Moment

_NAME = re.compile(r"transactions-[0-9]{8}T[0-9]{6}Z\.edn")
_LINE = re.compile(rb'\{:tx ([0-9]{1,18}), :time #inst "([0-9TZ.:-]{24})", :max-eid ')


class Counted(NamedTuple):
    """How many transactions a file has, and which one is the last."""

    transactions: int
    last: int


def name_of(backup_id: str) -> str:
    """What the file of a backup is called. In the order of the names each continues the one before."""
    return f"transactions-{backup_id}.edn"


def is_name(path: str) -> bool:
    """Whether a file of transactions may be called so."""
    return bool(_NAME.fullmatch(path))


def moment_of(line: bytes) -> Moment:
    """When the transaction was committed that this line begins to tell of.

    Raises CorruptError.
    """
    found = _LINE.match(line)
    try:
        if not found:
            raise ValueError("it does not begin as one does")
        return Moment(int(found[1]), times.from_rfc3339(found[2].decode()))
    except ValueError as error:
        raise CorruptError(f"a line does not tell of a transaction: {error}") from error


def check(report: Report, path: Path, start: int) -> Counted:
    """Read all of a file that continues what ends with the transaction start.

    Raises CorruptError when it is no EDN, or not one transaction after the other.
    """
    if not os.stat(path).st_size:
        return Counted(0, start)
    edn.scan(report, path)
    count, last = 0, start
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        begin = 0
        while begin < len(text):
            report.alive()
            position = moment_of(text[begin : begin + HEAD]).position
            if position <= last:
                raise CorruptError(f"transaction {position} comes after {last}")
            count, last = count + 1, position
            begin = text.find(b"\n", begin) + 1
            if not begin:
                raise CorruptError("its last line has no end")
    return Counted(count, last)
