# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy will have kept: the same as if so many days had passed, and nothing is touched."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.simulate import simulate
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import (
    JobDirectory,
    Repository,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import Policy
from ansible_collections.embedded.db_backup.tests.fixtures.many_backups import make_backups
from ansible_collections.embedded.db_backup.tests.tools import snapshot

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def job(tmp_path: Path) -> JobDirectory:
    """A job with a backup every six hours of the last day."""
    make_backups(tmp_path / "repository", "kg", [times.now() - HOUR * 6 * number for number in range(1, 5)])
    return Repository(tmp_path / "repository").job("kg")


def test_as_often_as_so_far(job: JobDirectory, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    made = simulate(job, Policy(keep_daily=7, keep_last=4), days=30)
    assert snapshot(tmp_path) == before
    assert len(made.decisions) == 4 + 30 * 4
    # The last four are those of the last day or two, and each of seven days has one.
    assert 7 <= len(made.keep) <= 11
    assert made.warnings[0].startswith("a backup every 6 hours until ")
    assert min(one.time for one in made.keep) > times.now() + 22 * 24 * HOUR


def test_as_often_as_told(job: JobDirectory) -> None:
    made = simulate(job, Policy(keep_last=-1), days=10, every_hours=48)
    assert len(made.keep) == len(made.decisions) == 4 + 5
    assert [one.time for one in made.decisions] == sorted((one.time for one in made.decisions), reverse=True)


def test_without_any_backup_once_a_day(tmp_path: Path) -> None:
    (tmp_path / "kg").mkdir()
    made = simulate(Repository(tmp_path).job("kg"), Policy(keep_weekly=-1), days=28)
    assert len(made.decisions) == 28
    # Four or five weeks have begun, and the oldest of all stays.
    assert 4 <= len(made.keep) <= 6


def test_what_went_in_between_does_not_come_back(job: JobDirectory) -> None:
    """The oldest backup is the one that keep_monthly fills its slots with, until another takes its place."""
    made = simulate(job, Policy(keep_last=1, keep_monthly=3), days=200, every_hours=24)
    assert len({one.id for one in made.decisions}) == len(made.decisions) == 204
    assert len(made.keep) in (3, 4)


@pytest.mark.parametrize(
    ("days", "every_hours"),
    [(0, None), (-1, None), (10**30, None), (1, 0.0), (1, -1.0), (1, float("nan")), (1, float("inf")), (1, 1e-9)],
)
def test_senseless_numbers(job: JobDirectory, days: int, every_hours: float | None) -> None:
    with pytest.raises(UsageError, match=r"^give 1 to 36525 days, and at least 0\.01 hours between two backups$"):
        simulate(job, Policy(keep_last=1), days, every_hours)


def test_a_policy_that_keeps_all_ends(job: JobDirectory) -> None:
    with pytest.raises(UsageError, match="the policy keeps too many backups"):
        simulate(job, Policy(keep_last=-1), days=36_525, every_hours=1)


def test_an_empty_policy(job: JobDirectory) -> None:
    with pytest.raises(UsageError, match="no rule tells what to keep"):
        simulate(job, Policy(), days=3)
