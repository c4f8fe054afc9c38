# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the backup of a Chroma server's persist directory with copies that everybody makes.

usage: bench/chroma.py [--records 27000] [--rounds 5] [--gigabytes 4]

A real server has the directory open all the time. The contestants take turns while nobody writes, from a warm cache,
for only the first of them could bear a writer; then the first alone takes its turns under constant writes. What cp
makes stands for what `docker cp` makes. On a shared machine the ratios are the figures to trust, not the seconds.
Needs .venv-chroma, as `make bench` provides it, and sqlite3.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sqlite3
import statistics
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from contest import Contestant, compete, limit, ratio, remove, report, shell, size_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/fixtures"))
import chroma_application as application  # noqa: E402 - it is found only now

CHROMA = ROOT / ".venv-chroma/bin/chroma"
WORK = ROOT / ".cache/bench-chroma"
DIRECTORY, LEDGER = WORK / "persist", WORK / "ledger"
REPOSITORY, JOBS = WORK / "backups", WORK / "jobs"
COPY, COPY_BY_SQLITE, RESTORED = WORK / "copy", WORK / "copy-by-sqlite", WORK / "restored"
JOB = "vectors"
COLLECTIONS = (
    application.Collection("documents", dimension=384, document_size=1000),
    application.Collection("images", dimension=1536, document_size=60, tenant="archive", database="old"),
)
LOCK_SECONDS, ROUNDS_OF_THE_LARGE = 2, 3


def dbbackup(command: str, *arguments: str) -> list[str]:
    program = [sys.executable, str(ROOT / "bin/dbbackup.py"), command, JOB]
    return [*program, "--jobs-directory", str(JOBS), "--quiet", *arguments]


def write_job() -> None:
    """A job with nothing but defaults: compressed, validated, read back."""
    JOBS.mkdir(parents=True)
    job = {"type": "chroma", "path": str(DIRECTORY), "repository": str(REPOSITORY)}
    (JOBS / f"{JOB}.json").write_text(json.dumps(job))


def last_manifest() -> dict[str, Any]:
    return json.loads(max((REPOSITORY / JOB).glob("[0-9]*/manifest.json")).read_text())


def prepare(records: int) -> None:
    remove(WORK)
    DIRECTORY.mkdir(parents=True)
    write_job()
    with application.Server(DIRECTORY, CHROMA) as server:
        application.seed(server.url, LEDGER, records, COLLECTIONS)


def grow(gigabytes: float) -> None:
    """Add a table of texts, since Chroma itself would take very long to index as many documents."""
    text = application.prose(1 << 20)
    with closing(sqlite3.connect(DIRECTORY / "chroma.sqlite3")) as database:
        database.execute("CREATE TABLE texts_of_the_benchmark (text TEXT)")
        while size_of(DIRECTORY / "chroma.sqlite3") < gigabytes * 1e9:
            rows = ((text[start:] + text[:start],) for start in range(0, 64 << 10, 1 << 10))
            database.executemany("INSERT INTO texts_of_the_benchmark VALUES (?)", rows)
            database.commit()


def bench_backup(rounds: int) -> bool:
    directory, copy, by_sqlite = (shlex.quote(str(path)) for path in (DIRECTORY, COPY, COPY_BY_SQLITE))
    files = f"{by_sqlite}/chroma.sqlite3"
    sqlite_line = (
        f"mkdir {by_sqlite} && sqlite3 {directory}/chroma.sqlite3 '.backup {files}' && "
        f"find {directory} -mindepth 1 -type d -exec cp -a -t {by_sqlite} {{}} + && sync -f {by_sqlite}"
    )
    ours = Contestant("dbbackup run, compressed, validated, read back", dbbackup("run"), REPOSITORY / JOB, rounds)
    plain = Contestant("cp -a and sync", shell(f"cp -a {directory} {copy} && sync -f {copy}"), COPY, rounds)
    peer = Contestant("sqlite3 .backup, cp -a and sync", shell(sqlite_line), COPY_BY_SQLITE, rounds)
    compete([ours, plain, peer])
    report("Backup of a server at rest", [ours, plain, peer])
    print()
    print(f"  time of dbbackup run / sqlite3 .backup and cp {ratio(ours, peer):>21.2f}")
    return limit("time of dbbackup run / cp -a and sync", ratio(ours, plain), 2)


def bench_locks(rounds: int) -> list[float]:
    """Seconds for which each backup kept writers waiting, under constant writes."""
    ours = Contestant("dbbackup run, compressed, validated, read back", dbbackup("run"), REPOSITORY / JOB, rounds)
    locks = []
    with application.Server(DIRECTORY, CHROMA) as server:
        with application.Writer(server.url, LEDGER) as writer:
            for _unused in range(rounds):
                ours.run()
                locks.append(last_manifest()["source"]["lock_ms"] / 1000)
        summary = writer.summary
    report("Backup under constant writes", [ours])
    print(f"\n  writers locked out: median {statistics.median(locks) * 1000:.0f} ms, most {max(locks) * 1000:.0f} ms")
    print(f"  the longest of {summary.operations} writes took {summary.longest_write_ms:.0f} ms", end=", ")
    print(f"of {summary.reads} searches {summary.longest_read_ms:.0f} ms")
    return locks


def judge_restored() -> bool:
    """Restore the last backup, and let the application judge it with a server."""
    manifest = last_manifest()
    subprocess.run(dbbackup("restore", "--dest", str(RESTORED)), check=True, stdout=subprocess.DEVNULL)
    start, stop = (datetime.fromisoformat(manifest[f"timestamp_{name}"]) for name in ("start", "stop"))
    window = int(start.timestamp() * 1e9), int((stop.timestamp() + 0.001) * 1e9)
    judgement = application.judge(RESTORED, LEDGER, CHROMA, *window)
    print(f"\nThe restored copy is {'good' if judgement.good else 'BAD'}: {judgement.sentence}")
    return judgement.good


def bench(records: int, rounds: int, gigabytes: float) -> bool:
    prepare(records)
    print(f"persist directory of {size_of(DIRECTORY) / 1e6:,.0f} MB, {rounds} rounds, {os.cpu_count()} processors")
    with application.Server(DIRECTORY, CHROMA):
        held = [bench_backup(rounds)]
    bench_locks(rounds)
    held.append(judge_restored())
    for path in (COPY, COPY_BY_SQLITE, RESTORED):
        remove(path)
    grow(gigabytes)
    size = (DIRECTORY / "chroma.sqlite3").stat().st_size
    print(f"\nchroma.sqlite3 of {size / 1e6:,.0f} MB, most of it a table of texts that was added to it with SQLite")
    locks = bench_locks(min(rounds, ROUNDS_OF_THE_LARGE))
    held.append(limit("seconds for which writers were locked out, at most", max(locks), LOCK_SECONDS))
    return all(held)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the backup of a Chroma server with cp and sqlite3.")
    parser.add_argument("--records", type=int, default=27000, help="in each of the two collections")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=4, help="size of chroma.sqlite3 in the second part")
    given = parser.parse_args()
    try:
        return 0 if bench(given.records, given.rounds, given.gigabytes) else 1
    finally:
        remove(WORK)


if __name__ == "__main__":
    sys.exit(main())
