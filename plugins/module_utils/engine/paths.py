# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names and paths from outside: checked, then opened without following any link."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Iterator, List, Sequence, Tuple

from .errors import DESCRIPTORS, BackupError, CorruptError, UsageError, naming

JOB_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]*")
_LONGEST_JOB_NAME = 100
_ANCHOR = re.compile(re.escape(DESCRIPTORS) + "[0-9]+")
_NO_OWNER = (1 << 32) - 1


def check_job_name(name: str) -> str:
    """Return the name when it is one a job may have.

    Raises UsageError.
    """
    if len(name) > _LONGEST_JOB_NAME or not JOB_NAME_PATTERN.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a job name: use at most {_LONGEST_JOB_NAME} lower-case letters, digits, "
            "'-' and '_', beginning with a letter or digit"
        )
    return name


def is_safe_relative(path: str) -> bool:
    """Whether the path stays below the place it is relative to and prints as one line."""
    if not path or path != str(PurePosixPath(path)) or path.startswith("/"):
        return False
    if any(part in ("..", ".") for part in path.split("/")):
        return False
    return path.isprintable() and "\\" not in path


def is_owner(uid: int, gid: int) -> bool:
    """Whether these are numbers a user and a group can have; the largest one means nobody in particular."""
    return 0 <= uid < _NO_OWNER and 0 <= gid < _NO_OWNER


def overlap(paths: Sequence[str]) -> bool:
    """Whether two of the relative paths are the same, or one lies below another."""
    known = set(paths)
    return len(known) < len(paths) or any(
        str(parent) in known for path in paths for parent in PurePosixPath(path).parents
    )


def open_below(directory: int, path: str, flags: int) -> int:
    """Open a checked relative path below an open directory; no component may be a link.

    Raises CorruptError for an unsafe path, OSError from the system (ELOOP or ENOTDIR for a link).
    """
    if not is_safe_relative(path):
        raise CorruptError(f"{path!r} is not a path below the backup")
    return open_relative(directory, path.split("/"), flags)


def open_relative(directory: int, parts: Sequence[str], flags: int) -> int:
    """Open what lies below an open directory, or itself without parts; no part may be a link. Raises OSError."""
    *parents, name = parts or ["."]
    opened = os.dup(directory)
    try:
        for parent in parents:
            inner = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened)
            os.close(opened)
            opened = inner
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened)
    finally:
        os.close(opened)


def open_directory(path: Path) -> int:
    """Open an absolute path that leads through no link. Raises OSError."""
    top = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return open_relative(top, path.parts[1:], os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(top)


@contextlib.contextmanager
def opened_inside(root: Path, path: str) -> Iterator[int]:
    """A file below a directory, for reading; the way there may lead through no link. Raises OSError."""
    top = open_directory(root)
    try:
        with opened(top, path) as descriptor:
            yield descriptor
    finally:
        os.close(top)


@contextlib.contextmanager
def opened(directory: int, path: str) -> Iterator[int]:
    """The same below a directory that is open already."""
    descriptor = open_relative(directory, path.split("/"), os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def anchored(directory: int, name: str = "") -> Path:
    """A path into an open directory. It leads there whatever others move, or replace by links, on the way to it."""
    return Path(f"{DESCRIPTORS}{directory}", name)


def create(path: Path) -> int:
    """A new private file, opened for reading and writing. Raises OSError."""
    return os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def make_directory(path: Path) -> int:
    """Create a private directory and open it.

    Raises OSError, or BackupError when the owner of the directory above put something else in its place.
    """
    os.mkdir(path, 0o700)
    try:
        descriptor = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077 or os.listdir(descriptor):
                raise BackupError(f"{path.name} was replaced while it was made; somebody else is at work beside it")
        except BaseException:
            os.close(descriptor)
            raise
    except BaseException:
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise
    return descriptor


def open_no_link(path: Path) -> int:
    """Open a directory that is no link, or once more one that is open, by its anchor. Raises OSError."""
    follow = 0 if _ANCHOR.fullmatch(str(path)) else os.O_NOFOLLOW
    return os.open(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow)


@contextlib.contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """The same until it is left."""
    descriptor = open_no_link(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def walk_up(top: int) -> Iterator[Tuple[int, List[str]]]:
    """Every directory below an open one, those above after those below, itself last: open, and the files in it.

    Raises OSError when one cannot be read.
    """
    for _path, _names, files, directory in os.fwalk(".", topdown=False, onerror=_raise, dir_fd=top):
        yield directory, files


def _raise(error: OSError) -> None:
    raise error


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Create the missing directories of a path, private and durable; each belongs to the owner of the one above it."""
    missing: List[str] = []
    while not path.is_dir():
        missing.insert(0, path.name)
        path = path.parent
    directory = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in missing:
            inner = _make_inside(directory, name)
            os.close(directory)
            directory = inner
    finally:
        os.close(directory)


def _make_inside(directory: int, name: str) -> int:
    try:
        made = make_directory(anchored(directory, name))
    except FileExistsError:
        # Another process made it at the same moment.
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    hand_over(made, directory)
    os.fsync(directory)
    return made


def hand_over(descriptor: int, directory: int) -> None:
    """Give what root has just created to the owner of the directory it is in; both are open.

    So a repository stays usable by the user whose it is, whoever works on it. Never by path: that user could have put
    a link to something else there.
    """
    if os.geteuid() == 0:
        status = os.fstat(directory)
        os.fchown(descriptor, status.st_uid, status.st_gid)


def is_directory(path: Path) -> bool:
    """Whether the path itself, not what a link points to, is a directory."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
