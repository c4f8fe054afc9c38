# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sorts backup jobs into those that can run and those that are described wrongly."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import check_options, faults

DOCUMENTATION = r"""
name: checked_jobs
short_description: Sort backup jobs into sound and faulty ones
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Looks at names, types and options of jobs on the controller, before anything is done.
  - Jobs that are C(absent) by their C(state) are in neither list.
options:
  _input:
    description: The jobs, as in C(backup_jobs).
    type: list
    elements: dict
    required: true
  defaults:
    description: Options for jobs that do not have them.
    type: dict
    default: {}
  values:
    description: Look at the values, too, and name every mistake. Without it, they are left to the module.
    type: bool
    default: false
  obstacle:
    description: Why no job can run on this host, as that it is unreachable. Then all of them are faulty.
    type: str
"""

EXAMPLES = r"""
- name: Tell which jobs cannot run
  ansible.builtin.debug:
    msg: "{{ (backup_jobs | embedded.db_backup.checked_jobs).faulty | map(attribute='msg') }}"
"""

RETURN = r"""
_value:
  description: The jobs in C(sound); in C(faulty) for each of the others a failed result with its C(item) and C(msg).
  type: dict
"""


def checked_jobs(
    jobs: Any, obstacle: Optional[str] = None, *, defaults: Optional[Dict[str, Any]] = None, values: bool = False
) -> Dict[str, List[Any]]:
    if not isinstance(jobs, list):
        return {"sound": [], "faulty": [_fault("backup_jobs", "must be a list of jobs")]}
    sound: List[Any] = []
    faulty: List[Any] = []
    for index, described in enumerate(jobs):
        fallback = f"backup_jobs[{index}]"
        if not isinstance(described, dict):
            faulty.append(_fault(fallback, "must be a job, with a name and a type"))
            continue
        if described.get("state", "present") == "absent":
            continue
        job = {**(defaults or {}), **{key: value for key, value in described.items() if key != "state"}}
        try:
            _check_state(described)
            if values:
                _refuse_mistakes(job)
            else:
                check_options(job)
            _refuse_repeated(job, jobs[:index], wherever=values)
            if obstacle:
                raise UsageError(" ".join(obstacle.split()))
            sound.append(job)
        except UsageError as error:
            faulty.append(_fault(str(job.get("name") or fallback), str(error)))
    return {"sound": sound, "faulty": faulty}


def _check_state(job: Dict[str, Any]) -> None:
    if job.get("state", "present") != "present":
        raise UsageError(f"state: {job['state']!r} is not known; choose present or absent")


def _refuse_mistakes(job: Dict[str, Any]) -> None:
    """The parser of the engine takes plain values only, as they come from YAML or JSON."""
    found = faults(json.loads(json.dumps(job, default=str)))
    if found:
        raise UsageError("; ".join(found))


def _refuse_repeated(job: Dict[str, Any], earlier: List[Any], *, wherever: bool) -> None:
    """Two jobs of one name would mix their backups, or, on one host wherever those are, their timers."""
    there = [other for other in earlier if isinstance(other, dict) and other.get("state") != "absent"]
    same = [other for other in there if other.get("name") == job.get("name")]
    if any(wherever or other.get("repository") == job.get("repository") for other in same):
        raise UsageError("name: another job before it has the same name")


def _fault(name: str, message: str) -> Dict[str, Any]:
    return {"item": {"name": name}, "failed": True, "msg": message}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        return {"checked_jobs": checked_jobs}
