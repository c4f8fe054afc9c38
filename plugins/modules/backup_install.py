#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_install
short_description: Install backup jobs on a host, with runner, timers and restore scripts
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Leaves the engine of this collection on the host, with the command C(dbbackup), and for each job a file with its
    options, timers of systemd for its backups and its restore drills, and a script C(restore-JOB).
  - All jobs are checked before anything changes, calendar events by systemd itself.
  - Jobs that were installed earlier and are not in O(jobs) lose their timers, files and scripts, and never a backup.
  - A backup that runs goes on with the version of the engine that it was started with.
  - Where the host has no systemd, lines for cron are installed instead.
  - The role C(embedded.db_backup.backup) calls this module, and installs the packages that the jobs need.
options:
  jobs:
    description:
      - The jobs, with the options that C(backup_jobs) has in the role C(embedded.db_backup.backup).
    type: list
    elements: dict
    required: true
  repository:
    description:
      - Directory of the backups of jobs that do not name another one.
      - Without it, V(/var/backups/db-backup), or C(backups) in the home directory for a O(scope=user).
    type: path
  scope:
    description: V(system) installs for the whole host, as root; V(user) for the user that runs the module, below the
      home directory, with units of that user that run without a login.
    type: str
    choices: [system, user]
    default: system
  python:
    description: The Python to run the engine with, 3.8 or newer. Without it, the one that runs this module.
    type: path
  libraries:
    description:
      - Python libraries, as pip takes them, that the engine finds in a virtual environment. It is made with C(python -m
        venv) and pip beside the engine, in a directory of its own for each set of libraries, and is not changed
        afterwards. What the packages of the host bring stays in sight.
      - An earlier environment stays until a later call of this module when no backup runs in it.
    type: list
    elements: str
    default: []
  only_missing:
    description: Of O(libraries), install those only that O(python) cannot import by their names. Where there are none,
      there is no virtual environment. C(lmdb) is not missing where C(mdb_copy) is there.
    type: bool
    default: false
  pip_arguments:
    description: Further arguments for pip, which also reads its configuration on the host. Addresses must have no
      password in them.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - embedded.db_backup.attributes
attributes:
  diff_mode:
    details: Shows units and scripts as they were and will be; of job files only that they change.
seealso:
  - module: embedded.db_backup.backup_info
"""

EXAMPLES = r"""
- name: Back up a knowledge graph every night, and prove every week that it can be restored
  embedded.db_backup.backup_install:
    jobs:
      - name: kg
        type: lmdb
        path: /srv/kg
        schedule: "*-*-* 02:30"
        keep_daily: 14
        restore:
          service: kg.service
"""

RETURN = r"""
version:
  description: The version of the engine that is installed, and a part of its checksum.
  returned: success
  type: str
  sample: 0.1.0-4f1c2a9be07d
environment:
  description: The virtual environment that the engine runs in, or would; null where there is none.
  returned: success
  type: str
  sample: /usr/local/lib/db-backup/environment-5fb1f10c6a3e
files:
  description: Paths of files that were written, or would be.
  returned: success
  type: list
  elements: str
  sample: [/etc/db-backup/jobs.d/kg.json]
removed:
  description: Paths of files that were removed, or would be.
  returned: success
  type: list
  elements: str
  sample: []
timers:
  description: The timers of the jobs, with the next time of each; empty where the host has no systemd.
  returned: success
  type: list
  elements: dict
  contains:
    unit:
      description: Its name.
      type: str
      sample: db-backup@kg.timer
    next:
      description: When it elapses next, as systemd tells it; null when it is not enabled yet.
      type: str
      sample: Sun 2026-11-22 02:30:00 UTC
exit_code:
  description: The exit code of the command C(dbbackup) for the same failure. V(2) for jobs that make no sense, V(1) for
    anything else.
  returned: failure
  type: int
  sample: 2
"""

import sys
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import REPOSITORY_ARGUMENTS, finish
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.environment import Libraries
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.install import install
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.layout import Layout


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "jobs": {"type": "list", "elements": "dict", "required": True},
            "scope": {"type": "str", "default": "system", "choices": ["system", "user"]},
            "python": {"type": "path"},
            "libraries": {"type": "list", "elements": "str", "default": []},
            "only_missing": {"type": "bool", "default": False},
            "pip_arguments": {"type": "list", "elements": "str", "default": []},
            **REPOSITORY_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    finish(module, lambda: run(module))


def run(module: AnsibleModule) -> Dict[str, Any]:
    params = module.params
    layout = Layout.of(params["scope"])
    python = params["python"] or sys.executable
    libraries = Libraries(params["libraries"], params["only_missing"], params["pip_arguments"])
    try:
        libraries.check()
    except UsageError:
        # A password that should not be there is not repeated.
        module.no_log_values.update(params["libraries"] + params["pip_arguments"])
        raise
    done = install(params["jobs"], layout, python, params["repository"], libraries=libraries, predict=module.check_mode)
    result = done.to_json()
    if module._diff:
        result["diff"] = [
            {"before_header": path, "after_header": path, "before": before, "after": after}
            for path, before, after in done.texts
        ]
    return result


if __name__ == "__main__":
    main()
