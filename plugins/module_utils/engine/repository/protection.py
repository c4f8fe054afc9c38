# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Protected backups, which no policy removes: a document in the directory of the backup says so.

Not in state.json, which may be damaged or lost: protection must not be lost with it, and goes along with a copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Optional

from .. import times
from ..decoding import decode, encode
from ..errors import naming
from ..paths import opened_directory
from . import documents
from .manifest import PROTECTION_NAME as FILE_NAME


@dataclasses.dataclass(frozen=True)
class Protection:
    """Since when a backup is protected, RFC 3339, and what for."""

    at: str
    reason: Optional[str] = None


def read(backup: Path) -> Optional[Protection]:
    """The protection of the backup in this directory. One that cannot be read protects as well."""
    if not os.path.lexists(os.path.join(backup, FILE_NAME)):
        return None
    try:
        return decode(Protection, documents.read(backup / FILE_NAME))
    except (OSError, ValueError, RecursionError):
        return Protection("", f"{FILE_NAME} cannot be read")


def protect(backup: Path, reason: Optional[str]) -> None:
    """Protect the backup in this directory, durably; a new reason replaces an older one."""
    content = encode(Protection(times.to_rfc3339(times.now()), reason))
    with naming(backup / FILE_NAME), opened_directory(backup) as directory:
        documents.replace(directory, FILE_NAME, content)


def unprotect(backup: Path) -> None:
    """Leave the backup in this directory to the policy again."""
    with contextlib.suppress(FileNotFoundError), opened_directory(backup) as directory:
        os.unlink(FILE_NAME, dir_fd=directory)
        os.fsync(directory)
