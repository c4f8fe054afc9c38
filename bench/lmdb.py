# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares backup and restore of an LMDB environment with the tools that everybody has.

usage: bench/lmdb.py [--megabytes 2300] [--rounds 3]

The contestants take turns on the same quiet environment, half of which is free pages, from a warm cache. On a shared
machine the ratios are the figures to trust, not the seconds. Needs mdb_copy, zstd and tar. Ends with 1 when a limit
was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache/bench"
ENVIRONMENT, REPOSITORY, JOBS = WORK / "kg", WORK / "backups", WORK / "jobs"
COPY, ARCHIVE = WORK / "copy.mdb.zst", WORK / "kg.tar.gz"
RESTORED, UNPACKED = WORK / "restored", WORK / "unpacked"
PROVEN, PLAIN = "proven", "plain"
SECONDS_BETWEEN_SAMPLES = 0.01
MEMORY_LIMIT = 64e6


@dataclass
class Contestant:
    """A command, the path it makes, and what it took: seconds in every round, the most anonymous memory in bytes."""

    name: str
    command: list[str]
    makes: Path
    rounds: int
    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    size: int = 0

    def run(self) -> None:
        """Measure one round. The memory is that of the command and its children together."""
        remove(self.makes)
        os.sync()
        started = time.monotonic()
        with subprocess.Popen(self.command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                self.memory = max(self.memory, anonymous_memory(process.pid))
                time.sleep(SECONDS_BETWEEN_SAMPLES)
        self.seconds.append(time.monotonic() - started)
        if process.returncode != 0:
            raise SystemExit(f"{self.name} failed: {shlex.join(self.command)}")
        self.size = size_of(self.makes)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def line(self) -> str:
        spread = f"{min(self.seconds):.2f} to {max(self.seconds):.2f} s"
        sizes = f"{self.size / 1e6:>8,.0f} MB{self.memory / 1e6:>6.0f} MB"
        return f"  {self.name:<48}{self.median:>8.2f} s  {spread:<18}{sizes}"


def anonymous_memory(pid: int) -> int:
    """Bytes of anonymous memory of a process and all below it; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)
    return own + sum(anonymous_memory(int(child)) for child in children)


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def application(*arguments: str) -> None:
    """Call the test application as a program, because its import of lmdb would find this very file."""
    subprocess.run([sys.executable, str(ROOT / "tests/fixtures/lmdb_application.py"), *arguments], check=True)


def dbbackup(command: str, job: str, *arguments: str) -> list[str]:
    program = [sys.executable, str(ROOT / "bin/dbbackup.py"), command, job]
    return [*program, "--jobs-directory", str(JOBS), "--quiet", *arguments]


def shell(line: str) -> list[str]:
    return ["/bin/sh", "-c", line]


def write_job(name: str, verify: bool) -> None:
    job = {
        "type": "lmdb",
        "path": str(ENVIRONMENT),
        "repository": str(REPOSITORY),
        "compact": True,
        "compression": "zstd",
        "compression_level": 1,
        "verify": verify,
    }
    (JOBS / f"{name}.json").write_text(json.dumps(job))


def prepare(megabytes: int) -> None:
    remove(WORK)
    JOBS.mkdir(parents=True)
    write_job(PLAIN, verify=False)
    write_job(PROVEN, verify=True)
    application("seed", str(ENVIRONMENT), "--megabytes", str(megabytes))


def compete(contestants: list[Contestant]) -> None:
    """Let them take turns, so that a noisy minute meets all of them."""
    for turn in range(max(contestant.rounds for contestant in contestants)):
        for contestant in contestants:
            if turn < contestant.rounds:
                contestant.run()


def ratio(ours: Contestant, peer: Contestant) -> float:
    """The median of the rounds' ratios: the two had the same noise when they ran one after the other."""
    return statistics.median(one / other for one, other in zip(ours.seconds, peer.seconds, strict=False))


def report(title: str, contestants: list[Contestant]) -> None:
    print(f"\n{title:<50}{'median':>10}  {'spread':<18}{'made':>11}{'memory':>9}")
    for contestant in contestants:
        print(contestant.line())


def limit(text: str, value: float, most: float) -> bool:
    """Print whether a limit held, and return it."""
    print(f"  {text:<58}{value:>8.2f}  at most {most:<6g}{'held' if value <= most else 'MISSED'}")
    return value <= most


def bench_backup(rounds: int) -> bool:
    environment, copy = shlex.quote(str(ENVIRONMENT)), shlex.quote(str(COPY))
    peer_line = f"mdb_copy -c {environment} | zstd -1 -T2 -q > {copy} && sync {copy}"
    ours = Contestant("dbbackup run", dbbackup("run", PLAIN), REPOSITORY / PLAIN, rounds)
    proven = Contestant("dbbackup run, read back and opened", dbbackup("run", PROVEN), REPOSITORY / PROVEN, rounds)
    peer = Contestant("mdb_copy -c | zstd -1 -T2 and sync", shell(peer_line), COPY, rounds)
    tar = Contestant("tar czf", ["tar", "czf", str(ARCHIVE), "-C", str(ENVIRONMENT), "."], ARCHIVE, 1)
    compete([ours, peer, proven, tar])
    report("Backup, compact, zstd level 1", [ours, peer, proven, tar])
    print()
    held = [
        limit("time of dbbackup run / mdb_copy | zstd", ratio(ours, peer), 1.05),
        limit("time of dbbackup run / tar czf", ratio(ours, tar), 0.1),
        limit("anonymous memory of dbbackup run in 64 MB", max(ours.memory, proven.memory) / MEMORY_LIMIT, 1),
    ]
    return all(held)


def bench_restore(rounds: int) -> bool:
    copy, unpacked = shlex.quote(str(COPY)), shlex.quote(str(UNPACKED))
    ours = Contestant("dbbackup restore", dbbackup("restore", PROVEN, "--dest", str(RESTORED)), RESTORED, rounds)
    peer = Contestant(
        "zstd -d and sync", shell(f"zstd -d -q {copy} -o {unpacked} && sync {unpacked}"), UNPACKED, rounds
    )
    compete([ours, peer])
    report("Restore", [ours, peer])
    print()
    held = [
        limit("time of dbbackup restore / zstd -d", ratio(ours, peer), 1.1),
        limit("anonymous memory of dbbackup restore in 64 MB", ours.memory / MEMORY_LIMIT, 1),
    ]
    return all(held)


def main() -> int:
    """Returns the exit code: 1 when a limit was missed."""
    parser = argparse.ArgumentParser(description="Compare backup and restore of LMDB with mdb_copy, zstd and tar.")
    parser.add_argument("--megabytes", type=int, default=2300, help="size of the environment, half of it free pages")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    try:
        prepare(given.megabytes)
        print(
            f"environment of {size_of(ENVIRONMENT) / 1e6:,.0f} MB, {given.rounds} rounds, {os.cpu_count()} processors"
        )
        held = [bench_backup(given.rounds), bench_restore(given.rounds)]
        print("\nThe restored copy")
        application("judge", str(RESTORED))
        return 0 if all(held) else 1
    finally:
        remove(WORK)


if __name__ == "__main__":
    sys.exit(main())
