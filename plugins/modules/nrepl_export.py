#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nrepl_export
short_description: Back up what a Clojure application exports over nREPL, proven whole
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Has a running application with an nREPL server export its data as EDN, and takes it into the repository. The
    application goes on meanwhile; on Node.js, which has one thread, it waits.
  - Datahike, DataScript and Datalevin are known by name. Of them one consistent snapshot is exported, with values that
    EDN has no form for as tagged literals, and all datoms are counted on both sides.
  - An export counts only when the server says that it is done and nothing says that it failed, when its SHA-256 here is
    the one that the server tells, and when it is EDN from its beginning to its end, with nothing marked as left out or
    unreadable. This is so whatever O(verify) says.
options:
  function:
    description:
      - Fully qualified name of a function that writes an export to the file whose path is its only argument, as
        V(my.app/export-to-file!). On a JVM its namespace is loaded where it is not.
      - Give exactly one of O(function), O(expression), and O(database) with O(connection).
    type: str
  expression:
    description:
      - One form whose value is the export. A text is taken as it is, anything else is printed as EDN.
      - It may hold secrets. It is not written into the manifest, and Ansible hides it in the results, unless it has
        less than 8 characters.
    type: str
  database:
    description: The kind of the database that O(connection) is to.
    type: str
    choices: [datascript, datahike, datalevin]
  connection:
    description: Fully qualified name of the var that holds the connection of O(database), as V(my.app/conn).
    type: str
  content:
    description:
      - What of O(database) is exported. V(snapshot) is the schema and all datoms, and what can be restored.
      - V(datoms) are the datoms alone. V(entities) are maps, one for each entity.
      - V(tx_log), of DataScript only, is a V(snapshot) first, and then in each run the transactions since the last good
        backup, as an increment to that one. Any transaction between two backups can be restored. It needs a listener of
        ours in the application, see O(install_listener). Where the listener does not have all that was committed since
        the last good backup, a full backup is made again, and a warning tells why.
    type: str
    choices: [snapshot, datoms, entities, tx_log]
    default: snapshot
  install_listener:
    description:
      - For O(content=tx_log). Whether to install the listener in the application where there is none, as after each of
        its starts. It is the one thing that this module ever changes there, and a warning says so.
      - Without it the run fails when there is none.
    type: bool
    default: false
  listener_limit:
    description: How many datoms the listener keeps for the next backup at most, in the memory of the application. When
      there are more, the oldest transactions are dropped, and the next backup is a full one.
    type: int
    default: 1000000
  full_every:
    description: Of how many backups of O(content=tx_log) one is a full one, whatever the others could build on. V(1) is
      never an increment.
    type: int
    default: 24
  way:
    description:
      - How the export comes here. V(pull) fetches it in pieces over the connection while the server prints it; a
        O(function) writes it to a temporary file of the server first. It needs a server on a JVM.
      - V(file) has the server write it below O(directory), which must be the same directory for both.
      - V(value) takes it as one value, which both sides have in their memory.
      - V(auto) is V(pull) on a JVM, else V(file) for a O(function) and V(value) for the others.
    type: str
    choices: [auto, pull, file, value]
    default: auto
  directory:
    description: Where the server writes the file of O(way=file), in a directory that is made for it and removed.
      Without it, the directory for temporary files of this host.
    type: path
  min_records:
    description: Fail when the export has fewer records, see C(records) in the results.
    type: int
    default: 1
  timeout:
    description: Seconds that the whole export may take, from connecting to its last byte.
    type: int
    default: 3600
  also_to:
    description:
      - Tables beside the repository that get a row for each backup, once it is published, with C(name), which is
        JOB/ID, C(data), the text of the export, C(created_at) and C(sha256). A table is made where it is missing.
      - When one does not take it the run fails, and the backup stays published. What was skipped is not stored.
      - An export of more than 1,000,000,000 bytes is refused. All of it is in memory meanwhile.
      - M(embedded.db_backup.backup_restore) restores from there.
    type: list
    elements: dict
    default: []
    suboptions:
      sqlite:
        description: Absolute path of an SQLite database, made where it is missing. Give it or O(also_to[].postgresql).
        type: path
      postgresql:
        description:
          - Connection string of a PostgreSQL database, as V(service=backups) or V(postgresql://writer@db1/backups).
            With a service or a password file it needs no password.
          - Needs the Python library psycopg 3 on the target.
        type: str
      table:
        description: Name of the table, of 1 to 63 letters, digits and C(_) of ASCII.
        type: str
        default: db_backup
      keep_last:
        description: Remove older rows of the job when there are more than so many. V(0) keeps all.
        type: int
        default: 0
extends_documentation_fragment:
  - embedded.db_backup.nrepl
  - embedded.db_backup.backup
  - embedded.db_backup.retention
  - embedded.db_backup.repository
  - embedded.db_backup.attributes
seealso:
  - module: embedded.db_backup.nrepl_eval
  - module: embedded.db_backup.lmdb_backup
    description: For the files of Datalevin see what is told of LMDB.
  - module: embedded.db_backup.backup_verify
  - module: embedded.db_backup.backup_restore
  - module: embedded.db_backup.backup_info
"""

EXAMPLES = r"""
- name: Back up with the export function of an application
  embedded.db_backup.nrepl_export:
    name: kg
    port: 7888
    function: my.app/export-to-file!

- name: Back up a DataScript database, which must not be nearly empty
  embedded.db_backup.nrepl_export:
    name: notes
    port_file: /srv/notes/.nrepl-port
    database: datascript
    connection: notes.db/conn
    min_records: 1000
    skip_unchanged: true
    keep_daily: 7

- name: Have each export in an SQLite database too
  embedded.db_backup.nrepl_export:
    name: notes
    port_file: /srv/notes/.nrepl-port
    database: datascript
    connection: notes.db/conn
    also_to:
      - sqlite: /srv/notes/snapshots.sqlite3
        keep_last: 10

- name: Back up each transaction of a DataScript database, and be able to go back to any of them
  embedded.db_backup.nrepl_export:
    name: notes
    port_file: /srv/notes/.nrepl-port
    database: datascript
    connection: notes.db/conn
    content: tx_log
    install_listener: true
    keep_within: 30d
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
      sample: {name: nrepl, version: 1.3.0}
    source:
      description: What was backed up.
      type: dict
      contains:
        path:
          description: Where it was exported from, and what. It stays the same when a server gets another port that is
            in O(port_file).
          type: str
          sample: nrepl://127.0.0.1:7888/my.app/conn
        size:
          description: Bytes of the export.
          type: int
          sample: 104857600
        position:
          description: Of a database the last transaction, with a fingerprint of this run of the application and of the
            connection. Of an increment also the one that it continues, as C(start). Null for others.
          returned: success, outside of check mode
          type: dict
        system_id:
          description: Always null.
          returned: success, outside of check mode
          type: str
        way:
          description: V(pull), V(file) or V(value).
          type: str
          sample: pull
        content:
          description: As in O(content).
          type: str
          sample: snapshot
        versions:
          description: What the server tells of its own versions.
          type: dict
          sample: {clojure: 1.12.0, java: 21.0.4, nrepl: 1.3.0}
        min_records:
          description: As in O(min_records).
          type: int
          sample: 1
        function:
          description: As in O(function), or null.
          type: str
          sample: my.app/export-to-file!
        expression_sha256:
          description: The SHA-256 of O(expression), or null. The expression itself is written nowhere.
          type: str
        database:
          description: As in O(database), or null.
          type: str
          sample: datascript
        connection:
          description: As in O(connection), or null.
          type: str
          sample: my.app/conn
        records:
          description: The number of datoms or entities of a database, or of transactions in an increment. Of anything
            else how many collections lie side by side in one collection of the two outer levels, or as the whole, where
            the most do. Null in check mode.
          type: int
          sample: 35477
    backup:
      description: How it was made, with C(type), C(method), C(consistency), C(online), C(copied_by), C(prior) and
        C(reference).
      returned: success, outside of check mode
      type: dict
      sample: {type: full, method: pull, consistency: logical, online: true, copied_by: "clojure 1.12.0",
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
also_in:
  description: The stores of O(also_to) that have the backup too.
  returned: success, when there are any
  type: list
  elements: str
  sample: [table db_backup of /srv/notes/snapshots.sqlite3]
exit_code:
  description: The exit code of the command C(dbbackup) for the same failure. V(2) for options that make no sense, V(10)
    when there is no such job or backup, V(11) when another run holds the job, V(1) for anything else, as a server that
    does not answer.
  returned: failure
  type: int
  sample: 11
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import (
    BACKUP_ARGUMENTS,
    NREPL_ARGUMENTS,
    finish,
    run_backup,
    show_short_code,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "function": {"type": "str"},
            "expression": {"type": "str", "no_log": True},
            "database": {"type": "str", "choices": ["datascript", "datahike", "datalevin"]},
            "connection": {"type": "str"},
            "content": {
                "type": "str",
                "default": "snapshot",
                "choices": ["snapshot", "datoms", "entities", "tx_log"],
            },
            "way": {"type": "str", "default": "auto", "choices": ["auto", "pull", "file", "value"]},
            "directory": {"type": "path"},
            "install_listener": {"type": "bool", "default": False},
            "listener_limit": {"type": "int", "default": 1000000},
            "full_every": {"type": "int", "default": 24},
            "min_records": {"type": "int", "default": 1},
            "timeout": {"type": "int", "default": 3600},
            "also_to": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "sqlite": {"type": "path"},
                    "postgresql": {"type": "str", "no_log": True},
                    "table": {"type": "str", "default": "db_backup"},
                    "keep_last": {"type": "int", "default": 0},
                },
            },
            **NREPL_ARGUMENTS,
            **BACKUP_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    show_short_code(module, "expression")
    finish(module, lambda: run_backup(module, "nrepl"))


if __name__ == "__main__":
    main()
