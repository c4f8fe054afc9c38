# SPDX-License-Identifier: GPL-3.0-or-later
"""A kill, a signal or a failing disk at any system call: no bad backup, no harm to the source, the next run works."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.verify import verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.saboteur import GUARD, Ended, Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    Command,
    eventually,
    make_environment,
    snapshot,
    without_readers,
)


class Scene:
    """A job of two environments and other files with one good backup; and what must not change."""

    def __init__(self, command: Command, source: Path, saboteur: Saboteur) -> None:
        self.command, self.source, self.saboteur = command, source, saboteur
        make_environment(source / "graph", 4000)
        make_environment(source / "vector", 200)
        (source / "media").mkdir()
        (source / "media/picture").write_bytes(b"not a picture" * 1000)
        command.job("kg", source, include=["media"], timeout=10)
        self.run = command.arguments("run", "kg")[2:]
        assert saboteur.run(self.run).code == 0
        self.directory = command.repository / "kg"
        (self.earlier,) = command.backups("kg")
        self.backup_before = snapshot(self.directory / self.earlier)
        self.source_before = without_readers(snapshot(source))

    def problems(self, ended: Ended) -> list[str]:
        """What holds no more after a run that a fault struck, each with the place of the fault."""
        found = []
        eventually(lambda: not self.saboteur.left_over(), "the end of all processes")
        if without_readers(snapshot(self.source)) != self.source_before:
            found.append("the source was changed")
        if snapshot(self.directory / self.earlier) != self.backup_before:
            found.append("the earlier backup was changed")
        found += [f"the published backup {new} is bad" for new in self.new() if not self.is_good(new)]
        return [f"{ended.last_call}: {problem}" for problem in found]

    def problems_with_the_next_run(self, ended: Ended) -> list[str]:
        before = self.new()
        again = self.saboteur.run(self.run)
        found = [] if again.code == 0 else [f"the next run: {again.code} {again.stderr}"]
        if len(self.new()) != len(before) + 1:
            found.append("the next run made no backup")
        found += [f"the next run left {name}" for name in self.leftovers()]
        self.forget_new()
        return [f"{ended.last_call}: {problem}" for problem in found]

    def unclean(self, ended: Ended, *codes: int) -> list[str]:
        """What a run that met a fault and was to end with one of the codes did not tell, or left."""
        found = [] if ended.code in codes else [f"exit code {ended.code}"]
        if ended.code == 0:
            found += [] if len(self.new()) == 1 else ["exit code 0 without a backup"]
            found += [f"published without {step}" for step in self.missing_syncs(ended)]
        else:
            found += [] if is_one_sentence(ended.stderr) else [f"said {ended.stderr!r}"]
            found += ["published a backup although it failed"] * len(self.new())
        found += [f"left {name}" for name in self.leftovers()]
        return [f"{ended.last_call}: {problem}" for problem in found]

    def missing_syncs(self, ended: Ended) -> list[str]:
        """What a run that published was to make durable before its rename, and after it, and did not."""
        calls = [call.removesuffix(" !") for call in ended.calls[0]]
        (renamed,) = [call for call in calls if call.startswith("rename ")]
        (new,) = self.new()
        staged = Path(renamed.removeprefix("rename "))
        wanted = [staged / path.relative_to(self.directory / new) for path in (self.directory / new).rglob("*")]
        before, after = calls[: calls.index(renamed)], calls[calls.index(renamed) :]
        missing = [f"fsync {path}" for path in [staged, *wanted] if f"fsync {path}" not in before]
        return missing + ([] if f"fsync {self.directory}" in after else [f"fsync {self.directory}"])

    def new(self) -> list[str]:
        return [backup for backup in self.command.backups("kg") if backup != self.earlier]

    def forget_new(self) -> None:
        for new in self.new():
            shutil.rmtree(self.directory / new)

    def leftovers(self) -> list[str]:
        expected = {".lock", "state.json", ".catalogue.json", *self.command.backups("kg")}
        return sorted(entry.name for entry in self.directory.iterdir() if entry.name not in expected)

    def is_good(self, backup: str) -> bool:
        try:
            return verify(Repository(self.command.repository).job("kg"), backup, remember=False).opened
        except BackupError:
            return False


@pytest.fixture
def scene(memory: Path, saboteur: Saboteur) -> Scene:
    return Scene(Command(memory / "repository", memory / "jobs.d"), memory / "source", saboteur)


def is_one_sentence(said: str) -> bool:
    """Not one that only repeats what the system says, without a place."""
    return re.fullmatch(r"dbbackup: .+\n", said) is not None and not re.fullmatch(r"dbbackup: \[Errno [^']*\n", said)


@pytest.mark.slow
def test_a_kill_at_any_call_leaves_no_harm(scene: Scene) -> None:
    struck, problems = [], []
    for ended in scene.saboteur.every(scene.run, "SIGKILL"):
        struck.append(ended.last_call)
        assert ended.code == -9
        problems += scene.problems(ended) + scene.problems_with_the_next_run(ended)
    assert not problems, "\n".join(problems)
    assert_every_stage(struck)
    assert any(call.startswith("rename ") for call in struck)


def test_what_is_published_is_durable(scene: Scene) -> None:
    ended = scene.saboteur.run(scene.run)
    assert ended.code == 0
    assert scene.missing_syncs(ended) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "for_ever", "step"),
    [("EIO", False, 1), ("EIO", True, 5), ("ENOSPC", False, 1), ("ENOSPC", True, 1)],
    ids=["EIO once", "EIO for ever", "ENOSPC once", "ENOSPC for ever"],
)
def test_a_failing_disk_at_any_call_is_told_in_one_sentence(
    scene: Scene, action: str, for_ever: bool, step: int
) -> None:
    """Before and after a backup is made it may do no harm: an earlier one is unreadable, no state is written."""

    def codes(ended: Ended) -> tuple[int, ...]:
        return (1,) if has_begun(ended) and not is_published(ended) else (0, 1)

    struck, problems = strike_everywhere(scene, action, codes, for_ever=for_ever, step=step)
    assert not problems, "\n".join(problems)
    if step == 1:
        assert_every_stage(struck)


@pytest.mark.slow
def test_sigterm_at_any_call_ends_the_run_cleanly(scene: Scene) -> None:
    """Unless it comes too late, when the backup is as good as published."""
    struck, problems = strike_everywhere(scene, "SIGTERM", lambda ended: (0,) if is_published(ended) else (130,))
    assert not problems, "\n".join(problems)
    assert_every_stage(struck)


@pytest.mark.parametrize("process", [1, 2, 3, 4], ids=["copy", "second copy", "walk", "second walk"])
def test_a_killed_child_fails_the_run(scene: Scene, process: int) -> None:
    struck, problems = strike_everywhere(scene, "SIGKILL", lambda _: (1,), process=process)
    assert not problems, "\n".join(problems)
    assert struck


@pytest.mark.parametrize("process", [1, 2, 3, 4])
def test_a_killed_guard_of_a_child_does_not_matter(scene: Scene, process: int) -> None:
    struck, problems = strike_everywhere(scene, "SIGKILL", lambda _: (0,), process=process + GUARD)
    assert not problems, "\n".join(problems)
    assert struck


def strike_everywhere(
    scene: Scene, action: str, codes: Callable[[Ended], tuple[int, ...]], **options: Any
) -> tuple[list[str], list[str]]:
    """Where the fault struck, and what was wrong then. A run has to end with one of the codes."""
    struck: list[str] = []
    problems: list[str] = []
    for ended in scene.saboteur.every(scene.run, action, **options):
        struck.append(ended.last_call)
        problems += scene.unclean(ended, *codes(ended)) + scene.problems(ended)
        if len(struck) % 10 == 0:
            problems += scene.problems_with_the_next_run(ended)
        scene.forget_new()
    return struck, problems


def has_begun(ended: Ended) -> bool:
    """Whether the fault struck when there was a partial backup."""
    return any(".partial-" in call for call in until_the_fault(ended))


def is_published(ended: Ended) -> bool:
    """Whether the fault struck when the backup had its name, or was about to get it."""
    return any(call.startswith("rename ") for call in until_the_fault(ended))


def until_the_fault(ended: Ended) -> list[str]:
    return ended.calls[0][: ended.calls[0].index(ended.last_call) + 1]


def assert_every_stage(calls: list[str]) -> None:
    """The calls reach from the lock to the last note in the state."""
    stages = ["/.lock", "graph/data.mdb.zst", "vector/data.mdb.zst", "include.tar.zst", ".scratch-", "manifest.json"]
    for stage in [*stages, "SHA256SUMS", "fsync", "state.json"]:
        assert any(stage in call for call in calls), f"nothing struck at {stage}"
