# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the ways in which an export comes from an nREPL server with what the server itself needs to write it.

usage: bench/nrepl.py [--megabytes 100] [--rounds 3]

The contestants take turns at one real server on a JVM, which has the data in its memory. The exports are compressed,
read back, compared and scanned as EDN; spit is the function of the application alone, called over nREPL. On a shared
machine the ratios are the figures to trust, not the seconds. Needs clojure and libnrepl-clojure of Debian. Ends with 1
when a limit was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from contest import Contestant, compete, limit, ratio, remove, report

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / ".ansible/collections"), str(ROOT / "tests/fixtures")]
import nrepl_servers  # noqa: E402 - it is found only now

WORK = ROOT / ".cache/bench-nrepl"
REPOSITORY, JOBS, SERVER, SPAT = WORK / "backups", WORK / "jobs", WORK / "server", WORK / "spat.edn"
MEMORY = "3g"
MEMORY_LIMIT = 64e6
# One entity has a little more than 240 bytes.
APPLICATION = """
(do
  (ns my.app)
  (def data
    (mapv (fn [n]
            {:db/id n :name (str "entity number " n) :score (* n 1.5) :tags #{:some :tags}
             :text (apply str (repeat 4 (str "a text \\"of\\" entity " n " 😀 with \\\\ and more ")))})
          (range <entities>)))
  (defn export! [path] (spit path (pr-str data)))
  (in-ns 'user)
  nil)
"""


def dbbackup(command: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "bin/dbbackup.py"), command, *arguments, "--quiet"]


def write_job(server: nrepl_servers.Server, name: str, **options: str) -> None:
    job = {"type": "nrepl", "repository": str(REPOSITORY), "directory": str(WORK), **server.options, **options}
    (JOBS / f"{name}.json").write_text(json.dumps(job))


def contestant(server: nrepl_servers.Server, title: str, rounds: int, **options: str) -> Contestant:
    """A backup with these options."""
    name = title.replace(" ", "-")
    write_job(server, name, **options)
    command = dbbackup("run", name, "--jobs-directory", str(JOBS))
    return Contestant(f"dbbackup run, {title}", command, REPOSITORY / name, rounds)


def bench(server: nrepl_servers.Server, rounds: int) -> bool:
    call = f'(my.app/export! "{SPAT}")'
    spit = Contestant("spit on the server", dbbackup("nrepl-eval", call, *place(server)), SPAT, rounds)
    pull = contestant(server, "pull of data", rounds, expression="my.app/data", way="pull")
    pulled = contestant(server, "pull of a function", rounds, function="my.app/export!", way="pull")
    file = contestant(server, "file of a function", rounds, function="my.app/export!", way="file")
    value = contestant(server, "value of data", rounds, expression="my.app/data", way="value")
    compete([spit, pull, pulled, file, value])
    size = SPAT.stat().st_size
    report(f"{size / 1e6:,.0f} MB of EDN", [spit, pull, pulled, file, value])
    print()
    for one in (pulled, file, value):
        print(f"  time of {one.name + ' / spit':<50}{ratio(one, spit):>8.2f}")
    streaming = max(one.memory for one in (pull, pulled, file))
    held = [
        limit("time of dbbackup run, pull of data / spit", ratio(pull, spit), 2),
        limit("anonymous memory of pull and file in 64 MB", streaming / MEMORY_LIMIT, 1),
    ]
    return all(held)


def place(server: nrepl_servers.Server) -> list[str]:
    return ["--port", str(server.address.port), "--timeout", "900"]


def main() -> int:
    """Returns the exit code: 1 when a limit was missed."""
    parser = argparse.ArgumentParser(description="Compare the ways of exports over nREPL with spit.")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    remove(WORK)
    JOBS.mkdir(parents=True)
    SERVER.mkdir()
    try:
        with nrepl_servers.jvm(SERVER, memory=MEMORY, fast_start=False) as server:
            server.evaluate(APPLICATION.replace("<entities>", str(given.megabytes * 4000)))
            print(f"{given.rounds} rounds, {os.cpu_count()} processors")
            return 0 if bench(server, given.rounds) else 1
    except nrepl_servers.MissingError as missing:
        raise SystemExit(str(missing)) from None
    finally:
        remove(WORK)


if __name__ == "__main__":
    sys.exit(main())
