# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A tar.gz of an LMDB environment, as of Datalevin. It is read, never unpacked."""

from __future__ import annotations

import gzip
import os
import resource
import tarfile
import zlib
from pathlib import Path
from typing import IO, BinaryIO, List, cast

from ...errors import CorruptError
from ...processes import Report
from ...stream.stages import CHUNK
from ..lmdb.format import DLMDB, LMDB, parse_metas
from .findings import Findings

_DATA = "data.mdb"
_METAS = 2
# Both meta pages, however large a page is.
_HEAD = 1 << 17
# What reading a tar may need beside what the process has anyway: its names are read as a whole.
_MEMORY = 256 << 20
_LONGEST_NAME = 200


class _Member(tarfile.TarInfo):
    """Refuses the damage that the library takes for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        """Read a header."""
        if len(buf) < tarfile.BLOCKSIZE:
            raise CorruptError("its tar ends before the mark of its end")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if bytes(buf).strip(b"\0"):
                raise CorruptError(f"its tar is damaged: {error}") from error
            raise


class _Watched:
    """Tells that work goes on whenever it is read."""

    def __init__(self, content: BinaryIO, report: Report) -> None:
        self._content = content
        self._report = report

    def read(self, size: int) -> bytes:
        """Up to size bytes."""
        self._report.alive()
        return self._content.read(size)


def check(report: Report, path: Path) -> Findings:
    """Read all of it, and the head of each environment in it.

    Raises CorruptError for a gzip or tar that is not whole, or without an environment.
    """
    _limit_memory()
    try:
        with gzip.open(path, "rb") as content:
            watched = _Watched(cast(BinaryIO, content), report)
            environments = _read_members(watched)
            while watched.read(CHUNK):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptError(f"its gzip is damaged: {error}") from error
    except (tarfile.TarError, UnicodeError, ValueError) as error:
        raise CorruptError(f"its tar is damaged: {error}") from error
    except MemoryError as error:
        raise CorruptError("its tar has names of a size that no database has") from error
    if not environments:
        raise CorruptError(f"it holds no {_DATA}")
    return Findings(
        ["the checksum of its gzip", "every member of its tar was read to its end"]
        + [f"{name!r} is as long as its header tells" for name in environments],
        ["whether the environment in it opens: a tar of one that is written to is torn more often than not"],
    )


def _read_members(content: _Watched) -> List[str]:
    """The names of the data files, once all members were read."""
    environments = []
    with tarfile.open(fileobj=cast(IO[bytes], content), mode="r|", bufsize=CHUNK, tarinfo=_Member) as members:
        for member in members:
            if member.isreg() and os.path.basename(member.name) == _DATA:
                data = cast(IO[bytes], members.extractfile(member))
                _check_environment(member.name[-_LONGEST_NAME:], data.read(_HEAD), member.size)
                environments.append(member.name[-_LONGEST_NAME:])
            # The library would keep every member in memory.
            members.members = []  # type: ignore[attr-defined]
    return environments


def _check_environment(name: str, head: bytes, size: int) -> None:
    metas = parse_metas(head, versions=(LMDB, DLMDB))
    if len(metas) < _METAS:
        raise CorruptError(f"{name!r} in it does not begin as an LMDB environment does")
    if size < metas[0].used_size:
        raise CorruptError(f"{name!r} in it has {size} bytes, its header tells {metas[0].used_size}")


def _limit_memory() -> None:
    with open("/proc/self/statm", "rb") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = used + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
