# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A text in EDN: whether it is whole, as far as that can be seen without knowing what it should hold.

Source of the syntax: https://github.com/edn-format/edn. What a Clojure printer leaves out it marks with ... (beyond
*print-length*), with # (beyond *print-level*), and what it cannot print it writes as #object[...].
"""

from __future__ import annotations

import codecs
import mmap
import re
from pathlib import Path
from typing import BinaryIO, List, NamedTuple, Set

from ..errors import CorruptError
from ..processes import Report
from ..stream.stages import CHUNK

_CLOSES = {b"(": b")", b"[": b"]", b"{": b"}"}
_DEEPEST = 1 << 20
# Records lie side by side in the whole text, in its outermost collection, or in one that is directly in that.
_LEVELS_OF_RECORDS = 3
_EVENTS_BETWEEN_SIGNS_OF_LIFE = 1 << 16
# A word begins and ends at white space, which commas are, at a bracket or at a string.
_AT_START = r'(?<![^\s,()\[\]{}"]%s)'
_AT_END = r'(?![^\s,;()\[\]{}"])'
# It begins with a set of characters and looks back at which one it was, as such a search is several times faster.
_EVENT = re.compile(
    rb'[#.:;"\\()\[\]{}](?:'
    + "|".join(
        [
            # What hides brackets: strings, characters, comments. The number of escapes bounds the memory it takes.
            r'(?<=")[^"\\]*(?:\\[\s\S][^"\\]*){0,50}"|(?<=\\)[\s\S]|(?<=;)[^\n]*',
            r"(?P<opener>(?<=[(\[{]))|(?P<closer>(?<=[)\]}]))",
            r'(?P<string>(?<="))|(?P<character>(?<=\\))',
            rf"(?<=#){_AT_START % '#'}(?:(?P<object>object\[|<)|(?P<level>(?![^\s,;)\]}}])))",
            rf"(?P<length>(?<=\.){_AT_START % '[.]'}\.\.{_AT_END})",
            rf"(?P<database>(?<=#){_AT_START % '#'}(?:datahike|datalevin|datascript)/DB{_AT_END})",
            rf"(?P<datoms>(?<=:){_AT_START % ':'}datoms{_AT_END})",
        ]
    ).encode()
    + b")"
)
_IN_STRING = re.compile(rb'\\|"')


class Counted(NamedTuple):
    """How many collections lie side by side in one of the outer levels, where the most do: one for each record, as far
    as records are collections. listed is how many are in the collection in the outermost one that comes last.
    """

    records: int
    listed: int


def scan(report: Report, path: Path) -> Counted:
    """Read all of it.

    Raises CorruptError when it is no EDN, ends early, or tells itself that something was left out.
    """
    with open(path, "rb") as file:
        _check_text(report, file)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return _Scan(report, text).run()


def _check_text(report: Report, file: BinaryIO) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    try:
        while chunk := file.read(CHUNK):
            report.alive()
            if b"\0" in chunk:
                raise CorruptError(f"it has a zero byte at {read + chunk.index(0)}, which no EDN has")
            decoder.decode(chunk)
            read += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise CorruptError(f"it is not UTF-8 near byte {read}: {error.reason}") from error
    if not read:
        raise CorruptError("it is empty")


class _Scan:
    """One pass over the text. Only brackets, what hides them, and some words matter."""

    def __init__(self, report: Report, text: mmap.mmap) -> None:
        self._report = report
        self._text = text
        # The closers of the brackets that are open.
        self._open = bytearray()
        # How many were closed so far in the collections that are open, and the most that there were in one.
        self._closed: List[int] = [0] * _LEVELS_OF_RECORDS
        self._most = 0
        self._words: Set[str] = set()

    def run(self) -> Counted:
        """Raises CorruptError for the first fault."""
        position = 0
        while position < len(self._text):
            position = self._read_from(position)
        if self._open:
            raise CorruptError(f"it ends with {len(self._open)} open brackets")
        if not self._closed[0]:
            raise CorruptError("it holds no collection, only white space, comments or single values")
        if "database" in self._words and "datoms" not in self._words:
            raise CorruptError("it is a printed database without its datoms")
        return Counted(self._most, self._closed[-1])

    def _read_from(self, position: int) -> int:
        """Go on to a string of very many escapes, and return where it ends, or to the end."""
        for number, event in enumerate(_EVENT.finditer(self._text, position)):
            if number % _EVENTS_BETWEEN_SIGNS_OF_LIFE == 0:
                self._report.alive()
            if event.lastgroup == "opener":
                self._enter(event[0], event.start())
            elif event.lastgroup == "closer":
                self._leave(event[0], event.start())
            elif event.lastgroup == "string":
                return self._after_string(event.start())
            elif event.lastgroup:
                self._take(event.lastgroup, event.start())
        return len(self._text)

    def _after_string(self, start: int) -> int:
        end = start + 1
        while event := _IN_STRING.search(self._text, end):
            # A backslash hides what follows it.
            end = event.end() + (event[0] == b"\\")
            if event[0] == b'"':
                return end
        raise CorruptError(f"it ends inside of the string that begins at byte {start}")

    def _take(self, word: str, start: int) -> None:
        if word == "character":
            raise CorruptError("it ends inside of a character")
        if word == "object":
            raise CorruptError(f"it has an object that nothing can read back, at byte {start}")
        if word in ("length", "level"):
            raise CorruptError(f"it has the mark of a printer that left something out, at byte {start}")
        self._words.add(word)

    def _enter(self, opener: bytes, start: int) -> None:
        if len(self._open) == _DEEPEST:
            raise CorruptError(f"it is nested deeper than {_DEEPEST} levels at byte {start}")
        self._open += _CLOSES[opener]
        if len(self._open) < _LEVELS_OF_RECORDS:
            self._closed[len(self._open)] = 0

    def _leave(self, closer: bytes, start: int) -> None:
        if not self._open or self._open.pop() != closer[0]:
            raise CorruptError(f"its {closer.decode()} at byte {start} closes what is not open")
        depth = len(self._open)
        if depth < _LEVELS_OF_RECORDS:
            self._closed[depth] += 1
            self._most = max(self._most, self._closed[depth])
