#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: files_backup
short_description: Back up a directory of any application, held still, proven restorable
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Copies a directory with all that is in it as of one point in time, compresses, verifies and publishes the copy in a
    repository. It is for applications whose files have to agree with each other, and for which there is no module.
  - The copy is one tar, in the pax format, that GNU tar unpacks by hand. Owners, groups, modes, times in nanoseconds,
    extended attributes of users, access lists, hard links, symbolic links and holes are kept.
  - The source is never changed.
options:
  path:
    description:
      - The directory. A link to one is followed, links in it are stored as links.
      - What is on another file system below it is left out with a warning, but for the directory it is mounted on,
        which comes back empty.
      - Sockets, pipes and devices are left out with a warning.
    type: path
    required: true
  method:
    description:
      - How the files are known to be as of one point in time.
      - V(optimistic) reads all of them, accepts the copy only if nothing has changed meanwhile, and else tries again,
        four times in all. It fails while the application writes without a pause.
      - V(freeze) copies while the application runs, has it stand still for a moment to copy what has changed since, and
        lets it go on, at the latest after O(freeze_timeout), also when the backup is killed. Without O(service) and
        O(container), what stands still are all processes that have the files open.
      - V(cold) does the same with O(service) or O(container) stopped, and started again.
      - V(snapshot) takes a reflink where the repository is on the same XFS or btrfs, else a snapshot of btrfs, LVM or
        ZFS. The paths of LVM and ZFS ran only against recorded commands so far. Snapshots, unlike reflinks, need rights
        to mount, which the service of a timer does not have.
      - V(auto) takes V(snapshot) where the file system offers it, else V(optimistic), and V(freeze) where that fails
        and O(freeze_timeout) is given.
    type: str
    choices: [auto, optimistic, freeze, cold, snapshot]
    default: auto
  exclude:
    description:
      - What to leave out, with C(*), C(?) and C([]) as in a shell. A pattern without a slash is matched with the names
        of files and directories at any level, another one with the whole path below O(path), part by part.
      - A directory that is left out is left out with all that is in it.
    type: list
    elements: str
    default: []
  service:
    description: Name of the service of systemd that is the application, for V(freeze) and V(cold) as O(method).
    type: str
  container:
    description:
      - Name or id of the container that is the application, for V(freeze) and V(cold) as O(method).
      - O(path) is on this host all the same, as that of a volume.
    type: str
  docker_host:
    description: Address of the Docker engine of O(container). Without it, the one of this host.
    type: str
  freeze_timeout:
    description:
      - Seconds that the application may stand still at most, 0.1 to 60. It goes on then, and the backup fails.
      - Without it V(auto) as O(method) never freezes; V(freeze) takes 10.
    type: float
  timeout:
    description: Seconds without a sign of life after which the process that copies files for V(freeze) and V(cold) is
      ended and the backup fails.
    type: int
    default: 60
requirements:
  - On the target the Python library C(docker) for O(container).
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
- name: Back up the directory of an application that pauses between its writes
  embedded.db_backup.files_backup:
    name: state
    path: /srv/state
    exclude: ["*.tmp", /cache]

- name: Back up a busy one, which may stand still for two seconds
  embedded.db_backup.files_backup:
    name: machines
    path: /var/lib/rstmdb
    service: rstmdb.service
    freeze_timeout: 2

- name: Stop the container, back up its volume, start it
  embedded.db_backup.files_backup:
    name: shop
    path: /srv/shop/data
    method: cold
    container: shop

- name: Back up only after changes, then keep a week of days
  embedded.db_backup.files_backup:
    name: media
    path: /srv/media
    skip_unchanged: true
    keep_daily: 7
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
  sample: /var/backups/db-backup/state/20261121T013000Z
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
      sample: state
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
      sample: {name: files, version: "1"}
    source:
      description: What was backed up.
      type: dict
      contains:
        path:
          description: The path that was given.
          type: str
          sample: /srv/state
        size:
          description: Bytes of all files that were stored.
          type: int
          sample: 104857600
        position:
          description: Always null for files.
          returned: success, outside of check mode
          type: dict
        system_id:
          description: Always null for files.
          returned: success, outside of check mode
          type: str
        exclude:
          description: What was left out.
          type: list
          elements: str
        fingerprint:
          description: A hash of all names, sizes, inodes and times, before anything was copied.
          type: str
          sample: 881cd534d1010de73e1ff1de1bc43d6af340ce0142c5918fd19d708a11b2bd82
        paused_ms:
          description: For how many milliseconds the application stood still; null when it did not.
          type: int
          sample: 140
        tries:
          description: How often all was read until nothing had changed meanwhile.
          type: int
          sample: 1
        listing:
          description: What was stored, null in check mode. Numbers of C(files), C(directories), symbolic C(links) and
            further C(names) of files, the C(size) of all files with their holes, a C(digest) of all names, kinds,
            modes, times and contents, and hashes of C(owners) and C(attributes).
          type: dict
          sample: {files: 412, directories: 31, links: 2, names: 0, size: 73400320}
    backup:
      description: How it was made, with C(type), C(method), C(consistency), C(online), C(copied_by), C(prior) and
        C(reference).
      returned: success, outside of check mode
      type: dict
      sample: {type: full, method: optimistic, consistency: crash, online: true, copied_by: files, prior: null,
        reference: []}
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
      sample: ["cd /var/backups/db-backup/state/20261121T013000Z", "sha256sum -c SHA256SUMS"]
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
            "method": {
                "type": "str",
                "default": "auto",
                "choices": ["auto", "optimistic", "freeze", "cold", "snapshot"],
            },
            "exclude": {"type": "list", "elements": "str", "default": []},
            "service": {"type": "str"},
            "container": {"type": "str"},
            "docker_host": {"type": "str"},
            "freeze_timeout": {"type": "float"},
            "timeout": {"type": "int", "default": 60},
            **BACKUP_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    finish(module, lambda: run_backup(module, "files"))


if __name__ == "__main__":
    main()
