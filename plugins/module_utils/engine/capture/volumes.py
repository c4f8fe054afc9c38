# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A snapshot of a volume: made, read at its root, and removed whatever becomes of the process that made it."""

from __future__ import annotations

import abc
import contextlib
import os
import re
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence

from ..errors import SourceError
from ..guard import Guard
from ..interrupts import held_back
from . import mounts
from .base import Held, Way
from .commands import Commands
from .mounts import Mount

# Where the file systems of snapshots are mounted: not in a repository, from which a later run removes what is left.
_PLACE = Path("/run/db-backup")
_PREFIX = "db-backup-snapshot"
# CAP_SYS_ADMIN of linux/capability.h.
_SYS_ADMIN = 21
_NAME = re.compile(_PREFIX + r"-([0-9]+)-([0-9]+)-([0-9]+)")


def own_name() -> str:
    """What a snapshot of this process is called: by the namespace of its number, its number, and when it started."""
    pid = os.getpid()
    return f"{_PREFIX}-{_namespace()}-{pid}-{_started(pid)}"


def is_left(name: str) -> bool:
    """Whether it is the name of a snapshot whose process is gone. One of another namespace cannot be known."""
    found = _NAME.fullmatch(name)
    return bool(found and found[1] == _namespace() and _started(int(found[2])) != found[3])


def _namespace() -> str:
    return re.sub("[^0-9]", "", os.readlink("/proc/self/ns/pid"))


def _started(pid: int) -> Optional[str]:
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # After the name, which may hold anything, the twentieth; see proc(5).
    return status.rpartition(b")")[2].split()[19].decode()


class Snapshot(abc.ABC):
    """One snapshot. remove may be called at any time and again, also for one that was never made."""

    root: Path

    @abc.abstractmethod
    def make(self) -> None:
        """Make it and have it readable at root. Raises SourceError."""

    @abc.abstractmethod
    def remove(self) -> None:
        """Have nothing left of it. Raises SourceError, OSError."""

    def spoilt(self) -> Optional[str]:
        """Why what was read of it cannot be trusted, if so. Raises SourceError."""
        return None


class SnapshotWay(Way):
    """Holds files still by a snapshot of the volume that they are on."""

    programs: Sequence[str]

    def __init__(self, commands: Optional[Commands] = None, table: Callable[[], List[Mount]] = mounts.mounts) -> None:
        self._commands = commands or Commands()
        self._table = table

    def obstacle(self, directory: Path) -> Optional[str]:
        found = Path(os.path.realpath(directory))
        reason = self._unfit(found, mounts.holding(found, self._table))
        if reason:
            return reason
        if os.geteuid() != 0:
            return f"only root can make and remove snapshots of the file system of {directory}"
        if not _may_mount():
            return (
                f"the sandbox of this service keeps it from mounting a snapshot of the file system of {directory}; "
                "have the repository on the same XFS or btrfs, use freeze, or give it what docs/capture.md tells"
            )
        missing = self._commands.missing(*self.programs)
        return f"{missing} is not installed, which a snapshot of {directory} needs" if missing else None

    @contextlib.contextmanager
    def hold(
        self,
        directory: Path,
        paths: Sequence[str],  # noqa: ARG002 - a snapshot has all of them
        scratch: Path,  # noqa: ARG002 - nothing is copied
        alive: Callable[[], None],
    ) -> Iterator[Held]:
        obstacle = self.obstacle(directory)
        if obstacle:
            raise SourceError(obstacle)
        found = Path(os.path.realpath(directory))
        warnings = self._remove_left(found)
        snapshot = self._snapshot(found, own_name())
        with Guard(lambda: None, lambda: _is_removed(snapshot)) as guard:
            try:
                snapshot.make()
                alive()
                yield Held(snapshot.root, warnings=warnings)
                spoilt = snapshot.spoilt()
                if spoilt:
                    raise SourceError(spoilt)
            finally:
                with held_back():
                    snapshot.remove()
                    guard.release()

    @abc.abstractmethod
    def _unfit(self, directory: Path, mount: Mount) -> Optional[str]:
        """Why there are no such snapshots of what is mounted there."""

    @abc.abstractmethod
    def _snapshot(self, directory: Path, name: str) -> Snapshot:
        """One of this name, to be made, whose root shows what is in the directory."""

    @abc.abstractmethod
    def _left(self, directory: Path) -> List[Snapshot]:
        """Snapshots of processes that are gone."""

    def _remove_left(self, directory: Path) -> List[str]:
        """Returns warnings: what cannot be removed must not stop the run."""
        warnings = []
        for name in MountPoint.left():
            with contextlib.suppress(SourceError, OSError):
                MountPoint(name, self._commands).remove()
        for snapshot in self._left(directory):
            try:
                snapshot.remove()
            except (SourceError, OSError) as error:
                warnings.append(f"the snapshot {snapshot.root.name} of a killed run cannot be removed: {error}")
        return warnings


class MountPoint:
    """A private directory on which a file system is mounted for a while."""

    def __init__(self, name: str, commands: Commands, place: Path = _PLACE) -> None:
        self.path = place / name
        self._commands = commands

    @staticmethod
    def left(place: Path = _PLACE) -> List[str]:
        """The names of those whose process is gone."""
        with contextlib.suppress(FileNotFoundError):
            return [name for name in sorted(os.listdir(place)) if is_left(name)]
        return []

    def mount(self, source: str, kind: str, options: str) -> None:
        """Raises SourceError."""
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        os.chmod(self.path.parent, 0o700)
        self._commands.run("mount", "-t", kind, "-o", options, "--", source, str(self.path))

    @property
    def is_mounted(self) -> bool:
        """Whether anything is mounted there."""
        return os.path.ismount(self.path)

    def remove(self) -> None:
        """Unmount and remove the directory, if it is there. Raises SourceError, OSError."""
        if self.is_mounted:
            self._commands.run("umount", "--", str(self.path))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.path)


def _may_mount() -> bool:
    """Whether this process has the capability for that, which the service of a job does not have by itself."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> _SYS_ADMIN & 1)


def _is_removed(snapshot: Snapshot) -> bool:
    try:
        snapshot.remove()
    except OSError:
        return False
    return True
