# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a policy will have kept after some time, if backups go on as they did so far."""

from __future__ import annotations

import datetime
import statistics
from typing import List, Optional

from .. import times
from ..errors import UsageError
from ..repository.repository import JobDirectory
from ..repository.retention import Candidate, Decision, Policy, decide
from .prune import Plan, candidates_of

_MOST_DAYS = 36_525
_MOST_DECISIONS = 1_000_000
_USUAL_HOURS = 24.0
_LEAST_HOURS = 0.01
_RECENT = 8


def simulate(directory: JobDirectory, policy: Policy, days: int, every_hours: Optional[float] = None) -> Plan:
    """The backups there are and those of so many days to come, each followed by a prune.

    Without every_hours the backups come as often as those so far did, or once a day. Raises NotFoundError when there is
    no such job, UsageError when that are too many, or the policy makes no sense.
    """
    directory.refuse_missing()
    candidates, now = candidates_of(directory, directory.catalogue(), directory.state()), times.now()
    hours = _usual_hours(candidates) if every_hours is None else every_hours
    # Written so that it also catches what is not a number at all.
    if not (1 <= days <= _MOST_DAYS and _LEAST_HOURS <= hours < float("inf")):
        raise UsageError(f"give 1 to {_MOST_DAYS} days, and at least {_LEAST_HOURS} hours between two backups")
    gone: List[Decision] = []
    moment, decided = now, 0
    for number in range(1, int(days * 24 / hours) + 1):
        moment = now + datetime.timedelta(hours=hours * number)
        candidates.append(Candidate(times.to_id(moment), moment))
        decided += len(candidates)
        if decided > _MOST_DECISIONS:
            raise UsageError("the policy keeps too many backups to go on; give fewer days, or more hours between two")
        decisions = decide(candidates, policy, moment)
        gone += [decision for decision in decisions if not decision.keep]
        candidates = [decision.candidate for decision in decisions if decision.keep]
    told = f"a backup every {hours:g} hours until {times.to_id(moment)}, each followed by a prune; nothing was changed"
    everything = sorted([*decide(candidates, policy, moment), *gone], key=lambda one: (one.time, one.id), reverse=True)
    return Plan(directory.name, everything, [told])


def _usual_hours(candidates: List[Candidate]) -> float:
    """The median time between two backups, of the last few, as older ones may be pruned; one hour at least."""
    moments = sorted(candidate.time for candidate in candidates)[-_RECENT:]
    gaps = [(later - earlier).total_seconds() / 3600 for earlier, later in zip(moments, moments[1:])]
    return max(1.0, statistics.median(gaps)) if gaps else _USUAL_HOURS
