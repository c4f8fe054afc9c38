# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Output: text on standard output, and a progress line on standard error when somebody looks."""

from __future__ import annotations

import os
import sys
import time

from .tables import size_in_words

_REDRAW_SECONDS = 0.2


def say(text: str) -> None:
    """Print a text; what the terminal cannot show is escaped.

    Raises OSError when nobody takes it, as a closed pipe or a full disk.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except OSError as error:
        # Else the interpreter tries again at its end and prints a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, f"cannot write to standard output: {error.strerror}") from error


def ask(question: str) -> str:
    """What the person at the terminal answers, without blanks around it; nothing at the end of the input."""
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip()


class ProgressBar:
    """Counts the bytes it is called with; shown on a terminal only, and wiped at the end."""

    def __init__(self, label: str, quiet: bool) -> None:
        self._label = label
        self._shown = not quiet and sys.stderr.isatty()
        self._bytes = 0
        self._drawn = 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __call__(self, size: int) -> None:
        self._bytes += size
        now = time.monotonic()
        if self._shown and now - self._drawn > _REDRAW_SECONDS:
            self._drawn = now
            sys.stderr.write(f"\r{self._label}: {size_in_words(self._bytes)} \033[K")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
