# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compression as a stage: zstd by the Python library or else the program, gzip by Python, or none."""

from __future__ import annotations

import dataclasses
import shutil
import zlib
from typing import Any, Dict, Optional, Tuple

from ..errors import BackupError, CorruptError, UsageError
from ..optional import optional_module
from .stages import CHUNK, Bytes, Program, Stage

zstandard = optional_module("zstandard")

SUFFIXES = {"zstd": ".zst", "gzip": ".gz", "none": ""}
LEVELS: Dict[str, Tuple[int, int]] = {"zstd": (1, 19), "gzip": (1, 9)}
_DEFAULT_LEVELS = {"zstd": 3, "gzip": 6}
_THREADS = 2


@dataclasses.dataclass(frozen=True)
class Compression:
    """How files are stored. level is None for none; by names the implementation that does it here."""

    type: str
    level: Optional[int] = None
    by: Optional[str] = None


def choose(wanted: str, level: Optional[int] = None) -> Compression:
    """The compression to use on this host: zstd falls back to gzip where nothing here can do it.

    Raises UsageError for an unknown type or a level out of range.
    """
    if wanted not in SUFFIXES:
        raise UsageError(f"compression {wanted!r} is not known; choose zstd, gzip or none")
    if wanted == "none":
        if level is not None:
            raise UsageError("compression_level has no meaning with compression none; leave it out")
        return Compression("none")
    lowest, highest = LEVELS[wanted]
    if level is not None and not lowest <= level <= highest:
        raise UsageError(f"compression_level {level} is out of range; {wanted} takes {lowest} to {highest}")
    if wanted == "zstd" and zstandard:
        return Compression("zstd", level or _DEFAULT_LEVELS["zstd"], f"python-zstandard {zstandard.__version__}")
    if wanted == "zstd" and shutil.which("zstd"):
        return Compression("zstd", level or _DEFAULT_LEVELS["zstd"], "zstd program")
    if wanted == "zstd":
        # A zstd level means nothing to gzip.
        return Compression("gzip", _DEFAULT_LEVELS["gzip"], "python zlib, as zstd is missing")
    return Compression("gzip", level or _DEFAULT_LEVELS["gzip"], "python zlib")


def compressor(compression: Compression, following: Stage) -> Stage:
    """The stage that compresses into following."""
    if compression.type == "none":
        return following
    level = compression.level or _DEFAULT_LEVELS[compression.type]
    if compression.type == "gzip":
        return _Compressor(zlib.compressobj(level, zlib.DEFLATED, 31), following)
    if zstandard:
        parameters = zstandard.ZstdCompressor(level=level, threads=_THREADS, write_checksum=True)
        return _Compressor(parameters.compressobj(), following)
    return Program(["zstd", "-q", "-c", f"-{level}", f"-T{_THREADS}"], following)


def decompressor(kind: str, following: Stage) -> Stage:
    """The stage that decompresses into following, in pieces of bounded size however small the input.

    Raises BackupError when nothing on this host can decompress the kind.
    """
    if kind == "none":
        return following
    if kind == "gzip":
        return _GzipDecompressor(following)
    if zstandard:
        return _ZstdDecompressor(following)
    if shutil.which("zstd"):
        return Program(["zstd", "-q", "-d", "-c"], following, failing=CorruptError)
    raise BackupError(
        "the backup is compressed with zstd, and this host has neither the zstd program nor python3-zstandard"
    )


class _Compressor(Stage):
    """Around a compression object of zlib or zstandard."""

    def __init__(self, compression: Any, following: Stage) -> None:
        super().__init__(following)
        self._compression = compression

    def write(self, data: Bytes) -> int:
        self._pass_on(self._compression.compress(data))
        return len(data)

    def close(self) -> None:
        self._pass_on(self._compression.flush())
        # Frees the worker threads at once, not when the garbage collector comes by.
        self._compression = None
        super().close()

    def _pass_on(self, data: bytes) -> None:
        if data and self.following:
            self.following.write(data)


class _GzipDecompressor(Stage):
    def __init__(self, following: Stage) -> None:
        super().__init__(following)
        self._into = following
        self._decompression = zlib.decompressobj(31)

    def write(self, data: Bytes) -> int:
        rest: bytes = bytes(data)
        while rest:
            try:
                output = self._decompression.decompress(rest, CHUNK)
            except zlib.error as error:
                raise CorruptError(f"does not decompress: {error}") from error
            rest = self._decompression.unconsumed_tail
            if output:
                self._into.write(output)
            elif not rest:
                break
        if self._decompression.unused_data:
            raise CorruptError("has bytes after the end of its gzip stream")
        return len(data)

    def close(self) -> None:
        if not self._decompression.eof:
            raise CorruptError("ends before the end of its gzip stream")
        super().close()


class _ZstdDecompressor(Stage):
    def __init__(self, following: Stage) -> None:
        super().__init__(following)
        self._writer = zstandard.ZstdDecompressor().stream_writer(following, write_size=CHUNK, closefd=False)

    def write(self, data: Bytes) -> int:
        try:
            self._writer.write(data)
        except zstandard.ZstdError as error:
            raise CorruptError(f"does not decompress: {error}") from error
        return len(data)
