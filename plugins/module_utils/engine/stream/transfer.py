# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streams as a whole: store bytes in a new file of the repository, and load them again."""

from __future__ import annotations

import dataclasses
import os
from typing import Callable, Optional

from ..errors import CorruptError
from . import compression as codecs
from .stages import CHUNK, Bytes, FileWriter, InThread, Meter, Stage


@dataclasses.dataclass(frozen=True)
class Stored:
    """What went into a stored file (size, sha256) and what it holds (repo_size, repo_sha256); sizes in bytes."""

    size: int
    sha256: str
    repo_size: int
    repo_sha256: str


class StoreStream(Stage):
    """Write to it what is to be stored: hash -> compress -> hash -> write; close makes it durable.

    The descriptor of the new file becomes its own.
    """

    def __init__(self, descriptor: int, compression: codecs.Compression) -> None:
        self._stored = Meter(FileWriter(descriptor))
        try:
            self._content = Meter(codecs.compressor(compression, self._stored))
        except BaseException:
            self._stored.abandon()
            raise
        super().__init__(self._content)

    def write(self, data: Bytes) -> int:
        return self._content.write(data)

    def result(self) -> Stored:
        """Sizes and hashes, once closed."""
        hashes = str(self._content.sha256), str(self._stored.sha256)
        return Stored(self._content.size, hashes[0], self._stored.size, hashes[1])


def load(
    descriptor: int,
    kind: str,
    expected: Stored,
    target: Optional[Stage],
    progress: Callable[[int], None],
    *,
    hash_content: bool = True,
) -> None:
    """Read a stored file once, compare hashes and sizes, and hand its content to target, which is closed.

    kind is the type of compression; progress is told the bytes read after each chunk. Without hash_content the SHA-256
    is that of the stored bytes only; that they decompress to what was compressed is then up to the size and to the
    checksum that zstd and gzip keep. Raises CorruptError when anything differs; what target made then is worthless.
    """
    content = Meter(target, limit=expected.size, hashed=hash_content)
    # What was hashed as it is stored is decompressed and hashed meanwhile.
    stored = Meter(InThread(codecs.decompressor(kind, content)), limit=expected.repo_size)
    try:
        while chunk := os.read(descriptor, CHUNK):
            stored.write(chunk)
            progress(len(chunk))
        _compare("stored bytes", stored, expected.repo_size, expected.repo_sha256)
        stored.close()
        _compare("content", content, expected.size, expected.sha256)
    except BaseException:
        stored.abandon()
        raise


def _compare(what: str, found: Meter, size: int, sha256: str) -> None:
    if found.size != size:
        raise CorruptError(f"its {what} are {found.size} bytes, the manifest tells {size}")
    if found.sha256 not in (None, sha256):
        raise CorruptError(f"its {what} do not have the SHA-256 that the manifest tells")
