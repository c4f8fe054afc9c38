# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a server tells of an export that it made."""

from __future__ import annotations

import dataclasses
import re
from typing import Optional

from ...errors import SourceError, in_one_line
from ...repository.manifest import Position

# What tells two databases apart, of digits only.
FINGERPRINT = r"(?P<fingerprint>[0-9.]{1,40}--?[0-9]{1,12})"
_OF_DATABASE = r"(?P<records>[0-9]{1,18}) (?P<start>[0-9]{1,18}) (?P<stop>[0-9]{1,18}) " + FINGERPRINT
_TOLD = re.compile(rf"(?P<sha256>[0-9a-f]{{64}}) (?:{_OF_DATABASE})?", re.ASCII)
_INSPECTED = re.compile(r"(?P<start>[0-9]{1,18}) " + FINGERPRINT, re.ASCII)
_SHOWN = 80
_KIND = "basis"


@dataclasses.dataclass(frozen=True)
class Told:
    """sha256 is that of the text; of a database also how many records it has and which transactions were the last."""

    sha256: str
    records: Optional[int] = None
    position: Optional[Position] = None


def parse(text: str) -> Told:
    """What stands at the end of an export.

    Raises SourceError for anything else.
    """
    found = _TOLD.fullmatch(text)
    if not found:
        raise strange(text)
    if found["records"] is None:
        return Told(found["sha256"])
    position = Position(_KIND, int(found["start"]), int(found["stop"]), found["fingerprint"])
    return Told(found["sha256"], int(found["records"]), position)


def parse_inspected(text: str) -> Optional[Position]:
    """The position of a database that was only looked at; None for what has none, which tells nothing.

    Raises SourceError for anything else.
    """
    if not text:
        return None
    found = _INSPECTED.fullmatch(text)
    if not found:
        raise strange(text)
    return Position(_KIND, int(found["start"]), int(found["start"]), found["fingerprint"])


def unquoted(value: str) -> str:
    """The text that a server printed as its value. What is exchanged has no sign that is printed in another way.

    Raises SourceError.
    """
    if len(value) < 2 or value[0] != '"' or value[-1] != '"' or "\\" in value or '"' in value[1:-1]:
        raise strange(value)
    return value[1:-1]


def strange(text: str) -> SourceError:
    """The error for an answer that makes no sense."""
    shown = in_one_line(text[:_SHOWN])
    return SourceError(f"the server answers {shown!r}, which is nothing that it was asked for")
