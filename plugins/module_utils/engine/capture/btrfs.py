# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of btrfs: of the subvolume that has the files, beside all others where no application looks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional

from ..errors import SourceError
from .commands import Commands
from .mounts import Mount, holding
from .volumes import MountPoint, Snapshot, SnapshotWay, is_left

# The inode of the root of each subvolume, and of the empty directory that stands for one in a snapshot of another;
# see fs/btrfs/ctree.h and inode.c of Linux.
_ROOT_INODE = 256
_PLACEHOLDER_INODE = 2


class BtrfsWay(SnapshotWay):
    """A read-only snapshot at the top of the file system, which is mounted for that where only root can see it."""

    name = "btrfs"
    programs = ("btrfs", "mount", "umount")

    def _unfit(self, directory: Path, mount: Mount) -> Optional[str]:
        return None if mount.kind == "btrfs" else f"{directory} is on {mount.kind}, not on btrfs"

    def _snapshot(self, directory: Path, name: str) -> Snapshot:
        return _BtrfsSnapshot(directory, holding(directory, self._table).source, name, self._commands)

    def _left(self, directory: Path) -> List[Snapshot]:  # noqa: ARG002 - seen when the file system is mounted
        return []


class _BtrfsSnapshot(Snapshot):
    def __init__(self, directory: Path, device: str, name: str, commands: Commands) -> None:
        self._directory = directory
        self._subvolume = _subvolume(directory)
        self._device = device
        self._top = MountPoint(name, commands)
        self._made = self._top.path / name
        self._commands = commands
        self.root = self._made / directory.relative_to(self._subvolume)

    def make(self) -> None:
        self._top.mount(self._device, "btrfs", "subvolid=5,nosuid,nodev,noexec")
        for name in filter(is_left, os.listdir(self._top.path)):
            self._delete(self._top.path / name)
        self._commands.run("btrfs", "subvolume", "snapshot", "-r", str(self._subvolume), str(self._made))
        self._refuse_inner()

    def remove(self) -> None:
        if self._top.is_mounted and os.path.lexists(self._made):
            self._delete(self._made)
        self._top.remove()

    def _delete(self, path: Path) -> None:
        # Anybody who may write at the top of the file system could have made something of this name.
        if os.lstat(path).st_ino == _ROOT_INODE:
            self._commands.run("btrfs", "subvolume", "delete", str(path))

    def _refuse_inner(self) -> None:
        for parent, names, _files, descriptor in os.fwalk(self.root):
            for name in names:
                if os.lstat(name, dir_fd=descriptor).st_ino == _PLACEHOLDER_INODE:
                    inner = self._directory / Path(parent).relative_to(self.root) / name
                    raise SourceError(f"{inner} is a subvolume of its own, which no snapshot brings along; use freeze")


def _subvolume(directory: Path) -> Path:
    """The root of the subvolume that has the directory."""
    device = os.lstat(directory).st_dev
    for path in [directory, *directory.parents]:
        status = os.lstat(path)
        if status.st_dev == device and status.st_ino == _ROOT_INODE:
            return path
    raise SourceError(f"the subvolume of {directory} is not mounted as a whole; use freeze")
