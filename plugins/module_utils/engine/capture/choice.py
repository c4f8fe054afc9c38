# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the options of a job to the way that stops its application: freeze or cold."""

from __future__ import annotations

import dataclasses
from typing import ContextManager, Optional

from ..containers.container import Address
from ..containers.standstill import standstill
from ..errors import UsageError
from ..processes import DEFAULT_TIMEOUT
from ..services import ServiceStandstill
from ..standstill import Standstill
from .base import Way
from .cold import Cold
from .freeze import ContainerSubject, Freeze, OpenersSubject, ServiceSubject, Subject

FREEZE, COLD = "freeze", "cold"
DEFAULT_FREEZE_SECONDS = 10.0
# Systemd itself has a longer patience with whoever holds an application still, before it kills him and his guard.
LONGEST_FREEZE_SECONDS = 60.0
_SHORTEST_FREEZE_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Halting:
    """What a job says of its application: its service or container, and for how many seconds it may be frozen."""

    service: Optional[str] = None
    container: Optional[Address] = None
    freeze_timeout: Optional[float] = None
    timeout: float = DEFAULT_TIMEOUT

    def check(self, method: str) -> None:
        """Raise UsageError for what makes no sense together."""
        if self.service and self.container:
            raise UsageError("give service or container, not both")
        if method == COLD and not (self.service or self.container):
            raise UsageError("method cold stops an application: name its service or container")
        limit = self.freeze_timeout
        if limit is not None and not _SHORTEST_FREEZE_SECONDS <= limit <= LONGEST_FREEZE_SECONDS:
            raise UsageError(
                f"freeze_timeout {limit:g} is out of range; give {_SHORTEST_FREEZE_SECONDS:g} to "
                f"{LONGEST_FREEZE_SECONDS:g} seconds"
            )

    def way(self, method: str) -> Way:
        """The way of this name. Raises UsageError."""
        self.check(method)
        if method == COLD:
            return Cold(self._standstill, self.timeout)
        if method == FREEZE:
            return Freeze(self._subject(), self.freeze_timeout or DEFAULT_FREEZE_SECONDS, self.timeout)
        raise UsageError(f"method {method!r} does not stop an application; choose {FREEZE} or {COLD}")

    def _subject(self) -> Subject:
        if self.container:
            return ContainerSubject(self.container)
        return ServiceSubject(self.service) if self.service else OpenersSubject()

    def _standstill(self) -> ContextManager[Standstill]:
        if self.container:
            return standstill(self.container)
        return ServiceStandstill(self.service or "", None, [], [])
