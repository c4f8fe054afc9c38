#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sqlite_backup
short_description: Back up a live SQLite database, proven restorable
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Copies an SQLite database while its applications go on, in WAL mode or with a rollback journal, compresses, verifies
    and publishes the copy in a repository.
  - With a rollback journal the file is copied first, and only what changed meanwhile is copied again under the lock of
    a writer; readers are never blocked, writers for a moment. In WAL mode the lock lasts as long as the WAL is copied.
  - The copy is made in a child process that runs as the owner of the data, sees nothing but its directory, and has a
    deadline. The source is never changed, but for one left in the middle of a transaction by a crash, which SQLite
    itself rolls back when it is opened.
options:
  path:
    description:
      - The database file, on the target or, with O(container), in the container. Not a link.
      - Its C(-wal), C(-shm) and C(-journal) belong to it and are never named.
    type: path
    required: true
  container:
    description: Name or id of the running container that the database is in. Nothing is executed in it.
    type: str
  docker_host:
    description:
      - Address of the Docker engine of O(container), as C(unix:///run/user/1000/docker.sock).
      - Without it, the environment variable E(DOCKER_HOST), else the socket of this host.
    type: str
  row_counts:
    description: Have the manifest tell the number of rows of each table; verifications compare it.
    type: bool
    default: false
  include:
    description:
      - Other files or directories that belong to the database, relative to its directory.
      - With O(container), a path that begins with V(/) is taken from anywhere in the container; it is restored below
        the directory of the database.
      - Regular files and directories are taken; links and special files are left out with a warning.
    type: list
    elements: str
    default: []
  lock_timeout:
    description:
      - How many seconds to wait until no other process holds the lock of a writer, and how long to hold it at most.
      - How long this backup held it is C(lock_ms) in the manifest.
    type: int
    default: 30
  timeout:
    description: Seconds without a sign of life after which a child process is ended and the backup fails.
    type: int
    default: 60
requirements:
  - On the target the module C(sqlite3) of Python, which Debian and others have in the package of Python itself.
  - For O(container) the Python library C(docker).
extends_documentation_fragment:
  - embedded.db_backup.backup
  - embedded.db_backup.retention
  - embedded.db_backup.repository
  - embedded.db_backup.attributes
seealso:
  - module: embedded.db_backup.chroma_sqlite_backup
    description: For the databases of Chroma, whose vectors are not in their SQLite file.
  - module: embedded.db_backup.backup_verify
  - module: embedded.db_backup.backup_restore
  - module: embedded.db_backup.backup_info
"""

EXAMPLES = r"""
- name: Back up the database of an application
  embedded.db_backup.sqlite_backup:
    name: inventory
    path: /srv/inventory/inventory.db

- name: Back up a database in a container with its uploads, and count its rows
  embedded.db_backup.sqlite_backup:
    name: wiki
    container: wiki
    path: /data/wiki.db
    include:
      - uploads
    row_counts: true
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
    job:
      description: Name of the job.
      type: str
      sample: kg
    status:
      description: V(complete), or V(predicted) in check mode.
      type: str
      sample: complete
    format:
      description: What kind of manifest it is.
      returned: success, outside of check mode
      type: str
      sample: embedded.db_backup
    schema:
      description: Version of its form.
      returned: success, outside of check mode
      type: int
      sample: 1
    tool:
      description: Name and version of what made the backup.
      returned: success, outside of check mode
      type: dict
      sample: {name: embedded.db_backup, version: 0.1.0}
    host:
      description: The C(hostname) it was made on.
      returned: success, outside of check mode
      type: dict
      sample: {hostname: web1}
    engine:
      description: Name and version of the kind of database.
      type: dict
      sample: {name: sqlite, version: "3"}
    source:
      description: What was backed up.
      type: dict
      contains:
        path:
          description: The path that was given.
          type: str
          sample: /srv/inventory/inventory.db
        size:
          description: Bytes of all files that were stored.
          type: int
          sample: 104857600
        position:
          description: The change counter of SQLite, with a fingerprint of the headers of its files.
          returned: success, outside of check mode
          type: dict
        system_id:
          description: Always null.
          returned: success, outside of check mode
          type: str
        include:
          description: For each path of O(include) its C(path), its number of C(files) and C(directories), their
            C(size) in bytes, and a C(fingerprint) of all names, sizes and times.
          type: list
          elements: dict
        include_elsewhere:
          description: The same for the paths of O(include) from elsewhere in the container.
          type: list
          elements: dict
        file:
          description: The name of the file.
          type: str
          sample: sessions.sqlite3
        page_size:
          description: Bytes of a page.
          type: int
          sample: 4096
        user_version:
          description: The number that the application keeps in C(PRAGMA user_version).
          type: int
          sample: 7
        application_id:
          description: The number in C(PRAGMA application_id).
          type: int
          sample: 0
        written_by:
          description: The version of the SQLite that wrote to the database last.
          type: str
          sample: 3.40.1
        rows:
          description: Rows by table, null without O(row_counts).
          type: dict
          sample: {items: 20000}
        journal_mode:
          description: V(wal), or V(rollback) for all others.
          type: str
          sample: rollback
        lock_ms:
          description: For how many milliseconds writers were kept out, at most.
          type: int
          sample: 23
        container:
          description: Name, ids, image and names of environment variables of the container, the C(way) to its files,
            and as C(paused_ms) for how many milliseconds it was paused, which is null for all ways but V(archive). Null
            without a container.
          type: dict
    backup:
      description: How it was made, with C(type), C(method), C(consistency), C(online), C(copied_by), C(prior) and
        C(reference).
      returned: success, outside of check mode
      type: dict
      sample: {type: full, method: hot, consistency: transaction, online: true, copied_by: "SQLite 3.40.1",
        prior: null, reference: []}
    timestamp_start:
      description: When it began.
      returned: success, outside of check mode
      type: str
      sample: "2026-11-21T01:30:00.000Z"
    timestamp_copy_start:
      description: When the copy began.
      returned: success, outside of check mode
      type: str
      sample: "2026-11-21T01:30:00.120Z"
    timestamp_stop:
      description: When all was written and verified.
      returned: success, outside of check mode
      type: str
      sample: "2026-11-21T01:30:01.250Z"
    files:
      description: C(path), C(size) and C(sha256) of the content of each file, C(repo_path), C(repo_size) and
        C(repo_sha256) as it is
        stored, C(mode), C(mtime) in nanoseconds, C(uid), C(gid), and as C(content) V(file) or V(tar).
      type: list
      elements: dict
    compression:
      description: Its C(type), C(level), and the implementation it was made C(by).
      type: dict
      sample: {type: zstd, level: 3, by: python-zstandard 0.23.0}
    encryption:
      description: Always null in this version.
      returned: success, outside of check mode
      type: dict
    check:
      description: What was verified before it was published; null where nothing was.
      type: dict
      sample: {read_back: true, opened: true, timestamp: "2026-11-21T01:30:01.250Z"}
    summary:
      description: Sums of sizes in bytes, and the duration.
      type: dict
      sample: {size: 104857600, repo_size: 20971520, duration_ms: 812}
    annotation:
      description: Remarks; always empty in this version.
      returned: success, outside of check mode
      type: dict
      sample: {}
    restore_by_hand:
      description: Shell commands that restore it where this collection is not installed.
      returned: success, outside of check mode
      type: list
      elements: str
      sample: ["cd /var/backups/db-backup/kg/20261121T013000Z", "sha256sum -c SHA256SUMS"]
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
exit_code:
  description: The exit code of the command C(dbbackup) for the same failure. V(2) for options that make no sense, V(10)
    when there is no such job or backup, V(11) when another run holds the job, V(1) for anything else.
  returned: failure
  type: int
  sample: 11
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import BACKUP_ARGUMENTS, finish, run_backup


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "container": {"type": "str"},
            "docker_host": {"type": "str"},
            "row_counts": {"type": "bool", "default": False},
            "include": {"type": "list", "elements": "str", "default": []},
            "lock_timeout": {"type": "int", "default": 30},
            "timeout": {"type": "int", "default": 60},
            **BACKUP_ARGUMENTS,
        },
        required_by={"docker_host": ["container"]},
        supports_check_mode=True,
    )
    finish(module, lambda: run_backup(module, "sqlite"))


if __name__ == "__main__":
    main()
