# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock that jumps, forth by years or back to the beginning: runs, lists and prunes stay sane."""

from __future__ import annotations

import datetime
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.tests.tools import Command, content_of, make_environment

pytestmark = [
    pytest.mark.skipif(not shutil.which("faketime"), reason="faketime is missing: make setup-test, or its package"),
    pytest.mark.slow,
]
POLICY = {"keep_last": 1, "keep_daily": 2, "keep_days": 3}
TODAY = datetime.datetime(2026, 11, 21, 1, 30, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
MINUTE = datetime.timedelta(minutes=1)


class Clock:
    """The command with a job, at any time. Times of files are the true ones."""

    def __init__(self, command: Command, environment: Path) -> None:
        make_environment(environment)
        self.command, self.environment = command, environment
        self.options: dict[str, Any] = dict(POLICY)

    def at(self, moment: datetime.datetime, *arguments: str) -> Any:
        self.command.job("kg", self.environment, **self.options)
        done = subprocess.run(
            ["faketime", "-f", f"@{moment:%Y-%m-%d %H:%M:%S}", *self.command.arguments(*arguments, "--json")],
            env={**os.environ, "TZ": "UTC", "NO_FAKE_STAT": "1", "DONT_FAKE_MONOTONIC": "1"},
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (moment, arguments, done)
        return json.loads(done.stdout)

    def run(self, moment: datetime.datetime) -> Any:
        return self.at(moment, "run", "kg")

    @property
    def backups(self) -> list[str]:
        return self.command.backups("kg")


@pytest.fixture
def clock(dbbackup: Command, tmp_path: Path) -> Clock:
    return Clock(dbbackup, tmp_path / "environment")


def test_the_clock_is_another(clock: Clock) -> None:
    made = clock.run(TODAY)
    assert made["backup"]["id"].startswith("20261121T0130")
    assert made["backup"]["timestamp_start"].startswith("2026-11-21T01:30")


def test_forth_and_back(clock: Clock) -> None:
    """A backup that was made in the future stays and takes no slot, until its time has come."""
    first = [clock.run(TODAY + DAY * number)["backup"]["id"] for number in (0, 1)]
    future = clock.run(TODAY + 3000 * DAY)
    assert [entry["id"] for entry in future["pruned"]["keep"]] == [future["backup"]["id"], first[1]]
    back = clock.run(TODAY + 2 * DAY)
    assert back["warnings"] == [
        f"job kg: {future['backup']['id']} is in the future, so to stay without a slot; look at the clock"
    ]
    kept = {entry["id"]: entry["reasons"] for entry in back["pruned"]["keep"]}
    assert kept[future["backup"]["id"]] == ["its time lies in the future"]
    assert "last 1 of 1" in kept[back["backup"]["id"]]
    assert "daily 2 of 2" in kept[first[1]][0]
    (job,) = clock.at(TODAY + 2 * DAY, "list", "kg")
    assert [backup["age"] < 0 for backup in job["backups"]] == [True, False, False]


def test_a_flat_battery(clock: Clock) -> None:
    """In 1970 all there is lies in the future: it stays, and the runs of that time take turns among themselves."""
    before = [clock.run(TODAY + DAY * number)["backup"]["id"] for number in (0, 1)]
    beginning = datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)
    ids = [clock.run(beginning + 10 * DAY * number)["backup"]["id"] for number in range(4)]
    assert clock.backups == [*ids[2:], *before]
    # The clock is right again: those of 1970 are the oldest.
    last = clock.run(TODAY + 2 * DAY)["backup"]["id"]
    assert set(clock.backups) >= {last, before[1]}
    assert ids[2] not in clock.backups


def test_age_is_not_counted_from_the_future(clock: Clock) -> None:
    """A backup of tomorrow must not keep a job from running until then."""
    clock.run(TODAY + 365 * DAY)
    clock.options["min_age_hours"] = 20
    assert clock.run(TODAY)["changed"]
    skipped = clock.run(TODAY + 365.5 * DAY)
    assert skipped["skipped"], skipped
    assert skipped["reason"].endswith("old, younger than 20 h")


def test_a_prune_far_in_the_future_keeps_the_last_good_one(clock: Clock) -> None:
    """Of backups that are all too old for every rule."""
    clock.options.clear()
    ids = [clock.run(TODAY + DAY * number)["backup"]["id"] for number in range(3)]
    told = clock.at(TODAY + 30_000 * DAY, "prune", "kg", "--keep-days", "7")
    assert clock.backups == ids[2:]
    assert told["keep"][0]["reasons"] == ["one of the newest 1 good backups (keep_min_good)"]


@pytest.mark.parametrize("seed", range(3))
def test_any_jumps(clock: Clock, seed: int, tmp_path: Path) -> None:
    """After each run and prune the newest good one that is not of the future is there, and restores."""
    chance, moment = random.Random(seed), TODAY
    known: set[str] = set()
    for _unused in range(8):
        # Not the same second again: of two that began in one, only their milliseconds tell which is the newer.
        moment += chance.choice([1, 1, 1, -1]) * DAY * chance.choice([0, 1, 1, 2, 40, 400, 4000]) + MINUTE
        made = clock.run(moment)["backup"]["id"]
        known.add(made)
        later = moment + datetime.timedelta(hours=chance.choice([1, 30, -30]))
        past = [name for name in clock.backups if times.from_id(name) <= later]
        clock.at(later, "prune", "kg", "--keep-last", "1")
        assert past[-1:] == [name for name in clock.backups if times.from_id(name) <= later][-1:]
        assert {name for name in known if times.from_id(name) > later} & set(clock.backups) == {
            name for name in clock.backups if times.from_id(name) > later
        }
        (job,) = clock.at(later, "list", "kg")
        assert [backup["id"] for backup in job["backups"]] == clock.backups[::-1]
        assert {backup["status"] for backup in job["backups"]} == {"complete"}
    for name in clock.backups:
        clock.at(moment, "restore", "kg", "--id", name, "--dest", str(tmp_path / name))
        assert content_of(tmp_path / name) == content_of(clock.environment)
