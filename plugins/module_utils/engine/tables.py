# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Text for people: tables, sizes and ratios."""

from __future__ import annotations

from typing import List, Optional, Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def printable(text: str) -> str:
    """The text as one line, with escapes for what a terminal could obey: names and reasons come from anywhere."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between them."""
    shown = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(header))]
    lines: List[str] = []
    for row in shown:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return "\n".join(lines)


def size_in_words(size: Optional[int]) -> str:
    """1536 becomes 1.5 KiB; - when it is not known."""
    if size is None:
        return "-"
    value = float(size)
    for unit in _UNITS[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def ratio_in_words(size: Optional[int], repo_size: Optional[int]) -> str:
    """How many times smaller the stored bytes are, as 3.2 x."""
    return f"{size / repo_size:.1f} x" if size and repo_size else "-"
