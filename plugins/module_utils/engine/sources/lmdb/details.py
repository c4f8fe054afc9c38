# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a manifest tells of LMDB environments."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import List, Optional, Sequence, Union

from ...containers.locate import ContainerFacts
from ...decoding import DecodingError, decode, encode
from ...errors import CorruptError
from ...paths import is_safe_relative, overlap
from ...repository.manifest import Named, Origin, Position
from .. import tree
from .format import DLMDB, LMDB, LMDB_1
from .library import Database

# All as of one point in time, or each as of its own.
ONE, EACH = "one", "each"
_VERSIONS = {LMDB: "0.9", DLMDB: "DLMDB", LMDB_1: "1.0"}


@dataclasses.dataclass(frozen=True)
class Environment:
    """One environment in a manifest; path is that of its data file below the source.

    tries is how often it was copied until no commit could have touched the copy; only an unlocked one needs several.
    method is how it was copied, reason why not out of a read transaction.
    """

    path: str
    data_version: int
    lock_version: Optional[int]
    page_size: int
    map_size: int
    position: Position
    databases: List[Database]
    tries: int = 1
    method: str = "hot"
    reason: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Details:
    """What a manifest tells of an LMDB source beside the fields of all sources.

    point_in_time: whether all environments and included files are as of one point in time, or each as of its own, in
    the order in which they stand here, the included files last. paused_ms is for how many milliseconds the application
    stood still for that, if it did. snapshot is which of its ways the method snapshot took, as btrfs, container the one
    that they were in.
    """

    environments: List[Environment]
    include: List[tree.Included] = dataclasses.field(default_factory=list)
    single_file: bool = False
    point_in_time: str = EACH
    paused_ms: Optional[int] = None
    snapshot: Optional[str] = None
    container: Optional[ContainerFacts] = None


def origin(path: Union[Path, str], details: Details, size: int) -> Origin:
    """What a manifest tells of the source; size is in bytes."""
    only = details.environments[0].position if len(details.environments) == 1 else None
    return Origin(path=str(path), size=size, position=only, details=encode(details))


def details_of(told: Origin) -> Details:
    """Raises CorruptError for what makes no sense."""
    try:
        details = decode(Details, told.details, "source")
    except DecodingError as error:
        raise CorruptError(f"the manifest is not valid: {error}") from error
    for path in [entry.path for entry in details.environments] + [entry.path for entry in details.include]:
        if not is_safe_relative(path):
            raise CorruptError(f"the manifest is not valid: source: {path!r} is not a path below the source")
    included = [entry.path for entry in details.include]
    environments = [entry.path for entry in details.environments]
    if overlap(included + environments) or (details.single_file and len(environments) != 1):
        raise CorruptError("the manifest is not valid: source: its environments and included paths overlap")
    return details


def refuse_mismatch(details: Details, paths: Sequence[str]) -> None:
    """Raise CorruptError unless the files are those of the environments."""
    if sorted(environment.path for environment in details.environments) != sorted(paths):
        raise CorruptError("the files and the environments of the manifest do not match")


def engine_of(environments: List[Environment]) -> Named:
    """The engine, and the versions of it that wrote them."""
    versions = sorted({environment.data_version for environment in environments})
    return Named("lmdb", ", ".join(_VERSIONS[version] for version in versions))
