# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which engine may open an environment: that of this host, or the shared library that a person or a job named.

Decided by the versions in the files, never by the number of an error, nor by what a manifest says.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from ...errors import SourceError
from ...processes import Report
from . import artifact, library, shared
from .artifact import Artifact
from .format import DLMDB, LMDB, LMDB_1
from .library import Place

# What a person knows the writers by.
_WRITERS = {DLMDB: "DLMDB (Datalevin, data version 2)", LMDB_1: "LMDB 1.0 (data version 3)"}


@dataclasses.dataclass(frozen=True)
class Engine:
    """What copies and reads environments, in a child process: the given library, else what this host has.

    data_version is that of the environments.
    """

    artifact: Optional[Artifact] = None
    data_version: int = LMDB

    @property
    def descriptors(self) -> Sequence[int]:
        """What the child must keep open."""
        return self.artifact.descriptors if self.artifact else ()

    def copy(self, report: Report, place: Place, compact: bool) -> Dict[str, Any]:
        """As library.copy."""
        if self.artifact:
            return shared.copy(report, self.artifact, place, compact)
        return library.copy(report, place, compact)

    def read_all(self, report: Report, descriptor: int, name: str) -> List[Dict[str, Any]]:
        """As library.read_all."""
        if self.artifact:
            return shared.read_all(report, self.artifact, descriptor, name)
        return library.read_all(report, descriptor, name)

    def __str__(self) -> str:
        return str(self.artifact) if self.artifact else library.copier(self.data_version)


@dataclasses.dataclass(frozen=True)
class Engines:
    """Those that are at hand."""

    given: Optional[Artifact] = None

    def for_live(self, data: Path, data_version: int, lock_version: Optional[int]) -> Optional[Engine]:
        """The engine that may read beside the application; None for a lock of another kind, without its library.

        Raises SourceError when there is none for these versions, with what to do.
        """
        is_foreign = data_version == LMDB and lock_version not in (None, 1)
        if is_foreign:
            return Engine(self.given) if self.given else None
        engine = self.needed(data, data_version)
        # Raises when nothing can copy here.
        str(engine)
        return engine

    def needed(self, data: Path, data_version: int) -> Engine:
        """The engine without which nobody can tell whether a copy is sound. Raises SourceError when it is not here."""
        engine = self.for_copy(data_version)
        if engine is None:
            raise SourceError(f"{data} was written by {_WRITERS[data_version]}; {_advice(data_version)}")
        return engine

    def for_copy(self, data_version: int) -> Optional[Engine]:
        """The engine that reads a copy which nobody writes to, if there is one."""
        if data_version == LMDB or (data_version == LMDB_1 and library.has_version_1()):
            return Engine(data_version=data_version)
        return Engine(self.given, data_version) if self.given else None


def can_read(data_version: int, given: Optional[str]) -> bool:
    """Whether something at hand reads a copy of this version; given is the path of a library."""
    if data_version == LMDB:
        return library.can_read()
    return given is not None or (data_version == LMDB_1 and library.has_version_1())


@contextlib.contextmanager
def at_hand(given: Optional[str]) -> Iterator[Engines]:
    """The engines of this host, and the library of this path if one is given.

    Raises SourceError for a library that is none.
    """
    if given is None:
        yield Engines()
        return
    with artifact.held(Path(given)) as found:
        yield Engines(found)


def _advice(data_version: int) -> str:
    if data_version == DLMDB:
        return (
            "name its library, as the jar of Datalevin, by the option library, or the nREPL server of its application, "
            "which can copy it, by port, socket or port_file"
        )
    return "install py-lmdb 3 or newer, which brings LMDB 1.0, or name a library of it by the option library"
