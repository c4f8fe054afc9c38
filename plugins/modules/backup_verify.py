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
  drill:
    description:
      - Restore the backup into a private directory of the repository, as if the data were lost, and open it there with
        the real engine, which for Chroma is a server started on the copy.
      - Needs room for one uncompressed copy. The result is remembered as the last drill.
    type: bool
    default: false
  drill_image:
    description:
      - Image of the server to hold the drill with, for databases that have one. It must be on the target already,
        nothing is pulled. Its container gets no way out of the host and answers on the loopback interface only.
    type: str
  drill_command:
    description: Program of the server to hold the drill with, when there is no O(drill_image). Without both, it is
      searched for on the PATH.
    type: str
  docker_host:
    description: Address of the Docker engine for O(drill_image). Without it, the one of the variable E(DOCKER_HOST),
      else that of this host.
    type: str
  library:
    description: What opens copies of Datalevin, as O(embedded.db_backup.lmdb_backup#module:library) says.
    type: path
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

- name: Prove once a week that the backups of Chroma can be restored
  embedded.db_backup.backup_verify:
    name: vectors
    drill: true
    drill_image: chromadb/chroma:1.5.9

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
proven:
  description: What a drill has proven, a sentence per entry.
  returned: with O(drill)
  type: list
  elements: str
  sample: [opened and read whole by its engine]
opened:
  description: Whether the engine has opened and read the copy. Where the target lacks it, only checksums are compared,
    with a warning.
  returned: success, without O(drill)
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
    job:
      description: Name of the job.
      type: str
      sample: kg
    status:
      description: V(complete).
      type: str
      sample: complete
    format:
      description: What kind of manifest it is.
      type: str
      sample: embedded.db_backup
    schema:
      description: Version of its form.
      type: int
      sample: 1
    tool:
      description: Name and version of what made the backup.
      type: dict
      sample: {name: embedded.db_backup, version: 0.1.0}
    host:
      description: The C(hostname) it was made on.
      type: dict
      sample: {hostname: web1}
    engine:
      description: Name and version of the kind of database.
      type: dict
      sample: {name: lmdb, version: "0.9"}
    source:
      description: What was backed up, with C(path), C(size) in bytes, C(position), and what only its engine knows.
      type: dict
    backup:
      description: How it was made, with C(type), C(method), C(consistency), C(online), C(copied_by), C(prior) and
        C(reference).
      type: dict
      sample: {type: full, method: hot, consistency: transaction, online: true, copied_by: "py-lmdb 1.6.2 (LMDB
        0.9.33)",
        prior: null, reference: []}
    timestamp_start:
      description: When it began.
      type: str
      sample: "2026-11-21T01:30:00.000Z"
    timestamp_copy_start:
      description: When the copy began.
      type: str
      sample: "2026-11-21T01:30:00.120Z"
    timestamp_stop:
      description: When all was written and verified.
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
      type: dict
      sample: {}
    restore_by_hand:
      description: Shell commands that restore it where this collection is not installed.
      type: list
      elements: str
      sample: ["cd /var/backups/db-backup/kg/20261121T013000Z", "sha256sum -c SHA256SUMS"]
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
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.drill import drill
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.verify import verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.base import Tools


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "id": {"type": "str"},
            "drill": {"type": "bool", "default": False},
            "drill_image": {"type": "str"},
            "drill_command": {"type": "str"},
            "docker_host": {"type": "str"},
            "library": {"type": "path"},
            "timeout": {"type": "int", "default": 60},
            **REPOSITORY_ARGUMENTS,
        },
        supports_check_mode=True,
    )

    def work() -> Dict[str, Any]:
        params, remember = module.params, not module.check_mode
        job = repository_at(params["repository"]).job(params["name"])
        tools = Tools(
            params["drill_image"],
            params["drill_command"],
            params["docker_host"],
            timeout=params["timeout"],
            library=params["library"],
        )
        if not params["drill"]:
            return verify(job, params["id"], remember=remember, tools=tools).to_json()
        return drill(job, params["id"], tools, remember=remember).to_json()

    finish(module, work)


if __name__ == "__main__":
    main()
