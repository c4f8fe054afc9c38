# SPDX-License-Identifier: GPL-3.0-or-later
"""A kill, a signal or a failing disk at any step of a prune: each backup is whole or gone, and the next prune works."""

from __future__ import annotations

import datetime
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.inform import inform
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.verify import verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository import state
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.fixtures.many_backups import make_backups
from ansible_collections.embedded.db_backup.tests.saboteur import Ended, Fault, Saboteur
from ansible_collections.embedded.db_backup.tests.tools import Command, bytes_of

DAY = datetime.timedelta(days=1)
KEPT, REMOVED = 2, 3
OWN_FILES = {".lock", "state.json", ".state.json.new", ".catalogue.json", ".catalogue.json.new"}


class Scene:
    """A job with five backups and a catalogue, of which a prune removes three; set up anew for every run."""

    def __init__(self, memory: Path, saboteur: Saboteur) -> None:
        self.template, self.saboteur = memory / "template", saboteur
        self.command = Command(memory / "repository", memory / "jobs.d")
        moments = [times.now() - DAY * number for number in range(1, KEPT + REMOVED + 1)]
        self.ids = make_backups(self.template, "kg", moments)
        job = Repository(self.template).job("kg")
        job.keep_catalogue()
        with job.changed_state() as changed:
            changed.verified = {name: state.Verification(times.to_rfc3339(times.now()), "passed") for name in self.ids}
        self.prune = self.command.arguments("prune", "kg", "--keep-last", str(KEPT))[2:]
        self.content = {name: bytes_of(self.template / "kg" / name) for name in self.ids}
        self.begin()

    @property
    def job(self) -> Path:
        return self.command.repository / "kg"

    def begin(self) -> None:
        """All backups are there again."""
        shutil.rmtree(self.command.repository, ignore_errors=True)
        shutil.copytree(self.template, self.command.repository)

    def every(self, action: str, for_ever: bool = False, step: int = 1) -> Iterator[Ended]:
        """Strike at the first call, at the second, and so on, each time with all backups there."""
        call = 1
        while (ended := self.saboteur.run(self.prune, Fault(action, call, for_ever=for_ever))).struck:
            yield ended
            self.begin()
            call += step

    def problems(self, ended: Ended) -> list[str]:
        """What does not hold after a prune that a fault struck."""
        found = []
        left = self.command.backups("kg")
        if not set(self.ids[:KEPT]) <= set(left):
            found.append(f"a backup that was to stay is gone; there are {left}")
        found += [f"{name} is not whole" for name in left if bytes_of(self.job / name) != self.content[name]]
        found += [f"{name} does not verify" for name in left if not self.is_good(name)]
        if [backup.id for backup in inform(Repository(self.command.repository))[0].backups] != left[::-1]:
            found.append("the list is wrong")
        return [f"{ended.last_call}: {problem}" for problem in found]

    def problems_with_the_next_prune(self, ended: Ended) -> list[str]:
        """The next prune ends what was begun."""
        again = self.saboteur.run(self.prune)
        found = [] if again.code == 0 else [f"the next prune: {again.code} {again.stderr}"]
        left = {entry.name for entry in self.job.iterdir()}
        if left - OWN_FILES != set(self.ids[:KEPT]):
            found.append(f"the next prune left {sorted(left)}")
        return [f"{ended.last_call}: {problem}" for problem in found]

    def is_good(self, name: str) -> bool:
        try:
            return verify(Repository(self.command.repository).job("kg"), name, remember=False).opened
        except BackupError:
            return False


@pytest.fixture
def scene(memory: Path, saboteur: Saboteur) -> Scene:
    return Scene(memory, saboteur)


def test_the_removal_is_durable_before_anything_is_lost(scene: Scene) -> None:
    """After the rename the directory of the job is synced, and only then is the backup taken apart."""
    ended = scene.saboteur.run(scene.prune)
    assert ended.code == 0
    (calls,) = ended.calls
    for name in scene.ids[KEPT:]:
        renamed = calls.index(f"rename {scene.job}/{name}")
        synced = calls.index(f"fsync {scene.job}", renamed)
        removed = next(number for number, call in enumerate(calls) if call.startswith("unlink") and number > renamed)
        assert renamed < synced < removed
    assert not any(call.startswith(("unlink", "rmdir")) and name in call for call in calls for name in scene.ids[:KEPT])


@pytest.mark.slow
def test_a_kill_at_any_call(scene: Scene) -> None:
    struck, problems = [], []
    for ended in scene.every("SIGKILL"):
        struck.append(ended.last_call)
        assert ended.code == -9
        problems += scene.problems(ended) + scene.problems_with_the_next_prune(ended)
    assert not problems, "\n".join(problems)
    assert len(struck) > 50
    for stage in ("/.lock", "manifest.json", "rename ", "fsync", "unlink", "rmdir", "state.json", ".catalogue.json"):
        assert any(stage in call for call in struck), f"nothing struck at {stage}"


@pytest.mark.slow
def test_a_signal_at_any_call_leaves_nothing_half_removed(scene: Scene) -> None:
    problems = []
    for ended in scene.every("SIGTERM"):
        problems += scene.problems(ended)
        if ended.code != 130 or "interrupted by SIGTERM" not in ended.stderr:
            problems.append(f"{ended.last_call}: ended with {ended.code} {ended.stderr!r}")
        problems += [f"{ended.last_call}: left {path.name}" for path in scene.job.glob(".removing-*")]
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
def test_a_failing_disk_at_any_call(scene: Scene, action: str, for_ever: bool) -> None:
    """Told in one sentence, unless the failure harms nobody, as that of the catalogue."""
    problems = []
    for ended in scene.every(action, for_ever=for_ever):
        problems += scene.problems(ended) + scene.problems_with_the_next_prune(ended)
        told = re.fullmatch(r"dbbackup: .+\n", ended.stderr)
        if not (ended.code == 0 and not ended.stderr) and not (ended.code == 1 and told):
            problems.append(f"{ended.last_call}: ended with {ended.code} {ended.stderr!r}")
    assert not problems, "\n".join(problems)
