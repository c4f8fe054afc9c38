# SPDX-License-Identifier: GPL-3.0-or-later
"""Durations of the calendar: what is one, and how far back it reaches."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.durations import Duration
from hypothesis import given
from hypothesis import strategies as st

UTC = datetime.UTC
BEGINNING = datetime.datetime.min.replace(tzinfo=UTC)
MOMENTS = st.datetimes(timezones=st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")]))
NUMBERS = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1y6m7d12h", Duration(1, 6, 7, 12)),
        ("30d", Duration(days=30)),
        ("2y12h", Duration(years=2, hours=12)),
        ("0y1m", Duration(months=1)),
        ("007d", Duration(days=7)),
    ],
)
def test_parse(text: str, duration: Duration) -> None:
    assert Duration.parse(text) == duration


@pytest.mark.parametrize(
    "text",
    ["", "0d", "0y0m0d0h", "1w", "7", "d", "-1d", "1.5d", "1d1d", "1h1d", " 1d", "1d\n", "\u0661d", "1D", "1y 2m"],
)
def test_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write years, months, days and hours as in 1y6m7d12h"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("moment", "text", "earlier"),
    [
        # A day that its month does not have runs over into the next one.
        ("2026-03-31T12:00+00:00", "1m", "2026-03-03T12:00+00:00"),
        ("2024-03-31T12:00+00:00", "1m", "2024-03-02T12:00+00:00"),
        ("2024-02-29T12:00+00:00", "1y", "2023-03-01T12:00+00:00"),
        ("2024-02-29T12:00+00:00", "4y", "2020-02-29T12:00+00:00"),
        ("2026-01-15T12:00+00:00", "1m", "2025-12-15T12:00+00:00"),
        ("2026-01-15T12:00+00:00", "25m", "2023-12-15T12:00+00:00"),
        ("2026-01-01T00:30+00:00", "1h", "2025-12-31T23:30+00:00"),
        ("2026-05-31T12:00+00:00", "1y3m30d36h", "2025-01-31T00:00+00:00"),
    ],
)
def test_before(moment: str, text: str, earlier: str) -> None:
    found = Duration.parse(text).before(datetime.datetime.fromisoformat(moment))
    assert found == datetime.datetime.fromisoformat(earlier)


@pytest.mark.parametrize(
    ("zone", "moment", "text", "earlier"),
    [
        # A day of the calendar has 23 or 25 hours when clocks change; an hour is always one.
        ("Europe/Berlin", "2026-03-29T12:00", "1d", "2026-03-28T11:00+00:00"),
        ("Europe/Berlin", "2026-03-29T12:00", "24h", "2026-03-28T10:00+00:00"),
        ("Europe/Berlin", "2026-10-25T12:00", "1d", "2026-10-24T10:00+00:00"),
        ("Europe/Berlin", "2026-10-25T12:00", "24h", "2026-10-24T11:00+00:00"),
        ("America/New_York", "2026-03-08T12:00", "1d", "2026-03-07T17:00+00:00"),
        ("America/New_York", "2026-11-01T12:00", "1d", "2026-10-31T16:00+00:00"),
    ],
)
def test_days_when_clocks_change(zone: str, moment: str, text: str, earlier: str) -> None:
    local = datetime.datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo(zone))
    assert Duration.parse(text).before(local) == datetime.datetime.fromisoformat(earlier)


@pytest.mark.parametrize(
    "text", ["99999y", "99999999999m", "9" * 30 + "d", "9" * 400 + "h", "9" * 400 + "y1h", "2025y"]
)
def test_absurd_ones_reach_back_to_the_beginning(text: str) -> None:
    moment = datetime.datetime(2026, 11, 21, tzinfo=UTC)
    assert Duration.parse(text).before(moment) <= datetime.datetime(1, 11, 21, tzinfo=UTC)


def test_a_number_of_thousands_of_digits_is_refused_or_reaches_back() -> None:
    """Python 3.11 refuses to read it."""
    try:
        duration = Duration.parse("9" * 10_000 + "d")
    except ValueError:
        return
    assert duration.before(datetime.datetime(2026, 11, 21, tzinfo=UTC)) == BEGINNING


@given(MOMENTS, st.builds(Duration, NUMBERS, NUMBERS, NUMBERS, NUMBERS))
def test_any_gives_a_time_in_utc(moment: datetime.datetime, duration: Duration) -> None:
    earlier = duration.before(moment)
    assert earlier.utcoffset() == datetime.timedelta(0)


@given(
    st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(9000, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 1000),
    st.integers(0, 1000),
)
def test_days_and_hours_are_exact_in_utc(moment: datetime.datetime, days: int, hours: int) -> None:
    earlier = Duration(days=days, hours=hours).before(moment)
    assert moment - earlier == datetime.timedelta(days=days, hours=hours)


@given(
    st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(9000, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 2000),
)
def test_months_agree_with_the_calendar(moment: datetime.datetime, months: int) -> None:
    """A day that every month has stays the same day, so many months before."""
    moment = moment.replace(day=min(moment.day, 28), year=max(moment.year, 1971 + months // 12))
    earlier = Duration(months=months).before(moment)
    passed = (moment.year - earlier.year) * 12 + moment.month - earlier.month
    assert (passed, earlier.day, earlier.timetz()) == (months, moment.day, moment.timetz())
