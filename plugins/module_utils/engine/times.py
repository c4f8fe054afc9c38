# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Points in time: RFC 3339 in UTC for people and manifests, a compact form for backup ids."""

from __future__ import annotations

import datetime
import re
from typing import Match

ID_PATTERN = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_ID_FORMAT = "%Y%m%dT%H%M%SZ"
_RFC3339_PATTERN = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})\.([0-9]{1,6})Z")
_PERSONS_PATTERN = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{3})?)?)(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)


def now() -> datetime.datetime:
    """The current time, aware, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def to_rfc3339(moment: datetime.datetime) -> str:
    """Write an aware time as RFC 3339 in UTC with milliseconds."""
    moment = moment.astimezone(datetime.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def from_rfc3339(text: str) -> datetime.datetime:
    """Read what to_rfc3339 wrote.

    Raises ValueError when the text has another form.
    """
    match = _RFC3339_PATTERN.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a time such as 2026-11-21T01:30:00.000Z")
    return _moment(match)


def to_id(moment: datetime.datetime) -> str:
    """The id of a backup that starts at this moment, whole seconds, UTC."""
    return moment.astimezone(datetime.timezone.utc).strftime(_ID_FORMAT)


def from_id(backup_id: str) -> datetime.datetime:
    """The start time that an id tells.

    Raises ValueError when the text is not an id.
    """
    match = ID_PATTERN.fullmatch(backup_id)
    if not match:
        raise ValueError(f"{backup_id!r} is not a backup id such as 20261121T013000Z")
    return _moment(match)


def from_person(text: str) -> datetime.datetime:
    """A moment as a person writes it: an id, RFC 3339, or date and time, or the end of a day, of this host's timezone.

    Raises ValueError when the text is none of these.
    """
    if is_id(text):
        return from_id(text)
    match = _PERSONS_PATTERN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a time such as '2026-11-21 01:30', 2026-11-21 or 20261121T013000Z")
    day, clock, zone = match.groups()
    moment = datetime.datetime.fromisoformat(f"{day} {clock or '23:59:59'}{(zone or '').replace('Z', '+00:00')}")
    return moment.astimezone(datetime.timezone.utc)


def is_id(text: str) -> bool:
    """Whether the text is the id of a backup."""
    try:
        from_id(text)
    except ValueError:
        return False
    return True


def _moment(match: Match[str]) -> datetime.datetime:
    """The time that the groups tell; strptime takes ten times as long, and there can be thousands."""
    year, month, day, hour, minute, second, *fraction = match.groups()
    microsecond = int(fraction[0].ljust(6, "0")) if fraction else 0
    parts = (int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond)
    return datetime.datetime(*parts, tzinfo=datetime.timezone.utc)


def age_in_words(seconds: float) -> str:
    """An age for a table: 42 s, 17 min, 5 h, 12 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(0, seconds))} s"
