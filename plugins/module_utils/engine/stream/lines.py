# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lines at the beginning of a stream, up to the first one that is not wanted."""

from __future__ import annotations

from typing import Callable, Optional

from .stages import Bytes, Stage

# A line may be as long as it likes; by so many bytes it is told whether it is wanted.
HEAD = 4096


class LinesWhile(Stage):
    """Hands on whole lines as long as they are wanted, as told by the first HEAD bytes of each; then nothing more."""

    def __init__(self, following: Stage, wanted: Callable[[bytes], bool]) -> None:
        super().__init__(following)
        self._into = following
        self._wanted = wanted
        # What is known of a line on which nothing is decided yet; None in the rest of one that is wanted.
        self._head: Optional[bytearray] = bytearray()
        self._is_over = False

    def write(self, data: Bytes) -> int:
        chunk, start = bytes(data), 0
        while start < len(chunk) and not self._is_over:
            end = (chunk.find(b"\n", start) + 1) or len(chunk)
            if self._head is not None:
                end = min(end, start + HEAD - len(self._head))
            self._take(chunk[start:end])
            start = end
        return len(data)

    def close(self) -> None:
        if self._head and not self._is_over:
            self._decide(self._head)
        super().close()

    def _take(self, part: bytes) -> None:
        is_end = part.endswith(b"\n")
        if self._head is None:
            self._into.write(part)
        else:
            self._head += part
            if not is_end and len(self._head) < HEAD:
                return
            self._decide(self._head)
        self._head = bytearray() if is_end else None

    def _decide(self, head: bytearray) -> None:
        if self._wanted(bytes(head)):
            self._into.write(head)
        else:
            self._is_over = True
