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
  - Stop the application first, or name its O(service) or O(container). A destination that an application has open is
    refused.
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
      - It is that of the newest good backup that began then or before; where increments follow that one, with what they
        have up to this moment.
      - Not together with O(id) or O(position).
    type: str
  position:
    description:
      - The state of this position in the history of the database, as C(position) in the C(source) of RV(backup) tells
        it, of the newest good backup that holds it. Any position of an increment can be restored, of a full backup only
        its own.
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
      - URL that must answer with status 200 within a minute after the start of O(container) or O(service). Without it,
        a Chroma server in a container is asked for its own heartbeat; anything else must just stay up.
    type: str
  service:
    description:
      - Name of the service of systemd that is the application, treated as a O(container) is. It is one of the target
        for root, else one of the user.
    type: str
  health:
    description: A program with its arguments that must end with 0 within a minute after the start of O(container) or
      O(service). It is called without a shell.
    type: list
    elements: str
    default: []
  library:
    description: What opens a copy of Datalevin that was never opened before, as
      O(embedded.db_backup.lmdb_backup#module:library) says.
    type: path
  timeout:
    description: Seconds without a sign of life after which the process is ended that reads a copy which was never
      opened before.
    type: int
    default: 60
  connection:
    description:
      - Fully qualified name of the var with the connection of a live database, as V(my.app/conn), in the server that
        O(port), O(socket) or O(port_file) name. A snapshot, or a log of transactions, that
        M(embedded.db_backup.nrepl_export) made of a database that it knows is loaded into it, instead of being
        written to files.
      - Nothing there changes until all has arrived, has the SHA-256 of the backup, was read, and every datom was
        compared. Then it changes as a whole. A database that is not empty is refused, unless it already holds just what
        the backup holds.
      - DataScript keeps the numbers of entities and transactions, and takes the schema of the backup. With O(force)
        what is there is replaced, and stays in the var C(embedded.db-backup/replaced) until the next time or the end of
        the server. Listeners are not called.
      - Datalevin keeps the numbers of entities and gives transactions new ones. The schema of the backup is added to
        that which is there. O(force) is refused; have the application use a new database.
      - Datahike keeps the numbers of entities and transactions, and the times of transactions where it keeps history.
        What was no longer true at the time of the backup is not in it. O(force) is refused as for Datalevin.
    type: str
  import_function:
    description:
      - Instead of O(connection), the fully qualified name of a function of the application, as
        V(my.app/import-from-file!). It is called with the path of a temporary file of the server that holds the export,
        and has to be done with it when it returns.
      - What it does with a database that is not empty is its own affair.
    type: str
  load_timeout:
    description: Seconds that all which concerns the server of O(connection) or O(import_function) may take.
    type: int
    default: 3600
  from:
    description: A table that the option O(embedded.db_backup.nrepl_export#module:also_to) of the job has filled. The
      backup is taken from there, not from the repository, with the row of O(id) or else the newest row of the job.
    type: dict
    suboptions:
      sqlite:
        description: Absolute path of the SQLite database. Give it or O(from.postgresql).
        type: path
      postgresql:
        description: Connection string of the PostgreSQL database, as V(service=backups).
        type: str
      table:
        description: Name of the table.
        type: str
        default: db_backup
extends_documentation_fragment:
  - embedded.db_backup.nrepl
  - embedded.db_backup.repository
  - embedded.db_backup.attributes
seealso:
  - module: embedded.db_backup.nrepl_export
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

- name: Load the newest export back into the running application, whose database must be empty
  embedded.db_backup.backup_restore:
    name: notes
    port_file: /srv/notes/.nrepl-port
    connection: notes.db/conn

- name: Get an export back from a table
  embedded.db_backup.backup_restore:
    name: notes
    from:
      postgresql: service=backups
    dest: /srv/notes.edn
"""

RETURN = r"""
dest:
  description: Where it was restored to, a path, or what names the server and what in it.
  returned: success
  type: str
  sample: /srv/kg
files:
  description: Paths of what was restored.
  returned: success, of a restore to files
  type: list
  elements: str
  sample: [/srv/kg/data.mdb]
aside:
  description: Paths under which what was there before is kept. Remove them when they are no longer needed.
  returned: success, of a restore to files
  type: list
  elements: str
  sample: [/srv/kg/data.mdb.before-restore-20261121T091500Z]
position:
  description: Where in the history of the database the restored state is; null where that is not known.
  returned: success, of a restore to files
  type: int
  sample: 536870921
map_sizes:
  description: For each restored environment the map size in bytes that the application needs at least.
  returned: success, of a restore to files
  type: dict
  sample: {data.mdb: 10737418240}
before:
  description: What the live database held before, with the number of C(datoms) and its last transaction, C(basis). Null
    when a function loads it.
  returned: success, of a restore to a live application
  type: dict
  sample: {datoms: 0, basis: 536870912}
after:
  description: The same of the live database afterwards. In check mode that of the backup, where for a log of
    transactions the number of datoms is null.
  returned: success, of a restore to a live application
  type: dict
  sample: {datoms: 600000, basis: 536876912}
replaced:
  description: Name of the var in the server that has what was replaced.
  returned: success, of a restore to a live application
  type: str
  sample: embedded.db-backup/replaced
undo:
  description: Commands of a shell that bring back what was there before; none where there was nothing.
  returned: success, of a restore to files
  type: list
  elements: str
  sample: [mv -T /srv/kg/data.mdb.before-restore-20261121T091500Z /srv/kg/data.mdb]
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

import contextlib
from pathlib import Path
from typing import Any, ContextManager, Dict, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import (
    NREPL_ARGUMENTS,
    REPOSITORY_ARGUMENTS,
    essence,
    finish,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers.container import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import repository_at
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl import address as servers
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import load as loading
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import Point
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.fetch import fetched
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.restore import restore
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import JobDirectory
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.base import Tools
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stores.table import Store

FOR_FILES = ("dest", "owner", "group", "mode", "container", "docker_host", "service", "heartbeat", "health")


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
            "service": {"type": "str"},
            "heartbeat": {"type": "str"},
            "health": {"type": "list", "elements": "str", "default": []},
            "library": {"type": "path"},
            "timeout": {"type": "int", "default": 60},
            "connection": {"type": "str"},
            "import_function": {"type": "str"},
            "load_timeout": {"type": "int", "default": 3600},
            "from": {
                "type": "dict",
                "options": {
                    "sqlite": {"type": "path"},
                    "postgresql": {"type": "str", "no_log": True},
                    "table": {"type": "str", "default": "db_backup"},
                },
            },
            **NREPL_ARGUMENTS,
            **REPOSITORY_ARGUMENTS,
        },
        mutually_exclusive=[("id", "at"), ("at", "position"), ("service", "container")],
        supports_check_mode=True,
    )
    finish(module, lambda: run(module))


def run(module: AnsibleModule) -> Dict[str, Any]:
    params = module.params
    with job_with_backup(params) as job:
        if params["connection"] is not None or params["import_function"] is not None:
            return load(module, job)
        given = [name for name in NREPL_ARGUMENTS if params[name] is not None]
        if given:
            raise UsageError(f"{given[0]}: is of a server to load into; name connection or import_function too")
        return restore_files(module, job)


def job_with_backup(params: Dict[str, Any]) -> ContextManager[JobDirectory]:
    """The job in the repository, or one that has but the backup from a store."""
    job = repository_at(params["repository"]).job(params["name"])
    return fetched(Store(**params["from"]), job.name, params["id"]) if params["from"] else contextlib.nullcontext(job)


def load(module: AnsibleModule, job: JobDirectory) -> Dict[str, Any]:
    params = module.params
    for name in FOR_FILES:
        if params[name]:
            raise UsageError(f"{name}: is for restoring files, not for loading into an application")
    request = loading.Request(
        address=servers.Address(**{name: params[name] for name in NREPL_ARGUMENTS}),
        connection=params["connection"],
        import_function=params["import_function"],
        force=params["force"],
        timeout=params["load_timeout"],
        silence=params["timeout"],
    )
    result = loading.load(job, point(params), request, module.check_mode).to_json()
    if module._diff:
        after = {**essence(result["backup"]), "dest": result["dest"], **(result["after"] or {})}
        result["diff"] = {"before": {"dest": result["dest"], **(result["before"] or {})}, "after": after}
    return result


def restore_files(module: AnsibleModule, job: JobDirectory) -> Dict[str, Any]:
    params = module.params
    request = Request(
        destination=Path(params["dest"]) if params["dest"] else None,
        force=params["force"],
        owner=params["owner"],
        group=params["group"],
        mode=mode_bits(params["mode"]),
        container=Address(params["container"], params["docker_host"]) if params["container"] else None,
        service=params["service"],
        heartbeat=params["heartbeat"],
        health=params["health"],
        tools=Tools(timeout=params["timeout"], library=params["library"]),
        describe=module._diff,
    )
    restored = restore(job, point(params), request, module.check_mode)
    result = restored.to_json()
    if restored.changed and module._diff:
        after = {**essence(restored.backup), **restored.difference.after}
        result["diff"] = {"before": restored.difference.before, "after": after}
    return result


def point(params: Dict[str, Any]) -> Point:
    """Which backup, with the time as a person writes it."""
    try:
        at = times.from_person(params["at"]) if params["at"] else None
        return Point(params["id"], at, params["position"])
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
