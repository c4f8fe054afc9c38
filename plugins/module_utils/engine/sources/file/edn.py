# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An export in EDN: whether it is whole, as far as that can be seen without knowing what it should hold.

Source of the syntax: https://github.com/edn-format/edn. What a Clojure printer leaves out it marks with ... (beyond
*print-length*), with # (beyond *print-level*), and what it cannot print it writes as #object[...].
"""

from __future__ import annotations

import codecs
import mmap
import re
from pathlib import Path
from typing import BinaryIO

from ...errors import CorruptError
from ...processes import Report
from ...stream.stages import CHUNK
from .findings import Findings

_CLOSERS = {b"("[0]: b")"[0], b"["[0]: b"]"[0], b"{"[0]: b"}"[0]}
_OPENERS = {closer: opener for opener, closer in _CLOSERS.items()}
_DEEPEST = 1 << 20
# A word begins and ends at white space, which commas are, at a bracket or at a string.
_AT_START = rb'(?<![^\s,()\[\]{}"])'
_AT_END = rb'(?![^\s,;()\[\]{}"])'
_EVENT = re.compile(
    rb'"[^"\\]*"|["\\;()\[\]{}]|'
    + _AT_START
    + rb"(?:#object\[|#<|#"
    + _AT_END
    + rb"|\.\.\."
    + _AT_END
    + rb"|#(?:datahike|datalevin|datascript)/DB"
    + _AT_END
    + rb"|:datoms"
    + _AT_END
    + rb")"
)
_IN_STRING = re.compile(rb'\\|"')
_LEFT_OUT = {
    b"#object[": "an object that cannot be read back",
    b"#<": "an object that cannot be read back",
    b"#": "the mark # of a printer that left something out",
    b"...": "the mark ... of a printer that left something out",
}


def check(report: Report, path: Path) -> Findings:
    """Read all of it.

    Raises CorruptError when it is no EDN, ends early, or tells itself that something was left out.
    """
    with open(path, "rb") as file:
        _check_text(report, file)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            _Scan(text).run()
    return Findings(
        [
            "it is UTF-8",
            "every parenthesis, bracket, brace and string in it is closed",
            "nothing in it is marked as left out or unreadable",
        ],
        ["how many entities it should hold: an export without some of them looks the same"],
    )


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

    def __init__(self, text: mmap.mmap) -> None:
        self._text = text
        # The brackets that are open, a byte for each.
        self._open = bytearray()
        self._collections = 0
        self._has_database = False
        self._has_datoms = False

    def run(self) -> None:
        """Raise CorruptError for the first fault."""
        position = 0
        while event := _EVENT.search(self._text, position):
            position = self._after(event.group(), event.start(), event.end())
        if self._open:
            raise CorruptError(f"it ends with {len(self._open)} open brackets")
        if not self._collections:
            raise CorruptError("it holds no collection, only white space, comments or single values")
        if self._has_database and not self._has_datoms:
            raise CorruptError("it is the printed name of a database, without its datoms")

    def _after(self, event: bytes, start: int, end: int) -> int:
        """Where to go on after this event."""
        sign = event[0]
        if event == b'"':
            return self._after_string(start, end)
        if event == b"\\":
            return self._after_character(end)
        if event == b";":
            line_end = self._text.find(b"\n", end)
            return line_end if line_end >= 0 else len(self._text)
        if event in _LEFT_OUT:
            raise CorruptError(f"it has {_LEFT_OUT[event]} at byte {start}")
        if sign in _CLOSERS:
            self._enter(sign, start)
        elif sign in _OPENERS:
            self._leave(sign, start)
        elif sign == b"#"[0]:
            self._has_database = True
        elif sign == b":"[0]:
            self._has_datoms = True
        return end

    def _after_string(self, start: int, end: int) -> int:
        while event := _IN_STRING.search(self._text, end):
            # A backslash hides what follows it.
            end = event.end() + (event.group() == b"\\")
            if event.group() == b'"':
                return end
        raise CorruptError(f"it ends inside of the string that begins at byte {start}")

    def _after_character(self, end: int) -> int:
        if end == len(self._text):
            raise CorruptError("it ends inside of a character")
        return end + 1

    def _enter(self, opener: int, start: int) -> None:
        if len(self._open) == _DEEPEST:
            raise CorruptError(f"it is nested deeper than {_DEEPEST} levels at byte {start}")
        self._open.append(opener)

    def _leave(self, closer: int, start: int) -> None:
        if not self._open or self._open.pop() != _OPENERS[closer]:
            raise CorruptError(f"its {chr(closer)} at byte {start} closes what is not open")
        self._collections += not self._open
