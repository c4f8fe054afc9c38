#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lmdb_backup
short_description: Back up a live LMDB environment, proven restorable
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Copies LMDB environments out of a read transaction while the application goes on writing, compresses, verifies
    and publishes the copy in a repository.
  - The copy is made in a child process that runs as the owner of the data, with a deadline. The source is never
    changed; C(lock.mdb) is neither copied nor created.
  - Environments of LMDB 0.9 are backed up. Those of heed (mdb.master), Datalevin (DLMDB) and LMDB 1.0 are recognized
    and refused by name.
options:
  path:
    description:
      - An environment directory, a single data file (C(MDB_NOSUBDIR)), or a directory below which environments are
        discovered, that is every directory with a C(data.mdb). Hidden directories and links are passed over;
        environments there are told in warnings.
      - Each environment is consistent in itself; several are copied one after the other.
    type: path
    required: true
  method:
    description: How the copy is made. V(hot) is a read transaction, and what V(auto) chooses.
    type: str
    choices: [auto, hot]
    default: auto
  compact:
    description:
      - Leave out free pages. Smaller and slower; the transaction number of the copy starts again at 1, the manifest has
        that of the source.
    type: bool
    default: false
  include:
    description:
      - Other files or directories that belong to the database, as uploaded media, relative to O(path).
      - Regular files and directories are taken; links and special files are left out with a warning.
    type: list
    elements: str
    default: []
  timeout:
    description:
      - Seconds without a sign of life after which the child process is ended and the backup fails.
      - A copy that is not O(compact) begins when the write transaction under way has ended; allow for the longest.
    type: int
    default: 60
requirements:
  - On the target the Python library C(lmdb), or the programs of C(lmdb-utils).
extends_documentation_fragment:
  - embedded.db_backup.backup
  - embedded.db_backup.repository
  - embedded.db_backup.retention
  - embedded.db_backup.attributes
seealso:
  - module: embedded.db_backup.backup_prune
  - module: embedded.db_backup.backup_verify
  - module: embedded.db_backup.backup_restore
  - module: embedded.db_backup.backup_info
"""

EXAMPLES = r"""
- name: Back up the knowledge graph
  embedded.db_backup.lmdb_backup:
    name: kg
    path: /srv/kg

- name: Back up every environment of the application with its media, once a day at most
  embedded.db_backup.lmdb_backup:
    name: memory
    path: /srv/memory/data
    include:
      - media
    compact: true
    min_age_hours: 20
    repository: /var/backups/db-backup

- name: Back up, then keep a week of days, a month of weeks and a year of months
  embedded.db_backup.lmdb_backup:
    name: kg
    path: /srv/kg
    keep_daily: 7
    keep_weekly: 5
    keep_monthly: 12

- name: Back up a single file, only after changes
  embedded.db_backup.lmdb_backup:
    name: cache
    path: /srv/cache/store.lmdb
    skip_unchanged: true
"""

RETURN = r"""
skipped:
  description: Whether there was no need for a backup.
  returned: success
  type: bool
  sample: false
reason:
  description: Why the backup was skipped.
  returned: success
  type: str
  sample: nothing was committed since the last good backup 20261121T013000Z
path:
  description: Directory of the backup, of the last good one when skipped, of the one to be in check mode.
  returned: success
  type: str
  sample: /var/backups/db-backup/kg/20261121T013000Z
backup:
  description: The manifest of that backup. In check mode its status is V(predicted) and it has no files yet.
  returned: success
  type: dict
  contains:
    id:
      description: The time the backup began, UTC.
      type: str
      sample: 20261121T013000Z
    status:
      description: V(complete), or V(predicted) in check mode.
      type: str
      sample: complete
    source:
      description: What was backed up.
      type: dict
      contains:
        path:
          description: The path that was given.
          type: str
          sample: /srv/kg
        environments:
          description: One entry per environment.
          type: list
          elements: dict
          contains:
            path:
              description: The data file, relative to the source.
              type: str
              sample: data.mdb
            page_size:
              description: Bytes of a page.
              type: int
              sample: 4096
            map_size:
              description: The largest size the application lets the environment have, in bytes.
              type: int
              sample: 10737418240
            position:
              description: The transaction of the copy; C(start) and C(stop) are the same when it is known for certain.
              type: dict
            databases:
              description: Name and number of entries of each database; the name of the main one is null.
              type: list
              elements: dict
              sample: [{name: null, entries: 1}, {name: nodes, entries: 20000}]
    files:
      description: Path, size and SHA-256 of each file, of its content and (C(repo_)) as it is stored.
      type: list
      elements: dict
    summary:
      description: Sums of sizes in bytes, and the duration.
      type: dict
      sample: {size: 104857600, repo_size: 20971520, duration_ms: 812}
    check:
      description: What was verified, null without O(verify).
      type: dict
      sample: {read_back: true, opened: true, timestamp: "2026-11-21T01:30:01.250Z"}
pruned:
  description: What became of all backups of the job once this one was made; in check mode, what would. Null when no
    option tells what to keep, and when the backup was skipped.
  returned: success
  type: dict
  contains:
    keep:
      description: The backups that stay, newest first, as M(embedded.db_backup.backup_prune) returns them.
      type: list
      elements: dict
    remove:
      description: Those that do not.
      type: list
      elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import BACKUP_ARGUMENTS, finish, run_backup


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "method": {"type": "str", "default": "auto", "choices": ["auto", "hot"]},
            "compact": {"type": "bool", "default": False},
            "include": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 60},
            **BACKUP_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    finish(module, lambda: run_backup(module, "lmdb"))


if __name__ == "__main__":
    main()
