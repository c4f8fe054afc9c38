# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/backup.yml with two hosts and jobs that succeed and fail."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.tools import Ansible, Done, bytes_of, content_of, make_environment

PLAYBOOK = "playbooks/backup.yml"
SHOW, FAIL = "Show what became of the jobs", "Fail when a job did"


class Site:
    """An inventory of hosts, all of them this one, each with a directory of its own."""

    def __init__(self, ansible: Ansible, root: Path) -> None:
        self.ansible = ansible
        self.root = root
        self.jobs: dict[str, list[dict[str, Any]]] = {}
        self.variables: dict[str, dict[str, Any]] = {}

    def job(self, host: str, name: str, **options: Any) -> Path:
        """Add a job to a host; returns where its data is to be, unless told otherwise."""
        path = self.root / host / name
        described = {"name": name, "type": "lmdb", "path": str(path), "repository": str(self.root / host / "backups")}
        self.jobs.setdefault(host, []).append({**described, **options})
        return path

    def run(self, *options: str) -> Done:
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {
            host: {**local, **self.variables.get(host, {}), "backup_jobs": jobs} for host, jobs in self.jobs.items()
        }
        inventory = self.root / "inventory.yml"
        inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
        return self.ansible.run("ansible-playbook", "-i", inventory, PLAYBOOK, *options)

    def backups(self, host: str, job: str) -> list[Path]:
        return sorted((self.root / host / "backups" / job).glob("[0-9]*"))

    def restored(self, host: str, job: str) -> Path:
        """What the last backup of a job restores to."""
        dest = self.root / f"restored-{host}-{job}"
        shutil.rmtree(dest, ignore_errors=True)
        self.ansible.module("backup_restore", name=job, repository=str(self.root / host / "backups"), dest=str(dest))
        return dest


def task(done: Done, name: str, host: str) -> dict[str, Any]:
    """The result of a task on a host."""
    tasks = {task["task"]["name"]: task["hosts"] for task in done.json["plays"][0]["tasks"]}
    result: dict[str, Any] = tasks[name][host]
    return result


def table(done: Done, host: str) -> dict[str, list[str]]:
    """The columns of the table that the play shows for a host, by job."""
    header, *rows = task(done, SHOW, host)["msg"]
    assert header.split() == ["JOB", "RESULT", "SIZE", "RATIO", "DURATION", "ID"]
    # Sizes, ratios and durations are two words.
    return {row.split()[0]: row.split()[1:] for row in rows}


@pytest.fixture
def site(ansible: Ansible, tmp_path: Path) -> Site:
    """Two hosts with good jobs."""
    site = Site(ansible, tmp_path)
    graph = site.job("web1", "graph", include=["media"], compact=True, compression="gzip")
    make_environment(graph, records=50)
    (graph / "media").mkdir()
    (graph / "media/file").write_text("media")
    make_environment(site.job("web1", "cache", verify=False), subdir=False)
    make_environment(site.job("web2", "graph", min_age_hours=1), salt="web2")
    return site


def test_every_job_of_every_host_is_backed_up(site: Site) -> None:
    done = site.run()
    assert done.code == 0, done
    shown = table(done, "web1")
    assert list(shown) == ["graph", "cache"]
    (backup,) = site.backups("web1", "graph")
    assert shown["graph"][0] == "ok"
    assert shown["graph"][-1] == backup.name
    manifest = json.loads((backup / "manifest.json").read_text())
    assert manifest["compression"]["type"] == "gzip"
    assert f"{manifest['summary']['duration_ms'] / 1000:.1f}" in shown["graph"]
    assert json.loads((site.backups("web1", "cache")[0] / "manifest.json").read_text())["check"] is None

    for host, job in (("web1", "graph"), ("web1", "cache"), ("web2", "graph")):
        restored = site.restored(host, job)
        assert content_of(restored) == content_of(site.root / host / job)
    assert (site.root / "restored-web1-graph/media/file").read_text() == "media"


def test_a_job_that_fails_stops_no_other_and_is_named_at_the_end(site: Site) -> None:
    site.jobs["web1"].insert(0, {})
    site.jobs["web1"][0] = {**site.jobs["web1"][1], "name": "broken", "path": "/no/such/place"}
    site.job("web1", "strange", type="oracle")
    done = site.run()
    assert done.code == 2, done
    shown = table(done, "web1")
    assert {name: columns[0] for name, columns in shown.items()} == {
        "broken": "failed",
        "graph": "ok",
        "cache": "ok",
        "strange": "failed",
    }
    complaint = task(done, FAIL, "web1")["msg"]
    assert "broken: /no/such/place" in complaint
    assert "strange: type 'oracle' is not known" in complaint
    assert "graph" not in complaint
    assert len(site.backups("web1", "graph")) == len(site.backups("web1", "cache")) == 1

    assert table(done, "web2")["graph"][0] == "ok"
    stats = done.json["stats"]
    assert (stats["web1"]["failures"], stats["web2"]["failures"]) == (1, 0)


def test_what_was_just_done_is_not_done_again(site: Site) -> None:
    for job in site.jobs["web1"]:
        job["skip_unchanged"] = True
    assert site.run().code == 0
    before = {host: site.backups(host, "graph") for host in site.jobs}
    done = site.run()
    assert done.code == 0, done
    for host in site.jobs:
        assert done.json["stats"][host]["changed"] == 0
        for columns in table(done, host).values():
            # Result, size and ratio of two words each, no duration, and the id.
            assert (columns[0], columns[5]) == ("skipped", "-")
        assert site.backups(host, "graph") == before[host]


def test_check_mode_predicts_and_changes_nothing(site: Site) -> None:
    site.job("web2", "broken", path="/no/such/place")
    before = bytes_of(site.root)
    done = site.run("--check")
    assert done.code == 2, done
    assert {name: columns[0] for name, columns in table(done, "web1").items()} == {
        "graph": "predicted",
        "cache": "predicted",
    }
    assert "broken" in task(done, FAIL, "web2")["msg"]
    after = bytes_of(site.root)
    after.pop("inventory.yml")
    assert after == before


def test_a_host_without_jobs_has_nothing_to_do(site: Site) -> None:
    site.jobs = {"web3": []}
    done = site.run()
    assert done.code == 0, done
    assert "backup_jobs is empty" in task(done, SHOW, "web3")["msg"]


def test_a_job_that_makes_no_sense_fails_and_no_other(site: Site) -> None:
    site.job("web1", "typing-error", includes=["media"])
    site.jobs["web1"].append(dict(site.jobs["web1"][0]))
    done = site.run("--limit", "web1")
    assert done.code == 2, done
    assert task(done, FAIL, "web1")["msg"] == (
        "typing-error: includes: is not known; did you mean include?; "
        "graph: name: another job before it has the same name"
    )
    assert len(site.backups("web1", "graph")) == len(site.backups("web1", "cache")) == 1


@pytest.mark.parametrize("reason", ["no connection", "no temporary directory"])
def test_a_host_that_cannot_be_reached_fails_by_name_and_stops_no_other(site: Site, reason: str) -> None:
    site.job("web3", "graph")
    site.job("web3", "cache")
    site.variables["web3"] = (
        {"ansible_remote_tmp": "/dev/null/nowhere"}
        if reason == "no temporary directory"
        else {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    )
    for options in ([], ["--check"]):
        done = site.run(*options)
        assert done.code == 2, done
        assert {name: columns[0] for name, columns in table(done, "web3").items()} == {
            "graph": "failed",
            "cache": "failed",
        }
        complaint = task(done, FAIL, "web3")["msg"]
        assert complaint.startswith("graph: host unreachable: ")
        assert "; cache: host unreachable: " in complaint
        assert "\n" not in complaint
        for host in ("web1", "web2"):
            assert done.json["stats"][host]["failures"] == done.json["stats"][host]["unreachable"] == 0
            assert table(done, host)["graph"][0] in ("ok", "predicted", "skipped")
        assert done.json["stats"]["web3"]["failures"] == 1


def test_a_person_sees_the_table(site: Site) -> None:
    site.jobs.pop("web1")
    site.run()
    inventory = site.root / "inventory.yml"
    done = site.ansible.run("ansible-playbook", "-i", inventory, PLAYBOOK, ANSIBLE_STDOUT_CALLBACK="default")
    assert done.code == 0, done
    assert "graph  skipped" in done.stdout
