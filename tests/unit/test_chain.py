# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that build on others: what is missing or damaged below them counts, and nothing below them is removed."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import (
    CorruptError,
    LockedError,
    NotFoundError,
    UsageError,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import inform, protect
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.choice import Point, choose
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.prune import prune
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository import manifest as manifests
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.manifest import Manifest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.published import PublishedBackup
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import (
    JobDirectory,
    Repository,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import Policy
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.state import Verification
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.lines import HEAD, LinesWhile
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.stages import Bytes, Stage
from ansible_collections.embedded.db_backup.tests.fixtures.many_backups import make_backups
from hypothesis import given
from hypothesis import strategies as st

CHAIN = 4


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two chains, each of a full backup and three increments, an hour between two of them."""
    repository = tmp_path_factory.mktemp("template")
    hours = [times.now() - datetime.timedelta(hours=number) for number in range(2 * CHAIN, 0, -1)]
    make_backups(repository, "kg", hours, CHAIN)
    return repository


@pytest.fixture
def job(template: Path, tmp_path: Path) -> JobDirectory:
    """A copy of it."""
    shutil.copytree(template, tmp_path / "repository")
    return Repository(tmp_path / "repository").job("kg")


def ids(job: JobDirectory) -> list[str]:
    """Oldest first."""
    return [backup.id for backup in job.backups()][::-1]


def problems(job: JobDirectory) -> dict[str, str]:
    """What the list of backups tells of those that are damaged."""
    (told,) = inform.inform(Repository(job.path.parent), "kg")
    return {backup.id: str(backup.problem) for backup in told.backups if backup.status == "damaged"}


def rewrite(job: JobDirectory, backup_id: str, change: Callable[[Manifest], Manifest]) -> None:
    """Give a backup another manifest, with the checksums that belong to it."""
    path = job.path / backup_id
    changed = change(PublishedBackup(path).manifest())
    (path / manifests.FILE_NAME).write_bytes(changed.to_bytes())
    (path / manifests.CHECKSUMS_NAME).write_bytes(manifests.checksums(changed, changed.to_bytes()))


def note_failure(job: JobDirectory, backup_id: str) -> None:
    with job.changed_state() as state:
        state.verified[backup_id] = Verification(times.to_rfc3339(times.now()), "failed", "a byte differs")


def test_the_newest_increment_is_the_newest_good_backup(job: JobDirectory) -> None:
    chain = job.latest_good_chain()
    assert chain
    assert chain.ids == ids(job)[CHAIN:]
    assert problems(job) == {}


def test_list_tells_types(job: JobDirectory) -> None:
    (told,) = inform.inform(Repository(job.path.parent), "kg")
    assert [backup.type for backup in told.backups] == (["incr"] * (CHAIN - 1) + ["full"]) * 2


@pytest.fixture
def newer(job: JobDirectory) -> list[str]:
    """The ids of the newer chain, the full one first."""
    return ids(job)[CHAIN:]


def shorten(path: Path) -> None:
    next(path.glob("*/*.zst")).write_bytes(b"short")


def tear(path: Path) -> None:
    (path / manifests.FILE_NAME).write_bytes(b"{")


@pytest.mark.parametrize(
    ("damage", "told"),
    [(shutil.rmtree, "which is not there"), (shorten, "has 5 bytes"), (tear, "is not JSON")],
    ids=["missing", "of another size", "with a torn manifest"],
)
def test_what_is_wrong_with_one_is_wrong_with_all_that_build_on_it(
    job: JobDirectory, newer: list[str], damage: Callable[[Path], Any], told: str
) -> None:
    full, broken, *above = newer
    damage(job.path / broken)
    assert job.backup().id == full
    found = problems(job)
    assert set(found) - {broken} == set(above)
    for one in above:
        assert broken in found[one]
        with pytest.raises(CorruptError) as caught:
            job.chain(one).check_sizes()
        for part in (one, broken, told):
            assert part in str(caught.value)


def test_without_a_full_one_the_older_chain_is_the_good_one(job: JobDirectory, newer: list[str]) -> None:
    shutil.rmtree(job.path / newer[0])
    assert job.backup().id == ids(job)[CHAIN - 1]
    assert set(problems(job)) == set(newer[1:])


def test_a_failed_verification_counts_for_all_above(job: JobDirectory, newer: list[str]) -> None:
    note_failure(job, newer[1])
    assert job.backup().id == newer[0]
    found = problems(job)
    assert found == {newer[1]: "a byte differs", **dict.fromkeys(newer[2:], f"it builds on {newer[1]}: a byte differs")}


def with_position(manifest: Manifest, **changes: Any) -> Manifest:
    assert manifest.source.position
    position = dataclasses.replace(manifest.source.position, **changes)
    return dataclasses.replace(manifest, source=dataclasses.replace(manifest.source, position=position))


def with_references(manifest: Manifest) -> Manifest:
    first, *rest = manifest.backup.reference
    kind = dataclasses.replace(manifest.backup, reference=[times.to_id(times.from_id(first) - HOUR), *rest])
    return dataclasses.replace(manifest, backup=kind)


HOUR = datetime.timedelta(hours=1)
CHANGES: dict[str, Callable[[Manifest], Manifest]] = {
    "later": lambda manifest: with_position(manifest, start=7 << 20, stop=8 << 20),
    "earlier": lambda manifest: with_position(manifest, start=0),
    "backwards": lambda manifest: with_position(manifest, stop=0),
    "other database": lambda manifest: with_position(manifest, fingerprint="another"),
    "other unit": lambda manifest: with_position(manifest, kind="another"),
    "other path": lambda manifest: dataclasses.replace(
        manifest, source=dataclasses.replace(manifest.source, path="/elsewhere")
    ),
    "other engine": lambda manifest: dataclasses.replace(
        manifest, engine=dataclasses.replace(manifest.engine, name="sqlite")
    ),
    "full": lambda manifest: dataclasses.replace(
        manifest, backup=dataclasses.replace(manifest.backup, type="full", prior=None, reference=[])
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_continues_the_one_before(
    job: JobDirectory, newer: list[str], change: Callable[[Manifest], Manifest]
) -> None:
    rewrite(job, newer[2], change)
    with pytest.raises(CorruptError, match=f"backup {newer[2]} of job kg does not continue|{newer[3]}.*not continue"):
        job.chain(newer[3])


def test_no_file_takes_the_place_of_another(job: JobDirectory, newer: list[str]) -> None:
    def change(manifest: Manifest) -> Manifest:
        (record,) = manifest.files
        return dataclasses.replace(manifest, files=[dataclasses.replace(record, path=f"{newer[1]}/data.mdb")])

    rewrite(job, newer[2], change)
    with pytest.raises(CorruptError, match="has a file in the place of one that it builds on"):
        job.chain(newer[3])


class TestPrune:
    def test_what_a_kept_one_builds_on_stays(self, job: JobDirectory, newer: list[str]) -> None:
        prune(job, Policy(keep_last=1))
        assert ids(job) == newer
        assert problems(job) == {}

    def test_the_last_good_one_keeps_all_below(self, job: JobDirectory, newer: list[str]) -> None:
        """The newest two are damaged, so it is one in the middle."""
        for one in newer[2:]:
            shorten(job.path / one)
        prune(job, Policy(keep_within="1h"))
        assert set(newer[:2]) <= set(ids(job))

    def test_protection_is_one_of_the_chain(self, job: JobDirectory, newer: list[str]) -> None:
        older = ids(job)[:CHAIN]
        protect.set_protection(job, older[2], wanted=True, reason="audit")
        plan = prune(job, Policy(keep_last=1))
        assert ids(job) == [*older[:3], *newer]
        reasons = {decision.id: decision.reasons for decision in plan.keep}
        assert f"{older[2]} builds on it" in reasons[older[0]]

    def test_what_a_reader_builds_on_stays(self, job: JobDirectory, newer: list[str]) -> None:
        """A restore of an increment has begun; what it builds on is not its own, but it needs it."""
        older = ids(job)[:CHAIN]
        with PublishedBackup(job.path / older[2]).in_use():
            plan = prune(job, Policy(keep_last=1))
        assert ids(job) == [*older[:3], *newer]
        assert any(f"which builds on {older[0]}, stays" in warning for warning in plan.warnings)
        prune(job, Policy(keep_last=1))
        assert ids(job) == newer

    def test_a_reader_holds_all_of_them(self, job: JobDirectory) -> None:
        chain = job.chain()
        with chain.in_use():
            for link in chain.links:
                with pytest.raises(LockedError):
                    job.remove(link.backup)
        for link in reversed(chain.links):
            job.remove(link.backup)
        with pytest.raises(NotFoundError, match=r"has no backup .* any more"), chain.in_use():
            pass


class TestChoice:
    """LMDB tells the number of the last transaction: the same of all full copies here, one more of each increment."""

    @pytest.fixture
    def first(self, job: JobDirectory, newer: list[str]) -> int:
        """The position of the full ones."""
        position = job.chain(newer[0]).manifest.source.position
        assert position
        return position.stop

    def test_a_position_is_of_the_newest_backup_that_holds_it(
        self, job: JobDirectory, newer: list[str], first: int
    ) -> None:
        for number, one in enumerate(newer):
            choice = choose(job, Point(position=first + number))
            assert (choice.chain.ids, choice.position) == (newer[: number + 1], first + number)
            assert [part.link.backup.id for part in choice.parts.values()] == newer[: number + 1]
            assert choice.manifest.id == one

    def test_with_an_id_it_is_of_its_chain(self, job: JobDirectory, first: int) -> None:
        older = ids(job)[:CHAIN]
        assert choose(job, Point(older[3], position=first + 1)).chain.ids == older[:2]
        with pytest.raises(NotFoundError, match=f"holds position {first + 3}; they hold {first} to {first + 2}"):
            choose(job, Point(older[2], position=first + 3))

    def test_beyond_them_the_range_is_told(self, job: JobDirectory, first: int) -> None:
        told = f"no good backup of job kg holds position 7; they hold {first} to {first + 3}, {first} to {first + 3}"
        with pytest.raises(NotFoundError, match=told):
            choose(job, Point(position=7))

    def test_before_all_the_oldest_is_told(self, job: JobDirectory) -> None:
        moment = times.from_id(ids(job)[0]) - HOUR
        with pytest.raises(NotFoundError, match=f"or before; the oldest one is {ids(job)[0]}"):
            choose(job, Point(at=moment))

    def test_a_damaged_one_is_passed_over(self, job: JobDirectory, newer: list[str], first: int) -> None:
        shorten(job.path / newer[2])
        assert choose(job, Point(position=first + 2)).chain.ids == ids(job)[:3]

    def test_time_is_enough(self, job: JobDirectory, newer: list[str]) -> None:
        for other in ({"id": newer[0]}, {"position": 7}):
            with pytest.raises(UsageError, match="at already tells which backup"):
                choose(job, Point(at=times.now(), **other))

    def test_the_time_of_a_full_one_is_its_own_where_nothing_continues_it(self, job: JobDirectory) -> None:
        fulls = ids(job)[::CHAIN]
        for one in set(ids(job)) - set(fulls):
            shutil.rmtree(job.path / one)
        assert choose(job, Point(at=times.now())).chain.ids == fulls[1:]
        assert choose(job, Point(at=times.from_id(fulls[1]))).chain.ids == fulls[1:]
        assert choose(job, Point(at=times.from_id(fulls[1]) - HOUR)).chain.ids == fulls[:1]


class Collector(Stage):
    """Keeps what comes."""

    def __init__(self) -> None:
        super().__init__(None)
        self.content = b""

    def write(self, data: Bytes) -> int:
        self.content += data
        return len(data)


LINES = st.lists(st.one_of(st.binary(max_size=9), st.integers(HEAD - 3, 2 * HEAD + 3).map(lambda size: b"x" * size)))


@given(LINES, st.integers(0, 8), st.lists(st.integers(1, HEAD + 9), min_size=1), st.booleans())
def test_lines_are_whole_however_they_come(lines: list[bytes], wanted: int, sizes: list[int], ended: bool) -> None:
    """Those before the first one that is not wanted, each judged once by its head."""
    lines = [line.replace(b"\n", b"") for line in lines]
    content = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    expected = [line + b"\n" for line in content.split(b"\n")]
    expected[-1] = expected[-1][:-1]
    expected = [line for line in expected if line]
    heads: list[bytes] = []

    def takes(head: bytes) -> bool:
        heads.append(head)
        return len(heads) <= wanted

    collector = Collector()
    stage = LinesWhile(collector, takes)
    start = 0
    while start < len(content):
        size = sizes[start % len(sizes)]
        stage.write(content[start : start + size])
        start += size
    stage.close()
    assert collector.content == b"".join(expected[:wanted])
    assert heads == [line[:HEAD] for line in expected[: wanted + 1]]
