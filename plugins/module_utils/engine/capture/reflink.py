# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies that share the blocks of their originals, on XFS, btrfs and others: each file as of one moment."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from ..errors import SourceError, sentence
from ..paths import create
from .base import Held, Way
from .sight import Found, Sight, opened, walk

# FICLONE of ioctl_ficlone(2).
_CLONE = 0x40049409
_TRIES = 10
_CANNOT = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY)
_TREE = "tree"


class KeepsChangingError(SourceError):
    """Files changed while each of them was taken, so that together they are of no one moment."""


class ReflinkWay(Way):
    """Has a copy of the files in the scratch directory, which must be on their file system."""

    name = "reflink"

    def __init__(self, place: Optional[Path] = None) -> None:
        """place is where the scratch directory will be, or a directory above it that is there already."""
        self._place = place

    def obstacle(self, directory: Path) -> Optional[str]:
        place = self._place
        while place and not place.is_dir():
            place = place.parent
        first = next((one for one in walk(directory, ["."]) if stat.S_ISREG(one.status.st_mode)), None)
        if not place or first is None:
            return None
        return self._try(directory, first.path, place)

    @contextlib.contextmanager
    def hold(self, directory: Path, paths: Sequence[str], scratch: Path, alive: Callable[[], None]) -> Iterator[Held]:
        target = scratch / _TREE
        try:
            warnings = self._copy(directory, paths, target, alive)
            yield Held(target, warnings=warnings)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def _copy(self, directory: Path, paths: Sequence[str], target: Path, alive: Callable[[], None]) -> List[str]:
        for _unused in range(_TRIES):
            sight = Sight(directory, paths, alive)
            if sight.count > 1:
                sight.settle()
            try:
                warnings = _Clone(directory, target, alive).make(paths)
            except OSError as error:
                raise SourceError(f"the files of {directory} cannot be copied: {sentence(error)}") from error
            # That of one file is of one moment anyway.
            if sight.count == 1 or sight.is_same():
                return warnings
            shutil.rmtree(target)
        raise KeepsChangingError(
            f"the files in {directory} changed while they were copied, {_TRIES} times; use the method freeze"
        )

    @staticmethod
    def _try(directory: Path, path: str, place: Path) -> Optional[str]:
        trial = place / f".reflink-{os.getpid()}"
        told = f"{directory} and {place} are not on one file system that can share blocks of files, as XFS or btrfs"
        try:
            descriptor = create(trial)
        except OSError as error:
            return f"{place} cannot be written to: {error.strerror}"
        try:
            for found in walk(directory, [path]):
                with opened(found) as source:
                    fcntl.ioctl(descriptor, _CLONE, source)
        except OSError as error:
            return told if error.errno in _CANNOT else sentence(error)
        finally:
            os.unlink(trial)
            os.close(descriptor)
        return None


class _Clone:
    """Makes a copy of a tree: links stay links, names of one file stay names of one."""

    def __init__(self, directory: Path, target: Path, alive: Callable[[], None]) -> None:
        self._directory = directory
        self._target = target
        self._alive = alive
        self._names: Dict[Tuple[int, int], Path] = {}
        self._made: List[Tuple[Path, os.stat_result]] = []
        self._warnings: List[str] = []

    def make(self, paths: Sequence[str]) -> List[str]:
        """Returns warnings of what was left out."""
        self._target.mkdir(mode=0o700)
        for found in walk(self._directory, paths):
            with contextlib.suppress(FileNotFoundError):
                self._add(found)
            self._alive()
        # What is made in a directory changes its time.
        for path, status in reversed(self._made):
            _give(path, status)
        return self._warnings

    def _add(self, found: Found) -> None:
        path = self._target / found.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = found.status.st_mode
        if stat.S_ISDIR(mode):
            path.mkdir(mode=0o700, exist_ok=True)
            _copy_attributes(found, path)
            self._made.append((path, found.status))
        elif stat.S_ISLNK(mode):
            os.symlink(os.readlink(found.name, dir_fd=found.directory), path)
            _give(path, found.status)
        elif stat.S_ISREG(mode):
            self._add_file(found, path)
        else:
            self._warnings.append(f"{self._directory / found.path} is a socket, pipe or device and was left out")

    def _add_file(self, found: Found, path: Path) -> None:
        identity = found.status.st_dev, found.status.st_ino
        if identity in self._names:
            os.link(self._names[identity], path)
            return
        with opened(found) as source:
            descriptor = create(path)
            try:
                fcntl.ioctl(descriptor, _CLONE, source)
            except OSError as error:
                raise SourceError(f"{self._directory / found.path} cannot be cloned: {error.strerror}") from error
            finally:
                os.close(descriptor)
        _copy_attributes(found, path)
        _give(path, found.status)
        if found.status.st_nlink > 1:
            self._names[identity] = path


def _give(path: Path, status: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        # Attributes like access lists came before: this sets the part of them that is their mask as it was.
        os.chmod(path, stat.S_IMODE(status.st_mode) & 0o3777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _copy_attributes(found: Found, path: Path) -> None:
    """Those of users, and access lists, also where that means none in a directory that hands its own on.

    Others are of the host.
    """
    descriptor = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=found.directory)
    try:
        with contextlib.suppress(OSError):
            names = os.listxattr(descriptor)
            for name in os.listxattr(path):
                if name.startswith("system.posix_acl_") and name not in names:
                    os.removexattr(path, name)
            for name in names:
                if name.startswith(("user.", "system.posix_acl_")):
                    os.setxattr(path, name, os.getxattr(descriptor, name))
    finally:
        os.close(descriptor)
