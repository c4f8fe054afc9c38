"""What the role has installed for a Chroma server in a container: on a host with systemd, and on one without."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

NAME = "embedded-db-backup-chroma"
TARGET, NEIGHBOUR = f"{NAME}-target", f"{NAME}-neighbour"
REPOSITORY = "/var/backups/db-backup"
CRONTAB = "/etc/cron.d/db-backup"
testinfra_hosts = [TARGET, NEIGHBOUR]


@pytest.fixture
def has_systemd(host: Host) -> bool:
    return host.backend.host == TARGET


def backups(host: Host) -> list[str]:
    return host.run(f"ls {REPOSITORY}/nightly | grep Z$ | sort").stdout.split()


def test_what_is_scheduled(host: Host, has_systemd: bool) -> None:
    assert host.file(CRONTAB).exists is not has_systemd
    assert host.file("/etc/systemd/system/db-backup@.timer").exists is has_systemd
    if has_systemd:
        listed = json.loads(host.check_output("systemctl list-timers --output json 'db-backup*'"))
        assert [timer["unit"] for timer in listed] == ["db-backup@nightly.timer"]
        assert "docker.service" in host.check_output("systemctl show --property After db-backup@nightly.service")
    else:
        assert host.file(CRONTAB).content_string.splitlines()[-1].startswith("30 2 * * * root /usr/local/bin/dbbackup")


def test_a_scheduled_run_makes_a_verified_backup(host: Host, has_systemd: bool) -> None:
    before = backups(host)
    if has_systemd:
        started = host.run("systemctl start db-backup@nightly.service")
        assert started.rc == 0, host.run("journalctl --unit db-backup@nightly --no-pager --lines 30").stdout
    else:
        line = host.file(CRONTAB).content_string.splitlines()[-1]
        host.check_output(line.split(" root ", 1)[1])
    (made,) = set(backups(host)) - set(before)
    host.check_output("cd %s/nightly/%s && sha256sum -c SHA256SUMS", REPOSITORY, made)
    (job,) = json.loads(host.check_output("dbbackup status nightly --json"))
    assert (job["health"]["status"], job["max_age_hours"]) == ("ok", 27)
    assert job["last_verify"] == {"at": job["last_verify"]["at"], "status": "passed", "id": made, "message": None}


def test_a_server_that_is_gone_is_told(host: Host) -> None:
    job = "/etc/db-backup/jobs.d/nightly.json"
    host.check_output("mkdir -p /tmp/jobs && sed s/chroma-server/chroma-gone/ %s > /tmp/jobs/nightly.json", job)
    told = host.run("dbbackup --jobs-directory /tmp/jobs run nightly")
    assert told.rc == 1
    assert "there is no container embedded-db-backup-chroma-gone" in told.stderr
    assert host.run("dbbackup status nightly").rc == 1
