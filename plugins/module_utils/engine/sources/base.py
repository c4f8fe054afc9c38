# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every database offers to the operations. Adding a database is adding an implementation of Source."""

from __future__ import annotations

import abc
import dataclasses
import datetime
from pathlib import Path
from typing import BinaryIO, ClassVar, Dict, List, Optional, Sequence, Tuple

from ..containers import readiness
from ..containers.container import Address
from ..errors import CorruptError, SourceError
from ..processes import DEFAULT_TIMEOUT
from ..repository.manifest import Kind, Manifest, Named, Origin
from ..repository.staging import Staging
from . import tree
from .tree import Included


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a look from outside tells, before anything is copied.

    scratch_copies: how many uncompressed copies lie in the repository while the database is captured.
    """

    origin: Origin
    engine: Named
    scratch_copies: int = 0


@dataclasses.dataclass(frozen=True)
class Capture:
    """What was copied into the staging, and how. opened: the engine has read all of just these bytes already.

    With needs_check it is no backup before it was opened, whatever the job says. cannot_open: nothing here can open
    it, so that its stored bytes are all that is read back; a warning tells so.
    """

    origin: Origin
    engine: Named
    kind: Kind
    warnings: List[str]
    opened: bool = False
    needs_check: bool = False
    cannot_open: bool = False


@dataclasses.dataclass(frozen=True)
class Tree:
    """What a tar of the backup must bring. is_data: it belongs to the database, a check reads it."""

    included: List[Included]
    is_data: bool = False

    @property
    def paths(self) -> List[str]:
        """What it brings, as Restoration has it as trees."""
        return [entry.path for entry in self.included]

    @property
    def least_size(self) -> int:
        """How many bytes such a tar has at least."""
        return sum(entry.size for entry in self.included)

    def check(self, archive: BinaryIO) -> None:
        """Read a tar to its end. Raises CorruptError when it does not bring just this."""
        tree.check(archive, self.included)

    def unpack(self, archive: BinaryIO, targets: Dict[str, Path], uid: Optional[int], gid: Optional[int]) -> List[str]:
        """Check a tar and unpack each of the paths to its target, which must not exist; returns warnings.

        All belongs to uid and gid, or to whom it belonged where these are None and this user may give it away.
        Raises CorruptError, BackupError.
        """
        tree.unpack(archive, self.included, targets, uid, gid)
        return []

    def is_unpacked(self, archive: BinaryIO, root: Path, any_owner: bool) -> bool:  # noqa: ARG002 - content counts
        """Whether what is below root is what the tar brings, and nothing else. Raises CorruptError."""
        return tree.is_unpacked(archive, self.included, root)


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Where the files of a backup go. Names are relative to root.

    files has the target of each record of content file, by record path; trees are the paths that a tar brings;
    stale are files of the database beside its data that must not survive a restore, as lock files, displaced those that
    are kept aside, as they may hold data; map_sizes has, by name, how many bytes an application must be ready to map.
    whole tells that the root belongs to the database alone: everything else in it is kept aside too. A tree of the path
    "." is the root itself, which is exchanged as a whole.
    """

    root: Path
    files: Dict[str, str]
    trees: List[str]
    stale: List[str]
    map_sizes: Dict[str, int]
    displaced: List[str] = dataclasses.field(default_factory=list)
    whole: bool = False

    @property
    def place(self) -> Path:
        """The directory in which things are exchanged."""
        return self.root.parent if "." in self.trees else self.root


@dataclasses.dataclass(frozen=True)
class Moment:
    """A point in the history of a database."""

    position: int
    time: datetime.datetime


@dataclasses.dataclass(frozen=True)
class Tools:
    """What a check or a drill may use to open a copy with its engine: a server out of an image at a Docker engine, or
    of a program; or a library. Never what a manifest names.

    timeout bounds the start of a server, and the silence of a process that reads; in seconds.
    """

    image: Optional[str] = None
    command: Optional[str] = None
    docker_host: Optional[str] = None
    timeout: float = DEFAULT_TIMEOUT
    library: Optional[str] = None


class Source(abc.ABC):
    """A database at a place (inspect, capture), and what is known of its copies anywhere (the static methods)."""

    type: ClassVar[str]
    # The command that unpacks its tars by hand.
    untar: ClassVar[str] = "tar x"
    # What a server of it answers with status 200 when it is well; empty for what is no server.
    heartbeat_paths: ClassVar[Tuple[str, ...]] = ()
    # The container the database is in, if any.
    container: Optional[Address] = None
    # How many backups there may be in a chain, the full one and increments; only full ones unless told.
    longest_chain: int = 1
    # Paths of this host where a run makes locks; and whether it talks to a server that is not in a container.
    places: Sequence[Path] = ()
    uses_network: bool = False
    # Whether a run stops or freezes an application: it has to see all processes, and to outlive its own end a little.
    halts_application: bool = False

    def obstacle(self) -> Optional[str]:
        """Why a run would not find its server now, which may pass, as it starts; None where nothing is in the way."""
        return readiness.obstacle(self.container, self.heartbeat_paths) if self.container else None

    @abc.abstractmethod
    def inspect(self) -> Inspection:
        """Look at the database without changing anything.

        Raises SourceError when it cannot be backed up, with the reason.
        """

    @abc.abstractmethod
    def capture(self, staging: Staging) -> Capture:
        """Stream a consistent copy into the staging.

        A source whose copy is in a file first has the engine read that meanwhile, if the staging is to be verified.
        Raises SourceError.
        """

    def capture_after(self, staging: Staging, prior: Manifest) -> Capture:  # noqa: ARG002 - for those that make them
        """Stream what was committed since the prior backup, as an increment, or else a full copy.

        The position of an increment begins where that of the prior backup ends. Its files must not have the paths of
        any that it builds on: name them by the id of the staging. Raises SourceError.
        """
        return self.capture(staging)

    @staticmethod
    @abc.abstractmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        """Whether nothing was committed since the backup whose origin is then; false when unknown."""

    @staticmethod
    @abc.abstractmethod
    def can_check(origin: Origin, tools: Tools) -> bool:
        """Whether this host has what it takes to open such a copy."""

    @staticmethod
    @abc.abstractmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:
        """Open the unpacked copies with the engine and read all of them.

        files has them by record path, a tar that is data as such. They are private files that were just made of what
        may come from a stranger: open them in a Child that runs as NOBODY, before it takes these rights or through a
        descriptor of processes.lent_to_nobody.
        Returns the origin completed with what was counted. Raises CorruptError.
        """

    @staticmethod
    @abc.abstractmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        """What the tars of the backup must bring, by record path."""

    @staticmethod
    def moment_of(line: bytes) -> Moment:  # noqa: ARG004 - the same
        """When the transaction was committed that this line of a file of an increment begins to tell of.

        Each line tells of one, in the order of their positions and times. line is not more than the first 4096 bytes
        of it. Raises CorruptError.
        """
        raise CorruptError("it is of a database of which there are no increments")

    @staticmethod
    @abc.abstractmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        """Where the files go: to the destination, or where they came from.

        Raises CorruptError for a manifest whose details make no sense.
        """

    @staticmethod
    @abc.abstractmethod
    def refuse_in_use(restoration: Restoration) -> List[str]:
        """Raise RestoreError when an application has the destination open; returns warnings of what cannot be seen."""

    def tools(self, told: Tools) -> Tools:
        """What checks and drills of this job may use: as told, else as its options say."""
        return told

    @classmethod
    def drill(cls, manifest: Manifest, restored: Restoration, tools: Tools) -> List[str]:
        """Open a restored copy, which may be changed, with the real engine; returns what was proven, one per line.

        Raises CorruptError when the copy does not hold what the backup should, SourceError when the engine is not here.
        """
        if not cls.can_check(manifest.source, tools):
            raise SourceError(f"a drill needs the engine of {manifest.engine.name} on this host")
        files = {path: restored.root / name for path, name in restored.files.items()}
        cls.check(files, manifest.source, tools)
        return ["opened and read whole by its engine"]
