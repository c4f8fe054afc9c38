# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of which backups stay."""

from __future__ import annotations

import datetime
import re

from ansible_collections.embedded.db_backup.plugins.module_utils.engine.timeline import ASCII, UNICODE, timeline
from hypothesis import given
from hypothesis import strategies as st

COLOR = re.compile(r"\033\[[0-9]+m")


def day(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def test_a_sign_for_each_day() -> None:
    backups = [
        (day("2026-11-21"), True),
        (day("2026-11-20T02:00"), True),
        (day("2026-11-20T01:00"), False),
        (day("2026-11-02"), False),
        (day("2024-02-29"), True),
    ]
    assert timeline(backups, ASCII).splitlines() == [
        "         1    6    11   16   21   26",
        "2024-02  ............................#",
        "2026-11  .-.................+#.........",
        "# all of the day stay  + some  - none   3 stay, 2 go",
    ]


def test_nothing_to_draw() -> None:
    assert timeline([]).splitlines()[-1].endswith("0 stay, 0 go")


def test_colors_only_surround_signs() -> None:
    backups = [(day("2026-11-21"), True), (day("2026-11-20"), False)]
    assert COLOR.sub("", timeline(backups, colored=True)) == timeline(backups)
    assert "\033[31m░\033[0m" in timeline(backups, colored=True)
    assert "\033" not in timeline(backups)


def test_of_many_months_the_last_three_years() -> None:
    backups = [(day(f"{year}-{month:02}-01"), True) for year in range(1990, 2027) for month in range(1, 13)]
    lines = timeline(backups).splitlines()
    assert lines[1] == "(and 408 months before)"
    assert [line[:7] for line in lines[2:-1]] == [
        f"{year}-{month:02}" for year in (2024, 2025, 2026) for month in range(1, 13)
    ]


@given(st.lists(st.tuples(st.datetimes(), st.booleans()), max_size=30))
def test_any_backups_can_be_drawn(backups: list[tuple[datetime.datetime, bool]]) -> None:
    ruler, *months, legend = timeline(backups, UNICODE).splitlines()
    drawn = [line for line in months if not line.startswith("(")]
    signs = "".join(line[9:] for line in drawn)
    assert sorted(drawn) == drawn
    assert sum(sign != UNICODE.none for sign in signs) == len({moment.date() for moment, _unused in backups})
    assert len(ruler) <= 80
    assert legend.endswith(
        f"{sum(stays for _unused, stays in backups)} stay, {sum(not stays for _unused, stays in backups)} go"
    )
