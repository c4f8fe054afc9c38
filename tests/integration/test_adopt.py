# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of other tools become backups, and are no better than what could be verified of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.interrupts import end_work_on_signals
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import adopt as adopting
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.tools import (
    Command,
    FaultAt,
    as_ordinary_user,
    make_environment,
    snapshot,
)

CHROMA = "chroma-20251101-0130.sqlite3"
DATALEVIN = "datalevin-20251102-0130.tar.gz"
DATAHIKE = "datahike-20251103T013000.edn"
IDS = {CHROMA: "20251101T013000Z", DATALEVIN: "20251102T013000Z", DATAHIKE: "20251103T013000Z"}
COPIED = 1_763_726_400  # 2025-11-21 12:00
EDN = '{:schema {} :datoms [[1 :note/title "a \\"b\\" [" 536870913 true]\n[2 :note/sign \\( 536870914 true]]}\n'


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """One backup of each kind, as bb-db-backup makes them, all copied on a later day."""
    folder = tmp_path / "seeds"
    folder.mkdir()
    make_database(folder / CHROMA)
    make_environment(tmp_path / "kg")
    subprocess.run(["tar", "czf", folder / DATALEVIN, "-C", tmp_path, "kg"], check=True)
    (folder / DATAHIKE).write_text(EDN)
    for name in IDS:
        os.utime(folder / name, (COPIED, COPIED))
    return folder


def make_database(path: Path) -> None:
    """An SQLite database with the tables by which Chroma's is known."""
    with closing(sqlite3.connect(path)) as connection:
        for table in ("collections", "segments", "embeddings", "embeddings_queue"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text)")
        connection.executemany("INSERT INTO embeddings (text) VALUES (?)", [("document " * 30,)] * 2000)
        connection.commit()


def manifest_of(dbbackup: Command, job: str, backup_id: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((dbbackup.repository / job / backup_id / "manifest.json").read_bytes())
    return manifest


class TestAdoption:
    def test_each_file_is_a_backup(self, dbbackup: Command, seeds: Path, tmp_path: Path) -> None:
        before = snapshot(seeds)
        for name, backup_id in IDS.items():
            job = name.split("-", maxsplit=1)[0]
            told = dbbackup.ok("adopt", seeds, "--pattern", f"{job}-*")
            (adopted,) = told["adopted"]
            assert (told["changed"], told["job"], adopted["id"], adopted["file"]) == (True, job, backup_id, name)
            manifest = manifest_of(dbbackup, job, backup_id)
            assert manifest["annotation"].pop("adopted_at").startswith("20")
            assert manifest["annotation"] == {"adopted_from": str(seeds / name), "time_from": "name"}
            assert manifest["source"]["verified"] == adopted["verified"] != []
            assert manifest["source"]["not_verified"] == adopted["not_verified"] != []
            assert manifest["timestamp_start"] == f"2025-11-0{backup_id[7]}T01:30:00.000Z"
            backup = dbbackup.repository / job / backup_id
            subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=backup, check=True, capture_output=True)
            assert dbbackup.ok("verify", job)["opened"]
            dest = tmp_path / "restored" / job
            dbbackup.ok("restore", job, "--dest", dest)
            assert [path.name for path in dest.iterdir()] == [name]
            assert (dest / name).read_bytes() == (seeds / name).read_bytes()
        assert snapshot(seeds) == before

    def test_what_the_manifests_claim(self, dbbackup: Command, seeds: Path) -> None:
        dbbackup.ok("adopt", seeds, "--pattern", "*", "--job", "all")
        made = {name: manifest_of(dbbackup, "all", backup_id) for name, backup_id in IDS.items()}
        claims = {name: (one["backup"]["consistency"], one["compression"]["type"]) for name, one in made.items()}
        assert claims == {CHROMA: ("unknown", "zstd"), DATALEVIN: ("unknown", "none"), DATAHIKE: ("logical", "zstd")}
        assert [one["check"]["opened"] for one in made.values()] == [False, False, True]
        assert "vectors" in " ".join(made[CHROMA]["source"]["not_verified"])
        assert "torn" in " ".join(made[DATALEVIN]["source"]["not_verified"])
        assert "entities" in " ".join(made[DATAHIKE]["source"]["not_verified"])

    def test_commands_of_the_manifest_restore(self, dbbackup: Command, seeds: Path, tmp_path: Path) -> None:
        dbbackup.ok("adopt", seeds, "--pattern", "*", "--job", "all")
        (tmp_path / "by-hand").mkdir()
        for name, backup_id in IDS.items():
            commands = " && ".join(manifest_of(dbbackup, "all", backup_id)["restore_by_hand"])
            commands = commands.replace("DESTINATION", str(tmp_path / "by-hand"))
            subprocess.run(["sh", "-c", commands], check=True, capture_output=True)
            assert (tmp_path / "by-hand" / name).read_bytes() == (seeds / name).read_bytes()

    def test_restore_goes_back_where_the_file_came_from(self, dbbackup: Command, seeds: Path) -> None:
        dbbackup.ok("adopt", seeds, "--pattern", "datahike-*")
        content = (seeds / DATAHIKE).read_bytes()
        assert not dbbackup.ok("restore", "datahike")["changed"]
        (seeds / DATAHIKE).write_text("spoilt")
        assert "with force it is replaced" in dbbackup.fails(1, "restore", "datahike")
        told = dbbackup.ok("restore", "datahike", "--force")
        assert (seeds / DATAHIKE).read_bytes() == content
        assert [Path(path).read_text() for path in told["aside"]] == ["spoilt"]
        assert sorted(IDS) == sorted(path.name for path in seeds.iterdir() if path.name in IDS)

    def test_text_tells_what_is_not_verified(self, dbbackup: Command, seeds: Path) -> None:
        lines = dbbackup("adopt", seeds, "--pattern", "chroma-*").stdout.splitlines()
        assert lines[0].startswith(f"chroma: {CHROMA}, sqlite3, ")
        assert lines[0].endswith("is now 20251101T013000Z, the date in its name")
        assert lines[-2].startswith("  not verified: the vectors: ")
        assert lines[-1] == "chroma: 1 adopted"

    def test_same_second(self, dbbackup: Command, tmp_path: Path) -> None:
        for number in range(3):
            path = tmp_path / f"seeds/x-{number}.edn"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"[{number}]")
            os.utime(path, (1_780_000_000, 1_780_000_000))
        expected = ["20260528T202640Z", "20260528T202641Z", "20260528T202642Z"]
        told = dbbackup.ok("adopt", tmp_path / "seeds", "--pattern", "x-*.edn", "--dry-run")
        assert [one["id"] for one in told["adopted"]] == expected
        dbbackup.ok("adopt", tmp_path / "seeds", "--pattern", "x-*.edn")
        assert dbbackup.backups("x") == expected
        assert {manifest_of(dbbackup, "x", one)["timestamp_start"] for one in expected} == {"2026-05-28T20:26:40.000Z"}

    def test_dry_run_changes_nothing(self, dbbackup: Command, seeds: Path, tmp_path: Path) -> None:
        before = snapshot(tmp_path)
        told = dbbackup.ok("adopt", seeds, "--pattern", "*", "--job", "all", "--dry-run")
        assert {one["file"]: one["id"] for one in told["adopted"]} == IDS
        assert not told["changed"]
        assert "would become 20251101T013000Z" in dbbackup("adopt", seeds, "--pattern", "ch*", "--dry-run").stdout
        assert snapshot(tmp_path) == before

    def test_repository_of_the_job_file(self, dbbackup: Command, seeds: Path, tmp_path: Path) -> None:
        dbbackup.job("datahike", tmp_path / "kg", repository=str(tmp_path / "other"))
        arguments = dbbackup.arguments("adopt", seeds, "--pattern", "datahike-*")
        place = arguments.index("--repository")
        subprocess.run(arguments[:place] + arguments[place + 2 :], check=True, capture_output=True)
        assert (tmp_path / "other/datahike" / IDS[DATAHIKE]).is_dir()


class TestAgain:
    def test_nothing_is_taken_twice(self, dbbackup: Command, seeds: Path, tmp_path: Path) -> None:
        dbbackup.ok("adopt", seeds, "--pattern", "*", "--job", "all")
        before = snapshot(dbbackup.repository / "all" / IDS[CHROMA])
        (tmp_path / "link").symlink_to(seeds)
        for folder in (seeds, tmp_path / "link"):
            told = dbbackup.ok("adopt", folder, "--pattern", "*", "--job", "all")
            assert (told["changed"], told["adopted"], told["already"]) == (False, [], IDS)
        assert dbbackup.backups("all") == sorted(IDS.values())
        assert snapshot(dbbackup.repository / "all" / IDS[CHROMA]) == before
        assert (
            f"{CHROMA} was adopted before, as {IDS[CHROMA]}"
            in dbbackup("adopt", seeds, "--pattern", "*", "--job", "all").stdout
        )

    def test_another_file_of_the_name(self, dbbackup: Command, seeds: Path) -> None:
        dbbackup.ok("adopt", seeds, "--pattern", "datahike-*")
        (seeds / DATAHIKE).write_text(EDN + EDN)
        assert [one["id"] for one in dbbackup.ok("adopt", seeds, "--pattern", "datahike-*")["adopted"]] == [
            "20251103T013001Z"
        ]

    @pytest.mark.parametrize("damage", ["cut", "found by verify"])
    def test_damaged_backup_does_not_count(self, damage: str, dbbackup: Command, seeds: Path) -> None:
        dbbackup.ok("adopt", seeds, "--pattern", "datahike-*")
        (stored,) = (dbbackup.repository / "datahike" / IDS[DATAHIKE]).glob("*.edn.*")
        content = stored.read_bytes()
        stored.write_bytes(content[:-1] if damage == "cut" else content[:-1] + b"?")
        if damage != "cut":
            dbbackup.fails(1, "verify", "datahike")
        assert len(dbbackup.ok("adopt", seeds, "--pattern", "datahike-*")["adopted"]) == 1


class TestRefusals:
    @pytest.fixture
    def damaged(self, seeds: Path) -> dict[str, str]:
        """A damaged file of each kind beside the sound ones, and what is wrong with it."""
        content = bytearray((seeds / CHROMA).read_bytes())
        content[4096 * 8 : 4096 * 9] = os.urandom(4096)
        (seeds / "chroma-torn.sqlite3").write_bytes(content)
        (seeds / "chroma-no.sqlite3").write_bytes(b"no database")
        (seeds / "datalevin-cut.tar.gz").write_bytes((seeds / DATALEVIN).read_bytes()[:-100])
        with tarfile.open(seeds / "datalevin-other.tar.gz", "w:gz") as archive:
            archive.add(seeds / DATAHIKE, "data.mdb")
        (seeds / "datahike-cut.edn").write_text(EDN[:-8])
        (seeds / "datahike-empty.edn").touch()
        (seeds / "datahike-handle.edn").write_text('#object[datahike.connector.Connection 0x1 "x"]')
        (seeds / "datahike-\n.edn").write_text(EDN)
        return {
            "chroma-torn.sqlite3": "SQLite",
            "chroma-no.sqlite3": "not an SQLite database",
            "datalevin-cut.tar.gz": "its gzip is damaged",
            "datalevin-other.tar.gz": "does not begin as an LMDB environment does",
            "datahike-cut.edn": "open brackets",
            "datahike-empty.edn": "is empty",
            "datahike-handle.edn": "nothing can read back",
            r"'datahike-\n.edn'": "rename it",
        }

    def test_sound_ones_are_adopted(self, dbbackup: Command, seeds: Path, damaged: dict[str, str]) -> None:
        before = snapshot(seeds)
        done = dbbackup("adopt", seeds, "--pattern", "*", "--job", "all", "--json")
        assert done.code == 1
        assert {one["file"]: one["id"] for one in done.json["adopted"]} == IDS
        refused = {one["file"]: one["reason"] for one in done.json["refused"]}
        assert refused.keys() == damaged.keys()
        for name, fault in damaged.items():
            assert fault in refused[name]
            assert name.strip("'") in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"dbbackup: {len(damaged)} of {len(damaged) + 3} files were not adopted: ")
        assert dbbackup.backups("all") == sorted(IDS.values())
        left = {entry.name for entry in (dbbackup.repository / "all").iterdir()} - set(IDS.values())
        assert left == {".lock", "state.json", ".catalogue.json"}
        assert snapshot(seeds) == before

    def test_links_and_directories_are_passed_over(self, dbbackup: Command, seeds: Path) -> None:
        (seeds / "datahike-latest.edn").symlink_to(DATAHIKE)
        (seeds / "datahike-old.edn").mkdir()
        (seeds / "datahike-old.edn/datahike-1.edn").write_text(EDN)
        os.mkfifo(seeds / "datahike-pipe.edn")
        (seeds / ".datahike-1.edn").write_text(EDN)
        told = dbbackup.ok("adopt", seeds, "--pattern", "*.edn", "--job", "datahike")
        assert [one["file"] for one in told["adopted"]] == [DATAHIKE]
        assert told["warnings"] == [
            f"datahike-{name}.edn is not a regular file and is passed over" for name in ("latest", "old", "pipe")
        ]

    @pytest.mark.parametrize(
        ("code", "arguments", "sentence"),
        [
            (1, ["--pattern", "nothing-*"], "no regular file in .* has a name like 'nothing-\\*'"),
            (2, ["--pattern", "*.edn"], "give one with --job"),
            (2, ["--pattern", "Datahike-*"], "give one with --job"),
            (2, ["--pattern", "datahike-*", "--job", "../x"], "'../x' is not a job name"),
            (2, ["--pattern", "x-*/../y", "--job", "x"], "has a '/'"),
        ],
    )
    def test_one_sentence(self, code: int, arguments: list[str], sentence: str, dbbackup: Command, seeds: Path) -> None:
        told = dbbackup.fails(code, "adopt", seeds, *arguments)
        assert re.search(sentence, told), told
        assert not dbbackup.repository.exists()

    def test_no_such_directory(self, dbbackup: Command, tmp_path: Path) -> None:
        told = dbbackup.fails(1, "adopt", tmp_path / "nowhere", "--pattern", "x-*")
        assert told == f"{tmp_path}/nowhere: No such file or directory"

    def test_file_that_grows_while_it_is_read(
        self, tmp_path: Path, seeds: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = Repository(tmp_path / "repository").job("datahike")
        grow = FaultAt(lambda: (seeds / DATAHIKE).write_text(EDN + EDN) and None, turn=1)
        grow.install(monkeypatch, "read")
        adoption = adopting.adopt(directory, seeds, "datahike-*")
        assert [one.reason for one in adoption.refused] == [
            f"{seeds / DATAHIKE} changed while it was read; adopt it when it is complete"
        ]
        assert directory.backups() == []
        assert len(adopting.adopt(directory, seeds, "datahike-*").adopted) == 1

    def test_file_that_changes_when_all_is_done(
        self, tmp_path: Path, seeds: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was published is told of, whatever became of the file meanwhile."""
        directory = Repository(tmp_path / "repository").job("datahike")
        FaultAt((seeds / DATAHIKE).unlink, turn=1).install(monkeypatch, "rename")
        adoption = adopting.adopt(directory, seeds, "datahike-*")
        assert ([one.id for one in adoption.adopted], adoption.refused) == ([IDS[DATAHIKE]], [])


class TestRetention:
    def prune(self, dbbackup: Command, *options: str) -> dict[str, str]:
        told = dbbackup.ok("prune", "all", "--dry-run", *options)
        return {entry["id"]: entry["standing"] for entry in told["keep"]}

    def test_unknown_consistency_is_never_good(self, dbbackup: Command, seeds: Path) -> None:
        dbbackup.ok("adopt", seeds, "--pattern", "[cd]*[3z]", "--job", "all")
        unknown = {IDS[CHROMA]: "unverified", IDS[DATALEVIN]: "unverified"}
        assert self.prune(dbbackup, "--keep-last", "1") == unknown
        for backup_id in unknown:
            told = dbbackup.ok("verify", "all", "--id", backup_id)
            assert any("never counts as a good one" in warning for warning in told["warnings"])
        assert self.prune(dbbackup, "--keep-last", "1") == unknown
        # Also without what the catalogue knows.
        (dbbackup.repository / "all/.catalogue.json").unlink()
        assert self.prune(dbbackup, "--keep-last", "1") == unknown

    def test_good_one_is_not_evicted(self, dbbackup: Command, seeds: Path) -> None:
        shutil.copy2(seeds / CHROMA, seeds / "chroma-20251110-0130.sqlite3")
        dbbackup.ok("adopt", seeds, "--pattern", "*", "--job", "all")
        kept = self.prune(dbbackup, "--keep-days", "0.01", "--keep-min-good", "1")
        assert kept[IDS[DATAHIKE]] == "good"
        assert IDS[CHROMA] not in kept

    def test_good_one_is_restored_first(self, dbbackup: Command, seeds: Path, tmp_path: Path) -> None:
        (seeds / CHROMA).rename(seeds / "chroma-20251110-0130.sqlite3")
        dbbackup.ok("adopt", seeds, "--pattern", "*", "--job", "all")
        told = dbbackup.ok("restore", "all", "--dest", tmp_path / "restored")
        assert told["backup"]["id"] == IDS[DATAHIKE]
        assert told["warnings"] == [
            "backup 20251110T013000Z is newer, but damaged, perhaps torn, or of the future; this is the newest good one"
        ]
        told = dbbackup.ok("restore", "all", "--id", "20251110T013000Z", "--dest", tmp_path / "other")
        assert told["warnings"] == [
            "nobody knows whether backup 20251110T013000Z is consistent; its manifest tells more"
        ]


class TestTampering:
    @pytest.fixture
    def forge(self, dbbackup: Command, seeds: Path) -> Callable[..., None]:
        """Change the stored file or the manifest of an adopted backup as somebody would who knows the checksums."""
        dbbackup.ok("adopt", seeds, "--pattern", "datalevin-*")
        backup = dbbackup.repository / "datalevin" / IDS[DATALEVIN]

        def change(content: bytes | None = None, source: dict[str, Any] | None = None, **record: Any) -> None:
            manifest = json.loads((backup / "manifest.json").read_bytes())
            if content is not None:
                (backup / DATALEVIN).write_bytes(content)
                size, digest = len(content), hashlib.sha256(content).hexdigest()
                record.update(size=size, repo_size=size, sha256=digest, repo_sha256=digest)
            manifest["files"][0].update(record)
            manifest["source"].update(source or {})
            written = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
            (backup / "manifest.json").write_bytes(written)
            sums = [(one["repo_sha256"], one["repo_path"]) for one in manifest["files"]]
            sums.append((hashlib.sha256(written).hexdigest(), "manifest.json"))
            (backup / "SHA256SUMS").write_text("".join(f"{digest}  {path}\n" for digest, path in sums))

        return change

    def test_verify_and_restore_look_again(
        self, dbbackup: Command, seeds: Path, forge: Callable[..., None], tmp_path: Path
    ) -> None:
        forge((seeds / DATALEVIN).read_bytes()[:-100])
        told = dbbackup.fails(1, "restore", "datalevin", "--dest", tmp_path / "restored")
        assert "its gzip is damaged" in told
        assert not (tmp_path / "restored").exists()
        assert "its gzip is damaged" in dbbackup.fails(1, "verify", "datalevin")

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"source": {"kind": "exe"}}, "'exe' is not known"),
            ({"source": {"kind": 1}}, "source.kind: must be a text"),
            ({"source": {"verified": "all"}}, "source.verified: must be a list"),
            ({"source": {"command": "x"}}, "source.command: is not known"),
            ({"path": "etc/passwd"}, "one file in no directory"),
            ({"path": "../passwd"}, "not a path below the backup"),
        ],
    )
    def test_hostile_manifest(
        self, change: dict[str, Any], fault: str, dbbackup: Command, forge: Callable[..., None], tmp_path: Path
    ) -> None:
        forge(**change)
        # By its id: the search for a good one passes over what is not a manifest at all.
        options = ["datalevin", "--id", IDS[DATALEVIN]]
        assert fault in dbbackup.fails(1, "verify", *options)
        assert fault in dbbackup.fails(1, "restore", *options, "--dest", tmp_path / "restored")
        assert not (tmp_path / "restored").exists()


def test_as_an_ordinary_user(tmp_path: Path, seeds: Path) -> None:
    def adopt() -> tuple[int, list[str]]:
        adoption = adopting.adopt(Repository(tmp_path / "repository").job("all"), seeds, "*")
        return len(adoption.adopted), [one.reason for one in adoption.refused]

    assert as_ordinary_user(adopt, tmp_path) == "(3, [])"
    (seeds / CHROMA).chmod(0)
    (tmp_path / "other").mkdir()

    def adopt_unreadable() -> list[str]:
        adoption = adopting.adopt(Repository(tmp_path / "repository").job("other"), seeds, "*")
        return [one.reason for one in adoption.refused]

    assert as_ordinary_user(adopt_unreadable, tmp_path) == f"['{seeds / CHROMA} cannot be read: Permission denied']"


def test_interrupted_between_two_files(tmp_path: Path, seeds: Path) -> None:
    """A signal in the moment in which a backup is published ends the work before the next file."""
    directory = Repository(tmp_path / "repository").job("all")
    rename = os.rename

    def publish_and_signal(source: Any, target: Any) -> None:
        rename(source, target)
        os.kill(os.getpid(), signal.SIGTERM)

    def adopt() -> None:
        end_work_on_signals()
        os.rename = publish_and_signal
        adopting.adopt(directory, seeds, "*")

    answer = as_ordinary_user(adopt, tmp_path)
    assert answer == "Interrupted: interrupted by SIGTERM; nothing was left half done"
    assert len(directory.backups()) == 1
    assert list(directory.state().verified) == [directory.backups()[0].id]
    assert not list(directory.path.glob(".partial-*"))
