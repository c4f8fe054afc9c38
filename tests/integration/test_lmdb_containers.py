# SPDX-License-Identifier: GPL-3.0-or-later
"""LMDB applications in real containers: backed up from the host as they write, and restored into their volumes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.backup import back_up
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import NEWEST
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.restore import restore
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.containers import IMAGE, Containers, engine, over_tcp
from ansible_collections.embedded.db_backup.tests.fixtures import heed_application, lmdb_application
from ansible_collections.embedded.db_backup.tests.tools import (
    CHECKOUT,
    Command,
    content_of,
    eventually,
    make_environment,
)

NAME = "kg-application"
USER = 12345
APPLICATION = f"{lmdb_application.__file__}:/application.py:ro"
# Commits five times a second, with a note in a ledger after each, and looks whether all is as it left it. Its own reads
# take a place in the table of readers, like those of others.
GENTLE = """
import lmdb, os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
environment = lmdb.open("/data", map_size=64 << 20)
number = 0
while True:
    with environment.begin() as transaction:
        number = int(transaction.get(b"63", b"0"))
        if any(int(transaction.get(b"%d" % key, b"0")) != number for key in range(64)):
            os._exit(3)
    with environment.begin(write=True) as transaction:
        for key in range(64):
            transaction.put(b"%d" % key, b"%d" % (number + 1))
    with open("/ledger/ledger", "a") as ledger:
        ledger.write("%d %d\\n" % (number + 1, time.time_ns()))
    time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """The engine of the tests."""
    with contextlib.closing(engine()) as found:
        yield found


@pytest.fixture
def containers(client: Any) -> Iterator[Containers]:
    """Makes containers."""
    made = Containers(client)
    yield made
    made.remove()


class Application:
    """An application in a container that writes as long as the test goes on."""

    def __init__(self, containers: Containers, directory: Path, *, gentle: bool = False, **settings: Any) -> None:
        self.containers = containers
        self.ledger = directory / "ledger/ledger"
        self.ledger.parent.mkdir()
        self.ledger.parent.chmod(0o777)
        binds = [APPLICATION, f"{self.ledger.parent}:/ledger", *settings.pop("binds", [])]
        seed = "python3 /application.py seed /data --megabytes 1"
        write = "exec python3 /application.py write /data --ledger /ledger/ledger"
        command = ["python3", "-c", GENTLE] if gentle else ["sh", "-c", f"{seed} && {write}"]
        self.container = containers.run(command, name=NAME, binds=binds, **settings)
        eventually(self.writes, "the application writes")

    def acknowledged(self) -> int:
        return lmdb_application.acknowledged(self.ledger)

    def writes(self) -> bool:
        return self.ledger.exists() and self.acknowledged() > 0

    def goes_on(self) -> None:
        """It runs, unpaused, and commits."""
        before = self.acknowledged()
        eventually(lambda: self.acknowledged() > before + 1, "the application goes on")
        state = self.containers.state(self.container)
        assert (state["Running"], state["Paused"]) == (True, False)


def heed_acknowledged(ledger: Path) -> int:
    """The last generation that the application of heed has noted."""
    lines = ledger.read_text().split("\n")[:-1]
    return int(lines[-1]) if lines else 0


def judge(copy: Path, acknowledged: int) -> None:
    """The copy is of one state, with every acknowledged transaction."""
    judgement = lmdb_application.judge(copy, acknowledged)
    assert judgement.good, judgement.sentence


def generation_of(copy: Path) -> int:
    """What the gentle application had committed last; all its keys tell the same."""
    opened = contextlib.closing(lmdb.open(str(copy), readonly=True, lock=False))
    with opened as environment, environment.begin() as transaction:
        (only,) = {int(value) for _key, value in transaction.cursor()}
    return only


class TestWays:
    @pytest.mark.parametrize(
        ("way", "settings", "times"),
        [
            ("volume", {"volumes": ["/data"]}, 20),
            ("merged", {}, 2),
            ("process", {"tmpfs": {"/data": ""}}, 2),
        ],
    )
    def test_every_backup_is_consistent_and_whole(  # noqa: PLR0917 - all but three are fixtures
        self,
        containers: Containers,
        dbbackup: Command,
        tmp_path: Path,
        way: str,
        settings: dict[str, Any],
        times: int,
    ) -> None:
        application = Application(containers, tmp_path, **settings)
        dbbackup.job("kg", "/data", container=NAME)
        job, restored = jobs.load(dbbackup.jobs, "kg"), tmp_path / "restored"
        for _unused in range(times):
            acknowledged = application.acknowledged()
            details = back_up(job).backup["source"]
            (environment,) = details["environments"]
            assert (environment["method"], environment["reason"]) == ("hot", None)
            assert (details["container"]["way"], details["container"]["paused_ms"]) == (way, None)
            restore(Repository(dbbackup.repository).job("kg"), NEWEST, Request(destination=restored))
            judge(restored, acknowledged)
            shutil.rmtree(restored)
        application.goes_on()
        assert containers.execute(application.container, "ls", "/data").split() == ["data.mdb", "lock.mdb"]

    def test_with_the_rights_of_the_owner(self, containers: Containers, dbbackup: Command, tmp_path: Path) -> None:
        """The directory lets nobody else pass, and the application owns its lock file as before."""
        data = tmp_path / "data"
        data.mkdir(mode=0o700)
        os.chown(data, USER, USER)
        application = Application(containers, tmp_path, gentle=True, user=str(USER), binds=[f"{data}:/data"])
        dbbackup.job("kg", "/data", container=NAME, compact=True)
        acknowledged = application.acknowledged()
        dbbackup.ok("run", "kg")
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
        assert generation_of(tmp_path / "restored") >= acknowledged
        assert {(data / name).stat().st_uid for name in ("data.mdb", "lock.mdb")} == {USER}
        application.goes_on()

    def test_what_a_path_names(self, containers: Containers, dbbackup: Command, tmp_path: Path) -> None:
        """A tree with environments and media, and a single file; told by their paths in the container."""
        volume = tmp_path / "volume"
        contents = {name: make_environment(volume / name, 50, salt=name) for name in ("one", "deep/two")}
        single = make_environment(volume / "single.lmdb", 50, subdir=False)
        make_environment(volume / ".hidden")
        (volume / "media").mkdir()
        (volume / "media" / "picture").write_bytes(b"picture")
        (volume / "link").symlink_to("deep")
        containers.run(["sleep", "1000"], name=NAME, binds=[f"{volume}:/srv/data"])
        dbbackup.job("kg", "/srv/data", container=NAME, include=["media"], skip_unchanged=True)
        done = dbbackup.ok("run", "kg")["backup"]
        assert done["source"]["path"] == done["source"]["container"]["directory"] == "/srv/data"
        assert dbbackup.ok("run", "kg")["skipped"]
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
        assert {name: content_of(tmp_path / "restored" / name) for name in contents} == contents
        assert (tmp_path / "restored/media/picture").read_bytes() == b"picture"
        dbbackup.job("link", "/srv/data/link", container=NAME)
        dbbackup.ok("run", "link")
        dbbackup.ok("restore", "link", "--dest", tmp_path / "linked")
        assert content_of(tmp_path / "linked/two") == contents["deep/two"]
        dbbackup.job("single", "/srv/data/single.lmdb", container=NAME)
        assert dbbackup.ok("run", "single")["backup"]["source"]["single_file"]
        dbbackup.ok("restore", "single", "--dest", tmp_path / "single.lmdb")
        assert content_of(tmp_path / "single.lmdb") == single

    def test_an_application_of_heed(self, containers: Containers, dbbackup: Command, tmp_path: Path) -> None:
        """All three environments unlocked, as on the host, with the media that they tell of."""
        try:
            program = heed_application.program()
        except heed_application.MissingError as missing:
            pytest.skip(str(missing))
        data, ledger = tmp_path / "data", tmp_path / "ledger/ledger"
        heed_application.seed(data, 2, visual=True)
        ledger.parent.mkdir()
        binds = [f"{program}:/program:ro", f"{data}:/srv/data", f"{ledger.parent}:/ledger"]
        command = ["/program", "write", "/srv/data", "/ledger/ledger", "--pause", "1000"]
        container = containers.run(command, name=NAME, binds=binds, ready="/ledger/ledger")
        eventually(lambda: heed_acknowledged(ledger) > 0, "the application writes")
        dbbackup.job("memory", "/srv/data", container=NAME, include=["media"])
        acknowledged = heed_acknowledged(ledger)
        source = dbbackup.ok("run", "memory")["backup"]["source"]
        paths = ["vector/data.mdb", "vector/visual/data.mdb", "graph/data.mdb"]
        assert [(one["path"], one["method"]) for one in source["environments"]] == [
            (path, "optimistic") for path in paths
        ]
        dbbackup.ok("restore", "memory", "--dest", tmp_path / "restored")
        heed_application.judge(tmp_path / "restored", acknowledged)
        eventually(lambda: heed_acknowledged(ledger) > acknowledged + 1, "the application goes on")
        assert containers.state(container)["Running"]

    @pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
    def test_links_lead_to_no_file_of_the_host(
        self, containers: Containers, dbbackup: Command, tmp_path: Path, name: str
    ) -> None:
        """LMDB would write a lock file anew; a file of the host has to stay as it is."""
        secret = tmp_path / "secret"
        make_environment(secret)
        (secret / "lock.mdb").write_bytes(b"precious")
        make_environment(tmp_path / "volume")
        (tmp_path / "volume" / name).unlink()
        (tmp_path / "volume" / name).symlink_to(secret / name)
        containers.run(["sleep", "1000"], name=NAME, binds=[f"{tmp_path / 'volume'}:/data"])
        dbbackup.job("kg", "/data", container=NAME)
        assert f"/data/{name} is a link" in dbbackup.fails(1, "run", "kg")
        assert (secret / "lock.mdb").read_bytes() == b"precious"


class TestStandingStill:
    def test_an_engine_elsewhere_pauses_only_when_allowed(
        self, containers: Containers, dbbackup: Command, tmp_path: Path
    ) -> None:
        application = Application(containers, tmp_path, volumes=["/data"])
        with over_tcp() as remote:
            dbbackup.job("kg", "/data", container=NAME, docker_host=remote)
            told = dbbackup.fails(1, "run", "kg")
            assert "can only be had of its engine while it is paused" in told
            application.goes_on()
            dbbackup.job("kg", "/data", container=NAME, docker_host=remote, freeze_timeout=60)
            for _unused in range(3):
                acknowledged = application.acknowledged()
                source = dbbackup.ok("run", "kg")["backup"]["source"]
                assert source["container"]["way"] == "archive"
                assert source["environments"][0]["method"] == "freeze"
                assert 0 < source["paused_ms"] < 60_000
                dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
                judge(tmp_path / "restored", acknowledged)
                shutil.rmtree(tmp_path / "restored")
        application.goes_on()

    @pytest.mark.parametrize("method", ["freeze", "cold"])
    def test_by_name(self, containers: Containers, dbbackup: Command, tmp_path: Path, method: str) -> None:
        application = Application(containers, tmp_path, gentle=True, volumes=["/data"])
        started = containers.state(application.container)["StartedAt"]
        dbbackup.job("kg", "/data", container=NAME, method=method, freeze_timeout=30)
        acknowledged = application.acknowledged()
        source = dbbackup.ok("run", "kg")["backup"]["source"]
        assert source["environments"][0]["method"] == method
        assert source["paused_ms"] > 0
        assert (containers.state(application.container)["StartedAt"] == started) == (method == "freeze")
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
        assert generation_of(tmp_path / "restored") >= acknowledged
        application.goes_on()

    def test_what_is_gone_when_it_stops(self, containers: Containers, dbbackup: Command, tmp_path: Path) -> None:
        application = Application(containers, tmp_path, gentle=True)
        dbbackup.job("kg", "/data", container=NAME, method="cold")
        assert "is not on a volume" in dbbackup.fails(1, "run", "kg")
        application.goes_on()


class TestNamespaces:
    """The backup itself in another container: it shares the volume, and does not see the application."""

    def test_readers_of_another_container_are_not_joined(
        self, containers: Containers, dbbackup: Command, tmp_path: Path
    ) -> None:
        data = tmp_path / "data"
        application = Application(containers, tmp_path, gentle=True, binds=[f"{data}:/data"])
        binds = [f"{CHECKOUT}:{CHECKOUT}:ro", f"{data}:{data}", f"{tmp_path}/backups:{tmp_path}/backups"]
        other = containers.run(["sleep", "1000"], image=IMAGE, binds=binds)

        def run(job: str) -> str:
            command = dbbackup.arguments("run", job)
            return containers.execute(other, "python3", *command[1:])

        dbbackup.repository = tmp_path / "backups/repository"
        dbbackup.jobs = tmp_path / "backups/jobs"
        (tmp_path / "backups").chmod(0o700)
        for method in ("hot", "freeze", "auto"):
            dbbackup.job(method, data, method=method)
            readers = readers_of(data)
            told = run(method)
            assert readers_of(data) == readers
            application.goes_on()
            if method != "auto":
                assert "is open in a process of another container" in told
        acknowledged = application.acknowledged()
        run("auto")
        newest = dbbackup.repository / "auto" / dbbackup.backups("auto")[-1] / "manifest.json"
        (environment,) = json.loads(newest.read_text())["source"]["environments"]
        assert environment["method"] == "optimistic"
        assert "is open in a process of another container" in environment["reason"]
        dbbackup.ok("restore", "auto", "--dest", tmp_path / "restored")
        assert generation_of(tmp_path / "restored") >= acknowledged
        application.goes_on()


def readers_of(environment: Path) -> set[int]:
    """The process numbers in the table of readers, as the lock file of 64-bit glibc has it."""
    content = (environment / "lock.mdb").read_bytes()
    return {struct.unpack_from("<i", content, place)[0] for place in range(136, len(content) - 8, 64)}


class TestRestore:
    def test_into_the_volume(self, containers: Containers, dbbackup: Command, tmp_path: Path) -> None:
        """The container is stopped and started; it goes on from the state of the backup, as the same owner."""
        volume = tmp_path / "volume"
        volume.mkdir(mode=0o700)
        os.chown(volume, USER, USER)
        application = Application(containers, tmp_path, gentle=True, user=str(USER), binds=[f"{volume}:/data"])
        dbbackup.job("kg", "/data", container=NAME)
        dbbackup.ok("run", "kg")
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
        saved, inode = generation_of(tmp_path / "restored"), volume.stat().st_ino
        eventually(lambda: application.acknowledged() > saved + 5, "the application goes on after the backup")
        started = containers.state(application.container)["StartedAt"]
        told = dbbackup.ok("restore", "kg", "--container", NAME, "--force")
        assert told["dest"] == str(volume)
        assert containers.state(application.container)["StartedAt"] != started
        application.goes_on()
        numbers = [int(line.split()[0]) for line in application.ledger.read_text().splitlines()]
        assert saved + 1 in numbers[numbers.index(saved + 5) :], "it went on from what was restored"
        status = volume.stat()
        assert (status.st_ino, status.st_uid, status.st_mode & 0o777) == (inode, USER, 0o700)
        assert {(volume / name).stat().st_uid for name in ("data.mdb", "lock.mdb")} == {USER}
