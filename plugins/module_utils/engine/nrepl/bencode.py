# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bencode, in which nREPL writes its messages: https://nrepl.org/nrepl/design/transports.html

12:a plain text   i-7e   l ... e   d ... e
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Union

# Texts are bytes here: only who reads a field knows whether they have to be UTF-8. Any stands for a Value.
Value = Union[int, bytes, List[Any], Dict[bytes, Any]]

LONGEST_MESSAGE = 4 << 20

# Of one message; that of a server with 150 operations which describes itself has 600 values.
_MOST_VALUES = 20_000
_DEEPEST = 32
_LONGEST_NUMBER = 24
_SHOWN = 40

_INTEGER = re.compile(rb"0|-?[1-9][0-9]*")
_LENGTH = re.compile(rb"0|[1-9][0-9]*")
_DIGITS = b"-0123456789"


class ProtocolError(ValueError):
    """What was received is not bencode, not a message of nREPL, or beyond the bounds."""


def encode(value: Any) -> bytes:
    """The bencode of texts, bytes, whole numbers, lists and dictionaries with texts as keys."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%b" % (len(value), value)
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, list):
        return b"l%be" % b"".join(map(encode, value))
    entries = sorted((key.encode() if isinstance(key, str) else key, encode(entry)) for key, entry in value.items())
    return b"d%be" % b"".join(encode(key) + entry for key, entry in entries)


class Decoder:
    """Takes bytes as they arrive and gives the values that are complete.

    The texts of one value have at most longest bytes together; how many values it holds and how deep is bounded too.
    After a ProtocolError it is of no use any more.
    """

    def __init__(self, longest: int = LONGEST_MESSAGE) -> None:
        self.longest = longest
        self._complete: List[Value] = []
        self._open: List[_Container] = []
        # What stands before a text or between "i" and "e", as far as it has arrived.
        self._number: Optional[bytearray] = None
        self._is_integer = False
        self._text: Optional[bytearray] = None
        self._missing = 0
        self._size = 0
        self._values = 0

    def feed(self, data: bytes) -> List[Value]:
        """The values that these bytes complete.

        Raises ProtocolError.
        """
        position = 0
        while position < len(data):
            if self._text is not None:
                position = self._take_text(data, position)
            elif self._number is not None:
                self._take_digit(self._number, data, position)
                position += 1
            else:
                self._begin(data, position)
                position += 1
        complete, self._complete = self._complete, []
        return complete

    def _begin(self, data: bytes, position: int) -> None:
        sign = data[position : position + 1]
        if sign in (b"l", b"d"):
            if len(self._open) == _DEEPEST:
                raise ProtocolError(f"lists and dictionaries are nested more than {_DEEPEST} deep")
            self._open.append(_List() if sign == b"l" else _Dictionary())
        elif sign == b"e" and self._open:
            self._add(self._open.pop().closed())
        elif sign == b"i" or sign.isdigit():
            self._is_integer = sign == b"i"
            self._number = bytearray(b"" if self._is_integer else sign)
        else:
            raise ProtocolError(f"a value begins with {_shown(data, position)}")

    def _take_digit(self, number: bytearray, data: bytes, position: int) -> None:
        sign = data[position : position + 1]
        if sign == (b"e" if self._is_integer else b":"):
            self._number = None
            if self._is_integer:
                self._add(int(_checked(number, _INTEGER)))
            else:
                self._begin_text(int(_checked(number, _LENGTH)))
        elif sign not in _DIGITS:
            raise ProtocolError(f"in a number there is {_shown(data, position)}")
        elif len(number) == _LONGEST_NUMBER:
            raise ProtocolError(f"a number has more than {_LONGEST_NUMBER} digits")
        else:
            number += sign

    def _begin_text(self, length: int) -> None:
        self._size += length
        if self._size > self.longest:
            raise ProtocolError(f"a message of {self._size:,} bytes, where at most {self.longest:,} are taken")
        self._text, self._missing = bytearray(), length
        if not length:
            self._end_text(self._text)

    def _take_text(self, data: bytes, position: int) -> int:
        text = self._text if self._text is not None else bytearray()
        end = min(len(data), position + self._missing)
        text += data[position:end]
        self._missing -= end - position
        if not self._missing:
            self._end_text(text)
        return end

    def _end_text(self, text: bytearray) -> None:
        self._text = None
        self._add(bytes(text))

    def _add(self, value: Value) -> None:
        self._values += 1
        if self._values > _MOST_VALUES:
            raise ProtocolError(f"a message has more than {_MOST_VALUES:,} parts")
        if self._open:
            self._open[-1].add(value)
        else:
            self._complete.append(value)
            self._size = self._values = 0


class _List:
    """A list of which more may come."""

    def __init__(self) -> None:
        self._entries: List[Value] = []

    def add(self, value: Value) -> None:
        self._entries.append(value)

    def closed(self) -> Value:
        return self._entries


class _Dictionary:
    """The same of a dictionary; what is added is a key and a value by turns."""

    def __init__(self) -> None:
        self._entries: Dict[bytes, Value] = {}
        self._key: Optional[bytes] = None

    def add(self, value: Value) -> None:
        if self._key is not None:
            self._entries[self._key] = value
            self._key = None
        elif not isinstance(value, bytes):
            raise ProtocolError("the key of a dictionary is not a text")
        elif value in self._entries:
            raise ProtocolError("a dictionary has a key twice")
        else:
            self._key = value

    def closed(self) -> Value:
        if self._key is not None:
            raise ProtocolError("a dictionary has a key without a value")
        return self._entries


_Container = Union[_List, _Dictionary]


def _checked(number: bytearray, pattern: re.Pattern[bytes]) -> bytes:
    if not pattern.fullmatch(number):
        raise ProtocolError(f"{number.decode()!r} is no number")
    return bytes(number)


def _shown(data: bytes, position: int) -> str:
    return repr(data[position : position + _SHOWN])[1:]
