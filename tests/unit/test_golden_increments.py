# SPDX-License-Identifier: GPL-3.0-or-later
"""Increments that were published once verify and restore, at each position and time, with no server."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import restore, verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import Point
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.request import Request
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.manifest import checksums, parse
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import (
    JobDirectory,
    Repository,
)
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT
from ansible_collections.embedded.db_backup.tests.tx_logs import lines_in

GOLDEN = CHECKOUT / "tests/fixtures/golden_increments"
EXPECTED: dict[str, dict[str, str]] = json.loads((GOLDEN / "expected.json").read_text())
POSITIONS = sorted(map(int, EXPECTED))


@pytest.fixture
def job(tmp_path: Path) -> JobDirectory:
    """A copy of the job."""
    return Repository(Path(shutil.copytree(GOLDEN / "repository", tmp_path / "repository"))).job("notes")


def hashes(place: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}


def restored(job: JobDirectory, place: Path, **choice: Any) -> restore.Restored:
    return restore.restore(job, Point(**choice), Request(destination=place))


def test_verify(job: JobDirectory) -> None:
    result = verify.verify(job)
    assert (result.opened, result.warnings) == (True, [])
    assert set(job.state().verified) == {backup.id for backup in job.backups()}


@pytest.mark.parametrize("position", POSITIONS)
def test_restore_a_position(job: JobDirectory, tmp_path: Path, position: int) -> None:
    assert restored(job, tmp_path / "restored", position=position).position == position
    assert hashes(tmp_path / "restored") == EXPECTED[str(position)]


def test_restore_a_time(job: JobDirectory, tmp_path: Path) -> None:
    restored(job, tmp_path / "all")
    assert hashes(tmp_path / "all") == EXPECTED[str(POSITIONS[-1])]
    lines = lines_in(tmp_path / "all")
    for moment in {moment for _position, moment in lines}:
        last = max(position for position, then in lines if then <= moment)
        assert restored(job, tmp_path / moment, at=times.from_rfc3339(moment)).position == last
        assert hashes(tmp_path / moment) == EXPECTED[str(last)]


def test_read_back_as_written(job: JobDirectory) -> None:
    for backup in job.backups():
        content = (backup.path / "manifest.json").read_bytes()
        assert parse(content).to_bytes() == content
        assert checksums(parse(content), content) == (backup.path / "SHA256SUMS").read_bytes()


def test_any_damage_below_is_found(job: JobDirectory, tmp_path: Path) -> None:
    """Every stored byte of every backup counts for the last one."""
    newest = job.backups()[0].id
    for path in sorted(job.path.glob("*/*")):
        content = path.read_bytes()
        for place in range(0, len(content), 97):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(BackupError):
                restore.restore(job, Point(newest), Request(destination=tmp_path / "restored"))
            assert not (tmp_path / "restored").exists()
        path.write_bytes(content)
    assert restored(job, tmp_path / "restored").changed
