# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shared library of a fork of LMDB: found, judged, and held in memory for the child that loads it.

It is given as a shared object, or as the jar, uberjar or wheel of Datalevin that brings one. A library is code, so it
is taken only from where nobody but root and this user can write. Its bytes are copied into anonymous memory: what was
judged is what is loaded, a user who may not pass its directory can load it too, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import platform
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Iterator, List, Tuple

from ...errors import DESCRIPTORS, SourceError
from ...stream.stages import CHUNK, write_all

# In bytes; what Datalevin ships is a twentieth of it.
_LARGEST_LIBRARY = 1 << 28
_LARGEST_ARCHIVE = 1 << 31
_ELF = struct.Struct("<4s B B 10x H H")
_SHARED_OBJECT = 3
_ELF_64_BIT, _ELF_LITTLE_ENDIAN = 2, 1
# Machines by their name in the kernel: the number in an ELF header, the directory in a jar of Datalevin.
_MACHINES = {"x86_64": (62, "linux-x86_64"), "aarch64": (183, "linux-arm64")}
_ENTRIES = "datalevin/dtlvnative"
_LIBRARY, _OPENMP = "libdtlv.so", "libgomp.so"
_JAR_IN_WHEEL = re.compile(r"datalevin/jars/datalevin-runtime-[0-9A-Za-z.+-]+\.jar")
_NO_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    RuntimeError,
    struct.error,
    OverflowError,
)


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A library in memory. descriptors are of all that is to be loaded, in this order, the library itself last."""

    path: Path
    sha256: str
    descriptors: Tuple[int, ...]

    def files(self) -> List[str]:
        """Paths by which this process, and a child that keeps the descriptors, can load them."""
        return [f"{DESCRIPTORS}{descriptor}" for descriptor in self.descriptors]

    def __str__(self) -> str:
        return f"{self.path.name} (sha256 {self.sha256[:16]})"


@contextlib.contextmanager
def held(path: Path) -> Iterator[Artifact]:
    """The library that a path names, as long as the context lasts.

    Raises SourceError for what is no library for this machine, or what others could have written.
    """
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(_trusted(path))
        head = found.read(4)
        found.seek(0)
        if head == b"PK\3\4":
            with _reading_archive(path):
                contents = _from_archive(found, path)
        else:
            contents = [*_beside(path, stack), _read(found, path)]
        _refuse_other_machines(contents[-1], path)
        descriptors = [stack.enter_context(_in_memory(content)) for content in contents]
        yield Artifact(path, hashlib.sha256(contents[-1]).hexdigest(), tuple(descriptors))


@contextlib.contextmanager
def _trusted(path: Path) -> Iterator[IO[bytes]]:
    """A file that nobody but root and this user can have written, nor any directory above it."""
    if not path.is_absolute():
        raise SourceError(f"library {path} is not an absolute path")
    real = Path(os.path.realpath(path))
    try:
        descriptor = os.open(str(real), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a link to itself" if error.errno == errno.ELOOP else error.strerror
        raise SourceError(f"library {path} cannot be read: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"library {path} is not a file")
        if status.st_size > _LARGEST_ARCHIVE:
            raise SourceError(f"library {path} is too large to be one: {status.st_size} bytes")
        _refuse_writable(real, status, path)
        for directory in real.parents:
            _refuse_writable(directory, os.stat(directory), path)
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _refuse_writable(place: Path, status: os.stat_result, path: Path) -> None:
    # In a directory with the sticky bit others can only add what is theirs.
    shielded = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not shielded):
        raise SourceError(
            f"library {path} is not loaded: others can write to {place}; have it belong to root or to user "
            f"{os.geteuid()}, and take the right to write there from all others"
        )


def _beside(path: Path, stack: contextlib.ExitStack) -> List[bytes]:
    """The OpenMP library that is beside it, under the name that Datalevin gives it."""
    companion = Path(os.path.realpath(path)).with_name(_OPENMP)
    if not companion.exists():
        return []
    return [_read(stack.enter_context(_trusted(companion)), companion)]


def _read(file: IO[bytes], path: Path) -> bytes:
    content = file.read(_LARGEST_LIBRARY + 1)
    if len(content) > _LARGEST_LIBRARY:
        raise SourceError(f"library {path} is too large to be one: more than {_LARGEST_LIBRARY} bytes")
    return content


@contextlib.contextmanager
def _reading_archive(path: Path) -> Iterator[None]:
    try:
        yield
    except _NO_ZIP as error:
        raise SourceError(f"library {path} cannot be taken out of this archive: {error}") from error


def _from_archive(file: IO[bytes], path: Path) -> List[bytes]:
    """The two entries of a jar, or of the jar in a wheel; no other name in it is looked at."""
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        directory = f"{_ENTRIES}/{_machine()[1]}"
        if f"{directory}/{_LIBRARY}" in names:
            wanted = [name for name in (_OPENMP, _LIBRARY) if f"{directory}/{name}" in names]
            return [_entry(archive, f"{directory}/{name}", path) for name in wanted]
        jars = sorted(name for name in names if _JAR_IN_WHEEL.fullmatch(name))
        if not jars:
            raise SourceError(f"library {path} is an archive without {directory}/{_LIBRARY}: give that of Datalevin")
        with tempfile.TemporaryFile() as jar:
            with archive.open(jars[-1]) as packed:
                _copy(packed, jar, path)
            return _from_jar(jar, path)


def _from_jar(jar: IO[bytes], path: Path) -> List[bytes]:
    with zipfile.ZipFile(jar) as archive:
        names = set(archive.namelist())
        entries = [f"{_ENTRIES}/{_machine()[1]}/{name}" for name in (_OPENMP, _LIBRARY)]
        if entries[-1] not in names:
            raise SourceError(f"library {path} has a jar without {entries[-1]}: give that of Datalevin")
        return [_entry(archive, entry, path) for entry in entries if entry in names]


def _entry(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    with archive.open(name) as packed:
        # Reads to the end, where its checksum is compared.
        return _read(packed, path)


def _copy(source: IO[bytes], target: IO[bytes], path: Path) -> None:
    size = 0
    while True:
        chunk = source.read(CHUNK)
        if not chunk:
            break
        size += len(chunk)
        if size > _LARGEST_ARCHIVE:
            raise SourceError(f"library {path} has a jar that is too large to be one")
        target.write(chunk)
    target.seek(0)


def _machine() -> Tuple[int, str]:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise SourceError(f"libraries of LMDB are loaded on {' and '.join(_MACHINES)} only, and this is {machine}")
    return _MACHINES[machine]


def _refuse_other_machines(content: bytes, path: Path) -> None:
    if len(content) < _ELF.size or not content.startswith(b"\x7fELF"):
        raise SourceError(f"library {path} is no shared library: it is neither an ELF file nor a jar")
    _magic, width, order, kind, machine = _ELF.unpack_from(content)
    number, _directory = _machine()
    if (width, order, machine) != (_ELF_64_BIT, _ELF_LITTLE_ENDIAN, number):
        raise SourceError(f"library {path} was built for another machine than this one, which is {platform.machine()}")
    if kind != _SHARED_OBJECT:
        raise SourceError(f"library {path} is an ELF file and no shared library")


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("library", os.MFD_CLOEXEC)
    try:
        write_all(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)
