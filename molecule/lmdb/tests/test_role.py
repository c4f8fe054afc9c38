"""What the role has installed for an application in a container: on a host with systemd, and on one without."""

from __future__ import annotations

import json

from testinfra.host import Host

NAME = "embedded-db-backup-lmdb"
TARGET, NEIGHBOUR = f"{NAME}-target", f"{NAME}-neighbour"
REPOSITORY = "/var/backups/db-backup"
CRONTAB = "/etc/cron.d/db-backup"
testinfra_hosts = [TARGET, NEIGHBOUR]


def test_a_scheduled_run_makes_a_verified_backup(host: Host) -> None:
    if host.backend.host == TARGET:
        started = host.run("systemctl start db-backup@nightly.service")
        assert started.rc == 0, host.run("journalctl --unit db-backup@nightly --no-pager --lines 30").stdout
    else:
        line = host.file(CRONTAB).content_string.splitlines()[-1]
        host.check_output(line.split(" root ", 1)[1])
    *_others, made = host.check_output("ls %s/nightly | grep Z$ | sort", REPOSITORY).split()
    host.check_output("cd %s/nightly/%s && sha256sum -c SHA256SUMS", REPOSITORY, made)
    (job,) = json.loads(host.check_output("dbbackup status nightly --json"))
    assert job["health"]["status"] == "ok"
    assert job["last_verify"]["status"] == "passed"
    assert host.run("dbbackup check nightly").rc == 0
