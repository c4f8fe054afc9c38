# SPDX-License-Identifier: GPL-3.0-or-later
"""Persist directories of Chroma that are damaged, hostile, busy or full of leftovers; no server is needed for them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.saboteur import Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    CHECKOUT,
    NOBODY,
    Command,
    bytes_of,
    eventually,
    give_away,
    process,
    snapshot,
)

VERSIONS = CHECKOUT / "tests/fixtures/chroma_versions"
PICKLE, LEVEL0, LINKS, HEADER = "index_metadata.pickle", "data_level0.bin", "link_lists.bin", "header.bin"
JOB = "vectors"


def unpack(version: str, place: Path) -> Path:
    """The persist directory of a real server, of which one of three collections was deleted."""
    place.mkdir(parents=True)
    with tarfile.open(VERSIONS / f"chroma-{version}.tar.xz") as archive:
        archive.extractall(place, filter="data")
    (database,) = place.rglob("chroma.sqlite3")
    return database.parent


@pytest.fixture
def persist(dbbackup: Command, tmp_path: Path) -> Path:
    directory = unpack("1.5.9", tmp_path / "persist")
    dbbackup.job(JOB, directory, type="chroma", retries=1)
    return directory


def rows(directory: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as connection:
        found = connection.execute(statement).fetchall()
        connection.commit()
        return found


def segments(directory: Path) -> list[str]:
    """The segments that are in use."""
    return [row[0] for row in rows(directory, "SELECT id FROM segments WHERE scope = 'VECTOR' ORDER BY id")]


def persisted(directory: Path) -> Path:
    """The directory of the segment that was written."""
    (found,) = [directory / name for name in segments(directory) if (directory / name / PICKLE).exists()]
    return found


def orphan(directory: Path) -> Path:
    (found,) = [path for path in directory.iterdir() if path.is_dir() and path.name not in segments(directory)]
    return found


def wanted(directory: Path) -> dict[str, Any]:
    """What a copy must have: all but the directories of deleted collections."""
    keep = {"chroma.sqlite3", *segments(directory)}
    return {path: content for path, content in bytes_of(directory).items() if path.split("/")[0] in keep}


@pytest.mark.parametrize("version", ["0.4.24", "0.5.23", "1.5.9"])
def test_every_version_comes_back_byte_by_byte(dbbackup: Command, tmp_path: Path, version: str) -> None:
    directory = unpack(version, tmp_path / "it's a 100% ü ?#&")
    dbbackup.job(JOB, directory, type="chroma")
    before = snapshot(directory)
    source = dbbackup.ok("run", JOB)["backup"]["source"]
    assert snapshot(directory) == before
    assert dbbackup.ok("verify", JOB)["opened"]
    dbbackup.ok("restore", JOB, "--dest", tmp_path / "restored")
    assert bytes_of(tmp_path / "restored") == wanted(directory)
    expected = json.loads((VERSIONS / "expected.json").read_text())
    assert {one["name"]: one["records"] for one in source["collections"]} == {
        name: len(records) for name, records in expected.items() if name != "dropped"
    }
    assert source["tenants"] == ["default_tenant"]
    assert source["databases"] == ["default_tenant/default_database"]


def shorten(path: Path, size: int) -> None:
    """Or lengthen, with zeros."""
    os.truncate(path, size)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


class Bomb:
    """Runs a program when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.proof}'",)


def swap(directory: Path, name: str) -> None:
    """A file of another segment, of one that was deleted."""
    shutil.copy(orphan(directory) / name, persisted(directory) / name)


def swap_segment(directory: Path) -> None:
    shutil.rmtree(persisted(directory))
    shutil.copytree(orphan(directory), directory / segments(directory)[0], dirs_exist_ok=True)


def relabel(directory: Path) -> None:
    """The names are those of another state: one id has the label of an element that is not there."""
    content = pickle.loads((persisted(directory) / PICKLE).read_bytes())
    name, label = next(iter(content["id_to_label"].items()))
    content["id_to_label"][name], content["label_to_id"] = 4711, {**content["label_to_id"], 4711: name}
    del content["label_to_id"][label]
    (persisted(directory) / PICKLE).write_bytes(pickle.dumps(content))


def forget(directory: Path) -> None:
    """As after a restore of older segments: an id is missing, all else fits."""
    content = pickle.loads((persisted(directory) / PICKLE).read_bytes())
    name, label = next(iter(content["id_to_label"].items()))
    del content["id_to_label"][name], content["label_to_id"][label]
    (persisted(directory) / PICKLE).write_bytes(pickle.dumps(content))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "header-truncated": (lambda one: shorten(persisted(one) / HEADER, 99), "header.bin has 99 bytes"),
    "header-missing": (lambda one: (persisted(one) / HEADER).unlink(), "header.bin is missing"),
    "header-swapped": (lambda one: swap(one, HEADER), "is not whole"),
    "header-version": (lambda one: overwrite(persisted(one) / HEADER, 0, b"\2"), "unknown version 2"),
    "header-huge": (
        lambda one: overwrite(persisted(one) / HEADER, 12, struct.pack("<QQ", 1 << 62, 1 << 62)),
        "too few for",
    ),
    "header-element-huge": (
        lambda one: overwrite(persisted(one) / HEADER, 28, struct.pack("<QQ", 1 << 63, (1 << 63) - 8)),
        "too few for",
    ),
    "vectors-truncated": (lambda one: shorten(persisted(one) / LEVEL0, 172 * 60 - 1), "too few for 60 elements"),
    "vectors-torn": (lambda one: overwrite(persisted(one) / LEVEL0, 172 * 30, bytes(172 * 30)), "data_level0.bin has"),
    "vectors-swapped": (lambda one: swap(one, LEVEL0), "is not whole"),
    "vectors-missing": (lambda one: (persisted(one) / LEVEL0).unlink(), "data_level0.bin is missing"),
    "lengths-truncated": (lambda one: shorten(persisted(one) / "length.bin", 100), "length.bin has 100 bytes"),
    "links-truncated": (lambda one: shorten(persisted(one) / LINKS, 200), "link_lists.bin"),
    "links-longer": (lambda one: shorten(persisted(one) / LINKS, 380), "link_lists.bin has 380 bytes"),
    "links-swapped": (lambda one: swap(one, LINKS), "link_lists.bin"),
    "links-hostile": (lambda one: overwrite(persisted(one) / LINKS, 0, b"\xff\xff\xff\xff"), "which cannot be"),
    "names-truncated": (lambda one: shorten(persisted(one) / PICKLE, 500), "is not whole"),
    "names-missing": (lambda one: (persisted(one) / PICKLE).unlink(), "its index_metadata.pickle is missing"),
    "names-swapped": (lambda one: swap(one, PICKLE), "elements"),
    "names-relabelled": (relabel, "no element of the label 4711"),
    "names-forgotten": (forget, "have no vector"),
    "names-empty": (lambda one: (persisted(one) / PICKLE).write_bytes(b""), "is not whole"),
    "names-another-type": (
        lambda one: (persisted(one) / PICKLE).write_bytes(pickle.dumps([1, 2])),
        "does not hold what Chroma writes",
    ),
    "names-of-memory": (
        # A memo of four thousand million places, in a few bytes.
        lambda one: (persisted(one) / PICKLE).write_bytes(b"\x80\x04}r\xff\xff\xff\xff."),
        "index_metadata.pickle",
    ),
    "segment-missing": (lambda one: shutil.rmtree(persisted(one)), "its directory is missing"),
    "segment-swapped": (swap_segment, "segment"),
    "segment-link": (
        lambda one: (persisted(one).rename(one.parent / "moved"), persisted_link(one)),
        "cannot be read",
    ),
    "segment-pipe": (lambda one: os.mkfifo(persisted(one) / "fifo"), "is not a regular file"),
    "queue-lost": (lambda one: rows(one, "DELETE FROM embeddings_queue"), "have no vector"),
    "record-added": (
        lambda one: rows(
            one, "INSERT INTO embeddings SELECT 4711, segment_id, 'more', seq_id, '' FROM embeddings LIMIT 1"
        ),
        "1 of 70 records have no vector",
    ),
    "operation-unknown": (lambda one: rows(one, "UPDATE embeddings_queue SET operation = 9"), "of the unknown kind 9"),
    "segment-type-unknown": (
        lambda one: rows(one, "UPDATE segments SET type = 'urn:chroma:segment/vector/spann' WHERE scope = 'VECTOR'"),
        "in the unknown way 'urn:chroma:segment/vector/spann'",
    ),
}


def persisted_link(directory: Path) -> None:
    (name,) = [name for name in segments(directory) if not (directory / name).exists()]
    (directory / name).symlink_to(directory.parent / "moved")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_nothing_published(dbbackup: Command, persist: Path, damage: str) -> None:
    dbbackup.ok("run", JOB)
    harm, sentence = DAMAGES[damage]
    harm(persist)
    before = dbbackup.backups(JOB)
    assert sentence in dbbackup.fails(1, "run", JOB)
    assert dbbackup.backups(JOB) == before
    assert not [name for name in os.listdir(dbbackup.repository / JOB) if name.startswith((".partial", ".scratch"))]
    rows(persist, "BEGIN IMMEDIATE")


def test_a_hostile_pickle_runs_nothing(dbbackup: Command, persist: Path, tmp_path: Path) -> None:
    for bomb in (Bomb(tmp_path / "proof"), {"id_to_label": Bomb(tmp_path / "proof")}):
        (persisted(persist) / PICKLE).write_bytes(pickle.dumps(bomb))
        assert "index_metadata.pickle wants posix.system" in dbbackup.fails(1, "run", JOB)
    assert not (tmp_path / "proof").exists()


def test_an_unfinished_first_persist_is_no_damage(dbbackup: Command, persist: Path, tmp_path: Path) -> None:
    """Chroma takes no notice of a segment without a pickle that it never noted as written."""
    (queued,) = [persist / name for name in segments(persist) if name != persisted(persist).name]
    (queued / LEVEL0).write_bytes(os.urandom(1000))
    dbbackup.ok("run", JOB)
    dbbackup.ok("restore", JOB, "--dest", tmp_path / "restored")
    assert bytes_of(tmp_path / "restored") == wanted(persist)


def test_other_databases_are_named(dbbackup: Command, persist: Path) -> None:
    (persist / "chroma.sqlite3").unlink()
    with closing(sqlite3.connect(persist / "chroma.sqlite3")) as connection:
        connection.execute("CREATE TABLE collections (id)")
        connection.execute("CREATE VIEW embeddings AS SELECT 1")
    sentence = dbbackup.fails(1, "run", JOB)
    assert "is an SQLite database, but not one of Chroma: it has no table migrations" in sentence
    assert "sqlite_backup (type sqlite)" in sentence
    (persist / "chroma.sqlite3").write_bytes(b"no database at all" * 10)
    assert "is not an SQLite database" in dbbackup.fails(1, "run", JOB)
    (persist / "chroma.sqlite3").unlink()
    assert "chroma.sqlite3 cannot be backed up: No such file" in dbbackup.fails(1, "run", JOB)


def test_a_view_that_never_ends_is_no_table(dbbackup: Command, persist: Path) -> None:
    rows(persist, "ALTER TABLE embeddings_queue RENAME TO gone")
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
    rows(persist, f"CREATE VIEW embeddings_queue AS {endless}")
    assert "it has no table embeddings_queue" in dbbackup.fails(1, "run", JOB)


def test_what_is_lost_without_segments_is_said(dbbackup: Command, persist: Path, tmp_path: Path) -> None:
    dbbackup.job(JOB, persist, type="chroma", include_segments=False)
    result = dbbackup.ok("run", JOB)
    # 60 were persisted, and three of them have a new vector in the queue.
    (warning,) = result["warnings"]
    assert "loses the vectors of 57 of 80 records (71.2 %)" in warning
    assert [record["path"] for record in result["backup"]["files"]] == ["chroma.sqlite3"]
    assert dbbackup.ok("verify", JOB)["opened"]
    dbbackup.ok("restore", JOB, "--dest", tmp_path / "restored")
    assert os.listdir(tmp_path / "restored") == ["chroma.sqlite3"]


def test_a_restore_moves_everything_else_aside(dbbackup: Command, persist: Path) -> None:
    dbbackup.ok("run", JOB)
    content, gone = wanted(persist), orphan(persist)
    stale = persist / "00000000-1111-2222-3333-444444444444"
    shutil.copytree(persisted(persist), stale)
    (persist / "chroma.sqlite3-wal").write_bytes(b"left over")
    (persist / "lost+found").mkdir()
    assert "is not empty" in dbbackup.fails(1, "restore", JOB)
    predicted = dbbackup.ok("restore", JOB, "--force", "--dry-run")["aside"]
    aside = [Path(path) for path in dbbackup.ok("restore", JOB, "--force")["aside"]]
    names = {path.name.split(".before-restore-")[0] for path in aside}
    assert names == {"chroma.sqlite3", "chroma.sqlite3-wal", stale.name, gone.name, *segments(persist)}
    assert len(predicted) == len(aside)
    there = {name: value for name, value in bytes_of(persist).items() if ".before-restore-" not in name}
    assert there == {**content, "lost+found": None}
    # Nothing is left to do, and what was put aside is no part of the next backup.
    assert dbbackup.ok("restore", JOB)["changed"] is False
    assert dbbackup.ok("run", JOB)["changed"]


def test_a_database_in_use_is_not_replaced(dbbackup: Command, persist: Path) -> None:
    dbbackup.ok("run", JOB)
    before = snapshot(persist)
    hold = "import sys, sqlite3; sqlite3.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold.replace("sqlite3.connect", "keep = sqlite3.connect")]
    opened = process([*command, str(persist / "chroma.sqlite3")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with opened as application:
        assert application.stdout
        application.stdout.readline()
        assert f"is open in process {application.pid}" in dbbackup.fails(1, "restore", JOB, "--force")
    assert snapshot(persist) == before


def test_a_copy_that_was_never_opened_is_before_it_replaces_anything(
    dbbackup: Command, persist: Path, tmp_path: Path
) -> None:
    dbbackup.job(JOB, persist, type="chroma", verify=False)
    dbbackup.ok("run", JOB)
    content = wanted(persist)
    dbbackup.ok("restore", JOB, "--dest", tmp_path / "restored")
    assert bytes_of(tmp_path / "restored") == content


@contextmanager
def is_locked_again_and_again(dbbackup: Command, persist: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that cannot succeed holds the lock for a moment, a thousand times."""
    shorten(persisted(persist) / LINKS, 8)
    dbbackup.job(JOB, persist, type="chroma", retries=1000)
    with process(dbbackup.arguments("run", JOB), stderr=subprocess.DEVNULL) as run:
        with closing(sqlite3.connect(persist / "chroma.sqlite3", timeout=0, isolation_level=None)) as connection:
            eventually(lambda: not can_lock(connection), "the run takes the lock")
        yield run


def can_lock(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    connection.execute("ROLLBACK")
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_lock_outlives_a_run_that_is_ended(dbbackup: Command, persist: Path, number: signal.Signals) -> None:
    with is_locked_again_and_again(dbbackup, persist) as run:
        run.send_signal(number)
        run.wait()
        with closing(sqlite3.connect(persist / "chroma.sqlite3", timeout=0, isolation_level=None)) as connection:
            eventually(lambda: all(can_lock(connection) for _unused in range(200)), "the lock is free for good", 20)
    assert dbbackup.backups(JOB) == []


def test_a_lock_that_is_held_for_longer(dbbackup: Command, persist: Path) -> None:
    dbbackup.job(JOB, persist, type="chroma", lock_timeout=1)
    with closing(sqlite3.connect(persist / "chroma.sqlite3", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert "is locked by another process" in dbbackup.fails(1, "run", JOB)
    assert dbbackup.backups(JOB) == []
    dbbackup.ok("run", JOB)


@pytest.mark.root
def test_a_full_disk(dbbackup: Command, persist: Path) -> None:
    dbbackup.repository.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(dbbackup.repository)]
    subprocess.run(command, check=True)
    try:
        assert "No space left on device" in dbbackup.fails(1, "run", JOB)
        assert dbbackup.backups(JOB) == []
    finally:
        subprocess.run(["umount", str(dbbackup.repository)], check=True)
    rows(persist, "BEGIN IMMEDIATE")


@pytest.mark.root
def test_an_ordinary_user(dbbackup: Command, persist: Path, tmp_path: Path, saboteur: Saboteur) -> None:
    dbbackup.repository.mkdir()
    give_away(tmp_path)
    for arguments in (("run", JOB), ("verify", JOB), ("restore", JOB, "--dest", tmp_path / "restored")):
        ended = saboteur.run(dbbackup.arguments(*arguments)[2:], user=NOBODY)
        assert ended.code == 0, ended
    assert bytes_of(tmp_path / "restored") == wanted(persist)


def test_a_directory_in_wal_mode(dbbackup: Command, persist: Path, tmp_path: Path) -> None:
    """Closed, and with operations that are in the WAL only."""
    rows(persist, "PRAGMA journal_mode = wal")
    dbbackup.ok("run", JOB)
    with closing(sqlite3.connect(persist / "chroma.sqlite3")) as connection:
        connection.execute("INSERT INTO tenants VALUES ('of the WAL')")
        connection.commit()
        source = dbbackup.ok("run", JOB)["backup"]["source"]
        assert (persist / "chroma.sqlite3-wal").stat().st_size
    assert source["journal_mode"] == "wal"
    dbbackup.ok("restore", JOB, "--dest", tmp_path / "restored")
    assert rows(tmp_path / "restored", "SELECT id FROM tenants") == [("default_tenant",), ("of the WAL",)]


def test_unchanged_directories_are_skipped(dbbackup: Command, persist: Path) -> None:
    dbbackup.job(JOB, persist, type="chroma", skip_unchanged=True)
    assert dbbackup.ok("run", JOB)["changed"]
    assert dbbackup.ok("run", JOB)["skipped"]
    rows(persist, "INSERT INTO tenants VALUES ('another')")
    assert dbbackup.ok("run", JOB)["changed"]


class TestTampering:
    """What is in the repository may come from a stranger, sums and all."""

    @pytest.fixture
    def forged(self, dbbackup: Command, persist: Path) -> Callable[[Callable[[dict[str, bytes]], Any]], str]:
        """Change the content of the segments of a new backup, and have all checksums fit; returns what verify says."""
        dbbackup.job(JOB, persist, type="chroma", compression="none")
        directory = Path(dbbackup.ok("run", JOB)["path"])

        def forge(change: Callable[[dict[str, bytes]], Any]) -> str:
            stored = directory / "segments.tar"
            with tarfile.open(stored) as archive:
                members = [(member, archive.extractfile(member)) for member in archive]
                files = {member.name: content.read() for member, content in members if content}
                names = [member.name for member, content in members if not content]
            change(files)
            target = io.BytesIO()
            with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for name in names:
                    member = tarfile.TarInfo(name)
                    member.type = tarfile.DIRTYPE
                    archive.addfile(member)
                for name, data in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
            reseal(directory, stored, target.getvalue())
            return dbbackup.fails(1, "verify", JOB)

        return forge

    def test_other_vectors(self, forged: Callable[..., str]) -> None:
        def torn(files: dict[str, bytes]) -> None:
            (name,) = [name for name in files if name.endswith(LEVEL0) and name.replace(LEVEL0, PICKLE) in files]
            files[name] = files[name][: len(files[name]) // 2].ljust(len(files[name]), b"\0")

        assert LEVEL0 in forged(torn)

    def test_a_hostile_pickle(self, forged: Callable[..., str], tmp_path: Path) -> None:
        def bomb(files: dict[str, bytes]) -> None:
            (name,) = [name for name in files if name.endswith(PICKLE)]
            harm = pickle.dumps(Bomb(tmp_path / "proof"))
            # The sizes in the manifest are those of before.
            files[name] = harm[:-1].ljust(len(files[name]) - 1, b"0") + b"."

        assert "wants posix.system" in forged(bomb)
        assert not (tmp_path / "proof").exists()

    def test_a_file_more(self, forged: Callable[..., str]) -> None:
        def add(files: dict[str, bytes]) -> None:
            files["../outside"] = b"here"

        assert "unsafe name" in forged(add)


def reseal(directory: Path, stored: Path, content: bytes) -> None:
    stored.write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    (record,) = [record for record in manifest["files"] if record["repo_path"] == stored.name]
    digest = hashlib.sha256(content).hexdigest()
    record.update(size=len(content), repo_size=len(content), sha256=digest, repo_sha256=digest)
    data = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
    (directory / "manifest.json").write_bytes(data)
    lines = [f"{record['repo_sha256']}  {record['repo_path']}\n" for record in manifest["files"]]
    lines.append(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n")
    (directory / "SHA256SUMS").write_text("".join(lines))


def test_a_second_segment_of_a_collection_is_refused(dbbackup: Command, persist: Path) -> None:
    """Only one of them would be looked at, and the other one restored as it is."""
    columns = "type, scope, collection FROM segments WHERE scope = 'VECTOR' LIMIT 1"
    rows(persist, f"INSERT INTO segments (id, type, scope, collection) SELECT '{uuid.uuid4()}', {columns}")
    assert "two segments of scope VECTOR" in dbbackup.fails(1, "run", JOB)
    assert dbbackup.backups(JOB) == []
