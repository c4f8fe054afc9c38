"""A backup goes back into the volume of the application, which is stopped meanwhile and goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import docker
import pytest
from docker.models.containers import Container
from testinfra.host import Host

NAME = "embedded-db-backup-lmdb"
TARGET, WRITER = f"{NAME}-target", f"{NAME}-writer"
REPOSITORY = "/var/backups/db-backup"
testinfra_hosts = [TARGET]


@pytest.fixture(scope="module")
def writer() -> Iterator[Container]:
    client = docker.from_env()
    yield client.containers.get(WRITER)
    client.close()


def generations(writer: Container) -> list[int]:
    lines = writer.exec_run(["cat", "/ledger/ledger"]).output.decode().splitlines()
    return [int(line.split()[0]) for line in lines]


def restore(host: Host, options: str) -> None:
    arguments = f"name=kg repository={REPOSITORY} force=true {options}"
    result = host.ansible("embedded.db_backup.backup_restore", arguments, check=False)
    assert "backup" in result, result


def test_application_goes_on_from_the_backup(host: Host, writer: Container) -> None:
    restore(host, "dest=/srv/expected")
    judged = host.run("python3 /usr/local/bin/lmdb_application.py judge /srv/expected --json")
    restored = json.loads(judged.stdout)["generation"]
    before, started = generations(writer), writer.attrs["State"]["StartedAt"]
    assert before[-1] > restored
    restore(host, f"dest=/srv/data container={WRITER} docker_host=unix:///srv/docker.sock")
    deadline = time.monotonic() + 60
    while restored + 1 not in generations(writer)[len(before) :]:
        assert time.monotonic() < deadline, "the application does not go on from the backup"
        time.sleep(0.1)
    writer.reload()
    assert writer.attrs["State"]["StartedAt"] != started
    assert writer.attrs["State"]["Status"] == "running"
    names = host.check_output("ls /srv/data").split()
    assert {"data.mdb", "lock.mdb"} < set(names)
    assert [name for name in names if name.startswith("data.mdb.before-restore-")]
