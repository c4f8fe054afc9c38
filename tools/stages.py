"""Runs the sessions of noxfile.py and closes with a table of them; the arguments are nox's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / ".cache/stages.json"
OUTCOMES = {"success": "passed", "skipped": "skipped"}


def run_nox(arguments: list[str]) -> list[dict[str, Any]]:
    """Run the sessions and return what nox reports of each: none when it could not even start."""
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    nox = [sys.executable, "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), "--report", str(REPORT)]
    subprocess.run([*nox, *arguments], stdin=subprocess.DEVNULL, check=False)
    return json.loads(REPORT.read_text())["sessions"] if REPORT.exists() else []


def main(arguments: list[str]) -> int:
    sessions = run_nox(arguments)
    count: Counter[str] = Counter()
    print(f"\n{'stage':<14}{'result':<10}{'seconds':>8}  reason")
    for session in sessions:
        outcome = OUTCOMES.get(session["result"], "failed")
        reason = session["reason"] or ("see its output above" if outcome == "failed" else "")
        count[outcome] += 1
        print(f"{session['name']:<14}{outcome:<10}{session['duration']:>8.1f}  {reason}".rstrip())
    print(f"\nstages: {count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not sessions else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
