# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: T201 - how long writers waited is reported, not asserted
"""Backups of a real Chroma server while an application writes to it, beside copies as people make them."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import statistics
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures import chroma_application as application
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT, Command, bytes_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VERSIONS = CHECKOUT / "tests/fixtures/chroma_versions"
BACKUPS, KILLS, NAIVE_COPIES = 30, 5, 2
BY_CP, BY_SQLITE = "cp {0} {1}", "sqlite3 -cmd '.timeout 60000' {0} '.backup {1}'"
JOB = "vectors"
COLLECTIONS = "/tenants/default_tenant/databases/default_database/collections"


@pytest.fixture(scope="module")
def chroma() -> Path:
    """The program of a real server."""
    program = CHECKOUT / ".venv-chroma/bin/chroma"
    if not program.exists():
        pytest.skip("there is no .venv-chroma: run `.venv/bin/nox -s integration`, which makes it")
    return program


class Busy:
    """A server on a directory, with an application that writes to it until one leaves the with statement."""

    def __init__(self, folder: Path, chroma: Path) -> None:
        self.directory, self.ledger, self.chroma = folder / "persist", folder / "ledger", chroma
        self.directory.mkdir()

    @contextmanager
    def at_work(self, records: int, sync_threshold: int) -> Iterator[application.Writer]:
        with application.Server(self.directory, self.chroma) as server:
            application.seed(server.url, self.ledger, records, sync_threshold=sync_threshold)
            with application.Writer(server.url, self.ledger, sync_threshold) as writer:
                yield writer
        print(f"at work meanwhile: {writer.summary}")

    def judge(self, copy: Path, after: int, before: int) -> application.Judgement:
        return application.judge(copy, self.ledger, self.chroma, after, before)


@pytest.fixture
def busy(tmp_path: Path, chroma: Path) -> Busy:
    return Busy(tmp_path, chroma)


class Restored:
    """A new backup of the busy server, verified and restored."""

    def __init__(self, dbbackup: Command, dest: Path) -> None:
        self.dest = dest
        self.after = time.time_ns()
        self.manifest: dict[str, Any] = dbbackup.ok("run", JOB)["backup"]
        self.before = time.time_ns()
        assert dbbackup.ok("verify", JOB)["opened"]
        dbbackup.ok("restore", JOB, "--dest", dest)

    @property
    def source(self) -> dict[str, Any]:
        return self.manifest["source"]

    @property
    def records(self) -> dict[str, int]:
        """How many records the manifest says each collection has."""
        return {collection["name"]: collection["records"] for collection in self.source["collections"]}


def report_locks(restored: list[Restored]) -> None:
    locks = [one.source["lock_ms"] for one in restored]
    retries = sum(one.source["retries"] for one in restored)
    print(f"writers locked out: median {statistics.median(locks)} ms, most {max(locks)} ms; {retries} retries")


def test_every_backup_is_good_while_the_server_persists_all_the_time(
    dbbackup: Command, busy: Busy, tmp_path: Path
) -> None:
    dbbackup.job(JOB, busy.directory, type="chroma")
    made = []
    with busy.at_work(records=2000, sync_threshold=20) as writer:
        for _unused in range(BACKUPS):
            restored = Restored(dbbackup, tmp_path / "restored")
            judgement = busy.judge(restored.dest, restored.after, restored.before)
            assert judgement.good, judgement.sentence
            assert {name: restored.records[name] for name in judgement.records} == judgement.records
            shutil.rmtree(restored.dest)
            made.append(restored)
            assert writer.alive()
    report_locks(made)
    final = busy.judge(busy.directory, time.time_ns(), time.time_ns())
    assert final.good, f"the source itself: {final.sentence}"


def test_twenty_thousand_records(dbbackup: Command, busy: Busy, tmp_path: Path) -> None:
    dbbackup.job(JOB, busy.directory, type="chroma")
    made = []
    with busy.at_work(records=10_000, sync_threshold=1000):
        for number in range(5):
            made.append(Restored(dbbackup, tmp_path / f"restored-{number}"))
    report_locks(made)
    for restored in made:
        judgement = busy.judge(restored.dest, restored.after, restored.before)
        assert judgement.good, judgement.sentence
        assert sum(judgement.records.values()) > 19_000


def test_killed_backups_leave_the_server_to_its_work(dbbackup: Command, busy: Busy, tmp_path: Path) -> None:
    dbbackup.job(JOB, busy.directory, type="chroma")
    with busy.at_work(records=500, sync_threshold=20) as writer:
        started = time.monotonic()
        dbbackup.ok("run", JOB)
        seconds = time.monotonic() - started
        for number in range(1, KILLS + 1):
            run = subprocess.Popen(dbbackup.arguments("run", JOB), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(seconds * number / (KILLS + 3))
            run.send_signal(signal.SIGKILL)
            run.wait()
            wait_for_growth(busy.ledger)
        restored = Restored(dbbackup, tmp_path / "restored")
        assert writer.alive()
    assert busy.judge(restored.dest, restored.after, restored.before).good
    assert sorted(dbbackup.backups(JOB)) == sorted(
        entry.name for entry in (dbbackup.repository / JOB).iterdir() if entry.is_dir()
    )


def wait_for_growth(ledger: Path) -> None:
    """Wait for as many operations as make the server persist."""
    size, deadline = ledger.stat().st_size, time.monotonic() + 30
    while ledger.stat().st_size < size + 4000:
        assert time.monotonic() < deadline, "the application does not go on"
        time.sleep(0.02)


class TestCopiesAsPeopleMakeThem:
    """What the harness must be able to see."""

    @pytest.mark.parametrize(
        "command", ["cp {0} {1}", "sqlite3 -cmd '.timeout 60000' {0} '.backup {1}'"], ids=["cp", "sqlite3"]
    )
    def test_of_the_file_alone_lose_their_embeddings(self, busy: Busy, tmp_path: Path, command: str) -> None:
        copy = tmp_path / "copy"
        copy.mkdir()
        with busy.at_work(records=2500, sync_threshold=1000):
            after = time.time_ns()
            line = command.format(*(shlex.quote(str(place / "chroma.sqlite3")) for place in (busy.directory, copy)))
            subprocess.run(["/bin/sh", "-c", line], check=True)
            before = time.time_ns()
        judgement = busy.judge(copy, after, before)
        print(judgement.sentence)
        assert not judgement.good

    def test_of_the_directory_are_torn(self, busy: Busy, tmp_path: Path) -> None:
        def copy_slowly(source: str, target: str) -> str:
            """As a copy of large files does, or one over a network: the server persists between file and file."""
            wait_for_growth(busy.ledger)
            return str(shutil.copy2(source, target))

        with busy.at_work(records=500, sync_threshold=20):
            judgements = []
            for number in range(NAIVE_COPIES):
                after = time.time_ns()
                with suppress(shutil.Error):
                    # Some files vanish meanwhile.
                    shutil.copytree(busy.directory, tmp_path / f"copy-{number}", copy_function=copy_slowly)
                judgements.append(busy.judge(tmp_path / f"copy-{number}", after, time.time_ns()))
        print(*(judgement.sentence for judgement in judgements), sep="\n")
        assert not all(judgement.good for judgement in judgements)


@pytest.mark.parametrize(
    ("kind", "operation", "complaint"),
    [
        (None, 0, ""),
        ("delete", 0, "1 of 199 records are not as after any operation"),
        ("add", 1, "1 of 201 records are not as after any operation"),
        ("upsert", 2, "1 of 200 records are not as after any operation"),
        ("embedding", 0, "the embedding of r0000007 is not that of operation 1"),
    ],
)
def test_the_judge_sees_a_single_difference(busy: Busy, kind: str | None, operation: int, complaint: str) -> None:
    with application.Server(busy.directory, busy.chroma) as server:
        application.seed(server.url, busy.ledger, records=100, sync_threshold=20)
        notes = application.COLLECTIONS[0]
        with closing(application.Client(server.url)) as client:
            place = client.find(notes)
            if kind == "embedding":
                change = {"ids": ["r0000007"], "embeddings": [[1.5] * notes.dimension]}
                client.call("POST", f"{COLLECTIONS}/{place}/update", change)
            elif kind:
                client.write(notes, place, kind, ["another" if kind == "add" else "r0000007"], operation)
    judgement = busy.judge(busy.directory, time.time_ns(), time.time_ns())
    assert judgement.good == (not kind)
    assert complaint in judgement.sentence


@pytest.mark.parametrize("version", ["0.4.24", "0.5.23", "1.5.9"])
def test_directories_of_all_versions(dbbackup: Command, tmp_path: Path, chroma: Path, version: str) -> None:
    with tarfile.open(VERSIONS / f"chroma-{version}.tar.xz") as packed:
        packed.extractall(tmp_path / "persist", filter="data")
    original = bytes_of(tmp_path / "persist")
    expected = json.loads((VERSIONS / "expected.json").read_text())
    dbbackup.job(JOB, tmp_path / "persist", type="chroma")
    restored = Restored(dbbackup, tmp_path / "restored")
    assert bytes_of(tmp_path / "persist") == original
    assert restored.records == {name: len(records) for name, records in expected.items()}
    with application.Server(restored.dest, chroma):
        # This one migrates what an older version wrote; Chroma may panic when asked anything right after that.
        pass
    with application.Server(restored.dest, chroma) as server, closing(application.Client(server.url)) as client:
        for name, records in expected.items():
            collection = application.Collection(name, dimension=1)
            found = client.read_all(collection, client.find(collection))
            assert {
                record: {"document": document, "embedding": embedding.hex()}
                for record, _unused, embedding, document in found
            } == records
