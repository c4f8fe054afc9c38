#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: chroma_sqlite_backup
short_description: Back up a live Chroma server with all its vectors, proven restorable
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Copies the persist directory of a single-node Chroma, version 0.4, 0.5 or 1.x, while the server goes on, compresses,
    verifies and publishes the copy in a repository.
  - A copy of C(chroma.sqlite3) alone loses most vectors, which live in the directories of segments beside it, while
    counts, documents and queries go on to look right. Copies of both can be torn, as a server rewrites segments in
    place. So the segments are copied, checked in their structure, and under a short lock of C(chroma.sqlite3) copied
    again as far as they changed.
  - Before it is published, every record of the copy is seen to have its vector.
  - Nothing is executed in a container, and the source is never changed. Reads of the server go on; writes wait for the
    time told as C(lock_ms). Only where the files of a container can be had as an archive of its engine alone, as of one
    on another host, it is paused for the time told as C(paused_ms).
options:
  path:
    description:
      - The persist directory, on the target or, with O(container), in the container.
      - May be left out with O(container); then it is found by what the server has open and by its configuration.
    type: path
  container:
    description: Name or id of the running container that the database is in. Nothing is executed in it.
    type: str
  docker_host:
    description:
      - Address of the Docker engine of O(container), as C(unix:///run/user/1000/docker.sock).
      - Without it, the environment variable E(DOCKER_HOST), else the socket of this host.
    type: str
  include_segments:
    description:
      - Whether to back up the segments, where the vectors are.
      - With V(false) a warning tells how many records would lose their vectors in a restore.
    type: bool
    default: true
  include:
    description:
      - Other files or directories that belong to the database, relative to the persist directory.
      - With O(container), a path that begins with V(/), as V(/config.yaml), is taken from anywhere in the container; it
        is restored below the persist directory.
      - Regular files and directories are taken; links and special files are left out with a warning.
    type: list
    elements: str
    default: []
  retries:
    description:
      - How often to take the lock again when a segment was not whole within a moment, as when a large one was just
        being written.
    type: int
    default: 10
  drill_image:
    description: The image that a drill of this job runs Chroma from, as V(chromadb/chroma:1.5.9).
    type: str
  drill_command:
    description: The program C(chroma) that a drill of this job runs instead, when it is not on the E(PATH).
    type: str
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
  - module: embedded.db_backup.sqlite_backup
    description: For any other SQLite database.
  - module: embedded.db_backup.backup_verify
  - module: embedded.db_backup.backup_restore
  - module: embedded.db_backup.backup_info
"""

EXAMPLES = r"""
- name: Back up the Chroma in a container, wherever its data is
  embedded.db_backup.chroma_sqlite_backup:
    name: memories
    container: chroma
    include:
      - /config.yaml

- name: Back up a persist directory of this host
  embedded.db_backup.chroma_sqlite_backup:
    name: memories
    path: /srv/chroma
    min_age_hours: 20
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
      sample: {name: chroma, version: "schema 2.6.10"}
    source:
      description: What was backed up.
      type: dict
      contains:
        path:
          description: The persist directory; with O(container) as it is named there.
          type: str
          sample: /srv/chroma
        size:
          description: Bytes of all files that were stored.
          type: int
          sample: 104857600
        position:
          description: The number of the last operation.
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
        include_segments:
          description: That of O(include_segments).
          type: bool
          sample: true
        segments:
          description: The directories of segments, like RV(backup.source.include).
          type: list
          elements: dict
        collections:
          description:
            - One entry per collection. C(queued) of its operations are in C(chroma.sqlite3) only.
            - C(segment) tells whether its vectors were ever written to a directory, how many elements that has, and the
              last operation in it.
          type: list
          elements: dict
          sample:
            - tenant: default_tenant
              database: default_database
              name: notes
              id: a828d7b5-bbc0-4f08-ac62-1e000f4247db
              dimension: 384
              records: 20000
              queued: 17
              segment:
                id: 461a7568-6cae-4dcc-baa8-88c3d5fb2043
                persisted: true
                elements: 20100
                deleted: 100
                max_seq_id: 20983
        tenants:
          description: Names of all tenants.
          type: list
          elements: str
          sample: [default_tenant]
        databases:
          description: Tenant and name of all databases.
          type: list
          elements: str
          sample: [default_tenant/default_database]
        migrations:
          description: Version of each part of the schema. Chroma writes its own version nowhere.
          type: dict
          sample: {embeddings_queue: 2, metadb: 6, sysdb: 10}
        retries:
          description: How often the lock was taken again.
          type: int
          sample: 0
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
            "path": {"type": "path"},
            "container": {"type": "str"},
            "docker_host": {"type": "str"},
            "include_segments": {"type": "bool", "default": True},
            "include": {"type": "list", "elements": "str", "default": []},
            "lock_timeout": {"type": "int", "default": 30},
            "retries": {"type": "int", "default": 10},
            "timeout": {"type": "int", "default": 60},
            "drill_image": {"type": "str"},
            "drill_command": {"type": "str"},
            **BACKUP_ARGUMENTS,
        },
        required_one_of=[("path", "container")],
        required_by={"docker_host": ["container"]},
        supports_check_mode=True,
    )
    finish(module, lambda: run_backup(module, "chroma"))


if __name__ == "__main__":
    main()
