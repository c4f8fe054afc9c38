# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copy files while their application runs, stop it, copy what has changed, and start it again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Callable, ContextManager, Iterator, Optional, Sequence

from ..errors import BackupError, RestoreError, SourceError
from ..standstill import Standstill
from .base import CLEAN, Held, Way
from .worker import working


class Cold(Way):
    """Stops what standstill makes. What was not running stays so. timeout is the longest silence of the copy."""

    name = "cold"
    consistency = CLEAN
    online = False

    def __init__(self, standstill: Callable[[], ContextManager[Standstill]], timeout: float) -> None:
        self._standstill = standstill
        self._timeout = timeout

    def obstacle(self, directory: Path) -> Optional[str]:  # noqa: ARG002 - the same for all
        try:
            with self._standstill() as application:
                application.refuse()
        except BackupError as error:
            return str(error)
        return None

    @contextlib.contextmanager
    def hold(self, directory: Path, paths: Sequence[str], scratch: Path, alive: Callable[[], None]) -> Iterator[Held]:
        with _as_of_a_source(), self._standstill() as application:
            application.refuse()
            with working(directory, paths, scratch, alive, timeout=self._timeout) as worker:
                worker.copy()
                begun = time.monotonic()
                application.stop()
                worker.refresh()
                application.start()
                stood_still = round((time.monotonic() - begun) * 1000) if application.was_running else None
                warnings = worker.finish()
            if not application.was_running:
                warnings.append(f"{application.name} was not running and was left so")
        yield Held(worker.root, stood_still, warnings)


@contextlib.contextmanager
def _as_of_a_source() -> Iterator[None]:
    """What stops and starts applications for restores too tells of a failure as of one of those."""
    try:
        yield
    except RestoreError as error:
        raise SourceError(str(error)) from error
