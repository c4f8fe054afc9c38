# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verify a published backup, now or in a year."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Optional

from .. import times
from ..errors import CorruptError, sentence
from ..processes import DEFAULT_TIMEOUT, check_timeout
from ..repository.manifest import UNKNOWN, Manifest
from ..repository.published import PublishedBackup
from ..repository.repository import JobDirectory
from ..repository.staging import WorkingDirectory
from ..repository.state import Attempt, Verification
from ..sources.registry import source_of
from .progress import Progress, silent
from .proof import corruption_in, prove


@dataclasses.dataclass(frozen=True)
class Verified:
    """A backup that passed; opened tells whether its engine has read it too, else the hashes alone were compared."""

    path: Path
    backup: Dict[str, Any]
    opened: bool
    warnings: List[str]

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return {
            "changed": False,
            "path": str(self.path),
            "opened": self.opened,
            "backup": self.backup,
            "warnings": self.warnings,
        }


def verify(
    directory: JobDirectory,
    backup_id: Optional[str] = None,
    progress: Progress = silent,
    *,
    remember: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
) -> Verified:
    """Read everything a backup stores and compare it with its manifest, then open it with its engine.

    Without an id it is the newest backup that claims to be complete. Raises CorruptError. The result is
    remembered either way where the job can be written to; unless told otherwise, when nothing there is touched.
    timeout is the longest silence of the process that reads the copy, in seconds.
    """
    check_timeout(timeout)
    backup = directory.backup(backup_id or newest_id(directory))
    try:
        with backup.in_use():
            manifest = backup.manifest()
            inside = remember and directory.is_writable()
            scratch = directory.scratch if inside else directory.scratch_elsewhere
            opened = _prove(backup, manifest, scratch, timeout, progress)
    except CorruptError as error:
        forgotten = _remember(directory, backup.id, "failed", str(error)) if remember else None
        if forgotten:
            raise CorruptError(f"{error}; and {forgotten}") from error
        raise
    warnings = [] if opened else ["the engine of the backup is not here to open it with; only checksums were compared"]
    forgotten = _remember(directory, backup.id, "passed", None) if remember else None
    if forgotten:
        warnings.append(forgotten)
    if manifest.backup.consistency == UNKNOWN:
        warnings.append(f"whether backup {backup.id} is consistent cannot be known, so it never counts as a good one")
    return Verified(backup.path, manifest.to_json(), opened, warnings)


def newest_id(directory: JobDirectory) -> Optional[str]:
    """Also one that failed before: verifying again must not silently turn to an older one."""
    backups = directory.backups()
    return backups[0].id if backups else None


def _prove(
    backup: PublishedBackup,
    manifest: Manifest,
    make_scratch: Callable[[], ContextManager[WorkingDirectory]],
    timeout: float,
    progress: Progress,
) -> bool:
    source = source_of(manifest.engine.name)
    backup.check_sizes(manifest)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(make_scratch()) if source.can_check() else None
        stack.enter_context(corruption_in(f"backup {backup.id} of job {backup.job}"))
        prove(
            backup,
            records=manifest.files,
            compression=manifest.compression.type,
            source=source,
            origin=manifest.source,
            scratch=scratch,
            timeout=timeout,
            progress=progress,
        )
    return scratch is not None


def _remember(directory: JobDirectory, backup_id: str, status: str, message: Optional[str]) -> Optional[str]:
    """Returns why it could not be written down, if so."""
    now = times.to_rfc3339(times.now())
    try:
        with directory.changed_state() as state:
            state.verified[backup_id] = Verification(now, status, message)
            state.last_verify = Attempt(now, status, backup_id, message)
    except OSError as error:
        return f"that backup {backup_id} {status} could not be remembered: {sentence(error)}"
    return None
