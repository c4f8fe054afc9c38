# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restores that are just exchanging files, written down so that one that was killed then is known later."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Dict, Iterator, Optional

from ..repository import locks
from ..repository.repository import JobDirectory
from ..repository.state import Exchange


@contextlib.contextmanager
def noted(directory: JobDirectory, destination: str, exchange: Exchange) -> Iterator[None]:
    """Until this is left, a death of this process leaves the note behind. No restore fails for it."""
    with contextlib.suppress(OSError), directory.changed_state() as state:
        state.exchanges[destination] = exchange
    try:
        yield
    finally:
        forget(directory, destination)


def forget(directory: JobDirectory, destination: str) -> None:
    """All files at the destination are of one kind."""
    with contextlib.suppress(OSError), directory.changed_state() as state:
        state.exchanges.pop(destination, None)


def killed(directory: JobDirectory) -> Dict[str, str]:
    """A sentence about each restore that was killed meanwhile, by its destination. Raises OSError."""
    return {
        destination: exchange.in_words(destination)
        for destination, exchange in directory.state().exchanges.items()
        # A restore that is under way holds it.
        if not locks.is_held(Path(exchange.directory))
    }


def killed_at(directory: JobDirectory, destination: str) -> Optional[str]:
    """The sentence about one destination; None also where nothing can be read."""
    with contextlib.suppress(OSError):
        return killed(directory).get(destination)
    return None
