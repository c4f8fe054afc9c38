# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of streams: whole, sparse, bounded."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError, CorruptError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.progress import silent
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream import compression as codecs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.compression import Compression
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.stages import (
    Bytes,
    FileWriter,
    InThread,
    Meter,
    Program,
    Reader,
    SparseFileWriter,
    Stage,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.transfer import (
    Stored,
    StoreStream,
    load,
)
from ansible_collections.embedded.db_backup.tests.tools import eventually
from hypothesis import given
from hypothesis import strategies as st

KINDS = ("zstd", "gzip", "none")


class Sink(Stage):
    """Keeps what it gets, and how it ended."""

    def __init__(self) -> None:
        super().__init__(None)
        self.content = bytearray()
        self.ending = ""

    def write(self, data: Bytes) -> int:
        self.content += data
        return len(data)

    def close(self) -> None:
        self.ending = "closed"

    def abandon(self) -> None:
        self.ending = "abandoned"


def new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


@pytest.fixture(params=["library", "program"])
def zstd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to zstd."""
    if request.param == "program":
        monkeypatch.setattr(codecs, "zstandard", None)
    return str(request.param)


class TestMeter:
    @given(st.lists(st.binary(max_size=100)))
    def test_counts_and_hashes_what_passes(self, pieces: list[bytes]) -> None:
        sink = Sink()
        meter = Meter(sink)
        for piece in pieces:
            assert meter.write(piece) == len(piece)
        whole = b"".join(pieces)
        assert (meter.size, meter.sha256, bytes(sink.content)) == (len(whole), hashlib.sha256(whole).hexdigest(), whole)

    def test_limit_is_kept_to_the_byte(self) -> None:
        sink = Sink()
        meter = Meter(sink, limit=10)
        meter.write(b"x" * 10)
        with pytest.raises(CorruptError, match="more than the 10 bytes"):
            meter.write(b"x")
        assert len(sink.content) == 10, "what is too much must not be passed on"


class Failing(Sink):
    """Fails from the second write on."""

    def write(self, data: Bytes) -> int:
        if self.content:
            raise OSError(28, "No space left on device")
        return super().write(data)


def write_many(stage: Stage, times: int) -> None:
    for _unused in range(times):
        stage.write(b"x")


class TestInThread:
    @given(st.lists(st.binary(max_size=100), max_size=40))
    def test_hands_on_in_order(self, pieces: list[bytes]) -> None:
        sink = Sink()
        stage = InThread(sink)
        for piece in pieces:
            # As decompressors do: a buffer that is used again for the next piece.
            buffer = bytearray(piece)
            assert stage.write(memoryview(buffer)) == len(piece)
            buffer[:] = bytes(len(buffer))
        stage.close()
        assert (bytes(sink.content), sink.ending) == (b"".join(pieces), "closed")

    def test_an_error_reaches_who_writes_and_nobody_waits_for_ever(self) -> None:
        sink = Failing()
        stage = InThread(sink)
        with pytest.raises(OSError, match="No space left"):
            write_many(stage, 10_000)
        stage.abandon()
        assert (bytes(sink.content), sink.ending) == (b"x", "abandoned")

    def test_an_error_of_the_last_chunk_is_raised_by_close(self) -> None:
        sink = Failing()
        stage = InThread(sink)
        stage.write(b"x")
        with contextlib.suppress(OSError):
            stage.write(b"y")
        with pytest.raises(OSError, match="No space left"):
            stage.close()
        assert sink.ending == ""

    def test_abandoned_ends_its_thread(self) -> None:
        before = threading.active_count()
        stage = InThread(Sink())
        stage.write(b"x")
        stage.abandon()
        eventually(lambda: threading.active_count() == before, "the thread ends")


class TestSparseFileWriter:
    # Blocks of 64 KiB are looked at, within each piece that is written.
    PIECES = st.lists(
        st.one_of(
            st.binary(max_size=50),
            st.integers(0, 200_000).map(bytes),
            st.integers(1, 70_000).map(lambda size: bytes(size) + b"x"),
            st.integers(1, 70_000).map(lambda size: b"\0x" + bytes(size)),
        ),
        max_size=6,
    )

    @given(PIECES)
    def test_content_is_what_was_written(self, pieces: list[bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            writer = SparseFileWriter(new_file(path), durable=False)
            for piece in pieces:
                assert writer.write(memoryview(piece)) == len(piece)
            writer.close()
            assert path.read_bytes() == b"".join(pieces)

    def test_zeros_take_no_room(self, tmp_path: Path) -> None:
        writer = SparseFileWriter(new_file(tmp_path / "file"))
        for piece in (b"head", bytes(8 << 20), b"tail", bytes(8 << 20)):
            writer.write(piece)
        writer.close()
        status = (tmp_path / "file").stat()
        assert status.st_size == (16 << 20) + 8
        assert status.st_blocks * 512 < 1 << 19


class TestFileWriter:
    @pytest.mark.parametrize("end", ["close", "abandon"])
    def test_descriptor_is_given_back_once(self, tmp_path: Path, end: str) -> None:
        descriptor = new_file(tmp_path / "file")
        writer = FileWriter(descriptor)
        writer.write(b"content")
        getattr(writer, end)()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        writer.abandon()
        assert (tmp_path / "file").read_bytes() == b"content"

    def test_a_little_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:3]))
        writer = FileWriter(new_file(tmp_path / "file"))
        writer.write(b"0123456789" * 10)
        writer.close()
        assert (tmp_path / "file").read_bytes() == b"0123456789" * 10

    def test_full_disk_is_an_error(self) -> None:
        writer = FileWriter(os.open("/dev/full", os.O_WRONLY))
        with pytest.raises(OSError, match="No space left"):
            writer.write(b"content")
        writer.abandon()


class TestCompressors:
    @pytest.mark.usefixtures("zstd")
    @pytest.mark.parametrize("kind", KINDS)
    @given(pieces=st.lists(st.binary(max_size=2000), max_size=5))
    def test_there_and_back(self, kind: str, pieces: list[bytes]) -> None:
        stored, content = Sink(), Sink()
        writing = codecs.compressor(Compression(kind, None if kind == "none" else 1), stored)
        for piece in pieces:
            writing.write(piece)
        writing.close()
        reading = codecs.decompressor(kind, content)
        for start in range(0, len(stored.content), 7):
            reading.write(bytes(stored.content[start : start + 7]))
        reading.close()
        assert bytes(content.content) == b"".join(pieces)
        assert content.ending == stored.ending == "closed"

    @pytest.mark.usefixtures("zstd")
    @pytest.mark.parametrize("kind", ["zstd", "gzip"])
    @pytest.mark.parametrize("stored", [b"", b"not compressed at all", b"\x28\xb5\x2f\xfd", b"\x1f\x8b"])
    def test_what_is_not_compressed_is_refused(self, tmp_path: Path, kind: str, stored: bytes) -> None:
        with pytest.raises(CorruptError):
            load_bytes(tmp_path, kind, stored, b"content")

    @pytest.mark.usefixtures("zstd")
    def test_bomb_bursts_in_small_pieces(self) -> None:
        size = 64 << 20
        bombs = {"gzip": gzip.compress(bytes(size), 9), "zstd": zstandard.compress(bytes(size))}
        for kind, bomb in bombs.items():
            assert len(bomb) < 1 << 17
            sink = Sink()
            pieces = Largest(Meter(sink, limit=1 << 20))
            stage = codecs.decompressor(kind, pieces)
            with pytest.raises(CorruptError, match="more than the 1048576 bytes"):
                write_and_close(stage, bomb)
            stage.abandon()
            assert len(sink.content) <= 1 << 20
            assert pieces.size <= 1 << 20


class Largest(Stage):
    """Remembers the size of the largest piece."""

    size = 0

    def write(self, data: Bytes) -> int:
        self.size = max(self.size, len(data))
        assert self.following
        return self.following.write(data)


def write_and_close(stage: Stage, data: bytes) -> None:
    stage.write(data)
    stage.close()


class TestProgram:
    def test_failure_tells_the_last_line(self) -> None:
        sink = Sink()
        stage = Program(["sh", "-c", "cat >/dev/null; echo first >&2; echo reason >&2; exit 3"], sink)
        stage.write(b"content")
        with pytest.raises(BackupError, match="sh ended with status 3: reason"):
            stage.close()
        assert sink.ending != "closed"

    def test_that_stops_reading(self) -> None:
        stage = Program(["sh", "-c", "exec 0<&-; echo enough >&2; exit 1"], Sink())
        with pytest.raises(BackupError, match=r"sh (stopped reading|ended with status 1)"):
            write_and_close(stage, bytes(64 << 20))

    @pytest.mark.parametrize("script", ["sleep 600", "yes", "cat"])
    def test_abandoned_it_is_gone(self, script: str) -> None:
        sink = Sink()
        stage = Program(["sh", "-c", f"exec {script}"], sink)
        process = stage._process
        stage.write(b"content")
        stage.abandon()
        assert process.returncode is not None
        assert sink.ending == "abandoned"

    def test_error_of_the_next_stage_is_the_error(self) -> None:
        stage = Program(["cat"], Meter(None, limit=5))
        with pytest.raises(CorruptError, match="more than the 5 bytes"):
            write_and_close(stage, b"far too much")


class TestReader:
    def test_function_reads_a_file(self) -> None:
        found = []
        stage = Reader(lambda file: found.append(file.read()))
        write_and_close(stage, b"0123456789" * 100_000)
        assert found == [b"0123456789" * 100_000]

    def test_what_the_function_leaves_is_read_too(self) -> None:
        stage = Reader(lambda file: file.read(1) and None)
        write_and_close(stage, bytes(1 << 20))

    def test_error_of_the_function_is_the_error(self) -> None:
        def complain(file: BinaryIO) -> None:
            file.read(10)
            raise CorruptError("no good")

        with pytest.raises(CorruptError, match="no good"):
            write_and_close(Reader(complain), bytes(8 << 20))

    @pytest.mark.parametrize("function", [lambda file: file.read(), lambda _file: None])
    def test_abandoned_it_ends(self, function: Callable[[BinaryIO], None]) -> None:
        stage = Reader(function)
        stage.write(b"content")
        stage.abandon()
        stage.abandon()


def load_bytes(folder: Path, kind: str, stored: bytes, content: bytes, target: Stage | None = None) -> None:
    """Load stored bytes of which the manifest tells that they hold the content."""
    (folder / "stored").write_bytes(stored)
    hashes = [hashlib.sha256(data).hexdigest() for data in (content, stored)]
    descriptor = os.open(folder / "stored", os.O_RDONLY)
    try:
        load(descriptor, kind, Stored(len(content), hashes[0], len(stored), hashes[1]), target, silent)
    finally:
        os.close(descriptor)


class TestTransfer:
    @pytest.mark.usefixtures("zstd")
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("size", [0, 1, 3_000_000])
    def test_store_and_load(self, tmp_path: Path, kind: str, size: int) -> None:
        content = os.urandom(size // 2) + bytes(size - size // 2)
        stream = StoreStream(new_file(tmp_path / "file"), Compression(kind, None if kind == "none" else 3))
        for start in range(0, size, 999_999):
            stream.write(memoryview(content)[start : start + 999_999])
        stream.close()
        stored = stream.result()
        data = (tmp_path / "file").read_bytes()
        assert (stored.size, stored.sha256) == (size, hashlib.sha256(content).hexdigest())
        assert (stored.repo_size, stored.repo_sha256) == (len(data), hashlib.sha256(data).hexdigest())
        sink, told = Sink(), []
        descriptor = os.open(tmp_path / "file", os.O_RDONLY)
        load(descriptor, kind, stored, sink, told.append)
        os.close(descriptor)
        assert bytes(sink.content) == content
        assert (sink.ending, sum(told)) == ("closed", len(data))

    @pytest.mark.usefixtures("zstd")
    @pytest.mark.parametrize("kind", KINDS)
    def test_any_difference_is_found_and_the_target_abandoned(self, tmp_path: Path, kind: str) -> None:
        content = os.urandom(500) + bytes(500)
        compress = {"zstd": zstandard.compress, "gzip": gzip.compress, "none": bytes}[kind]
        stored = compress(content)
        other = compress(content[:-1] + b"x")
        for expected_content, expected_stored, found in (
            (content, stored, stored[:-1]),
            (content, stored, stored + b"x"),
            (content, stored, b""),
            (content, stored, bytes([stored[0] ^ 1]) + stored[1:]),
            (content, stored, stored[:-1] + bytes([stored[-1] ^ 1])),
            (content[:-1] + b"x", stored, stored),
            (content[:-1], stored, stored),
            (content + b"x", stored, stored),
            (content, other, stored),
        ):
            (tmp_path / "stored").write_bytes(found)
            hashes = [hashlib.sha256(data).hexdigest() for data in (expected_content, expected_stored)]
            expected = Stored(len(expected_content), hashes[0], len(expected_stored), hashes[1])
            sink = Sink()
            descriptor = os.open(tmp_path / "stored", os.O_RDONLY)
            with pytest.raises(CorruptError):
                load(descriptor, kind, expected, sink, silent)
            os.close(descriptor)
            assert len(sink.content) <= len(expected_content)

    @pytest.mark.parametrize("kind", ["zstd", "gzip"])
    def test_two_streams_in_one_file_are_refused(self, tmp_path: Path, kind: str) -> None:
        compress = {"zstd": zstandard.compress, "gzip": gzip.compress}[kind]
        with pytest.raises(CorruptError):
            load_bytes(tmp_path, kind, compress(b"content") + compress(b"more"), b"content")

    def test_stored_as_a_whole_may_be_none(self, tmp_path: Path) -> None:
        load_bytes(tmp_path, "none", b"content", b"content")
        sink = Sink()
        load_bytes(tmp_path, "none", b"content", b"content", sink)
        assert bytes(sink.content) == b"content"


class TestChoice:
    def test_what_a_host_has_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert codecs.choose("zstd") == Compression("zstd", 3, f"python-zstandard {zstandard.__version__}")
        monkeypatch.setattr(codecs, "zstandard", None)
        assert codecs.choose("zstd", 7) == Compression("zstd", 7, "zstd program")
        monkeypatch.setattr(shutil, "which", lambda _name: None)
        assert codecs.choose("zstd", 7) == Compression("gzip", 6, "python zlib, as zstd is missing")
        assert codecs.choose("gzip", 7) == Compression("gzip", 7, "python zlib")
        assert codecs.choose("none") == Compression("none")
        with pytest.raises(BackupError, match="neither the zstd program nor python3-zstandard"):
            codecs.decompressor("zstd", Sink())

    def test_gzip_is_readable_by_others(self) -> None:
        sink = Sink()
        write_and_close(codecs.compressor(Compression("gzip", 9), sink), b"content")
        assert gzip.decompress(bytes(sink.content)) == b"content"
        assert zlib.decompress(bytes(sink.content), 31) == b"content"
