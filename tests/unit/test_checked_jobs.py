# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of the playbook, sorted before anything is done."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.filter.checked_jobs import FilterModule

GOOD: dict[str, Any] = {"name": "kg", "type": "lmdb", "path": "/srv/kg", "repository": "/backups"}


def checked(jobs: Any) -> dict[str, Any]:
    result: dict[str, Any] = FilterModule().filters()["checked_jobs"](jobs)
    return result


def test_sound_ones_stay_as_they_are() -> None:
    jobs = [GOOD, {**GOOD, "name": "other", "include": ["media"]}, {**GOOD, "repository": "/elsewhere"}]
    assert checked(jobs) == {"sound": jobs, "faulty": []}
    assert checked([]) == {"sound": [], "faulty": []}


@pytest.mark.parametrize(
    ("job", "name", "message"),
    [
        ({**GOOD, "type": None}, "kg", "type None is not known; this version knows chroma, files, lmdb, nrepl, sqlite"),
        ({**GOOD, "type": "oracle"}, "kg", "type 'oracle' is not known"),
        ({"type": "lmdb", "path": "/srv/kg"}, "backup_jobs[1]", "name: is missing"),
        ({**GOOD, "name": "../x"}, "../x", "'../x' is not a job name"),
        ({**GOOD, "name": "kg-2", "includes": ["media"]}, "kg-2", "includes: is not known; did you mean include?"),
        (GOOD, "kg", "name: another job before it has the same name"),
        ("kg", "backup_jobs[1]", "must be a job, with a name and a type"),
        (None, "backup_jobs[1]", "must be a job, with a name and a type"),
    ],
)
def test_faulty_ones_are_named(job: Any, name: str, message: str) -> None:
    result = checked([GOOD, job])
    assert result["sound"] == [GOOD]
    (faulty,) = result["faulty"]
    assert (faulty["item"]["name"], faulty["failed"]) == (name, True)
    assert faulty["msg"].startswith(message)


@pytest.mark.parametrize("jobs", [None, "kg", {"kg": {}}, 7], ids=str)
def test_what_is_no_list(jobs: Any) -> None:
    assert checked(jobs) == {
        "sound": [],
        "faulty": [{"item": {"name": "backup_jobs"}, "failed": True, "msg": "must be a list of jobs"}],
    }
