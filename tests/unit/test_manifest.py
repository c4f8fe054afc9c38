# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests: written once, read with distrust, and readable for ever."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError, CorruptError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import restore, verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import NEWEST, Point
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.manifest import checksums, parse
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.published import PublishedBackup
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT, content_of, counts_of

GOLDEN = CHECKOUT / "tests/fixtures/golden"
SCHEMAS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
Value = dict[str, Any]


@pytest.fixture(params=SCHEMAS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the repository with the one backup of a schema."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "repository"))


@pytest.fixture
def value() -> Value:
    """The golden manifest of the current schema, as JSON."""
    (path,) = GOLDEN.glob(f"{SCHEMAS[-1]}/*/*/manifest.json")
    loaded: Value = json.loads(path.read_bytes())
    return loaded


def parsed(value: Value) -> Any:
    return parse(json.dumps(value).encode())


class TestGolden:
    """Backups that were published once, with what their README tells of them."""

    EXPECTED: Value = json.loads((GOLDEN / "expected.json").read_text())

    def test_verifies(self, golden: Path) -> None:
        result = verify.verify(Repository(golden).job("memory"))
        assert result.opened
        assert result.warnings == []

    def test_restores(self, golden: Path, tmp_path: Path) -> None:
        dest = tmp_path / "restored"
        restore.restore(Repository(golden).job("memory"), NEWEST, Request(destination=dest))
        for name, expected in self.EXPECTED["environments"].items():
            content = content_of(dest / name)
            assert {name or "main": count for name, count in counts_of(content).items()} == expected["counts"]
            assert hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest() == expected["sha256"]
        for name, text in self.EXPECTED["files"].items():
            assert (dest / name).read_text() == text

    def test_reads_back_as_it_was_written(self, golden: Path) -> None:
        (path,) = golden.glob("*/*/manifest.json")
        manifest = parse(path.read_bytes())
        assert manifest.to_bytes() == path.read_bytes()
        assert checksums(manifest, path.read_bytes()) == path.with_name("SHA256SUMS").read_bytes()


def at(*place: str | int) -> Callable[[Value], Any]:
    """A function that finds what is at a place."""

    def find(value: Value) -> Any:
        found: Any = value
        for step in place:
            found = found[step]
        return found

    return find


@pytest.mark.parametrize(
    ("place", "key", "wrong", "message"),
    [
        ((), "format", "tar", "has format 'tar'"),
        ((), "schema", 2, "schema 2; this version reads format 'embedded.db_backup', schema 1"),
        ((), "schema", "1", "schema '1'"),
        ((), "id", 7, "id: must be a text"),
        ((), "surprise", 1, "surprise: is not known"),
        ((), "encryption", {"type": "age"}, "encryption: this version reads backups without encryption only"),
        ((), "timestamp_start", "yesterday", "timestamp_start: is not a time"),
        ((), "timestamp_stop", "2026-11-21", "timestamp_stop: is not a time"),
        ((), "files", {}, "files: must be a list"),
        (("backup",), "type", "diff", "backup.type: 'diff' is not known"),
        (("backup",), "type", "incr", "backup.reference: an increment has references"),
        (("backup",), "prior", "20261121T013000Z", "backup.reference: an increment has references"),
        (("backup",), "reference", ["20261121T013000Z"], "backup.reference: an increment has references"),
        (("compression",), "type", "lzma", "compression.type: 'lzma' is not known"),
        (("compression",), "type", "../x", "compression.type: '../x' is not known"),
        (("files", 0), "path", "../data.mdb", "files[0].path: '../data.mdb' is not a path below the backup"),
        (("files", 0), "path", "/etc/passwd", "files[0].path"),
        (("files", 0), "path", "", "files[0].path"),
        (("files", 0), "path", "a\nb", "files[0].path"),
        (("files", 1), "repo_path", "../../x", "files[1].repo_path"),
        (("files", 0), "repo_path", "manifest.json", "files[0].repo_path: 'manifest.json' is taken"),
        (("files", 0), "repo_path", "SHA256SUMS", "files[0].repo_path: 'SHA256SUMS' is taken"),
        (("files", 0), "content", "link", "files[0].content: 'link' is not known"),
        (("files", 0), "size", -1, "files[0]: a size, mode, uid or gid is out of range"),
        (("files", 0), "repo_size", -1, "files[0]: a size"),
        (("files", 0), "mode", 0o10000, "files[0]: a size, mode"),
        (("files", 0), "uid", -1, "files[0]: a size"),
        (("files", 0), "gid", -1, "files[0]: a size"),
        (("files", 0), "size", "large", "files[0].size: must be a whole number"),
        (("summary",), "size", None, "summary.size: must be a whole number, is null"),
        (("source",), "path", None, "source.path: must be a text"),
        (("host",), "hostname", [], "host.hostname: must be a text, is a list"),
    ],
    ids=lambda entry: entry if isinstance(entry, str) else "",
)
def test_fault_is_told_with_its_place(
    value: Value, place: tuple[str | int, ...], key: str, wrong: Any, message: str
) -> None:
    parsed(value)
    at(*place)(value)[key] = wrong
    with pytest.raises(CorruptError) as caught:
        parsed(value)
    assert message in str(caught.value)


BASE, MIDDLE = "20261120T010000Z", "20261120T020000Z"
TOO_MANY = [f"20261119T{number // 60:02}{number % 60:02}00Z" for number in range(1000)]


def increment(value: Value, **changes: Any) -> Value:
    """The manifest as that of an increment to two others."""
    kind = {**value["backup"], "type": "incr", "prior": MIDDLE, "reference": [BASE, MIDDLE], **changes}
    position = {"kind": "basis", "start": 7, "stop": 9}
    return {**value, "source": {**value["source"], "position": position}, "backup": kind}


class TestIncrement:
    def test_is_read(self, value: Value) -> None:
        manifest = parsed(increment(value))
        assert (manifest.backup.prior, manifest.backup.reference) == (MIDDLE, [BASE, MIDDLE])

    @pytest.mark.parametrize(
        "changes",
        [
            {"type": "full"},
            {"prior": None},
            {"prior": BASE},
            {"reference": []},
            {"reference": [], "prior": None},
            {"reference": [MIDDLE, BASE]},
            {"reference": [MIDDLE, MIDDLE]},
            {"reference": ["../../etc", MIDDLE]},
            {"reference": ["20261340T010000Z", MIDDLE]},
            {"reference": [*TOO_MANY, MIDDLE]},
        ],
    )
    def test_what_it_builds_on_must_make_sense(self, value: Value, changes: Value) -> None:
        with pytest.raises(CorruptError, match=r"backup\.reference"):
            parsed(increment(value, **changes))

    def test_does_not_build_on_itself(self, value: Value) -> None:
        with pytest.raises(CorruptError, match="ids of other backups"):
            parsed(increment(value, prior=value["id"], reference=[BASE, value["id"]]))

    def test_has_a_position(self, value: Value) -> None:
        changed = increment(value)
        changed["source"]["position"] = None
        with pytest.raises(CorruptError, match=r"source\.position: is missing, of an increment"):
            parsed(changed)


def places_of(value: Any, place: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], str]]:
    """Every key of every object."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    if isinstance(value, dict):
        for key, entry in value.items():
            found.append((place, key))
            found += places_of(entry, (*place, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            found += places_of(entry, (*place, index))
    return found


WRONG = (..., None, 7, -1, 1.5, True, "text", "../..", [], [7], {}, {"x": 1}, 10**400)


def changed_everywhere(value: Value, top: str | None = None) -> Iterator[bytes]:
    """The manifest with each value in turn missing or of another type; or only the values below a key."""
    for place, key in places_of(value):
        if top in (None, *place[:1]):
            for wrong in WRONG:
                changed = copy.deepcopy(value)
                at(*place)(changed)[key] = wrong
                if wrong is ...:
                    del at(*place)(changed)[key]
                yield json.dumps(changed).encode()


def test_any_value_may_be_missing_or_of_any_type_without_a_crash(value: Value) -> None:
    outcomes = set()
    for data in changed_everywhere(value):
        try:
            parse(data)
            outcomes.add("read")
        except CorruptError as error:
            outcomes.add("refused in one sentence" if "\n" not in str(error) else str(error))
    assert outcomes == {"read", "refused in one sentence"}


def test_what_only_the_engine_understands_is_no_less_distrusted(golden: Path, tmp_path: Path) -> None:
    (directory,) = golden.glob("*/*")
    value = json.loads((directory / "manifest.json").read_bytes())
    value["source"]["environments"] = value["source"]["environments"][:1]
    value["files"] = [record for record in value["files"] if record["path"] in ("graph/data.mdb", ".include")]
    verified = 0
    for data in changed_everywhere(value, "source"):
        sign(directory, value, data)
        with contextlib.suppress(BackupError):
            job = Repository(golden).job("memory")
            restore.restore(job, Point(directory.name), Request(destination=tmp_path / "new"), predict=True)
            verify.verify(job, remember=False)
            verified += 1
    assert verified > 10, "hardly any of these manifests was looked at to its end"


def sign(directory: Path, value: Value, data: bytes) -> None:
    """Write a manifest as somebody would who knows how checksums are made."""
    (directory / "manifest.json").write_bytes(data)
    lines = [f"{record['repo_sha256']}  {record['repo_path']}\n" for record in value["files"]]
    lines.append(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n")
    (directory / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": "embedded.db_backup"}',
        b'{"schema": 1}',
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        parse(data)


def test_values_nested_too_deeply_are_refused_at_once(value: Value) -> None:
    """The parser of JSON goes deeper than what tells of a manifest later."""
    data = json.dumps(value).replace('"source": {', '"source": {"deep": ' + "[" * 700 + "]" * 700 + ", ", 1).encode()
    with pytest.raises(CorruptError, match="nested too deeply"):
        parse(data)


def test_two_files_of_one_name(value: Value) -> None:
    for field in ("path", "repo_path"):
        changed = copy.deepcopy(value)
        changed["files"][1][field] = changed["files"][0][field]
        with pytest.raises(CorruptError, match=f"files: two have the same {field}"):
            parsed(changed)


def test_details_of_the_source_stay_among_its_fields(value: Value) -> None:
    value["source"]["something"] = {"of": "another engine"}
    manifest = parsed(value)
    assert manifest.source.details["something"] == {"of": "another engine"}
    assert manifest.to_json()["source"] == value["source"]


class TestPublished:
    def test_manifest_of_another_backup(self, golden: Path) -> None:
        (directory,) = golden.glob("memory/*")
        directory.rename(directory.with_name("20200101T000000Z"))
        with pytest.raises(CorruptError, match=f"its manifest is that of backup {directory.name} of job memory"):
            PublishedBackup(directory.with_name("20200101T000000Z")).manifest()

    def test_manifest_of_another_job(self, golden: Path) -> None:
        (golden / "memory").rename(golden / "other")
        (directory,) = golden.glob("other/*")
        with pytest.raises(CorruptError, match="of job other: its manifest is that of backup"):
            PublishedBackup(directory).manifest()

    @pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
    def test_without_one_of_its_files(self, golden: Path, name: str) -> None:
        (directory,) = golden.glob("memory/*")
        (directory / name).unlink()
        with pytest.raises(CorruptError, match=f"{name} cannot be opened"):
            PublishedBackup(directory).manifest()

    def test_manifest_that_was_changed(self, golden: Path) -> None:
        (directory,) = golden.glob("memory/*")
        data = (directory / "manifest.json").read_bytes()
        (directory / "manifest.json").write_bytes(data + b"\n")
        with pytest.raises(CorruptError, match=r"SHA256SUMS and manifest\.json do not belong together"):
            PublishedBackup(directory).manifest()
