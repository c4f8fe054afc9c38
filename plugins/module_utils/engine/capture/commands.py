# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of the system that make snapshots: run by argument vectors, with a deadline, their failures as sentences."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Optional

from ..errors import SourceError, in_one_line

_PLACES = "/usr/sbin:/usr/bin:/sbin:/bin"


class Commands:
    """Runs programs; timeout bounds each of them, in seconds."""

    def __init__(self, timeout: float = 60) -> None:
        self._timeout = timeout

    def missing(self, *programs: str) -> Optional[str]:
        """The first of the programs that this host does not have."""
        return next((program for program in programs if not self._find(program)), None)

    def run(self, *arguments: str) -> str:
        """What the program printed. Raises SourceError when it is missing, fails, or does not end in time."""
        program = self._find(arguments[0])
        if not program:
            raise SourceError(f"{arguments[0]} is not installed on this host")
        try:
            done = subprocess.run(
                [program, *arguments[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C", "PATH": _PLACES},
                timeout=self._timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise SourceError(f"{arguments[0]} did not end within {self._timeout:g} seconds") from None
        if done.returncode:
            told = in_one_line(done.stderr.decode(errors="replace")) or "no message"
            raise SourceError(f"{arguments[0]} ended with status {done.returncode}: {told}")
        return done.stdout.decode(errors="replace")

    def _find(self, program: str) -> Optional[str]:
        return shutil.which(program, path=_PLACES)
