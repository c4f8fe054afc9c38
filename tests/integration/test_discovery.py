# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees in which environments are discovered: what is passed over is told, what vanishes is not missed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.lmdb.locations import locate
from ansible_collections.embedded.db_backup.tests.saboteur import Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    NOBODY,
    Command,
    content_of,
    give_away,
    make_environment,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with one environment that is found."""
    source = tmp_path / "source"
    make_environment(source / "graph")
    return source


def test_environments_that_are_passed_over_are_told(dbbackup: Command, source: Path, tmp_path: Path) -> None:
    make_environment(source / ".hidden/deep/vector")
    make_environment(tmp_path / "elsewhere")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "graph/linked").symlink_to(source / "graph")
    (source / ".empty").mkdir()
    (source / "link").symlink_to("/etc")
    (source / "dangling").symlink_to("nowhere")
    dbbackup.job("kg", source)
    result = dbbackup.ok("run", "kg")
    assert [entry["path"] for entry in result["backup"]["source"]["environments"]] == ["graph/data.mdb"]
    assert sorted(result["warnings"]) == sorted(
        [
            f"the environment in {source}/.hidden/deep/vector was passed over: it is in a hidden directory",
            f"the environment in {source}/linked was passed over: it is behind a link",
            f"the environment in {source}/graph/linked was passed over: it is behind a link",
        ]
    )


def test_not_more_than_somebody_would_read(dbbackup: Command, source: Path) -> None:
    for number in range(30):
        shutil.copytree(source / "graph", source / f".hidden/{number}")
    dbbackup.job("kg", source)
    warnings = dbbackup.ok("run", "kg")["warnings"]
    assert len(warnings) == 21
    assert warnings[-1].startswith("10 more places")


def test_where_all_are_passed_over_the_sentence_tells(dbbackup: Command, source: Path) -> None:
    (source / "graph").rename(source / ".graph")
    dbbackup.job("kg", source)
    sentence = dbbackup.fails(1, "run", "kg")
    assert "there is no LMDB environment" in sentence
    assert f"{source}/.graph was passed over" in sentence


@pytest.mark.parametrize("target", ["environment", "tree"])
def test_a_path_that_is_a_link_to_a_directory(dbbackup: Command, source: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(source / "graph" if target == "environment" else source)
    (source / "graph/media").mkdir()
    (source / "graph/media/file").write_text("media")
    dbbackup.job("kg", tmp_path / "link", include=["media" if target == "environment" else "graph/media"])
    assert dbbackup.ok("run", "kg")["warnings"] == []
    dbbackup.ok("restore", "kg", "--dest", tmp_path / "restored")
    restored = tmp_path / "restored" if target == "environment" else tmp_path / "restored/graph"
    assert content_of(restored) == content_of(source / "graph")
    assert (restored / "media/file").read_text() == "media"


def test_a_path_that_is_a_link_to_a_file_is_refused(dbbackup: Command, tmp_path: Path) -> None:
    make_environment(tmp_path / "real.lmdb", subdir=False)
    (tmp_path / "link.lmdb").symlink_to("real.lmdb")
    dbbackup.job("kg", tmp_path / "link.lmdb")
    assert "link.lmdb cannot be read: it is a link; name the file" in dbbackup.fails(1, "run", "kg")


def test_a_directory_that_vanishes_meanwhile_is_not_missed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "gone").mkdir()
    walk = os.walk

    def walk_and_remove(top: Any, **options: Any) -> Iterator[Any]:
        for found in walk(top, **options):
            yield found
            if found[0] == str(source):
                (source / "gone").rmdir()

    monkeypatch.setattr(os, "walk", walk_and_remove)
    found = locate(source)
    assert [location.path for location in found.environments] == ["graph/data.mdb"]
    assert found.warnings == []


@pytest.mark.root
def test_a_directory_that_may_not_be_read_is_told(saboteur: Saboteur, source: Path, tmp_path: Path) -> None:
    (source / "lost+found").mkdir(mode=0o700)
    command = Command(tmp_path / "repository", tmp_path / "jobs.d")
    command.repository.mkdir()
    command.job("kg", source)
    for path in (source, command.repository):
        give_away(path)
    os.chown(source / "lost+found", 0, 0)
    ended = saboteur.run(command.arguments("run", "kg")[2:], user=NOBODY)
    assert ended.code == 0, ended
    assert f"warning: {source}/lost+found was not searched for environments: Permission denied" in ended.stdout
