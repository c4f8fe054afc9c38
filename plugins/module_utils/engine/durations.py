# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Calendar durations as restic writes them: 1y6m7d12h."""

from __future__ import annotations

import dataclasses
import datetime
import re

_PATTERN = re.compile(r"(?:([0-9]+)y)?(?:([0-9]+)m)?(?:([0-9]+)d)?(?:([0-9]+)h)?")
_BEGINNING = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)


@dataclasses.dataclass(frozen=True)
class Duration:
    """Years, months and days of the calendar, and hours of 3600 seconds."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read a duration.

        Raises ValueError for another form, and for one of no length.
        """
        match = _PATTERN.fullmatch(text)
        duration = cls(*(int(group or 0) for group in match.groups())) if match else cls()
        if duration == cls():
            raise ValueError(f"{text!r} is not a duration; write years, months, days and hours as in 1y6m7d12h")
        return duration

    def before(self, moment: datetime.datetime) -> datetime.datetime:
        """The moment so much earlier, in UTC, counted in the timezone that the moment has.

        A day that its month does not have runs over into the next month, as in Go's Time.AddDate, which restic uses.
        """
        months = moment.year * 12 + moment.month - 1 - self.years * 12 - self.months
        try:
            first = moment.replace(year=months // 12, month=months % 12 + 1, day=1, fold=0)
            earlier = first + datetime.timedelta(days=moment.day - 1 - self.days)
            return earlier.astimezone(datetime.timezone.utc) - datetime.timedelta(hours=self.hours)
        except (ValueError, OverflowError):
            return _BEGINNING
