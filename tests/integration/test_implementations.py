# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a host has or lacks: what one implementation writes every other reads, and a person with a shell too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
from ansible_collections.embedded.db_backup.tests.fixtures import lmdb_application as application
from ansible_collections.embedded.db_backup.tests.fixtures import short_environment
from ansible_collections.embedded.db_backup.tests.tools import (
    Command,
    bytes_of,
    content_of,
    counts_of,
    hide_libraries,
    lock_file,
    make_environment,
    only_programs,
)

# What a host has: the libraries that are hidden from it, and the programs on its PATH.
HOSTS: dict[str, tuple[list[str], list[str]]] = {
    "libraries": ([], []),
    "programs": (["zstandard", "lmdb"], ["zstd", "mdb_copy", "mdb_dump"]),
    "only py-lmdb": (["zstandard"], []),
}
WRITERS: dict[str, tuple[str, str, str, str]] = {
    # host, wanted compression, type in the manifest, who did it
    "zstd library": ("libraries", "zstd", "zstd", "python-zstandard "),
    "zstd program": ("programs", "zstd", "zstd", "zstd program"),
    "gzip": ("libraries", "gzip", "gzip", "python zlib"),
    "gzip as fallback": ("only py-lmdb", "zstd", "gzip", "python zlib, as zstd is missing"),
    "none": ("libraries", "none", "none", ""),
}
READERS = ("libraries", "programs", "only py-lmdb")
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
BY_HAND = ("sha256sum", "zstd", "gzip", "tar", "cat", "mkdir")


def be_on(host: str, command: Command, folder: Path) -> None:
    """From now on the command runs on such a host."""
    hidden, programs = HOSTS[host]
    command.env = hide_libraries(folder / f"hidden on {host}", *hidden)
    command.env |= only_programs(*programs)


def databases_in(manifest: dict[str, Any]) -> dict[str | None, int]:
    """What the manifest tells of the only environment."""
    (environment,) = manifest["source"]["environments"]
    return {entry["name"]: entry["entries"] for entry in environment["databases"]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An environment with media."""
    make_environment(tmp_path / "source", records=500)
    (tmp_path / "source/media").mkdir()
    (tmp_path / "source/media/random").write_bytes(os.urandom(2 << 20))
    (tmp_path / "source/media/zeros").write_bytes(bytes(2 << 20))
    return tmp_path / "source"


class TestCompression:
    @pytest.mark.parametrize("writer", WRITERS)
    def test_each_is_readable_by_every_other(
        self, dbbackup: Command, source: Path, tmp_path: Path, writer: str
    ) -> None:
        host, wanted, kind, by = WRITERS[writer]
        dbbackup.job("kg", source, include=["media"], compression=wanted)
        be_on(host, dbbackup, tmp_path)
        manifest = dbbackup.ok("run", "kg")["backup"]
        assert manifest["compression"]["type"] == kind
        assert (manifest["compression"]["by"] or "").startswith(by)
        for reader in READERS:
            be_on(reader, dbbackup, tmp_path)
            dest = tmp_path / f"restored by {reader}"
            if (kind, reader) == ("zstd", "only py-lmdb"):
                for arguments in (["verify", "kg"], ["restore", "kg", "--dest", dest]):
                    assert "zstd" in dbbackup.fails(1, *arguments, timeout=30)
                assert not dest.exists()
                continue
            assert dbbackup.ok("verify", "kg")["opened"]
            dbbackup.ok("restore", "kg", "--dest", dest)
            assert bytes_of(dest / "media") == bytes_of(source / "media")
            assert content_of(dest) == content_of(source)

    @pytest.mark.parametrize(("kind", "levels"), [("zstd", (1, 19)), ("gzip", (1, 9))])
    @pytest.mark.parametrize("host", ["libraries", "programs"])
    def test_levels(self, dbbackup: Command, tmp_path: Path, kind: str, levels: tuple[int, int], host: str) -> None:
        make_environment(tmp_path / "source", records=2000)
        be_on(host, dbbackup, tmp_path)
        sizes = []
        for level in levels:
            dbbackup.job("kg", tmp_path / "source", compression=kind, compression_level=level)
            manifest = dbbackup.ok("run", "kg")["backup"]
            assert manifest["compression"]["level"] == level
            sizes.append(manifest["summary"]["repo_size"])
            dbbackup.ok("restore", "kg", "--dest", tmp_path / f"restored-{level}")
            assert content_of(tmp_path / f"restored-{level}") == content_of(tmp_path / "source")
        assert sizes[0] > sizes[1], "the level makes no difference"

    @pytest.mark.parametrize(("kind", "level"), [("zstd", 0), ("zstd", 20), ("gzip", 0), ("gzip", 10), ("none", 1)])
    def test_levels_out_of_range(self, dbbackup: Command, source: Path, kind: str, level: int) -> None:
        dbbackup.job("kg", source, compression=kind, compression_level=level)
        assert "compression_level" in dbbackup.fails(2, "run", "kg")

    def test_a_zstd_level_means_nothing_to_the_fallback(self, dbbackup: Command, source: Path, tmp_path: Path) -> None:
        be_on("only py-lmdb", dbbackup, tmp_path)
        dbbackup.job("kg", source, compression="zstd", compression_level=19)
        manifest = dbbackup.ok("run", "kg")["backup"]
        assert (manifest["compression"]["type"], manifest["compression"]["level"]) == ("gzip", 6)


class TestByHand:
    """The commands of the manifest, run with nothing but the usual programs."""

    def by_hand(self, backup: Path, dest: Path) -> subprocess.CompletedProcess[str]:
        dest.mkdir()
        commands = json.loads((backup / "manifest.json").read_text())["restore_by_hand"]
        script = "\n".join(["set -e -o pipefail", *commands]).replace("DESTINATION", '"$DESTINATION"')
        environ = {**only_programs(*BY_HAND), "DESTINATION": str(dest)}
        bash = shutil.which("bash")
        assert bash
        return subprocess.run([bash, "-c", script], env=environ, capture_output=True, text=True, check=False)

    @pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
    @pytest.mark.parametrize("compact", [True, False], ids=["compact", "plain"])
    def test_tree_with_media(self, dbbackup: Command, tmp_path: Path, compression: str, compact: bool) -> None:
        tree = tmp_path / "a tree's $HOME"
        content = {name: make_environment(tree / name, salt=name) for name in (".", "vector", "vector/visual parts")}
        (tree / "me dia/deep").mkdir(parents=True)
        (tree / "me dia/deep/file").write_bytes(os.urandom(1000))
        dbbackup.job("kg", tree, compression=compression, compact=compact, include=["me dia"])
        backup = Path(dbbackup.ok("run", "kg")["path"])
        dest = tmp_path / "by hand"
        done = self.by_hand(backup, dest)
        assert done.returncode == 0, done
        assert done.stdout.count(": OK\n") == len(content) + 2
        assert {name: content_of(dest / name) for name in content} == content
        assert bytes_of(dest / "me dia") == bytes_of(tree / "me dia")

    def test_single_file(self, dbbackup: Command, tmp_path: Path) -> None:
        content = make_environment(tmp_path / "app/it's data.lmdb", subdir=False)
        dbbackup.job("kg", tmp_path / "app/it's data.lmdb")
        backup = Path(dbbackup.ok("run", "kg")["path"])
        assert self.by_hand(backup, tmp_path / "dest").returncode == 0
        assert content_of(tmp_path / "dest/it's data.lmdb") == content

    @pytest.mark.parametrize("damaged", ["data.mdb.zst", "manifest.json"])
    def test_damage_is_seen_before_anything_is_written(
        self, dbbackup: Command, source: Path, tmp_path: Path, damaged: str
    ) -> None:
        dbbackup.job("kg", source)
        backup = Path(dbbackup.ok("run", "kg")["path"])
        data = bytearray((backup / damaged).read_bytes())
        data[-2] ^= 1
        (backup / damaged).write_bytes(data)
        if damaged == "manifest.json":
            data[-2] = ord("}")
            (backup / damaged).write_bytes(bytes(data[:-1]) + b" \n")
        done = self.by_hand(backup, tmp_path / "dest")
        assert done.returncode != 0
        assert f"{damaged}: FAILED" in done.stdout
        assert os.listdir(tmp_path / "dest") == []


class TestWithoutTheLibrary:
    @pytest.fixture(autouse=True)
    def _programs(self, dbbackup: Command, tmp_path: Path) -> None:
        be_on("programs", dbbackup, tmp_path)

    @pytest.mark.parametrize("compact", [True, False], ids=["compact", "plain"])
    @pytest.mark.parametrize("subdir", [True, False], ids=["directory", "file"])
    @pytest.mark.parametrize("lock", [True, False], ids=["locked", "lockless"])
    def test_mdb_copy_and_mdb_dump(
        self, dbbackup: Command, tmp_path: Path, compact: bool, subdir: bool, lock: bool
    ) -> None:
        path = tmp_path / "app/environment"
        content = make_environment(path, subdir=subdir, lock=lock)
        dbbackup.job("kg", path, compact=compact)
        manifest = dbbackup.ok("run", "kg")["backup"]
        assert manifest["backup"]["copied_by"].startswith("mdb_copy (LMDB ")
        assert databases_in(manifest) == counts_of(content)
        assert lock_file(path, subdir).exists() == lock
        assert dbbackup.ok("verify", "kg")["opened"]
        dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
        assert content_of(tmp_path / "restored") == content
        dbbackup.env = {}
        assert databases_in(dbbackup.ok("run", "kg")["backup"]) == databases_in(manifest)

    @pytest.mark.slow
    def test_a_busy_application(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        application.seed(path, megabytes=4)
        with application.Writer(path, tmp_path / "ledger") as writer:
            for number, compact in enumerate([True, False] * 2):
                dbbackup.job("kg", path, compact=compact)
                acknowledged = writer.acknowledged()
                manifest = dbbackup.ok("run", "kg")["backup"]
                dest = tmp_path / f"restored-{number}"
                dbbackup.ok("restore", "kg", "--dest", dest)
                judgement = application.judge(dest, at_least=acknowledged)
                assert judgement.good, judgement.sentence
                position = manifest["source"]["environments"][0]["position"]
                before_first_generation = position["start"] - judgement.generation
                assert position["start"] <= before_first_generation + judgement.generation <= position["stop"]
                if not compact:
                    assert position["start"] == position["stop"]
                expected = {None: 5, **{name: found.entries for name, found in judgement.databases.items()}}
                assert databases_in(manifest) == expected

    @pytest.mark.parametrize("compact", [True, False], ids=["compact", "plain"])
    def test_skip_unchanged(self, dbbackup: Command, tmp_path: Path, compact: bool) -> None:
        make_environment(tmp_path / "environment")
        dbbackup.job("kg", tmp_path / "environment", compact=compact, skip_unchanged=True)
        assert [dbbackup.ok("run", "kg")["changed"] for _unused in range(2)] == [True, False]
        with closing(lmdb.open(str(tmp_path / "environment"))) as environment:
            transaction = environment.begin(write=True)
            transaction.put(b"more", b"data")
            transaction.commit()
        assert dbbackup.ok("run", "kg")["changed"]

    def test_damage_is_found(self, dbbackup: Command, tmp_path: Path) -> None:
        path = tmp_path / "environment"
        make_environment(path, records=3000)
        data = (path / "data.mdb").read_bytes()
        (path / "data.mdb").write_bytes(data[:8192] + b"\xff" * (len(data) - 8192))
        dbbackup.job("kg", path)
        dbbackup.fails(1, "run", "kg")
        assert dbbackup.backups("kg") == []


def exotic(path: Path) -> dict[str, dict[str | None, int]]:
    """Environments of unusual forms, by name, and the number of entries in their databases."""

    def make(name: str, databases: dict[bytes | None, tuple[int, dict[str, Any]]], size: int = 10) -> None:
        (path / name).mkdir(parents=True)
        with closing(lmdb.open(str(path / name), max_dbs=8, map_size=1 << 26)) as environment:
            for database, (count, options) in databases.items():
                handle = environment.open_db(database, **options)
                with environment.begin(write=True) as transaction:
                    for number in range(count):
                        key = number.to_bytes(8, "little") if options.get("integerkey") else b"%08d" % number
                        transaction.put(key, key[:8] * (size // 8 + 1), db=handle)
                        if options.get("dupsort"):
                            transaction.put(key, b"another", db=handle)

    make("empty", {})
    make("main-only", {None: (17, {})})
    # Python's library cannot make this one.
    (path / "main-with-duplicates").mkdir()
    dump = "VERSION=3\nformat=bytevalue\ntype=btree\ndupsort=1\nHEADER=END\n 61\n 31\n 61\n 32\n 62\n 33\nDATA=END\n"
    subprocess.run(["mdb_load", path / "main-with-duplicates"], input=dump.encode(), check=True)
    make("empty-database", {b"nothing": (0, {}), b"something": (3, {})})
    make("integer-keys", {b"numbers": (300, {"integerkey": True}), b"both": (4, {"dupsort": True})})
    make("main-beside-named", {b"nodes": (5, {}), None: (7, {})})
    make("looks-like-a-database", {b"nodes": (5, {}), None: (7, {})}, size=47)
    make("names", {"Kanten 边\U0001f600".encode(): (2, {}), b"not utf-8 \xff": (3, {}), b"a=b c": (4, {})})
    make("large-main", {None: (12_000, {})})
    return {
        "empty": {None: 0},
        "main-only": {None: 17},
        "main-with-duplicates": {None: 3},
        "empty-database": {None: 2, "nothing": 0, "something": 3},
        "integer-keys": {None: 2, "numbers": 300, "both": 8},
        "main-beside-named": {None: 8, "nodes": 5},
        "looks-like-a-database": {None: 8, "nodes": 5},
        "names": {None: 3, "Kanten 边\U0001f600": 2, "not utf-8 \\xff": 3, "a=b c": 4},
        "large-main": {None: 12_000},
    }


@pytest.mark.parametrize("host", ["libraries", "programs"])
@pytest.mark.parametrize("compact", [True, False], ids=["compact", "plain"])
def test_environments_of_any_form_are_counted_alike(
    dbbackup: Command, tmp_path: Path, host: str, compact: bool
) -> None:
    expected = exotic(tmp_path / "tree")
    be_on(host, dbbackup, tmp_path)
    dbbackup.job("kg", tmp_path / "tree", compact=compact)
    manifest = dbbackup.ok("run", "kg")["backup"]
    found = {
        os.path.dirname(environment["path"]): {entry["name"]: entry["entries"] for entry in environment["databases"]}
        for environment in manifest["source"]["environments"]
    }
    assert found == expected


class TestNothingInstalled:
    @pytest.fixture
    def bare(self, dbbackup: Command, source: Path, tmp_path: Path) -> Command:
        """A host with a backup, but without anything that understands LMDB."""
        dbbackup.job("kg", source, compression="gzip", include=["media"])
        dbbackup.ok("run", "kg")
        dbbackup.env = hide_libraries(tmp_path / "hidden", "lmdb", "zstandard")
        dbbackup.env |= only_programs()
        return dbbackup

    def test_backup_says_what_to_install(self, bare: Command) -> None:
        sentence = bare.fails(1, "run", "kg")
        assert "python3-lmdb" in sentence
        assert "lmdb-utils" in sentence

    def test_verify_compares_checksums_and_warns(self, bare: Command) -> None:
        result = bare.ok("verify", "kg")
        assert result["opened"] is False
        assert len(result["warnings"]) == 1

    def test_restore_works(self, bare: Command, source: Path, tmp_path: Path) -> None:
        bare.ok("restore", "kg", "--dest", tmp_path / "restored")
        assert content_of(tmp_path / "restored") == content_of(source)
        assert bytes_of(tmp_path / "restored/media") == bytes_of(source / "media")


def find_python(version: str) -> str:
    """An interpreter of this version that starts; else the test is skipped."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [str(path) for path in sorted(versions.glob(f"{version}.*/bin/python{version}"))]
    candidates.append(shutil.which(f"python{version}") or "")
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(f"there is no Python {version}: have it on PATH, or in pyenv (pyenv install {version})")


@pytest.mark.parametrize("version", PYTHONS)
def test_every_python_of_a_target_without_any_library(
    dbbackup: Command, tmp_path: Path, version: str, source: Path
) -> None:
    dbbackup.python = find_python(version)
    be_on("programs", dbbackup, tmp_path)
    for compression in ("zstd", "gzip"):
        dbbackup.job(compression, source, include=["media"], compression=compression)
        manifest = dbbackup.ok("run", compression)["backup"]
        assert databases_in(manifest) == counts_of(content_of(source))
        assert dbbackup.ok("verify", compression)["opened"]
        dest = tmp_path / f"restored-{compression}"
        dbbackup.ok("restore", compression, "--dest", dest)
        assert content_of(dest) == content_of(source)
        assert bytes_of(dest / "media") == bytes_of(source / "media")
        assert dbbackup.ok("restore", compression, "--dest", dest)["changed"] is False
    assert [job["name"] for job in dbbackup.ok("status")] == ["gzip", "zstd"]
    assert dbbackup.fails(10, "restore", "other")


@pytest.mark.parametrize("host", ["libraries", "programs"])
@pytest.mark.parametrize(
    "options", [{"method": "hot"}, {"method": "hot", "compact": True}, {"method": "optimistic"}], ids=str
)
def test_a_file_that_lacks_free_pages_at_its_end_is_whole(
    dbbackup: Command, tmp_path: Path, host: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "data" / "short.mdb"
    path.parent.mkdir()
    short_environment.make(path)
    be_on(host, dbbackup, tmp_path)
    dbbackup.job("kg", path, **options)
    assert dbbackup.ok("run", "kg")["backup"]["check"]["opened"] is True
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    (restored,) = (tmp_path / "restored").glob("*.mdb") if (tmp_path / "restored").is_dir() else [tmp_path / "restored"]
    assert short_environment.content_of(restored) == short_environment.content()
