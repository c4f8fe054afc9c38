# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A picture of which backups stay: a line per month, a sign per day."""

from __future__ import annotations

import calendar
import datetime
from typing import Dict, List, NamedTuple, Tuple

_DAYS = 31
_LONGEST = 36
_GREEN, _RED, _DIM, _PLAIN = "\033[32m", "\033[31m", "\033[2m", "\033[0m"


class Signs(NamedTuple):
    """What stands for a day with backups that all stay, of which some stay, that all go, and for one without any."""

    all_stay: str
    some_stay: str
    all_go: str
    none: str


UNICODE = Signs("█", "▓", "░", "·")
ASCII = Signs("#", "+", "-", ".")


def timeline(backups: List[Tuple[datetime.datetime, bool]], signs: Signs = UNICODE, *, colored: bool = False) -> str:
    """Draw when backups were made and whether each stays; the newest month last, of old ones only the last few."""
    days: Dict[datetime.date, List[bool]] = {}
    for moment, stays in backups:
        days.setdefault(moment.date(), []).append(stays)
    months = sorted({(day.year, day.month) for day in days})
    ruler = "".join(f"{number:<5}" for number in range(1, _DAYS, 5))
    lines = [f"{'':9}{ruler.rstrip()}"]
    if len(months) > _LONGEST:
        lines.append(f"(and {len(months) - _LONGEST} months before)")
    for year, month in months[-_LONGEST:]:
        drawn = [
            _sign(days.get(datetime.date(year, month, day), []), signs, colored)
            for day in range(1, calendar.monthrange(year, month)[1] + 1)
        ]
        lines.append(f"{year:04}-{month:02}  {''.join(drawn)}")
    stay = sum(stays for _unused, stays in backups)
    lines.append(
        f"{signs.all_stay} all of the day stay  {signs.some_stay} some  {signs.all_go} none"
        f"   {stay} stay, {len(backups) - stay} go"
    )
    return "\n".join(lines)


def _sign(stays: List[bool], signs: Signs, colored: bool) -> str:
    if not stays:
        sign, color = signs.none, _DIM
    elif all(stays):
        sign, color = signs.all_stay, _GREEN
    else:
        sign, color = (signs.some_stay, _GREEN) if any(stays) else (signs.all_go, _RED)
    return f"{color}{sign}{_PLAIN}" if colored else sign
