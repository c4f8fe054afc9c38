# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verify a published backup, now or in a year."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional

from .. import times
from ..errors import CorruptError, sentence
from ..processes import check_timeout
from ..repository.chain import Link
from ..repository.manifest import UNKNOWN
from ..repository.repository import JobDirectory
from ..repository.staging import WorkingDirectory
from ..repository.state import Attempt, Verification
from ..sources.base import Tools
from ..sources.registry import source_of
from .progress import Progress, silent
from .proof import corruption_in, prove

# What is wrong with each backup that was read, by id; None with one that passed.
_Faults = Dict[str, Optional[str]]


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
    tools: Optional[Tools] = None,
) -> Verified:
    """Read everything a backup stores and compare it with its manifest, then open it with its engine.

    What it builds on is read and opened as well. Without an id it is the newest backup that claims to be complete.
    Raises CorruptError. The result is remembered either way where the job can be written to; unless told otherwise,
    when nothing there is touched.
    """
    tools = tools or Tools()
    check_timeout(tools.timeout)
    backup = directory.backup(backup_id or newest_id(directory))
    faults: _Faults = {}
    try:
        chain = directory.chain(backup.id)
        with chain.in_use():
            chain.check_sizes()
            inside = remember and directory.is_writable()
            work = _Proving(directory.scratch if inside else directory.scratch_elsewhere, tools, progress)
            for link in chain.links:
                with chain.blaming(link), _noted(link, faults):
                    work.prove(link)
    except CorruptError as error:
        faults[backup.id] = str(error)
        forgotten = _remember(directory, backup.id, faults) if remember else None
        if forgotten:
            raise CorruptError(f"{error}; and {forgotten}") from error
        raise
    manifest = chain.manifest
    opened = source_of(manifest.engine.name).can_check(manifest.source, tools)
    warnings = [] if opened else ["the engine of the backup is not here to open it with; only checksums were compared"]
    forgotten = _remember(directory, backup.id, faults) if remember else None
    if forgotten:
        warnings.append(forgotten)
    if manifest.backup.consistency == UNKNOWN:
        warnings.append(f"whether backup {backup.id} is consistent cannot be known, so it never counts as a good one")
    return Verified(backup.path, manifest.to_json(), opened, warnings)


def newest_id(directory: JobDirectory) -> Optional[str]:
    """Also one that failed before: verifying again must not silently turn to an older one."""
    backups = directory.backups()
    return backups[0].id if backups else None


class _Proving(NamedTuple):
    """How backups are read."""

    make_scratch: Callable[[], ContextManager[WorkingDirectory]]
    tools: Tools
    progress: Progress

    def prove(self, link: Link) -> None:
        """Read all of a backup, and open it if this host can."""
        backup, manifest = link.backup, link.manifest
        source = source_of(manifest.engine.name)
        with contextlib.ExitStack() as stack:
            can_check = source.can_check(manifest.source, self.tools)
            scratch = stack.enter_context(self.make_scratch()) if can_check else None
            stack.enter_context(corruption_in(f"backup {backup.id} of job {backup.job}"))
            prove(
                backup,
                records=manifest.files,
                compression=manifest.compression.type,
                source=source,
                origin=manifest.source,
                scratch=scratch,
                tools=self.tools,
                progress=self.progress,
            )


@contextlib.contextmanager
def _noted(link: Link, faults: _Faults) -> Iterator[None]:
    try:
        yield
    except CorruptError as error:
        faults[link.backup.id] = str(error)
        raise
    faults[link.backup.id] = None


def _remember(directory: JobDirectory, backup_id: str, faults: _Faults) -> Optional[str]:
    """Returns why it could not be written down, if so."""
    now = times.to_rfc3339(times.now())
    found = {one: Verification(now, "failed" if fault else "passed", fault) for one, fault in faults.items()}
    asked = found[backup_id]
    try:
        with directory.changed_state() as state:
            state.verified.update(found)
            state.last_verify = Attempt(now, asked.status, backup_id, asked.message)
    except OSError as error:
        return f"that backup {backup_id} {asked.status} could not be remembered: {sentence(error)}"
    return None
