# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happened to a job and its backups after the manifests were written: attempts, verifications.

Lives in state.json beside the backups, replaced as a whole. It informs; nothing is proven by it alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Dict, Optional

from ..decoding import decode, encode
from . import documents

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
class Exchange:
    """A restore of a backup that exchanges files in a directory from this moment on, and what was stopped for it.

    Written down before, and removed after: what is there without a process that holds the directory was killed.
    """

    at: str
    id: str
    directory: str
    stopped: Optional[str] = None

    def in_words(self, destination: str) -> str:
        """What to tell of one that was killed."""
        start = f", and start {self.stopped}, which was stopped for it" if self.stopped else ""
        return (
            f"a restore of backup {self.id} to {destination} was killed at {self.at[:19]} while it exchanged files, so "
            f"some may be new and some old; what was there lies beside them as *.before-restore-*; restore again{start}"
        )


@dataclasses.dataclass
class State:
    """The state of one job; verified and drilled have the last verification and drill of each backup by id.

    exchanges has restores by destination that exchange files now, or were killed while they did.
    """

    last_attempt: Optional[Attempt] = None
    last_success: Optional[Attempt] = None
    last_verify: Optional[Attempt] = None
    last_drill: Optional[Attempt] = None
    verified: Dict[str, Verification] = dataclasses.field(default_factory=dict)
    drilled: Dict[str, Verification] = dataclasses.field(default_factory=dict)
    exchanges: Dict[str, Exchange] = dataclasses.field(default_factory=dict)

    def failure(self, backup_id: str) -> Optional[Verification]:
        """The last verification or drill of a backup, whichever came later, if it failed."""
        known = [one[backup_id] for one in (self.verified, self.drilled) if backup_id in one]
        last = max(known, key=lambda one: one.at, default=None)
        return last if last and last.status == "failed" else None

    def forget(self, backup_id: str) -> None:
        """Drop what is known of a backup that is gone."""
        self.verified.pop(backup_id, None)
        self.drilled.pop(backup_id, None)


def read(directory: Path) -> State:
    """The state of the job in this directory; an empty one where there is none or it is damaged.

    Raises OSError when it cannot be read: it may tell that a backup is damaged.
    """
    try:
        return decode(State, documents.read(directory / FILE_NAME))
    except (FileNotFoundError, ValueError, RecursionError):
        return State()


def write(directory: int, state: State) -> None:
    """Replace the state of the job in this open directory, durably. The caller holds it."""
    documents.replace(directory, FILE_NAME, encode(state))
