# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of ZFS, which shows them below the directory .zfs of their dataset."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

from .commands import Commands
from .mounts import Mount, holding
from .volumes import Snapshot, SnapshotWay, is_left


class ZfsWay(SnapshotWay):
    """A snapshot of the dataset; ZFS itself mounts it read-only when it is looked at."""

    name = "zfs"
    programs = ("zfs",)

    def _unfit(self, directory: Path, mount: Mount) -> Optional[str]:
        return None if mount.kind == "zfs" else f"{directory} is on {mount.kind}, not on ZFS"

    def _snapshot(self, directory: Path, name: str) -> Snapshot:
        return _ZfsSnapshot(directory, holding(directory, self._table), name, self._commands)

    def _left(self, directory: Path) -> List[Snapshot]:
        mount = holding(directory, self._table)
        names = _names(mount.source, self._commands)
        return [_ZfsSnapshot(directory, mount, name, self._commands) for name in names if is_left(name)]


class _ZfsSnapshot(Snapshot):
    def __init__(self, directory: Path, mount: Mount, name: str, commands: Commands) -> None:
        self._dataset = mount.source
        self._name = name
        self._commands = commands
        self.root = mount.point / ".zfs/snapshot" / name / directory.relative_to(mount.point)

    def make(self) -> None:
        self._commands.run("zfs", "snapshot", f"{self._dataset}@{self._name}")

    def remove(self) -> None:
        if self._name in _names(self._dataset, self._commands):
            self._commands.run("zfs", "destroy", f"{self._dataset}@{self._name}")


def _names(dataset: str, commands: Commands) -> List[str]:
    told = commands.run("zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-d", "1", dataset)
    return [line.partition("@")[2] for line in told.splitlines()]
