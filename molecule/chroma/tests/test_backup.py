"""What holds after a Chroma server in a container was backed up from elsewhere while an application wrote to it."""

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
from testinfra.modules.ansible import AnsibleException

NAME = "embedded-db-backup-chroma"
TARGET, NEIGHBOUR, SERVER, RESTORED = (f"{NAME}-{role}" for role in ("target", "neighbour", "server", "restored"))
WAYS = {TARGET: "archive", NEIGHBOUR: "process"}
REPOSITORY = "/var/backups/db-backup"
JOBS = ["vectors", "vectors-1", "vectors-2"]
LEDGER = "/var/lib/application/ledger"
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

    def moment(self, name: str) -> int:
        """A time of the manifest, in ns since 1970."""
        return int(datetime.fromisoformat(self.manifest[name]).timestamp() * 1e9)

    def run(self, module: str, options: str = "") -> dict[str, Any]:
        """Run a module on it. Ansible no longer tells testinfra of a failure, so look for what success returns."""
        arguments = f"name={self.job} repository={REPOSITORY} {options}"
        result = self.host.ansible(f"embedded.db_backup.{module}", arguments, check=False)
        if "backup" not in result:
            raise AnsibleException(result)
        return result


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def target(engine: docker.DockerClient) -> Container:
    """Where the application and its ledger are."""
    return engine.containers.get(TARGET)


@pytest.fixture(params=JOBS)
def backup(host: Host, request: pytest.FixtureRequest) -> Backup:
    return Backup(host, request.param)


@pytest.fixture
def first(host: Host) -> Backup:
    return Backup(host, JOBS[0])


def judge(target: Container, backup: Backup) -> dict[str, Any]:
    """Let the application judge what the server on the restored volume has."""
    window = ["--after", str(backup.moment("timestamp_start")), "--before", str(backup.moment("timestamp_stop"))]
    command = ["python3", "-m", "chroma_application", "judge", f"http://{RESTORED}:8000", "--ledger", LEDGER]
    judged = target.exec_run([*command, "--json", *window], workdir="/usr/local/lib/application", demux=True)
    output, complaint = judged.output
    assert output, complaint
    return json.loads(output)


@pytest.fixture
def restored_server(engine: docker.DockerClient, host: Host, backup: Backup) -> Iterator[Container]:
    """A second server, on the volume that the backup was restored to."""
    backup.run("backup_restore", "dest=/srv/restored force=true")
    volumes = {RESTORED: {"bind": "/data", "mode": "rw"}}
    server = engine.containers.run(f"{NAME}:latest", name=RESTORED, volumes=volumes, network=NAME, detach=True)
    yield server
    server.remove(force=True)
    host.check_output("find /srv/restored -mindepth 1 -delete")


def test_server_and_application_never_noticed(engine: docker.DockerClient, target: Container) -> None:
    state = engine.containers.get(SERVER).attrs["State"]
    assert (state["Status"], state["Paused"]) == ("running", False)
    assert engine.containers.get(SERVER).attrs["RestartCount"] == 0
    assert target.exec_run(["systemctl", "is-active", "application"]).output == b"active\n"
    journal = target.exec_run(["journalctl", "--unit", "application", "--output", "cat"]).output.decode()
    assert journal.splitlines().count("ready") == 1


def test_nothing_is_left_in_the_container(engine: docker.DockerClient) -> None:
    assert not engine.containers.get(SERVER).diff()


def test_nothing_is_left_beside_a_backup(backup: Backup) -> None:
    names = backup.host.check_output("ls --almost-all %s/%s", REPOSITORY, backup.job).split()
    assert sorted(names) == sorted([".catalogue.json", ".lock", backup.path.rpartition("/")[2], "state.json"])


def test_only_its_owner_reads_a_backup(backup: Backup) -> None:
    modes = backup.host.check_output("find %s/%s -printf '%%y %%m\n'", REPOSITORY, backup.job)
    assert set(modes.splitlines()) == {"d 700", "f 600"}


def test_manifest_names_the_container_and_its_collections(backup: Backup) -> None:
    source = backup.manifest["source"]
    assert source["container"]["name"] == SERVER
    assert source["container"]["image"] == f"{NAME}:latest"
    assert source["container"]["way"] == WAYS[backup.host.backend.host]
    found = {(one["tenant"], one["database"], one["name"]): one["dimension"] for one in source["collections"]}
    expected = {("default_tenant", "default_database", "notes"): 32, ("archive", "old", "images"): 48}
    assert {key: found.get(key) for key in expected} == expected


def test_backup_verifies(backup: Backup) -> None:
    backup.host.check_output("cd %s && sha256sum -c SHA256SUMS", backup.path)
    assert backup.run("backup_verify")["opened"]


def test_every_acknowledged_embedding_comes_back(backup: Backup, target: Container, restored_server: Container) -> None:
    judgement = judge(target, backup)
    assert judgement["good"], f"{judgement['sentence']}\n{restored_server.logs(tail=20).decode()}"
    recorded = {one["name"]: one["records"] for one in backup.manifest["source"]["collections"]}
    assert {name: recorded[name] for name in judgement["records"]} == judgement["records"]


def test_configuration_of_the_container_is_in_the_backup(first: Backup, host: Host) -> None:
    first.run("backup_restore", "dest=/srv/with-configuration")
    assert "persist_path" in host.check_output("find /srv/with-configuration -name config.yaml -exec cat {} +")
