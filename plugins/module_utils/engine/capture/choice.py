# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the options of a job to the way that holds its files still.

A way is loaded when it is asked for: hardly any run needs the code of one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ContextManager, Optional

from ..containers.container import Address
from ..errors import UsageError
from ..processes import DEFAULT_TIMEOUT
from ..standstill import Standstill
from .base import Way

FREEZE, COLD, SNAPSHOT = "freeze", "cold", "snapshot"
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
            return self._cold()
        if method == FREEZE:
            return self._freeze()
        raise UsageError(f"method {method!r} does not stop an application; choose {FREEZE} or {COLD}")

    def _freeze(self) -> Way:
        from . import freeze  # noqa: PLC0415 - loaded when needed

        subject: freeze.Subject = freeze.OpenersSubject()
        if self.container:
            subject = freeze.ContainerSubject(self.container)
        elif self.service:
            subject = freeze.ServiceSubject(self.service)
        return freeze.Freeze(subject, self.freeze_timeout or DEFAULT_FREEZE_SECONDS, self.timeout)

    def _cold(self) -> Way:
        from ..containers.standstill import standstill  # noqa: PLC0415 - loaded when needed
        from ..services import ServiceStandstill  # noqa: PLC0415 - loaded when needed
        from .cold import Cold  # noqa: PLC0415 - loaded when needed

        def stopped() -> ContextManager[Standstill]:
            return standstill(self.container) if self.container else ServiceStandstill(self.service or "", None, [], [])

        return Cold(stopped, self.timeout)


def snapshot(place: Path) -> Way:
    """Any snapshot, or reflinks where place, that of the scratch directory, is on the same file system."""
    from .snapshot import AnySnapshot  # noqa: PLC0415 - loaded when needed

    return AnySnapshot(place)


def reflink(place: Optional[Path] = None) -> Way:
    """Copies that share blocks; place is that of the scratch directory."""
    from .reflink import ReflinkWay  # noqa: PLC0415 - loaded when needed

    return ReflinkWay(place)
