# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every database offers to the operations. Adding a database is adding an implementation of Source."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import ClassVar, Dict, List, Optional

from ..repository.manifest import Kind, Manifest, Named, Origin
from ..repository.staging import Staging
from .tree import Included


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a look from outside tells, before anything is copied."""

    origin: Origin
    engine: Named


@dataclasses.dataclass(frozen=True)
class Capture:
    """What was copied into the staging, and how."""

    origin: Origin
    engine: Named
    kind: Kind
    warnings: List[str]


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Where the files of a backup go. Names are relative to root.

    files has the target of each record of content file, by record path; trees are the paths that a tar brings;
    stale are files of the database beside its data that must not survive a restore, as lock files; map_sizes has, by
    name, how many bytes an application must be ready to map.
    """

    root: Path
    files: Dict[str, str]
    trees: List[str]
    stale: List[str]
    map_sizes: Dict[str, int]


class Source(abc.ABC):
    """A database at a place (inspect, capture), and what is known of its copies anywhere (the static methods)."""

    type: ClassVar[str]

    @abc.abstractmethod
    def inspect(self) -> Inspection:
        """Look at the database without changing anything.

        Raises SourceError when it cannot be backed up, with the reason.
        """

    @abc.abstractmethod
    def capture(self, staging: Staging) -> Capture:
        """Stream a consistent copy into the staging.

        Raises SourceError.
        """

    @staticmethod
    @abc.abstractmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        """Whether nothing was committed since the backup whose origin is then; false when unknown."""

    @staticmethod
    @abc.abstractmethod
    def can_check() -> bool:
        """Whether this host has what it takes to open a copy."""

    @staticmethod
    @abc.abstractmethod
    def check(files: Dict[str, Path], origin: Origin, timeout: float) -> Origin:
        """Open the unpacked copies, by record path, with the engine and read all of them.

        They are private files that were just made of what may come from a stranger: open them in a Child that runs as
        NOBODY, through a descriptor of processes.lent_to_nobody. timeout is its longest silence, in seconds.
        Returns the origin completed with what was counted. Raises CorruptError.
        """

    @staticmethod
    @abc.abstractmethod
    def included(origin: Origin) -> List[Included]:
        """What the tar of the backup must bring."""

    @staticmethod
    @abc.abstractmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        """Where the files go: to the destination, or where they came from.

        Raises CorruptError for a manifest whose details make no sense.
        """

    @staticmethod
    @abc.abstractmethod
    def refuse_in_use(restoration: Restoration) -> None:
        """Raise RestoreError when an application has the destination open."""
