# SPDX-License-Identifier: GPL-3.0-or-later
"""Stored bytes that were changed: verify finds it, restore refuses it and leaves its destination alone.

First what a bad disk does, then what an attacker does who writes new checksums for what he changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
import zstandard
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError, CorruptError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.backup import back_up
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import Point
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.restore import restore
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.verify import verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.tools import Command, content_of, make_environment, snapshot

Manifest = dict[str, Any]
Place = tuple[str | int, ...]

MEBIBYTE = 1 << 20
SAMPLES = 200
# What a sparse file says it holds. Small, lest it fill the memory on the day when nothing refuses it.
SPARSE = MEBIBYTE // 4


class Vault:
    """One backup of two environments and other files, and a destination with something else in it."""

    def __init__(self, root: Path, compression: str) -> None:
        self.root = root
        make_environment(root / "source/graph", 60)
        make_environment(root / "source/vector", 20, salt="vector")
        (root / "source/media").mkdir()
        (root / "source/media/picture").write_bytes(random.Random(0).randbytes(3000))
        (root / "source/media/text").write_text("text")
        described = {"name": "kg", "type": "lmdb", "path": str(root / "source"), "repository": str(root / "repository")}
        outcome = back_up(jobs.parse({**described, "include": ["media"], "compression": compression}))
        self.path = outcome.path
        self.directory = Repository(root / "repository").job("kg")
        self.intact = root / "intact"
        shutil.copytree(self.path, self.intact)
        make_environment(root / "occupied/graph", 5, salt="old")
        (root / "occupied/media").mkdir()
        (root / "occupied/media/old").write_text("old")
        self.destination = root / "destination"
        self.lay_out()

    def lay_out(self) -> None:
        """Make the destination anew."""
        shutil.rmtree(self.destination, ignore_errors=True)
        shutil.copytree(self.root / "occupied", self.destination)
        self.before = self.around()

    def mend(self) -> None:
        """Make the backup good again."""
        shutil.rmtree(self.path)
        shutil.copytree(self.intact, self.path)

    def around(self) -> dict[str, tuple[Any, ...]]:
        """The destination and the source; of directories not the time: restores write beside what they replace."""
        found = {**snapshot(self.destination), **snapshot(self.root / "source")}
        return {path: entry[:3] + entry[4:] if entry[5] is None else entry for path, entry in found.items()}

    def verify(self) -> None:
        verify(self.directory, self.path.name, remember=False)

    def restore(self, destination: Path | None = None) -> None:
        restore(self.directory, Point(self.path.name), Request(destination=destination or self.destination, force=True))

    def is_restored(self) -> bool:
        """Whether the databases at the destination are, byte for byte, those that were backed up."""
        records = [record for record in self.manifest()["files"] if record["content"] == "file"]
        contents = [(self.destination / record["path"]).read_bytes() for record in records]
        return [hashlib.sha256(content).hexdigest() for content in contents] == [record["sha256"] for record in records]

    def files(self) -> list[Path]:
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def manifest(self) -> Manifest:
        value: Manifest = json.loads((self.intact / "manifest.json").read_bytes())
        return value

    def sign(self, manifest: Manifest) -> None:
        """Write a manifest with the SHA256SUMS that belong to it."""
        self.sign_bytes((json.dumps(manifest) + "\n").encode(), manifest.get("files"))

    def sign_bytes(self, data: bytes, files: Any) -> None:
        records = [record for record in files if isinstance(record, dict)] if isinstance(files, list) else []
        lines = [f"{record.get('repo_sha256')}  {record.get('repo_path')}\n" for record in records]
        lines.append(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n")
        (self.path / "manifest.json").write_bytes(data)
        (self.path / "SHA256SUMS").write_bytes("".join(lines).encode(errors="surrogatepass"))

    def replace_include(self, archive: bytes, **included: Any) -> None:
        """Put another tar in place of the stored one; included is what the manifest tells of its files."""
        manifest = self.manifest()
        (record,) = [record for record in manifest["files"] if record["content"] == "tar"]
        (self.path / record["repo_path"]).write_bytes(archive)
        digest = hashlib.sha256(archive).hexdigest()
        record.update(size=len(archive), repo_size=len(archive), sha256=digest, repo_sha256=digest)
        manifest["source"]["include"][0].update(included)
        self.sign(manifest)

    def assert_refused(self, words: str = "") -> None:
        with pytest.raises(CorruptError) as refused:
            self.verify()
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
        self.assert_not_restored()

    def assert_not_restored(self) -> None:
        with pytest.raises(BackupError):
            self.restore()
        assert self.around() == self.before

    def outcome(self) -> str:
        """refused or accepted by verify; restore must not do what verify refuses. Another exception is a failure."""
        try:
            self.verify()
            verified = "accepted"
        except CorruptError:
            verified = "refused"
        try:
            self.restore()
        except BackupError:
            assert self.around() == self.before
        else:
            # A restore compares what is stored; numbers of entries are for verify.
            assert verified == "accepted" or self.is_restored(), "restored what does not verify"
        finally:
            if self.around() != self.before:
                self.lay_out()
        return verified


@pytest.fixture(scope="module", params=["zstd", "gzip", "none"])
def any_vault(request: pytest.FixtureRequest, memory_of_module: Path) -> Vault:
    return Vault(memory_of_module / request.param, request.param)


@pytest.fixture(scope="module")
def shared_vault(memory_of_module: Path) -> Vault:
    return Vault(memory_of_module / "shared", "none")


@pytest.fixture
def vault(shared_vault: Vault) -> Iterator[Vault]:
    """Uncompressed, so that a test can say what is in the files. Good again after the test."""
    yield shared_vault
    shared_vault.mend()
    if shared_vault.around() != shared_vault.before:
        shared_vault.lay_out()


def test_the_backup_itself_is_good(any_vault: Vault) -> None:
    any_vault.verify()
    any_vault.restore()
    assert content_of(any_vault.destination / "graph") == content_of(any_vault.root / "source/graph")
    assert (any_vault.destination / "media/text").read_text() == "text"
    any_vault.lay_out()


# What a bad disk does


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << offset % 8]))


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_any_flipped_bit_in_a_small_file_is_found(name: str, vault: Vault) -> None:
    for offset in range((vault.path / name).stat().st_size):
        flip(vault.path / name, offset)
        vault.assert_refused()
        flip(vault.path / name, offset)
    vault.verify()


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_any_truncation_of_a_small_file_is_found(name: str, vault: Vault) -> None:
    data = (vault.path / name).read_bytes()
    for size in [*range(0, len(data) - 20, 11), *range(len(data) - 20, len(data))]:
        (vault.path / name).write_bytes(data[:size])
        vault.assert_refused()


def test_a_flipped_bit_in_any_stored_file_is_found(any_vault: Vault) -> None:
    flipped = 0
    for path in any_vault.files():
        size = path.stat().st_size
        for offset in {*range(0, size, max(1, size // SAMPLES)), size - 1}:
            flip(path, offset)
            any_vault.assert_refused()
            flip(path, offset)
            flipped += 1
    assert flipped > 4 * SAMPLES
    any_vault.verify()


def test_any_truncation_of_any_stored_file_is_found(any_vault: Vault) -> None:
    for path in any_vault.files():
        data = path.read_bytes()
        for size in {0, 1, len(data) // 2, len(data) - 4096, len(data) - 1} & set(range(len(data))):
            path.write_bytes(data[:size])
            any_vault.assert_refused()
        path.write_bytes(data + b"\0")
        any_vault.assert_refused()
        path.write_bytes(data)
    any_vault.verify()


def test_a_missing_file_is_found(vault: Vault) -> None:
    for path in vault.files():
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(BackupError):
            vault.verify()
        vault.assert_not_restored()
        path.write_bytes(data)
    vault.verify()


def test_files_in_each_others_place_are_found(vault: Vault) -> None:
    graph, vector = vault.path / "graph/data.mdb", vault.path / "vector/data.mdb"
    data = graph.read_bytes()
    graph.write_bytes(vector.read_bytes())
    vector.write_bytes(data)
    vault.assert_refused()


# What an attacker puts in the place of files


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def make_link_out(path: Path) -> None:
    """To a file with the same content, which somebody else may change at any time."""
    (repository,) = [parent for parent in path.parents if parent.name == "repository"]
    path.rename(repository / "away")
    path.symlink_to(repository / "away")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("change", [make_link, make_link_out, make_fifo, make_directory, make_device])
@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "graph/data.mdb", ".include.tar"])
def test_what_is_no_file_is_not_read(name: str, change: Callable[[Path], None], vault: Vault) -> None:
    change(vault.path / name)
    vault.assert_refused()


def test_a_link_in_place_of_a_directory_is_not_followed(vault: Vault) -> None:
    (vault.path / "graph").rename(vault.root / "away-graph")
    (vault.path / "graph").symlink_to(vault.root / "away-graph")
    vault.assert_refused()
    (vault.path / "graph").unlink()
    shutil.rmtree(vault.root / "away-graph")


def test_a_link_in_place_of_a_backup_is_none(vault: Vault) -> None:
    vault.path.rename(vault.root / "away")
    vault.path.symlink_to(vault.root / "away")
    with pytest.raises(BackupError, match="no backup"):
        vault.verify()
    vault.assert_not_restored()
    vault.path.unlink()
    (vault.root / "away").rename(vault.path)


# What an attacker writes in a manifest that he signs again

REPLACEMENTS = [
    *(None, True, 0, -1, 1 << 80, 1.5, float("inf"), float("nan")),
    *("", "x", "../x", "/x", "a\nb", "a\0b", "\ud800", [], ["x"], [[]], {}, {"x": 1}),
]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where there is something in a JSON value, the value itself excepted."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*place, key)
        yield from places(entry, (*place, key))


def at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


def test_any_wrong_value_at_any_place_is_refused_or_harmless(vault: Vault) -> None:
    problems = []
    original = vault.manifest()
    for place in places(original):
        for replacement in REPLACEMENTS:
            old = at(original, place)
            manifest = vault.manifest()
            at(manifest, place[:-1])[place[-1]] = replacement
            vault.sign(manifest)
            what = f"{place} = {replacement!r}"
            try:
                outcome = vault.outcome()
            except Exception as error:  # noqa: BLE001 - told with its place, and the next one tried
                problems.append(f"{what}: {error!r}")
            else:
                if outcome == "accepted" and type(old) is not type(replacement) and None not in (old, replacement):
                    problems.append(f"{what}: accepted")
    assert not problems, "\n".join(problems)


def test_a_missing_or_unknown_field_at_any_place_is_refused_or_harmless(vault: Vault) -> None:
    for place in places(vault.manifest()):
        if isinstance(place[-1], str):
            manifest = vault.manifest()
            del at(manifest, place[:-1])[place[-1]]
            vault.sign(manifest)
            vault.outcome()
    for place in [(), *places(vault.manifest())]:
        manifest = vault.manifest()
        if isinstance(at(manifest, place), dict) and place != ("annotation",):
            at(manifest, place)["surprise"] = 1
            vault.sign(manifest)
            assert vault.outcome() == "refused", place


def replaced(*place: str | int, value: Any) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        at(manifest, place[:-1])[place[-1]] = value

    return change


def graph_path(value: str) -> Callable[[Manifest], None]:
    """The path of an environment, at both places."""

    def change(manifest: Manifest) -> None:
        for entry in (*manifest["files"], *manifest["source"]["environments"]):
            if entry["path"] == "graph/data.mdb":
                entry["path"] = value

    return change


def include_path(*values: str) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        (entry,) = manifest["source"]["include"]
        manifest["source"]["include"] = [{**entry, "path": value} for value in values]

    return change


def without_tar(manifest: Manifest) -> None:
    manifest["files"] = [record for record in manifest["files"] if record["content"] == "file"]


def without_environment(manifest: Manifest) -> None:
    del manifest["source"]["environments"][0]


def without_record(manifest: Manifest) -> None:
    del manifest["files"][0]


def without_anything(manifest: Manifest) -> None:
    manifest["files"] = manifest["source"]["environments"] = manifest["source"]["include"] = []


def twice(field: str) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        manifest["files"][1][field] = manifest["files"][0][field]

    return change


def same_environment_twice(manifest: Manifest) -> None:
    manifest["source"]["environments"].append(manifest["source"]["environments"][0])


PATHS = ["/etc/passwd", "../x", "a/../../x", "..", ".", "", "a\\b", "a\nb", "a\0b", "./x", "a//b", "a/", "a\u202eb"]
HOSTILE: dict[str, Callable[[Manifest], None]] = {
    **{f"repo_path {path!r}": replaced("files", 0, "repo_path", value=path) for path in PATHS},
    **{f"path {path!r}": graph_path(path) for path in PATHS},
    **{f"include {path!r}": include_path(path) for path in PATHS},
    "repo_path of the manifest": replaced("files", 0, "repo_path", value="manifest.json"),
    "repo_path of the checksums": replaced("files", 0, "repo_path", value="SHA256SUMS"),
    "repo_path through a link": replaced("files", 0, "repo_path", value="graph/../graph/data.mdb"),
    "environments elsewhere": replaced("source", "environments", 0, "path", value="other/data.mdb"),
    "record elsewhere": replaced("files", 0, "path", value="other/data.mdb"),
    "same path twice": twice("path"),
    "same repo_path twice": twice("repo_path"),
    "one file below another": graph_path("vector/data.mdb/x"),
    "same environment twice": same_environment_twice,
    "include that holds an environment": include_path("graph"),
    "include in the place of an environment": include_path("graph/data.mdb"),
    "include below an environment's file": include_path("graph/data.mdb/x"),
    "include twice": include_path("media", "media"),
    "include within include": include_path("media", "media/x"),
    "tar that is missing": without_tar,
    "environment that is missing": without_environment,
    "record that is missing": without_record,
    "nothing": without_anything,
    "single file of two": replaced("source", "single_file", value=True),
    "another format": replaced("format", value="pgbackrest"),
    "schema of the future": replaced("schema", value=2),
    "schema as text": replaced("schema", value="1"),
    "schema true": replaced("schema", value=True),
    "another job": replaced("job", value="other"),
    "another id": replaced("id", value="20200101T000000Z"),
    "unfinished": replaced("status", value="partial"),
    "increment": replaced("backup", "type", value="incr"),
    "encrypted": replaced("encryption", value={}),
    "unknown compression": replaced("compression", "type", value="lz4"),
    "other compression": replaced("compression", "type", value="zstd"),
    "unknown engine": replaced("engine", "name", value="oracle"),
    "unknown content": replaced("files", 0, "content", value="zip"),
    "negative size": replaced("files", 0, "size", value=-1),
    "negative repo_size": replaced("files", 0, "repo_size", value=-1),
    "huge size": replaced("files", 0, "size", value=1 << 62),
    "larger than any size": replaced("files", 0, "size", value=1 << 80),
    "set-user-id": replaced("files", 0, "mode", value=0o104755),
    "negative owner": replaced("files", 0, "uid", value=-1),
    "no owner at all": replaced("files", 0, "uid", value=(1 << 32) - 1),
    "larger than any owner": replaced("files", 0, "uid", value=1 << 40),
    "other content": replaced("files", 0, "sha256", value="0" * 64),
    "other stored bytes": replaced("files", 0, "repo_sha256", value="0" * 64),
    "other size": replaced("files", 0, "size", value=4096),
    "other number of entries": replaced("source", "environments", 0, "databases", 1, "entries", value=1),
    "a time that is none": replaced("timestamp_start", value="yesterday"),
}
ONLY_VERIFY_TELLS = ("other content", "other number of entries")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_manifest_is_refused(kind: str, vault: Vault) -> None:
    manifest = vault.manifest()
    HOSTILE[kind](manifest)
    vault.sign(manifest)
    with pytest.raises(CorruptError) as refused:
        vault.verify()
    assert "\n" not in str(refused.value)
    if kind not in ONLY_VERIFY_TELLS:
        vault.assert_not_restored()


def test_a_second_tar_is_refused(vault: Vault) -> None:
    manifest = vault.manifest()
    (record,) = [record for record in manifest["files"] if record["content"] == "tar"]
    shutil.copy(vault.path / record["repo_path"], vault.path / "again.tar")
    manifest["files"].append({**record, "path": "again", "repo_path": "again.tar"})
    vault.sign(manifest)
    vault.assert_refused()


def test_a_database_that_does_not_hold_together_is_found_though_all_checksums_agree(vault: Vault) -> None:
    manifest = vault.manifest()
    record = manifest["files"][0]
    data = (vault.path / record["repo_path"]).read_bytes()
    data = data[:8192] + random.Random(1).randbytes(len(data) - 8192)
    (vault.path / record["repo_path"]).write_bytes(data)
    record["sha256"] = record["repo_sha256"] = hashlib.sha256(data).hexdigest()
    vault.sign(manifest)
    with pytest.raises(CorruptError):
        vault.verify()
    manifest["check"] = None
    vault.sign(manifest)
    vault.assert_not_restored()


@pytest.mark.parametrize("path", ["", "x", "../x", "a\0b", "\ud800", "/" + "x" * 5000, "/dev/null/x"])
def test_a_hostile_place_of_origin_is_refused(path: str, vault: Vault) -> None:
    manifest = vault.manifest()
    manifest["source"]["path"] = path
    vault.sign(manifest)
    with pytest.raises((BackupError, OSError)) as refused:
        restore(vault.directory, Point(vault.path.name), Request(force=True))
    assert "\n" not in str(refused.value)
    assert vault.around() == vault.before


def test_nested_json_and_numbers_without_end_are_refused(vault: Vault) -> None:
    for data in (b"[" * 200_000, b'{"a":' * 200_000, b"9" * 100_000, b"", b"\xff\xfe", b"null", b"[]", b'"x"', b"{}"):
        vault.sign_bytes(data, [])
        vault.assert_refused()
    nested = '{"x":' * 900 + "1" + "}" * 900
    for place in (("annotation",), ("encryption",), ("source", "include"), ("surprise",)):
        manifest = vault.manifest()
        at(manifest, place[:-1])[place[-1]] = "NESTED"
        vault.sign_bytes(json.dumps(manifest).replace('"NESTED"', nested).encode(), manifest["files"])
        vault.assert_refused()


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_a_small_file_without_end_is_not_read_whole(name: str, vault: Vault) -> None:
    os.truncate(vault.path / name, 1 << 40)
    vault.assert_refused()


# What an attacker compresses


def limited() -> None:
    """In the child: no file of more than 16 MiB, and memory enough for what the libraries map."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * MEBIBYTE, 16 * MEBIBYTE))
    resource.setrlimit(resource.RLIMIT_AS, (700 * MEBIBYTE, 700 * MEBIBYTE))


def zeros(kind: str, megabytes: int) -> bytes:
    """So many compressed zeros."""
    zero = bytes(MEBIBYTE)
    compression = zstandard.ZstdCompressor().compressobj() if kind == "zstd" else zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([compression.compress(zero) for _unused in range(megabytes)]) + compression.flush()


@pytest.mark.parametrize("record", [0, -1], ids=["environment", "tar"])
@pytest.mark.parametrize("kind", ["zstd", "gzip"])
def test_a_decompression_bomb_does_not_go_off(kind: str, record: int, memory: Path) -> None:
    vault = Vault(memory, kind)
    bomb = zeros(kind, 2000 if kind == "zstd" else 400)
    manifest = vault.manifest()
    bombed = manifest["files"][record]
    (vault.path / bombed["repo_path"]).write_bytes(bomb)
    bombed.update(repo_size=len(bomb), repo_sha256=hashlib.sha256(bomb).hexdigest())
    vault.sign(manifest)
    command = Command(memory / "repository", memory / "jobs.d")
    assert "holds more than" in command.fails(1, "verify", "kg", "--id", vault.path.name, preexec_fn=limited)
    restoring = ("restore", "kg", "--id", vault.path.name, "--force", "--dest", vault.destination)
    assert "holds more than" in command.fails(1, *restoring, preexec_fn=limited)
    assert vault.around() == vault.before


def test_a_frame_that_wants_a_window_of_gigabytes_is_refused(memory: Path) -> None:
    vault = Vault(memory, "zstd")
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=False)
    compression = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compression.compress(b"x" * 1000) + compression.flush()
    manifest = vault.manifest()
    record = manifest["files"][0]
    (vault.path / record["repo_path"]).write_bytes(data)
    record.update(repo_size=len(data), repo_sha256=hashlib.sha256(data).hexdigest())
    record.update(size=1000, sha256=hashlib.sha256(b"x" * 1000).hexdigest())
    vault.sign(manifest)
    vault.assert_refused()


# What an attacker packs


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return output.getvalue()


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    for field, value in fields.items():
        setattr(header, field, value)
    return header, data


def pax(name: str, data: bytes = b"data", **headers: str) -> tuple[tarfile.TarInfo, bytes]:
    """A member whose extended header says more than the library would write."""
    return member(name, data, pax_headers={key.replace("_", "."): value for key, value in headers.items()})


def gnu_sparse() -> bytes:
    """A member that says to be much larger than the block it takes in the tar."""
    header = bytearray(tarfile.TarInfo("media/x").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[124:136] = b"%011o\0" % 512
    header[386:398], header[398:410] = b"%011o\0" % 0, b"%011o\0" % 512
    header[483:495] = b"\x80" + SPARSE.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    # As long as what it unpacks to, so that nothing but the member itself can be refused.
    return bytes(header) + bytes(SPARSE)


def directory(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=0o755)


DATA = member("media/x", b"data")
# A tar, and the number and size of the files that its manifest tells of, so that nothing else is wrong.
FORBIDDEN: dict[str, tuple[bytes, int, int]] = {
    "absolute": (packed(member("/media/x", b"data")), 1, 4),
    "absolute elsewhere": (packed(member("/etc/x", b"data")), 1, 4),
    "parent": (packed(member("media/../../x", b"data")), 1, 4),
    "parent alone": (packed(member("..", b"data")), 1, 4),
    "parent within": (packed(member("media/a/../x", b"data")), 1, 4),
    "outside": (packed(member("other/x", b"data")), 1, 4),
    "outside with the same beginning": (packed(member("media2/x", b"data")), 1, 4),
    "above": (packed(member("source", b"data")), 1, 4),
    "data file": (packed(member("graph/data.mdb", b"data")), 1, 4),
    "symbolic link": (packed(DATA, member("media/l", type=tarfile.SYMTYPE, linkname="/etc")), 1, 4),
    "link through which to write": (
        packed(member("media/l", type=tarfile.SYMTYPE, linkname="/tmp"), member("media/l/x", b"data")),
        1,
        4,
    ),
    "hard link": (packed(DATA, member("media/l", type=tarfile.LNKTYPE, linkname="media/x")), 1, 4),
    "hard link out": (packed(member("media/l", type=tarfile.LNKTYPE, linkname="/etc/passwd")), 1, 0),
    "pipe": (packed(member("media/l", type=tarfile.FIFOTYPE)), 0, 0),
    "character device": (packed(member("media/l", type=tarfile.CHRTYPE, devmajor=1, devminor=5)), 0, 0),
    "block device": (packed(member("media/l", type=tarfile.BLKTYPE, devmajor=8)), 0, 0),
    "unknown type": (packed(member("media/l", b"data", type=b"Z")), 1, 4),
    "sparse": (gnu_sparse(), 1, SPARSE),
    "sparse by extended header": (
        packed(pax("media/x", b"1\n0\n0\n".ljust(512, b"\0"), GNU_sparse_major="1", GNU_sparse_minor="0",
                   GNU_sparse_name="media/x", GNU_sparse_realsize=str(SPARSE))) + bytes(SPARSE),
        1,
        SPARSE,
    ),
    "more files than told": (packed(DATA, member("media/y", b"data")), 1, 4),
    "fewer files than told": (packed(DATA), 2, 4),
    "other size than told": (packed(DATA), 1, 5),
    "no tar": (b"no tar at all" * 100, 0, 0),
    "half a tar": (packed(member("media/x", bytes(100_000)))[:50_000], 1, 100),
    "damaged header": (packed(DATA)[:100] + b"\xff" * 400 + packed(DATA)[500:], 1, 4),
    "negative size": (packed(pax("media/x", size="-512")), 1, -512),
}  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", FORBIDDEN)
def test_a_hostile_tar_is_refused(kind: str, vault: Vault) -> None:
    archive, files, size = FORBIDDEN[kind]
    vault.replace_include(archive, files=files, directories=0, size=size)
    vault.assert_refused(".include.tar: ")


# A tar, and how many files, directories and bytes its manifest tells of.
STRANGE: dict[str, tuple[bytes, int, int, int]] = {
    "same file twice": (packed(DATA, member("media/y"), DATA), 3, 0, 8),
    "file, then directory": (packed(DATA, directory("media/x")), 1, 1, 4),
    "directory, then file": (packed(directory("media/x"), DATA), 1, 1, 4),
    "same directory twice": (packed(directory("media/d"), DATA, directory("media/d")), 1, 2, 4),
    "file as a directory": (packed(DATA, member("media/x/y", b"data")), 2, 0, 8),
    "include itself a file": (packed(member("media", b"data")), 1, 0, 4),
    "empty": (packed(), 0, 0, 0),
    "huge owner": (packed(pax("media/x", uid=str(1 << 70), gid=str(1 << 70))), 1, 0, 4),
    "negative owner": (packed(pax("media/x", uid="-7")), 1, 0, 4),
    "endless time": (packed(pax("media/x", mtime="inf")), 1, 0, 4),
    "no time": (packed(pax("media/x", mtime="nan")), 1, 0, 4),
    "huge time": (packed(pax("media/x", mtime="1e30")), 1, 0, 4),
    "set-user-id": (packed(member("media/x", b"data", mode=0o6777)), 1, 0, 4),
    "deep": (packed(member("media/" + "d/" * 1500 + "x", b"data")), 1, 0, 4),
    "deeper than paths can be": (packed(member("media/" + "d/" * 5000 + "x", b"data")), 1, 0, 4),
    "long name": (packed(member("media/" + "x" * 300, b"data")), 1, 0, 4),
    "line break": (packed(member("media/a\nb", b"data")), 1, 0, 4),
    "escape": (packed(member("media/\x1b[2J", b"data")), 1, 0, 4),
    "zero byte": (packed(pax("media/x", path="media/a\0b")), 1, 0, 4),
    "bytes that are no text": (packed(member("media/\udcff", b"data")), 1, 0, 4),
    "garbage after the end": (packed(DATA) + b"garbage" * 1000, 1, 0, 4),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_tar_does_no_harm(kind: str, vault: Vault) -> None:
    archive, files, directories, size = STRANGE[kind]
    vault.replace_include(archive, files=files, directories=directories, size=size)
    try:
        vault.restore()
    except BackupError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it need not fail
        assert vault.around() == vault.before
    else:
        found = [path for path in vault.destination.rglob("*") if not path.is_symlink()]
        assert all(path.stat().st_mode & 0o7000 == 0 for path in found)
        vault.lay_out()
    vault.outcome()


# Holes


def put(path: Path, value: bytes, **options: Any) -> None:
    with closing(lmdb.open(str(path), **options)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", value)


def size_on_disk(path: Path) -> int:
    return sum(entry.lstat().st_blocks * 512 for entry in path.rglob("*"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("compact", [False, True])
def test_an_environment_of_ten_gigabytes_of_holes_stays_small(compact: bool, dbbackup: Command, tmp_path: Path) -> None:
    source, restored = tmp_path / "source", tmp_path / "restored"
    put(source, b"value", map_size=10 << 30, writemap=True)
    assert (source / "data.mdb").stat().st_size == 10 << 30
    assert size_on_disk(source) < MEBIBYTE
    dbbackup.job("kg", source, compact=compact)
    dbbackup.ok("run", "kg")
    assert size_on_disk(dbbackup.repository) < MEBIBYTE
    told = dbbackup.ok("restore", "kg", "--dest", restored)
    assert size_on_disk(restored) < MEBIBYTE
    assert list(told["map_sizes"].values()) == [10 << 30]
    with closing(lmdb.open(str(restored), map_size=10 << 30)) as environment, environment.begin() as transaction:
        assert dict(transaction.cursor()) == {b"key": b"value"}


def test_zeros_within_an_environment_become_holes(dbbackup: Command, tmp_path: Path) -> None:
    put(tmp_path / "source", bytes(100 * MEBIBYTE), map_size=1 << 30)
    dbbackup.job("kg", tmp_path / "source")
    dbbackup.ok("run", "kg")
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    assert (tmp_path / "restored/data.mdb").stat().st_size > 100 * MEBIBYTE
    assert size_on_disk(tmp_path / "restored") < MEBIBYTE
    assert size_on_disk(dbbackup.repository) < MEBIBYTE
