# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The runner: a copy of the engine as this process has it, in a directory of its own per version.

A link says which one is started. Who runs holds the directory it was started from, which is removed once nobody does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pkgutil
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from .. import engine
from ..engine import cli
from ..engine.commands import adoption, backups, evaluation, listing, loading, restoring, retention, trials
from ..engine.errors import BackupError
from ..engine.repository import locks
from .environment import PREFIX, Environment
from .files import read
from .layout import Layout

# The command loads these by their names, and Ansible sends only what is imported by a statement.
_COMMANDS = (adoption, backups, evaluation, listing, loading, restoring, retention, trials)
_PROGRAM = '''\
#!{python}
"""Hot backups of embedded databases, proven restorable. Installed by the role embedded.db_backup.backup."""

import fcntl
import os
import sys

# What it runs from stays whole meanwhile, whatever is installed: this version, and a virtual environment if it has one.
version = os.path.realpath({current!r})
for directory in [version] + {environments!r}:
    fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_SH)
sys.path.insert(0, version)

from {module} import {function}

raise SystemExit({function}())
'''


def package() -> Dict[str, bytes]:
    """The files of the engine by their path in its package: out of the archive that Ansible sent, or of a directory."""
    names = [engine.__name__, *(found.name for found in pkgutil.walk_packages(engine.__path__, engine.__name__ + "."))]
    files = {}
    for name in names:
        spec: Any = importlib.util.find_spec(name)
        parts = name[len(engine.__name__) :].split(".")[1:]
        is_package = spec.submodule_search_locations is not None
        path = "/".join([*parts, "__init__"] if is_package else parts) + ".py"
        files[path] = bytes(spec.loader.get_data(spec.origin))
    return files


class Runner:
    """The version that this process has, in its environment if it needs one, and those that are on the host."""

    def __init__(self, layout: Layout, python: str, environment: Optional[Environment] = None) -> None:
        self._layout = layout
        self._python = python
        self.environment = environment
        self._earlier = _environments_of(layout)
        self._files = package()
        self.version = f"{engine.VERSION}-{_digest(self._files)[:12]}"
        self._directory = layout.library / self.version

    @property
    def program(self) -> str:
        """The text of the command dbbackup."""
        # Imported here, it brings along all that it imports: Ansible sends no more of the engine than that.
        module, function = cli.main.__module__[len(engine.__name__) :], cli.main.__name__
        return _PROGRAM.format(
            python=self.environment.python if self.environment else self._python,
            current=str(self._layout.current),
            environments=[str(self.environment.directory)] if self.environment else [],
            module=f"engine{module}",
            function=function,
        )

    def is_there(self) -> bool:
        """Whether it is installed, whole and the one that is started."""
        if self.environment and not self.environment.is_there():
            return False
        directory = self._directory / "engine"
        found = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.py")}
        return found == self._files and os.path.realpath(self._layout.current) == str(self._directory)

    def install(self) -> None:
        """Put it beside the others, and have the link lead to it. Raises OSError, BackupError."""
        if self.environment and not self.environment.is_there():
            self.environment.install()
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=str(self._layout.library)))
        try:
            for name, content in self._files.items():
                path = made / "engine" / name
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                path.write_bytes(content)
                path.chmod(0o644)
            made.chmod(0o755)
            self._compile(made)
            if self._directory.exists():
                # It was changed by somebody.
                os.rename(self._directory, made / "changed")
            os.rename(made, self._directory)
            shutil.rmtree(self._directory / "changed", ignore_errors=True)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        link = self._layout.library / ".current"
        if os.path.lexists(link):
            link.unlink()
        link.symlink_to(self.version)
        os.replace(link, self._layout.current)

    def remove_others(self) -> List[str]:
        """Remove other versions and environments that nobody runs; returns their names."""
        kept = [self._directory, *self._earlier, *([self.environment.directory] if self.environment else [])]
        removed = []
        for path in sorted(self._layout.library.iterdir()):
            if path.is_symlink() or not path.is_dir() or path in kept:
                continue
            if locks.is_dead(path):
                shutil.rmtree(path)
                removed.append(path.name)
        return removed

    def _compile(self, directory: Path) -> None:
        """By the Python that will run it: a service may not write there."""
        try:
            command = [self._python, "-m", "compileall", "-q", "-d", str(self._directory), str(directory)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError as error:
            raise BackupError(f"{self._python} cannot be started: {error.strerror}") from error
        if done.returncode:
            raise BackupError(f"{self._python} cannot run the engine: it takes Python 3.8 or newer")


def _environments_of(layout: Layout) -> List[Path]:
    """Those of the command as it is before anything changes: a run that is just starting does not hold its own yet."""
    command = read(layout.command)
    return [path for path in layout.library.glob(f"{PREFIX}*") if str(path) in command]


def _digest(files: Dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(b"%s\0%d\0%s" % (name.encode(), len(files[name]), files[name]))
    return digest.hexdigest()
