"""What holds on a host where the role has installed a job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from testinfra.backend.base import CommandResult
from testinfra.host import Host

APPLICATION = "sudo -u kg python3 /usr/local/bin/lmdb_application.py"
REPOSITORY = "/var/backups/db-backup"
EXPOSURE = 3.0
UNITS = "/etc/systemd/system"


def eventually(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)
    return value


def backups(host: Host) -> list[str]:
    return host.check_output("ls %s/kg | grep Z$ | sort", REPOSITORY).split()


def status(host: Host) -> Any:
    (job,) = json.loads(host.run("dbbackup status kg --json --repository %s", REPOSITORY).stdout)
    return job


def start(host: Host, unit: str) -> CommandResult:
    """Run a service to its end."""
    started = host.run("systemctl start %s", unit)
    if started.rc:
        print(host.run("journalctl --unit %s --no-pager --lines 30", unit).stdout)
    return started


@pytest.fixture
def fresh(host: Host) -> Iterator[str]:
    """The id of a backup that was made just now; it is gone afterwards, and so is what the test did to the data."""
    before = set(backups(host))
    assert start(host, "db-backup@kg.service").rc == 0
    (made,) = set(backups(host)) - before
    yield made
    for backup in set(backups(host)) - before:
        host.check_output("rm -r %s/kg/%s", REPOSITORY, backup)
    host.run("dbbackup drill kg")
    host.check_output("systemctl reset-failed")
    host.check_output("find /srv/kg -mindepth 1 -maxdepth 1 -name '*.before-restore-*' -exec rm -r {} +")
    assert host.service("kg").is_running


def test_timers_wait(host: Host) -> None:
    listed = json.loads(host.check_output("systemctl list-timers --output json 'db-backup*'"))
    found = {timer["unit"]: timer["next"] for timer in listed}
    assert set(found) == {"db-backup@kg.timer", "db-backup-drill@kg.timer"}
    now = time.time() * 1e6
    assert now < found["db-backup@kg.timer"] < now + 25 * 3600e6
    assert now < found["db-backup-drill@kg.timer"] < now + 8 * 24 * 3600e6
    for unit in found:
        assert host.service(unit).is_enabled
        shown = host.check_output("systemctl show --property Persistent,FixedRandomDelay,RandomizedDelayUSec %s", unit)
        assert set(shown.split()) == {"Persistent=yes", "FixedRandomDelay=yes", "RandomizedDelayUSec=15min"}


@pytest.mark.parametrize("unit", ["db-backup@kg.service", "db-backup-drill@kg.service"])
def test_services_are_sandboxed(host: Host, unit: str) -> None:
    told = host.check_output("systemd-analyze security --no-pager %s", unit)
    exposure = float(told.splitlines()[-1].split(": ")[1].split()[0])
    assert exposure <= EXPOSURE, told


def test_units_are_sound(host: Host) -> None:
    verified = host.run("systemd-analyze verify db-backup@kg.service db-backup@kg.timer db-backup-drill@kg.timer")
    assert "db-backup" not in verified.stderr, verified.stderr


def test_the_service_makes_a_verified_backup(host: Host, fresh: str) -> None:
    host.check_output("cd %s/kg/%s && sha256sum -c SHA256SUMS", REPOSITORY, fresh)
    (backup,) = [one for one in status(host)["backups"] if one["id"] == fresh]
    assert backup["verified"]["status"] == "passed"
    journal = host.check_output("journalctl --unit db-backup@kg.service --output cat --no-pager")
    assert f"kg: {REPOSITORY}/kg/{fresh}: " in journal
    assert host.service("kg").is_running


def test_a_timer_that_is_due_fires(host: Host) -> None:
    before = backups(host)
    due = (datetime.now(UTC) + timedelta(seconds=4)).strftime("%Y-%m-%d %H:%M:%S UTC")
    soon = f"{UNITS}/db-backup@kg.timer.d/soon.conf"
    host.check_output("printf '[Timer]\nRandomizedDelaySec=0\nOnCalendar=%%s\n' %s > %s", due, soon)
    host.check_output("systemctl daemon-reload && systemctl restart db-backup@kg.timer")
    try:
        eventually(lambda: len(backups(host)) > len(before), "the timer has made a backup")
    finally:
        host.check_output("rm %s && systemctl daemon-reload && systemctl restart db-backup@kg.timer", soon)


def test_restore_brings_back_deleted_data_into_the_running_service(host: Host, fresh: str) -> None:
    host.check_output("rm /srv/kg/data.mdb")
    restored = host.run("restore-kg --yes --id %s", fresh)
    assert restored.rc == 0, restored.stderr
    assert host.service("kg").is_running
    assert host.file("/srv/kg/data.mdb").user == "kg"
    manifest = json.loads(host.file(f"{REPOSITORY}/kg/{fresh}/manifest.json").content_string)
    [environment] = manifest["source"]["environments"]
    assert judged(host)["generation"] >= environment["position"]["start"] // 10
    assert host.check_output("systemctl is-active kg") == "active"


def judged(host: Host) -> Any:
    """What the application says of its data, stopped for a moment."""
    host.check_output("systemctl stop kg")
    try:
        answer = host.run(f"{APPLICATION} judge /srv/kg --at-least 1 --json")
        assert answer.rc == 0, answer.stdout + answer.stderr
        return json.loads(answer.stdout)
    finally:
        host.check_output("systemctl start kg")
