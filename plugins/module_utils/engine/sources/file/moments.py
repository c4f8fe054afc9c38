# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a file was made: by its time of modification, or by its name where that one cannot be true."""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple, Optional

from ...errors import SourceError

MTIME, NAME = "mtime", "name"

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_END = datetime.datetime(9998, 1, 1, tzinfo=datetime.timezone.utc)
# As 20261121-0130, 20261121T013000, 2026-11-21 or 2026-11-21_01:30:00; Z makes it UTC.
_WRITTEN = re.compile(
    r"(?<!\d)(?P<year>19[7-9]\d|2\d{3})(?P<sign>[-_.]?)(?P<month>\d{2})(?P=sign)(?P<day>\d{2})"
    r"(?:[-_.T ]?(?P<hour>\d{2})[-_.:]?(?P<minute>\d{2})(?:[-_.:]?(?P<second>\d{2}))?(?P<zone>Z?))?(?!\d)",
    re.ASCII,
)


class Moment(NamedTuple):
    """A point in time, aware, and what tells it."""

    time: datetime.datetime
    told_by: str


def moment_of(name: str, mtime_ns: int) -> Moment:
    """When a file of this name and time of modification was made.

    A copy may have kept the time of what it is a copy of, or have lost all time. So a date in the name counts where
    it lies more than a day from that of the file, in local time as the name is. Raises SourceError for a time that
    no file can have.
    """
    modified = _modified(name, mtime_ns)
    named = _named(name)
    if named and abs((named.astimezone().date() - modified.astimezone().date()).days) > 1:
        return Moment(named, NAME)
    return Moment(modified, MTIME)


def _modified(name: str, mtime_ns: int) -> datetime.datetime:
    try:
        modified = _EPOCH + datetime.timedelta(microseconds=mtime_ns // 1000)
    except OverflowError:
        modified = _END
    if not _EPOCH <= modified < _END:
        raise SourceError(f"{name} has a time of modification that no backup can have; set it with touch")
    return modified


def _named(name: str) -> Optional[datetime.datetime]:
    """The first date in the name that the calendar has, with the time behind it if there is one."""
    for found in _WRITTEN.finditer(name):
        year, month, day = (int(found[part]) for part in ("year", "month", "day"))
        hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
        zone = datetime.timezone.utc if found["zone"] else None
        for clock in ((hour, minute, second), (0, 0, 0)):
            try:
                return datetime.datetime(year, month, day, *clock, tzinfo=zone).astimezone(datetime.timezone.utc)
            except ValueError:
                continue
    return None
