"""What holds on a host after its application was backed up while it went on committing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from testinfra.host import Host
from testinfra.modules.ansible import AnsibleException

APPLICATION = "sudo -u kg python3 /usr/local/bin/lmdb_application.py"
LEDGER = "/var/lib/kg/ledger"
FLIP_MIDDLE_BYTE = """
import sys
with open(sys.argv[1], "r+b") as stored:
    middle = stored.seek(0, 2) // 2
    stored.seek(middle)
    byte = stored.read(1)
    stored.seek(middle)
    stored.write(bytes([byte[0] ^ 1]))
"""


@dataclass
class Backup:
    """The one backup that the job of this name has in this repository."""

    host: Host
    repository: str
    job: str

    @property
    def path(self) -> str:
        return self.host.check_output("ls -d %s/%s/2*Z", self.repository, self.job)

    @property
    def id(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads(self.host.file(f"{self.path}/manifest.json").content_string)

    def run(self, module: str, options: str = "") -> dict[str, Any]:
        """Run a module on it. Ansible no longer tells testinfra of a failure, so look for what success returns."""
        arguments = f"name={self.job} repository={self.repository} id={self.id} {options}"
        result = self.host.ansible(f"embedded.db_backup.{module}", arguments, check=False)
        if "backup" not in result:
            raise AnsibleException(result)
        return result


ROOTS = ("/var/backups/db-backup", "kg")
ROOTS_COMPACT = ("/var/backups/db-backup", "kg-compact")
OWN = ("/var/lib/kg/backups", "kg")
for_every_backup = pytest.mark.parametrize("backup", [ROOTS, ROOTS_COMPACT, OWN], indirect=True, ids="/".join)
for_one_backup = pytest.mark.parametrize("backup", [ROOTS], indirect=True, ids="/".join)


@pytest.fixture
def backup(host: Host, request: pytest.FixtureRequest) -> Backup:
    return Backup(host, *request.param)


@pytest.fixture
def scratch(host: Host) -> Iterator[str]:
    """An empty directory that the application's user can reach, too."""
    path = host.check_output("mktemp -d")
    host.check_output("chmod 0755 %s", path)
    yield path
    host.check_output("rm -r %s", path)


def judge(backup: Backup, path: str) -> None:
    """Let the application itself judge a copy: good, complete, and what the manifest says of it."""
    started = datetime.fromisoformat(backup.manifest["timestamp_start"]).timestamp()
    ledger = backup.host.file(LEDGER).content_string.splitlines()
    acknowledged = [int(line.split()[0]) for line in ledger[:-1] if int(line.split()[1]) < started * 1e9][-1]
    judged = backup.host.run(f"{APPLICATION} judge {path} --at-least {acknowledged} --json")
    assert judged.rc == 0, judged.stdout + judged.stderr
    found = {name: content["entries"] for name, content in json.loads(judged.stdout)["databases"].items()}
    [environment] = backup.manifest["source"]["environments"]
    recorded = {database["name"]: database["entries"] for database in environment["databases"]}
    assert found == {name: recorded[name] for name in found}


def test_application_never_noticed(host: Host) -> None:
    assert host.service("kg").is_running
    assert host.check_output("journalctl --unit kg --output cat").splitlines().count("ready") == 1


def test_application_owns_its_data(host: Host) -> None:
    assert host.check_output("find /srv/kg ! -user kg") == ""
    assert host.check_output("ls --almost-all /srv/kg").split() == ["data.mdb", "lock.mdb"]


@for_every_backup
def test_only_its_owner_reads_a_backup(backup: Backup) -> None:
    modes = backup.host.check_output("find %s/%s -printf '%%y %%m\n'", backup.repository, backup.job)
    assert set(modes.splitlines()) == {"d 700", "f 600"}


@for_every_backup
def test_nothing_is_left_beside_a_backup(backup: Backup) -> None:
    names = backup.host.check_output("ls --almost-all %s/%s", backup.repository, backup.job).split()
    assert sorted(names) == [".catalogue.json", ".lock", backup.id, "state.json"]


@for_every_backup
def test_backup_verifies(backup: Backup) -> None:
    backup.host.check_output("cd %s && sha256sum -c SHA256SUMS", backup.path)
    assert backup.run("backup_verify")["backup"]["id"] == backup.id
    owners = backup.host.check_output("find %s/%s -printf '%%u\n'", backup.repository, backup.job)
    assert set(owners.split()) == {backup.host.file(backup.repository).user}


@for_every_backup
def test_application_accepts_what_is_restored(backup: Backup, scratch: str) -> None:
    backup.run("backup_restore", f"dest={scratch}/kg")
    assert backup.host.file(f"{scratch}/kg/data.mdb").user == "kg"
    judge(backup, f"{scratch}/kg")


@for_one_backup
def test_application_accepts_what_is_restored_by_hand(backup: Backup, scratch: str) -> None:
    commands = " && ".join(backup.manifest["restore_by_hand"]).replace("DESTINATION", scratch)
    assert "sha256sum -c" in commands
    backup.host.check_output(commands)
    backup.host.check_output("chown -R kg %s", scratch)
    judge(backup, scratch)


@for_one_backup
def test_damage_is_found_and_never_restored(backup: Backup, scratch: str) -> None:
    backup.host.check_output("cp -a %s %s/damaged", backup.repository, scratch)
    damaged = Backup(backup.host, f"{scratch}/damaged", backup.job)
    [stored] = damaged.manifest["files"]
    damaged.host.check_output("python3 -c %s %s", FLIP_MIDDLE_BYTE, f"{damaged.path}/{stored['repo_path']}")
    damaged.host.check_output("mkdir %s/kg && echo precious > %s/kg/data.mdb", scratch, scratch)
    with pytest.raises(AnsibleException, match=stored["repo_path"]):
        damaged.run("backup_verify")
    with pytest.raises(AnsibleException, match=stored["repo_path"]):
        damaged.run("backup_restore", f"dest={scratch}/kg force=true")
    assert damaged.host.check_output("cat %s/kg/*", scratch) == "precious"
    assert damaged.host.check_output("ls --almost-all %s", scratch).split() == ["damaged", "kg"]
