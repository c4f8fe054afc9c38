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
import subprocess
import sys
from pathlib import Path

from contest import Contestant, compete, limit, ratio, remove, report, shell, size_of

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache/bench"
ENVIRONMENT, REPOSITORY, JOBS = WORK / "kg", WORK / "backups", WORK / "jobs"
COPY, ARCHIVE = WORK / "copy.mdb.zst", WORK / "kg.tar.gz"
RESTORED, UNPACKED = WORK / "restored", WORK / "unpacked"
PROVEN, PLAIN = "proven", "plain"
MEMORY_LIMIT = 64e6


def application(*arguments: str) -> None:
    """Call the test application as a program, because its import of lmdb would find this very file."""
    subprocess.run([sys.executable, str(ROOT / "tests/fixtures/lmdb_application.py"), *arguments], check=True)


def dbbackup(command: str, job: str, *arguments: str) -> list[str]:
    program = [sys.executable, str(ROOT / "bin/dbbackup.py"), command, job]
    return [*program, "--jobs-directory", str(JOBS), "--quiet", *arguments]


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
