# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures for how long an application stands still while its LMDB environment is copied by freezing it.

usage: bench/capture.py [--megabytes 1000] [--rounds 5]

The environment is in the page cache, its application commits without pause. Ends with 1 when the limit was missed.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from pathlib import Path

from contest import limit, remove

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache/bench"
LONGEST_PAUSE_MS = 400


def pauses(megabytes: int, rounds: int) -> list[int]:
    """For how many milliseconds the application stood still in each round."""
    # In place of this directory, where an lmdb is that is a benchmark.
    sys.path[:1] = [str(ROOT / "plugins/module_utils"), str(ROOT / "tests/fixtures")]
    application = importlib.import_module("lmdb_application")
    choice = importlib.import_module("engine.capture.choice")
    environment, found = WORK / "environment", []
    application.seed(environment, megabytes)
    with application.Writer(environment, WORK / "ledger") as writer:
        for number in range(rounds):
            scratch = WORK / f"scratch-{number}"
            scratch.mkdir()
            acknowledged = writer.acknowledged()
            with choice.Halting().way("freeze").hold(environment, ["."], scratch, lambda: None) as held:
                judgement = application.judge(held.root, at_least=acknowledged)
            if not judgement.good:
                raise SystemExit(f"the copy is not good: {judgement.sentence}")
            found.append(held.paused_ms)
            remove(scratch)
    return found


def main() -> int:
    """Returns the exit code: 1 when the limit was missed."""
    parser = argparse.ArgumentParser(description="Measure the pause of an application that is frozen.")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    remove(WORK)
    WORK.mkdir(parents=True)
    try:
        found = pauses(given.megabytes, given.rounds)
        print(f"{given.megabytes} MB, paused for {', '.join(map(str, found))} ms")
        return 0 if limit("median pause in ms", statistics.median(found), LONGEST_PAUSE_MS) else 1
    finally:
        remove(WORK)


if __name__ == "__main__":
    sys.exit(main())
