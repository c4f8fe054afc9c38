# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Unpack a tar of a directory where other users may be at work: nobody can reach what is written until all of it is."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ...errors import BackupError
from ...paths import make_directory, open_relative
from . import members
from .listing import Listing
from .members import Member, shown
from .reading import Content, Entry, entries

_ACCESS, _DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
_NOT_KEPT = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL)
_GROUP = 0o070


def unpack(archive: BinaryIO, told: Listing, target: Path, uid: Optional[int], gid: Optional[int]) -> List[str]:
    """Check such a tar and unpack it to the target, which must not exist; returns warnings. Raises like entries.

    All belongs to uid and gid, or to whom it belonged where these are None, as far as this user may give it away.
    """
    unpacking = _Unpacking(_Giving(uid, gid))
    with contextlib.closing(unpacking):
        for entry in entries(archive, told):
            try:
                unpacking.add(entry, target)
            except OSError as error:
                raise BackupError(f"cannot write {shown(entry.member.path)}: {error.strerror}") from error
        try:
            unpacking.finish()
        except OSError as error:
            raise BackupError(f"cannot write a directory: {error.strerror}") from error
    return unpacking.giving.warnings


class _Giving:
    """Gives what was written its owner, attributes, mode and time, in this order, and knows what could not be given."""

    def __init__(self, uid: Optional[int], gid: Optional[int]) -> None:
        self._uid = uid
        self._gid = gid
        self._not_given = 0
        self._lost: Dict[str, int] = {}

    @property
    def warnings(self) -> List[str]:
        told = [f"{name} could not be kept for {count} files" for name, count in sorted(self._lost.items())]
        if self._not_given:
            told.append(f"{self._not_given} files and directories could not be given to their owners by this user")
        return told

    def give(self, descriptor: int, member: Member) -> None:
        """To an open file or directory."""
        with self._noting():
            os.fchown(descriptor, *self._owner(member))
        mode = member.mode
        for name, value in member.attributes.items():
            try:
                os.setxattr(descriptor, name, value)
            except OSError as error:
                if error.errno not in _NOT_KEPT:
                    raise
                shown_name = name.decode("utf-8", "backslashreplace")
                self._lost[shown_name] = self._lost.get(shown_name, 0) + 1
                if name == _ACCESS:
                    # Where there is no such list, these bits are what the whole group may.
                    mode &= ~_GROUP
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(member.mtime, member.mtime))

    def give_link(self, directory: int, name: bytes, member: Member) -> None:
        """To a link, which has no mode."""
        with self._noting():
            os.chown(name, *self._owner(member), dir_fd=directory, follow_symlinks=False)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=directory, follow_symlinks=False)

    def _owner(self, member: Member) -> Tuple[int, int]:
        return member.uid if self._uid is None else self._uid, member.gid if self._gid is None else self._gid

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            if os.geteuid() == 0 or self._uid is not None or self._gid is not None:
                raise
            self._not_given += 1


class _Open(NamedTuple):
    """A directory that is being filled."""

    member: Member
    descriptor: int


class _Unpacking:
    """One target. Directories stay open to this user alone while they are filled, the target itself to the end."""

    def __init__(self, giving: _Giving) -> None:
        self.giving = giving
        self._open: List[_Open] = []

    def close(self) -> None:
        """Release what is open."""
        while self._open:
            os.close(self._open.pop().descriptor)

    def add(self, entry: Entry, target: Path) -> None:
        """Write one member."""
        member = entry.member
        if not self._open:
            self._open.append(_Open(member, make_directory(target)))
            _forget_inherited(self._open[0].descriptor)
            return
        above, name = os.path.split(member.path)
        while self._open[-1].member.path != (above or members.TOP):
            self._leave()
        directory = self._open[-1].descriptor
        if member.kind == members.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=directory)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._open.append(_Open(member, os.open(name, flags, dir_fd=directory)))
        elif member.kind == members.LINK:
            os.symlink(member.target, name, dir_fd=directory)
            self.giving.give_link(directory, name, member)
        elif member.kind == members.HARD_LINK:
            self._link(member.target, directory, name)
        else:
            self._write(directory, name, member, entry.content)

    def finish(self) -> None:
        """Let the owner in, when all is there and durable."""
        while self._open:
            self._leave()

    def _leave(self) -> None:
        """A directory is full."""
        last = self._open[-1]
        self.giving.give(last.descriptor, last.member)
        os.fsync(last.descriptor)
        os.close(self._open.pop().descriptor)

    def _write(self, directory: int, name: bytes, member: Member, content: Content) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            for offset, data in content:
                _write_at(descriptor, offset, data)
            os.ftruncate(descriptor, member.size)
            self.giving.give(descriptor, member)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _link(self, target: bytes, directory: int, name: bytes) -> None:
        """A further name of a file that is here already: the order of the tar tells so."""
        *parents, last = [os.fsdecode(part) for part in target.split(b"/")]
        above = open_relative(self._open[0].descriptor, parents, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(last, os.fsdecode(name), src_dir_fd=above, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(above)


def _write_at(descriptor: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset, view = offset + written, view[written:]


def _forget_inherited(directory: int) -> None:
    """What is made in a directory gets the default access list of that above it, which is not of the backup."""
    for name in (_DEFAULT, _ACCESS):
        with contextlib.suppress(OSError):
            os.removexattr(directory, name)
