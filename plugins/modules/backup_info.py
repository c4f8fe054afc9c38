#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_info
short_description: List jobs and their backups
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Tells the jobs of a repository, their backups with sizes and ages, and the last attempt, success, verification
    and drill.
  - Changes nothing. The content of backups is not read, see M(embedded.db_backup.backup_verify).
options:
  name:
    description: Only the job of this name; fails when there is none. Without it all jobs.
    type: str
  jobs_directory:
    description:
      - Directory of the job files that the role C(embedded.db_backup.backup) installs. They tell
        which jobs there must be, and how old their backups may be.
      - Without it, V(/etc/db-backup/jobs.d), or C(~/.config/db-backup/jobs.d) of a user who has that.
    type: path
extends_documentation_fragment:
  - embedded.db_backup.repository
  - embedded.db_backup.attributes
attributes:
  diff_mode:
    support: none
    details: Nothing is changed.
seealso:
  - module: embedded.db_backup.backup_verify
"""

EXAMPLES = r"""
- name: Look at all jobs
  embedded.db_backup.backup_info:
  register: backups

- name: Fail when the last backup of the knowledge graph is older than a day
  ansible.builtin.assert:
    that: 0 <= (good | first).age < 86400
  vars:
    kg: "{{ backups.jobs | selectattr('name', 'equalto', 'kg') | first }}"
    good: "{{ kg.backups | selectattr('status', 'equalto', 'complete') }}"
"""

RETURN = r"""
jobs:
  description: One entry per job, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the job.
      type: str
      sample: kg
    path:
      description: Directory of its backups.
      type: str
      sample: /var/backups/db-backup/kg
    count:
      description: Number of backups.
      type: int
      sample: 14
    repo_size:
      description: Bytes that all its backups take.
      type: int
      sample: 293601280
    last_attempt:
      description: The last run; null before the first one.
      type: dict
      contains:
        at:
          description: When.
          type: str
          sample: "2026-11-21T01:30:00.000Z"
        status:
          description: V(running), V(succeeded), V(skipped), V(failed), or V(interrupted) for a run that was killed.
          type: str
        id:
          description: The backup; null where there is none.
          type: str
          sample: 20261121T013000Z
        message:
          description: Why it ended like that; null after a success.
          type: str
    last_success:
      description: The last run that made a backup; null before the first one.
      type: dict
      contains:
        at:
          description: When.
          type: str
          sample: "2026-11-21T01:30:00.000Z"
        status:
          description: V(succeeded).
          type: str
        id:
          description: The backup; null where there is none.
          type: str
          sample: 20261121T013000Z
        message:
          description: Why it ended like that; null after a success.
          type: str
    last_verify:
      description: The last verification; null before the first one.
      type: dict
      contains:
        at:
          description: When.
          type: str
          sample: "2026-11-21T01:30:00.000Z"
        status:
          description: V(passed) or V(failed).
          type: str
        id:
          description: The backup; null where there is none.
          type: str
          sample: 20261121T013000Z
        message:
          description: Why it ended like that; null after a success.
          type: str
    last_drill:
      description: The last drill; null before the first one. Like RV(jobs[].last_verify).
      type: dict
    proven_restorable:
      description: The last drill that passed; null before the first one. Like RV(jobs[].last_verify).
      type: dict
    trend:
      description: By how many percent the newest full backup is larger than the full one before; null where there is
        none.
      type: float
      sample: 2.5
    health:
      description: Whether the job is well.
      type: dict
      contains:
        good:
          description: Whether nobody has to look after it.
          type: bool
          sample: true
        status:
          description: V(ok), V(new) before the first run, V(late), V(failed), V(interrupted), V(drill failed),
            V(damaged) when the newest backup is, V(halted) when a killed run left its application frozen or stopped,
            or V(faulty) when the file of the job is.
          type: str
          sample: ok
        reason:
          description: Why it is not V(ok); null when it is.
          type: str
    schedule:
      description: When it runs, as its job file says; null where there is none.
      type: str
      sample: daily
    max_age_hours:
      description: How old its last good backup may become, as its job file says; null where there is none.
      type: float
      sample: 26
    foreign:
      description: Names of what lies in the directory of the job and is no backup. It is never touched.
      type: list
      elements: str
      sample: []
    backups:
      description: Newest first.
      type: list
      elements: dict
      contains:
        id:
          description: The time the backup began, UTC.
          type: str
          sample: 20261121T013000Z
        path:
          description: Its directory.
          type: str
          sample: /var/backups/db-backup/kg/20261121T013000Z
        status:
          description: V(complete), or V(damaged) when its manifest is not sound or its last verification failed.
          type: str
          sample: complete
        problem:
          description: Why it is damaged; null for a good one.
          type: str
        age:
          description: Seconds since it began.
          type: int
          sample: 3600
        size:
          description: Bytes of content; this and what follows is null where the manifest cannot be read.
          type: int
          sample: 104857600
        repo_size:
          description: Bytes stored.
          type: int
          sample: 20971520
        duration_ms:
          description: How long it took to make, in milliseconds.
          type: int
          sample: 812
        engine:
          description: The kind of database.
          type: str
          sample: lmdb
        type:
          description: V(full).
          type: str
          sample: full
        verified:
          description: The last verification of this backup; null when it never was verified.
          type: dict
          contains:
            at:
              description: When.
              type: str
              sample: "2026-11-21T01:30:01.250Z"
            status:
              description: V(passed) or V(failed).
              type: str
              sample: passed
            message:
              description: Why it failed; null when it passed.
              type: str
        drilled:
          description: The last drill of this backup; null when there never was one. Like RV(jobs[].backups[].verified).
          type: dict
        protected:
          description: Since when (C(at)) and what for (C(reason)) it is protected; null when it is not.
          type: dict
          sample: {at: "2026-11-21T01:30:01.250Z", reason: before the upgrade}
        retention:
          description: Always null; the command C(dbbackup list) tells here what the policy of the job decides.
          type: dict
exit_code:
  description: The exit code of the command C(dbbackup) for the same failure. V(2) for options that make no sense, V(10)
    when there is no such job or backup, V(11) when another run holds the job, V(1) for anything else.
  returned: failure
  type: int
  sample: 11
"""

from pathlib import Path
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import REPOSITORY_ARGUMENTS, finish
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import (
    default_directory,
    repositories,
    repository_at,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.health import overview


def main() -> None:
    module = AnsibleModule(
        argument_spec={"name": {"type": "str"}, "jobs_directory": {"type": "path"}, **REPOSITORY_ARGUMENTS},
        supports_check_mode=True,
    )

    def work() -> Dict[str, Any]:
        directory = Path(module.params["jobs_directory"] or default_directory())
        repository = module.params["repository"]
        places = [repository_at(repository)] if repository else repositories(directory)
        found = overview(directory, places, module.params["name"])
        return {"changed": False, "jobs": [job.to_json() for job in found]}

    finish(module, work)


if __name__ == "__main__":
    main()
