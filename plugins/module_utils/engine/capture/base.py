# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every way to hold files still offers to the sources."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Callable, ClassVar, ContextManager, List, Optional, Sequence

# How a copy made while files were held relates to the database: as after a power cut, or as after a clean end.
CRASH, CLEAN = "crash", "transaction"


@dataclasses.dataclass
class Held:
    """Files as of one point in time: what was at a path below the held directory is at that path below root.

    Nobody writes there any more, and it may be read as long as that takes. paused_ms tells for how many milliseconds
    the application stood still, None when it did not.
    """

    root: Path
    paused_ms: Optional[int] = None
    warnings: List[str] = dataclasses.field(default_factory=list)


def nothing() -> None:
    """For alive, where nobody waits for a sign of life."""


class Way(abc.ABC):
    """A way to hold files still. online tells whether the application goes on answering but for a moment."""

    name: ClassVar[str]
    consistency: ClassVar[str] = CRASH
    online: ClassVar[bool] = True

    @property
    def taken(self) -> Way:
        """Which way it was, once held, where this one is a choice of several."""
        return self

    @abc.abstractmethod
    def obstacle(self, directory: Path) -> Optional[str]:
        """Why this way does not work for the files of a directory, in a sentence; None when it does."""

    @abc.abstractmethod
    def hold(
        self, directory: Path, paths: Sequence[str], scratch: Path, alive: Callable[[], None]
    ) -> ContextManager[Held]:
        """Have what is at the paths below the directory held as of one point in time; "." stands for all of it.

        scratch is an empty private directory with room for a copy. alive is called now and then. No link is followed.
        Whatever becomes of this process, the application goes on, and nothing is left behind on its volume.
        Raises SourceError.
        """
