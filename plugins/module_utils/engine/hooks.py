# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of the user that are called around a run: lists of arguments, never a line for a shell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Dict, List, Optional, Sequence

from .errors import BackupError
from .interrupts import held_back


def call_all(event: str, commands: Sequence[Sequence[str]], facts: Dict[str, Optional[str]], timeout: float) -> None:
    """Call the programs one after the other; facts come to them as DB_BACKUP_ variables of their environment.

    What they print goes to standard error, so to the journal. Raises BackupError at the first that does not end with 0
    within so many seconds.
    """
    known = {f"DB_BACKUP_{name.upper()}": value for name, value in facts.items() if value is not None}
    environment = {**os.environ, "DB_BACKUP_EVENT": event, **known}
    for index, command in enumerate(commands):
        _call(f"{event}[{index}] ({command[0]})", list(command), environment, timeout)


def _call(what: str, command: List[str], environment: Dict[str, str], timeout: float) -> None:
    running: Optional[subprocess.Popen[bytes]] = None
    try:
        # A signal that came in the midst of the start would leave it behind.
        with held_back():
            running = _start(what, command, environment)
        code = running.wait(timeout)
    except subprocess.TimeoutExpired:
        raise BackupError(f"{what} did not end within {timeout:g} seconds and was killed") from None
    finally:
        if running and running.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    if code:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise BackupError(f"{what} {how}")


def _start(what: str, command: List[str], environment: Dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            # Of its own group, so that what it started ends with it.
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise BackupError(f"{what} cannot be started: {getattr(error, 'strerror', None) or error}") from error
