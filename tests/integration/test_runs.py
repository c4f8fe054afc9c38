# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as a timer starts them, their hooks, the health of jobs, and restores by a person at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.tools import (
    Command,
    content_of,
    eventually,
    make_environment,
    process,
    snapshot,
)


def appending(file: Path, *more: str) -> list[str]:
    """A program that writes down how it was called, and the variables that it was told."""
    code = (
        "import os, sys, json; known = {k: v for k, v in os.environ.items() if k.startswith('DB_BACKUP_')};"
        "open(sys.argv[1], 'a').write(json.dumps([sys.argv[2:], known]) + '\\n'); print('told')"
    )
    return [sys.executable, "-c", code, str(file), *more]


def calls(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def kg(tmp_path: Path) -> Path:
    make_environment(tmp_path / "kg")
    return tmp_path / "kg"


class TestHooks:
    def test_before_and_after(self, dbbackup: Command, kg: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        hostile = "$(touch nothing); 'x' \"y\" \n *"
        dbbackup.job(
            "kg", kg, before=[appending(log, "first", hostile), appending(log, "second")], after=[appending(log)]
        )
        told = dbbackup.ok("run", "kg")
        first, second, after = calls(log)
        assert (first[0], second[0], after[0]) == (["first", hostile], ["second"], [])
        common = {"DB_BACKUP_JOB": "kg", "DB_BACKUP_REPOSITORY": str(dbbackup.repository)}
        assert first[1] == {"DB_BACKUP_EVENT": "before", **common}
        made = {"DB_BACKUP_ID": told["backup"]["id"], "DB_BACKUP_PATH": told["path"], "DB_BACKUP_CHANGED": "true"}
        assert after[1] == {"DB_BACKUP_EVENT": "after", **common, **made}

    def test_one_before_that_fails_makes_no_backup(self, dbbackup: Command, kg: Path) -> None:
        dbbackup.job("kg", kg, before=[[sys.executable, "-c", "raise SystemExit(3)"]])
        told = dbbackup.fails(1, "run", "kg")
        assert told == f"before[0] ({sys.executable}) ended with exit code 3"
        assert dbbackup.backups("kg") == []
        assert dbbackup.state("kg")["last_attempt"]["status"] == "failed"
        assert dbbackup.state("kg")["last_attempt"]["message"] == told

    def test_one_after_that_fails_leaves_the_backup(self, dbbackup: Command, kg: Path) -> None:
        dbbackup.job("kg", kg, after=[["/no/such/program"]])
        told = dbbackup.fails(1, "run", "kg", "--unattended")
        (made,) = dbbackup.backups("kg")
        assert (
            told
            == f"backup {made} is there, but after[0] (/no/such/program) cannot be started: No such file or directory"
        )

    def test_one_that_hangs_is_killed_with_what_it_started(self, dbbackup: Command, kg: Path, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        dbbackup.job("kg", kg, before=[["sh", "-c", f"sleep 600 & echo $! > {pid}; wait"]], hook_timeout=1)
        assert "did not end within 1 seconds and was killed" in dbbackup.fails(1, "run", "kg")
        eventually(lambda: not is_alive(int(pid.read_text())), "what the hook started has ended")

    def test_an_interrupted_run_ends_its_hook(self, dbbackup: Command, kg: Path, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        dbbackup.job("kg", kg, before=[["sh", "-c", f"echo $$ > {pid}; sleep 600"]])
        with process(dbbackup.arguments("run", "kg"), stderr=subprocess.PIPE) as running:
            eventually(lambda: pid.exists() and pid.read_text().strip(), "the hook runs")
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 130
        eventually(lambda: not is_alive(int(pid.read_text())), "the hook has ended")

    def test_alert(self, dbbackup: Command, kg: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        dbbackup.job("kg", kg, on_failure=[appending(log)])
        (kg / "data.mdb").rename(kg / "gone")
        told = dbbackup.fails(1, "run", "kg")
        assert calls(log) == []
        assert dbbackup.ok("alert", "kg") == {"called": True}
        known = calls(log)[0][1]
        assert (known["DB_BACKUP_WHAT"], known["DB_BACKUP_STATUS"]) == ("run", "failed")
        assert known["DB_BACKUP_MESSAGE"] == told

        (kg / "gone").rename(kg / "data.mdb")
        dbbackup.ok("run", "kg")
        dbbackup.ok("drill", "kg")
        dbbackup.ok("alert", "kg", "--drill")
        assert calls(log)[1][1]["DB_BACKUP_WHAT"] == "drill"


class TestUnattended:
    def test_tries_again(self, dbbackup: Command, kg: Path, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        once = f"if test -e {mark}; then exit 0; fi; touch {mark}; exit 1"
        dbbackup.job("kg", kg, before=[["sh", "-c", once]], attempts=2, attempt_pause=0)
        done = dbbackup("run", "kg", "--unattended")
        assert done.code == 0, done
        assert "kg: before[0] (sh) ended with exit code 1; 1 more to try, the next in 0 s" in done.stderr
        assert len(dbbackup.backups("kg")) == 1

    def test_gives_up(self, dbbackup: Command, kg: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        dbbackup.job("kg", kg, before=[appending(log), ["false"]], attempts=3, attempt_pause=0)
        assert dbbackup("run", "kg", "--unattended").code == 1
        assert len(calls(log)) == 3
        assert dbbackup("run", "kg").code == 1
        assert len(calls(log)) == 4

    def test_a_mistake_is_not_tried_again(self, dbbackup: Command, tmp_path: Path) -> None:
        started = time.monotonic()
        dbbackup.job("kg", tmp_path, attempts=5, attempt_pause=3600, method="warm")
        dbbackup.fails(2, "run", "kg", "--unattended")
        assert time.monotonic() - started < 60


class TestHealth:
    def test_what_was_never_run_is_late_after_its_time(self, dbbackup: Command, kg: Path) -> None:
        file = dbbackup.job("kg", kg, max_age_hours=2)
        assert dbbackup.seen("kg")[0]["health"]["status"] == "new"
        os.utime(file, (time.time() - 10800, time.time() - 10800))
        assert dbbackup("status").code == 1
        assert dbbackup.seen("kg")[0]["health"]["status"] == "late"
        dbbackup.ok("run", "kg")
        assert dbbackup.seen("kg")[0]["health"] == {"good": True, "status": "ok", "reason": None}

    def test_late(self, dbbackup: Command, kg: Path) -> None:
        dbbackup.job("kg", kg)
        dbbackup.ok("run", "kg")
        dbbackup.job("kg", kg, max_age_hours=1e-9)
        done = dbbackup("status")
        assert (done.code, done.stderr) == (1, "dbbackup: not well: kg (late)\n")
        assert re.search(r"kg: late: the last good run was \d+ s ago, 1e-09 h are allowed", done.stdout)

    def test_failed_and_faulty(self, dbbackup: Command, kg: Path) -> None:
        dbbackup.job("kg", kg)
        dbbackup.ok("run", "kg")
        dbbackup.job("kg", "/no/such/place")
        dbbackup.fails(1, "run", "kg")
        assert dbbackup.seen("kg")[0]["health"]["status"] == "failed"
        dbbackup.job("kg", kg, surprise=1)
        dbbackup.job("sound", kg)
        dbbackup.ok("run", "sound")
        found = {job["name"]: job["health"]["status"] for job in dbbackup.seen()}
        assert found == {"kg": "faulty", "sound": "ok"}

    def test_a_skipped_run_is_a_good_one(self, dbbackup: Command, kg: Path) -> None:
        dbbackup.job("kg", kg, skip_unchanged=True, max_age_hours=1)
        dbbackup.ok("run", "kg")
        state = dbbackup.state("kg")
        long_ago = "2020-01-01T00:00:00.000Z"
        state["last_success"]["at"] = state["last_attempt"]["at"] = long_ago
        (dbbackup.repository / "kg/state.json").write_text(json.dumps(state))
        assert dbbackup.seen("kg")[0]["health"]["status"] == "late"
        assert dbbackup.ok("run", "kg")["skipped"]
        assert dbbackup.seen("kg")[0]["health"]["status"] == "ok"

    def test_proven_restorable_is_the_last_that_passed(self, dbbackup: Command, kg: Path) -> None:
        dbbackup.job("kg", kg)
        dbbackup.ok("run", "kg")
        (first,) = dbbackup.backups("kg")
        dbbackup.ok("drill", "kg")
        dbbackup.ok("run", "kg")
        second = dbbackup.backups("kg")[-1]
        stored = dbbackup.repository / "kg" / second / "data.mdb.zst"
        stored.write_bytes(stored.read_bytes()[:-1])
        dbbackup.fails(1, "drill", "kg")
        (job,) = dbbackup.seen("kg")
        assert job["health"]["status"] == "drill failed"
        assert (job["proven_restorable"]["id"], job["last_drill"]["id"]) == (first, second)
        assert job["trend"] == 0

    def test_a_proof_outlives_its_backup(self, dbbackup: Command, kg: Path) -> None:
        dbbackup.job("kg", kg, keep_last=1)
        drilled = dbbackup.ok("run", "kg")["backup"]["id"]
        dbbackup.ok("drill", "kg")
        dbbackup.ok("run", "kg", "--force")
        assert drilled not in dbbackup.backups("kg")
        (job,) = dbbackup.ok("list", "kg")
        assert job["proven_restorable"]["id"] == drilled


class TestAt:
    def test_the_newest_of_that_time_or_before(self, dbbackup: Command, kg: Path, tmp_path: Path) -> None:
        dbbackup.job("kg", kg)
        for _turn in range(3):
            dbbackup.ok("run", "kg", "--force")
        ids = dbbackup.backups("kg")
        for given in (
            ids[1],
            f"{ids[1][:4]}-{ids[1][4:6]}-{ids[1][6:8]}T{ids[1][9:11]}:{ids[1][11:13]}:{ids[1][13:15]}Z",
        ):
            told = dbbackup.ok("restore", "kg", "--at", given, "--dest", tmp_path / given, "--dry-run")
            assert told["backup"]["id"] == ids[1]
            assert told["warnings"] == []
        assert "has no good backup of 2020-01-01T" in dbbackup.fails(10, "restore", "kg", "--at", "2020-01-01 12:00")
        assert "--at: 'noon' is not a time" in dbbackup.fails(2, "restore", "kg", "--at", "noon")


class Terminal:
    """The command at a terminal: what it shows, and what a person types."""

    def __init__(self, dbbackup: Command, *arguments: str) -> None:
        self.shown = ""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            command = dbbackup.arguments(*arguments)
            os.execv(command[0], command)

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 60
        while words not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self._read()

    def type(self, words: str) -> None:
        self.shown = ""
        os.write(self.descriptor, f"{words}\n".encode())

    def end(self) -> int:
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self.descriptor], [], [], 60)[0]:
            return False
        try:
            data = os.read(self.descriptor, 4096)
        except OSError:
            # The other end is closed.
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


class TestTerminal:
    @pytest.fixture
    def ids(self, dbbackup: Command, kg: Path) -> list[str]:
        dbbackup.job("kg", kg)
        for _turn in range(2):
            dbbackup.ok("run", "kg", "--force")
        return dbbackup.backups("kg")

    def test_lists_shows_asks_restores_and_tells_how_to_undo(self, dbbackup: Command, kg: Path, ids: list[str]) -> None:
        content = content_of(kg)
        (kg / "data.mdb").unlink()
        make_environment(kg, salt="later")
        terminal = Terminal(dbbackup, "restore", "kg", "--ask")
        terminal.wait_for("Which one?")
        assert terminal.shown.index(ids[1]) < terminal.shown.index(ids[0])
        terminal.type("2")
        terminal.wait_for("Restore it now? [y/N] ")
        assert f"would restore backup {ids[0]} to {kg}" in terminal.shown
        assert "kept aside: " in terminal.shown
        terminal.type("y")
        assert terminal.end() == 0
        assert f"restored backup {ids[0]}" in terminal.shown
        assert content_of(kg) == content
        lines = [line.strip() for line in terminal.shown.splitlines()]
        undo = [line for line in lines[lines.index("to undo it:") + 1 :] if line]
        subprocess.run(" && ".join(undo), shell=True, check=True)
        assert content_of(kg) == make_environment(kg.with_name("same"), salt="later")

    @pytest.mark.parametrize("answer", ["", "n", "what"])
    def test_no_changes_nothing(self, dbbackup: Command, kg: Path, ids: list[str], answer: str) -> None:
        assert ids
        make_environment(kg, salt="later")
        before = snapshot(kg)
        terminal = Terminal(dbbackup, "restore", "kg", "--latest")
        terminal.wait_for("Restore it now?")
        terminal.type(answer)
        assert terminal.end() == 130
        assert "nothing was restored" in terminal.shown
        assert snapshot(kg) == before

    def test_what_is_in_place_needs_no_question(self, dbbackup: Command, ids: list[str]) -> None:
        terminal = Terminal(dbbackup, "restore", "kg", "--id", ids[1])
        assert terminal.end() == 0
        assert "already holds backup" in terminal.shown

    def test_nobody_to_ask(self, dbbackup: Command, kg: Path, ids: list[str]) -> None:
        assert ids
        make_environment(kg, salt="later")
        before = snapshot(kg)
        assert "say --yes" in dbbackup.fails(2, "restore", "kg", "--ask")
        assert "would restore" in dbbackup("restore", "kg", "--ask", "--dry-run").stdout
        assert snapshot(kg) == before


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
