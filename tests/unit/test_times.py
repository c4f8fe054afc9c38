# SPDX-License-Identifier: GPL-3.0-or-later
"""Points in time and the ids made of them."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import JobDirectory
from hypothesis import given
from hypothesis import strategies as st

UTC = datetime.UTC
MOMENT = datetime.datetime(2026, 11, 21, 1, 30, 0, 123999, UTC)
MOMENTS = st.datetimes(
    datetime.datetime(1000, 1, 1),
    datetime.datetime(9998, 1, 1),
    timezones=st.timezones(),
)


def test_forms() -> None:
    assert times.to_id(MOMENT) == "20261121T013000Z"
    assert times.to_rfc3339(MOMENT) == "2026-11-21T01:30:00.123Z"


@given(MOMENTS)
def test_both_forms_lead_back(moment: datetime.datetime) -> None:
    assert times.from_id(times.to_id(moment)) == moment.astimezone(UTC).replace(microsecond=0)
    assert abs(times.from_rfc3339(times.to_rfc3339(moment)) - moment) < datetime.timedelta(milliseconds=1)


@given(MOMENTS, MOMENTS)
def test_ids_sort_like_time(one: datetime.datetime, other: datetime.datetime) -> None:
    if times.to_id(one) < times.to_id(other):
        assert one < other


@pytest.mark.parametrize(
    "text", ["", "20261121T013000", "20261121T013000Z\n", "latest", "2026-11-21", "20261321T013000Z"]
)
def test_no_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.from_id(text)


@pytest.mark.parametrize("text", ["", "2026-11-21T01:30:00Z", "2026-11-21T01:30:00.000+01:00", "yesterday"])
def test_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.from_rfc3339(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_age_in_words(seconds: float, words: str) -> None:
    assert times.age_in_words(seconds) == words


def test_an_id_that_is_taken_gives_way_to_the_next_second(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path)
    assert directory.free_id(MOMENT) == "20261121T013000Z"
    (tmp_path / "20261121T013000Z").mkdir()
    (tmp_path / ".partial-20261121T013001Z").mkdir()
    (tmp_path / "20261121T013002Z").symlink_to("nowhere")
    assert directory.free_id(MOMENT) == "20261121T013003Z"
    late = datetime.datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    (tmp_path / "20261231T235959Z").mkdir()
    assert directory.free_id(late) == "20270101T000000Z"
