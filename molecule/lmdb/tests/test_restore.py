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


def test_application_goes_on_from_the_backup(host: Host, writer: Container) -> None:
    before, started = generations(writer), writer.attrs["State"]["StartedAt"]
    arguments = f"name=kg repository={REPOSITORY} dest=/srv/data force=true"
    container = f"container={WRITER} docker_host=unix:///srv/docker.sock"
    result = host.ansible("embedded.db_backup.backup_restore", f"{arguments} {container}", check=False)
    assert "backup" in result, result
    deadline = time.monotonic() + 60
    while len(after := generations(writer)[len(before) :]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    judged = host.run("python3 /usr/local/bin/lmdb_application.py judge /srv/restored-kg --json")
    restored = json.loads(judged.stdout)["generation"]
    # The application may have committed between the last look and its stop.
    first = next(one for one in after if one <= before[-1])
    assert first == restored + 1
    writer.reload()
    assert writer.attrs["State"]["StartedAt"] != started
    assert writer.attrs["State"]["Status"] == "running"
    names = host.check_output("ls /srv/data").split()
    assert {"data.mdb", "lock.mdb"} < set(names)
    assert [name for name in names if name.startswith("data.mdb.before-restore-")]
