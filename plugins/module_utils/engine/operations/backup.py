# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a backup: capture into staging, prove, publish."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
import shlex
import socket
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from .. import VERSION, halts, times
from ..errors import BackupError, sentence
from ..interrupts import work_goes_on
from ..jobs import Job
from ..repository.chain import Chain
from ..repository.manifest import INCREMENT, UNKNOWN, Check, FileRecord, Host, Kind, Manifest, Named, Origin, Summary
from ..repository.published import PublishedBackup
from ..repository.repository import JobDirectory
from ..repository.retention import Candidate, Standing
from ..repository.staging import Staging
from ..repository.state import Attempt, State, Verification
from ..sources.base import Capture, Inspection, Tools
from .progress import Progress, silent
from .proof import corruption_in, prove
from .prune import Plan, prune
from .prune import plan as plan_to_prune
from .store import put_into


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run did. Without changed, reason says why; path is that of the backup, also when only predicted.

    pruned tells what became of all backups of the job afterwards, where a policy says what to keep; also_in names the
    stores that have it too.
    """

    changed: bool
    path: Path
    backup: Dict[str, Any]
    previous: Optional[Manifest]
    reason: Optional[str] = None
    pruned: Optional[Plan] = None
    warnings: List[str] = dataclasses.field(default_factory=list)
    also_in: List[str] = dataclasses.field(default_factory=list)

    @property
    def skipped(self) -> bool:
        """Whether there was no need for a backup."""
        return not self.changed

    def to_json(self) -> Dict[str, Any]:
        """The results every backup module has."""
        return {
            "changed": self.changed,
            "skipped": self.skipped,
            "reason": self.reason,
            "path": str(self.path),
            "backup": self.backup,
            "pruned": self.pruned.to_json() if self.pruned else None,
            **({"also_in": self.also_in} if self.also_in else {}),
            "warnings": self.warnings,
        }


def back_up(job: Job, progress: Progress = silent, prepare: Callable[[], None] = lambda: None) -> Outcome:
    """Run the job now. prepare is called first, when no other run of the job can come between.

    Raises BackupError, also that of prepare; then nothing is published and nothing is left behind.
    """
    job.directory.create()
    with job.directory.held() as directory, directory.lock(), halts.noted_in(directory.place):
        warnings = _helped(job, directory)
        # Before anything is written, as they may be what fills the disk.
        warnings += directory.remove_leftovers()
        attempt = Attempt(times.to_rfc3339(times.now()), "running")
        with directory.changed_state() as state:
            state.last_attempt = attempt
        try:
            prepare()
            outcome = _run(job, directory, attempt, progress)
        except BaseException as error:
            attempt.status, attempt.message = "failed", str(error) or type(error).__name__
            # The error of the run is the one to tell, not that its state could not be written, as on a full disk.
            with contextlib.suppress(OSError), directory.changed_state() as state:
                state.last_attempt = attempt
            raise
        outcome = dataclasses.replace(outcome, warnings=[*warnings, *outcome.warnings])
        return _stored(job, attempt, _pruned(job, directory, _concluded(directory, attempt, outcome)))


def _helped(job: Job, directory: JobDirectory) -> List[str]:
    """Let the application go on where a run that was killed with its guard has left it halted."""
    with halts.left_in(directory.place) as notes:
        if not notes:
            return []
    from .thaw import thaw_held  # noqa: PLC0415 - hardly any run needs its code

    thawed = thaw_held(directory, job.source.container)
    return [*thawed.done, *thawed.failed]


def _run(job: Job, directory: JobDirectory, attempt: Attempt, progress: Progress) -> Outcome:
    inspection = job.source.inspect()
    latest = directory.latest_good_chain()
    previous = latest.manifest if latest else None
    reason = _reason_to_skip(job, inspection, previous)
    if reason and previous:
        attempt.status, attempt.message = "skipped", reason
        return _skipped(directory, previous, reason)
    started = times.now()
    chain = latest if latest and _may_build_on(latest, job, inspection) else None
    held = chain.in_use() if chain else contextlib.nullcontext()
    with held, directory.staging(started, job.compression, job.settings.verify) as staging:
        attempt.id = staging.id
        backup, manifest, warnings = make(job, staging, started, progress, chain=chain)
    attempt.status = "succeeded"
    return Outcome(True, backup.path, manifest.to_json(), previous, warnings=warnings)


def _concluded(directory: JobDirectory, attempt: Attempt, outcome: Outcome) -> Outcome:
    """Write down how the run ended. The backup is published: that the state cannot be written is but a warning."""
    try:
        with directory.changed_state() as state:
            state.last_attempt = attempt
            if outcome.changed:
                state.last_success = attempt
                remember_proof(state, outcome.backup)
        if outcome.changed:
            directory.keep_catalogue()
    except OSError as error:
        outcome.warnings.append(f"the state of job {directory.name} could not be written: {error}")
    return outcome


def _pruned(job: Job, directory: JobDirectory, outcome: Outcome) -> Outcome:
    """Prune after a success. The backup is published: that older ones could not be removed is but a warning."""
    if not outcome.changed or job.retention.is_empty():
        return outcome
    try:
        plan = prune(directory, job.retention)
    except (BackupError, OSError) as error:
        told = sentence(error) if isinstance(error, OSError) else str(error)
        return dataclasses.replace(outcome, warnings=[*outcome.warnings, f"backups were not pruned: {told}"])
    # Both met the same leftovers.
    return dataclasses.replace(outcome, pruned=plan, warnings=list(dict.fromkeys(outcome.warnings + plan.warnings)))


def _stored(job: Job, attempt: Attempt, outcome: Outcome) -> Outcome:
    """The backup stays published, whatever becomes of it in the stores."""
    if not outcome.changed or not job.also_to:
        return outcome
    # What was published cannot be undone by a signal, but this can be left.
    work_goes_on()
    try:
        backup = PublishedBackup(outcome.path)
        stored = put_into(job.also_to, backup, backup.manifest(), job.timeout)
    except BaseException as error:
        attempt.status, attempt.message = "failed", str(error) or type(error).__name__
        with contextlib.suppress(OSError), job.directory.changed_state() as state:
            state.last_attempt = attempt
        raise
    return dataclasses.replace(outcome, also_in=stored)


def remember_proof(state: State, manifest: Dict[str, Any]) -> None:
    """Write down that a backup was verified as it was made."""
    # When a clock was set back there may have been another backup of this id.
    state.forget(manifest["id"])
    if manifest["check"]:
        at = manifest["check"]["timestamp"]
        state.verified[manifest["id"]] = Verification(at, "passed")
        state.last_verify = Attempt(at, "passed", manifest["id"])


def predict(job: Job) -> Outcome:
    """What back_up would do, without doing it.

    Raises BackupError for what can be seen to fail.
    """
    directory = job.directory
    inspection = job.source.inspect()
    latest = directory.latest_good_chain()
    previous = latest.manifest if latest else None
    reason = _reason_to_skip(job, inspection, previous)
    if reason and previous:
        return _skipped(directory, previous, reason)
    backup_id = directory.free_id(times.now())
    expected: Dict[str, Any] = {
        "id": backup_id,
        "job": directory.name,
        "status": "predicted",
        "engine": dataclasses.asdict(inspection.engine),
        "source": {"path": inspection.origin.path, "size": inspection.origin.size, **inspection.origin.details},
        "compression": dataclasses.asdict(job.compression),
        "files": [],
        "summary": {"size": inspection.origin.size, "repo_size": None, "duration_ms": None},
        "check": None,
    }
    pruned = None
    if not job.retention.is_empty():
        standing = Standing.GOOD if job.settings.verify else Standing.UNVERIFIED
        pruned = plan_to_prune(directory, job.retention, [Candidate(backup_id, times.now(), standing)])
    return Outcome(True, directory.path / backup_id, expected, previous, pruned=pruned)


def make(
    job: Job,
    staging: Staging,
    started: datetime.datetime,
    progress: Progress,
    *,
    annotation: Optional[Dict[str, str]] = None,
    chain: Optional[Chain] = None,
) -> Tuple[PublishedBackup, Manifest, List[str]]:
    """Capture, prove and publish; returns the backup, its manifest and warnings.

    started is what the manifest tells. The backup may be an increment to the chain, if there is one.
    """
    copy_started = times.now()
    capture = job.source.capture_after(staging, chain.manifest) if chain else job.source.capture(staging)
    below = chain if chain and capture.kind.type == INCREMENT else None
    origin, check = capture.origin, None
    if job.settings.verify or capture.needs_check:
        origin = _read_back(job, staging, capture, progress)
        opened = capture.kind.consistency != UNKNOWN and not capture.cannot_open
        check = Check(read_back=True, opened=opened, timestamp=times.to_rfc3339(times.now()))
    stopped = times.now()
    manifest = Manifest(
        id=staging.id,
        job=job.settings.name,
        tool=Named("embedded.db_backup", VERSION),
        host=Host(socket.gethostname() or platform.node()),
        engine=capture.engine,
        source=origin,
        backup=_placed(capture, below),
        timestamp_start=times.to_rfc3339(started),
        timestamp_copy_start=times.to_rfc3339(copy_started),
        timestamp_stop=times.to_rfc3339(stopped),
        files=staging.records,
        compression=staging.compression,
        summary=_summary(staging, copy_started, stopped),
        check=check,
        annotation=annotation or {},
        restore_by_hand=_by_hand(staging, below, job.source.untar),
    )
    return staging.publish(manifest), manifest, capture.warnings


def _read_back(job: Job, staging: Staging, capture: Capture, progress: Progress) -> Origin:
    what = f"the copy of {capture.origin.path} is not sound and was not published"
    # What was opened as it was captured need not be unpacked: its hashes tell that it is the same.
    is_unpacked = not (capture.opened or capture.cannot_open)
    place = job.directory.scratch() if is_unpacked else contextlib.nullcontext()
    with place as scratch, corruption_in(what):
        return prove(
            PublishedBackup(staging.path),
            records=staging.records,
            compression=staging.compression.type,
            source=type(job.source),
            origin=capture.origin,
            scratch=scratch,
            tools=job.source.tools(Tools(timeout=job.timeout)),
            progress=progress,
        )


def _summary(staging: Staging, started: datetime.datetime, stopped: datetime.datetime) -> Summary:
    return Summary(
        size=sum(record.size for record in staging.records),
        repo_size=sum(record.repo_size for record in staging.records),
        duration_ms=int((stopped - started).total_seconds() * 1000),
    )


def _may_build_on(chain: Chain, job: Job, inspection: Inspection) -> bool:
    """Whether the next backup may be an increment to this chain, if the source can make one."""
    last = chain.manifest
    return (
        len(chain.links) < job.source.longest_chain
        and (last.engine.name, last.source.path) == (inspection.engine.name, inspection.origin.path)
        and last.backup.consistency != UNKNOWN
        and times.from_rfc3339(last.timestamp_start) <= times.now()
    )


def _placed(capture: Capture, below: Optional[Chain]) -> Kind:
    """How the backup was made, and what it builds on.

    Raises BackupError for an increment that does not begin where the one before it ends.
    """
    kind, position = capture.kind, capture.origin.position
    if kind.type != INCREMENT:
        return kind
    prior = below.manifest.source.position if below else None
    if not (below and prior and position and position.continues(prior)):
        raise BackupError(f"what was copied of {capture.origin.path} does not continue the last backup")
    return dataclasses.replace(kind, prior=below.ids[-1], reference=below.ids)


def _by_hand(staging: Staging, below: Optional[Chain], untar: str) -> List[str]:
    """The commands that restore without any of our software, for whoever reads the manifest at night."""
    commands: List[str] = []
    for link in below.links if below else []:
        commands += _unpack_by_hand(link.backup.path, link.manifest.files, link.manifest.compression.type, untar)
    path = staging.path.parent / staging.id
    return commands + _unpack_by_hand(path, staging.records, staging.compression.type, untar)


def _unpack_by_hand(directory: Path, records: List[FileRecord], compression: str, untar: str) -> List[str]:
    commands = [f"cd {shlex.quote(str(directory))}", "sha256sum -c SHA256SUMS"]
    decompress = {"zstd": "zstd -d -c", "gzip": "gzip -d -c", "none": "cat"}[compression]
    parents = {os.path.dirname(record.path) for record in records} - {""}
    commands += [f"mkdir -p DESTINATION/{shlex.quote(parent)}" for parent in sorted(parents)]
    for record in records:
        stored, path = shlex.quote(record.repo_path), shlex.quote(record.path)
        if record.content == "tar":
            commands.append(f"{decompress} {stored} | {untar} -C DESTINATION")
        else:
            commands.append(f"{decompress} {stored} > DESTINATION/{path}")
    return commands


def _reason_to_skip(job: Job, inspection: Inspection, previous: Optional[Manifest]) -> Optional[str]:
    if not previous or job.settings.force or previous.source.path != inspection.origin.path:
        return None
    age = (times.now() - times.from_rfc3339(previous.timestamp_start)).total_seconds()
    if 0 <= age < job.settings.min_age_hours * 3600:
        wanted = f"{job.settings.min_age_hours:g} h"
        return f"the last good backup {previous.id} is {times.age_in_words(age)} old, younger than {wanted}"
    if job.settings.skip_unchanged and job.source.is_unchanged(inspection.origin, previous.source):
        return f"nothing was committed since the last good backup {previous.id}"
    return None


def _skipped(directory: JobDirectory, previous: Manifest, reason: str) -> Outcome:
    return Outcome(False, directory.path / previous.id, previous.to_json(), previous, reason)
