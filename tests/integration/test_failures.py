# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources, rights, locks and disks that let no backup succeed: one sentence, no harm, and the next run works."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lmdb
import pytest
from ansible_collections.embedded.db_backup.tests.saboteur import Ended, Fault, Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    Command,
    content_of,
    eventually,
    hide_libraries,
    make_environment,
    process,
    snapshot,
    without_readers,
)

USER, OTHER_USER = 23456, 23457
MAGIC = 0xBEEFC0DE
PAGE = 4096
MEBIBYTE = 1 << 20

HOLD_READERS = """
import lmdb, sys
environment = lmdb.open(sys.argv[1], max_readers=3, map_size=64 << 20)
held = []
while sys.argv[2] == "fill":
    try:
        held.append(environment.begin())
    except lmdb.ReadersFullError:
        break
print("ready", flush=True)
sys.stdin.read()
"""

HOLD_WRITER = """
import lmdb, sys
transaction = lmdb.open(sys.argv[1], map_size=64 << 20).begin(write=True)
transaction.put(b"key", b"value")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def nothing_published(command: Command, job: str = "kg") -> Iterator[None]:
    """What happens inside adds no backup, leaves nothing, and does no harm to the backups that are there."""
    before = stored(command, job)
    yield
    assert stored(command, job) == before
    assert leftovers(command, job) == []


def stored(command: Command, job: str) -> dict[str, Any]:
    return {backup: snapshot(command.repository / job / backup) for backup in command.backups(job)}


def leftovers(command: Command, job: str = "kg") -> list[str]:
    directory = command.repository / job
    expected = {".lock", "state.json", ".catalogue.json", *command.backups(job)}
    return (
        sorted(entry.name for entry in directory.iterdir() if entry.name not in expected) if directory.exists() else []
    )


@contextmanager
def holding(code: str, path: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs the code and has said that it is ready."""
    command = [sys.executable, "-c", code, str(path), *arguments]
    with process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        yield running


# Sources that are no LMDB 0.9 environment, or no whole one


def patched(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def data_version(number: int) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        for page in (0, PAGE):
            patched(source / "data.mdb", page + 20, struct.pack("<I", number))

    return spoil


def lock_version(number: int) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        (form,) = struct.unpack_from("<I", (source / "lock.mdb").read_bytes(), 4)
        patched(source / "lock.mdb", 4, struct.pack("<I", form & ~0xFFF | number))

    return spoil


def content(data: bytes) -> Callable[[Path], None]:
    return lambda source: (source / "data.mdb").write_bytes(data) and None


def truncate(source: Path) -> None:
    os.truncate(source / "data.mdb", (source / "data.mdb").stat().st_size // 2)


def make_sqlite(source: Path) -> None:
    (source / "data.mdb").unlink()
    with closing(sqlite3.connect(source / "data.mdb")) as database:
        database.execute("create table t (x)")


def make_32_bit(source: Path) -> None:
    data = (source / "data.mdb").read_bytes()
    (source / "data.mdb").write_bytes(data[:12] + data[16:] + bytes(4))


def make_big_endian(source: Path) -> None:
    patched(source / "data.mdb", 16, struct.pack(">II", MAGIC, 1))


def make_nonsense_metas(source: Path) -> None:
    for page in (0, PAGE):
        patched(source / "data.mdb", page + 40, struct.pack("<I", 12345))


def make_fifo(source: Path) -> None:
    (source / "data.mdb").unlink()
    os.mkfifo(source / "data.mdb")


def make_link(source: Path) -> None:
    (source / "data.mdb").rename(source / "elsewhere")
    (source / "data.mdb").symlink_to("elsewhere")


def scramble_pages(source: Path) -> None:
    """All but the two meta pages, so that only reading every record can tell."""
    size = (source / "data.mdb").stat().st_size
    patched(source / "data.mdb", 2 * PAGE, random.Random(1).randbytes(size - 2 * PAGE))


def speak_of_fewer_pages(source: Path) -> None:
    """A header that makes the copy end before the pages that the tree needs."""
    for page in (0, PAGE):
        patched(source / "data.mdb", page + 136, struct.pack("<Q", 2))


NOISE = random.Random(0).randbytes(200_000)
SPOILED = {
    "truncated to half": (truncate, "data.mdb is truncated"),
    "empty": (content(b""), "data.mdb is empty"),
    "one byte": (content(b"\0"), "is not an LMDB environment"),
    "only a header": (content(bytes(16) + struct.pack("<II", MAGIC, 1)), "damaged"),
    "SQLite": (make_sqlite, "is an SQLite database"),
    "random bytes": (content(NOISE), "is not an LMDB environment"),
    "zeros": (content(bytes(200_000)), "is not an LMDB environment"),
    "nonsense metas": (make_nonsense_metas, "damaged"),
    "scrambled pages": (scramble_pages, "data.mdb"),
    "too few pages": (speak_of_fewer_pages, "data.mdb"),
    "no directory": (shutil.rmtree, "No such file or directory"),
    "no data file": (lambda source: (source / "data.mdb").unlink(), "there is no LMDB environment"),
    "a pipe": (make_fifo, "is not a regular file"),
    "a link": (make_link, "data.mdb"),
    "Datalevin": (data_version(2), "Datalevin"),
    "unknown data version": (data_version(77), "unknown LMDB data version 77"),
    "32-bit": (make_32_bit, "32-bit"),
    "big-endian": (make_big_endian, "big-endian"),
    "unknown lock version": (lock_version(5), "version 5"),
    "another lock file": (lambda source: patched(source / "lock.mdb", 0, b"not LMDB"), "lock.mdb is not the lock file"),
}
SEEN_ONLY_WHEN_READ = ("scrambled pages", "too few pages")


@pytest.mark.parametrize("kind", SPOILED)
def test_a_source_that_is_no_whole_environment_is_refused_by_name(kind: str, dbbackup: Command, tmp_path: Path) -> None:
    source, intact = tmp_path / "source", tmp_path / "intact"
    make_environment(source)
    dbbackup.job("kg", source, timeout=5)
    dbbackup.ok("run", "kg")
    shutil.copytree(source, intact)
    spoil, words = SPOILED[kind]
    spoil(source)
    before = without_readers(snapshot(source)) if source.exists() else None
    with nothing_published(dbbackup):
        assert words in dbbackup.fails(1, "run", "kg")
        if kind not in SEEN_ONLY_WHEN_READ:
            assert words in dbbackup.fails(1, "run", "kg", "--dry-run")
    assert (without_readers(snapshot(source)) if source.exists() else None) == before
    shutil.rmtree(source, ignore_errors=True)
    intact.rename(source)
    dbbackup.ok("run", "kg")


def test_a_spoiled_environment_in_a_tree_fails_the_whole_backup(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "source/graph")
    make_environment(tmp_path / "source/vector")
    dbbackup.job("kg", tmp_path / "source")
    truncate(tmp_path / "source/vector")
    with nothing_published(dbbackup):
        assert "vector/data.mdb is truncated" in dbbackup.fails(1, "run", "kg")


@pytest.mark.parametrize("name", ["../kg", "KG", "a b", ".kg", "", "kg\n", "x" * 101])
def test_a_job_name_that_could_be_a_path_is_refused(name: str, dbbackup: Command) -> None:
    assert "is not a job name" in dbbackup.fails(2, "run", name)
    assert "is not a job name" in dbbackup.fails(2, "verify", name)
    assert not dbbackup.repository.exists()


# Locks of LMDB


@pytest.mark.parametrize("compact", [False, True])
def test_a_reader_table_full_of_living_readers_is_told(compact: bool, dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "source", lock=False)
    dbbackup.job("kg", tmp_path / "source", compact=compact)
    dbbackup.ok("run", "kg")
    with holding(HOLD_READERS, tmp_path / "source", "fill"), nothing_published(dbbackup):
        assert "reader table" in dbbackup.fails(1, "run", "kg")
    dbbackup.ok("run", "kg")


@pytest.mark.parametrize("compact", [False, True])
def test_a_reader_table_full_of_dead_readers_is_no_obstacle(compact: bool, dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "source", lock=False)
    dbbackup.job("kg", tmp_path / "source", compact=compact)
    with holding(HOLD_READERS, tmp_path / "source", "look"):
        with holding(HOLD_READERS, tmp_path / "source", "fill") as dying:
            dying.kill()
            dying.wait()
        dbbackup.ok("run", "kg")


def test_a_writer_that_hangs_in_its_transaction_delays_no_longer_than_the_timeout(
    dbbackup: Command, tmp_path: Path
) -> None:
    """LMDB lets a plain copy wait for the writer, for the moment in which it takes its snapshot."""
    make_environment(tmp_path / "source")
    dbbackup.job("kg", tmp_path / "source", timeout=1, method="hot")
    dbbackup.job("unlocked", tmp_path / "source", timeout=1)
    dbbackup.job("compact", tmp_path / "source", compact=True)
    with holding(HOLD_WRITER, tmp_path / "source") as writer:
        writer.send_signal(signal.SIGSTOP)
        dbbackup.ok("run", "compact")
        with nothing_published(dbbackup):
            assert "gave no sign of life" in dbbackup.fails(1, "run", "kg")
        (environment,) = dbbackup.ok("run", "unlocked")["backup"]["source"]["environments"]
        assert environment["method"] == "optimistic"
        assert "gave no sign of life for 1 seconds" in environment["reason"]
        writer.send_signal(signal.SIGCONT)
        put = [sys.executable, "-c", HOLD_WRITER, str(tmp_path / "source")]
        with process(put, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiting:
            writer.kill()
            assert waiting.stdout
            assert waiting.stdout.readline() == b"ready\n", "the writers' lock is free again"
    dbbackup.ok("run", "kg")


# Children that hang


@pytest.mark.parametrize("process_number", [1, 2], ids=["copy", "walk"])
def test_a_child_that_gives_no_sign_of_life_is_ended(
    process_number: int, dbbackup: Command, saboteur: Saboteur, tmp_path: Path
) -> None:
    make_environment(tmp_path / "source")
    dbbackup.job("kg", tmp_path / "source", method="hot", timeout=1)
    fault = Fault("SIGSTOP", 4, process=process_number)
    ended = saboteur.run(arguments(dbbackup, "run", "kg"), fault)
    assert (ended.code, ended.struck) == (1, True)
    assert "gave no sign of life for 1 seconds" in ended.stderr
    assert dbbackup.backups("kg") == leftovers(dbbackup) == saboteur.left_over() == []


@pytest.mark.parametrize("ending", ["the deadline", "a kill"])
def test_a_program_that_hangs_does_not_outlive_the_run(ending: str, dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "source")
    dbbackup.job("kg", tmp_path / "source", method="hot", timeout=1 if ending == "the deadline" else 100)
    program, number = tmp_path / "programs/mdb_copy", tmp_path / "number"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -V ] || echo $$ > {number}.new && mv {number}.new {number} && exec sleep 600\n'
    )
    program.chmod(0o755)
    environ = hide_libraries(tmp_path / "hidden", "lmdb")
    environ = {**os.environ, **environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    with process(dbbackup.arguments("run", "kg"), env=environ, stderr=subprocess.PIPE) as run:
        hanging = int(eventually(lambda: number.exists() and number.read_text(), "the program began"))
        if ending == "a kill":
            run.kill()
        assert run.wait(30) == (-signal.SIGKILL if ending == "a kill" else 1)
        try:
            eventually(lambda: not is_running(hanging), "the end of the program", 10)
        finally:
            if is_running(hanging):
                os.kill(hanging, signal.SIGKILL)


def is_running(number: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


# Rights


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users can enter."""
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def arguments(command: Command, *words: str) -> list[str]:
    return command.arguments(*words)[2:]


def give(user: int, *paths: Path) -> None:
    for path in paths:
        for entry in [path, *path.rglob("*")]:
            os.chown(entry, user, user)


def owners(directory: Path) -> set[int]:
    return {entry.lstat().st_uid for entry in [directory, *directory.rglob("*")]}


def failed(ended: Ended, *words: str) -> bool:
    """Whether it failed with one sentence that has these words."""
    said = ended.stderr
    return ended.code == 1 and said.startswith("dbbackup: ") and said.count("\n") == 1 and all(w in said for w in words)


@pytest.mark.root
@pytest.mark.parametrize("lock", [True, False])
def test_a_user_backs_up_own_data(lock: bool, public: Path, saboteur: Saboteur) -> None:
    command = Command(public / "home/repository", public / "jobs.d")
    make_environment(public / "home/source", lock=lock)
    command.job("kg", public / "home/source")
    give(USER, public / "home")
    ended = saboteur.run(arguments(command, "run", "kg"), user=USER)
    assert ended.code == 0, ended
    assert owners(public / "home") == {USER}
    assert (public / "home/source/lock.mdb").exists() == lock
    assert saboteur.run(arguments(command, "verify", "kg"), user=USER).code == 0


@pytest.mark.root
@pytest.mark.parametrize("lock", [True, False])
@pytest.mark.parametrize("compact", [False, True])
def test_root_leaves_no_trace_in_the_data_of_a_user(
    lock: bool, compact: bool, dbbackup: Command, tmp_path: Path
) -> None:
    """The directories above the data, those of pytest, belong to root alone: their owner could not pass them."""
    parent = tmp_path / "closed"
    make_environment(parent / "source", lock=lock)
    parent.chmod(0o700)
    give(USER, parent / "source")
    dbbackup.job("kg", parent / "source", compact=compact)
    before = {path.name: path.stat().st_ino for path in (parent / "source").iterdir()}
    dbbackup.ok("run", "kg")
    assert owners(parent / "source") == {USER}
    assert {path.name: path.stat().st_ino for path in (parent / "source").iterdir()} == before


@pytest.mark.root
def test_a_lock_file_that_the_owner_of_the_data_may_not_open_stays_as_it_is(dbbackup: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_environment(source)
    give(USER, source)
    os.chown(source / "lock.mdb", OTHER_USER, OTHER_USER)
    (source / "lock.mdb").chmod(0o600)
    dbbackup.job("kg", source)
    before = snapshot(source)
    with nothing_published(dbbackup):
        assert "lock.mdb" in dbbackup.fails(1, "run", "kg")
    assert snapshot(source) == before


@pytest.mark.root
@pytest.mark.parametrize("closed", ["source", "source/data.mdb", "repository"])
def test_a_user_without_permission_is_told_where(closed: str, public: Path, saboteur: Saboteur) -> None:
    command = Command(public / "repository", public / "jobs.d")
    make_environment(public / "source")
    command.repository.mkdir()
    command.job("kg", public / "source")
    give(USER, public / "source", public / "repository")
    give(OTHER_USER, public / closed)
    mode = (public / closed).stat().st_mode
    (public / closed).chmod(0o700 if (public / closed).is_dir() else 0o600)
    ended = saboteur.run(arguments(command, "run", "kg"), user=USER)
    assert failed(ended, "Permission denied", closed), ended
    assert command.backups("kg") == leftovers(command) == []
    (public / closed).chmod(mode)
    give(USER, public / closed)
    assert saboteur.run(arguments(command, "run", "kg"), user=USER).code == 0


@pytest.mark.root
def test_a_user_who_may_not_read_the_lock_file_copies_without_it(public: Path, saboteur: Saboteur) -> None:
    command = Command(public / "repository", public / "jobs.d")
    content = make_environment(public / "source")
    command.repository.mkdir()
    command.job("kg", public / "source")
    give(USER, public / "source", public / "repository")
    os.chown(public / "source/lock.mdb", 0, 0)
    (public / "source/lock.mdb").chmod(0)
    before = snapshot(public / "source")
    assert saboteur.run(arguments(command, "run", "kg"), user=USER).code == 0
    assert snapshot(public / "source") == before
    command.ok("restore", "kg", "--dest", public / "restored")
    assert content_of(public / "restored") == content


# Several at once


def stopped_at(pattern: str, saboteur: Saboteur, command: list[str]) -> Ended:
    """A run that stopped itself at the first call that matches. The runs before it tell the number of that call."""
    saboteur.run(command)
    calls = saboteur.run(command).calls[0]
    number = next(index for index, call in enumerate(calls, start=1) if re.match(pattern, call))
    ended = saboteur.run(command, Fault("SIGSTOP", number))
    assert ended.stopped
    assert re.match(pattern, ended.last_call), ended.last_call
    return ended


def test_a_second_run_gives_way(dbbackup: Command, saboteur: Saboteur, tmp_path: Path) -> None:
    make_environment(tmp_path / "source")
    dbbackup.job("kg", tmp_path / "source")
    dbbackup.job("other", tmp_path / "source")
    first = stopped_at("open .*/data.mdb.zst", saboteur, arguments(dbbackup, "run", "kg"))
    earlier = dbbackup.backups("kg")
    (partial,) = leftovers(dbbackup)
    said = dbbackup.fails(11, "run", "kg")
    assert f"process {first.stopped}" in said
    assert leftovers(dbbackup) == [partial]
    dbbackup.ok("run", "other")
    dbbackup.ok("verify", "kg")
    assert dbbackup.seen("kg")[0]["last_attempt"]["status"] == "running"
    ended = saboteur.resume(first)
    assert ended.code == 0, ended
    (new,) = set(dbbackup.backups("kg")) - set(earlier)
    dbbackup.ok("verify", "kg", "--id", new)
    dbbackup.ok("run", "kg")
    assert leftovers(dbbackup) == []


def test_a_run_leaves_the_scratch_of_a_verification_alone(
    dbbackup: Command, saboteur: Saboteur, tmp_path: Path
) -> None:
    make_environment(tmp_path / "source")
    dbbackup.job("kg", tmp_path / "source")
    dbbackup.ok("run", "kg")
    for pattern in ("open .*/.scratch-", "flock .*/.scratch-", "open .*/.scratch-.*/data.mdb"):
        verification = stopped_at(pattern, saboteur, arguments(dbbackup, "verify", "kg"))
        with process(dbbackup.arguments("run", "kg")) as run:
            # It may wait for the verification, or not.
            with suppress(subprocess.TimeoutExpired):
                run.wait(2)
            ended = saboteur.resume(verification)
            assert ended.code == 0, ended
            assert run.wait(30) == 0
        assert leftovers(dbbackup) == []


@pytest.mark.slow
def test_of_twenty_runs_at_once_each_succeeds_or_gives_way(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "source")
    dbbackup.job("kg", tmp_path / "source")
    command = [*dbbackup.arguments("run", "kg"), "--json"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _unused in range(20)]
    said = [run.communicate(timeout=120)[1].decode() for run in runs]
    codes = [run.returncode for run in runs]
    assert set(codes) <= {0, 11}, said
    assert all(text == "" if code == 0 else "is in use" in text for code, text in zip(codes, said, strict=True))
    assert codes.count(0) == len(dbbackup.backups("kg")) > 0
    for backup in dbbackup.backups("kg"):
        dbbackup.ok("verify", "kg", "--id", backup)
    assert leftovers(dbbackup) == []


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0755", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a tmpfs: give the tests the capability SYS_ADMIN to include it")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_large(path: Path, megabytes: int, compressible: bool) -> None:
    noise = random.Random(megabytes)
    with closing(lmdb.open(str(path), map_size=256 * MEBIBYTE)) as environment:
        for number in range(megabytes):
            with environment.begin(write=True) as transaction:
                value = bytes([number]) * MEBIBYTE if compressible else noise.randbytes(MEBIBYTE)
                transaction.put(b"%08d" % number, value)


@pytest.mark.root
@pytest.mark.parametrize("stage", ["storing", "reading back", "storing other files"])
def test_a_full_disk_costs_only_the_new_backup(stage: str, small_disk: Path, tmp_path: Path) -> None:
    command = Command(small_disk / "repository", tmp_path / "jobs.d")
    make_environment(tmp_path / "small")
    command.job("kg", tmp_path / "small")
    command.ok("run", "kg")
    make_large(tmp_path / "large", 1 if stage == "storing other files" else 24, stage == "reading back")
    (tmp_path / "large/media").write_bytes(random.Random(7).randbytes(24 * MEBIBYTE))
    command.job("kg", tmp_path / "large", include=["media"] if stage == "storing other files" else [])
    with nothing_published(command):
        assert "No space left on device" in command.fails(1, "run", "kg")
    assert command.seen("kg")[0]["last_attempt"]["status"] == "failed"
    command.ok("verify", "kg")
    command.job("kg", tmp_path / "small")
    command.ok("run", "kg")


@pytest.mark.root
def test_a_full_disk_leaves_the_destination_of_a_restore_as_it_was(
    dbbackup: Command, small_disk: Path, tmp_path: Path
) -> None:
    make_large(tmp_path / "large", 24, False)
    make_environment(small_disk / "data")
    dbbackup.job("kg", tmp_path / "large")
    dbbackup.ok("run", "kg")
    before = {path: entry[:3] + entry[4:] for path, entry in snapshot(small_disk / "data").items()}
    assert "No space left on device" in dbbackup.fails(1, "restore", "kg", "--force", "--dest", small_disk / "data")
    assert {path: entry[:3] + entry[4:] for path, entry in snapshot(small_disk / "data").items()} == before
