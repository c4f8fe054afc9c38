# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of a restore beside the backup: where to, whose the files will be, and what is stopped meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import grp
import pwd
from pathlib import Path, PurePosixPath
from typing import Callable, ContextManager, List, Optional, Type

from ..containers.container import Address
from ..containers.standstill import standstill
from ..errors import CorruptError, RestoreError, UsageError
from ..repository.manifest import Manifest
from ..services import ServiceStandstill
from ..sources.base import Source, Tools
from ..standstill import Standstill
from .ownership import Ownership

_LARGEST_NUMBER = (1 << 32) - 2


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user wants: destination (default: where it came from), owner and group by name or number, mode bits.

    tools are for a copy that was never opened. With describe, the differences between what is there and what comes are
    told. container or service, a unit of systemd, is stopped while its files are exchanged, and started; heartbeat is a
    URL that must answer then, health a program with its arguments that must end with 0.
    """

    destination: Optional[Path] = None
    force: bool = False
    owner: Optional[str] = None
    group: Optional[str] = None
    mode: Optional[int] = None
    tools: Tools = dataclasses.field(default_factory=Tools)
    describe: bool = False
    container: Optional[Address] = None
    service: Optional[str] = None
    heartbeat: Optional[str] = None
    health: List[str] = dataclasses.field(default_factory=list)

    def ownership(self) -> Ownership:
        """Owner, group and mode as they are asked for. Raises UsageError for what makes no sense."""
        if self.mode is not None and not 0 <= self.mode <= 0o777:
            raise UsageError(f"mode {self.mode:o} is out of range; give three octal digits, as 0640")
        uid = _number(self.owner, "owner", lambda name: pwd.getpwnam(name).pw_uid)
        gid = _number(self.group, "group", lambda name: grp.getgrnam(name).gr_gid)
        return Ownership(uid, gid, self.mode)

    def standstill(self, source: Type[Source]) -> ContextManager[Optional[Standstill]]:
        """What is stopped and started. Raises UsageError, SourceError when it is not there."""
        if self.container and self.service:
            raise UsageError("give container or service, not both")
        if self.container:
            paths = source.heartbeat_paths
            urls = [self.heartbeat] if self.heartbeat else []
            return standstill(self.container, urls, paths, self.health)
        if self.service:
            paths = source.heartbeat_paths if self.heartbeat else ()
            return ServiceStandstill(self.service, self.heartbeat, paths, self.health)
        if self.heartbeat or self.health:
            raise UsageError("heartbeat and health are asked of a container or service that was started again; name it")
        return contextlib.nullcontext()


def destination_of(manifest: Manifest, request: Request, application: Optional[Standstill]) -> Optional[Path]:
    """The one asked for, or of a backup of a container the directory of the host that has the files."""
    came_from = manifest.source.details.get("container")
    if request.destination or not came_from:
        return request.destination
    if not application:
        raise RestoreError(
            "the backup is of a container; name it with container, or tell where to restore to with dest"
        )
    # A database of one file is told by its path, its directory beside it.
    path, directory = PurePosixPath(manifest.source.path), PurePosixPath(str(came_from.get("directory")))
    if directory not in (path, path.parent):
        raise CorruptError(f"the manifest is not valid: source: {path} is not in {directory} of the container")
    return application.host_directory(directory) / path.relative_to(directory)


def _number(name: Optional[str], what: str, look_up: Callable[[str], int]) -> Optional[int]:
    if name is None:
        return None
    try:
        number = int(name) if name.isdigit() else look_up(name)
    except KeyError:
        raise UsageError(f"{what} {name!r} does not exist on this host") from None
    if number > _LARGEST_NUMBER:
        raise UsageError(f"{what} {name!r} is out of range")
    return number
