"""What holds after a Clojure application was exported over nREPL while it went on with its transactions."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host
from testinfra.modules.ansible import AnsibleException

NAME = "embedded-db-backup-nrepl"
REPOSITORY = "/var/backups/db-backup"
WAYS = {"by-function": "pull", "by-database": "pull", "by-file": "file"}
ACCOUNTS, BALANCE = 100, 1000
CHECKOUT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])


@dataclass
class Backup:
    """The one backup that a job has."""

    host: Host
    job: str

    @property
    def path(self) -> str:
        return self.host.check_output("ls -d %s/%s/2*Z", REPOSITORY, self.job)

    @property
    def source(self) -> dict[str, Any]:
        manifest = json.loads(self.host.file(f"{self.path}/manifest.json").content_string)
        source: dict[str, Any] = manifest["source"]
        return source

    def run(self, module: str, options: str = "") -> dict[str, Any]:
        """Run a module on it. Ansible no longer tells testinfra of a failure, so look for what success returns."""
        arguments = f"name={self.job} repository={REPOSITORY} {options}"
        result: dict[str, Any] = self.host.ansible(f"embedded.db_backup.{module}", arguments, check=False)
        if "backup" not in result:
            raise AnsibleException(result)
        return result

    def restored(self) -> str:
        """What it restores to."""
        place = f"/srv/{self.job}.edn"
        self.run("backup_restore", f"dest={place} force=true")
        return self.host.file(place).content_string


def assert_of_one_moment(text: str) -> None:
    balances = [int(found) for found in re.findall(r":balance (-?\d+)", text)]
    assert (len(balances), sum(balances)) == (ACCOUNTS, ACCOUNTS * BALANCE)
    assert len(set(re.findall(r":turn (\d+)", text))) == 1
    assert text.count('\\"😀\\"') == ACCOUNTS


@pytest.fixture(params=WAYS)
def backup(host: Host, request: pytest.FixtureRequest) -> Backup:
    return Backup(host, request.param)


def test_application_never_noticed(host: Host) -> None:
    assert host.service("application").is_running
    assert host.check_output("systemctl show --property NRestarts --value application") == "0"


def test_nothing_is_left_in_the_application(host: Host) -> None:
    assert host.check_output("find /tmp -maxdepth 1 -name 'db-backup-*'") == ""
    code = '(count (filter #(= \\"embedded.db_backup export\\" (.getName %)) (keys (Thread/getAllStackTraces))))'
    told = host.ansible("embedded.db_backup.nrepl_eval", f'port=7888 code="{code}"', check=False)
    assert told["value"] == "0"


def test_nothing_is_left_beside_a_backup(backup: Backup) -> None:
    names = backup.host.check_output("ls --almost-all %s/%s", REPOSITORY, backup.job).split()
    assert sorted(names) == sorted([".catalogue.json", ".lock", backup.path.rpartition("/")[2], "state.json"])


def test_only_its_owner_reads_a_backup(backup: Backup) -> None:
    modes = backup.host.check_output("find %s/%s -printf '%%y %%m\n'", REPOSITORY, backup.job)
    assert set(modes.splitlines()) == {"d 700", "f 600"}


def test_manifest_tells_how(backup: Backup) -> None:
    source = backup.source
    assert source["way"] == WAYS[backup.job]
    assert source["records"] == 3 * ACCOUNTS
    assert source["versions"].keys() >= {"clojure", "java", "nrepl"}
    assert (source["position"] is not None) == (backup.job == "by-database")


def test_backup_verifies(backup: Backup) -> None:
    backup.host.check_output("cd %s && sha256sum -c SHA256SUMS", backup.path)
    assert backup.run("backup_verify")["opened"]


def test_what_comes_back_is_of_one_moment(backup: Backup) -> None:
    assert_of_one_moment(backup.restored())


def test_short_name_ad_hoc(host: Host) -> None:
    arguments = f"name=ad-hoc port=7888 function=bank.core/export! repository={REPOSITORY}"
    command = ["ansible", "-i", f"{NAME},", "-c", "community.docker.docker", "all", "-m", "nrepl_export"]
    environ = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")}
    done = subprocess.run([*command, "-a", arguments], cwd=CHECKOUT, env=environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert_of_one_moment(Backup(host, "ad-hoc").restored())
