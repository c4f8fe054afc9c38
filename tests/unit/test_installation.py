# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role leaves on a host, part by part; with systemd it is tested in the scenarios."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils import engine
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError, UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.installation import calendar, units
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.environment import (
    Environment,
    Libraries,
    choose,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.files import Wanted
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.install import Installed, install
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.layout import Layout
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.manager import Manager
from ansible_collections.embedded.db_backup.plugins.module_utils.installation.runner import Runner, package
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT, bytes_of, eventually, make_environment

JOB: dict[str, Any] = {"name": "kg", "type": "lmdb", "path": "/srv/kg"}
needs_systemd_analyze = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze: apt-get install systemd"
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """As for a whole host, in a directory."""
    return Layout(
        is_system=True,
        jobs=tmp_path / "etc/jobs.d",
        library=tmp_path / "lib",
        programs=tmp_path / "bin",
        units=tmp_path / "units",
        crontab=tmp_path / "cron.d/db-backup",
        repository=tmp_path / "backups",
    )


@pytest.fixture
def without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Manager, "is_here", lambda _self: False)


def installed(layout: Layout, *options: dict[str, Any], predict: bool = False) -> Installed:
    return install(list(options), layout, sys.executable, None, libraries=Libraries(), predict=predict)


class TestCalendar:
    @needs_systemd_analyze
    @pytest.mark.parametrize(
        ("event", "hours"),
        [("daily", 24), ("*-*-* 02:30", 24), ("hourly", 1), ("Mon..Fri 02:30", 72), ("weekly", 168), ("monthly", 744)],
    )
    def test_longest_gap(self, event: str, hours: float) -> None:
        assert calendar.longest_gap(event) == hours

    @needs_systemd_analyze
    def test_an_event_that_comes_once(self) -> None:
        assert calendar.longest_gap("2199-01-01 00:00:00 UTC") is None

    @needs_systemd_analyze
    @pytest.mark.parametrize(
        ("event", "told"),
        [("noon-ish", "is not a calendar event of systemd"), ("2001-01-01", "never comes"), ("--help", "is not")],
    )
    def test_no_event(self, event: str, told: str) -> None:
        with pytest.raises(UsageError, match=told):
            calendar.longest_gap(event)

    @pytest.mark.parametrize(
        ("event", "line"),
        [
            ("daily", "0 0 * * *"),
            ("weekly", "0 0 * * 1"),
            ("02:30", "30 2 * * *"),
            ("*-*-* 02:30:00", "30 2 * * *"),
            ("Mon..Fri *-*-* 23:05", "5 23 * * Mon-Fri"),
            ("Sat,Sun 04:00", "0 4 * * Sat,Sun"),
            ("*-*-01 04:00", "0 4 1 * *"),
            ("*:0/15", "*/15 * * * *"),
            ("0/6:00", "0 */6 * * *"),
        ],
    )
    def test_to_cron(self, event: str, line: str) -> None:
        assert calendar.to_cron(event) == line
        calendar.check_cron("cron", line)

    @pytest.mark.parametrize("event", ["quarterly", "Mon *-05~03", "*-*-* 02:30:15", "daily UTC", "1..5:00"])
    def test_no_translation(self, event: str) -> None:
        with pytest.raises(UsageError, match="cannot be translated for cron"):
            calendar.to_cron(event)

    @pytest.mark.parametrize("line", ["* * * *", "0 0 * * * root rm", "0 0 * * *\n* * * * *", "$(x) * * * *"])
    def test_no_line_of_cron(self, line: str) -> None:
        with pytest.raises(UsageError, match="is not the times of a line of cron"):
            calendar.check_cron("cron", line)


class TestUnits:
    def text(self, layout: Layout, name: str, /, **options: Any) -> str:
        files = units.drop_ins(layout, jobs.parse({**JOB, "repository": "/backups", **options}))
        return {str(path.relative_to(layout.units)): text for path, text in files.items()}[f"{name}.d/job.conf"]

    def test_a_job_on_files_gets_its_files_only(self, layout: Layout, tmp_path: Path) -> None:
        (tmp_path / "a b").mkdir()
        text = self.text(layout, "db-backup@kg.service", path=str(tmp_path / "a b"))
        assert f'ReadWritePaths=-/backups "-{tmp_path}/a b"' in text
        assert f'RequiresMountsFor=/backups/kg "{tmp_path}/a b"' in text
        assert "PrivateNetwork" not in text
        drill = self.text(layout, "db-backup-drill@kg.service")
        assert "ReadWritePaths=-/backups\n" in drill

    def test_a_file_has_its_locks_beside_it(self, layout: Layout) -> None:
        options = {"type": "sqlite", "path": "/srv/app/one.sqlite3"}
        assert "-/srv/app\n" in self.text(layout, "db-backup@kg.service", **options)

    def test_below_tmp(self, layout: Layout) -> None:
        assert "PrivateTmp=no" in self.text(layout, "db-backup@kg.service", path="/tmp/kg/data")

    def test_a_container(self, layout: Layout) -> None:
        text = self.text(layout, "db-backup@kg.service", type="chroma", path=None, container="chroma")
        assert "After=docker.service" in text
        assert "PrivateNetwork=no\nIPAddressDeny=\n" in text
        assert "CAP_SYS_PTRACE" in text

    def test_programs_of_the_user_have_a_network(self, layout: Layout) -> None:
        assert "PrivateNetwork=no" in self.text(layout, "db-backup@kg.service", after=[["true"]])
        assert "PrivateNetwork" not in self.text(layout, "db-backup-drill@kg.service", after=[["true"]])

    def test_another_user_needs_no_rights(self, layout: Layout) -> None:
        text = self.text(layout, "db-backup@kg.service", unit={"user": "nobody"})
        assert "User=nobody\nCapabilityBoundingSet=\n" in text
        assert "User=nobody\n" in self.text(layout, "db-backup-alert@kg.service", unit={"user": "nobody"})

    def test_who_halts_an_application_has_it_go_on_in_the_end(self, layout: Layout) -> None:
        thaw = f"ExecStopPost={layout.command} --jobs-directory {layout.jobs} --quiet thaw %i\n"
        halting = {"method": "cold", "service": "kg"}
        assert thaw in self.text(layout, "db-backup@kg.service", **halting)
        assert thaw in self.text(layout, "db-backup@kg.service", freeze_timeout=5)
        assert thaw in self.text(layout, "db-backup@kg.service", type="chroma", path=None, container="chroma")
        assert thaw in self.text(dataclasses.replace(layout, is_system=False), "db-backup@kg.service", **halting)
        assert "ExecStopPost" not in self.text(layout, "db-backup@kg.service")
        assert "ExecStopPost" not in self.text(layout, "db-backup-drill@kg.service", **halting)

    def test_timers(self, layout: Layout) -> None:
        text = self.text(layout, "db-backup@kg.timer", schedule="Mon 02:30", unit={"random_delay": "1h"})
        assert text.endswith("[Timer]\nOnCalendar=Mon 02:30\nRandomizedDelaySec=1h\n")
        assert units.timer_units(jobs.parse({**JOB, "drill_schedule": None})) == ["db-backup@kg.timer"]

    @pytest.mark.parametrize(
        ("path", "word"),
        [("/a", "/a"), ("/a b", '"/a b"'), ("/%i", "/%%i"), ('/a"b', '"/a\\"b"'), ("/a\\b c", '"/a\\\\b c"')],
    )
    def test_paths(self, path: str, word: str) -> None:
        assert units.quoted(Path(path)) == word


class TestRunner:
    def test_the_package_is_whole(self) -> None:
        directory = CHECKOUT / "plugins/module_utils/engine"
        assert package() == {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.py")}

    def test_versions(self, layout: Layout) -> None:
        layout.library.mkdir()
        runner = Runner(layout, sys.executable)
        assert not runner.is_there()
        runner.install()
        assert runner.is_there()
        assert os.readlink(layout.current) == runner.version
        (layout.library / runner.version / "engine/cli.py").write_text("raise SystemExit(1)")
        assert not runner.is_there()
        runner.install()
        assert runner.is_there()
        assert sorted(path.name for path in layout.library.iterdir()) == sorted([runner.version, "current"])

    def test_who_runs_keeps_its_version(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        layout.library.mkdir()
        old = Runner(layout, sys.executable)
        old.install()
        monkeypatch.setattr(engine, "VERSION", "9.9.9")
        new = Runner(layout, sys.executable)
        running = os.open(layout.library / old.version, os.O_RDONLY)
        fcntl.flock(running, fcntl.LOCK_SH)
        new.install()
        assert new.remove_others() == []
        assert os.path.realpath(layout.current) == str(layout.library / new.version)
        os.close(running)
        assert new.remove_others() == [old.version]

    def test_another_python_that_is_none(self, layout: Layout) -> None:
        layout.library.mkdir()
        with pytest.raises(BackupError, match="/no/python cannot be started: No such file"):
            Runner(layout, "/no/python").install()
        assert list(layout.library.iterdir()) == []


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A directory with a library that nobody else has, as pip takes it."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    with zipfile.ZipFile(directory / "oddly-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("oddly.py", "")
        wheel.writestr("oddly-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: oddly\nVersion: 1.0\n")
        wheel.writestr("oddly-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("oddly-1.0.dist-info/RECORD", "")
    return directory


class TestLibraries:
    def environment(self, layout: Layout, *requirements: str, only_missing: bool = False) -> Environment | None:
        return choose(layout, sys.executable, Libraries(requirements, only_missing))

    def test_only_what_is_missing(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", sys._base_executable)
        assert self.environment(layout) is None
        assert self.environment(layout, "json==1.0", only_missing=True) is None
        both = self.environment(layout, "json==1.0", "oddly==1.0; python_version > '3'", only_missing=True)
        alone = self.environment(layout, "oddly==1.0; python_version > '3'", only_missing=True)
        assert both is not None
        assert alone is not None
        assert both.name == alone.name
        asked = self.environment(layout, "json==1.0", "oddly==1.0; python_version > '3'")
        assert asked is not None
        assert asked.name != alone.name

    @pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="needs to run in a virtual environment, as nox does")
    def test_in_a_virtual_environment_all_is_missing_with_one(self, layout: Layout) -> None:
        """Another one that is made of it does not see what it has."""
        missing = self.environment(layout, "json==1.0", "oddly==1.0", only_missing=True)
        all_of_it = self.environment(layout, "json==1.0", "oddly==1.0")
        assert missing is not None
        assert all_of_it is not None
        assert missing.name == all_of_it.name

    def test_programs_will_do(self, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys._base_executable} -S "$@"\n')
        python.chmod(0o755)
        libraries = Libraries(["lmdb==3.0.0"], only_missing=True)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert choose(layout, str(python), libraries) is not None
        shutil.copy("/bin/true", tmp_path / "mdb_copy")
        assert choose(layout, str(python), libraries) is None

    @pytest.mark.parametrize(
        ("libraries", "told"),
        [
            (Libraries(["--upgrade"]), "'--upgrade' does not begin with the name of one"),
            (Libraries(["/srv/odd.whl"]), "does not begin with the name"),
            (Libraries(["odd @ https://joe:secret@host/odd.whl"]), "an address for pip with a user or a password"),
            (Libraries(["odd"], arguments=["--index-url=https://token@host/"]), "an address for pip with a user"),
        ],
        ids=["option", "path", "requirement", "argument"],
    )
    def test_what_is_refused(self, layout: Layout, libraries: Libraries, told: str) -> None:
        with pytest.raises(UsageError, match=told) as refused:
            choose(layout, sys.executable, libraries)
        assert "secret" not in str(refused.value)
        assert "token" not in str(refused.value)

    def test_a_python_that_is_none(self, layout: Layout) -> None:
        for python, told in (
            ("/no/python", "cannot be started: No such file"),
            ("/bin/true", "does not answer as Python"),
        ):
            with pytest.raises(BackupError, match=told):
                choose(layout, python, Libraries(["oddly"]))

    @pytest.mark.usefixtures("without_systemd")
    def test_a_library_that_cannot_be_had(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        installed(layout)
        before = bytes_of(layout.library.parent)
        monkeypatch.setenv("PIP_RETRIES", "1")
        monkeypatch.setenv("PIP_INDEX_URL", "http://joe:secret@127.0.0.1:9/simple")
        told = r"\(oddly\) cannot be installed: .*connection broken by .* No matching .*; let the host reach an index"
        with pytest.raises(BackupError, match=told) as failed:
            install([], layout, sys.executable, None, libraries=Libraries(["oddly==1.0"]), predict=False)
        assert "secret" not in str(failed.value)
        assert bytes_of(layout.library.parent) == before

    @pytest.mark.usefixtures("without_systemd")
    def test_an_environment_from_its_beginning_to_its_end(self, layout: Layout, wheels: Path, tmp_path: Path) -> None:
        database, gate, begun = tmp_path / "one.sqlite3", tmp_path / "gate", tmp_path / "begun"
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE records (content)")
        os.mkfifo(gate)
        before = [["/bin/touch", str(begun)], ["/bin/cat", str(gate)]]
        job = {"name": "one", "type": "sqlite", "path": str(database), "before": before}

        def given(*requirements: str, predict: bool = False) -> Installed:
            libraries = Libraries(requirements, arguments=["--no-index", "--find-links", str(wheels)])
            return install([job], layout, sys.executable, None, libraries=libraries, predict=predict)

        predicted = given("oddly==1.0", predict=True)
        assert predicted.changed
        assert not layout.library.exists()
        environment = Path(str(predicted.environment))
        # It was begun and not finished.
        (environment / "bin").mkdir(parents=True)
        assert given("oddly==1.0").environment == str(environment)
        python = layout.command.read_text().splitlines()[0].removeprefix("#!")
        assert python == f"{environment}/bin/python"
        assert subprocess.run([python, "-c", "import oddly"], check=False).returncode == 0
        assert all(path.stat().st_mode & 0o004 for path in environment.rglob("*"))
        assert (given("oddly==1.0").changed, given("oddly==1.0", predict=True).changed) == (False, False)

        with open(os.open(gate, os.O_RDWR), "wb") as held:
            run = subprocess.Popen([layout.command, "--jobs-directory", layout.jobs, "run", "one"])
            eventually(begun.exists, "the run begins", 120)
            assert given().environment is None
            assert layout.command.read_text().splitlines()[0] == f"#!{sys.executable}"
            assert not given().changed
            assert environment.exists(), "a run is using it"
            held.close()
            assert run.wait() == 0
        given()
        assert not environment.exists()


def test_files_are_as_wanted(tmp_path: Path) -> None:
    wanted = Wanted(tmp_path / "file", "one\n", 0o640)
    assert not wanted.is_there()
    wanted.write()
    assert wanted.is_there()
    for spoil in (
        lambda: wanted.path.write_text("two"),
        lambda: wanted.path.chmod(0o644),
        lambda: (wanted.path.unlink(), wanted.path.symlink_to("elsewhere")),
    ):
        spoil()
        assert not wanted.is_there()
        wanted.write()
        assert wanted.is_there()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("without_systemd")
class TestInstall:
    def test_predicts_then_does_and_is_done(self, layout: Layout, tmp_path: Path) -> None:
        predicted = installed(layout, JOB, predict=True)
        assert list(tmp_path.iterdir()) == []
        done = installed(layout, JOB)
        assert (predicted.to_json(), predicted.texts) == (done.to_json(), done.texts)
        assert done.changed
        assert done.warnings == ["this host has no systemd: cron runs the jobs, without a sandbox and limits"]
        before = bytes_of(tmp_path)
        again = installed(layout, JOB)
        assert (again.changed, again.files, again.removed) == (False, [], [])
        assert bytes_of(tmp_path) == before
        assert (layout.jobs / "kg.json").stat().st_mode & 0o777 == 0o640
        assert layout.repository.stat().st_mode & 0o777 == 0o700

    def test_lines_for_cron(self, layout: Layout) -> None:
        installed(layout, {**JOB, "schedule": "02:30", "drill_schedule": "quarterly", "drill_cron": "1 2 3 */3 *"})
        lines = layout.crontab.read_text().splitlines()[2:]
        command = f"{layout.programs}/dbbackup --jobs-directory {layout.jobs} --quiet"
        assert lines == [
            f"30 2 * * * root {command} run kg --unattended >/dev/null || {command} alert kg >/dev/null",
            f"1 2 3 */3 * root {command} drill kg >/dev/null || {command} alert kg --drill >/dev/null",
        ]
        assert json.loads((layout.jobs / "kg.json").read_text())["max_age_hours"] == 27

    def test_what_is_installed_runs(self, layout: Layout, tmp_path: Path) -> None:
        make_environment(tmp_path / "kg")
        installed(layout, {**JOB, "path": str(tmp_path / "kg")})
        (line, _drill) = [line.split(" root ", 1)[1] for line in layout.crontab.read_text().splitlines()[2:]]
        subprocess.run(line, shell=True, check=True)
        (tmp_path / "kg/data.mdb").unlink()
        done = subprocess.run([layout.programs / "restore-kg", "--yes"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        assert (tmp_path / "kg/data.mdb").exists()
        asked = subprocess.run(
            [layout.programs / "restore-kg"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert (asked.returncode, "say --yes" in asked.stderr) == (2, True)

    @pytest.mark.parametrize("version", ["3.8", "3.13"])
    def test_it_runs_under_other_pythons(self, layout: Layout, tmp_path: Path, version: str) -> None:
        found = [
            shutil.which(f"python{version}"),
            *Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"),
        ]
        works = [
            one
            for one in found
            if one and subprocess.run([one, "-c", ""], check=False, capture_output=True).returncode == 0
        ]
        if not works:
            pytest.skip(f"needs python{version}, for example of pyenv")
        database = tmp_path / "one.sqlite3"
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE records (content)")
        job = {"name": "one", "type": "sqlite", "path": str(database)}
        install([job], layout, str(works[-1]), None, libraries=Libraries(), predict=False)
        for command in ("run", "drill", "status"):
            done = subprocess.run(
                [layout.command, "--jobs-directory", layout.jobs, command, "one"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done

    def test_a_job_that_goes_loses_all_but_its_backups(self, layout: Layout) -> None:
        (layout.repository / "kg").mkdir(parents=True)
        (layout.repository / "kg/precious").touch()
        by_hand = layout.jobs / "by-hand.json"
        installed(layout, JOB, {**JOB, "name": "other"})
        by_hand.write_text("{}")
        removed = installed(layout, {**JOB, "name": "other"}).removed
        assert sorted(removed) == [f"{layout.programs}/restore-kg", f"{layout.jobs}/kg.json"]
        assert by_hand.exists()
        assert (layout.repository / "kg/precious").exists()
        assert " run kg " not in layout.crontab.read_text()
        installed(layout)
        assert not layout.crontab.exists()
        assert layout.command.exists()

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"schedule": "quarterly"}, "job kg: 'quarterly' cannot be translated"),
            ({"cron": "x"}, "job kg: cron: 'x' is not"),
            ({"keep": 1}, "job kg: keep: is not known"),
            ({"unit": {"user": "no-such-user"}}, "unit.user: there is no user no-such-user"),
        ],
        ids=str,
    )
    def test_mistakes_change_nothing(self, layout: Layout, tmp_path: Path, options: dict[str, Any], told: str) -> None:
        with pytest.raises(UsageError, match=told):
            installed(layout, {**JOB, "name": "sound"}, {**JOB, **options})
        assert list(tmp_path.iterdir()) == []

    def test_two_jobs_of_one_name(self, layout: Layout) -> None:
        with pytest.raises(UsageError, match="job kg: name: another job before it has the same name"):
            installed(layout, JOB, {**JOB, "repository": "/elsewhere"})

    @pytest.mark.root
    def test_a_job_of_another_user(self, layout: Layout) -> None:
        installed(layout, {**JOB, "unit": {"user": "nobody"}}, {**JOB, "name": "other"})
        assert layout.repository.stat().st_mode & 0o777 == 0o711
        mine = layout.repository / "kg"
        assert (mine.owner(), mine.stat().st_mode & 0o777) == ("nobody", 0o700)
        assert (layout.jobs / "kg.json").group() == "nogroup"
        assert not installed(layout, {**JOB, "unit": {"user": "nobody"}}, {**JOB, "name": "other"}).changed
