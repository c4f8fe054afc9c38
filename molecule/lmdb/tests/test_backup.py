"""What holds after an application of LMDB in a container was backed up from elsewhere while it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from testinfra.host import Host

NAME = "embedded-db-backup-lmdb"
TARGET, NEIGHBOUR, WRITER = (f"{NAME}-{role}" for role in ("target", "neighbour", "writer"))
WAYS = {TARGET: ("archive", "freeze"), NEIGHBOUR: ("process", "hot")}
REPOSITORY = "/var/backups/db-backup"
JOBS = ["kg", "kg-compact"]
testinfra_hosts = [TARGET, NEIGHBOUR]


@dataclass
class Backup:
    """The one backup that a job has on a host."""

    host: Host
    job: str

    @property
    def path(self) -> str:
        return self.host.check_output("ls -d %s/%s/2*Z", REPOSITORY, self.job)

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads(self.host.file(f"{self.path}/manifest.json").content_string)


@pytest.fixture(scope="module")
def writer() -> Iterator[Container]:
    client = docker.from_env()
    yield client.containers.get(WRITER)
    client.close()


@pytest.fixture(params=JOBS)
def backup(host: Host, request: pytest.FixtureRequest) -> Backup:
    return Backup(host, request.param)


def acknowledged(writer: Container, moment: str) -> int:
    """The last generation that the ledger of the application acknowledged before that time."""
    before = int(datetime.fromisoformat(moment).timestamp() * 1e9)
    lines = writer.exec_run(["cat", "/ledger/ledger"]).output.decode().splitlines()
    entries = [tuple(map(int, line.split())) for line in lines]
    return max(generation for generation, time in entries if time < before)


def test_the_application_never_noticed(writer: Container) -> None:
    writer.reload()
    state = writer.attrs["State"]
    assert (state["Status"], state["Paused"], writer.attrs["RestartCount"]) == ("running", False, 0)
    assert writer.exec_run(["ls", "/data"]).output.decode().split() == ["data.mdb", "lock.mdb"]


def test_nothing_is_left_beside_a_backup(backup: Backup) -> None:
    names = backup.host.check_output("ls --almost-all %s/%s", REPOSITORY, backup.job).split()
    assert sorted(names) == sorted([".catalogue.json", ".lock", backup.path.rpartition("/")[2], "state.json"])


def test_manifest_tells_the_container_and_the_way(backup: Backup) -> None:
    source = backup.manifest["source"]
    (environment,) = source["environments"]
    assert (source["path"], source["container"]["name"]) == ("/data", WRITER)
    assert (source["container"]["way"], environment["method"]) == WAYS[backup.host.backend.host]
    assert (source["paused_ms"] is None) == (environment["method"] == "hot")


def test_every_acknowledged_transaction_comes_back(backup: Backup, writer: Container) -> None:
    host, restored = backup.host, f"/srv/restored-{backup.job}"
    host.check_output("cd %s && sha256sum -c SHA256SUMS", backup.path)
    arguments = f"name={backup.job} repository={REPOSITORY} dest={restored} force=true"
    result = host.ansible("embedded.db_backup.backup_restore", arguments, check=False)
    assert "backup" in result, result
    least = acknowledged(writer, backup.manifest["timestamp_start"])
    judged = host.run("python3 /usr/local/bin/lmdb_application.py judge %s --at-least %s", restored, str(least))
    assert judged.rc == 0, judged.stdout
