# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Calendar events of systemd: checked by systemd itself, and translated for hosts that have cron instead."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from typing import Optional

from ..engine.errors import UsageError, in_one_line

_ITERATIONS = 40
_SECONDS = 30
_MOMENT = re.compile(r"(?:Next elapse|Iter\. #\d+): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
_WORDS = {
    "minutely": "* * * * *",
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "yearly": "0 0 1 1 *",
    "annually": "0 0 1 1 *",
}
_EVENT = re.compile(
    r"(?:(?P<days>[A-Za-z]{3}[A-Za-z,.]*) )?(?:\*-\*-(?P<day>\*|\d{1,2}) )?"
    r"(?P<hour>\*|\d{1,2}|\*/\d{1,2}|0/\d{1,2}):(?P<minute>\d{1,2}|0/\d{1,2})(?::00)?"
)
_HOURS = {"minutely": 1.0, "hourly": 1.0, "daily": 24.0, "weekly": 168.0, "monthly": 744.0, "yearly": 8784.0}


def longest_gap(event: str) -> Optional[float]:
    """The most hours between two of the next elapses, None when there is but one. Asks systemd.

    Raises UsageError with what systemd says to an event that is none, or never comes.
    """
    command = ["systemd-analyze", "calendar", f"--iterations={_ITERATIONS}", "--", event]
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{event!r} cannot be checked: {in_one_line(str(error))}") from error
    if done.returncode:
        told = in_one_line(done.stderr.decode(errors="replace"))
        raise UsageError(f"{event!r} is not a calendar event of systemd, as 'Mon..Fri 02:30' is: {told}")
    found = [_parse(text) for text in _MOMENT.findall(done.stdout.decode(errors="replace"))]
    if not found:
        raise UsageError(f"{event!r} never comes")
    gaps = [(later - earlier).total_seconds() / 3600 for earlier, later in zip(found, found[1:])]
    return max(gaps) if gaps else None


def to_cron(event: str) -> str:
    """The times of a line of cron for a simple event, in the timezone of the host.

    Raises UsageError for one that has no such translation.
    """
    text = " ".join(event.split())
    if text in _WORDS:
        return _WORDS[text]
    match = _EVENT.fullmatch(text)
    if not match:
        raise UsageError(f"{event!r} cannot be translated for cron, which this host has instead of systemd; give cron")
    day, hour, minute = match["day"] or "*", match["hour"], match["minute"]
    days = (match["days"] or "*").replace("..", "-")
    return " ".join([_steps(minute), _steps(hour), _plain(day), "*", days])


def gap_without_systemd(event: str) -> Optional[float]:
    """The same for the events that to_cron knows, as far as it is plain."""
    if event in _HOURS:
        return _HOURS[event]
    match = _EVENT.fullmatch(" ".join(event.split()))
    if not match:
        return None
    if match["day"] not in (None, "*"):
        return _HOURS["monthly"]
    if match["days"]:
        return _HOURS["weekly"]
    return _HOURS["daily"] if match["hour"].isdigit() else _HOURS["hourly"] * 24


def check_cron(name: str, line: str) -> None:
    """Raise UsageError unless these are the five times of a line of cron."""
    if not re.fullmatch(r"(@[a-z]+|[0-9*/,A-Za-z-]+( [0-9*/,A-Za-z-]+){4})", line):
        raise UsageError(f"{name}: {line!r} is not the times of a line of cron, as '30 2 * * *' is")


def _parse(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _steps(part: str) -> str:
    return "*" + part[1:] if part.startswith("0/") else _plain(part)


def _plain(part: str) -> str:
    return str(int(part)) if part.isdigit() else part


def slack_hours(gap: float) -> float:
    """How much later than expected a backup may be before it counts as late: runs take time, and are tried again."""
    return max(2.0, gap / 8)
