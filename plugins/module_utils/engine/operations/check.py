# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a job could run now, and what became of it so far: one finding per question. Changes nothing."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from .. import times
from ..containers import readiness
from ..containers.container import Address, Container
from ..containers.daemon import Daemon
from ..errors import BackupError, sentence
from ..jobs import Job
from ..repository.chain import Chain
from ..repository.manifest import Manifest
from ..repository.repository import JobDirectory
from ..sources.base import Inspection
from ..tables import size_in_words
from . import exchanges
from .inform import settled


@dataclasses.dataclass(frozen=True)
class Finding:
    """The answer to one question; text says it in a few words."""

    question: str
    good: bool
    text: str


@dataclasses.dataclass(frozen=True)
class Checked:
    """All findings about a job."""

    job: str
    findings: List[Finding]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.good for finding in self.findings)

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return {"job": self.job, "good": self.good, "findings": [dataclasses.asdict(entry) for entry in self.findings]}


def check(job: Job, max_age_hours: Optional[float] = None) -> Checked:
    """Look at the container, the database, the last backups and the room for the next one.

    A last good backup older than max_age_hours is a fault.
    """
    findings: List[Finding] = []
    if job.source.container:
        findings += _about_container(job.source.container, job.source.heartbeat_paths)
    inspection = None
    try:
        inspection = job.source.inspect()
        findings.append(Finding("database", True, _found(inspection)))
    except (BackupError, OSError) as error:
        findings.append(_fault("database", error))
    try:
        chain = job.directory.latest_good_chain()
        findings += _about_backups(job.directory, chain.manifest if chain else None, max_age_hours)
        findings += [Finding("application", False, told) for told in job.directory.halted()]
        findings += [Finding("restore", False, told) for told in exchanges.killed(job.directory).values()]
        findings.append(_about_room(job, chain, inspection))
    except (BackupError, OSError) as error:
        findings.append(_fault("repository", error))
    return Checked(job.settings.name, findings)


def _about_container(address: Address, paths: Sequence[str]) -> Iterator[Finding]:
    try:
        with Daemon(address.docker_host) as daemon:
            found = daemon.find(address.name)
            state = "running" if found.is_running and not found.is_paused else f"not running but {found.status}"
            yield Finding("container", state == "running", f"{found.name} ({found.id[:12]}, {found.image}) is {state}")
            if paths and found.is_running and daemon.is_local:
                yield _about_heartbeat(found, paths)
    except (BackupError, OSError) as error:
        yield _fault("container", error)


def _about_heartbeat(container: Container, paths: Sequence[str]) -> Finding:
    answering = readiness.answering(container, paths)
    if answering:
        return Finding("heartbeat", True, f"{answering} answers")
    places = ", ".join(str(endpoint) for endpoint in readiness.endpoints(container, paths)) or "any port of it"
    return Finding("heartbeat", False, f"no answer at {places}")


def _found(inspection: Inspection) -> str:
    engine, origin = inspection.engine, inspection.origin
    return f"{engine.name} {engine.version}, {size_in_words(origin.size)} at {origin.path}"


def _about_backups(directory: JobDirectory, last: Optional[Manifest], max_age_hours: Optional[float]) -> List[Finding]:
    findings = []
    attempt = settled(directory, directory.state().last_attempt)
    if attempt:
        good = attempt.status not in ("failed", "interrupted")
        told = f"{attempt.status} {attempt.at[:16]}" + (f": {attempt.message}" if attempt.message else "")
        findings.append(Finding("last attempt", good, told))
    if not last:
        return [*findings, Finding("last backup", False, f"there is no good backup in {directory.path}")]
    age = (times.now() - times.from_rfc3339(last.timestamp_start)).total_seconds()
    good = age >= 0 and (max_age_hours is None or age <= max_age_hours * 3600)
    limit = "" if good else ", in the future; look at the clock" if age < 0 else f", older than {max_age_hours:g} h"
    return [*findings, Finding("last backup", good, f"{last.id}, {times.age_in_words(age)} old{limit}")]


def _about_room(job: Job, chain: Optional[Chain], inspection: Optional[Inspection]) -> Finding:
    """The next takes about what the last full one did, beside copies that are captured, or unpacked to be opened."""
    last = chain.links[0].manifest if chain else None
    size = last.summary.size if last else inspection.origin.size if inspection else 0
    stored = last.summary.repo_size if last else size
    copies = max(inspection.scratch_copies if inspection else 0, 1 if job.settings.verify else 0)
    needed = stored + size * copies
    status = os.statvfs(_existing(job.directory.path))
    free = status.f_bavail * status.f_frsize
    return Finding("room", free > needed, f"{size_in_words(free)} free, a backup needs about {size_in_words(needed)}")


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _fault(question: str, error: Exception) -> Finding:
    return Finding(question, False, sentence(error) if isinstance(error, OSError) else str(error))
