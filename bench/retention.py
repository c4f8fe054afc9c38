# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes to list and to judge thousands of backups, beside restic with as many as it makes in a while.

usage: bench/retention.py [--backups 10000] [--rounds 5] [--seconds 60]

The contestants take turns, so that a noisy minute meets all of them. The limits are for processor time, which is what a
quiet machine takes, as nothing waits for a disk or for another thread; what passed on this one is told beside it. The
peer has far fewer snapshots, so times are told for each backup as well; much of them is the start of either program.
Needs restic, and goes on without. Ends with 1 when a limit was missed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache/bench-retention"
REPOSITORY, JOBS, PEER = WORK / "backups", WORK / "jobs", WORK / "restic"
JOB = "kg"
KEEP = {"keep_hourly": 24, "keep_daily": 7, "keep_weekly": 5, "keep_monthly": 12, "keep_within_daily": "1m"}
OPTIONS = [part for name, value in KEEP.items() for part in (f"--{name.replace('_', '-')}", str(value))]
LIMIT = 1.0


class Took(NamedTuple):
    """Seconds: of processors, and on the clock."""

    processor: float
    clock: float


@dataclass
class Contestant:
    """Something that is done again and again, to so many backups, and what it took in every round."""

    name: str
    work: Callable[[], Took]
    backups: int
    took: list[Took] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the processor time."""
        return statistics.median(took.processor for took in self.took)

    @property
    def per_backup(self) -> float:
        return self.median / self.backups

    def line(self) -> str:
        clock = [took.clock for took in self.took]
        spread = f"{min(clock):.2f} to {max(clock):.2f} s"
        return (
            f"  {self.name:<48}{self.median:>8.2f} s  {spread:<18}{self.backups:>8,}{self.per_backup * 1e6:>9,.0f} µs"
        )


def measured(work: Callable[[], object]) -> Callable[[], Took]:
    """The work with what it takes, here and in the processes that it waits for."""

    def run() -> Took:
        before, started = os.times(), time.monotonic()
        work()
        passed, after = time.monotonic() - started, os.times()
        return Took(sum(after[:4]) - sum(before[:4]), passed)

    return run


def command(*arguments: str) -> Callable[[], Took]:
    """A command, which must succeed."""
    environ = {**os.environ, "RESTIC_PASSWORD": "none"}
    return measured(lambda: subprocess.run(arguments, stdout=subprocess.DEVNULL, env=environ, check=True))


def dbbackup(*arguments: str) -> Callable[[], Took]:
    return command(sys.executable, str(ROOT / "bin/dbbackup.py"), *arguments, "--jobs-directory", str(JOBS))


def restic(*arguments: str) -> Callable[[], Took]:
    return command("restic", "--quiet", "--no-cache", "--repo", str(PEER), *arguments)


def make_backups(count: int) -> None:
    """One an hour, with the engine's own manifests, by a program: its import of lmdb would find a file beside us."""
    module = "ansible_collections.embedded.db_backup.tests.fixtures.many_backups"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / ".ansible/collections")}
    subprocess.run(
        [sys.executable, "-m", module, str(REPOSITORY), JOB, "--count", str(count)], env=environ, cwd=ROOT, check=True
    )
    JOBS.mkdir()
    job = {"type": "lmdb", "path": "/srv/kg", "repository": str(REPOSITORY), **KEEP}
    (JOBS / f"{JOB}.json").write_text(json.dumps(job))


def make_snapshots(seconds: float) -> int:
    """As many as restic makes in this time, an hour apart; returns how many."""
    (WORK / "file").write_bytes(b"a small file")
    restic("init")()
    now, end, count = datetime.datetime.now(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        moment = now - datetime.timedelta(hours=count)
        restic("backup", "--time", f"{moment:%Y-%m-%d %H:%M:%S}", str(WORK / "file"))()
        count += 1
    return count


def decide_alone() -> Callable[[], Took]:
    """Only the decision, once everything is known."""
    sys.path.insert(0, str(ROOT / "plugins/module_utils"))
    prune = importlib.import_module("engine.operations.prune")
    repository = importlib.import_module("engine.repository.repository")
    directory = repository.Repository(REPOSITORY).job(JOB)
    candidates = prune.candidates_of(directory, directory.catalogue(), directory.state())
    policy = prune.Policy(**KEEP)
    return measured(lambda: prune.decide(candidates, policy, prune.times.now()))


def without_catalogue(work: Callable[[], Took]) -> Callable[[], Took]:
    catalogue = REPOSITORY / JOB / ".catalogue.json"

    def run() -> Took:
        aside = catalogue.rename(WORK / "catalogue")
        try:
            return work()
        finally:
            aside.rename(catalogue)

    return run


def compete(contestants: list[Contestant], rounds: int) -> None:
    for _unused in range(rounds):
        for contestant in contestants:
            contestant.took.append(contestant.work())


def report(contestants: list[Contestant]) -> None:
    print(f"\n{'':<50}{'processor':>10}  {'on the clock':<18}{'backups':>8}{'each':>12}")
    for contestant in contestants:
        print(contestant.line())


def limit(contestant: Contestant) -> bool:
    """Print whether a limit held, and return it."""
    held = contestant.median <= LIMIT
    text = f"processor time of {contestant.name}"
    print(f"  {text:<48}{contestant.median:>8.2f} s  at most {LIMIT:g} s  {'held' if held else 'MISSED'}")
    return held


def bench(backups: int, rounds: int, seconds: float) -> bool:
    listing, decision = dbbackup("list", JOB), dbbackup("prune", JOB, "--dry-run")
    # A prune keeps the catalogue, so that no list has to.
    dbbackup("prune", JOB, "--keep-last", "-1")()
    ours = [
        Contestant("dbbackup list", listing, backups),
        Contestant("dbbackup prune --dry-run", decision, backups),
        Contestant("the decision alone", decide_alone(), backups),
        Contestant("dbbackup list, without the catalogue", without_catalogue(listing), backups),
    ]
    peers = []
    if shutil.which("restic"):
        count = make_snapshots(seconds)
        peers = [
            Contestant("restic snapshots", restic("snapshots"), count),
            Contestant("restic forget --dry-run", restic("forget", "--dry-run", *OPTIONS), count),
        ]
    else:
        print("restic is not here to compare with; install the package restic")
    compete([*ours, *peers], rounds)
    report([*ours, *peers])
    print()
    held = [limit(ours[0]), limit(ours[1])]
    for one, peer in zip(ours, peers, strict=False):
        print(f"  {one.name} / {peer.name}, for each backup: {one.per_backup / peer.per_backup:.4f}")
    return all(held)


def main() -> int:
    """Returns the exit code: 1 when a limit was missed."""
    parser = argparse.ArgumentParser(description="Measure how long it takes to list and judge thousands of backups.")
    parser.add_argument("--backups", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="how long restic may make snapshots")
    given = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    try:
        make_backups(given.backups)
        print(f"{given.backups:,} backups of one job, {given.rounds} rounds, {os.cpu_count()} processors")
        return 0 if bench(given.backups, given.rounds, given.seconds) else 1
    finally:
        shutil.rmtree(WORK)


if __name__ == "__main__":
    sys.exit(main())
