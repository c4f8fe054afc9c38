# SPDX-License-Identifier: GPL-3.0-or-later
"""Contests of commands: they take turns, and what counts is how many times as long the one takes as the other."""

from __future__ import annotations

import compileall
import contextlib
import os
import shlex
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECONDS_BETWEEN_SAMPLES = 0.01
ENGINE = Path(__file__).resolve().parent.parent / "plugins/module_utils/engine"


@dataclass
class Contestant:
    """A command, the path it makes, and what it took: seconds in every round, the most anonymous memory in bytes.

    A slow one that has a single round is not weighed.
    """

    name: str
    command: list[str]
    makes: Path
    rounds: int
    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    size: int = 0

    def weigh(self) -> None:
        """Measure the memory of the command and its children together, in a round of its own: looking takes time."""
        with self._running() as process:
            while process.poll() is None:
                self.memory = max(self.memory, anonymous_memory(process.pid))
                time.sleep(SECONDS_BETWEEN_SAMPLES)

    def run(self) -> None:
        """Measure the time of one round."""
        with self._running() as process:
            started = time.monotonic()
            process.wait()
            self.seconds.append(time.monotonic() - started)

    @contextlib.contextmanager
    def _running(self) -> Iterator[subprocess.Popen[bytes]]:
        remove(self.makes)
        os.sync()
        with subprocess.Popen(self.command, stdout=subprocess.DEVNULL) as process:
            yield process
        if process.returncode != 0:
            raise SystemExit(f"{self.name} failed: {shlex.join(self.command)}")
        self.size = size_of(self.makes)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def line(self) -> str:
        spread = f"{min(self.seconds):.2f} to {max(self.seconds):.2f} s"
        memory = f"{self.memory / 1e6:.0f} MB" if self.memory else "-"
        sizes = f"{self.size / 1e6:>8,.0f} MB{memory:>9}"
        return f"  {self.name:<48}{self.median:>8.2f} s  {spread:<18}{sizes}"


def anonymous_memory(pid: int) -> int:
    """Bytes of anonymous memory of a process and all below it; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)
    return own + sum(anonymous_memory(int(child)) for child in children)


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def shell(line: str) -> list[str]:
    return ["/bin/sh", "-c", line]


def compete(contestants: list[Contestant]) -> None:
    """Let them take turns, so that a noisy minute meets all of them."""
    compile_engine()
    for contestant in contestants:
        if contestant.rounds > 1:
            contestant.weigh()
    for turn in range(max(contestant.rounds for contestant in contestants)):
        for contestant in contestants:
            if turn < contestant.rounds:
                contestant.run()


def compile_engine() -> None:
    """Compile the engine, as the role does with what it installs: else Python may do it again in every round."""
    if not compileall.compile_dir(ENGINE, quiet=1):
        raise SystemExit(f"{ENGINE} cannot be compiled")


def ratio(ours: Contestant, peer: Contestant) -> float:
    """The median of the rounds' ratios: the two had the same noise when they ran one after the other."""
    return statistics.median(one / other for one, other in zip(ours.seconds, peer.seconds, strict=False))


def report(title: str, contestants: list[Contestant]) -> None:
    print(f"\n{title:<50}{'median':>10}  {'spread':<18}{'made':>11}{'memory':>9}")
    for contestant in contestants:
        print(contestant.line())


def limit(text: str, value: float, most: float) -> bool:
    """Print how a figure keeps to its limit, and return whether it does."""
    print(f"  {text:<58}{value:>8.2f}  at most {most:<6g}{'held' if value <= most else 'MISSED'}")
    return value <= most
