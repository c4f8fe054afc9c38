# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sorts backup jobs into those that can run and those that are described wrongly."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import check_options

DOCUMENTATION = r"""
name: checked_jobs
short_description: Sort backup jobs into sound and faulty ones
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Looks at names, types and options of jobs on the controller, before anything is done. Values are left to the module.
options:
  _input:
    description: The jobs, as in C(backup_jobs).
    type: list
    elements: dict
    required: true
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


def checked_jobs(jobs: Any, obstacle: Optional[str] = None) -> Dict[str, List[Any]]:
    if not isinstance(jobs, list):
        return {"sound": [], "faulty": [_fault("backup_jobs", "must be a list of jobs")]}
    sound: List[Any] = []
    faulty: List[Any] = []
    for index, job in enumerate(jobs):
        fallback = f"backup_jobs[{index}]"
        if not isinstance(job, dict):
            faulty.append(_fault(fallback, "must be a job, with a name and a type"))
            continue
        try:
            check_options(job)
            _refuse_repeated(job, jobs[:index])
            if obstacle:
                raise UsageError(" ".join(obstacle.split()))
            sound.append(job)
        except UsageError as error:
            faulty.append(_fault(str(job.get("name") or fallback), str(error)))
    return {"sound": sound, "faulty": faulty}


def _refuse_repeated(job: Dict[str, Any], earlier: List[Any]) -> None:
    """Two jobs of one name would mix their backups."""
    places = [(other.get("name"), other.get("repository")) for other in earlier if isinstance(other, dict)]
    if (job.get("name"), job.get("repository")) in places:
        raise UsageError("name: another job before it has the same name")


def _fault(name: str, message: str) -> Dict[str, Any]:
    return {"item": {"name": name}, "failed": True, "msg": message}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        return {"checked_jobs": checked_jobs}
