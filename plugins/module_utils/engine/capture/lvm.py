# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of logical volumes of LVM."""

from __future__ import annotations

from pathlib import Path
from typing import List, NamedTuple, Optional

from ..errors import SourceError
from .commands import Commands
from .mounts import Mount, holding
from .volumes import MountPoint, Snapshot, SnapshotWay, is_left

_DEVICES = ("/dev/mapper/", "/dev/dm-")
# Room for what applications write meanwhile, as a share of the volume; a thin volume needs none.
_SHARE = "20%ORIGIN"
# XFS refuses to mount a second file system of the same UUID.
_OPTIONS = {"xfs": "ro,nouuid"}
_SEPARATOR = "|"


class _Volume(NamedTuple):
    group: str
    name: str
    is_thin: bool


class LvmWay(SnapshotWay):
    """A snapshot of the logical volume, mounted read-only where only root can see it."""

    name = "lvm"
    programs = ("lvs", "lvcreate", "lvremove", "mount", "umount")

    def _unfit(self, directory: Path, mount: Mount) -> Optional[str]:
        if mount.kind == "btrfs" or not mount.source.startswith(_DEVICES):
            return f"{directory} is on {mount.kind} at {mount.source}, not on a logical volume of LVM"
        return None

    def _snapshot(self, directory: Path, name: str) -> Snapshot:
        mount = holding(directory, self._table)
        return _LvmSnapshot(directory, mount, self._volume(mount.source), name, self._commands)

    def _left(self, directory: Path) -> List[Snapshot]:
        mount = holding(directory, self._table)
        volume = self._volume(mount.source)
        names = self._commands.run("lvs", "--noheadings", "--options", "lv_name", volume.group).split()
        return [_LvmSnapshot(directory, mount, volume, name, self._commands) for name in names if is_left(name)]

    def _volume(self, device: str) -> _Volume:
        fields = "vg_name,lv_name,segtype"
        told = self._commands.run("lvs", "--noheadings", "--separator", _SEPARATOR, "--options", fields, device)
        lines = [line.strip().split(_SEPARATOR) for line in told.splitlines() if line.strip()]
        if not lines or len(lines[0]) != len(fields.split(",")):
            raise SourceError(f"lvs does not tell which logical volume {device} is")
        group, name, kind = lines[0]
        return _Volume(group, name, kind == "thin")


class _LvmSnapshot(Snapshot):
    def __init__(self, directory: Path, mount: Mount, volume: _Volume, name: str, commands: Commands) -> None:
        self._mount = mount
        self._volume = volume
        self._name = name
        self._commands = commands
        self._point = MountPoint(name, commands)
        below = directory.relative_to(mount.point)
        self.root = self._point.path / mount.root.lstrip("/") / below

    def make(self) -> None:
        origin = f"{self._volume.group}/{self._volume.name}"
        # A thin snapshot is not activated with its volume, unless told.
        size = ["--setactivationskip", "n"] if self._volume.is_thin else ["--extents", _SHARE]
        self._commands.run("lvcreate", "--snapshot", "--name", self._name, *size, origin)
        options = _OPTIONS.get(self._mount.kind, "ro")
        self._point.mount(f"/dev/{self._volume.group}/{self._name}", self._mount.kind, f"{options},nosuid,nodev,noexec")

    def spoilt(self) -> Optional[str]:
        if self._volume.is_thin:
            return None
        told = self._commands.run("lvs", "--noheadings", "--options", "lv_snapshot_invalid", self._path)
        if "invalid" not in told:
            return None
        return f"the snapshot of {self._volume.name} had no room for all that was written meanwhile"

    def remove(self) -> None:
        self._point.remove()
        names = self._commands.run("lvs", "--noheadings", "--options", "lv_name", self._volume.group).split()
        if self._name in names:
            self._commands.run("lvremove", "--yes", self._path)

    @property
    def _path(self) -> str:
        return f"{self._volume.group}/{self._name}"
