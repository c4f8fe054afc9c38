# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual environment for the runner, with the Python libraries that no package of the host brings.

Each set of libraries has a directory of its own beside the versions of the engine. It is never changed once it is
complete: another set is another directory, so that a run that uses one is not disturbed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ..engine.errors import BackupError, UsageError, in_one_line
from .layout import Layout

PREFIX = "environment-"
# Written last: without it a directory was begun and not finished.
_COMPLETE = "requirements.txt"
_ASK_SECONDS = 60
_INSTALL_SECONDS = 1800
_UMASK = 0o022
_SHOWN = 400
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CREDENTIALS = re.compile(r"://[^/\s@]*@")
# Programs that the engine uses where a library is missing.
_SUBSTITUTES = {"lmdb": "mdb_copy"}
# What a Python can import is known once it has tried: a library that is there may be broken.
_QUESTION = """
import importlib, json, sys
missing = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        missing.append(name)
tag, is_virtual = sys.implementation.cache_tag, sys.prefix != sys.base_prefix
print(json.dumps({"tag": tag, "is_virtual": is_virtual, "missing": missing}))
"""


@dataclasses.dataclass(frozen=True)
class Libraries:
    """What pip is asked for, as it takes it. only_missing: only what the Python of the runner cannot import yet.

    arguments are further ones for pip, as where to find what it is to install.
    """

    requirements: Sequence[str] = ()
    only_missing: bool = False
    arguments: Sequence[str] = ()

    def check(self) -> None:
        """Raise UsageError for what is no requirement, and for passwords: every user of a host sees arguments."""
        for requirement in self.requirements:
            if not _NAME.match(requirement):
                raise UsageError(f"libraries: {requirement!r} does not begin with the name of one; give name==version")
        for told in (*self.requirements, *self.arguments):
            if _CREDENTIALS.search(told):
                raise UsageError(
                    "an address for pip with a user or a password in it would be seen by others; "
                    "give it without, and write the whole one into the configuration of pip on the host"
                )


class Environment:
    """The virtual environment with these libraries, for this Python."""

    def __init__(self, layout: Layout, base: str, tag: str, requirements: Sequence[str], libraries: Libraries) -> None:
        self._base = base
        self._requirements = sorted(set(requirements))
        self._arguments = libraries.arguments
        identity = json.dumps([os.path.realpath(base), tag, self._requirements])
        self.name = PREFIX + hashlib.sha256(identity.encode()).hexdigest()[:12]
        self.directory = layout.library / self.name

    @property
    def python(self) -> str:
        """Its Python."""
        return str(self.directory / "bin/python")

    def is_there(self) -> bool:
        """Whether it is installed, to its end."""
        return (self.directory / _COMPLETE).is_file()

    def install(self) -> None:
        """Make it. What was begun earlier is removed first.

        Raises BackupError with what to do; nothing of it is left then.
        """
        self.directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            self._make()
            self._fill()
            _run(["sync", "--file-system", str(self.directory)])
            (self.directory / _COMPLETE).write_text("".join(f"{line}\n" for line in self._requirements))
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def _make(self) -> None:
        # What packages of the host bring stays in sight: only what they lack is installed.
        done = _run([self._base, "-m", "venv", "--system-site-packages", str(self.directory)])
        if done.returncode:
            raise BackupError(
                f"{self._base} cannot make a virtual environment: {_end(done.stdout + done.stderr)}; "
                "install its modules venv and ensurepip, on Debian and Ubuntu the package python3-venv"
            )

    def _fill(self) -> None:
        # Wheels only: root builds and runs nothing of a source archive. A later --no-binary=NAME allows it.
        options = ["--disable-pip-version-check", "--no-input", "--only-binary=:all:", *self._arguments]
        done = _run([self.python, "-m", "pip", "install", *options, "--", *self._requirements])
        if done.returncode:
            names = ", ".join(sorted({_name(requirement) for requirement in self._requirements}))
            raise BackupError(
                f"the Python libraries ({names}) cannot be installed: {_reason(done.stderr)}; "
                "let the host reach an index of packages, or tell by backup_pip_arguments where their wheels are, or "
                "install them by hand for the Python of the runner and give [] as backup_libraries"
            )


def choose(layout: Layout, python: str, libraries: Libraries) -> Optional[Environment]:
    """The virtual environment that is needed; None where this Python has all it is to have.

    Raises UsageError for libraries that make no sense, BackupError for a Python that does not answer.
    """
    libraries.check()
    if not libraries.requirements:
        return None
    names = {requirement: _name(requirement) for requirement in libraries.requirements}
    found = _ask(python, sorted(set(names.values())) if libraries.only_missing else [])
    requirements = list(names)
    if libraries.only_missing:
        missing = [name for name in found.missing if not shutil.which(_SUBSTITUTES.get(name, ""))]
        if not missing:
            return None
        # One that is made by the Python of another does not see what is in that.
        if not found.is_virtual:
            requirements = [requirement for requirement, name in names.items() if name in missing]
    return Environment(layout, python, found.tag, requirements, libraries)


class _Found(NamedTuple):
    tag: str
    is_virtual: bool
    missing: List[str]


def _ask(python: str, names: Sequence[str]) -> _Found:
    """Which Python it is, and which modules it cannot import."""
    done = _run([python, "-c", _QUESTION, *names], _ASK_SECONDS)
    try:
        return _Found(**json.loads(done.stdout))
    except (ValueError, TypeError):
        raise BackupError(f"{python} does not answer as Python does: {_end(done.stdout + done.stderr)}") from None


def _name(requirement: str) -> str:
    match = _NAME.match(requirement)
    return match.group().lower().replace("-", "_") if match else ""


def _run(command: Sequence[str], seconds: int = _INSTALL_SECONDS) -> Any:
    # Readable by all who run jobs, whatever root keeps to itself. Python would import from the directory it is in.
    umask = functools.partial(os.umask, _UMASK)
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd="/",
            env=_plain(),
            preexec_fn=umask,
            timeout=seconds,
            check=False,
        )
    except OSError as error:
        raise BackupError(f"{command[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise BackupError(f"{' '.join(command[:4])} did not end within {seconds} seconds") from None


def _plain() -> Dict[str, str]:
    """The configuration of pip holds, that of the Python that runs this does not."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _reason(told: str) -> str:
    """The error of pip, and before it why it could not reach an index."""
    lines = told.splitlines()
    retries = [line for line in lines if "connection broken by" in line][-1:]
    errors = [line[len("ERROR: ") :] for line in lines if line.startswith("ERROR: ")][-1:]
    return _end(" ".join(retries + errors) or told)


def _end(told: str) -> str:
    text = _CREDENTIALS.sub("://", in_one_line(told)).strip(" .")
    return text if len(text) <= _SHOWN else f"... {text[-_SHOWN:]}"
