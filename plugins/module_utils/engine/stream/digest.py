# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The SHA-256 of what is in a file already."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from typing import IO

from .stages import CHUNK


def sha256_of(file: IO[bytes]) -> str:
    """Of all that is left to read, in hexadecimal."""
    content = hashlib.sha256()
    for chunk in iter(functools.partial(file.read, CHUNK), b""):
        content.update(chunk)
    return content.hexdigest()


def has_content(descriptor: int, size: int, sha256: str) -> bool:
    """Whether an open file is a regular one of this size with this content."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        return False
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return sha256_of(file) == sha256
