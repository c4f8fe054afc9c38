# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happened to a job and its backups after the manifests were written: attempts, verifications.

Lives in state.json beside the backups, replaced as a whole. It informs; nothing is proven by it alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Dict, Optional

from ..decoding import decode, encode
from ..errors import naming
from ..paths import fsync_directory, hand_over

FILE_NAME = "state.json"


@dataclasses.dataclass
class Attempt:
    """One run: status is running, succeeded, skipped or failed; at is RFC 3339; message says why."""

    at: str
    status: str
    id: Optional[str] = None
    message: Optional[str] = None


@dataclasses.dataclass
class Verification:
    """The last look at a backup: status is passed or failed."""

    at: str
    status: str
    message: Optional[str] = None


@dataclasses.dataclass
class State:
    """The state of one job; verified has the last verification of each backup by id, drilled the last drill."""

    last_attempt: Optional[Attempt] = None
    last_success: Optional[Attempt] = None
    last_verify: Optional[Attempt] = None
    last_drill: Optional[Attempt] = None
    verified: Dict[str, Verification] = dataclasses.field(default_factory=dict)
    drilled: Dict[str, Verification] = dataclasses.field(default_factory=dict)


def read(directory: Path) -> State:
    """The state of the job in this directory; an empty one where there is none or it is damaged.

    Raises OSError when it cannot be read: it may tell that a backup is damaged.
    """
    try:
        return decode(State, json.loads(_content(directory / FILE_NAME)))
    except (FileNotFoundError, ValueError, RecursionError):
        return State()


def _content(path: Path) -> bytes:
    # Without O_NONBLOCK a pipe put in place of the file would wait for a writer.
    descriptor = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def write(directory: Path, state: State) -> None:
    """Replace the state of the job in this directory, durably."""
    # The caller holds the directory, so one name is enough, and what a killed run left is written over.
    aside = directory / f".{FILE_NAME}.new"
    try:
        with naming(aside):
            _write_new(aside, (json.dumps(encode(state), indent=2, sort_keys=True) + "\n").encode())
        aside.replace(directory / FILE_NAME)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        raise
    fsync_directory(directory)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        hand_over(path)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
