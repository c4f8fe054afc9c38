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
from typing import List, Sequence

from .errors import CorruptError, UsageError, naming

JOB_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]*")
_LONGEST_JOB_NAME = 100
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
    *parents, name = path.split("/")
    opened = os.dup(directory)
    try:
        for parent in parents:
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
            os.close(opened)
            opened = inner
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened)
    finally:
        os.close(opened)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path, mode: int = 0o700) -> List[Path]:
    """Create the missing directories of a path, durable; returns those it made, outermost first."""
    missing: List[Path] = []
    while not path.is_dir():
        missing.insert(0, path)
        path = path.parent
    for directory in missing:
        # Another process may make it at the same moment.
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode)
            hand_over(directory)
        fsync_directory(directory.parent)
    return missing


def hand_over(path: Path) -> None:
    """Give what root has just created to the owner of the directory it is in.

    So a repository stays usable by the user whose it is, whoever works on it.
    """
    if os.geteuid() == 0:
        status = os.stat(path.parent)
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)


def is_directory(path: Path) -> bool:
    """Whether the path itself, not what a link points to, is a directory."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
