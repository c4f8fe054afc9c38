#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_verify
short_description: Verify a backup by reading all of it and opening the copy
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Reads every stored file, compares all checksums with the manifest, unpacks the copy into a private directory of the
    repository, opens it with its engine in a child process and reads every entry of every database.
  - The result is remembered beside the backup. A backup that fails no longer counts as a good one.
  - In check mode the same is done and nothing is remembered. Then, and where the repository cannot be written to, the
    copy is unpacked below the system's temporary directory, which needs room for it.
options:
  name:
    description: Name of the job.
    type: str
    required: true
  id:
    description: Which backup. Without it the newest one.
    type: str
  timeout:
    description: Seconds without a sign of life after which the process that reads the copy is ended.
    type: int
    default: 60
extends_documentation_fragment:
  - embedded.db_backup.repository
  - embedded.db_backup.attributes
attributes:
  diff_mode:
    support: none
    details: Nothing is changed.
seealso:
  - module: embedded.db_backup.lmdb_backup
  - module: embedded.db_backup.backup_restore
"""

EXAMPLES = r"""
- name: Verify the newest backup
  embedded.db_backup.backup_verify:
    name: kg

- name: Verify one backup
  embedded.db_backup.backup_verify:
    name: kg
    id: 20261121T013000Z
"""

RETURN = r"""
path:
  description: Directory of the backup.
  returned: success
  type: str
  sample: /var/backups/db-backup/kg/20261121T013000Z
opened:
  description: Whether the engine has opened and read the copy. Where the target lacks it, only checksums are compared,
    with a warning.
  returned: success
  type: bool
  sample: true
backup:
  description: The manifest of the backup.
  returned: success
  type: dict
  contains:
    id:
      description: The time the backup began, UTC.
      type: str
      sample: 20261121T013000Z
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import REPOSITORY_ARGUMENTS, finish
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import repository_at
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.verify import verify


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "id": {"type": "str"},
            "timeout": {"type": "int", "default": 60},
            **REPOSITORY_ARGUMENTS,
        },
        supports_check_mode=True,
    )

    def work() -> Dict[str, Any]:
        job = repository_at(module.params["repository"]).job(module.params["name"])
        timeout = module.params["timeout"]
        return verify(job, module.params["id"], remember=not module.check_mode, timeout=timeout).to_json()

    finish(module, work)


if __name__ == "__main__":
    main()
