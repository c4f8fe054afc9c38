# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies keep what restic 0.19 keeps, in every case of tests/fixtures/retention/cases.json."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import (
    Candidate,
    Policy,
    decide,
)

CASES = json.loads((Path(__file__).parents[1] / "fixtures/retention/cases.json").read_text())["cases"]


def test_all_cases_are_there() -> None:
    assert len(CASES) == 59


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_keeps_what_restic_keeps(case: dict[str, Any]) -> None:
    times = [datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) for text in case["timestamps"]]
    candidates = [Candidate(f"{index:05}", time) for index, time in enumerate(times)]
    policy = Policy(**case["policy"], timezone=case["tz_created"])
    decisions = decide(candidates, policy, max(times))
    kept = sorted(decision.time for decision in decisions if decision.keep)
    # By time: which one of several of the same second stays is not defined.
    assert kept == sorted(times[index] for index in case["kept_restic_0_19"])
