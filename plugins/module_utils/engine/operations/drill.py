# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A drill: restore a backup as if the data were lost, into a private directory, and open it with the real engine."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, List, Optional

from .. import times
from ..errors import CorruptError, sentence
from ..interrupts import work_goes_on
from ..repository.published import PublishedBackup
from ..repository.repository import JobDirectory
from ..repository.staging import WorkingDirectory
from ..repository.state import Attempt, Verification
from ..sources.base import Tools
from ..sources.registry import source_of
from .choice import Point, choose
from .progress import Progress, silent
from .proof import corruption_in
from .request import Request
from .restore import restore
from .verify import newest_id


@dataclasses.dataclass(frozen=True)
class Drilled:
    """A backup that passed; proven says how, one sentence per entry."""

    path: Path
    backup: Dict[str, Any]
    proven: List[str]
    warnings: List[str]

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return {
            "changed": False,
            "path": str(self.path),
            "backup": self.backup,
            "proven": self.proven,
            "warnings": self.warnings,
        }


def drill(
    directory: JobDirectory,
    backup_id: Optional[str],
    tools: Tools,
    progress: Progress = silent,
    remember: bool = True,
) -> Drilled:
    """Restore the backup into a private directory and open it; without an id the newest one.

    Raises CorruptError, which is remembered as a failed drill where the job can be written to; another BackupError
    when the drill could not be held, which says nothing of the backup. Unless it is to be remembered, nothing of the
    job is touched.
    """
    backup = directory.backup(backup_id or newest_id(directory))
    inside = remember and directory.is_writable()
    make_scratch = directory.scratch if inside else directory.scratch_elsewhere
    try:
        with corruption_in(f"drill of backup {backup.id} of job {backup.job}"), make_scratch() as scratch:
            drilled = _hold(directory, backup, scratch, tools, progress)
    except CorruptError as error:
        forgotten = _remember(directory, backup.id, "failed", str(error)) if remember else None
        if forgotten:
            raise CorruptError(f"{error}; and {forgotten}") from error
        raise
    forgotten = _remember(directory, backup.id, "passed", "; ".join(drilled.proven)) if remember else None
    return dataclasses.replace(drilled, warnings=[forgotten]) if forgotten else drilled


def _hold(
    directory: JobDirectory, backup: PublishedBackup, scratch: WorkingDirectory, tools: Tools, progress: Progress
) -> Drilled:
    # The scratch directory itself is held, and a single file is restored beside others.
    place = scratch.path / "drill"
    place.mkdir(0o700)
    owner, group = str(os.geteuid()), str(os.getegid())
    request = Request(destination=place / "restored", owner=owner, group=group, mode=0o600)
    restored = restore(directory, Point(backup.id), request, progress=progress)
    work_goes_on()
    manifest = choose(directory, Point(backup.id)).manifest
    source = source_of(manifest.engine.name)
    proven = source.drill(manifest, source.restoration(manifest, restored.destination), tools)
    return Drilled(backup.path, restored.backup, proven, [])


def _remember(directory: JobDirectory, backup_id: str, status: str, message: str) -> Optional[str]:
    """Returns why it could not be written down, if so."""
    now = times.to_rfc3339(times.now())
    try:
        with directory.changed_state() as state:
            state.drilled[backup_id] = Verification(now, status, message)
            state.last_drill = Attempt(now, status, backup_id, message)
    except OSError as error:
        return f"that the drill of backup {backup_id} {status} could not be remembered: {sentence(error)}"
    return None
