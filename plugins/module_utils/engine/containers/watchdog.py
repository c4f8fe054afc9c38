# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guarding process does for a container, over a connection of its own."""

from __future__ import annotations

import time
from typing import Callable, List, Optional

from .container import Container
from .daemon import Daemon, NoContainerError


class Watchdog:
    """Waits for the container to be as it must not stay, and helps it: is_bad looks at it, help_it gives the order.

    An order that was given before the death may take settle_seconds to have its effect.
    """

    def __init__(
        self,
        docker_host: Optional[str],
        container: Container,
        *,
        is_bad: Callable[[Container], bool],
        help_it: Callable[[Daemon, Container], None],
        settle_seconds: float,
    ) -> None:
        self._docker_host = docker_host
        self._container = container
        self._is_bad = is_bad
        self._help_it = help_it
        self._settle_seconds = settle_seconds
        self._daemon: List[Daemon] = []
        self._first_try: Optional[float] = None

    def connect(self) -> None:
        """Raises SourceError when the engine does not answer: then nothing is done to the container at all."""
        self._daemon = [Daemon(self._docker_host)]

    def undo(self) -> bool:
        """Whether the container needs no help any more."""
        now = time.monotonic()
        self._first_try = self._first_try or now
        try:
            if self._is_bad(self._daemon[0].look(self._container.id)):
                self._help_it(self._daemon[0], self._container)
                return True
        except NoContainerError:
            return True
        return now - self._first_try > self._settle_seconds
