"""What the role has installed for an application in Clojure: a timer, a drill, and a script that restores."""

from __future__ import annotations

import json
import re

from testinfra.host import Host

REPOSITORY = "/var/backups/db-backup"
RESTORED = "/srv/nightly.edn"
ACCOUNTS, BALANCE = 100, 1000


def backups(host: Host) -> set[str]:
    return {name for name in host.run("ls %s/nightly", REPOSITORY).stdout.split() if name.endswith("Z")}


def start(host: Host, unit: str) -> None:
    """Run a service to its end."""
    started = host.run("systemctl start %s", unit)
    assert started.rc == 0, host.run("journalctl --unit %s --no-pager --lines 30", unit).stdout


def made(host: Host) -> str:
    """The id of a backup that the service of the job has made just now."""
    before = backups(host)
    start(host, "db-backup@nightly.service")
    (backup,) = backups(host) - before
    return backup


def test_timers_wait(host: Host) -> None:
    listed = json.loads(host.check_output("systemctl list-timers --output json 'db-backup*'"))
    found = {timer["unit"]: timer["next"] for timer in listed}
    assert set(found) == {"db-backup@nightly.timer", "db-backup-drill@nightly.timer"}
    assert all(found.values())


def test_the_service_makes_a_verified_backup(host: Host) -> None:
    host.check_output("cd %s/nightly/%s && sha256sum -c SHA256SUMS", REPOSITORY, made(host))
    (job,) = json.loads(host.check_output("dbbackup status nightly --json"))
    assert (job["health"]["status"], job["last_verify"]["status"]) == ("ok", "passed")
    assert host.check_output("systemctl show --property NRestarts --value application") == "0"


def test_the_drill_proves_that_it_can_be_restored(host: Host) -> None:
    backup = made(host)
    start(host, "db-backup-drill@nightly.service")
    (job,) = json.loads(host.check_output("dbbackup status nightly --json"))
    assert (job["proven_restorable"]["id"], job["proven_restorable"]["status"]) == (backup, "passed")


def test_the_script_restores_one_moment(host: Host) -> None:
    backup = made(host)
    host.check_output("rm -rf %s", RESTORED)
    assert f"would restore backup {backup}" in host.check_output("restore-nightly --dry-run")
    assert not host.file(RESTORED).exists
    assert f"restored backup {backup}" in host.check_output("restore-nightly --yes")
    balances = [int(found) for found in re.findall(r":balance (-?\d+)", host.file(RESTORED).content_string)]
    assert (len(balances), sum(balances)) == (ACCOUNTS, ACCOUNTS * BALANCE)


def test_a_server_that_is_gone_fails_the_service_and_leaves_the_backups(host: Host) -> None:
    before = backups(host)
    job = "/etc/db-backup/jobs.d/nightly.json"
    host.check_output("mkdir -p /tmp/jobs && sed s/7888/7889/ %s > /tmp/jobs/nightly.json", job)
    told = host.run("dbbackup --jobs-directory /tmp/jobs run nightly")
    assert told.rc == 1, told
    assert "7889" in told.stderr
    assert "Traceback" not in told.stderr
    assert backups(host) == before
    # Also the failure is written down.
    made(host)
