# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the backup of a Chroma server's persist directory with copies that everybody makes.

usage: bench/chroma.py [--records 27000] [--rounds 5] [--gigabytes 4]

A real server has the directory open all the time. The contestants take turns while nobody writes, from a warm cache,
for only the first of them could bear a writer; then the first alone takes its turns under constant writes. What cp
makes stands for what `docker cp` makes; tar | zstd does less than a backup, neither hashes nor proofs, and so tells how
fast any can be that compresses. On a shared machine the ratios are the figures to trust, not the seconds.
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
import time
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
PACKED = WORK / "packed.tar.zst"
JOB, UNREAD = "vectors", "vectors-unread"
COLLECTIONS = (
    application.Collection("documents", dimension=384, document_size=1000),
    application.Collection("images", dimension=1536, document_size=60, tenant="archive", database="old"),
)
LOCK_SECONDS, ROUNDS_OF_THE_LARGE = 2, 3
WARM_UP_SECONDS, QUIET_SECONDS = 10, 30


def dbbackup(command: str, *arguments: str, job: str = JOB) -> list[str]:
    program = [sys.executable, str(ROOT / "bin/dbbackup.py"), command, job]
    return [*program, "--jobs-directory", str(JOBS), "--quiet", *arguments]


def write_jobs() -> None:
    """A job with nothing but defaults: compressed, validated, opened, read back; and one without the latter two."""
    JOBS.mkdir(parents=True)
    for name, verify in ((JOB, True), (UNREAD, False)):
        job = {"type": "chroma", "path": str(DIRECTORY), "repository": str(REPOSITORY), "verify": verify}
        (JOBS / f"{name}.json").write_text(json.dumps(job))


def last_manifest() -> dict[str, Any]:
    return json.loads(max((REPOSITORY / JOB).glob("[0-9]*/manifest.json")).read_text())


def prepare(records: int) -> None:
    remove(WORK)
    DIRECTORY.mkdir(parents=True)
    write_jobs()
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
    directory, copy, by_sqlite, packed = (shlex.quote(str(path)) for path in (DIRECTORY, COPY, COPY_BY_SQLITE, PACKED))
    files = f"{by_sqlite}/chroma.sqlite3"
    sqlite_line = (
        f"mkdir {by_sqlite} && sqlite3 {directory}/chroma.sqlite3 '.backup {files}' && "
        f"find {directory} -mindepth 1 -type d -exec cp -a -t {by_sqlite} {{}} + && sync -f {by_sqlite}"
    )
    ours = Contestant("dbbackup run, compressed, validated, read back", dbbackup("run"), REPOSITORY / JOB, rounds)
    unread = Contestant("dbbackup run, not read back", dbbackup("run", job=UNREAD), REPOSITORY / UNREAD, rounds)
    zstd_line = f"tar -C {directory} -c . | zstd -q -3 -T2 -o {packed} && sync {packed}"
    zstd = Contestant("tar | zstd -3 -T2 and sync", shell(zstd_line), PACKED, rounds)
    plain = Contestant("cp -a and sync", shell(f"cp -a {directory} {copy} && sync -f {copy}"), COPY, rounds)
    peer = Contestant("sqlite3 .backup, cp -a and sync", shell(sqlite_line), COPY_BY_SQLITE, rounds)
    contestants = [ours, unread, plain, peer, zstd]
    compete(contestants)
    report("Backup of a server at rest", contestants)
    print()
    for one, other, text in (
        (zstd, plain, "tar | zstd / cp -a and sync, which no backup that compresses can fall below"),
        (unread, zstd, "dbbackup run, not read back / tar | zstd"),
        (ours, zstd, "dbbackup run / tar | zstd"),
        (ours, peer, "dbbackup run / sqlite3 .backup and cp"),
        (unread, plain, "dbbackup run, not read back / cp -a and sync"),
    ):
        print(f"  time of {text:<81}{ratio(one, other):>6.2f}")
    return limit("time of dbbackup run / cp -a and sync", ratio(ours, plain), 2)


def bench_locks(rounds: int) -> list[float]:
    """Seconds for which each backup kept writers waiting, under constant writes."""
    ours = Contestant("dbbackup run, compressed, validated, read back", dbbackup("run"), REPOSITORY / JOB, rounds)
    locks = []
    with application.Server(DIRECTORY, CHROMA) as server:
        # One that has just begun takes its time for the first writes.
        write_for(server.url, WARM_UP_SECONDS)
        quiet = write_for(server.url, QUIET_SECONDS)
        with application.Writer(server.url, LEDGER) as writer:
            for _unused in range(rounds):
                ours.run()
                locks.append(last_manifest()["source"]["lock_ms"] / 1000)
        summary = writer.summary
    report("Backup under constant writes", [ours])
    print(f"\n  writers locked out: median {statistics.median(locks) * 1000:.0f} ms, most {max(locks) * 1000:.0f} ms")
    for when, one in (("without a backup", quiet), ("during backups", summary)):
        print(f"  {when:<17} the longest of {one.operations:>6} writes took {one.longest_write_ms:>6.0f} ms", end=", ")
        print(f"of {one.reads:>6} searches {one.longest_read_ms:>6.0f} ms")
    return locks


def write_for(url: str, seconds: float) -> application.Summary:
    with application.Writer(url, LEDGER) as writer:
        time.sleep(seconds)
    return writer.summary


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
    for path in (COPY, COPY_BY_SQLITE, PACKED, RESTORED):
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
