# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Unpack a tar where other users may be at work: what is written cannot be reached by anybody until all of it is."""

from __future__ import annotations

import contextlib
import os
import tarfile
from pathlib import Path
from typing import IO, BinaryIO, Dict, List, Optional, cast

from ...errors import BackupError, naming
from ...paths import anchored, create, make_directory, walk_up
from ...stream.stages import CHUNK, write_all
from .included import Included
from .members import checked_members, reading


def unpack(
    archive: BinaryIO, included: List[Included], targets: Dict[str, Path], uid: Optional[int], gid: Optional[int]
) -> None:
    """Check such a tar and unpack every included path to its target, which must not exist. Raises like check.

    All files belong to uid and gid, or to whom they belonged where these are None and this is root.
    """
    with reading(), contextlib.ExitStack() as stack:
        trees = {path: stack.enter_context(_Tree(target)) for path, target in targets.items()}
        for members, member, path in checked_members(archive, included):
            member.uid = member.uid if uid is None else uid
            member.gid = member.gid if gid is None else gid
            try:
                trees[path].add(members, member, member.name[len(path) + 1 :])
            except OSError as error:
                raise BackupError(f"cannot write {member.name}: {error.strerror}") from error
        for path, tree in trees.items():
            with naming(targets[path]):
                tree.finish()


class _Tree:
    """One target. While its directory is filled it is open to this user alone, so no link can be put below it."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._top: Optional[int] = None
        self._itself: Optional[tarfile.TarInfo] = None

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, *_: object) -> None:
        if self._top is not None:
            os.close(self._top)

    def add(self, members: tarfile.TarFile, member: tarfile.TarInfo, below: str) -> None:
        """Write one member; below is its path in the target, empty for the target itself."""
        if not below and member.isreg():
            _write_file(members, member, self._target)
            return
        if self._top is None:
            self._top = make_directory(self._target)
        if not below:
            self._itself = member
            return
        path = anchored(self._top, below)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if member.isreg():
            _write_file(members, member, path)
        else:
            path.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _give(descriptor, member)
            finally:
                os.close(descriptor)

    def finish(self) -> None:
        """Make all directories durable, after what is in them; at last let their owner in."""
        if self._top is None:
            return
        for directory, _files in walk_up(self._top):
            os.fsync(directory)
        if self._itself:
            _give(self._top, self._itself)
            os.fsync(self._top)


def _write_file(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    descriptor = _create(path)
    try:
        content = cast(IO[bytes], members.extractfile(member))
        while True:
            chunk = content.read(CHUNK)
            if not chunk:
                break
            write_all(descriptor, chunk)
        _give(descriptor, member)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    try:
        return create(path)
    except FileExistsError:
        # A file that changed while it was read follows itself.
        path.unlink()
        return create(path)


def _give(descriptor: int, member: tarfile.TarInfo) -> None:
    """Owner, mode and time."""
    if os.geteuid() == 0:
        os.fchown(descriptor, member.uid, member.gid)
    os.fchmod(descriptor, member.mode & 0o777 | (0o700 if member.isdir() else 0))
    os.utime(descriptor, (member.mtime, member.mtime))
