# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options that every source has whose data is in an SQLite file."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import List, Optional

from ...containers.container import Address
from ...containers.locate import ContainerFacts, Located
from ...containers.place import Place
from ...errors import UsageError
from ...paths import is_safe_relative

_LONGEST_WAIT = 24 * 3600


@dataclasses.dataclass(frozen=True)
class DatabaseOptions:
    """path is on this host, or in the container that is named; lock_timeout and timeout are in seconds."""

    path: Optional[str] = None
    container: Optional[str] = None
    docker_host: Optional[str] = None
    include: List[str] = dataclasses.field(default_factory=list)
    lock_timeout: int = 30
    timeout: int = 60

    def check(self) -> None:
        """Raise UsageError for options that make no sense."""
        for name in ("lock_timeout", "timeout"):
            if not 1 <= getattr(self, name) <= _LONGEST_WAIT:
                raise UsageError(f"{name} {getattr(self, name)} is out of range; give 1 to {_LONGEST_WAIT} seconds")
        if self.path is None and self.container is None:
            raise UsageError("give path, or container")
        if self.path is not None and not Path(self.path).is_absolute():
            raise UsageError(f"path {self.path} is not absolute")
        if self.docker_host is not None and self.container is None:
            raise UsageError("docker_host is of use only together with container")
        self._check_include()

    def _check_include(self) -> None:
        for path in self.include:
            if path.startswith("/") and self.container is None:
                raise UsageError(f"include {path!r}: give a path relative to the directory of the database")
            if not is_safe_relative(path[1:] if path.startswith("/") else path):
                raise UsageError(f"include {path!r} is not a path that can be included")
        for one, other in itertools.permutations([path.lstrip("/") for path in self.include], 2):
            if one == other or other.startswith(one + "/"):
                raise UsageError(f"include {other!r} would be restored to where another entry of include is")

    @property
    def included_below(self) -> List[str]:
        """What include names below the directory of the database."""
        return [path for path in self.include if not path.startswith("/")]

    @property
    def included_elsewhere(self) -> List[str]:
        """What include names anywhere in the container, relative to its root."""
        return [path[1:] for path in self.include if path.startswith("/")]

    @property
    def address(self) -> Optional[Address]:
        """The container, if the database is in one."""
        return Address(self.container, self.docker_host) if self.container else None

    @property
    def patience(self) -> float:
        """For how many seconds a process that may have to wait for a lock can be silent."""
        return self.timeout + self.lock_timeout


@dataclasses.dataclass(frozen=True)
class Whereabouts:
    """Where the directory of a database is; place is None where only a copy by archive could tell more."""

    place: Optional[Place]
    surroundings: Optional[Place] = None
    container: Optional[ContainerFacts] = None
    warnings: List[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, located: Located) -> Whereabouts:
        """In a container."""
        return cls(located.place, located.surroundings, located.facts, list(located.warnings))

    @property
    def is_still(self) -> bool:
        """Whether it is a copy that nobody writes to: what is torn there stays so, only another copy can be whole."""
        return self.container is not None and self.container.way == "archive"

    @property
    def scratch_copies(self) -> int:
        """How many copies there are before anything is stored: one, and another of what came as an archive."""
        return 2 if self.is_still else 1

    def shown(self, directory: Optional[str], name: str) -> str:
        """How messages call the file."""
        if self.container:
            return f"{self.container.directory}/{name} in container {self.container.name}"
        return str(Path(directory or "/") / name)
