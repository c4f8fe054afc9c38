# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/status.yml, verify.yml, restore.yml and the role's checks, on hosts that are all this one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.tools import (
    Ansible,
    Command,
    Done,
    bytes_of,
    content_of,
    make_environment,
)

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
CHECK = "embedded.db_backup.backup : Check the jobs before anything changes"
PASSWORD = "embedded.db_backup.backup : Check that pip is told no password"
INSTALL = "embedded.db_backup.backup : Install runner, jobs, timers and restore scripts"
ODD = ["web.example-1", "wéb_ü", "10.0.0.7"]


class Hosts:
    """An inventory, with a directory of jobs and of backups for each host."""

    def __init__(self, ansible: Ansible, root: Path) -> None:
        self.ansible = ansible
        self.root = root
        self.variables: dict[str, dict[str, Any]] = {}

    def add(self, name: str, **variables: Any) -> Command:
        directory = self.root / f"host-{len(self.variables)}"
        directory.mkdir()
        command = Command(directory / "backups", directory / "jobs.d")
        places = {"backup_jobs_directory": str(command.jobs), "backup_status_repository": str(command.repository)}
        self.variables[name] = {**LOCAL, **places, "backup_repository": str(command.repository), **variables}
        return command

    def play(self, playbook: str, *options: str, **environ: str) -> Done:
        inventory = self.root / "inventory.yml"
        inventory.write_text(json.dumps({"all": {"hosts": self.variables}}))
        return self.ansible.run("ansible-playbook", "-i", inventory, playbook, *options, **environ)


@pytest.fixture
def hosts(ansible: Ansible, tmp_path: Path) -> Hosts:
    return Hosts(ansible, tmp_path)


def result_of(done: Done, name: str, host: str) -> dict[str, Any]:
    tasks = {task["task"]["name"]: task["hosts"] for play in done.json["plays"] for task in play["tasks"]}
    result: dict[str, Any] = tasks[name][host]
    return result


class TestStatus:
    def test_thirty_hosts_in_one_table(self, hosts: Hosts, tmp_path: Path) -> None:
        make_environment(tmp_path / "kg", records=5)
        model = hosts.add(ODD[0])
        model.job("kg", tmp_path / "kg", max_age_hours=26)
        model.ok("run", "kg")
        model.ok("drill", "kg")
        for name in [*ODD[1:], *(f"web{number}" for number in range(27))]:
            command = hosts.add(name)
            command.job("kg", tmp_path / "kg", max_age_hours=26)
            shutil.copytree(model.repository, command.repository)
        done = hosts.play("playbooks/status.yml", "--forks", "10")
        assert done.code == 0, done
        header, *rows = result_of(done, "Show the table", "localhost")["msg"]
        titles = "HOST JOB HEALTH LAST SUCCESS AGE ALLOWED SIZE TREND PROVEN RESTORABLE"
        assert " ".join(header.split()) == titles
        assert {row.split()[0] for row in rows} == set(hosts.variables)
        assert {tuple(row.split()[1:3]) for row in rows} == {("kg", "ok")}
        assert all(" 26 h " in row and not row.endswith("never") for row in rows)

    def test_what_is_not_well_is_named_and_fails(self, hosts: Hosts, tmp_path: Path) -> None:
        make_environment(tmp_path / "kg", records=5)
        good, late, new = (hosts.add(name) for name in ("good", "late", "new"))
        for command in (good, late, new):
            command.job("kg", tmp_path / "kg", max_age_hours=26)
        good.ok("run", "kg")
        late.ok("run", "kg")
        late.job("kg", tmp_path / "kg", max_age_hours=1e-9)
        hosts.add("gone", ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=1)
        hosts.add("empty")
        done = hosts.play("playbooks/status.yml")
        assert done.code == 2, done
        rows = result_of(done, "Show the table", "localhost")["msg"][1:]
        told = {row.split()[0]: " ".join(row.split()[1:4]) for row in rows}
        assert told["good"].startswith("kg ok")
        assert told["late"].startswith("kg late")
        assert told["new"] == "kg new never"
        assert told["gone"] == "- unreachable -"
        assert told["empty"] == "- no jobs"
        complaint = result_of(done, "Fail when a job is not well", "localhost")["msg"]
        assert "late: kg is late: the last good run was" in complaint
        assert "gone: " in complaint
        assert "good" not in complaint.replace("last good run", "")

    def test_a_person_sees_the_table(self, hosts: Hosts, tmp_path: Path) -> None:
        make_environment(tmp_path / "kg", records=5)
        command = hosts.add("web1")
        command.job("kg", tmp_path / "kg")
        command.ok("run", "kg")
        done = hosts.play("playbooks/status.yml", ANSIBLE_STDOUT_CALLBACK="default")
        assert done.code == 0, done
        assert "web1  kg   ok" in done.stdout


class TestVerify:
    @pytest.mark.parametrize("drill", ["false", "true"])
    def test_every_job(self, hosts: Hosts, tmp_path: Path, drill: str) -> None:
        jobs = []
        command = hosts.add("web1", backup_jobs=jobs)
        for name in ("kg", "memory"):
            make_environment(tmp_path / name)
            command.job(name, tmp_path / name)
            command.ok("run", name)
            jobs.append({"name": name, "type": "lmdb", "path": str(tmp_path / name)})
        jobs.append({"name": "gone", "state": "absent"})
        done = hosts.play("playbooks/verify.yml", "-e", f"drill={drill}")
        assert done.code == 0, done
        assert {job["last_drill"] is not None for job in command.ok("status")} == {drill == "true"}

        (backup,) = command.backups("memory")
        stored = command.repository / "memory" / backup / "data.mdb.zst"
        stored.write_bytes(stored.read_bytes()[:-1])
        done = hosts.play("playbooks/verify.yml", "-e", f"drill={drill}")
        assert done.code == 2, done
        complaint = result_of(done, "Fail when a backup is not sound", "web1")["msg"]
        assert complaint.startswith("memory: ")


class TestRestore:
    @pytest.fixture
    def site(self, hosts: Hosts, tmp_path: Path) -> Command:
        path = tmp_path / "kg"
        make_environment(path)
        command = hosts.add("web1", backup_jobs=[{"name": "kg", "type": "lmdb", "path": str(path)}])
        command.job("kg", path)
        command.ok("run", "kg")
        return command

    def test_when_it_is_confirmed(self, hosts: Hosts, site: Command, tmp_path: Path) -> None:
        content = content_of(tmp_path / "kg")
        newer = make_environment(tmp_path / "kg", 300, salt="newer")
        before = bytes_of(tmp_path / "kg")
        assert hosts.play("playbooks/restore.yml", "-e", "job=kg", "--check").code == 0
        assert bytes_of(tmp_path / "kg") == before
        # Nobody is at a terminal to be asked.
        done = hosts.play("playbooks/restore.yml", "-e", "job=kg")
        assert done.code == 2, done
        assert result_of(done, "Stop unless it was wanted", "web1")["msg"] == "nothing was restored"
        assert bytes_of(tmp_path / "kg") == before

        (backup,) = site.backups("kg")
        done = hosts.play("playbooks/restore.yml", "-e", f"job=kg id={backup} confirm=true")
        assert done.code == 0, done
        assert content_of(tmp_path / "kg") == content
        told = result_of(done, "Tell how to undo it", "web1")["msg"]
        assert any(line.startswith("mv -T ") for line in told)
        assert newer != content

    def test_a_job_that_is_not_known(self, hosts: Hosts, site: Command) -> None:
        assert site.backups("kg")
        for options in ([], ["-e", "job=gk"]):
            done = hosts.play("playbooks/restore.yml", *options)
            assert done.code == 2, done
            told = result_of(done, "See that the job is known", "web1")["msg"]
            assert told == "Say with -e job=NAME which of these to restore: kg"


class TestRole:
    def test_every_mistake_is_told_before_anything_changes(self, hosts: Hosts) -> None:
        jobs = [
            {"name": "kg", "type": "lmdb", "path": "/srv/kg", "attempts": 0, "includ": ["media"]},
            "not a job",
            {"name": "good", "type": "lmdb", "path": "/srv/kg", "keep_daily": 7},
            {"name": "old", "state": "absent"},
            {"name": "odd", "state": "gone", "type": "lmdb", "path": "/srv/kg"},
            {"name": "nested", "type": "lmdb", "path": "/srv/kg", "unit": {"nice": "low"}},
        ]
        hosts.add("web1", backup_jobs=jobs, backup_scope="user")
        done = hosts.play("playbooks/install.yml")
        assert done.code == 2, done
        assert result_of(done, CHECK, "web1")["msg"] == [
            "kg: includ: is not known; did you mean include?; attempts: 0 is out of range; give 1 to 100",
            "backup_jobs[1]: must be a job, with a name and a type",
            "odd: state: 'gone' is not known; choose present or absent",
            "nested: unit.nice: must be a whole number, is a text",
        ]

    def test_defaults_are_for_all_jobs(self, hosts: Hosts, tmp_path: Path) -> None:
        jobs = [{"name": "kg", "type": "lmdb", "path": str(tmp_path / "kg")}]
        hosts.add("web1", backup_jobs=jobs, backup_defaults={"keep_daily": "7"})
        done = hosts.play("playbooks/install.yml", "--check")
        assert done.code == 2
        assert "kg: keep_daily: must be a whole number" in result_of(done, CHECK, "web1")["msg"][0]

    def test_libraries_of_a_user(self, hosts: Hosts, tmp_path: Path) -> None:
        """Nobody has packages installed: what the Python of the runner has it need not get."""
        never = {"schedule": None, "drill_schedule": None}
        jobs = [
            {"name": "kg", "type": "lmdb", "path": str(tmp_path / "kg"), **never},
            {"name": "vectors", "type": "chroma", "container": "chroma", **never},
        ]
        hosts.add("has", backup_jobs=jobs, backup_scope="user")
        hosts.add("asks", backup_jobs=jobs, backup_scope="user", backup_libraries=["oddly==1.0"])
        address = "https://joe:s3cret@packages.example/simple"
        hosts.add("tells", backup_jobs=jobs, backup_scope="user", backup_pip_arguments=["--index-url", address])
        done = hosts.play("playbooks/install.yml", "--check", HOME=str(tmp_path))
        assert done.code == 2, done
        found = {name: result_of(done, INSTALL, name)["environment"] for name in ("has", "asks")}
        assert found["has"] is None
        assert found["asks"].startswith(f"{tmp_path}/.local/lib/db-backup/environment-")
        assert "configuration of pip on the host" in result_of(done, PASSWORD, "tells")["msg"]
        assert "s3cret" not in done.stdout
