# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One consistent copy of chroma.sqlite3 and of the segments beside it. In a child process only.

Chroma writes a segment in place and only then, in a transaction, that it has. So while nobody can commit, a segment
that is whole is not behind what chroma.sqlite3 tells of it, and only the writing under way can still change it.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Dict, Optional

from ...errors import SourceError
from ...processes import Report
from ...stream.stages import in_thread
from ..sqlite.live import LiveDatabase
from ..sqlite.site import Site
from ..sqlite.snapshot import Files
from . import schema
from .judging import Judge
from .segments import LiveSegments

# How long writers may have to wait because a segment is just being written, in seconds.
_LONGEST_HOLD = 2.0
# How long a segment that is not whole has to be left alone for to be given up, until the next lock.
_LONGEST_REST = 0.2
_PAUSE = 0.01
_LONGEST_PAUSE = 1.0


class NotWhole(Exception):
    """A segment did not become whole within a lock, also after retries; its text says which and why."""

    def __init__(self, fault: str, retries: int = 0) -> None:
        super().__init__(fault)
        self.retries = retries


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long to wait for the lock, in seconds, and how often to take it again."""

    lock_timeout: float
    retries: int


def copy(report: Report, site: Site, files: Files, limits: Limits, judge: Optional[int]) -> Dict[str, Any]:
    """Copy; returns what is known of it, or under "torn" why no consistent state was found within the limits.

    judge is the descriptor that judging gave; without one no segments are copied.
    """
    live = LiveDatabase(site.name, site.shown, report)
    if not live.blocks_writers:
        raise SourceError(f"{site.shown} is in WAL mode and cannot be written here, so nobody can hold it still")
    segments = LiveSegments(files.segments, site.shown, live.alive, Judge(judge, live.alive)) if judge else None
    with live.reading(limits.lock_timeout) as connection:
        schema.refuse_others(connection, site.shown)
        known = schema.vector_segments(connection)
    preparing = in_thread(lambda: live.prepare(files.data))
    if segments:
        segments.refresh(known)
    preparing.result()
    retries = 0
    while True:
        if segments:
            segments.refresh(known)
        try:
            with live.locked(limits.lock_timeout) as connection:
                if segments:
                    _settle(segments, schema.vector_segments(connection))
                live.complete(files.wal)
                position = live.position()
            break
        except NotWhole as error:
            if retries == limits.retries:
                return {"torn": str(error)}
            time.sleep(min(_PAUSE * 2**retries, _LONGEST_PAUSE))
            retries += 1
    live.finish(files.data)
    return {
        "position": dataclasses.asdict(position),
        "lock_ms": live.lock_ms,
        "retries": retries,
        "journal_mode": live.header.journal_mode,
        "segments": [dataclasses.asdict(copied) for copied in (segments.copies() if segments else [])],
    }


def _settle(segments: LiveSegments, wanted: Any) -> None:
    """Under the lock: wait until all segments are whole, but not for long."""
    deadline = time.monotonic() + _LONGEST_HOLD
    while True:
        fault: Optional[str] = segments.refresh(wanted, in_haste=True)
        if fault is None:
            return
        if time.monotonic() > min(deadline, segments.changed + _LONGEST_REST):
            raise NotWhole(fault)
        time.sleep(_PAUSE)
