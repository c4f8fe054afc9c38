# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prune: decide which backups stay, see that the good ones to stay are there, then remove the others."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from typing import Any, Dict, List, Sequence, Tuple

from .. import times
from ..errors import BackupError, CorruptError, Interrupted, LockedError, sentence
from ..repository import protection
from ..repository.catalogue import Entry
from ..repository.published import PublishedBackup
from ..repository.repository import JobDirectory
from ..repository.retention import Candidate, Decision, Policy, Standing, decide
from ..repository.state import State

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Plan:
    """What becomes of the backups of a job, newest first, and what the user should know of it."""

    job: str
    decisions: List[Decision]
    warnings: List[str]

    @property
    def keep(self) -> List[Decision]:
        """Those that stay."""
        return [decision for decision in self.decisions if decision.keep]

    @property
    def remove(self) -> List[Decision]:
        """Those that go."""
        return [decision for decision in self.decisions if not decision.keep]

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return {
            "keep": [self._entry(decision) for decision in self.keep],
            "remove": [self._entry(decision) for decision in self.remove],
        }

    def _entry(self, decision: Decision) -> Dict[str, Any]:
        standing = decision.candidate.standing.name.lower()
        return {"job": self.job, "id": decision.id, "standing": standing, "reasons": decision.reasons}


def plan(directory: JobDirectory, policy: Policy, expected: Sequence[Candidate] = ()) -> Plan:
    """What prune would do now, once the expected backups are there too.

    Raises UsageError for a policy that makes no sense.
    """
    now = times.now()
    candidates = [*candidates_of(directory), *expected]
    return Plan(directory.name, decide(candidates, policy, now), _warnings(directory, candidates, now))


def prune(directory: JobDirectory, policy: Policy) -> Plan:
    """Remove what the policy does not keep; the caller holds the lock of the job.

    Raises BackupError when a good backup that is to stay turns out not to be, or when a removal fails. A backup that
    a process uses stays, with a warning, for the next time.
    """
    directory.remove_leftovers()
    directory.keep_catalogue()
    planned = plan(directory, policy)
    if planned.remove:
        _confirm(directory, planned)
    # Newest first, as decided: an increment goes before what it builds on.
    removed: List[str] = []
    in_use: Dict[str, Decision] = {}
    try:
        for decision in planned.remove:
            try:
                directory.remove(PublishedBackup(directory.path / decision.id))
                removed.append(decision.id)
            except LockedError as error:
                in_use[decision.id] = dataclasses.replace(decision, keep=True, reasons=[str(error)])
    except OSError as error:
        told = f"{len(removed)} of {len(planned.remove)} backups of job {directory.name} were removed, then"
        raise BackupError(f"{told}: {sentence(error)}") from error
    finally:
        _forget(directory, removed)
        directory.keep_catalogue()
    decisions = [in_use.get(decision.id, decision) for decision in planned.decisions]
    warnings = [*planned.warnings, *(reason for decision in in_use.values() for reason in decision.reasons)]
    return Plan(planned.job, decisions, warnings)


def prune_jobs(targets: Sequence[Tuple[JobDirectory, Policy]], predict: bool = False) -> List[Plan]:
    """Prune each of the jobs as its policy says; with predict, only tell.

    One that fails does not stop the others; at the end BackupError tells of all that did.
    """
    plans: List[Plan] = []
    failures: List[BackupError] = []
    for directory, policy in targets:
        try:
            plans.append(_prune_job(directory, policy, predict))
        except OSError as error:
            failures.append(BackupError(sentence(error)))
        except Interrupted:
            raise
        except BackupError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise BackupError("; ".join(map(str, failures)))
    return plans


def _prune_job(directory: JobDirectory, policy: Policy, predict: bool) -> Plan:
    directory.refuse_missing()
    if predict:
        return plan(directory, policy)
    with directory.lock():
        return prune(directory, policy)


def candidates_of(directory: JobDirectory) -> List[Candidate]:
    """Every backup of the job with what retention must know of it."""
    state = directory.state()
    known = directory.catalogue()
    standings = {entry.id: _standing(entry, state) for entry in known}
    return [
        Candidate(
            id=entry.id,
            time=times.from_rfc3339(entry.start) if entry.start else times.from_id(entry.id),
            # An increment is no better than what it builds on.
            standing=max(standings.get(name, Standing.DAMAGED) for name in [entry.id, *entry.references]),
            is_protected=protection.read(directory.path / entry.id) is not None,
            references=tuple(entry.references),
        )
        for entry in known
    ]


def _standing(entry: Entry, state: State) -> Standing:
    verified = state.verified.get(entry.id)
    if entry.problem or (verified and verified.status == "failed"):
        return Standing.DAMAGED
    return Standing.GOOD if entry.proven or verified else Standing.UNVERIFIED


def _confirm(directory: JobDirectory, planned: Plan) -> None:
    """See by their manifests, not by the catalogue, that the good backups that are to stay are good."""
    for decision in planned.keep:
        if decision.candidate.standing is Standing.GOOD:
            backup = PublishedBackup(directory.path / decision.id)
            try:
                backup.check_sizes(backup.manifest())
            except CorruptError as error:
                directory.forget_catalogue()
                raise BackupError(f"nothing was removed, as {error}; prune again to decide without it") from error


def _forget(directory: JobDirectory, removed: List[str]) -> None:
    """Drop what is known of them beside the manifests; that it cannot be written harms nobody."""
    if removed:
        with contextlib.suppress(OSError), directory.changed_state() as state:
            for backup_id in removed:
                state.forget(backup_id)


def _warnings(directory: JobDirectory, candidates: List[Candidate], now: datetime.datetime) -> List[str]:
    job, past = directory.name, [candidate for candidate in candidates if candidate.time <= now]
    future = [candidate.id for candidate in candidates if candidate.time > now]
    warnings = []
    if past and not any(candidate.standing is Standing.GOOD for candidate in past):
        warnings.append(f"no backup of job {job} is known to be good, so all stay; verify one: dbbackup verify {job}")
    if future:
        warnings.append(f"{_named(future)} of job {job} in the future: they stay and take no slot; look at the clock")
    damaged = [candidate.id for candidate in candidates if candidate.standing is Standing.DAMAGED]
    if damaged:
        warnings.append(f"{_named(damaged)} of job {job} damaged")
    foreign = directory.foreign()
    if foreign:
        warnings.append(f"{', '.join(foreign[:_SHOWN])} in {directory.path} is no backup and is not touched")
    return warnings


def _named(ids: List[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"{', '.join(ids[:_SHOWN])}{more} {'is' if len(ids) == 1 else 'are'}"
