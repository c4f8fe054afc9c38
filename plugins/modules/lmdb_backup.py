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
  - Environments of LMDB 0.9 and of heed (mdb.master) are backed up, those of LMDB 1.0 where py-lmdb 3 is installed, and
    those of Datalevin (DLMDB) with its O(library), or by the process that has them open, over its nREPL server. What
    Datalevin keeps beside C(data.mdb), as C(VERSION), is included.
options:
  path:
    description:
      - An environment directory, a single data file (C(MDB_NOSUBDIR)), or a directory below which environments are
        discovered, that is every directory with a C(data.mdb). Hidden directories and links are passed over;
        environments there are told in warnings.
      - It is on the target or, with O(container), in the container.
      - Each environment is consistent in itself; several are copied one after the other, unless O(method) holds them
        still together.
    type: path
    required: true
  container:
    description:
      - Name or id of the running container that the application is in. Nothing is executed in it. Its files are reached
        through its volumes, or the root of its file system, from the host of its Docker engine.
      - With V(freeze) as O(method) it is paused for a moment, with V(cold) stopped and started again, which takes a
        volume. Where its files can only be had of its engine, as one on another host, it is paused while they are
        copied, if O(freeze_timeout) or V(freeze) allow that.
      - An application in a container can also be backed up by its O(path) on this host, without this option.
    type: str
  docker_host:
    description:
      - Address of the Docker engine of O(container), as C(unix:///run/user/1000/docker.sock).
      - Without it, the environment variable E(DOCKER_HOST), else the socket of this host.
    type: str
  method:
    description:
      - How the copy is made. V(hot) is a read transaction.
      - V(optimistic) reads the file without any lock, accepts the copy only if no commit can have touched it, and else
        tries again, a few times. It is for applications whose lock file no library here understands, as those of heed,
        or may use, as those of another C library and those in another container that cannot be seen from here. It fails
        while one commits without a pause. Its copies are always opened and read whole.
      - V(nrepl) has Datalevin make the copy itself, in the process that has the database open and whose nREPL server is
        told by O(port), O(socket) or O(port_file). Without a O(library) nothing here can open the copy, which the
        manifest and a warning tell; its checksums are compared.
      - V(freeze) copies while the application runs, has it stand still for a moment to copy what has changed since, and
        lets it go on, at the latest after O(freeze_timeout), also when the backup is killed. Without O(service) and
        O(container), what stands still are all processes that have the files open.
      - V(cold) does the same with O(service) or O(container) stopped, and started again.
      - V(snapshot) takes a reflink where the repository is on the same XFS or btrfs, else a snapshot of btrfs, LVM or
        ZFS. The paths of LVM and ZFS ran only against recorded commands so far. Snapshots, unlike reflinks, need rights
        to mount, which the service of a timer does not have.
      - With V(freeze), V(cold) and V(snapshot) all environments and O(include) are as of one point in time.
      - V(auto) chooses V(hot) where a library here can take part in the locking, V(nrepl) for Datalevin without a
        O(library) where a server is told, else a reflink of each environment where the repository is on the same XFS or
        btrfs and no O(container) is named, else V(optimistic), and V(freeze) where that fails and O(freeze_timeout) is
        given. A reader that gives no sign of life for O(timeout) is ended, and V(optimistic) tried.
    type: str
    choices: [auto, hot, optimistic, nrepl, freeze, cold, snapshot]
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
  service:
    description: Name of the service of systemd that is the application, for V(freeze) and V(cold) as O(method).
    type: str
  freeze_timeout:
    description:
      - Seconds that the application may stand still at most, 0.1 to 60. It goes on then, and the backup fails.
      - Without it V(auto) as O(method) never freezes; V(freeze) takes 10.
    type: float
  library:
    description:
      - A shared library of a fork of LMDB, which copies and reads what the library of this host cannot, given as
        C(libdtlv.so) or another C(.so), or as the jar, the uberjar or the wheel of Datalevin that brings it.
      - It is loaded in a child process that runs as the owner of the data, and is refused when others than root and the
        user who runs the backup could have written it.
    type: path
  connection:
    description:
      - Fully qualified name of the var that holds the Datalog connection or the key-value database, as V(my.app/conn).
      - Without it the open database is looked up by its O(path) in the process, which Datalevin 1.2 can do.
    type: str
  directory:
    description:
      - Where the process of O(port), O(socket) or O(port_file) puts its copy, which is gone at the end of the run. It
        must be the same directory for the process and the backup, with room for the whole database, and not be in
        O(path). Without it, the directory for temporary files.
    type: path
  timeout:
    description:
      - Seconds without a sign of life after which the child process is ended and the backup fails.
      - A copy that is not O(compact) begins when the write transaction under way has ended; allow for the longest.
      - With V(nrepl) as O(method), seconds for which the copy of the server may not grow.
    type: int
    default: 60
requirements:
  - On the target the Python library C(lmdb), or the programs of C(lmdb-utils).
  - For O(container) the Python library C(docker).
extends_documentation_fragment:
  - embedded.db_backup.nrepl
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

- name: Back up Datalevin
  embedded.db_backup.lmdb_backup:
    name: facts
    path: /srv/facts
    library: /opt/app/app-standalone.jar

- name: Back up Datalevin through the process that has it open, where its library is not at hand
  embedded.db_backup.lmdb_backup:
    name: facts
    path: /srv/facts
    port_file: /srv/app/.nrepl-port
    directory: /srv/app/exchange

- name: Back up the environment that an application in a container has on a volume
  embedded.db_backup.lmdb_backup:
    name: kg
    container: kg
    path: /data

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
      sample: {name: lmdb, version: "0.9"}
    source:
      description: What was backed up.
      type: dict
      contains:
        path:
          description: The path that was given.
          type: str
          sample: /srv/kg
        size:
          description: Bytes of all files that were stored.
          type: int
          sample: 104857600
        position:
          description: That of the only environment; null where there are several.
          returned: success, outside of check mode
          type: dict
        system_id:
          description: Always null for LMDB.
          returned: success, outside of check mode
          type: str
        single_file:
          description: Whether it is one data file without a directory of its own.
          type: bool
          sample: false
        point_in_time:
          description: V(one) when all environments and included files are as of one point in time; V(each) when each
            is as of its own, in the order in which they are listed, the included files last.
          type: str
          sample: each
        paused_ms:
          description: For how many milliseconds the application stood still; null when it did not.
          type: int
          sample: 140
        snapshot:
          description: Which way V(snapshot) as O(method) took, V(reflink), V(btrfs), V(lvm) or V(zfs); null for other
            methods.
          type: str
          sample: reflink
        container:
          description: Name, ids, image and names of environment variables of the container, the C(directory) there, the
            C(way) to its files, V(volume), V(merged), V(process) or V(archive), and as C(paused_ms) for how many
            milliseconds it was paused for an archive. Null without a container.
          type: dict
        include:
          description: For each path of O(include) its C(path), its number of C(files) and C(directories), their
            C(size) in bytes,
            and a C(fingerprint) of all names, sizes and times.
          type: list
          elements: dict
        environments:
          description: One entry per environment.
          type: list
          elements: dict
          contains:
            path:
              description: The data file, relative to the source.
              type: str
              sample: data.mdb
            data_version:
              description: Version of the form of the data file.
              type: int
              sample: 1
            lock_version:
              description: Version of the form of the lock file; null where there is none.
              type: int
              sample: 1
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
                The
                C(kind) is V(txnid), the C(fingerprint) that of the meta page.
              type: dict
            method:
              description:
                - How it was copied, V(hot), V(optimistic), V(nrepl), V(reflink), V(freeze), V(cold) or V(snapshot).
              type: str
              sample: hot
            reason:
              description: Why it was not copied out of a read transaction of this host; null where it was.
              type: str
              sample: method is freeze
            tries:
              description: How often it was copied until no commit could have touched the copy.
              type: int
              sample: 1
            databases:
              description: Name and number of entries of each database; the name of the main one is null.
              type: list
              elements: dict
              sample: [{name: null, entries: 1}, {name: nodes, entries: 20000}]
    backup:
      description: How it was made, with C(type), C(method), C(consistency), C(online), C(copied_by), C(prior) and
        C(reference).
      returned: success, outside of check mode
      type: dict
      sample: {type: full, method: hot, consistency: transaction, online: true, copied_by: "py-lmdb 1.6.2 (LMDB
        0.9.33)",
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
      description: What was verified before it was published; null where nothing was. C(opened) is false when nothing on
        this host can open it.
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
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import (
    BACKUP_ARGUMENTS,
    NREPL_ARGUMENTS,
    finish,
    run_backup,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "method": {
                "type": "str",
                "default": "auto",
                "choices": ["auto", "hot", "optimistic", "nrepl", "freeze", "cold", "snapshot"],
            },
            "compact": {"type": "bool", "default": False},
            "include": {"type": "list", "elements": "str", "default": []},
            "container": {"type": "str"},
            "docker_host": {"type": "str"},
            "service": {"type": "str"},
            "freeze_timeout": {"type": "float"},
            "library": {"type": "path"},
            "connection": {"type": "str"},
            "directory": {"type": "path"},
            "timeout": {"type": "int", "default": 60},
            **NREPL_ARGUMENTS,
            **BACKUP_ARGUMENTS,
        },
        mutually_exclusive=[("container", "service")],
        required_by={"docker_host": ["container"]},
        supports_check_mode=True,
    )
    finish(module, lambda: run_backup(module, "lmdb"))


if __name__ == "__main__":
    main()
