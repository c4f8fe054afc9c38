# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ordinary files that belong to a database, as uploaded media, as a tar stream; and back from hostile hands.

Only directories and regular files travel. Links and special files are left out with a warning, and refused when read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import stat
import tarfile
from pathlib import Path
from typing import IO, BinaryIO, Dict, Iterator, List, Optional, Tuple, cast

from ..errors import BackupError, CorruptError, SourceError, UsageError
from ..paths import is_owner, is_safe_relative
from ..stream.stages import CHUNK, Stage, write_all

RECORD_PATH = ".include"
_TRIES = 3
_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
_DEEPEST = 200
_LATEST = 1 << 33


@dataclasses.dataclass(frozen=True)
class Included:
    """One path of include: its regular files, their bytes, its directories, a hash of all names, sizes and times."""

    path: str
    files: int
    directories: int
    size: int
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A file or directory found below the root, and an open directory to reach it without following links."""

    path: str
    name: str
    directory: int
    status: os.stat_result


def check_include(root: Path, paths: List[str]) -> None:
    """Raise UsageError unless every path is a relative one that names something below the root."""
    for path in paths:
        if not is_safe_relative(path):
            raise UsageError(f"include {path!r}: give a path below {root}, relative to it")
        if not os.path.lexists(root / path):
            raise SourceError(f"include {path!r}: there is no {root / path}")
        if (root / path).is_symlink():
            raise UsageError(f"include {path!r}: {root / path} is a link; links are not followed")
    for path, other in itertools.permutations(paths, 2):
        if other == path or other.startswith(path + "/"):
            raise UsageError(f"include {path!r} names files that another entry of include names too")


def scan(root: Path, paths: List[str]) -> List[Included]:
    """Look at what include names, without reading content."""
    included = []
    for path in paths:
        tally = _Tally(path)
        for entry in _entries(root, path):
            tally.add(entry.path, entry.status)
        included.append(tally.result())
    return included


def write(stream: Stage, root: Path, paths: List[str]) -> Tuple[List[Included], List[str]]:
    """Write what include names as a tar; returns what was written and warnings of what was left out.

    A file that changes while it is read is written again; the last one counts, as tar has it.
    Raises SourceError when a file keeps changing.
    """
    included = []
    warnings: List[str] = []
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            tally = _Tally(path)
            for entry in _entries(root, path):
                if stat.S_ISDIR(entry.status.st_mode):
                    archive.addfile(_header(entry.path, entry.status))
                    tally.add(entry.path, entry.status)
                elif stat.S_ISREG(entry.status.st_mode):
                    _write_file(archive, root, entry, tally, warnings)
                else:
                    warnings.append("%s is neither a file nor a directory and was left out" % (root / entry.path))
            included.append(tally.result())
    return included, warnings


def check(archive: BinaryIO, included: List[Included]) -> None:
    """Read such a tar to its end.

    Raises CorruptError for a member that is no regular file or directory or lies outside of what was included, and
    when the number of files or bytes differs.
    """
    with _reading():
        for _unused in _members(archive, included):
            pass


def unpack(
    archive: BinaryIO,
    included: List[Included],
    targets: Dict[str, Path],
    uid: Optional[int],
    gid: Optional[int],
    *,
    durable: bool = True,
) -> None:
    """Check such a tar and unpack every included path to its target, which must not exist. Raises like check.

    All files belong to uid and gid, or to whom they belonged where these are None and this is root. They are durable
    afterwards, unless told otherwise.
    """
    with _reading():
        for members, member, path in _members(archive, included):
            member.uid = member.uid if uid is None else uid
            member.gid = member.gid if gid is None else gid
            _unpack(members, member, Path(str(targets[path]) + member.name[len(path) :]), durable)


def is_unpacked(archive: BinaryIO, included: List[Included], root: Path) -> bool:
    """Whether the files below root are those of the tar, by content, and no others."""
    found = scan(root, [entry.path for entry in included if os.path.lexists(root / entry.path)])
    same = [_counts(entry) for entry in found] == [_counts(entry) for entry in included]
    # Of a file that changed while it was read, the last copy counts: judged when another name follows.
    name, content_is_same = "", True
    with _reading():
        for members, member, _unused in _members(archive, included):
            if member.name != name:
                same = same and content_is_same
                name, content_is_same = member.name, (root / member.name).is_dir()
            if same and member.isreg():
                content_is_same = _has_content(root / member.name, cast(IO[bytes], members.extractfile(member)))
    return same and content_is_same


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise CorruptError(f"the included files are not a readable tar: {error}") from error


def _members(archive: BinaryIO, included: List[Included]) -> Iterator[Tuple[tarfile.TarFile, tarfile.TarInfo, str]]:
    """Every member that was checked, with the included path it belongs to; at the end the counts are compared."""
    tallies = {entry.path: _Count() for entry in included}
    previous = None
    with tarfile.open(fileobj=archive, mode="r|") as members:
        for member in members:
            path = _path_of(member, included)
            tallies[path].add(member, previous)
            previous = member
            yield members, member, path
            # The library would keep every member in memory.
            members.members = []  # type: ignore[attr-defined]
    for entry in included:
        tallies[entry.path].compare(entry)


@dataclasses.dataclass
class _Count:
    """Counts the members of one included path."""

    files: int = 0
    directories: int = 0
    size: int = 0

    def add(self, member: tarfile.TarInfo, previous: Optional[tarfile.TarInfo]) -> None:
        if member.isdir():
            self.directories += 1
        elif previous and previous.name == member.name:
            # A file that changed while it was read follows itself.
            self.size += member.size - previous.size
        else:
            self.files += 1
            self.size += member.size

    def compare(self, told: Included) -> None:
        if (self.files, self.directories, self.size) != (told.files, told.directories, told.size):
            raise CorruptError(
                f"include {told.path!r} has {self.files} files of {self.size} bytes in {self.directories} directories, "
                f"the manifest tells {told.files} of {told.size} in {told.directories}"
            )


def _counts(entry: Included) -> Tuple[str, int, int, int]:
    return entry.path, entry.files, entry.directories, entry.size


def _has_content(path: Path, content: IO[bytes]) -> bool:
    try:
        with open(path, "rb") as file:
            while True:
                wanted = content.read(CHUNK)
                if file.read(len(wanted) or 1) != wanted:
                    return False
                if not wanted:
                    return True
    except OSError:
        return False


def _entries(root: Path, path: str) -> Iterator[_Entry]:
    """The path itself and all below it, directories before their content, never through a link."""
    top = os.open(str(root), os.O_RDONLY | os.O_DIRECTORY)
    try:
        parent, name = os.path.split(path)
        for part in parent.split("/") if parent else []:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            os.close(top)
            top = inner
        status = os.lstat(name, dir_fd=top)
        yield _Entry(path, name, top, status)
        if stat.S_ISDIR(status.st_mode):
            for directory, names, files, descriptor in os.fwalk(name, dir_fd=top, onerror=_raise):
                names.sort()
                below = os.path.join(parent, directory) if parent else directory
                for child in sorted(names + files):
                    try:
                        found = os.lstat(child, dir_fd=descriptor)
                    except FileNotFoundError:
                        continue
                    yield _Entry(os.path.join(below, child), child, descriptor, found)
    except OSError as error:
        raise SourceError(f"include {path!r} cannot be read below {root}: {error.strerror}") from error
    finally:
        os.close(top)


def _raise(error: OSError) -> None:
    """A directory that vanished meanwhile is like a file that did; anything else is an error."""
    if not isinstance(error, FileNotFoundError):
        raise error


class _Tally:
    """Sums up the files of one include path, in the order in which they are found."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = 0
        self._directories = 0
        self._size = 0
        self._fingerprint = hashlib.sha256()

    def add(self, path: str, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            # Its time changes with every file that comes and goes, which the files tell already.
            self._directories += 1
            self._fingerprint.update(b"%s\0" % os.fsencode(path))
        elif stat.S_ISREG(status.st_mode):
            self._files += 1
            self._size += status.st_size
            self._fingerprint.update(b"%s\0%d\0%d\0" % (os.fsencode(path), status.st_size, status.st_mtime_ns))

    def result(self) -> Included:
        return Included(self._path, self._files, self._directories, self._size, self._fingerprint.hexdigest())


def _write_file(archive: tarfile.TarFile, root: Path, entry: _Entry, tally: _Tally, warnings: List[str]) -> None:
    """Add the file as it stands still; one that is gone is left out."""
    path = root / entry.path
    written: Optional[os.stat_result] = None
    for _unused in range(_TRIES):
        try:
            descriptor = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=entry.directory)
        except FileNotFoundError:
            break
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            written = os.fstat(descriptor)
            archive.addfile(_header(entry.path, written), _Padded(file, path))
            after = os.fstat(descriptor)
        if (written.st_size, written.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            tally.add(entry.path, written)
            return
    else:
        raise SourceError(f"{path} keeps changing while it is read")
    if written:
        tally.add(entry.path, written)
        warnings.append(f"{path} changed while it was read and is gone; its copy may be torn")


class _Padded:
    """A file that never ends early: one that shrinks while it is read must not break the archive."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def read(self, size: int = -1, /) -> bytes:
        """Exactly size bytes."""
        try:
            return self._file.read(size).ljust(size, b"\0")
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror}") from error


def _header(path: str, status: os.stat_result) -> tarfile.TarInfo:
    header = tarfile.TarInfo(path)
    header.mode = stat.S_IMODE(status.st_mode)
    header.uid, header.gid = status.st_uid, status.st_gid
    header.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        header.type = tarfile.DIRTYPE
    else:
        header.size = status.st_size
    return header


def _path_of(member: tarfile.TarInfo, included: List[Included]) -> str:
    """The include path a member belongs to."""
    parts = member.name.split("/")
    # By its type: a sparse file calls itself regular and can be larger than any disk.
    if member.type not in _TYPES or member.issparse():
        raise CorruptError(f"the included files have a member {member.name!r} that is neither a file nor a directory")
    if any(part in ("", ".", "..") or "\0" in part for part in parts) or len(parts) > _DEEPEST:
        raise CorruptError(f"the included files have a member with the unsafe name {member.name[:_DEEPEST]!r}")
    if not is_owner(member.uid, member.gid) or not abs(member.mtime) < _LATEST:
        raise CorruptError(f"the included files have a member {member.name!r} with an owner or a time out of range")
    for entry in included:
        if member.name == entry.path or member.name.startswith(entry.path + "/"):
            return entry.path
    raise CorruptError(f"the included files have a member {member.name!r} outside of what was included")


def _unpack(members: tarfile.TarFile, member: tarfile.TarInfo, target: Path, durable: bool) -> None:
    """Write one member below a private directory in which no links exist."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if member.isdir():
        target.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(str(target), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    else:
        descriptor = os.open(str(target), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        if member.isreg():
            content = cast(IO[bytes], members.extractfile(member))
            while True:
                chunk = content.read(CHUNK)
                if not chunk:
                    break
                write_all(descriptor, chunk)
        if os.geteuid() == 0:
            os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode & 0o777 | (0o700 if member.isdir() else 0))
        os.utime(descriptor, (member.mtime, member.mtime))
        if durable:
            os.fsync(descriptor)
    except OSError as error:
        raise BackupError(f"cannot write {target}: {error.strerror}") from error
    finally:
        os.close(descriptor)
