"""What holds for a user who has installed jobs without root."""

from __future__ import annotations

import json
import time

import pytest
from testinfra.host import Host

HOME = "/home/alice"
ENVIRONMENT = f"env HOME={HOME} XDG_RUNTIME_DIR=/run/user/1000"
SYSTEMCTL = f"{ENVIRONMENT} systemctl --user"
DBBACKUP = f"{ENVIRONMENT} {HOME}/.local/bin/dbbackup"
# An environment of LMDB 1.0, which py-lmdb of the distribution cannot read, and what is in one.
MAKE_MODERN = """
import lmdb
with lmdb.open("/home/alice/modern", lib_version=1) as environment, environment.begin(write=True) as transaction:
    for number in range(1000):
        transaction.put(b"key %d" % number, b"value %d" % number)
"""
COUNT_MODERN = """
import lmdb
with lmdb.open("/home/alice/modern", lib_version=1) as environment, environment.begin() as transaction:
    print(sum(value == b"value" + key[3:] for key, value in transaction.cursor()))
"""


def backups(host: Host) -> list[str]:
    return host.check_output(f"ls {HOME}/backups/kg | grep Z$ | sort").split()


@pytest.fixture
def fresh(host: Host) -> str:
    """The id of a backup that was made just now."""
    host.check_output(f"{SYSTEMCTL} start db-backup@kg.service")
    return backups(host)[-1]


def test_nobody_was_root(host: Host) -> None:
    assert host.check_output("id --user --name") == "alice"
    assert host.check_output(f"find {HOME} ! -user alice") == ""


def test_timers_wait_without_a_login(host: Host) -> None:
    listed = json.loads(host.check_output(f"{SYSTEMCTL} list-timers --output json 'db-backup*'"))
    found = {timer["unit"]: timer["next"] for timer in listed}
    assert set(found) == {"db-backup@kg.timer", "db-backup-drill@kg.timer"}
    assert all(moment > time.time() * 1e6 for moment in found.values())
    assert host.file("/var/lib/systemd/linger/alice").exists


def test_backup_drill_and_status(host: Host, fresh: str) -> None:
    host.check_output(f"cd {HOME}/backups/kg/{fresh} && sha256sum -c SHA256SUMS")
    host.check_output(f"{SYSTEMCTL} start db-backup-drill@kg.service")
    (job,) = json.loads(host.check_output(f"{DBBACKUP} status kg --json"))
    assert job["proven_restorable"]["id"] == fresh
    assert (job["health"]["status"], job["max_age_hours"]) == ("ok", 27)


def test_restore_into_the_running_service(host: Host, fresh: str) -> None:
    host.check_output(f"rm {HOME}/kg/data.mdb")
    restored = host.run(f"{ENVIRONMENT} {HOME}/.local/bin/restore-kg --yes --id {fresh}")
    assert restored.rc == 0, restored.stderr
    assert "kg.service was stopped, runs again and is well" in restored.stdout
    assert "systemctl --user stop kg.service" not in restored.stdout, "nothing was there to bring back"
    assert host.check_output(f"{SYSTEMCTL} is-active kg.service") == "active"
    host.check_output(f"{SYSTEMCTL} stop kg.service")
    judged = host.run(f"python3 /usr/local/bin/lmdb_application.py judge {HOME}/kg --json")
    host.check_output(f"{SYSTEMCTL} start kg.service")
    assert judged.rc == 0, judged.stdout


def test_what_only_a_newer_library_reads(host: Host) -> None:
    """LMDB 1.0, by a unit and by the restore script, both in the virtual environment of the runner."""
    python = host.file(f"{HOME}/.local/bin/dbbackup").content_string.splitlines()[0].removeprefix("#!")
    assert python.startswith(f"{HOME}/.local/lib/db-backup/environment-")
    host.check_output("%s -c %s", python, MAKE_MODERN)
    host.check_output(f"{SYSTEMCTL} start db-backup@modern.service")
    host.check_output(f"rm -r {HOME}/modern")
    host.check_output(f"{ENVIRONMENT} {HOME}/.local/bin/restore-modern --yes --latest")
    assert host.check_output("%s -c %s", python, COUNT_MODERN) == "1000"
    manifest = json.loads(host.check_output(f"cat $(ls {HOME}/backups/modern/*/manifest.json | tail -1)"))
    assert manifest["source"]["environments"][0]["data_version"] == 3
