# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prune: decide by the manifests which backups stay, then remove the others."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from typing import Any, Dict, List, Sequence, Set, Tuple

from .. import times
from ..errors import BackupError, Interrupted, LockedError, sentence
from ..repository import protection
from ..repository.catalogue import Entry
from ..repository.manifest import UNKNOWN
from ..repository.repository import JobDirectory
from ..repository.retention import Candidate, Decision, Policy, Standing, decide
from ..repository.state import State

_SHOWN = 3
# More than policies for every day keep.
_READ_AGAIN = 100


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
    return _planned(directory, policy, directory.catalogue(), expected)


def _planned(directory: JobDirectory, policy: Policy, known: List[Entry], expected: Sequence[Candidate] = ()) -> Plan:
    now = times.now()
    candidates = [*candidates_of(directory, known, directory.state()), *expected]
    return Plan(directory.name, decide(candidates, policy, now), _warnings(directory, candidates, now))


def prune(directory: JobDirectory, policy: Policy) -> Plan:
    """Remove what the policy does not keep; the caller holds the directory and the lock of the job.

    Raises BackupError when a removal fails. A backup that a process uses stays, with a warning, for the next time.
    """
    leftovers = directory.remove_leftovers()
    planned, known = _proven(directory, policy)
    # Newest first, as decided: an increment goes before what it builds on.
    removed: List[str] = []
    refused: Dict[str, Decision] = {}
    needed: Dict[str, str] = {}
    try:
        for decision in planned.remove:
            try:
                if decision.id in needed:
                    raise LockedError(f"{needed[decision.id]}, which builds on {decision.id}, stays")
                directory.remove(directory.published(decision.id))
                removed.append(decision.id)
            except LockedError as error:
                refused[decision.id] = dataclasses.replace(decision, keep=True, reasons=[str(error)])
                needed.update(dict.fromkeys(decision.candidate.references, decision.id))
    except OSError as error:
        told = f"{len(removed)} of {len(planned.remove)} backups of job {directory.name} were removed, then"
        raise BackupError(f"{told}: {sentence(error)}") from error
    finally:
        _forget(directory, removed)
        directory.write_catalogue([entry for entry in known if entry.id not in removed])
    decisions = [refused.get(decision.id, decision) for decision in planned.decisions]
    warnings = [
        *leftovers,
        *planned.warnings,
        *(reason for decision in refused.values() for reason in decision.reasons),
    ]
    return Plan(planned.job, decisions, warnings)


def _proven(directory: JobDirectory, policy: Policy) -> Tuple[Plan, List[Entry]]:
    """A plan, and what is known, where the manifests of all that goes and of the newest that stay were read.

    The catalogue tells at once whether there is something to do, and of thousands that stay. But nothing goes because
    of what it says alone, of that backup or of one that is to be the last good one.
    """
    known = directory.catalogue()
    read: Set[str] = set()
    planned = _planned(directory, policy, known)
    while planned.remove:
        staying = [decision.id for decision in planned.keep if decision.candidate.standing is Standing.GOOD]
        doubtful = {decision.id for decision in planned.remove}.union(staying[:_READ_AGAIN]) - read
        if not doubtful:
            break
        read |= doubtful
        known = directory.reread(known, doubtful)
        planned = _planned(directory, policy, known)
    return planned, known


def prune_jobs(targets: Sequence[Tuple[JobDirectory, Policy]], predict: bool = False) -> List[Plan]:
    """Prune each of the jobs as its policy says; with predict, only tell.

    One that fails does not stop the others; at the end BackupError tells of all that did.
    """
    plans: List[Plan] = []
    failures: List[BackupError] = []
    for directory, policy in targets:
        try:
            plans.append(prune_job(directory, policy, predict))
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


def prune_job(directory: JobDirectory, policy: Policy, predict: bool = False) -> Plan:
    """Prune a job while nobody else works on it; with predict, only tell.

    Raises NotFoundError, LockedError, or as prune does.
    """
    directory.refuse_missing()
    if predict:
        return plan(directory, policy)
    with directory.held() as held, held.lock():
        return prune(held, policy)


def candidates_of(directory: JobDirectory, known: List[Entry], state: State) -> List[Candidate]:
    """Every backup in the catalogue of the job with what retention must know of it."""
    standings = {entry.id: _standing(entry, state) for entry in known}
    return [
        Candidate(
            id=entry.id,
            time=times.from_rfc3339(entry.start) if entry.start else times.from_id(entry.id),
            # An increment is no better than what it builds on.
            standing=max(standings.get(name, Standing.DAMAGED) for name in [entry.id, *entry.references]),
            is_protected=protection.read(directory.place / entry.id) is not None,
            references=tuple(entry.references),
        )
        for entry in known
    ]


def _standing(entry: Entry, state: State) -> Standing:
    if entry.problem or state.failure(entry.id):
        return Standing.DAMAGED
    if entry.consistency == UNKNOWN:
        # That its bytes are still the same does not make them consistent.
        return Standing.UNVERIFIED
    return Standing.GOOD if entry.proven or entry.id in state.verified else Standing.UNVERIFIED


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
        advice = f"run the job, or verify one: dbbackup verify {job}"
        warnings.append(f"no backup of job {job} is known to be good, so all stay; {advice}")
    if future:
        warnings.append(f"job {job}: {_named(future)} in the future, so to stay without a slot; look at the clock")
    damaged = [candidate.id for candidate in candidates if candidate.standing is Standing.DAMAGED]
    if damaged:
        warnings.append(f"job {job}: {_named(damaged)} damaged")
    foreign = directory.foreign()
    if foreign:
        warnings.append(f"job {job}: {_named(foreign)} no backup and not touched")
    return warnings


def _named(names: List[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} {'is' if len(names) == 1 else 'are'}"
