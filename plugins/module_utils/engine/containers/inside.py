# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file system of a running container, seen from its Docker host through the kernel. Nothing is executed in it.

Paths are resolved one part at a time below the container's own root, so that no link of it leads to files of the host.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Iterator, List, NamedTuple, Optional, Tuple

from .container import Container

_MOST_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PROC = Path("/proc")


class Identity(NamedTuple):
    """What tells a file from all others of this host while it exists."""

    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Of a file."""
        return cls(status.st_dev, status.st_ino)


class Resolved(NamedTuple):
    """An open file or directory of the container, and its path there without links."""

    descriptor: int
    path: PurePosixPath

    @property
    def identity(self) -> Identity:
        """Of the open file."""
        return Identity.of(os.fstat(self.descriptor))


@contextlib.contextmanager
def entered(container: Container) -> Iterator[Optional[int]]:
    """The open root directory of a running container; None where this process cannot see it.

    That is so for an engine on another host or in a virtual machine, and without the rights of root.
    """
    process = _process_of(container)
    try:
        root = os.open("root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process) if process else None
    except OSError:
        root = None
    finally:
        if process:
            os.close(process)
    try:
        yield root
    finally:
        if root is not None:
            os.close(root)


@contextlib.contextmanager
def resolved(root: int, path: PurePosixPath, flags: int = _DIRECTORY) -> Iterator[Resolved]:
    """Open what a path of the container means there, following links as its own processes would.

    Raises OSError, also for a link that leads to itself.
    """
    found = _walk(root, path, flags)
    try:
        yield found
    finally:
        os.close(found.descriptor)


def read_file(root: int, path: PurePosixPath, limit: int) -> Optional[bytes]:
    """At most limit bytes of a regular file of the container, None where there is none."""
    try:
        with resolved(root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) as found:
            if stat.S_ISREG(os.fstat(found.descriptor).st_mode):
                return os.pread(found.descriptor, limit, 0)
    except OSError:
        pass
    return None


def directories_in_use(container: Container, root: int, file_name: str) -> List[PurePosixPath]:
    """The directories of the container in which its processes have a file of this name open now."""
    found = []
    for process in _processes_like(container):
        for identity, path in _open_files(process):
            if path.name == file_name and path.parent not in found and _is_file(root, path, identity):
                found.append(path.parent)
    return found


def _process_of(container: Container) -> Optional[int]:
    """The open directory in /proc of the container's first process; None unless it is really one of this container.

    The number comes from the engine, which may count the processes of another machine.
    """
    if container.pid <= 0 or len(container.id) != 64:
        return None
    try:
        process = os.open(str(_PROC / str(container.pid)), _DIRECTORY)
    except OSError:
        return None
    if any(container.id in _content(process, name) for name in ("cgroup", "mountinfo")):
        return process
    os.close(process)
    return None


def _content(process: int, name: str) -> str:
    try:
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _processes_like(container: Container) -> List[Path]:
    """All processes that see the same mounts as the container's first one."""
    mounts = _mounts_of(_PROC / str(container.pid))
    processes = [_PROC / name for name in sorted(os.listdir(_PROC)) if name.isdigit()]
    return [process for process in processes if mounts and _mounts_of(process) == mounts]


def _mounts_of(process: Path) -> str:
    try:
        return os.readlink(process / "ns/mnt")
    except OSError:
        return ""


def _open_files(process: Path) -> Iterator[Tuple[Identity, PurePosixPath]]:
    with contextlib.suppress(OSError):
        for name in os.listdir(process / "fd"):
            with contextlib.suppress(OSError):
                path = PurePosixPath(os.readlink(process / "fd" / name))
                if path.is_absolute():
                    yield Identity.of(os.stat(process / "fd" / name)), path


def _is_file(root: int, path: PurePosixPath, identity: Identity) -> bool:
    """Whether the path still names the open file: it may have been removed, or restored over."""
    try:
        with resolved(root, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC) as found:
            return found.identity == identity
    except OSError:
        return False


def _walk(root: int, path: PurePosixPath, flags: int) -> Resolved:
    todo = [part for part in reversed(path.parts) if part != "/"]
    names: List[str] = []
    opened = [os.dup(root)]
    links = 0
    try:
        while todo:
            part = todo.pop()
            if part == "..":
                # The parent of the root is the root.
                if names:
                    names.pop()
                    os.close(opened.pop())
                continue
            link = _link(opened[-1], part)
            if link is None:
                opened.append(os.open(part, flags if not todo else _DIRECTORY, dir_fd=opened[-1]))
                names.append(part)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"{path} has too many links")
            if link.is_absolute():
                while names:
                    names.pop()
                    os.close(opened.pop())
            todo += [inner for inner in reversed(link.parts) if inner != "/"]
        return Resolved(os.dup(opened[-1]), PurePosixPath("/", *names))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _link(directory: int, name: str) -> Optional[PurePosixPath]:
    try:
        return PurePosixPath(os.readlink(name, dir_fd=directory))
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        return None
