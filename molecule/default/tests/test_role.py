"""What holds on a host where the role has installed a job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

APPLICATION = "sudo -u kg python3 /usr/local/bin/lmdb_application.py"
REPOSITORY = "/var/backups/db-backup"
EXPOSURE = 3.0
CHECKOUT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
# An environment that is sound, and that the application has no use for.
MAKE_OTHER = """
import lmdb
with lmdb.open("/srv/other", max_dbs=2) as other:
    other.open_db(b"not nodes")
"""
FLIP_MIDDLE_BYTE = """
import sys
with open(sys.argv[1], "r+b") as stored:
    middle = stored.seek(0, 2) // 2
    stored.seek(middle)
    byte = stored.read(1)
    stored.seek(middle)
    stored.write(bytes([byte[0] ^ 1]))
"""
UNITS = "/etc/systemd/system"
# An environment of LMDB 1.0, which py-lmdb of the distribution cannot read.
MAKE_MODERN = """
import lmdb
with lmdb.open("/srv/modern", lib_version=1) as environment, environment.begin(write=True) as transaction:
    transaction.put(b"key", b"value")
"""
READ_MODERN = """
import lmdb
with lmdb.open("/srv/modern", lib_version=1) as environment, environment.begin() as transaction:
    assert transaction.get(b"key") == b"value"
"""


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


def start(host: Host, unit: str) -> None:
    """Run a service to its end."""
    started = host.run("systemctl start %s", unit)
    assert started.rc == 0, host.run("journalctl --unit %s --no-pager --lines 30", unit).stdout


@pytest.fixture
def fresh(host: Host) -> Iterator[str]:
    """The id of a backup that was made just now; it is gone afterwards, and so is what the test did to the data."""
    before = set(backups(host))
    start(host, "db-backup@kg.service")
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


def test_a_service_is_stopped_for_a_copy_and_goes_on(host: Host) -> None:
    job = {"type": "lmdb", "path": "/srv/kg", "method": "cold", "service": "kg", "repository": "/srv/held"}
    host.check_output("mkdir -p /srv/held-jobs && printf %%s %s > /srv/held-jobs/held.json", json.dumps(job))
    try:
        manifest = json.loads(host.check_output("dbbackup run held --json --jobs-directory /srv/held-jobs"))["backup"]
        assert manifest["backup"]["method"] == "cold"
        assert manifest["backup"]["online"] is False
        assert host.service("kg").is_running
        written = host.check_output("stat -c %Y /srv/kg/data.mdb")
        eventually(lambda: host.check_output("stat -c %Y /srv/kg/data.mdb") != written, "the application writes")
        host.check_output("dbbackup restore held --jobs-directory /srv/held-jobs --dest /srv/held-copy --owner kg")
        host.check_output(f"{APPLICATION} judge /srv/held-copy")
    finally:
        host.check_output("rm -rf /srv/held /srv/held-jobs /srv/held-copy")


def test_a_service_that_was_stopped_for_a_copy_goes_on_when_the_run_is_killed_with_its_guard(host: Host) -> None:
    job = {"type": "lmdb", "path": "/srv/kg", "method": "cold", "service": "kg", "repository": "/srv/held"}
    dbbackup = "/usr/local/bin/dbbackup --jobs-directory /srv/held-jobs"
    host.check_output("mkdir -p /srv/held-jobs && printf %%s %s > /srv/held-jobs/held.json", json.dumps(job))
    # The service takes its time to end, so that the run is killed while it does.
    wait = "[Service]\nExecStopPost=+/bin/sh -c 'while test -e /run/wait; do sleep 0.1; done'\n"
    host.check_output(f"mkdir -p {UNITS}/kg.service.d && printf %%s %s > {UNITS}/kg.service.d/wait.conf", wait)
    host.check_output("systemctl daemon-reload && touch /run/wait")
    thaw = f"ExecStopPost={dbbackup} thaw held"
    try:
        host.check_output(f"systemd-run --quiet --unit held --property %s {dbbackup} run held", thaw)
        eventually(lambda: host.run("systemctl is-active kg").stdout.strip() == "deactivating", "it is stopped")
        host.check_output("systemctl kill --signal KILL held")
        host.check_output("rm /run/wait")
        eventually(lambda: host.service("kg").is_running, "it is started again")
        eventually(lambda: host.run("systemctl is-active held").rc != 0, "the unit has ended")
        assert "halted" not in host.check_output("ls -A /srv/held/held")
    finally:
        host.run("rm -rf /run/wait %s/kg.service.d /srv/held /srv/held-jobs", UNITS)
        host.check_output("systemctl daemon-reload && systemctl start kg && { systemctl reset-failed held || true; }")


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
    expected = acknowledged(host, fresh)
    host.check_output("rm /srv/kg/data.mdb")
    plan = host.run("restore-kg --dry-run --id %s", fresh)
    assert "kg.service would be stopped" in plan.stdout, plan
    assert not host.file("/srv/kg/data.mdb").exists
    assert "say --yes" in host.run("restore-kg --id %s < /dev/null", fresh).stderr

    restored = host.run("restore-kg --yes --id %s", fresh)
    assert restored.rc == 0, restored.stderr
    assert "kg.service was stopped, runs again and is well" in restored.stdout
    assert host.service("kg").is_running
    judge(host, expected)


def test_a_restore_can_be_undone_as_it_says(host: Host, fresh: str) -> None:
    before = inode(host)
    restored = host.run("restore-kg --yes --at %s", fresh)
    assert restored.rc == 0, restored.stderr
    assert inode(host) != before
    lines = restored.stdout.splitlines()
    commands = [line.strip() for line in lines[lines.index("  to undo it:") + 1 :]]
    host.check_output(" && ".join(commands))
    assert inode(host) == before
    judge(host, 1)


def test_a_backup_that_the_service_cannot_use_is_rolled_back(host: Host) -> None:
    job = json.dumps({"type": "lmdb", "path": "/srv/other", "repository": "/var/backups/other"})
    host.check_output("mkdir -p /srv/other && python3 -c %s", MAKE_OTHER)
    host.check_output("echo %s > /etc/db-backup/jobs.d/other.json && dbbackup run other", job)
    before = inode(host)
    restored = host.run("dbbackup restore other --yes --dest /srv/kg --service kg --owner kg --group kg")
    host.check_output("rm -r /etc/db-backup/jobs.d/other.json /var/backups/other /srv/other")
    assert restored.rc == 1
    assert "kg.service did not stay up after it was started; its last words: " in restored.stderr
    assert host.service("kg").is_running
    assert inode(host) == before
    assert host.check_output("ls --almost-all /srv/kg").split() == ["data.mdb", "lock.mdb"]
    judge(host, 1)


def test_a_restore_that_is_killed_has_the_service_started_again(host: Host, fresh: str) -> None:
    """By the service itself, once it is stopped: then no file was exchanged yet."""
    before = inode(host)
    drop_in = f"{UNITS}/kg.service.d/kill.conf"
    text = "[Service]\nExecStopPost=+/bin/sh -c 'kill -KILL $(cat /run/restore.pid)'\n"
    host.check_output("mkdir -p %s/kg.service.d && printf %s > %s && systemctl daemon-reload", UNITS, text, drop_in)
    try:
        killed = host.run("sh -c 'echo $$ > /run/restore.pid; exec restore-kg --yes --id %s'", fresh)
    finally:
        host.check_output("rm -r %s/kg.service.d && systemctl daemon-reload", UNITS)
    assert killed.rc == 128 + signal.SIGKILL, killed
    eventually(lambda: host.service("kg").is_running, "the guard has started the service")
    assert inode(host) == before
    judge(host, 1)

    restored = host.run("restore-kg --yes --id %s", fresh)
    assert restored.rc == 0, restored.stderr
    assert "kg.service was stopped, runs again and is well" in restored.stdout
    assert host.check_output("find /srv/kg -name '.*'") == ""


def test_the_drill_proves_that_it_can_be_restored(host: Host, fresh: str) -> None:
    start(host, "db-backup-drill@kg.service")
    proven = status(host)["proven_restorable"]
    assert (proven["id"], proven["status"]) == (fresh, "passed")
    assert proven["at"][:16] in host.check_output("dbbackup status kg")


def test_a_corrupted_backup_fails_drill_and_status(host: Host, fresh: str) -> None:
    host.check_output("python3 -c %s %s", FLIP_MIDDLE_BYTE, f"{REPOSITORY}/kg/{fresh}/data.mdb.zst")
    assert host.run("systemctl start db-backup-drill@kg.service").rc != 0
    assert host.run("systemctl is-failed db-backup-drill@kg.service").rc == 0
    told = host.run("dbbackup status kg")
    assert told.rc == 1
    assert "not well: kg (drill failed)" in told.stderr
    alert = host.check_output("journalctl --unit db-backup-drill-alert@kg.service --output cat --no-pager")
    assert "kg: nobody is to be told" in alert


def test_a_host_that_reaches_no_mirror(host: Host) -> None:
    """What is there is not fetched; what is not is told in a sentence, and all stays as it was."""
    no_mirror = "/etc/apt/apt.conf.d/99no-mirror"
    # Other tests change what is installed.
    assert install_by_role([]).returncode == 0
    host.check_output("echo 'Acquire::http::Proxy \"http://127.0.0.1:9\";' > %s", no_mirror)
    try:
        told = install_by_role([])
        assert told.returncode == 0, told.stdout
        assert re.search(r"changed=0 .*failed=0", told.stdout), told.stdout
        before = installed(host)
        told = install_by_role(["--extra-vars", json.dumps({"backup_packages": ["zstd", "db-backup-is-no-package"]})])
    finally:
        host.check_output("rm %s", no_mirror)
    assert told.returncode != 0
    assert "The packages zstd, db-backup-is-no-package cannot be installed: " in told.stdout
    assert "backup_manage_packages: false" in told.stdout
    assert installed(host) == before


@pytest.fixture
def as_installed(host: Host) -> Iterator[None]:
    """Afterwards the role has installed again what it did before."""
    yield
    assert install_by_role([]).returncode == 0
    assert runner_python(host) == "/usr/bin/python3"


@pytest.mark.usefixtures("as_installed")
def test_libraries_come_by_pip_where_there_is_no_package(host: Host) -> None:
    """And others where they are asked for; the sandbox of the services lets them work."""
    kg = {"name": "kg", "type": "lmdb", "path": "/srv/kg", "restore": {"service": "kg.service"}}
    notes = {"name": "notes", "type": "nrepl", "port": 7888, "function": "app/export!", "schedule": None}
    notes = {**notes, "drill_schedule": None, "also_to": [{"postgresql": "service=backups"}]}
    given = {"backup_pip_arguments": ["--no-index", "--find-links", "/srv/wheels"]}
    pin = "/etc/apt/preferences.d/no-psycopg"
    host.check_output("printf 'Package: python3-psycopg\nPin: release *\nPin-Priority: -1\n' > %s", pin)
    try:
        told = install_by_role(["--extra-vars", json.dumps({**given, "backup_jobs": [kg, notes]})])
    finally:
        host.check_output("rm %s", pin)
    assert told.returncode == 0, told.stdout
    first = runner_python(host)
    assert first.startswith("/usr/local/lib/db-backup/environment-")
    host.check_output("%s -c 'import lmdb, psycopg'", first)
    installed = host.file(first.replace("/bin/python", "/requirements.txt")).content_string
    assert "psycopg" in installed
    assert "lmdb" not in installed, "the distribution has a package of it"
    start(host, "db-backup@kg.service")

    modern = {**kg, "name": "modern", "path": "/srv/modern", "restore": {}}
    told = install_by_role(
        ["--extra-vars", json.dumps({**given, "backup_libraries": ["lmdb==3.0.0"], "backup_jobs": [kg, modern]})]
    )
    assert told.returncode == 0, told.stdout
    second = runner_python(host)
    assert second != first
    assert host.file(first).exists, "a run that was just starting may need it"
    host.check_output("%s -c %s", second, MAKE_MODERN)
    start(host, "db-backup@modern.service")
    start(host, "db-backup-drill@modern.service")
    test_services_are_sandboxed(host, "db-backup@modern.service")
    host.check_output("rm -r /srv/modern && restore-modern --yes --latest")
    host.check_output("%s -c %s", second, READ_MODERN)
    host.check_output("rm -r /srv/modern %s/modern", REPOSITORY)


def test_fifty_jobs_and_none(host: Host) -> None:
    """The last test: it removes the job."""
    known = backups(host)
    jobs = [{"name": f"kg-{number}", "type": "lmdb", "path": "/srv/kg"} for number in range(50)]
    assert install(host, jobs)["changed"]
    started = time.monotonic()
    assert not install(host, jobs)["changed"]
    assert time.monotonic() - started < 60
    listed = json.loads(host.check_output("systemctl list-timers --output json 'db-backup*'"))
    assert len(listed) == 100
    assert not host.file("/usr/local/bin/restore-kg").exists

    removed = install(host, [])["removed"]
    assert "/usr/local/bin/restore-kg-49" in removed
    assert json.loads(host.check_output("systemctl list-timers --output json 'db-backup*'")) == []
    ours = "-name '*db-backup*@kg*' -o -name 'restore-*' -o -name '*.json'"
    assert host.check_output(f"find /etc/systemd/system /etc/db-backup /usr/local/bin {ours}") == ""
    assert backups(host) == known
    assert host.service("kg").is_running


def install_by_role(options: list[str]) -> subprocess.CompletedProcess[str]:
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    command = ["ansible-playbook", "-i", inventory, "molecule/default/existing.yml", *options]
    # With another Python the runner would be another one.
    settings = {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3"}
    environ = {**os.environ, **settings}
    return subprocess.run(command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=False)


def installed(host: Host) -> str:
    """Names and contents of what the role installs."""
    places = "/etc/db-backup /usr/local/bin /usr/local/lib/db-backup /etc/systemd/system"
    return host.check_output(f"find {places} -type f -exec sha256sum {{}} + | sort")


def install(host: Host, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    result = host.ansible("embedded.db_backup.backup_install", json.dumps({"jobs": jobs}), check=False)
    assert "version" in result, result
    return result


def runner_python(host: Host) -> str:
    return host.file("/usr/local/bin/dbbackup").content_string.splitlines()[0].removeprefix("#!")


def inode(host: Host) -> int:
    return int(host.check_output("stat --format %i /srv/kg/data.mdb"))


def acknowledged(host: Host, backup: str) -> int:
    """The last generation that the application acknowledged before this backup began."""
    manifest = json.loads(host.file(f"{REPOSITORY}/kg/{backup}/manifest.json").content_string)
    started = datetime.fromisoformat(manifest["timestamp_start"]).timestamp()
    ledger = host.file("/var/lib/kg/ledger").content_string.splitlines()
    return [int(line.split()[0]) for line in ledger[:-1] if int(line.split()[1]) < started * 1e9][-1]


def judge(host: Host, at_least: int) -> None:
    """Let the application judge its data, stopped for a moment."""
    host.check_output("systemctl stop kg")
    answer = host.run(f"{APPLICATION} judge /srv/kg --at-least {at_least} --json")
    host.check_output("systemctl start kg")
    assert answer.rc == 0, answer.stdout + answer.stderr
