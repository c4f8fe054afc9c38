# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases in real containers: every way to their files, none of them left paused or stopped, whoever is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shlex
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import lmdb
import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers import locate as locating
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers import pause, standstill
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers.container import (
    Address,
    Container,
    Mount,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers.daemon import Daemon
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers.locate import Located, locate
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError, SourceError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import restore as restoring
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import NEWEST
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.processes import Child, Report
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.chroma import locations
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.standstill import StillRunningError
from ansible_collections.embedded.db_backup.tests.containers import BYTES, Containers, engine, over_tcp
from ansible_collections.embedded.db_backup.tests.tools import (
    Ansible,
    Command,
    as_ordinary_user,
    content_of,
    eventually,
    hide_libraries,
    make_environment,
    snapshot,
)

NAME = "chroma.sqlite3"
# An application of LMDB: answers while the environment has what it needs, and ends at once when it cannot be opened.
LMDB_PROGRAM = """
import http.server, lmdb, os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
environment = lmdb.open("/data", max_dbs=4, map_size=64 << 20)
nodes = environment.open_db(b"nodes", create=False)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with environment.begin(db=nodes) as transaction:
            self.send_response(200 if transaction.get(b"poison") is None else 500)
        self.end_headers()
http.server.ThreadingHTTPServer(("", 8000), Answer).serve_forever()
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


@pytest.fixture(scope="module")
def remote(client: Any) -> Iterator[str]:
    """The engine, seen as one on another host."""
    assert client
    with over_tcp() as address:
        yield address


def read(located: Located, name: str) -> str:
    """SHA-256 of a file of the located directory, as a source would read it."""
    assert located.place

    def work(_report: Report) -> str:
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()

    with Child(
        work, what="test", timeout=60, root=located.place.root, directory=located.place.directory, confined=True
    ) as child:
        return str(child.result())


def in_process(function: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    """Run a function in a fork, to be killed."""
    process = multiprocessing.get_context("fork").Process(target=function, daemon=True)
    process.start()
    return process


class TestNames:
    def test_similar_ones_are_never_confused(self, containers: Containers) -> None:
        one, other = (containers.run(["sleep", "1000"], name=name) for name in ("vectors", "vectors-2"))
        with Daemon() as daemon:
            assert daemon.find("vectors").id == daemon.find(one).id == daemon.find(one[:12]).id == one
            assert daemon.find("vectors-2").id == daemon.find(other[:40]).id == other
            for wanted in ("vector", "ectors", one[:11], one[1:], "VECTORS", "vectors-", one + "a"):
                with pytest.raises(SourceError, match="there is no container"):
                    daemon.find(wanted)
            with pytest.raises(SourceError, match=r"did you mean vectors"):
                daemon.find("vektors")
            for wanted in ("", "-x", "../vectors", "vectors/json", "*"):
                with pytest.raises(BackupError, match="neither the name nor the id"):
                    daemon.find(wanted)

    def test_a_name_that_is_the_id_of_another(self, containers: Containers) -> None:
        one = containers.run(["sleep", "1000"])
        containers.run(["sleep", "1000"], name=one[:12])
        with Daemon() as daemon, pytest.raises(SourceError, match="give the whole name or id"):
            daemon.find(one[:12])

    @pytest.mark.usefixtures("client")
    def test_without_the_library(self, dbbackup: Command, tmp_path: Path) -> None:
        make_environment(tmp_path / "kg")
        dbbackup.job("kg", tmp_path / "kg")
        dbbackup.ok("run", "kg")
        dbbackup.env = hide_libraries(tmp_path / "hidden", "docker")
        told = dbbackup.fails(1, "restore", "kg", "--container", "vectors")
        assert "the Python library docker" in told
        assert "python3-docker" in told

    @pytest.mark.parametrize("status", ["exited", "created", "missing"])
    def test_what_does_not_run(self, containers: Containers, status: str) -> None:
        wanted = "no-such-container"
        if status != "missing":
            wanted = containers.server(name="vectors")
            containers.client.stop(wanted, timeout=0)
        if status == "created":
            wanted = containers.client.create_container("embedded-db-backup-target", ["true"])["Id"]
            containers.made.append(wanted)
        text = "there is no container" if status == "missing" else f"is not running but {status}"
        with pytest.raises(SourceError, match=text), locate(wanted, None, Path("/data"), NAME):
            pytest.fail("it was located")


class TestWays:
    @pytest.mark.parametrize(
        ("way", "directory", "links", "settings"),
        [
            ("volume", "/data", [], {"binds": ["VOLUME:/data"]}),
            ("volume", "/data/deep/er", [], {"binds": ["VOLUME:/data"]}),
            ("volume", "/data", ["/link"], {"binds": ["VOLUME:/data"]}),
            ("volume", "/data", [], {"binds": ["DIRECTORY:/data"]}),
            ("volume", "/data/inner", [], {"binds": ["VOLUME:/data", "DIRECTORY:/data/inner"]}),
            ("merged", "/srv/vectors", [], {}),
            ("merged", "/srv/vectors", ["/link"], {}),
            ("process", "/memory/vectors", [], {"tmpfs": {"/memory": ""}}),
        ],
    )
    @pytest.mark.parametrize("found", ["told", "open", "remote"])
    def test_give_identical_bytes(  # noqa: PLR0917 - every one of them is a fixture or a parameter
        self,
        containers: Containers,
        remote: str,
        tmp_path: Path,
        way: str,
        directory: str,
        links: list[str],
        settings: dict[str, Any],
        found: str,
    ) -> None:
        volume = "embedded-db-backup-test"
        places = {"VOLUME": volume, "DIRECTORY": str(tmp_path / "bind")}
        (tmp_path / "bind").mkdir()
        (tmp_path / "scratch").mkdir()
        binds = [":".join(places.get(part, part) for part in bind.split(":")) for bind in settings.get("binds", [])]
        try:
            container = containers.server(directory, *links, **({**settings, "binds": binds} if binds else settings))
            path = None if found == "open" else Path(links[0] if links else directory)
            host = remote if found == "remote" else None
            if host and way == "process":
                # The engine makes no archive of what lies in memory.
                with pytest.raises(SourceError, match="there is no"), locate(container, host, path, NAME, tmp_path):
                    pytest.fail("it was located")
                return
            with locate(container, host, path, NAME, tmp_path / "scratch") as located:
                assert located.facts.way == ("archive" if found == "remote" else way)
                assert located.facts.found_by == ("open file" if found == "open" else "path")
                assert read(located, "bytes") == BYTES
                assert not containers.state(container)["Paused"]
            assert list((tmp_path / "scratch").iterdir()) == []
        finally:
            containers.remove()
            with contextlib.suppress(Exception):
                containers.client.remove_volume(volume)

    def test_the_engine_is_not_believed(self, containers: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
        """Mounts and directories that it tells and that are not those of the container are not read."""
        container = containers.server("/data", volumes=["/data"])
        honest = Daemon.look

        def lie(self: Daemon, identifier: str) -> Container:
            return dataclasses.replace(
                honest(self, identifier), mounts=[Mount("/etc", PurePosixPath("/data"))], merged=Path("/usr")
            )

        monkeypatch.setattr(Daemon, "look", lie)
        with locate(container, None, Path("/data"), NAME) as located:
            assert located.facts.way == "process"
            assert read(located, "bytes") == BYTES

    @pytest.mark.parametrize("process", [pytest.param(os.getpid(), id="own"), 1, 0, -1, 1 << 30])
    def test_a_process_of_somebody_else(
        self, containers: Containers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process: int
    ) -> None:
        """As an engine in a virtual machine numbers its processes."""
        container = containers.server()
        honest = Daemon.look
        monkeypatch.setattr(
            Daemon, "look", lambda self, identifier: dataclasses.replace(honest(self, identifier), pid=process)
        )
        if process <= 0:
            with pytest.raises(SourceError, match="is not running"), locate(container, None, Path("/data"), NAME):
                pytest.fail("it was located")
            return
        with locate(container, None, Path("/data"), NAME, tmp_path) as located:
            assert located.facts.way == "archive"
            assert read(located, "bytes") == BYTES

    def test_without_the_rights_of_root(self, containers: Containers, tmp_path: Path) -> None:
        container = containers.server()
        with over_tcp() as address:

            def work() -> tuple[str, str]:
                # A local engine that this user may talk to.
                Daemon.is_local = property(lambda _self: True, lambda _self, _value: None)  # type: ignore[assignment]
                with locate(container, address, Path("/data"), NAME, tmp_path) as located:
                    assert located.place
                    content = (located.place.directory / "bytes").read_bytes()
                    return located.facts.way, hashlib.sha256(content).hexdigest()

            assert as_ordinary_user(work, tmp_path) == str(("archive", BYTES))

    def test_links_of_the_container_lead_nowhere_else(self, containers: Containers) -> None:
        """An absolute link means a file of the container, not one of the host."""
        container = containers.server("/data", volumes=["/data"])
        containers.execute(container, "sh", "-c", "echo inside > /etc/marker; cp /data/chroma.sqlite3 /etc/")
        containers.execute(container, "ln", "-s", "/../../etc", "/data/link")
        containers.execute(container, "ln", "-s", "/etc", "/data/plain")
        containers.execute(container, "ln", "-s", "/etc/passwd", "/data/passwd")
        containers.execute(container, "ln", "-s", "/data/loop", "/data/loop")
        marker = hashlib.sha256(b"inside\n").hexdigest()
        for link in ("/data/link", "/data/plain"):
            with locate(container, None, Path(link), NAME) as located:
                assert read(located, "marker") == marker
        with locate(container, None, Path("/data"), NAME) as located, pytest.raises(SourceError, match="No such file"):
            read(located, "passwd")
        with (
            pytest.raises(SourceError, match="there is no /data/loop"),
            locate(container, None, Path("/data/loop"), NAME),
        ):
            pytest.fail("it was located")

    def test_only_a_look_fetches_nothing(self, containers: Containers, remote: str) -> None:
        container = containers.server()
        with locate(container, remote, Path("/data"), NAME) as located:
            assert (located.place, located.facts.way) == (None, "archive")

    @pytest.mark.parametrize("end", ["kill", "restart", "remove"])
    def test_a_container_that_ends_in_the_middle(self, containers: Containers, end: str) -> None:
        container = containers.server(volumes=["/data"])
        ending = {
            "kill": lambda: containers.client.kill(container),
            "restart": lambda: containers.client.restart(container, timeout=0),
            "remove": lambda: containers.client.remove_container(container, force=True, v=True),
        }
        with (
            pytest.raises(SourceError, match=r"ended while it was backed up|is not there any more"),
            locate(container, None, None, NAME),
        ):
            ending[end]()

    def test_surroundings(self, containers: Containers, remote: str, tmp_path: Path) -> None:
        container = containers.server()
        containers.execute(container, "sh", "-c", "mkdir -p /etc/x/y; echo persist_path: /data > /etc/x/y/config.yaml")
        for host in (None, remote):
            with locate(container, host, Path("/data"), NAME, tmp_path, include=["/etc/x"]) as located:
                around = dataclasses.replace(located, place=located.surroundings)
                assert read(around, "etc/x/y/config.yaml") == hashlib.sha256(b"persist_path: /data\n").hexdigest()

    def test_facts_have_no_secrets(self, containers: Containers) -> None:
        container = containers.server(name="vectors", environment={"CHROMA_TOKEN": "the-secret"})
        with locate("vectors", None, None, NAME) as located:
            facts = dataclasses.asdict(located.facts)
        assert "CHROMA_TOKEN" in facts["environment"]
        assert "the-secret" not in repr(located)
        assert facts["id"] == container
        assert facts["image"] == "embedded-db-backup-target"
        assert facts["image_id"].startswith("sha256:")


class TestChromaDirectory:
    """The directory of a server that does not have its file open now, from what is written down."""

    PLACES = "/data /chroma/chroma /other /app/rel"
    MAKE = f"for d in {PLACES}; do mkdir -p $d; touch $d/chroma.sqlite3; done; "

    @pytest.mark.parametrize(
        ("script", "settings", "directory", "found_by"),
        [
            ("", {}, "/data", "default of the image"),
            ("rm /data/*; ", {}, "/chroma/chroma", "default of the image"),
            ("", {"environment": {"PERSIST_DIRECTORY": "/other"}}, "/other", "environment"),
            ("echo 'persist_path: \"/other\"' > /config.yaml; ", {}, "/other", "/config.yaml"),
            ("echo persist_path: rel > /config.yaml; ", {"working_dir": "/app"}, "/app/rel", "/config.yaml"),
            ("rm /data/* /chroma/chroma/*; ", {"working_dir": "/other"}, "/other", "working directory"),
        ],
    )
    @pytest.mark.parametrize("is_remote", [False, True], ids=["here", "remote"])
    def test_is_found(  # noqa: PLR0917 - every one of them is a fixture or a parameter
        self,
        containers: Containers,
        remote: str,
        script: str,
        settings: dict[str, Any],
        directory: str,
        found_by: str,
        is_remote: bool,
    ) -> None:
        command = ["sh", "-c", f"{self.MAKE}{script}touch /ready; exec sleep 1000"]
        container = containers.run(command, ready="/ready", **settings)
        with locations.locate(container, remote if is_remote else None, None) as located:
            assert (located.facts.directory, located.facts.found_by) == (directory, found_by)

    def test_on_the_command_line(self, containers: Containers) -> None:
        script = f"{self.MAKE}touch /ready; exec sleep 1000"
        for words in (["--path", "/other"], ["--path=/other"]):
            container = containers.run(["sh", "-c", script, "run", *words], ready="/ready")
            with locations.locate(container, None, None) as located:
                assert (located.facts.directory, located.facts.found_by) == ("/other", "command line")

    def test_what_is_written_down_is_not_made_up_for(self, containers: Containers) -> None:
        script = f"{self.MAKE}echo persist_path: /nowhere > /config.yaml; touch /ready; exec sleep 1000"
        container = containers.run(["sh", "-c", script], ready="/ready")
        with pytest.raises(SourceError, match="looked in /nowhere"), locations.locate(container, None, None):
            pytest.fail("it was located")

    def test_the_open_file_is_the_judge(self, containers: Containers) -> None:
        container = containers.server("/really/here")
        containers.execute(container, "sh", "-c", "mkdir /data; touch /data/chroma.sqlite3")
        with locations.locate(container, None, None) as located:
            assert (located.facts.directory, located.facts.found_by) == ("/really/here", "open file")

    def test_two_open_ones(self, containers: Containers) -> None:
        container = containers.server("/data")
        containers.execute(container, "mkdir", "/other")
        script = "import sqlite3, time\nd = sqlite3.connect('/other/chroma.sqlite3')\nd.execute('CREATE TABLE t (x)')\n"
        script += "time.sleep(1000)"
        made = containers.client.exec_create(container, ["python3", "-c", script])
        containers.client.exec_start(made, detach=True)
        with Daemon() as daemon, locating.inside.entered(daemon.find(container)) as root:
            assert root is not None
            found = daemon.find(container)
            eventually(lambda: len(locating.inside.directories_in_use(found, root, NAME)) == 2, "both are open")
        with pytest.raises(SourceError, match="open in /data, /other"), locate(container, None, None, NAME):
            pytest.fail("it was located")
        with locations.locate(container, None, None) as located:
            assert located.facts.directory == "/data"


class TestPause:
    @pytest.fixture
    def daemon(self, containers: Containers) -> Iterator[Daemon]:
        assert containers
        with Daemon() as daemon:
            yield daemon

    def test_goes_on(self, containers: Containers, daemon: Daemon) -> None:
        container = daemon.find(containers.server())
        with pause.paused(daemon, container, 60):
            assert containers.state(container.id)["Paused"]
        assert not containers.state(container.id)["Paused"]
        with pytest.raises(KeyError), pause.paused(daemon, container, 60):
            raise KeyError
        assert not containers.state(container.id)["Paused"]

    def test_one_that_was_paused_stays_so(self, containers: Containers, remote: str, tmp_path: Path) -> None:
        identifier = containers.server()
        containers.client.pause(identifier)
        with locate(identifier, remote, Path("/data"), NAME, tmp_path) as located:
            assert read(located, "bytes") == BYTES
            assert "was left so" in located.warnings[0]
        assert containers.state(identifier)["Paused"]

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_a_kill(self, containers: Containers, number: int) -> None:
        identifier = containers.server()

        def hold() -> None:
            with Daemon() as own, pause.paused(own, own.find(identifier), 600):
                time.sleep(600)

        process = in_process(hold)
        eventually(lambda: containers.state(identifier)["Paused"], "it is paused")
        os.kill(process.pid or 0, number)
        eventually(lambda: not containers.state(identifier)["Paused"], "it goes on", 10)
        process.join()

    def test_a_kill_at_any_moment(self, containers: Containers) -> None:
        """Also between the order to pause and its effect."""
        identifier = containers.server()

        def hold() -> None:
            with Daemon() as own:
                found = own.find(identifier)
                while True:
                    with pause.paused(own, found, 600):
                        time.sleep(0.01)

        for turn in range(10):
            process = in_process(hold)
            eventually(lambda: containers.state(identifier)["Paused"], "it is paused")
            time.sleep(0.037 * turn)
            process.kill()
            process.join()
            eventually(lambda: not guards(), "the guard has ended", 20)
            assert not containers.state(identifier)["Paused"]

    def test_the_death_of_the_guard(self, containers: Containers, daemon: Daemon) -> None:
        container = daemon.find(containers.server())
        with pause.paused(daemon, container, 600):
            for guard in guards():
                os.kill(guard, signal.SIGKILL)
        assert not containers.state(container.id)["Paused"]

    def test_the_limit(self, containers: Containers, daemon: Daemon) -> None:
        container = daemon.find(containers.server())
        with (
            pytest.raises(SourceError, match=r"could be paused for 0\.5 seconds only"),
            pause.paused(daemon, container, 0.5),
        ):
            # Nobody does anything: the guard lets it go on.
            eventually(lambda: not containers.state(container.id)["Paused"], "it goes on", 10)

    def test_the_limit_of_a_copy(self, containers: Containers, remote: str, tmp_path: Path) -> None:
        container = containers.server()
        with (
            pytest.raises(SourceError, match="too short"),
            locate(container, remote, Path("/data"), NAME, tmp_path, pause_limit=0.0),
        ):
            pytest.fail("it was located")
        assert not containers.state(container)["Paused"]
        assert list(tmp_path.iterdir()) == []


def guards() -> list[int]:
    """Forks of this test run that lead a session of their own, as those that guard a container do."""
    found, own = [], Path("/proc/self/cmdline").read_bytes()
    for path in Path("/proc").glob("[0-9]*"):
        number = int(path.name)
        with contextlib.suppress(OSError):
            is_fork = number != os.getpid() and (path / "cmdline").read_bytes() == own
            if is_fork and os.getsid(number) == number and "State:\tZ" not in (path / "status").read_text():
                found.append(number)
    return found


class Application:
    """A container with an application of LMDB on a bind mount, and a job that has a backup of its data."""

    def __init__(self, containers: Containers, dbbackup: Command, directory: Path, **settings: Any) -> None:
        self.data = directory / "data"
        self.content = make_environment(self.data, 200)
        self.containers, self.command = containers, dbbackup
        dbbackup.job("kg", self.data)
        dbbackup.ok("run", "kg")
        self.container = containers.run(
            ["python3", "-c", LMDB_PROGRAM],
            name="kg-application",
            binds=[f"{self.data}:/data"],
            port_bindings={8000: ("127.0.0.1",)},
            **settings,
        )
        eventually(self.answers, "the application answers")

    @property
    def url(self) -> str:
        ports = self.containers.client.inspect_container(self.container)["NetworkSettings"]["Networks"]
        return "http://{}:8000".format(ports["bridge"]["IPAddress"])

    def answers(self) -> bool:
        wanted = standstill.heartbeat.endpoints([self.url], ["/"])
        return standstill.heartbeat.first_that_answers(wanted) is not None

    def change(self, salt: str) -> dict[str, list[tuple[bytes, bytes]]]:
        return make_environment(self.data, 300, salt=salt)

    @property
    def running(self) -> bool:
        return bool(self.containers.state(self.container)["Running"])

    def restore(self, *options: str) -> Any:
        return self.command("restore", "kg", "--force", "--container", "kg-application", *options)


@pytest.fixture
def application(containers: Containers, dbbackup: Command, tmp_path: Path) -> Application:
    return Application(containers, dbbackup, tmp_path)


class TestRestore:
    def test_stops_and_starts(self, application: Application) -> None:
        application.change("later")
        started = application.containers.state(application.container)["StartedAt"]
        done = application.restore("--heartbeat", f"{application.url}/any")
        assert done.code == 0, done
        assert application.running
        assert application.containers.state(application.container)["StartedAt"] != started
        eventually(application.answers, "the application answers")
        assert content_of(application.data) == application.content

    def test_refuses_without_the_container(self, application: Application) -> None:
        application.change("later")
        assert "is open in process" in application.command.fails(1, "restore", "kg", "--force")

    def test_a_prediction_changes_nothing(self, application: Application) -> None:
        later = application.change("later")
        started = application.containers.state(application.container)["StartedAt"]
        assert application.restore("--dry-run").code == 0
        assert application.containers.state(application.container)["StartedAt"] == started
        assert content_of(application.data) == later

    def test_what_is_in_place_needs_no_stop(self, application: Application) -> None:
        started = application.containers.state(application.container)["StartedAt"]
        assert application.restore("--dest", str(application.data)).code == 0
        assert application.containers.state(application.container)["StartedAt"] == started

    def test_no_heartbeat_undoes_all(self, application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
        later = application.change("later")
        monkeypatch.setattr(standstill, "_START_SECONDS", 1)
        request = Request(
            force=True, container=Address("kg-application"), heartbeat=application.url.replace("8000", "8001")
        )
        with pytest.raises(BackupError, match="gave no heartbeat at"):
            restoring.restore(Repository(application.command.repository).job("kg"), NEWEST, request)
        assert application.running
        assert content_of(application.data) == later
        assert sorted(path.name for path in application.data.iterdir()) == ["data.mdb", "lock.mdb"]
        eventually(application.answers, "the application answers")

    def test_what_cannot_be_stopped_again_keeps_the_new_files(
        self, application: Application, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It runs, so its files must not be exchanged below it."""
        later = application.change("later")
        monkeypatch.setattr(standstill, "_START_SECONDS", 1)
        honest, asked = Daemon.stop, []

        def stop(daemon: Daemon, container: Container, patience: int) -> None:
            asked.append(container.id)
            if len(asked) > 1:
                raise SourceError("the Docker engine refuses")
            honest(daemon, container, patience)

        monkeypatch.setattr(Daemon, "stop", stop)
        request = Request(
            force=True, container=Address("kg-application"), heartbeat=application.url.replace("8000", "8001")
        )
        with pytest.raises(StillRunningError, match="it could not be stopped") as told:
            restoring.restore(Repository(application.command.repository).job("kg"), NEWEST, request)
        suffix = str(told.value).rpartition("*")[2]
        assert application.running
        assert content_of(application.data) == application.content
        (application.data / "data.mdb").unlink()
        (application.data / f"data.mdb{suffix}").rename(application.data / "data.mdb")
        assert content_of(application.data) == later

    def test_an_application_that_does_not_come_up(self, application: Application, tmp_path: Path) -> None:
        """The backup is sound, and not what this application can use."""
        with contextlib.closing(lmdb.open(str(tmp_path / "other"), max_dbs=2)) as other:
            other.open_db(b"not nodes")
        application.command.job("other", tmp_path / "other")
        application.command.ok("run", "other")
        later = application.change("later")
        told = application.command.fails(
            1, "restore", "other", "--force", "--container", "kg-application", "--dest", application.data
        )
        assert "did not stay up" in told
        assert "its last words: lmdb.NotFoundError" in told
        assert application.running
        assert content_of(application.data) == later

    def test_a_stopped_one_stays_stopped(self, application: Application) -> None:
        application.change("later")
        application.containers.client.stop(application.container, timeout=1)
        assert application.restore().code == 0
        assert not application.running
        assert content_of(application.data) == application.content

    def test_a_kill_while_it_is_stopped(self, application: Application) -> None:
        address = Address("kg-application")

        def hold() -> None:
            with standstill.standstill(address) as held:
                held.stop()
                time.sleep(600)

        process = in_process(hold)
        eventually(lambda: not application.running, "it is stopped")
        process.kill()
        process.join()
        eventually(lambda: application.running, "it is started again")

    def test_a_kill_while_files_are_exchanged(self, application: Application, tmp_path: Path) -> None:
        """Half of the files may be new: it must not run on them."""
        address, mark = Address("kg-application"), tmp_path / "exchanging"

        def hold() -> None:
            with standstill.standstill(address) as held:
                held.stop()
                held.begin_exchange()
                mark.touch()
                time.sleep(600)

        process = in_process(hold)
        eventually(mark.exists, "files are exchanged")
        process.kill()
        process.join()
        eventually(lambda: not guards(), "the guard has ended")
        assert not application.running

    def test_a_restore_that_was_killed_while_files_are_exchanged(self, application: Application) -> None:
        application.change("later")

        def restore() -> None:
            honest = os.rename

            def rename(one: Any, other: Any) -> None:
                honest(one, other)
                os.kill(os.getpid(), signal.SIGKILL)

            os.rename = rename
            request = Request(force=True, container=Address("kg-application"))
            restoring.restore(Repository(application.command.repository).job("kg"), NEWEST, request)

        process = in_process(restore)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        eventually(lambda: not guards(), "the guard has ended")
        assert not application.running
        done = application.command("check", "kg")
        assert done.code == 1
        assert "and start container kg-application, which was stopped for it" in done.stdout
        assert "start container kg-application" in application.restore().stdout
        assert content_of(application.data) == application.content
        application.containers.client.start(application.container)
        eventually(application.answers, "the application answers")
        assert application.command.ok("check", "kg")["good"]

    def test_a_signal_to_the_command(self, application: Application) -> None:
        """It hits while the application is stopped, or soon after."""
        application.change("later")
        arguments = application.command.arguments("restore", "kg", "--force", "--container", "kg-application")
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            eventually(lambda: not application.running, "it is stopped")
            process.terminate()
            process.communicate()
        eventually(lambda: application.running, "it is started again", 60)
        eventually(application.answers, "the application answers")

    def test_what_must_not_be_stopped(self, containers: Containers, dbbackup: Command, tmp_path: Path) -> None:
        (tmp_path / "one").mkdir()
        application = Application(containers, dbbackup, tmp_path / "one", auto_remove=True)
        application.change("later")
        assert "was started with --rm" in application.restore().stderr
        assert application.running
        application.containers.client.pause(application.container)
        assert application.restore().code == 1
        assert application.containers.state(application.container)["Paused"]

    def test_a_heartbeat_needs_a_container(self, application: Application) -> None:
        told = application.command.fails(2, "restore", "kg", "--force", "--heartbeat", "http://127.0.0.1:1")
        assert "name it" in told

    def test_by_the_module(self, application: Application, ansible: Ansible) -> None:
        application.change("later")
        common = {"name": "kg", "repository": str(application.command.repository)}
        result = ansible.module("backup_restore", **common, container="kg-application", force=True)
        assert result["changed"]
        assert application.running
        assert content_of(application.data) == application.content
        told = ansible.failure("backup_restore", **common, container="no-such", force=True)
        assert "there is no container no-such" in told["msg"]


class TestSqlite:
    """A database of one file in a container."""

    @pytest.fixture
    def served(self, containers: Containers, dbbackup: Command, tmp_path: Path) -> str:
        (tmp_path / "data").mkdir()
        container = containers.server("/data", name="records", binds=[f"{tmp_path / 'data'}:/data"])
        dbbackup.jobs.mkdir()
        job = {"type": "sqlite", "container": "records", "path": f"/data/{NAME}", "skip_unchanged": True}
        (dbbackup.jobs / "records.json").write_text(json.dumps(job))
        self.insert(containers, container, "saved")
        dbbackup.ok("run", "records")
        return container

    @staticmethod
    def insert(containers: Containers, container: str, content: str) -> None:
        script = f"import sqlite3; d = sqlite3.connect('/data/{NAME}', isolation_level=None, timeout=30); "
        script += f"d.execute('INSERT INTO records VALUES (?)', ('{content}',))"
        assert containers.execute(container, "python3", "-c", script) == ""

    @staticmethod
    def records(path: Path) -> list[str]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return [row[0] for row in connection.execute("SELECT content FROM records")]

    def test_comes_back_into_the_container(
        self, containers: Containers, dbbackup: Command, served: str, tmp_path: Path
    ) -> None:
        self.insert(containers, served, "later")
        assert self.records(tmp_path / "data" / NAME) == ["saved", "later"]
        told = dbbackup.ok("restore", "records", "--container", "records", "--force")
        assert told["dest"] == str(tmp_path / "data" / NAME)
        assert self.records(tmp_path / "data" / NAME) == ["saved"]
        assert containers.state(served)["Running"]
        aside = next(Path(path) for path in told["aside"] if Path(path).name.startswith(f"{NAME}.before"))
        assert self.records(aside) == ["saved", "later"]
        self.insert(containers, served, "new")
        assert self.records(tmp_path / "data" / NAME) == ["saved", "new"]

    def test_a_stopped_one_that_is_elsewhere(
        self, containers: Containers, dbbackup: Command, served: str, tmp_path: Path
    ) -> None:
        """It cannot be looked into; what was made for it shows whether this is its directory."""
        containers.client.stop(served, timeout=1)
        before = snapshot(tmp_path / "data")
        command = dbbackup.arguments("restore", "records", "--force", "--container", "records")
        done = in_own_mounts(f"mount -t tmpfs tmpfs {tmp_path / 'data'} && exec {shlex.join(command)}")
        assert done.returncode == 1
        wanted = f"{tmp_path / 'data'} of this host is not what container records has at /data"
        assert wanted in done.stderr
        assert snapshot(tmp_path / "data") == before

    def test_an_include_from_elsewhere_is_a_change(self, dbbackup: Command, served: str) -> None:
        assert served
        assert dbbackup.ok("run", "records")["skipped"]
        file = dbbackup.jobs / "records.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "include": ["/etc/hostname"]}))
        result = dbbackup.ok("run", "records")
        assert result["changed"]
        assert [record["path"] for record in result["backup"]["files"]] == [NAME, ".container"]

    @pytest.mark.usefixtures("served")
    def test_the_pause_for_an_archive_is_told(self, dbbackup: Command, remote: str) -> None:
        file = dbbackup.jobs / "records.json"
        paused = []
        for options in ({}, {"docker_host": remote}):
            file.write_text(json.dumps({**json.loads(file.read_text()), "skip_unchanged": False, **options}))
            facts = dbbackup.ok("run", "records")["backup"]["source"]["container"]
            paused.append((facts["way"], facts["paused_ms"]))
        assert paused[0] == ("volume", None)
        assert paused[1][0] == "archive"
        assert 0 < paused[1][1] < 60_000


def in_own_mounts(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that sees other files than the engine does."""
    command = ["unshare", "--mount", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


class TestHostDirectory:
    def test_is_that_of_the_container(self, containers: Containers, remote: str, tmp_path: Path) -> None:
        identifier = containers.server("/data/deep", binds=[f"{tmp_path}:/data"])
        outside = containers.server("/data")
        with Daemon() as daemon:
            found = daemon.find(identifier)
            deep = PurePosixPath("/data/deep")
            assert locating.host_directory(daemon, found, deep) == tmp_path / "deep"
            for lie in (Mount("/etc", PurePosixPath("/data/deep")), Mount("/no/such", PurePosixPath("/data"))):
                with pytest.raises(BackupError, match=r"is not what container|cannot be reached"):
                    locating.host_directory(daemon, dataclasses.replace(found, mounts=[lie]), deep)
            with pytest.raises(BackupError, match="is not on a volume"):
                locating.host_directory(daemon, daemon.find(outside), PurePosixPath("/data"))
            with pytest.raises(BackupError, match="there is no /data/none"):
                locating.host_directory(daemon, found, PurePosixPath("/data/none"))
        with Daemon(remote) as daemon, pytest.raises(BackupError, match="restore on its Docker host"):
            locating.host_directory(daemon, found, deep)

    def test_links_in_the_volume_lead_nowhere_else(self, containers: Containers, tmp_path: Path) -> None:
        identifier = containers.server("/data/deep", binds=[f"{tmp_path}:/data"])
        containers.client.stop(identifier, timeout=0)
        (tmp_path / "link").symlink_to("/etc")
        with Daemon() as daemon, pytest.raises(BackupError, match="there is no /data/link"):
            locating.host_directory(daemon, daemon.find(identifier), PurePosixPath("/data/link"))
