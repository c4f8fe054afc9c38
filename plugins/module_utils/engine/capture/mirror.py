# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy of files in a private directory, made while they are written to, and brought up to date in a short time.

Everything is reached through open directories, and no link is followed. In a child process only: a file that becomes
shorter, or a disk that fails, crashes who has it mapped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from ..errors import SourceError
from ..paths import anchored, open_relative
from . import metadata
from .blocks import Changes, WriteBack, copy_all
from .clones import NoCloneError, clone
from .mapped import mapped_for_writing

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE)
_DEEPEST = 200
# Files that were written to meanwhile stay open and in memory; there are as many as an application has at work.
_MOST_KEPT = 64
# A file system may tell the same time for so many seconds, in which a file can be written twice.
_TICK = 0.1


class Mirror:
    """What is at the paths below the open directory source, in the open directory target, which is empty at first.

    shown is how messages call the source. With clones_only every file has to be one clone of its source, of one moment.
    """

    def __init__(
        self,
        source: int,
        target: int,
        paths: Sequence[str],
        alive: Callable[[], None],
        *,
        shown: Path,
        clones_only: bool = False,
    ) -> None:
        self._source = source
        self._target = target
        self._paths = sorted(set(paths))
        self._alive = alive
        self._shown = shown
        self._clones_only = clones_only
        self._stamps: Dict[str, metadata.Stamp] = {}
        self._kept: Dict[str, _Kept] = {}
        self._directories: Dict[str, os.stat_result] = {}
        self._links: Dict[Tuple[int, int], str] = {}
        self._cannot_clone: Set[int] = set()
        self._mapped: Optional[Set[int]] = None
        self._begun = 0.0
        self._still = False
        self._times = 0
        self._left_out: Set[str] = set()
        self._lost: Set[str] = set()

    @property
    def warnings(self) -> List[str]:
        """What could not be kept."""
        told = [f"{self._shown / path} is neither a file nor a directory and was left out" for path in self._left_out]
        told += [f"{name} of files could not be kept in their copies" for name in self._lost]
        return sorted(told)

    def refresh(self, still: bool) -> None:
        """Make the copy what the source is now; the first time, copy all of it.

        still tells that nobody writes to it: whatever comes or goes nevertheless is an error. Else it is passed over,
        to be found the next time. Raises SourceError.
        """
        if not self._times:
            # A clone takes no time, so that no file need be known to be quiet.
            self._begun, self._mapped = time.time(), None if self._clones_only else mapped_for_writing()
        self._still = still
        self._times += 1
        self._directories.clear()
        self._links.clear()
        for path in self._paths:
            with self._parents(path) as (source, target, name):
                self._entry(source, target, "" if path == "." else path, name)
        if still:
            self._refuse_changed()

    def finish(self) -> None:
        """Give directories their owners, modes and times, which nobody has to stand still for."""
        for kept in self._kept.values():
            kept.close()
        for path in sorted(self._directories, key=len, reverse=True):
            descriptor = open_relative(self._target, path.split("/") if path else [], _DIRECTORY)
            try:
                metadata.give(descriptor, self._directories[path])
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _parents(self, path: str) -> Iterator[Tuple[int, int, str]]:
        """The open directories that the path is in, made in the copy where they are missing."""
        *parents, name = path.split("/")
        source, target = os.dup(self._source), os.dup(self._target)
        try:
            for number, parent in enumerate(parents):
                inner = self._opened(source, parent, _DIRECTORY, path)
                os.close(source)
                source = inner
                with contextlib.suppress(FileExistsError):
                    os.mkdir(parent, 0o700, dir_fd=target)
                inner = open_relative(target, [parent], _DIRECTORY)
                os.close(target)
                target = inner
                self._directories["/".join(parents[: number + 1])] = os.fstat(source)
            if name != "." and not _exists(source, name):
                raise SourceError(f"there is no {self._shown / path}")
            yield source, target, name
        finally:
            os.close(source)
            os.close(target)

    def _opened(self, directory: int, name: str, flags: int, path: str) -> int:
        try:
            return open_relative(directory, [name], flags)
        except OSError as error:
            raise SourceError(f"{self._shown / path} cannot be read: {error.strerror}") from error

    def _entry(self, source: int, target: int, path: str, name: str) -> None:
        """Bring one name up to date."""
        self._alive()
        try:
            status = os.lstat(name, dir_fd=source)
            if stat.S_ISDIR(status.st_mode):
                self._directory(source, target, path, name)
            elif stat.S_ISREG(status.st_mode):
                self._file(source, target, path, name, status)
            elif stat.S_ISLNK(status.st_mode):
                self._link(source, target, path, name, status)
            else:
                self._left_out.add(path)
                self._remove(target, path, name)
        except OSError as error:
            shown = self._shown / path
            if error.errno in _GONE:
                if self._still:
                    raise SourceError(f"{shown} was replaced or removed while the application stood still") from error
                self._remove(target, path, name)
                return
            raise SourceError(f"{shown} cannot be copied: {error.strerror}") from error

    def _directory(self, source: int, target: int, path: str, name: str) -> None:
        if path.count("/") > _DEEPEST:
            raise SourceError(f"{self._shown / path} is nested too deeply; at most {_DEEPEST} levels are copied")
        opened = open_relative(source, [name], _DIRECTORY)
        try:
            if name != "." and not stat.S_ISDIR(_mode_of(target, name)):
                self._remove(target, path, name)
                os.mkdir(name, 0o700, dir_fd=target)
            inner = open_relative(target, [name], _DIRECTORY)
            try:
                self._children(opened, inner, path)
            finally:
                os.close(inner)
            status = os.fstat(opened)
            self._directories[path] = status
            if self._stamps.get(path) != metadata.stamp(status):
                inner = open_relative(target, [name], _DIRECTORY)
                try:
                    self._lost |= metadata.copy_attributes(opened, inner)
                finally:
                    os.close(inner)
                self._stamps[path] = metadata.stamp(status)
        finally:
            os.close(opened)

    def _children(self, source: int, target: int, path: str) -> None:
        names = sorted(os.listdir(source))
        for name in set(os.listdir(target)).difference(names):
            self._remove(target, f"{path}/{name}".lstrip("/"), name)
        for name in names:
            self._entry(source, target, f"{path}/{name}".lstrip("/"), name)

    def _file(self, source: int, target: int, path: str, name: str, status: os.stat_result) -> None:
        identity = status.st_dev, status.st_ino
        first = self._links.get(identity)
        if first is not None:
            self._hard_link(target, path, name, first)
            return
        if status.st_nlink > 1:
            self._links[identity] = path
        if self._is_quiet(path, status) and stat.S_ISREG(_mode_of(target, name)):
            return
        kept = self._kept.get(path)
        if not kept or self._stamps[path][:2] != identity:
            kept = self._open_both(source, target, path, name)
        try:
            self._bring(kept, path)
        except BaseException:
            self._forget(path)
            kept.close()
            raise
        if self._times > 1 and (path in self._kept or len(self._kept) < _MOST_KEPT) and not kept.is_clone:
            self._kept[path] = kept
        else:
            kept.close()

    def _open_both(self, source: int, target: int, path: str, name: str) -> _Kept:
        opened = open_relative(source, [name], os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            known = self._stamps.get(path)
            if (
                known is None
                or not stat.S_ISREG(_mode_of(target, name))
                or known[:2] != metadata.stamp(os.fstat(opened))[:2]
            ):
                # Another file than before: what was one with other names may not be any more.
                self._remove(target, path, name)
            else:
                os.chmod(name, 0o600, dir_fd=target)
            copied = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
        except BaseException:
            os.close(opened)
            raise
        return _Kept(opened, copied)

    def _bring(self, kept: _Kept, path: str) -> None:
        """Make one copy what its file is now."""
        before = os.fstat(kept.source)
        if metadata.stamp(before)[:2] != (self._stamps.get(path) or metadata.stamp(before))[:2]:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        if self._clone(kept, before):
            kept.is_clone = True
        elif self._clones_only:
            raise SourceError(f"{self._shown / path} cannot be cloned to where the copy is made")
        elif path not in self._stamps:
            copy_all(kept.source, kept.target, self._alive, write_back=WriteBack(kept.target))
        else:
            if not kept.changes:
                kept.changes = Changes(kept.source, kept.target, self._alive)
            kept.changes.fetch()
        if self._stamps.get(path) != metadata.stamp(before):
            self._lost |= metadata.copy_attributes(kept.source, kept.target)
        metadata.give(kept.target, before)
        self._stamps[path] = metadata.stamp(before)
        if self._still and metadata.stamp(os.fstat(kept.source)) != metadata.stamp(before):
            raise self._written_to(path)

    def _clone(self, kept: _Kept, status: os.stat_result) -> bool:
        # What is compared block by block has to keep its blocks.
        if kept.changes or status.st_dev in self._cannot_clone:
            return False
        try:
            clone(kept.source, kept.target)
        except NoCloneError as error:
            if error.never:
                self._cannot_clone.add(status.st_dev)
            return False
        return True

    def _is_quiet(self, path: str, status: os.stat_result) -> bool:
        """Whether nobody can have written to it since it was copied: not even a map of it, which leaves no trace."""
        return (
            self._mapped is not None
            and self._stamps.get(path) == metadata.stamp(status)
            and status.st_ctime_ns < (self._begun - _TICK) * 1e9
            and status.st_ino not in self._mapped
        )

    def _refuse_changed(self) -> None:
        for path, kept in self._kept.items():
            if metadata.stamp(os.fstat(kept.source)) != self._stamps[path]:
                raise self._written_to(path)

    def _written_to(self, path: str) -> SourceError:
        return SourceError(
            f"{self._shown / path} was written to while the application stood still; somebody else has it open too"
        )

    def _hard_link(self, target: int, path: str, name: str, first: str) -> None:
        *parents, last = first.split("/")
        directory = open_relative(self._target, parents, _DIRECTORY)
        try:
            original = os.lstat(last, dir_fd=directory)
            if _identity_of(target, name) != (original.st_dev, original.st_ino):
                self._remove(target, path, name)
                os.link(last, name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(directory)

    def _link(self, source: int, target: int, path: str, name: str, status: os.stat_result) -> None:
        leads_to = os.readlink(name, dir_fd=source)
        if self._stamps.get(path) != metadata.stamp(status) or not stat.S_ISLNK(_mode_of(target, name)):
            self._remove(target, path, name)
            os.symlink(leads_to, name, dir_fd=target)
            metadata.give_link(target, name, status)
            self._stamps[path] = metadata.stamp(status)

    def _remove(self, target: int, path: str, name: str) -> None:
        """Take a name out of the copy, with all below it."""
        self._forget(path)
        mode = _mode_of(target, name)
        if stat.S_ISDIR(mode):
            shutil.rmtree(anchored(target, name))
            for known in [known for known in self._stamps if known.startswith(path + "/")]:
                self._forget(known)
        elif mode:
            os.unlink(name, dir_fd=target)

    def _forget(self, path: str) -> None:
        self._stamps.pop(path, None)
        kept = self._kept.pop(path, None)
        if kept:
            kept.close()


class _Kept:
    """A file and its copy, both open."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.changes: Optional[Changes] = None
        self.is_clone = False
        self._is_open = True

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self.changes:
            self.changes.close()
        os.close(self.source)
        os.close(self.target)


def _exists(directory: int, name: str) -> bool:
    return _mode_of(directory, name) != 0


def _mode_of(directory: int, name: str) -> int:
    try:
        return os.lstat(name, dir_fd=directory).st_mode
    except FileNotFoundError:
        return 0


def _identity_of(directory: int, name: str) -> Optional[Tuple[int, int]]:
    try:
        status = os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
