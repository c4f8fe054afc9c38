# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Texts and names as Clojure code."""

from __future__ import annotations

import re
from typing import List

_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PART = r"[A-Za-z*+!_?<>=$&%.-][A-Za-z0-9*+!_?<>=$&%.'#-]*"
_QUALIFIED = re.compile(rf"(?![+.-]?[0-9]){_PART}/{_PART}", re.ASCII)


def string(text: str) -> str:
    """A literal of this text."""
    return '"' + "".join(map(_escaped, text)) + '"'


def is_qualified(name: str) -> bool:
    """Whether it names something in a namespace, as my.app/export! does, and is nothing else to a reader."""
    return bool(_QUALIFIED.fullmatch(name))


def _escaped(sign: str) -> str:
    if sign in _SHORT:
        return _SHORT[sign]
    return sign if sign.isprintable() else "".join(f"\\u{unit:04x}" for unit in _utf16(sign))


def _utf16(sign: str) -> List[int]:
    encoded = sign.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(encoded[start : start + 2], "big") for start in range(0, len(encoded), 2)]
