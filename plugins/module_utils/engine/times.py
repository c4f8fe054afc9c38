# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Points in time: RFC 3339 in UTC for people and manifests, a compact form for backup ids."""

from __future__ import annotations

import datetime
import re

ID_PATTERN = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_ID_FORMAT = "%Y%m%dT%H%M%SZ"
_RFC3339_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


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
    return datetime.datetime.strptime(text, _RFC3339_FORMAT).replace(tzinfo=datetime.timezone.utc)


def to_id(moment: datetime.datetime) -> str:
    """The id of a backup that starts at this moment, whole seconds, UTC."""
    return moment.astimezone(datetime.timezone.utc).strftime(_ID_FORMAT)


def from_id(backup_id: str) -> datetime.datetime:
    """The start time that an id tells.

    Raises ValueError when the text is not an id.
    """
    if not ID_PATTERN.fullmatch(backup_id):
        raise ValueError(f"{backup_id!r} is not a backup id such as 20261121T013000Z")
    return datetime.datetime.strptime(backup_id, _ID_FORMAT).replace(tzinfo=datetime.timezone.utc)


def is_id(text: str) -> bool:
    """Whether the text is the id of a backup."""
    try:
        from_id(text)
    except ValueError:
        return False
    return True


def age_in_words(seconds: float) -> str:
    """An age for a table: 42 s, 17 min, 5 h, 12 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(0, seconds))} s"
