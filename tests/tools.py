# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests share: the command of the checkout, small LMDB environments, and snapshots of directories."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import lmdb
import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
DBBACKUP = CHECKOUT / "bin/dbbackup.py"
NOBODY = 65534
# What Ansible adds to the result of any module that returns a path, once the path is there.
OF_THE_PATH = {"gid", "group", "mode", "owner", "size", "state", "uid"}

Content = dict[str, list[tuple[bytes, bytes]]]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.stdout)


@dataclass
class Command:
    """bin/dbbackup with a repository and job files of its own.

    command("verify", "kg") returns how it ended; command.ok("verify", "kg") what it told in JSON, once it succeeded.
    Environment variables in env are set for every run.
    """

    repository: Path
    jobs: Path
    python: str = sys.executable
    env: dict[str, str] = field(default_factory=dict)

    def job(self, name: str, path: Path | str, **options: Any) -> Path:
        """Write the file of a job."""
        self.jobs.mkdir(exist_ok=True)
        described = {"name": name, "type": "lmdb", "path": str(path), "repository": str(self.repository), **options}
        file = self.jobs / f"{name}.json"
        file.write_text(json.dumps(described))
        return file

    def arguments(self, command: str, *arguments: str | Path) -> list[str]:
        """The whole command line, for those who start it themselves."""
        places = ["--repository", str(self.repository), "--jobs-directory", str(self.jobs)]
        return [self.python, str(DBBACKUP), command, *map(str, arguments), *places]

    def __call__(self, command: str, *arguments: str | Path, **options: Any) -> Done:
        options = {"env": {**os.environ, **self.env}, "timeout": 120, "stdin": subprocess.DEVNULL, **options}
        run = subprocess.run(self.arguments(command, *arguments), capture_output=True, check=False, **options)
        return Done(run.returncode, run.stdout.decode(), run.stderr.decode())

    def ok(self, command: str, *arguments: str | Path, **options: Any) -> Any:
        done = self(command, *arguments, "--json", **options)
        assert done.code == 0, done
        return done.json

    def seen(self, *arguments: str) -> Any:
        """What status tells, also of jobs that are not well."""
        done = self("status", *arguments, "--json")
        assert done.code in (0, 1), done
        return done.json

    def fails(self, code: int, command: str, *arguments: str | Path, **options: Any) -> str:
        """The one sentence with which the command fails with this exit code."""
        done = self(command, *arguments, **options)
        assert done.code == code, done
        assert done.stderr.startswith("dbbackup: "), done
        assert done.stderr.count("\n") == 1, done
        return done.stderr[len("dbbackup: ") : -1]

    def backups(self, job: str) -> list[str]:
        """The ids that are in the repository, oldest first."""
        return sorted(entry.name for entry in (self.repository / job).glob("[0-9]*"))

    def state(self, job: str) -> Any:
        """What is in the state of a job."""
        return json.loads((self.repository / job / "state.json").read_text())

    def catalogue(self, job: str) -> Any:
        """What is in the catalogue of a job."""
        return json.loads((self.repository / job / ".catalogue.json").read_text())


def make_environment(
    path: Path, records: int = 200, *, salt: str = "", subdir: bool = True, lock: bool = True, map_size: int = 64 << 20
) -> Content:
    """A small environment with two named databases, one of them with duplicates; returns its content.

    Without lock it has no lock file, as after an application that opened it alone.
    """
    (path if subdir else path.parent).mkdir(parents=True, exist_ok=True)
    with closing(lmdb.open(str(path), subdir=subdir, map_size=map_size, max_dbs=4, sync=False)) as environment:
        nodes = environment.open_db(b"nodes")
        edges = environment.open_db("Kanten-边".encode(), dupsort=True)
        with environment.begin(write=True) as transaction:
            for number in range(records):
                key = b"%08d" % number
                value = hashlib.sha256(f"{salt} {number}".encode()).hexdigest().encode() * (1 + number % 7)
                transaction.put(key, value, db=nodes)
                for part in (value[:20], value[20:60]):
                    transaction.put(key, part, db=edges)
        environment.sync(True)
    if not lock:
        lock_file(path, subdir).unlink()
    return content_of(path)


def lock_file(path: Path, subdir: bool = True) -> Path:
    """The lock file of an environment."""
    return path / "lock.mdb" if subdir else path.with_name(path.name + "-lock")


def data_file(path: Path) -> Path:
    """The data file of an environment."""
    return path / "data.mdb" if path.is_dir() else path


def content_of(path: Path) -> Content:
    """Every record of every named database, in order. Touches no lock file."""
    with closing(
        lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, max_dbs=16, create=False)
    ) as environment:
        with environment.begin() as transaction:
            names = [key for key, _unused in transaction.cursor()]
        handles = {name.decode(): environment.open_db(name, create=False) for name in names}
        with environment.begin() as transaction:
            return {name: list(transaction.cursor(db=handle)) for name, handle in handles.items()}


def counts_of(content: Content) -> dict[str | None, int]:
    """How many entries each database has, the main one, which has the names of the others, under None."""
    return {None: len(content), **{name: len(records) for name, records in content.items()}}


def snapshot(directory: Path) -> dict[str, tuple[Any, ...]]:
    """All that is in a directory: kind, mode, owner, time and content by path. Equal when nothing changed."""
    found = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        owner = (status.st_uid, status.st_gid)
        found[str(path)] = (status.st_ino, status.st_mode, owner, status.st_mtime_ns, status.st_size, content)
    return found


def without_readers(found: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """A snapshot in which the content and time of lock files do not count: every reader notes itself there."""
    return {path: entry[:3] if path.endswith("lock.mdb") else entry for path, entry in found.items()}


def bytes_of(directory: Path) -> dict[str, bytes | str | None]:
    """The content of every file below a directory, by relative path; None for a directory, a text for a link."""
    return {
        os.path.relpath(path, directory): os.readlink(path)
        if path.is_symlink()
        else None
        if path.is_dir()
        else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }


def eventually(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Wait until the condition holds; returns what it returned."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
    return value


@contextmanager
def process(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone after the with statement, whatever happens."""
    running = subprocess.Popen(arguments, **options)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def hide_libraries(folder: Path, *names: str) -> dict[str, str]:
    """Environment variables under which Python cannot import these libraries."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text("raise ImportError('hidden by a test')\n")
    return {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def only_programs(*names: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables under which PATH has these programs and no other.

    Not in a folder of pytest: what runs as nobody must find them too, and another pytest that starts closes those.
    """
    folder = Path(mkdtemp(prefix="programs-"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    for name in names:
        (place,) = [
            Path(part, name) for part in (environ or os.environ)["PATH"].split(":") if Path(part, name).exists()
        ][:1]
        (folder / name).symlink_to(place)
    return {"PATH": str(folder)}


def as_ordinary_user(function: Callable[[], Any], directory: Path) -> str:
    """What the function returns, or its error says, run without the rights of root; the directory is that user's."""
    if os.geteuid() == 0:
        give_away(directory)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(writing, str(function()).encode())
        except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def give_away(directory: Path) -> None:
    """Let a user without rights own a directory and all in it, and reach it."""
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    make_reachable(directory)


def make_reachable(directory: Path) -> None:
    """Let every user pass the directories above, which pytest makes for itself alone."""
    for parent in directory.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)


@dataclass
class Ansible:
    """ansible and ansible-playbook of the checkout, with files of their own in home."""

    home: Path

    def run(self, program: str, *arguments: str | Path, **environ: str) -> Done:
        """Run one of Ansible's programs in the checkout, as its users do."""
        settings = {
            "ANSIBLE_HOME": str(self.home),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "json",
            **environ,
        }
        command = [str(Path(sys.executable).parent / program), *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        result = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in result.stdout + result.stderr, result
        return result

    def module(self, name: str, /, *options: str, **parameters: Any) -> dict[str, Any]:
        """What a module returns on this host."""
        done = self.run("ansible", "localhost", "-m", name, "-a", json.dumps(parameters), *options)
        result: dict[str, Any] = done.json["plays"][0]["tasks"][0]["hosts"]["localhost"]
        assert bool(result.get("failed")) == (done.code != 0), done
        return {
            key: result[key]
            for key in result.keys() - OF_THE_PATH - {"action", "invocation"}
            if not key.startswith("_")
        }

    def failure(self, name: str, /, *options: str, **parameters: Any) -> dict[str, Any]:
        """What a module returns that must fail: one sentence, and the exit code of the command dbbackup."""
        result = self.module(name, *options, **parameters)
        assert result["failed"], result
        assert "\n" not in result["msg"], result
        assert "MODULE FAILURE" not in result["msg"], result
        return result


def keys_told(returned: dict[str, Any], when: set[str | None]) -> dict[str, Any]:
    """The keys that a RETURN documentation names for these cases, and those within them."""
    return {
        key: keys_told(value.get("contains") or {}, when)
        for key, value in returned.items()
        if value.get("returned") in when
    }


def assert_told(told: dict[str, Any], found: Any, place: str) -> None:
    """Every documented key is in the result, and every key of the result is documented where any beside it is."""
    if isinstance(found, list):
        for entry in found:
            assert_told(told, entry, place)
    elif told and found is not None:
        assert told.keys() - found.keys() == set(), f"of {place} these are documented and not returned"
        assert found.keys() - told.keys() == set(), f"of {place} these are returned and not documented"
        for key, inner in told.items():
            assert_told(inner, found[key], f"{place}.{key}")


@dataclass
class FaultAt:
    """Stands in for functions of os and acts at the call whose turn it is; counts all calls."""

    action: Callable[[], None]
    turn: int
    calls: int = 0

    def install(self, patch: pytest.MonkeyPatch, *names: str) -> None:
        for name in names:
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.turn:
                self.action()
            return function(*arguments, **options)

        return stand_in
