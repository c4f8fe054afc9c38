# SPDX-License-Identifier: GPL-3.0-or-later
"""Files held still by freezing their application: real writers, real kills, and nothing left standing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import halts, jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture import metadata, mirror
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture import worker as workers
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.base import Held
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.choice import Halting
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.cold import Cold
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.openers import openers
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.worker import Worker, working
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers.container import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError, UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.guard import Guard
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.halts import Halt
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.backup import back_up
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.thaw import thaw, thaw_held
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import JobDirectory
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.running import Process
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.standstill import Standstill
from ansible_collections.embedded.db_backup.tests.containers import BYTES, Containers, engine
from ansible_collections.embedded.db_backup.tests.fixtures import lmdb_application as application
from ansible_collections.embedded.db_backup.tests.tools import (
    NOBODY,
    Command,
    as_ordinary_user,
    bytes_of,
    eventually,
    make_environment,
    process,
)

HOLDER = "import sys; file = open(sys.argv[1], 'r+b'); print(flush=True); sys.stdin.read()"


def no_sign() -> None:
    """For those who do not wait."""


def frozen(directory: Path, scratch: Path, limit: float = 10) -> Any:
    """Hold all files of a directory."""
    scratch.mkdir()
    return Halting(freeze_timeout=limit).way("freeze").hold(directory, ["."], scratch, no_sign)


@contextmanager
def holder(file: Path) -> Iterator[Process]:
    """A process that has a file open."""
    with process([sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        running.stdout.readline()
        found = Process.of(running.pid)
        assert found
        yield found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    (made / "file").write_bytes(b"one")
    return made


@pytest.mark.slow
def test_every_frozen_copy_of_a_busy_application_is_good(tmp_path: Path) -> None:
    path = tmp_path / "environment"
    application.seed(path, megabytes=12)
    with application.Writer(path, tmp_path / "ledger") as writer:
        for number in range(20):
            acknowledged = writer.acknowledged()
            with frozen(path, tmp_path / "scratch") as held:
                assert held.paused_ms is not None
                judgement = application.judge(held.root, at_least=acknowledged)
            assert judgement.good, f"copy {number}: {judgement.sentence}"
            shutil.rmtree(tmp_path / "scratch")
            before = writer.acknowledged()
            eventually(lambda least=before: writer.acknowledged() > least, "the application goes on")
    assert application.judge(path, at_least=writer.acknowledged()).good


@contextmanager
def in_the_pause(monkeypatch: pytest.MonkeyPatch, action: Callable[[Worker], None]) -> Iterator[None]:
    """Have something happen while the application stands still, before the copy is brought up to date."""
    honest = Worker.refresh

    def refresh(self: Worker, deadline: float | None = None) -> None:
        action(self)
        honest(self, deadline)

    with monkeypatch.context() as patched:
        patched.setattr(workers.Worker, "refresh", refresh)
        yield


def test_a_kill_in_the_pause(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold() -> None:
        with in_the_pause(monkeypatch, lambda _worker: time.sleep(600)), frozen(directory, tmp_path / "s", 60):
            pass

    with holder(directory / "file") as found:
        backup = multiprocessing.get_context("fork").Process(target=hold, daemon=True)
        backup.start()
        eventually(lambda: found.is_stopped, "it stands still")
        backup.kill()
        eventually(lambda: not found.is_stopped, "it goes on", 2)
        backup.join()


def test_a_copy_that_hangs(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that copies is stopped itself: who waits for it gives up at the limit."""

    def hang(worker: Worker) -> None:
        os.kill(worker.pid, signal.SIGSTOP)

    with (
        holder(directory / "file") as found,
        in_the_pause(monkeypatch, hang),
        pytest.raises(SourceError, match="could not be finished in the time that the application may stand still"),
        frozen(directory, tmp_path / "s", 5),
    ):
        pytest.fail("it was held")
    with holder(directory / "file") as found:
        assert not found.is_stopped


def test_a_backup_that_hangs_with_it(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the guard is left to let the application go on."""
    with holder(directory / "file") as found:

        def hang(_worker: Worker) -> None:
            assert found.is_stopped
            eventually(lambda: not found.is_stopped, "the guard lets it go on", 10)

        with (
            in_the_pause(monkeypatch, hang),
            pytest.raises(SourceError, match=r"stand still|could be paused for"),
            frozen(directory, tmp_path / "s", 0.5),
        ):
            pytest.fail("it was held")


def test_one_that_takes_its_time_to_stop(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Process.send

    def send(self: Process, number: int) -> None:
        if number == signal.SIGSTOP:
            threading.Timer(0.5, honest, (self, number)).start()
        else:
            honest(self, number)

    def assert_stopped(_worker: Worker) -> None:
        assert found.is_stopped

    monkeypatch.setattr(Process, "send", send)
    with (
        holder(directory / "file") as found,
        in_the_pause(monkeypatch, assert_stopped),
        frozen(directory, tmp_path / "s") as held,
    ):
        assert held.paused_ms
        assert not found.is_stopped


def test_what_was_stopped_stays_so(directory: Path, tmp_path: Path) -> None:
    with holder(directory / "file") as found:
        os.kill(found.number, signal.SIGSTOP)
        eventually(lambda: found.is_stopped, "it is stopped")
        with frozen(directory, tmp_path / "s") as held:
            assert bytes_of(held.root) == bytes_of(directory)
        assert found.is_stopped


def test_one_that_comes_meanwhile(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes after the first was stopped; the copy is brought up to date once more when it stands still too."""
    write = "import sys; f = open(sys.argv[1], 'r+b', 0); f.write(b'two'); print(flush=True); sys.stdin.read()"
    came: list[subprocess.Popen[bytes]] = []
    honest = Worker.refresh

    def refresh(self: Worker, deadline: float | None = None) -> None:
        honest(self, deadline)
        if not came:
            arguments = [sys.executable, "-c", write, str(directory / "file")]
            came.append(subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert came[0].stdout
            came[0].stdout.readline()

    monkeypatch.setattr(Worker, "refresh", refresh)
    try:
        with holder(directory / "file"), frozen(directory, tmp_path / "s") as held:
            assert (held.root / "file").read_bytes() == b"two"
            found = Process.of(came[0].pid)
            assert found
            assert not found.is_stopped
    finally:
        for running in came:
            running.kill()
            running.communicate()


def test_a_backup_within_its_application(directory: Path, tmp_path: Path) -> None:
    with (
        (directory / "file").open("rb"),
        pytest.raises(SourceError, match="this very backup runs in it"),
        frozen(directory, tmp_path / "s"),
    ):
        pytest.fail("it was held")


@pytest.mark.root
def test_without_rights(directory: Path, tmp_path: Path) -> None:
    def work() -> str:
        with frozen(directory, tmp_path / "s") as held:
            return str(held.warnings)

    tmp_path.chmod(0o777)
    with holder(directory / "file") as found:
        told = as_ordinary_user(work, tmp_path)
        assert "run it as root, or name the service or container" in told
        assert not found.is_stopped


class TestMirror:
    @staticmethod
    def bring(directory: Path, scratch: Path, between: Callable[[], None]) -> tuple[Path, list[str]]:
        scratch.mkdir()
        with working(directory, ["."], scratch, no_sign) as worker:
            worker.copy()
            between()
            worker.refresh()
            return worker.root, worker.finish()

    def test_becomes_what_the_source_is(self, directory: Path, tmp_path: Path) -> None:
        (directory / "deep/er").mkdir(parents=True)
        (directory / "deep/gone").write_text("gone")
        (directory / "link").symlink_to("/etc/passwd")
        for name in ("large", "changing"):
            (directory / name).write_bytes(os.urandom(3 << 20))
        os.link(directory / "file", directory / "deep/same")
        os.mkfifo(directory / "pipe")
        with (directory / "sparse").open("wb") as file:
            file.truncate(1 << 40)

        def change() -> None:
            (directory / "deep/gone").unlink()
            (directory / "deep/er").rmdir()
            (directory / "link").unlink()
            (directory / "link").mkdir()
            (directory / "large").rename(directory / "renamed")
            with (directory / "changing").open("r+b") as file:
                file.seek(1 << 20)
                file.write(b"changed")
            with (directory / "renamed").open("r+b") as file:
                file.seek(1 << 20)
                file.write(b"changed")
                file.truncate(2 << 20)
            (directory / "file").chmod(0o640)
            os.utime(directory / "file", ns=(1, 123456789))
            os.setxattr(directory / "file", "user.kept", b"value")

        root, warnings = self.bring(directory, tmp_path / "s", change)
        (directory / "sparse").unlink()
        assert (root / "sparse").stat().st_size == 1 << 40
        assert (root / "sparse").stat().st_blocks < 1000
        (root / "sparse").unlink()
        assert [warning.rpartition("/")[2] for warning in warnings] == [
            "pipe is neither a file nor a directory and was left out"
        ]
        (directory / "pipe").unlink()
        assert bytes_of(root) == bytes_of(directory)
        one, other = (root / "file").stat(), (root / "deep/same").stat()
        assert one.st_ino == other.st_ino
        assert (one.st_mode & 0o777, one.st_mtime_ns) == (0o640, 123456789)
        assert os.getxattr(root / "file", "user.kept") == b"value"

    def test_a_directory_that_becomes_a_link(self, directory: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret/file").write_text("secret")
        (directory / "inner").mkdir()
        (directory / "inner/file").write_text("own")

        def change() -> None:
            shutil.rmtree(directory / "inner")
            (directory / "inner").symlink_to(tmp_path / "secret")

        root, _unused = self.bring(directory, tmp_path / "s", change)
        assert os.readlink(root / "inner") == str(tmp_path / "secret")

    @pytest.mark.root
    def test_a_full_disk(self, directory: Path, tmp_path: Path) -> None:
        (directory / "large").write_bytes(os.urandom(4 << 20))
        small = tmp_path / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
        try:
            with pytest.raises(SourceError, match="large cannot be copied: No space left on device"):
                self.bring(directory, small / "s", no_sign)
        finally:
            subprocess.run(["umount", str(small)], check=True)


# Its last words are written when it is told to end, after a while.
APPLICATION = """
import signal, sys, time
def end(*_):
    time.sleep(0.3)
    open(sys.argv[1], "w").write("ended")
    sys.exit()
signal.signal(signal.SIGTERM, end)
open(sys.argv[1], "w").write("runs")
print(flush=True)
while True:
    signal.pause()
"""


class Program(Standstill):
    """A real program, stopped and started as a service is."""

    @property
    def commands(self) -> tuple[list[str], list[str]]:
        return [], []

    def __init__(self, file: Path) -> None:
        super().__init__("the program", was_running=True, health=[])
        self._file = file
        self.checks = 0
        self.running: list[subprocess.Popen[bytes]] = []
        self._order_start()

    def refuse(self) -> None:
        """It may always be stopped."""

    def refuse_unseen(self, root: Path, staged: Sequence[Path]) -> None:
        """It is on this host."""

    def is_up(self) -> bool:
        return self.running[-1].poll() is None

    def _guard(self) -> Guard:
        return Guard(lambda: None, lambda: True, halt=Halt(service="program.service", is_stopped=True))

    def _order_stop(self) -> None:
        self.running[-1].terminate()
        self.running[-1].wait()

    def _order_start(self) -> None:
        if not self.running or not self.is_up():
            arguments = [sys.executable, "-c", APPLICATION, str(self._file)]
            self.running.append(subprocess.Popen(arguments, stdout=subprocess.PIPE))
            stdout = self.running[-1].stdout
            assert stdout
            stdout.readline()
            stdout.close()

    def _check(self) -> None:
        assert self.is_up()
        self.checks += 1

    def _may_run(self) -> bool:
        return self.is_up()


class TestCold:
    @pytest.fixture
    def program(self, directory: Path) -> Iterator[Program]:
        made = Program(directory / "file")
        yield made
        for running in made.running:
            running.kill()
            running.wait()

    def test_the_copy_is_made_after_the_end_and_before_the_start(
        self, program: Program, directory: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "s").mkdir()
        with Cold(lambda: program, 60).hold(directory, ["."], tmp_path / "s", no_sign) as held:
            assert (held.root / "file").read_text() == "ended"
            assert (directory / "file").read_text() == "runs"
            assert held.paused_ms
            assert held.paused_ms >= 300
            assert program.checks == 1
        assert program.is_up()
        assert len(program.running) == 2

    def test_a_copy_that_fails(
        self, program: Program, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_worker: Worker) -> None:
            assert not program.is_up()
            assert [halt.service for halt in noted(tmp_path)] == ["program.service"]
            raise SourceError("the disk is full")

        (tmp_path / "s").mkdir()
        with (
            halts.noted_in(tmp_path),
            in_the_pause(monkeypatch, fail),
            pytest.raises(SourceError, match="the disk is full"),
            Cold(lambda: program, 60).hold(directory, ["."], tmp_path / "s", no_sign),
        ):
            pytest.fail("it was held")
        assert program.is_up()
        assert noted(tmp_path) == []


def noted(directory: Path) -> list[Halt]:
    with halts.left_in(directory) as left:
        return [note.halt for note in left]


@pytest.mark.parametrize("when", ["while it is copied", "afterwards"])
def test_one_that_writes_although_it_stands_still(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A second file is copied after the first one, which is written to then."""
    honest = metadata.give
    (directory / "later").write_bytes(b"later")
    written = directory / ("later" if when == "while it is copied" else "file")
    if when == "while it is copied":
        # Else it would be seen at the end too, as it is open until then.
        monkeypatch.setattr(mirror, "_MOST_KEPT", 0)
    with holder(directory / "file") as found:

        def give(descriptor: int, status: os.stat_result) -> None:
            honest(descriptor, status)
            if found.is_stopped and status.st_ino == (directory / "later").stat().st_ino:
                written.write_bytes(b"somebody else")

        monkeypatch.setattr(metadata, "give", give)
        with (
            pytest.raises(SourceError, match="was written to while the application stood still"),
            frozen(directory, tmp_path / "s"),
        ):
            pytest.fail("it was held")
        assert not found.is_stopped


class TestKilledTogether:
    """The run and its guard end at once, as when systemd kills the whole control group."""

    @pytest.fixture
    def job(self, dbbackup: Command, tmp_path: Path) -> Command:
        make_environment(tmp_path / "kg")
        dbbackup.job("kg", tmp_path / "kg", method="freeze", freeze_timeout=60)
        return dbbackup

    @staticmethod
    def kill_in_the_pause(job: Command, monkeypatch: pytest.MonkeyPatch, stands_still: Callable[[], bool]) -> None:
        def run() -> None:
            with in_the_pause(monkeypatch, lambda _worker: time.sleep(600)):
                back_up(jobs.load(job.jobs, "kg"))

        kill_together(run, stands_still)

    def test_thaw(self, job: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with holder(tmp_path / "kg/data.mdb") as found:
            self.kill_in_the_pause(job, monkeypatch, lambda: found.is_stopped)
            told = f"a killed run left process {found.number} frozen"
            assert f"{told}; call dbbackup thaw kg" in job("status").stdout
            assert told in job("check", "kg").stdout
            assert job("list").stdout == "no backups\n"
            with held_lock(job):
                assert job.ok("thaw", "kg")["under_way"]
            assert found.is_stopped
            assert job.ok("thaw", "kg")["done"] == [
                f"process {found.number} was left frozen by a killed run and goes on"
            ]
            assert not found.is_stopped
        assert job.ok("thaw", "kg") == {"done": [], "failed": [], "under_way": False}
        assert notes(job) == []

    def test_the_next_run(self, job: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with holder(tmp_path / "kg/data.mdb") as found:
            self.kill_in_the_pause(job, monkeypatch, lambda: found.is_stopped)
            told = job.ok("run", "kg")
            assert f"process {found.number} was left frozen by a killed run and goes on" in told["warnings"]
            assert not found.is_stopped
        assert notes(job) == []

    def test_what_others_wrote_is_not_acted_upon(self, job: Command, tmp_path: Path) -> None:
        """A number that somebody else has now, another start of the host, notes of others, and what is no note."""
        JobDirectory(job.repository / "kg").create()
        with holder(tmp_path / "kg/data.mdb") as found, halts.noted_in(job.repository / "kg"):
            os.kill(found.number, signal.SIGSTOP)
            eventually(lambda: found.is_stopped, "it is stopped")
            good = halts.note_of(Halt.of([found]))
            other = halts.note_of(Halt.of([found._replace(born=found.born - 1)]))
            assert good
            assert other
            other.write()
            path = job.repository / "kg/.halted-1"
            whole = {"processes": {str(found.number): found.born}, "where": "another start"}
            for content in (json.dumps(whole), "{}", "[]", "x", json.dumps({**whole, "processes": {"..": 1}})):
                path.write_text(content)
                thaw(jobs.load(job.jobs, "kg"))
            good.write()
            if os.geteuid() == 0:
                written = next((job.repository / "kg").glob(f".halted-{os.getpid()}-*"))
                os.chown(written, NOBODY, NOBODY)
                thaw(jobs.load(job.jobs, "kg"))
                os.chown(written, 0, 0)
            assert found.is_stopped
            thaw(jobs.load(job.jobs, "kg"))
            assert not found.is_stopped

    def test_without_room_for_the_note_nothing_is_halted(
        self, job: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_path: Path) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(halts, "create", full)
        with holder(tmp_path / "kg/data.mdb") as found:
            with (
                pytest.raises(SourceError, match=r"nothing was halted, .* could not be written down.*No space left"),
                in_the_pause(monkeypatch, lambda _worker: pytest.fail("it was halted")),
            ):
                back_up(jobs.load(job.jobs, "kg"))
            assert not found.is_stopped


def kill_together(work: Callable[[], None], stands_still: Callable[[], bool]) -> None:
    """Have a process do the work until the application stands still, and kill it with all that it has started."""
    backup = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    backup.start()
    eventually(stands_still, "it stands still")
    assert backup.pid
    family = [*children_of(backup.pid), backup.pid]
    assert len(family) > 2, "there are a copier and a guard"
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for one in family:
            os.kill(one, number)
    backup.join()
    assert stands_still()


def children_of(number: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def notes(job: Command) -> list[str]:
    return [path.name for path in (job.repository / "kg").glob(".halted*")]


@contextmanager
def held_lock(job: Command) -> Iterator[None]:
    with JobDirectory(job.repository / "kg").lock():
        yield


class TestContainer:
    """Needs a Docker engine."""

    @pytest.fixture
    def containers(self) -> Iterator[Containers]:
        with contextlib.closing(engine()) as client:
            made = Containers(client)
            yield made
            made.remove()

    @pytest.fixture
    def served(self, containers: Containers, tmp_path: Path) -> str:
        (tmp_path / "served").mkdir()
        return containers.server(binds=[f"{tmp_path / 'served'}:/data"])

    def test_is_paused(self, containers: Containers, served: str, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        way = Halting(container=Address(served)).way("freeze")
        with way.hold(tmp_path / "served", ["bytes"], tmp_path / "s", no_sign) as held:
            assert held.paused_ms
            assert hashlib.sha256((held.root / "bytes").read_bytes()).hexdigest() == BYTES
            assert not containers.state(served)["Paused"]

    @pytest.mark.parametrize("method", ["freeze", "cold"])
    def test_a_kill(
        self, containers: Containers, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        (tmp_path / "s").mkdir()

        def hold() -> None:
            way = Halting(container=Address(served), freeze_timeout=60).way(method)
            with in_the_pause(monkeypatch, lambda _worker: time.sleep(600)):
                way.hold(tmp_path / "served", ["."], tmp_path / "s", no_sign).__enter__()

        def runs() -> bool:
            state = containers.state(served)
            return bool(state["Running"] and not state["Paused"])

        backup = multiprocessing.get_context("fork").Process(target=hold, daemon=True)
        backup.start()
        eventually(lambda: not runs(), "it stands still")
        backup.kill()
        eventually(runs, "it goes on", 2 if method == "freeze" else 60)
        backup.join()

    @pytest.mark.parametrize("method", ["freeze", "cold"])
    def test_a_kill_with_the_guard(
        self, containers: Containers, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        (tmp_path / "s").mkdir()
        directory, address = JobDirectory(tmp_path / "kg"), Address(served)
        directory.create()

        def hold() -> None:
            way = Halting(container=address, freeze_timeout=60).way(method)
            with halts.noted_in(directory.path), in_the_pause(monkeypatch, lambda _worker: time.sleep(600)):
                way.hold(tmp_path / "served", ["."], tmp_path / "s", no_sign).__enter__()

        def runs() -> bool:
            state = containers.state(served)
            return bool(state["Running"] and not state["Paused"])

        kill_together(hold, lambda: not runs())
        thawed = thaw_held(directory, address)
        halted = "left frozen" if method == "freeze" else "left stopped"
        assert [halted in told for told in thawed.done] == [True]
        assert not thawed.failed
        assert runs()
        assert noted(directory.path) == []

    def test_is_stopped_and_started(self, containers: Containers, served: str, tmp_path: Path) -> None:
        before = containers.state(served)["StartedAt"]
        (tmp_path / "s").mkdir()
        way = Halting(container=Address(served)).way("cold")
        with way.hold(tmp_path / "served", ["."], tmp_path / "s", no_sign) as held:
            state = containers.state(served)
            assert (state["Running"], state["StartedAt"] != before) == (True, True)
            assert hashlib.sha256((held.root / "bytes").read_bytes()).hexdigest() == BYTES

    def test_one_that_did_not_run_stays_so(self, containers: Containers, served: str, tmp_path: Path) -> None:
        containers.client.stop(served, timeout=1)
        (tmp_path / "s").mkdir()
        way = Halting(container=Address(served)).way("cold")
        with way.hold(tmp_path / "served", ["."], tmp_path / "s", no_sign) as held:
            assert held.paused_ms is None
            assert "was left so" in held.warnings[0]
        assert not containers.state(served)["Running"]


@pytest.mark.parametrize(
    ("method", "halting", "told"),
    [
        ("cold", Halting(), "name its service or container"),
        ("freeze", Halting(service="kg", container=Address("kg")), "not both"),
        ("freeze", Halting(freeze_timeout=0), "out of range"),
        ("freeze", Halting(freeze_timeout=61), "out of range"),
        ("snapshot", Halting(), "does not stop an application"),
    ],
)
def test_what_makes_no_sense(method: str, halting: Halting, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        halting.way(method)


def test_nobody_has_it_open(directory: Path, tmp_path: Path) -> None:
    if openers({}, set()).hidden:
        # Even root cannot look at all processes here: one of those could have it open.
        with pytest.raises(SourceError, match="cannot be looked at"), frozen(directory, tmp_path / "s"):
            pytest.fail("it was held")
        return
    with frozen(directory, tmp_path / "s") as held:
        assert isinstance(held, Held)
        assert "so none was stopped" in held.warnings[0]
        assert bytes_of(held.root) == bytes_of(directory)
