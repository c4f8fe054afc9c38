#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_protect
short_description: Protect a backup from being pruned
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - A protected backup stays whatever the retention policy says, until it is no longer protected.
  - It is written down in the directory of the backup, as C(protected.json), and goes along when that is copied.
options:
  name:
    description: Name of the job.
    type: str
    required: true
  id:
    description: Which backup.
    type: str
    required: true
  protected:
    description: Whether it is to be protected.
    type: bool
    default: true
  reason:
    description: What for. Shown beside the backup.
    type: str
extends_documentation_fragment:
  - embedded.db_backup.repository
  - embedded.db_backup.attributes
seealso:
  - module: embedded.db_backup.backup_prune
"""

EXAMPLES = r"""
- name: Keep the backup from before the upgrade
  embedded.db_backup.backup_protect:
    name: kg
    id: 20261121T013000Z
    reason: before the upgrade to 2.0

- name: Leave it to the policy again
  embedded.db_backup.backup_protect:
    name: kg
    id: 20261121T013000Z
    protected: false
"""

RETURN = r"""
path:
  description: Directory of the backup.
  returned: success
  type: str
  sample: /var/backups/db-backup/kg/20261121T013000Z
protected:
  description: Whether the backup is protected now.
  returned: success
  type: bool
  sample: true
reason:
  description: What for.
  returned: success
  type: str
  sample: before the upgrade to 2.0
exit_code:
  description: The exit code of the command C(dbbackup) for the same failure. V(2) for options that make no sense, V(10)
    when there is no such job or backup, V(11) when another run holds the job, V(1) for anything else.
  returned: failure
  type: int
  sample: 11
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import REPOSITORY_ARGUMENTS, finish
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import repository_at
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.protect import set_protection


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "id": {"type": "str", "required": True},
            "protected": {"type": "bool", "default": True},
            "reason": {"type": "str"},
            **REPOSITORY_ARGUMENTS,
        },
        supports_check_mode=True,
    )

    def work() -> Dict[str, Any]:
        wanted = module.params["protected"]
        result = set_protection(
            repository_at(module.params["repository"]).job(module.params["name"]),
            module.params["id"],
            wanted=wanted,
            reason=module.params["reason"],
            predict=module.check_mode,
        )
        returned = result.to_json()
        if module._diff:
            before, after = {"protected": result.was_protected}, {"protected": result.protected}
            returned["diff"] = {"before": before, "after": after}
        return returned

    finish(module, work)


if __name__ == "__main__":
    main()
