# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the command dbbackup with one fault at one of its system calls, chosen by number.

A server process imports the engine once and forks for every run, so that a test can afford to strike at every call
there is. In the fork the functions of os are wrapped; the run is the rest of that process, interpreter exit included.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import itertools
import json
import mmap
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MODULE_UTILS = Path(__file__).resolve().parent.parent / "plugins/module_utils"
DEADLINE = 20
MARK = "RUN_OF_A_SABOTEUR"
REGION, PROCESSES = 1 << 18, 16
GUARD = PROCESSES // 2

REMOVING = ("unlink", "rmdir")
READING = ("read", "readv", "pread", "scandir", "listdir")
WRITING = ("write", "pwrite", "fsync", "ftruncate", "mkdir", "link")
CHANGING = ("rename", "replace", "chmod", "fchmod", "chown", "fchown", "utime")
OTHERS = ("open", "fork", "pipe", "waitpid", "setsid", "chdir", "setuid")
CALLS = (*REMOVING, *READING, *WRITING, *CHANGING, *OTHERS)
# Which calls can fail like that. None that removes anything, and no rename after the first failure, which undoes one:
# then nothing could be left clean.
FAILING = {"EIO": (*READING, *WRITING, *CHANGING, "open"), "ENOSPC": (*WRITING, "open")}


@dataclass(frozen=True)
class Fault:
    """action, EIO, ENOSPC or the name of a signal, at a call of those it can meet; 0 is the main process.

    Child processes count from 1, in the order of their birth; a child of theirs has their number and GUARD more. An
    error can go on for ever from that call on.
    """

    action: str
    call: int
    process: int = 0
    for_ever: bool = False


@dataclass(frozen=True)
class Ended:
    """How a run ended: a negative code is a signal, None that it had to be ended because it did not end.

    calls are those of each process; struck, if the fault happened; stopped has the number of a stopped process.
    """

    code: int | None
    stdout: str
    stderr: str
    calls: list[list[str]]
    struck: bool
    stopped: int | None = None

    @property
    def last_call(self) -> str:
        """Where the fault struck, for a message."""
        return next((call for calls in self.calls for call in calls if call.endswith("!")), "no call")


@dataclass
class Saboteur:
    """The server, as a context manager."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __enter__(self) -> Saboteur:
        self._server = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, MARK: self.mark},
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.left_over():
            os.kill(process, signal.SIGKILL)
        self._server.kill()
        self._server.communicate()

    def run(self, arguments: list[str], fault: Fault | None = None, user: int | None = None) -> Ended:
        """Run dbbackup with these arguments, as another user if wanted."""
        return self._ask({"arguments": arguments, "fault": asdict(fault) if fault else None, "user": user})

    def resume(self, stopped: Ended) -> Ended:
        """Let a run go on that was stopped by SIGSTOP."""
        return self._ask({"resume": stopped.stopped})

    def every(self, arguments: list[str], action: str, step: int = 1, **options: Any) -> Iterator[Ended]:
        """Strike at the first call, at the second, and so on until there is none left to strike at."""
        for call in itertools.count(1, step):
            ended = self.run(arguments, Fault(action, call, **options))
            if not ended.struck:
                return
            yield ended

    def left_over(self) -> list[int]:
        """Processes of runs that are still there."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != self._server.pid and self._is_marked(entry)
        ]

    def _is_marked(self, process: Path) -> bool:
        try:
            return f"{MARK}={self.mark}".encode() in (process / "environ").read_bytes()
        except OSError:
            return False

    def _ask(self, order: dict[str, Any]) -> Ended:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))


class Sabotage:
    """The wrapped functions of os in one run. What they note lies in memory that the server shares."""

    def __init__(self, fault: Fault | None, notes: mmap.mmap) -> None:
        self.fault = fault
        self.notes = notes
        self.process = self.children = self.count = self.offset = self.removals = 0
        self.readlink = os.readlink

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self.wrapped(name, getattr(os, name)))
        fcntl.flock = self.wrapped("flock", fcntl.flock)
        shutil.rmtree = self.removing(shutil.rmtree)

    def wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.meet(name, arguments)
            self.children += name == "fork"
            result = original(*arguments, **options)
            if name == "fork" and result == 0:
                self.process = self.process + GUARD if self.process else self.children
                self.count = self.offset = 0
                if self.process > GUARD:
                    # It does little else than wait.
                    self.meet("birth", ("guard",))
            return result

        return call

    def removing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.removals += 1
            try:
                return original(*arguments, **options)
            finally:
                self.removals -= 1

        return call

    def meet(self, name: str, arguments: tuple[Any, ...]) -> None:
        subject = self.subject(arguments)
        strikes = (
            self.fault is not None and self.process == self.fault.process and self.strikes(name, subject, arguments)
        )
        self.note(f"{name} {subject}{' !' * strikes}\n")
        if self.fault and strikes:
            if self.fault.action.startswith("SIG"):
                os.kill(os.getpid(), signal.Signals[self.fault.action])
            else:
                number = getattr(errno, self.fault.action)
                place = () if isinstance(arguments[0], int) else (subject,)
                raise OSError(number, os.strerror(number), *place)

    def strikes(self, name: str, subject: str, arguments: tuple[Any, ...]) -> bool:
        assert self.fault
        if subject.startswith("pipe:") and name in READING:
            # How often is a matter of chance: the numbers of the calls that follow must not be.
            return False
        if not self.fault.action.startswith("SIG"):
            creates = name != "open" or arguments[1] & os.O_CREAT
            on_disk = not subject.startswith(("pipe:", "/dev/null", "/proc/"))
            can_fail = name in FAILING[self.fault.action] and (creates or self.fault.action != "ENOSPC")
            undoes = name == "rename" and self.count >= self.fault.call
            if self.removals or undoes or not (can_fail and on_disk):
                return False
        self.count += 1
        return self.count == self.fault.call or (self.fault.for_ever and self.count > self.fault.call)

    def subject(self, arguments: tuple[Any, ...]) -> str:
        first = arguments[0] if arguments else ""
        try:
            return (
                self.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else self.resolved(os.fsdecode(first))
            )
        except OSError:
            return str(first)

    def resolved(self, path: str) -> str:
        """What a path through an open directory leads to."""
        found = re.fullmatch(r"(/proc/self/fd/\d+)/(.+)", path)
        return f"{self.readlink(found[1])}/{found[2]}" if found else path

    def note(self, line: str) -> None:
        start = self.process * REGION + self.offset
        data = line.encode(errors="replace")
        self.notes[start : start + len(data)] = data
        self.offset += len(data)


def serve() -> int:
    """Read orders, a line of JSON each, and answer each with one."""
    sys.path.insert(0, str(MODULE_UTILS))
    command = importlib.import_module("engine.cli")
    # The user of a run may be unable to read what is imported as late as that.
    rooms = pkgutil.walk_packages([str(MODULE_UTILS / "engine")], "engine.")
    for late in ("_strptime", "http.client", *(room.name for room in rooms)):
        importlib.import_module(late)
    running: dict[int, Run] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "resume" in order:
            run = running[order["resume"]]
            os.kill(run.pid, signal.SIGCONT)
        else:
            run = Run()
            if run.pid == 0:
                run.become(order)
                return int(command.main(order["arguments"]))
            running[run.pid] = run
        sys.stdout.write(json.dumps(run.answer()) + "\n")
        sys.stdout.flush()
    return 0


class Run:
    """A fork of the server, with its output and notes in memory."""

    def __init__(self) -> None:
        self.output, self.errors = os.memfd_create("output"), os.memfd_create("errors")
        self.notes = mmap.mmap(-1, REGION * PROCESSES)
        self.pid = os.fork()

    def become(self, order: dict[str, Any]) -> None:
        """In the fork: what the order says."""
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(self.output, 1)
        os.dup2(self.errors, 2)
        if order["user"] is not None:
            os.setgroups([])
            os.setgid(order["user"])
            os.setuid(order["user"])
        Sabotage(Fault(**order["fault"]) if order["fault"] else None, self.notes).install()

    def answer(self) -> dict[str, Any]:
        """Wait until the run ends or stops."""
        status = self.wait()
        stopped = status is not None and os.WIFSTOPPED(status)
        regions = [self.notes[start : start + REGION].rstrip(b"\0") for start in range(0, len(self.notes), REGION)]
        calls = [region.decode().splitlines() for region in regions if region]
        answer = {
            "code": None if status is None or stopped else os.waitstatus_to_exitcode(status),
            "stdout": os.pread(self.output, 1 << 20, 0).decode(),
            "stderr": os.pread(self.errors, 1 << 20, 0).decode(),
            "calls": calls,
            "struck": any(call.endswith("!") for process in calls for call in process),
            "stopped": self.pid if stopped else None,
        }
        if not stopped:
            os.close(self.output)
            os.close(self.errors)
            self.notes.close()
        return answer

    def wait(self) -> int | None:
        """The status the run ended or stopped with; None when it did neither in time and was killed."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            process, status = os.waitpid(self.pid, os.WUNTRACED | os.WNOHANG)
            if process:
                return status
            time.sleep(0.002)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None


if __name__ == "__main__":
    raise SystemExit(serve())
