# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Chroma server in a container: backed up every way, checked, restored into its volume, opened in a drill."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.containers import CHROMA_IMAGE, Containers, engine, over_tcp
from ansible_collections.embedded.db_backup.tests.fixtures.chroma_application.judging import judge_server
from ansible_collections.embedded.db_backup.tests.fixtures.chroma_application.server import wait_for_heartbeat
from ansible_collections.embedded.db_backup.tests.fixtures.chroma_application.writing import seed
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT, Command, eventually, make_environment

VOLUME = "embedded-db-backup-chroma-test"
RECORDS = 1200


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """The engine of the tests, with the image of a Chroma server."""
    with contextlib.closing(engine()) as found:
        subprocess.run([CHECKOUT / "tests/docker/chroma-image.sh"], check=True, stdout=subprocess.DEVNULL)
        yield found


@pytest.fixture
def containers(client: Any) -> Iterator[Containers]:
    made = Containers(client)
    yield made
    made.remove()
    with contextlib.suppress(Exception):
        client.remove_volume(VOLUME)


class Server:
    """A server in a container named chroma, filled by an application that keeps a ledger."""

    def __init__(self, containers: Containers, ledger: Path, command: Command, **settings: Any) -> None:
        self.containers, self.ledger, self.command = containers, ledger, command
        settings = {"binds": [f"{VOLUME}:/data"], **settings}
        self.container = containers.run(None, image=CHROMA_IMAGE, name="chroma", **settings)
        wait_for_heartbeat(self.url)
        seed(self.url, ledger, RECORDS)
        self.job()
        command.ok("run", "chroma")

    def job(self, **options: Any) -> None:
        described = {"name": "chroma", "type": "chroma", "container": "chroma", **options}
        self.command.jobs.mkdir(exist_ok=True)
        (self.command.jobs / "chroma.json").write_text(json.dumps(described))

    @property
    def url(self) -> str:
        networks = self.containers.client.inspect_container(self.container)["NetworkSettings"]["Networks"]
        return "http://{}:8000".format(networks["bridge"]["IPAddress"])

    def is_as_saved(self) -> bool:
        wait_for_heartbeat(self.url)
        judgement = judge_server(self.url, self.ledger)
        assert judgement.good, judgement
        return judgement.records == {"notes": RECORDS, "images": RECORDS}

    def spoil(self) -> None:
        """Write what the ledger does not know."""
        self.sql("DELETE FROM embeddings")

    @property
    def is_spoiled(self) -> bool:
        return self.sql("SELECT count(*) FROM embeddings") == "[(0,)]"

    def sql(self, statement: str) -> str:
        script = "import sqlite3, sys; d = sqlite3.connect('/data/chroma.sqlite3', isolation_level=None); "
        script += "print(d.execute(sys.argv[1]).fetchall())"
        return self.containers.execute(self.container, "python3", "-c", script, statement)


@pytest.fixture
def server(containers: Containers, dbbackup: Command, tmp_path: Path) -> Server:
    return Server(containers, tmp_path / "ledger", dbbackup)


@pytest.mark.parametrize(
    ("way", "settings"), [("volume", {}), ("merged", {"binds": []}), ("process", {"binds": [], "tmpfs": {"/data": ""}})]
)
def test_every_way_has_all_embeddings(
    containers: Containers, dbbackup: Command, tmp_path: Path, way: str, settings: dict[str, Any]
) -> None:
    server = Server(containers, tmp_path / "ledger", dbbackup, **settings)
    with over_tcp() as remote:
        for expected, options in ((way, {}), ("archive", {"docker_host": remote})):
            if (way, expected) == ("process", "archive"):
                continue
            server.job(**options, include=["/config.yaml"])
            backup = dbbackup.ok("run", "chroma")["backup"]
            facts = backup["source"]["container"]
            assert (facts["name"], facts["directory"], facts["way"]) == ("chroma", "/data", expected)
            assert "PATH" in facts["environment"]
            assert remote not in json.dumps(backup)
            here = ["--drill-image", CHROMA_IMAGE, "--docker-host", os.environ["DOCKER_HOST"]]
            proven = dbbackup.ok("drill", "chroma", *here)["proven"]
            assert f"all {2 * RECORDS} embeddings of 2 collections" in proven[0]
    assert server.is_as_saved()
    assert not containers.state(server.container)["Paused"]


class TestRestore:
    def test_into_the_volume(self, server: Server) -> None:
        server.spoil()
        done = server.command("restore", "chroma", "--container", "chroma", "--force")
        assert done.code == 0, done
        assert server.is_as_saved()

    def test_a_server_that_gives_no_heartbeat_has_its_old_data_again(self, server: Server, tmp_path: Path) -> None:
        """What is restored is a sound backup of something that this server cannot open."""
        server.spoil()
        broken = tmp_path / "broken"
        make_environment(broken)
        (broken / "chroma.sqlite3").write_bytes(b"not a database" * 1000)
        server.command.job("broken", broken, include=["chroma.sqlite3"])
        server.command.ok("run", "broken")
        mount = Path(server.containers.client.inspect_volume(VOLUME)["Mountpoint"])
        told = server.command.fails(1, "restore", "broken", "--container", "chroma", "--dest", mount, "--force")
        assert "container chroma" in told
        wait_for_heartbeat(server.url)
        assert server.is_spoiled
        assert not (mount / "data.mdb").exists()

    def test_needs_to_know_where(self, server: Server, tmp_path: Path) -> None:
        """Its own job file tells the container."""
        without_jobs = Command(server.command.repository, tmp_path / "none")
        assert "name it with container" in without_jobs.fails(1, "restore", "chroma")
        assert "already holds" in server.command("restore", "chroma").stdout


class TestDrill:
    @pytest.mark.parametrize("by", ["option", "job", "program", "path"])
    def test_servers(self, server: Server, by: str) -> None:
        program = CHECKOUT / ".venv-chroma/bin/chroma"
        options = {"option": ["--drill-image", CHROMA_IMAGE], "program": ["--drill-command", str(program)]}
        if by == "job":
            server.job(drill_image=CHROMA_IMAGE)
        if by == "path":
            server.command.env = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
        told = server.command.ok("drill", "chroma", *options.get(by, []))
        assert f"all {2 * RECORDS} embeddings" in told["proven"][0]
        (job,) = server.command.ok("status", "chroma")
        assert job["last_drill"]["status"] == "passed"
        self.nothing_is_left(server)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--drill-image", "no-such-image"], "No such image"),
            (["--drill-image", "embedded-db-backup-target"], "gives no heartbeat on the copy"),
            (["--drill-command", "/no/such/program"], "is not a program here"),
            (["--drill-command", "false"], "gives no heartbeat on the copy"),
        ],
    )
    def test_servers_that_are_none(self, server: Server, options: list[str], sentence: str) -> None:
        assert sentence in server.command.fails(1, "drill", "chroma", *options)
        self.nothing_is_left(server)

    def test_an_engine_that_sees_other_files_says_nothing_of_the_backup(self, server: Server, tmp_path: Path) -> None:
        repository, state = server.command.repository, server.command.repository / "chroma/state.json"
        subprocess.run(["cp", "-a", repository, tmp_path / "kept"], check=True)
        drill = shlex.join(server.command.arguments("drill", "chroma", "--drill-image", CHROMA_IMAGE))
        script = (
            f"mount -t tmpfs tmpfs {repository} && cp -a {tmp_path}/kept/. {repository} && {{ {drill}; cat {state}; }}"
        )
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False
        )
        assert "no drill can be held with this engine" in done.stderr
        assert "does not exist" in done.stderr
        assert json.loads(done.stdout)["last_drill"] is None
        self.nothing_is_left(server)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_a_signal(self, server: Server, number: int) -> None:
        arguments = server.command.arguments("drill", "chroma", "--drill-image", CHROMA_IMAGE)
        client = server.containers.client
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            eventually(lambda: len(client.containers()) == 2, "the server of the drill runs")
            process.send_signal(number)
            process.communicate()
        eventually(lambda: len(client.containers(all=True)) == 1, "the server of the drill is gone")
        eventually(lambda: not client.networks(names=["db-backup-drill"]), "its network is gone")

    @staticmethod
    def nothing_is_left(server: Server) -> None:
        client = server.containers.client
        assert [entry["Id"] for entry in client.containers(all=True)] == [server.container]
        assert not client.networks(names=["db-backup-drill"])
        assert not list((server.command.repository / "chroma").glob(".scratch*"))


class TestCheck:
    def test_a_server_and_what_can_be_wrong_with_it(self, server: Server) -> None:
        told = server.command.ok("check", "chroma")
        assert [entry["question"] for entry in told["findings"]] == [
            "container",
            "heartbeat",
            "database",
            "last attempt",
            "last backup",
            "room",
        ]
        assert "/api/v2/heartbeat answers" in told["findings"][1]["text"]
        client = server.containers.client
        client.pause(server.container)
        wrong = {
            entry["question"]
            for entry in server.command("check", "chroma", "--json").json["findings"]
            if not entry["good"]
        }
        assert wrong == {"container", "heartbeat"}
        client.unpause(server.container)
        client.stop(server.container, timeout=5)
        done = server.command("check", "chroma", "--json")
        assert done.code == 1
        wrong = {entry["question"] for entry in done.json["findings"] if not entry["good"]}
        assert wrong == {"container", "database"}
        assert "is not running but exited" in done.stdout
