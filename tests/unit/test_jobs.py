# SPDX-License-Identifier: GPL-3.0-or-later
"""Job files and the options of modules: every mistake is told with its place and a hint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import NotFoundError, UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import Policy

JOB: dict[str, Any] = {"name": "kg", "type": "lmdb", "path": "/srv/kg"}


def test_defaults() -> None:
    job = jobs.parse(JOB)
    settings = job.settings
    assert (settings.compression, settings.verify, settings.min_age_hours) == ("zstd", True, 0)
    assert (settings.skip_unchanged, settings.force, job.timeout) == (False, False, 60)


def test_everything() -> None:
    options = {
        **JOB,
        "repository": "/backups",
        "compression": "gzip",
        "compression_level": 9,
        "verify": False,
        "min_age_hours": 1.5,
        "skip_unchanged": True,
        "force": True,
        "method": "hot",
        "compact": True,
        "include": ["media"],
        "timeout": 5,
    }
    job = jobs.parse(options)
    assert job.directory.path == Path("/backups/kg")
    assert (job.compression.type, job.compression.level, job.timeout) == ("gzip", 9, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": None}, "type None is not known; this version knows chroma, files, lmdb, nrepl, sqlite"),
        ({"type": "oracle"}, "type 'oracle' is not known"),
        ({"type": ["lmdb"]}, "type ['lmdb'] is not known"),
        ({"name": None}, "name: must be a text, is null"),
        ({"name": "../kg"}, "'../kg' is not a job name"),
        ({"path": 7}, "path: must be a text, is a whole number"),
        ({"compres": "zstd"}, "compres: is not known; did you mean compression?"),
        ({"skip_unchaged": True}, "skip_unchaged: is not known; did you mean skip_unchanged?"),
        ({"Include": []}, "Include: is not known; did you mean include?"),
        ({"include": "media"}, "include: must be a list, is a text"),
        ({"include": [7]}, "include[0]: must be a text, is a whole number"),
        ({"verify": "yes"}, "verify: must be true or false, is a text"),
        ({"verify": 1}, "verify: must be true or false, is a whole number"),
        ({"compact": None}, "compact: must be true or false, is null"),
        ({"min_age_hours": "1"}, "min_age_hours: must be a number, is a text"),
        ({"min_age_hours": -1}, "min_age_hours: -1 is negative"),
        ({"min_age_hours": True}, "min_age_hours: must be a number, is true or false"),
        ({"timeout": 0}, "timeout 0 is"),
        ({"timeout": 86401}, "timeout 86401 is"),
        ({"timeout": 1.5}, "timeout: must be a whole number, is a number"),
        ({"method": "warm"}, "method 'warm' is not known for lmdb"),
        ({"compression": "lzma"}, "compression 'lzma' is not known; choose zstd, gzip or none"),
        ({"compression_level": 99}, "compression_level 99 is out of range"),
        ({"compression": "none", "compression_level": 1}, "compression_level has no meaning"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistake_is_told_with_its_place(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        jobs.parse({**JOB, **options}, "/etc/db-backup/jobs.d/kg.json")
    assert str(caught.value).startswith(f"/etc/db-backup/jobs.d/kg.json: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"keep_min_good": 3}, {"timezone": "Europe/Berlin"}, {"keep_daily": 0, "keep_min_good": 3}], ids=str
)
def test_retention_without_a_rule_would_never_prune(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^/jobs/kg\.json: no rule tells what to keep"):
        jobs.parse({**JOB, **options}, "/jobs/kg.json")
    assert not jobs.parse({**JOB, **options, "keep_last": 2}).retention.is_empty()


def test_the_defaults_of_retention_can_be_given() -> None:
    job = jobs.parse({**JOB, **dataclasses.asdict(Policy())})
    assert job.retention.is_empty()


@pytest.mark.parametrize("missing", ["type", "path", "name"])
def test_what_must_be_there(missing: str) -> None:
    with pytest.raises(UsageError, match=missing):
        jobs.parse({key: value for key, value in JOB.items() if key != missing})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_only_python_reads_in_json(tmp_path: Path, number: float) -> None:
    (tmp_path / "kg.json").write_text(json.dumps({**JOB, "min_age_hours": number}))
    with pytest.raises(UsageError, match="min_age_hours"):
        jobs.load(tmp_path, "kg")


class TestFiles:
    def write(self, directory: Path, content: Any) -> None:
        (directory / "kg.json").write_text(content if isinstance(content, str) else json.dumps(content))

    def test_name_is_that_of_the_file(self, tmp_path: Path) -> None:
        self.write(tmp_path, {"type": "lmdb", "path": "/srv/kg"})
        assert jobs.load(tmp_path, "kg").settings.name == "kg"

    def test_repository_given_counts_more(self, tmp_path: Path) -> None:
        self.write(tmp_path, {**JOB, "repository": "/of/the/file"})
        assert jobs.load(tmp_path, "kg").directory.path == Path("/of/the/file/kg")
        assert jobs.load(tmp_path, "kg", "/given").directory.path == Path("/given/kg")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({**JOB, "name": "other"}, "kg.json: name: must be 'kg' like the file"),
            ([], "kg.json does not hold an object"),
            ("{", "kg.json is not JSON: Expecting property name"),
            ("", "kg.json is not JSON"),
            ("[" * 100_000, "kg.json is not JSON"),
            ({**JOB, "surprise": 1}, "kg.json: surprise: is not known"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_mistake(self, tmp_path: Path, content: Any, message: str) -> None:
        self.write(tmp_path, content)
        with pytest.raises(UsageError) as caught:
            jobs.load(tmp_path, "kg")
        assert message in str(caught.value)

    def test_job_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="known are: none"):
            jobs.load(tmp_path / "missing", "kg")
        self.write(tmp_path, JOB)
        with pytest.raises(NotFoundError, match=r"there is no job gk in .*; known are: kg"):
            jobs.load(tmp_path, "gk")

    def test_name_that_leads_elsewhere(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not a job name"):
            jobs.load(tmp_path, "../kg")

    def test_directory_in_place_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "kg.json").mkdir()
        with pytest.raises(UsageError, match="cannot be read: Is a directory"):
            jobs.load(tmp_path, "kg")
