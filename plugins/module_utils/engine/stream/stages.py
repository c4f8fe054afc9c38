# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stages a stream is made of. A stage takes bytes with write, hands its own to the next, and is closed once.

Compression is a stage, encryption will be one: what comes before and after does not change.
"""

from __future__ import annotations

import abc
import concurrent.futures
import contextlib
import hashlib
import os
import queue
import subprocess
import threading
from typing import IO, BinaryIO, Callable, List, Optional, Tuple, Type, Union, cast

from ..errors import BackupError, CorruptError

Bytes = Union[bytes, bytearray, memoryview]

# Small enough to stay in a processor's cache from one stage to the next.
CHUNK = 1 << 18
_SPARSE_BLOCK = 1 << 16
_WRITE_BACK = 64 << 20
_CHUNKS_BETWEEN = 8
_ZEROS = bytes(_SPARSE_BLOCK)


class Stage(abc.ABC):
    """Takes bytes. close ends the stream and everything after it; abandon gives it up without a result."""

    def __init__(self, following: Optional[Stage]) -> None:
        self.following = following

    @abc.abstractmethod
    def write(self, data: Bytes) -> int:
        """Take all of data and return its length."""

    def close(self) -> None:
        """End the stream here and in all following stages."""
        if self.following:
            self.following.close()

    def abandon(self) -> None:
        """Release what the stream holds; never raises."""
        if self.following:
            self.following.abandon()


def write_all(descriptor: int, data: Bytes) -> None:
    """Write all of data, however little the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Meter(Stage):
    """Counts and hashes what passes; refuses more than limit bytes. Without hashed it only counts."""

    def __init__(self, following: Optional[Stage], limit: Optional[int] = None, hashed: bool = True) -> None:
        super().__init__(following)
        self.size = 0
        self._limit = limit
        self._hash = hashlib.sha256() if hashed else None

    def write(self, data: Bytes) -> int:
        self.size += len(data)
        if self._limit is not None and self.size > self._limit:
            raise CorruptError(f"holds more than the {self._limit} bytes its manifest tells")
        if self._hash:
            self._hash.update(data)
        if self.following:
            self.following.write(data)
        return len(data)

    @property
    def sha256(self) -> Optional[str]:
        """Of the bytes that passed so far, in hexadecimal; None when they are only counted."""
        return self._hash.hexdigest() if self._hash else None


class FileWriter(Stage):
    """Writes a new file; close makes it durable unless told otherwise. The descriptor becomes its own."""

    def __init__(self, descriptor: int, durable: bool = True) -> None:
        super().__init__(None)
        self._descriptor = descriptor
        self._durable = durable
        self._size = 0
        self._begun = 0

    def write(self, data: Bytes) -> int:
        write_all(self._descriptor, data)
        self._grown(len(data))
        return len(data)

    def close(self) -> None:
        if self._durable:
            os.fsync(self._descriptor)
        self._release()

    def abandon(self) -> None:
        if self._descriptor >= 0:
            self._release()

    def _grown(self, size: int) -> None:
        self._size += size
        if self._durable and self._size - self._begun >= _WRITE_BACK:
            # Has the system begin with what fsync would else do at the end, while this process goes on.
            os.posix_fadvise(self._descriptor, self._begun, self._size - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self._size

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


class SparseFileWriter(FileWriter):
    """Leaves holes where whole blocks are zero, so that a sparse database stays small on disk."""

    def write(self, data: Bytes) -> int:
        view = memoryview(data)
        start = 0
        while start < len(view):
            end, is_zero = self._run(view, start)
            if is_zero:
                os.lseek(self._descriptor, end - start, os.SEEK_CUR)
            else:
                write_all(self._descriptor, view[start:end])
            start = end
        self._grown(len(view))
        return len(view)

    def close(self) -> None:
        os.ftruncate(self._descriptor, self._size)
        super().close()

    def _run(self, view: memoryview, start: int) -> Tuple[int, bool]:
        """The end of the run of blocks that begins here and are all zero, or all not; and which."""
        end = min(start + _SPARSE_BLOCK, len(view))
        is_zero = self._is_zero(view[start:end])
        while end < len(view):
            following = min(end + _SPARSE_BLOCK, len(view))
            if self._is_zero(view[end:following]) != is_zero:
                break
            end = following
        return end, is_zero

    @staticmethod
    def _is_zero(block: memoryview) -> bool:
        return block[0] == 0 and block.tobytes() == _ZEROS[: len(block)]


class InThread(Stage):
    """Hands on in a thread of its own, so that what comes before and what follows work at the same time."""

    def __init__(self, following: Stage) -> None:
        super().__init__(following)
        self._into = following
        self._chunks: queue.Queue[Optional[bytes]] = queue.Queue(_CHUNKS_BETWEEN)
        self._error: Optional[BaseException] = None
        self._handing_on = in_thread(self._hand_on)

    def write(self, data: Bytes) -> int:
        if self._error:
            raise self._error
        self._chunks.put(bytes(data))
        return len(data)

    def close(self) -> None:
        self._end()
        if self._error:
            raise self._error
        super().close()

    def abandon(self) -> None:
        self._end()
        super().abandon()

    def _hand_on(self) -> None:
        # To the end also after an error: else the one who puts would wait for room for ever.
        for chunk in iter(self._chunks.get, None):
            try:
                if not self._error:
                    self._into.write(chunk)
            except BaseException as error:  # noqa: BLE001 - it is raised where the stream is written or closed
                self._error = error

    def _end(self) -> None:
        if not self._handing_on.done():
            self._chunks.put(None)
        concurrent.futures.wait([self._handing_on])


class Program(Stage):
    """A filter program between two pipes, as zstd; its output goes to the next stage as it comes."""

    def __init__(self, arguments: List[str], following: Stage, failing: Type[BackupError] = BackupError) -> None:
        super().__init__(following)
        self._arguments = arguments
        self._failing = failing
        self._into = following
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._input, self._output = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        self._errors = cast(IO[bytes], self._process.stderr)
        self._pump = in_thread(self._pump_output)

    def write(self, data: Bytes) -> int:
        try:
            self._input.write(data)
        except BrokenPipeError:
            self._finish()
            raise self._failing(f"{self._arguments[0]} stopped reading before the end") from None
        return len(data)

    def close(self) -> None:
        self._finish()
        super().close()

    def abandon(self) -> None:
        self._process.kill()
        concurrent.futures.wait([self._pump])
        self._release()
        super().abandon()

    def _pump_output(self) -> None:
        try:
            while data := os.read(self._output.fileno(), CHUNK):
                self._into.write(data)
        except BaseException:
            # Nobody reads its output any more: it must not wait for that.
            self._process.kill()
            raise

    def _finish(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        message = self._errors.read().decode(errors="replace").strip()
        concurrent.futures.wait([self._pump])
        status = self._process.wait()
        self._release()
        self._pump.result()
        if status != 0:
            last_line = (message.splitlines() or ["no message"])[-1]
            raise self._failing(f"{self._arguments[0]} ended with status {status}: {last_line}")

    def _release(self) -> None:
        for pipe in (self._input, self._output, self._errors):
            try:
                if pipe:
                    pipe.close()
            except BrokenPipeError:
                pass
        self._process.wait()


class Reader(Stage):
    """The end of a stream for a function that wants to read it as a file, as tarfile does; it runs in a thread."""

    def __init__(self, function: Callable[[BinaryIO], None]) -> None:
        super().__init__(None)
        self._function = function
        reading, self._writing = os.pipe()
        self._source = os.fdopen(reading, "rb", CHUNK)
        self._reading = in_thread(self._run)

    def write(self, data: Bytes) -> int:
        try:
            write_all(self._writing, data)
        except BrokenPipeError:
            self._finish()
            raise CorruptError("goes on after its end") from None
        return len(data)

    def close(self) -> None:
        self._finish()

    def abandon(self) -> None:
        if self._writing >= 0:
            self._end_input()

    def _run(self) -> None:
        with self._source:
            self._function(self._source)
            while self._source.read(CHUNK):
                pass

    def _finish(self) -> None:
        self._end_input()
        self._reading.result()

    def _end_input(self) -> None:
        descriptor, self._writing = self._writing, -1
        os.close(descriptor)
        concurrent.futures.wait([self._reading])


def in_thread(function: Callable[[], None]) -> concurrent.futures.Future[None]:
    """Begin to run the function; the future has the error it ended with, if any."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            function()
            future.set_result(None)
        except BaseException as error:  # noqa: BLE001 - the future hands it to the thread that waits for it
            future.set_exception(error)

    # Not an executor: the interpreter would wait at its end for a thread that nobody feeds any more.
    threading.Thread(target=run, daemon=True).start()
    return future
