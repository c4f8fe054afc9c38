# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON documents beside the backups: replaced as a whole, read without trust in what lies there."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from ..paths import anchored, create, hand_over

# Twenty times as much as the catalogue of 10,000 backups.
_LARGEST = 64 << 20


def read(path: Path) -> Any:
    """The content of a document.

    Raises OSError when it cannot be read, ValueError or RecursionError when it is not JSON, or too large for memory.
    """
    # Without O_NONBLOCK a pipe put in place of the file would wait for a writer.
    descriptor = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"{path} is larger than {_LARGEST} bytes")
    return json.loads(content)


def aside_of(name: str) -> str:
    """What a document is called while it is written; a killed run may leave that behind."""
    return f".{name.lstrip('.')}.new"


def replace(directory: int, name: str, value: Any, *, disposable: bool = False) -> None:
    """Write a document into an open directory, durably, in the place of an older one. The caller is alone in doing so.

    A disposable one, that can be made again at any time, is written in haste: not for people, and not durably.
    """
    # One name is enough then.
    aside = anchored(directory, aside_of(name))
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    try:
        descriptor = create(aside)
        with os.fdopen(descriptor, "wb") as file:
            hand_over(descriptor, directory)
            text = json.dumps(value) if disposable else json.dumps(value, indent=2, sort_keys=True)
            file.write(f"{text}\n".encode())
            file.flush()
            if not disposable:
                os.fsync(descriptor)
        aside.replace(anchored(directory, name))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        raise
    if not disposable:
        os.fsync(directory)
