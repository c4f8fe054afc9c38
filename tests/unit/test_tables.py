# SPDX-License-Identifier: GPL-3.0-or-later
"""Text for people."""

from __future__ import annotations

import pytest
from ansible_collections.embedded.db_backup.plugins.filter.backup_table import FilterModule
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.commands.common import warning_lines
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.tables import (
    ratio_in_words,
    size_in_words,
    table,
)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(["A", "LONG"], [["long one", "x"], ["y", ""]]).splitlines() == [
        "A         LONG",
        "long one  x",
        "y",
    ]
    assert table(["A", "B"], []) == "A  B"


def test_what_a_terminal_could_obey_is_escaped() -> None:
    hostile = "ü\x1b[2J\nb\udcff"
    assert table(["A"], [[hostile]]).splitlines() == ["A", r"ü\x1b[2J\nb\udcff"]
    assert warning_lines([hostile]) == [r"warning: ü\x1b[2J\nb\udcff"]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_size_in_words(size: int | None, words: str) -> None:
    assert size_in_words(size) == words


@pytest.mark.parametrize(
    ("size", "stored", "words"), [(100, 50, "2.0 x"), (None, 5, "-"), (5, None, "-"), (5, 0, "-"), (0, 5, "-")]
)
def test_ratio_in_words(size: int | None, stored: int | None, words: str) -> None:
    assert ratio_in_words(size, stored) == words


def test_filter_shows_every_way_a_job_can_end() -> None:
    summary = {"size": 2048, "repo_size": 1024, "duration_ms": 1234}
    backup = {"id": "20261121T013000Z", "status": "complete", "summary": summary}
    predicted = {**backup, "status": "predicted", "summary": {"size": 2048, "repo_size": None, "duration_ms": None}}
    lines = FilterModule().filters()["backup_table"](
        [
            {"item": {"name": "good"}, "changed": True, "backup": backup},
            {"item": {"name": "young"}, "skipped": True, "backup": backup},
            {"item": {"name": "broken"}, "failed": True, "msg": "no"},
            {"item": {"name": "soon"}, "changed": True, "backup": predicted},
            {"item": {"name": "crashed"}},
        ]
    )
    assert [line.split() for line in lines] == [
        ["JOB", "RESULT", "SIZE", "RATIO", "DURATION", "ID"],
        ["good", "ok", "2.0", "KiB", "2.0", "x", "1.2", "s", "20261121T013000Z"],
        ["young", "skipped", "2.0", "KiB", "2.0", "x", "-", "20261121T013000Z"],
        ["broken", "failed", "-", "-", "-", "-"],
        ["soon", "predicted", "2.0", "KiB", "-", "-", "20261121T013000Z"],
        ["crashed", "failed", "-", "-", "-", "-"],
    ]
