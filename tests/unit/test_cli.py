# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: what it understands, how it fails, what it prints."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import VERSION
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.terminal import ProgressBar
from ansible_collections.embedded.db_backup.tests.tools import DBBACKUP, Command, make_environment


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command, with an environment to back up."""
    make_environment(tmp_path / "environment")
    command = Command(tmp_path / "repository", tmp_path / "jobs.d")
    command.job("kg", tmp_path / "environment")
    return command


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "kg", "other"],
        ["run", "kg", "--surprise"],
        ["verify"],
        ["restore"],
        ["restore", "kg", "--mode", "rw-"],
        ["restore", "kg", "--mode", "888"],
        ["list", "kg", "--repository"],
    ],
    ids=" ".join,
)
def test_usage_errors_end_with_2(arguments: list[str]) -> None:
    run = subprocess.run([sys.executable, DBBACKUP, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("usage: dbbackup")
    assert "Traceback" not in run.stderr


def test_version_and_help_from_any_directory(tmp_path: Path) -> None:
    link = tmp_path / "dbbackup"
    link.symlink_to(DBBACKUP)
    for program in (DBBACKUP, link):
        run = subprocess.run(
            [sys.executable, program, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stdout) == (0, f"dbbackup {VERSION}\n"), run
    run = subprocess.run([sys.executable, DBBACKUP, "--help"], capture_output=True, text=True, check=False)
    assert all(f"\n    {name} " in run.stdout for name in ("run", "list", "status", "verify", "restore"))


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["run", "../kg"]),
        (2, ["run", "broken"]),
        (2, ["list", "KG"]),
        (10, ["run", "other"]),
        (10, ["verify", "kg"]),
        (10, ["restore", "kg"]),
        (10, ["list", "kg"]),
        (10, ["status", "other"]),
        (10, ["prune", "typo", "--simulate", "3", "--keep-last", "1"]),
        (2, ["prune", "--every", "6", "--keep-last", "1"]),
        (1, ["run", "gone"]),
    ],
    ids=str,
)
def test_exit_codes_and_one_sentence(command: Command, code: int, arguments: list[str]) -> None:
    command.job("gone", "/no/such/place")
    command.job("broken", "/no/such/place", compresion="zstd")
    sentence = command.fails(code, *arguments)
    told = command(*arguments, "--json")
    assert (told.code, told.json) == (code, {"error": sentence, "exit_code": code})


def test_what_a_person_reads(command: Command, tmp_path: Path) -> None:
    assert command("list").stdout == "no backups\n"
    assert "there was no run yet" not in command("status").stdout
    assert command("status").stdout.splitlines()[1].split()[:3] == ["kg", "new", "0"]
    assert "would back up" in command("run", "kg", "--dry-run").stdout
    done = command("run", "kg")
    (backup_id,) = command.backups("kg")
    assert f"kg: {command.repository}/kg/{backup_id}: " in done.stdout
    assert ", verified, " in done.stdout
    assert done.stderr == ""
    assert "verified, opened and read" in command("verify", "kg").stdout
    lines = command("list").stdout.splitlines()
    header = "JOB ID TYPE AGE SIZE STORED RATIO STATUS VERIFIED DRILLED PROTECTED KEPT BECAUSE"
    assert " ".join(lines[0].split()) == header
    assert lines[1].split()[:2] == ["kg", backup_id]
    assert "succeeded" in command("status", "kg").stdout
    told = command("restore", "kg", "--dest", tmp_path / "restored").stdout
    assert f"in place: {tmp_path}/restored/data.mdb" in told
    assert f"map size of at least {64 << 20} bytes for data.mdb" in told
    assert "already holds backup" in command("restore", "kg", "--dest", tmp_path / "restored").stdout
    command.job("kg", tmp_path / "environment", skip_unchanged=True)
    assert "kg: skipped: nothing was committed" in command("run", "kg").stdout
    command.job("kg", tmp_path / "environment", verify=False)
    assert ", not verified, " in command("run", "kg").stdout


@pytest.mark.parametrize("option", [{"min_age_hours": 20}, {"skip_unchanged": True}], ids=str)
def test_force_backs_up_whatever_the_file_says(command: Command, tmp_path: Path, option: dict[str, object]) -> None:
    command.job("kg", tmp_path / "environment", **option)
    assert command.ok("run", "kg")["changed"]
    assert not command.ok("run", "kg")["changed"]
    assert "would back up" in command("run", "kg", "--force", "--dry-run").stdout
    assert command.ok("run", "kg", "--force")["changed"]
    assert len(command.backups("kg")) == 2


def test_repository_of_the_job_file_unless_told(command: Command, tmp_path: Path) -> None:
    jobs = ["--jobs-directory", str(command.jobs)]
    program = [command.python, str(DBBACKUP)]
    for arguments in (
        ["run", "kg"],
        ["verify", "kg"],
        ["list", "kg"],
        ["restore", "kg", "--dest", str(tmp_path / "new")],
    ):
        run = subprocess.run([*program, *arguments, *jobs], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run
    assert len(command.backups("kg")) == 1
    command.repository = tmp_path / "another"
    command.ok("run", "kg")
    assert len(command.backups("kg")) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_of_any_kind_are_printed(command: Command, tmp_path: Path, encoding: str) -> None:
    make_environment(tmp_path / "Gr\u00fcn \u9898")
    (tmp_path / "not utf-8 \udcff").mkdir()
    (tmp_path / "environment").rename(tmp_path / "not utf-8 \udcff/environment")
    command.env = {"PYTHONIOENCODING": encoding}
    command.job("green", tmp_path / "Gr\u00fcn \u9898")
    command.job("bytes", tmp_path / "not utf-8 \udcff/environment")
    for name in ("green", "bytes"):
        command.ok("run", name)
        assert command("restore", name, "--dest", tmp_path / f"{name}-\u9898").code == 0
        assert command("restore", name).code == 0
        command.fails(1, "restore", name, "--dest", tmp_path)
    assert command("status").code == 0


@pytest.mark.parametrize("arguments", [["list"], ["status", "--json"], ["verify", "kg"]], ids=" ".join)
def test_output_that_nobody_takes(command: Command, arguments: list[str]) -> None:
    command.ok("run", "kg")
    with open("/dev/full", "wb") as full:
        run = subprocess.run(command.arguments(*arguments), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.endswith("cannot write to standard output: No space left on device\n")
    assert run.stderr.count("\n") == 1
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(command.arguments(*arguments), stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr


class TestProgress:
    def test_is_shown_on_a_terminal_and_wiped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        master, slave = pty.openpty()
        with os.fdopen(slave, "w") as terminal:
            monkeypatch.setattr("sys.stderr", terminal)
            with ProgressBar("verifying", quiet=False) as progress:
                progress(2048)
        shown = os.read(master, 1000).decode()
        # The terminal may hand over what was written at the end a moment later.
        while shown.count("\033[K") < 2:
            shown += os.read(master, 1000).decode()
        os.close(master)
        assert shown.startswith("\rverifying: 2.0 KiB")
        assert shown.endswith("\r\033[K")

    def test_is_not_shown_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        with ProgressBar("verifying", quiet=False) as progress:
            progress(2048)
        assert capsys.readouterr().err == ""


def test_what_all_commands_have_can_be_said_before_the_command(command: Command) -> None:
    places = ["--repository", str(command.repository), "--jobs-directory", str(command.jobs)]
    program = [command.python, str(DBBACKUP)]
    for before, after in (
        ([*places, "--json"], []),
        (["--json"], places),
        (places, ["--json"]),
        ([], [*places, "--json"]),
    ):
        arguments = [*program, *before, "run", "kg", *after]
        run = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run
        assert json.loads(run.stdout)["changed"]
    assert len(command.backups("kg")) == 4
    run = subprocess.run([*program, "--json", *places, "run", "other"], capture_output=True, text=True, check=False)
    assert (run.returncode, json.loads(run.stdout)["exit_code"]) == (10, 10)
    run = subprocess.run([*program, *places, "list"], capture_output=True, text=True, check=False)
    assert run.stdout.startswith("JOB")


def test_list_keeps_the_catalogue(command: Command) -> None:
    command.ok("run", "kg")
    known = command.catalogue("kg")
    (command.repository / "kg/.catalogue.json").unlink()
    assert command("list").code == 0
    assert command.catalogue("kg") == known


def test_json_of_status_is_whole(command: Command) -> None:
    command.ok("run", "kg")
    (job,) = command.ok("status")
    assert job["health"] == {"good": True, "status": "ok", "reason": None}
    told = {"health": job["health"], "schedule": "daily", "max_age_hours": None}
    assert job == command.ok("list", "kg")[0] | {"backups": job["backups"], **told}
    assert json.dumps(job)
