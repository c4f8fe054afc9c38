# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a job about what happens around it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import UsageError

JOB: dict[str, Any] = {"name": "kg", "type": "lmdb", "path": "/srv/kg"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": ""}, "schedule: '' is not one line"),
        ({"schedule": "daily\nOnBootSec=1"}, "schedule: 'daily\\nOnBootSec=1' is not one line of text"),
        ({"schedule": 7}, "schedule: must be a text"),
        ({"unit": {"user": "kg\nUser=root"}}, "unit.user: 'kg\\nUser=root' is not one line"),
        ({"unit": {"memory_max": "%h"}}, "unit.memory_max: '%h' is not one line of text without '%'"),
        ({"unit": {"memory": "1G"}}, "unit.memory: is not known; did you mean memory_max?"),
        ({"unit": {"nice": 20}}, "unit.nice: 20 is out of range"),
        ({"unit": {"io_class": "realtime"}}, "unit.io_class: 'realtime' is not known"),
        ({"attempts": 0}, "attempts: 0 is out of range"),
        ({"wait": -1}, "wait: -1 is out of range; give 0 to 86400 seconds"),
        ({"hook_timeout": 0}, "hook_timeout: 0 is out of range"),
        ({"max_age_hours": 0}, "max_age_hours: 0 is not a number of hours"),
        ({"max_age_hours": float("nan")}, "max_age_hours: nan is not a number of hours"),
        ({"before": ["echo hi"]}, "before[0]: must be a list, is a text"),
        ({"before": [["echo", 7]]}, "before[0][1]: must be a text"),
        ({"after": [["true"], []]}, "after[1]: is no program with its arguments"),
        ({"restore": {"service": "kg", "container": "kg"}}, "restore: give service or container, not both"),
        ({"restore": {"heartbeat": "http://x"}}, "restore: heartbeat and health are asked of"),
        ({"restore": {"mode": "rw"}}, "restore.mode: 'rw' is not octal"),
        ({"restore": {"servic": "kg"}}, "restore.servic: is not known; did you mean service?"),
    ],
    ids=str,
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        jobs.parse({**JOB, **options})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_all_mistakes_at_once() -> None:
    options = {**JOB, "attempts": 0, "keep_last": "7", "compression": "lzma", "unit": {"nice": 99}, "surprise": 1}
    assert jobs.faults(options) == [
        "surprise: is not known",
        "keep_last: must be a whole number, is a text",
        "attempts: 0 is out of range; give 1 to 100",
        "unit.nice: 99 is out of range; give -20 to 19",
        "compression 'lzma' is not known; choose zstd, gzip or none",
    ]
    assert jobs.faults(JOB) == []
    assert jobs.faults({**JOB, "path": 7}) == ["path: must be a text, is a whole number"]
    assert jobs.faults({"type": "lmdb", "name": "kg"}) == ["path: is missing"]
    assert jobs.faults({"type": "oracle"})[0].startswith("type 'oracle' is not known")
