#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_restore
short_description: Restore a backup, keeping what was there
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Unpacks a backup beside its destination and compares all checksums before anything at the destination changes. Then
    what is there is kept aside, the restored files are renamed into place, and a stale lock file is removed. Any
    failure undoes every step.
  - When the destination already holds just what the backup holds, only O(owner), O(group) and O(mode) are applied.
  - New directories get the owner of the files in them and their mode, with the right to search where there is the right
    to read, so that V('0640') becomes V('0750'). Directories that are there stay as they are.
  - Stop the application first, or name its O(container). A destination that an application has open is refused.
options:
  name:
    description: Name of the job.
    type: str
    required: true
  id:
    description: Which backup. Without it the newest good one.
    type: str
  at:
    description:
      - The state of this moment, as V(2026-11-21 01:30), V(2026-11-21), the end of that day, or
        V(2026-11-21T01:30:00Z). Without a timezone, in that of the target.
      - It is that of the newest good backup that began then or before; where there is an increment to that one, with
        what was committed up to this moment.
      - Not together with O(id) or O(position).
    type: str
  position:
    description:
      - The state of this position in the history of the database, as C(position) of a manifest tells it, of the newest
        good backup that holds it. Any position of an increment can be restored, of a full backup only its own.
      - With O(id), as that backup and those that it builds on hold it.
    type: int
  dest:
    description:
      - Where to restore to, a directory, or a file for a single-file environment. Without it, to where the backup
        came from.
    type: path
  force:
    description: Replace what is at the destination. It is kept aside beside it.
    type: bool
    default: false
  owner:
    description: User, by name or number, to own what is restored. Without it, as in the backup if run as root.
    type: str
  group:
    description: Group, by name or number, of what is restored. Without it, as in the backup if run as root.
    type: str
  mode:
    description: Mode of the restored database files, as V('0640'). Without it, as in the backup.
    type: raw
  container:
    description:
      - Name or id of the container of the application. It is stopped when the restored files are ready, and started
        again when they are in place, if it was running before. Should it not come up then, all is undone and it is
        started with the old files. It is started again also when the restore is killed.
      - Without O(dest), a backup of a container goes to its volume or bind mount, a backup of a directory to that.
      - Needs the Python library C(docker) on the target.
    type: str
  docker_host:
    description: Address of the Docker engine, as V(unix:///var/run/docker.sock). Without it, the one of the variable
      E(DOCKER_HOST), else that of this host.
    type: str
  heartbeat:
    description:
      - URL that must answer with status 200 within a minute after the start of O(container). Without it, a Chroma
        server is asked for its own heartbeat; any other container must just stay up.
    type: str
  timeout:
    description: Seconds without a sign of life after which the process is ended that reads a copy which was never
      opened before.
    type: int
    default: 60
extends_documentation_fragment:
  - embedded.db_backup.repository
  - embedded.db_backup.attributes
seealso:
  - module: embedded.db_backup.backup_info
  - module: embedded.db_backup.backup_verify
"""

EXAMPLES = r"""
- name: Restore the newest good backup to another place
  embedded.db_backup.backup_restore:
    name: kg
    dest: /srv/kg-restored

- name: Go back to a backup in place
  embedded.db_backup.backup_restore:
    name: kg
    id: 20261121T013000Z
    force: true

- name: Restore into the volume of a Chroma server, which is stopped meanwhile and must answer afterwards
  embedded.db_backup.backup_restore:
    name: vectors
    container: chroma
    force: true
"""

RETURN = r"""
dest:
  description: Where it was restored to.
  returned: success
  type: str
  sample: /srv/kg
files:
  description: Paths of what was restored.
  returned: success
  type: list
  elements: str
  sample: [/srv/kg/data.mdb]
aside:
  description: Paths under which what was there before is kept. Remove them when they are no longer needed.
  returned: success
  type: list
  elements: str
  sample: [/srv/kg/data.mdb.before-restore-20261121T091500Z]
position:
  description: Where in the history of the database the restored state is; null where that is not known.
  returned: success
  type: int
  sample: 536870921
map_sizes:
  description: For each restored environment the map size in bytes that the application needs at least.
  returned: success
  type: dict
  sample: {data.mdb: 10737418240}
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

import datetime
from pathlib import Path
from typing import Any, Dict, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import REPOSITORY_ARGUMENTS, essence, finish
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers.container import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import repository_at
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.restore import Request, restore


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "id": {"type": "str"},
            "at": {"type": "str"},
            "position": {"type": "int"},
            "dest": {"type": "path"},
            "force": {"type": "bool", "default": False},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "mode": {"type": "raw"},
            "container": {"type": "str"},
            "docker_host": {"type": "str"},
            "heartbeat": {"type": "str"},
            "timeout": {"type": "int", "default": 60},
            **REPOSITORY_ARGUMENTS,
        },
        mutually_exclusive=[("id", "at"), ("at", "position")],
        supports_check_mode=True,
    )
    finish(module, lambda: run(module))


def run(module: AnsibleModule) -> Dict[str, Any]:
    params = module.params
    request = Request(
        destination=Path(params["dest"]) if params["dest"] else None,
        force=params["force"],
        owner=params["owner"],
        group=params["group"],
        mode=mode_bits(params["mode"]),
        container=Address(params["container"], params["docker_host"]) if params["container"] else None,
        heartbeat=params["heartbeat"],
        timeout=params["timeout"],
        describe=module._diff,
    )
    job = repository_at(params["repository"]).job(params["name"])
    at = moment(params["at"])
    restored = restore(job, params["id"], request, module.check_mode, at=at, position=params["position"])
    result = restored.to_json()
    if restored.changed and module._diff:
        after = {**essence(restored.backup), **restored.difference.after}
        result["diff"] = {"before": restored.difference.before, "after": after}
    return result


def moment(text: Optional[str]) -> Optional[datetime.datetime]:
    """As a person writes it."""
    try:
        return times.from_person(text) if text else None
    except ValueError as error:
        raise UsageError(f"at: {error}") from None


def mode_bits(mode: Any) -> Optional[int]:
    """Octal digits as text, or the number that YAML made of them."""
    if mode is None or (isinstance(mode, int) and not isinstance(mode, bool)):
        return mode
    try:
        return int(str(mode), 8)
    except ValueError:
        raise UsageError(f"mode {mode!r} is not octal, as '0640' is") from None


if __name__ == "__main__":
    main()
