#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_prune
short_description: Remove backups that need not be kept
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Decides which backups of a job, or of each job, stay, tells why, and removes the others.
  - Everything is decided before anything is removed. A backup is first renamed and then removed, so that it is there as
    a whole or not at all, whatever happens.
  - The last good backup is never removed. What is no backup is reported and not touched.
options:
  name:
    description: Name of the job. Without it all jobs of the repository.
    type: str
extends_documentation_fragment:
  - embedded.db_backup.repository
  - embedded.db_backup.retention
  - embedded.db_backup.attributes
seealso:
  - module: embedded.db_backup.backup_protect
  - module: embedded.db_backup.backup_info
"""

EXAMPLES = r"""
- name: Keep a week of days, a month of weeks and a year of months
  embedded.db_backup.backup_prune:
    name: kg
    keep_daily: 7
    keep_weekly: 5
    keep_monthly: 12

- name: Remove what is older than 14 days, but never the last three good ones
  embedded.db_backup.backup_prune:
    keep_days: 14
    keep_min_good: 3

- name: Only look what would be removed
  embedded.db_backup.backup_prune:
    name: kg
    keep_within: 1m
    keep_within_monthly: 1y
    timezone: Europe/Berlin
  check_mode: true
"""

RETURN = r"""
keep:
  description: The backups that stay, by job, newest first.
  returned: success
  type: list
  elements: dict
  contains: &decision
    job:
      description: Name of the job.
      type: str
      sample: kg
    id:
      description: The time the backup began, UTC.
      type: str
      sample: 20261121T013000Z
    standing:
      description:
        - V(good), V(unverified) or V(damaged).
        - A backup that may be torn, as an adopted copy of a running database, is never better than V(unverified).
      type: str
      sample: good
    reasons:
      description: Every reason to keep it or, where there is none, why each option does not.
      type: list
      elements: str
      sample: ["daily 1 of 7: newest of day 2026-11-21"]
remove:
  description: Those that were removed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains: *decision
exit_code:
  description: The exit code of the command C(dbbackup) for the same failure. V(2) for options that make no sense, V(10)
    when there is no such job or backup, V(11) when another run holds the job, V(1) for anything else.
  returned: failure
  type: int
  sample: 11
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import (
    REPOSITORY_ARGUMENTS,
    RETENTION_ARGUMENTS,
    finish,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import repository_at
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.prune import prune_jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import Policy


def standings(entries: List[Dict[str, Any]]) -> Dict[str, str]:
    """What a diff shows of backups."""
    return {f"{entry['job']}/{entry['id']}": entry["standing"] for entry in entries}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"name": {"type": "str"}, **REPOSITORY_ARGUMENTS, **RETENTION_ARGUMENTS},
        supports_check_mode=True,
    )

    def work() -> Dict[str, Any]:
        policy = Policy(**{name: module.params[name] for name in RETENTION_ARGUMENTS})
        # Also where there is no job yet to try it on.
        policy.check_rules()
        repository, name = repository_at(module.params["repository"]), module.params["name"]
        directories = [repository.job(name)] if name else repository.jobs()
        plans = prune_jobs([(directory, policy) for directory in directories], predict=module.check_mode)
        found = [plan.to_json() for plan in plans]
        keep, remove = ([entry for plan in found for entry in plan[name]] for name in ("keep", "remove"))
        result: Dict[str, Any] = {"changed": bool(remove), "keep": keep, "remove": remove}
        if module._diff:
            stay, go = standings(keep), standings(remove)
            result["diff"] = {"before": {**stay, **go}, "after": stay}
        result["warnings"] = [warning for plan in plans for warning in plan.warnings]
        return result

    finish(module, work)


if __name__ == "__main__":
    main()
