# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An export that is already here, as text, and comes from elsewhere than its server."""

from __future__ import annotations

import dataclasses
import os
import re

from ...decoding import encode
from ...repository.manifest import Kind, Named, Origin, Position
from ...repository.staging import Staging
from ..base import Capture
from .options import VALUE
from .source import EXPORT, Details, NreplSource

_HEAD = re.compile(
    rb"\{:embedded\.db_backup/export 1, :database :([a-z]{1,30}), :content :([a-z_]{1,30}), :max-tx ([0-9]{1,18}),"
)
_TAIL = re.compile(rb"\], :count ([0-9]{1,18})\}\n\Z")
_LONGEST_TAIL = 60
_UNKNOWN = "unknown"


class StoredText(NreplSource):
    """What the text itself tells is all that is known of it."""

    def __init__(self, place: str, text: bytes) -> None:
        self._place = place
        self._text = text

    def capture(self, staging: Staging) -> Capture:
        with staging.scratch() as scratch:
            descriptor = scratch.create(EXPORT)
            status = os.fstat(descriptor)
            os.close(descriptor)
        with staging.store(EXPORT, status) as stream:
            stream.write(self._text)
        kind = Kind(VALUE, "logical", online=True, copied_by=_UNKNOWN)
        return Capture(self._origin(), Named(self.type, _UNKNOWN), kind, [], needs_check=True)

    def _origin(self) -> Origin:
        details = Details(way=VALUE, content=_UNKNOWN, versions={}, min_records=0)
        head, tail = _HEAD.match(self._text), _TAIL.search(self._text[-_LONGEST_TAIL:])
        position = None
        if head and tail:
            database, content, basis = head[1].decode(), head[2].decode(), int(head[3])
            details = dataclasses.replace(details, database=database, content=content, records=int(tail[1]))
            position = Position("basis", basis, basis)
        return Origin(self._place, len(self._text), position, details=encode(details))
