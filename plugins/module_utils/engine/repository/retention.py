# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which backups stay, with the reasons. Decides only; nothing here touches a file.

The rules are those of restic 0.16 and newer: joined by "or", the newest backup of each hour, day, ISO week, month or
year takes a slot, a period without a backup takes none, and the oldest backup stays while slots are left. What restic
does not know: only good backups take slots, and whatever the rules say, the newest good ones, protected ones, those of
the future and those that a kept increment builds on stay.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..durations import Duration
from ..errors import UsageError
from ..optional import optional_module

ALL = -1


class _Period(NamedTuple):
    """What a backup can be the newest of; name_of tells a moment's own."""

    noun: str
    name_of: Callable[[datetime.datetime], str]


_PERIODS = {
    "hourly": _Period("hour", lambda moment: moment.strftime("%Y-%m-%d %H")),
    "daily": _Period("day", lambda moment: moment.strftime("%Y-%m-%d")),
    "weekly": _Period("week", lambda moment: "{}-W{:02}".format(*moment.isocalendar()[:2])),
    "monthly": _Period("month", lambda moment: moment.strftime("%Y-%m")),
    "yearly": _Period("year", lambda moment: moment.strftime("%Y")),
}

# Of the others it is 0. The last good backup is never removed.
_LOWEST = {"keep_last": ALL, **{f"keep_{name}": ALL for name in _PERIODS}, "keep_min_good": 1}


@dataclasses.dataclass(frozen=True)
class Policy:
    """The options that say how many backups to keep; 0 or None is no rule, -1 keeps all of a kind.

    Durations are written as 1y6m7d12h. keep_days is an age in days, keep_min_good a number of good backups.
    """

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: Optional[str] = None
    keep_within_hourly: Optional[str] = None
    keep_within_daily: Optional[str] = None
    keep_within_weekly: Optional[str] = None
    keep_within_monthly: Optional[str] = None
    keep_within_yearly: Optional[str] = None
    keep_days: float = 0
    keep_min_good: int = 1
    timezone: str = "UTC"

    def is_empty(self) -> bool:
        """Whether no rule tells what to keep; then nothing can be decided."""
        return dataclasses.replace(self, keep_min_good=1, timezone="UTC") == Policy()

    def check_rules(self) -> None:
        """Raise UsageError when nothing can be decided by this policy: it has no rule, or a senseless one."""
        self.check()
        if self.is_empty():
            raise UsageError("no rule tells what to keep; give at least one of the options keep_last, keep_daily, ...")

    def check(self) -> None:
        """Raise UsageError for a number, a duration or a timezone that makes no sense."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            lowest = _LOWEST.get(field.name, 0)
            # Written so that it also catches what is not a number at all.
            if isinstance(value, (int, float)) and not lowest <= value < float("inf"):
                raise UsageError(f"{field.name}: {value} is out of range; the least is {lowest}")
            if field.name.startswith("keep_within") and value is not None:
                try:
                    Duration.parse(value)
                except ValueError as error:
                    raise UsageError(f"{field.name}: {error}") from None
        zone_of(self.timezone)


class Standing(enum.IntEnum):
    """What is known of a backup. The better never makes room for the worse."""

    GOOD = 0
    UNVERIFIED = 1
    DAMAGED = 2


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A backup to decide on. references are the ids of the backups that it cannot be restored without."""

    id: str
    time: datetime.datetime
    standing: Standing = Standing.GOOD
    is_protected: bool = False
    references: Tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of a backup, and every reason for it."""

    candidate: Candidate
    keep: bool
    reasons: List[str]

    @property
    def id(self) -> str:
        """The id of the backup."""
        return self.candidate.id

    @property
    def time(self) -> datetime.datetime:
        """When the backup was made."""
        return self.candidate.time


class _Verdict(NamedTuple):
    """What one rule says of one backup."""

    keep: bool
    reason: str


# What a rule says of the backups that it was asked about, by id.
_Verdicts = Dict[str, _Verdict]


def decide(candidates: List[Candidate], policy: Policy, now: datetime.datetime) -> List[Decision]:
    """A decision for every backup, newest first. While there is no good backup, all stay.

    Raises UsageError for a policy without a rule or with a senseless one.
    """
    policy.check_rules()
    ordered = sorted(candidates, key=lambda candidate: (candidate.time, candidate.id), reverse=True)
    past = [candidate for candidate in ordered if candidate.time <= now]
    good = [candidate for candidate in past if candidate.standing is Standing.GOOD]
    kept, dropped = _by_rules(past, good, policy, now)
    if good:
        _floor(past, policy.keep_min_good, kept)
    _whatever_the_rules(ordered, bool(good), now, kept)
    _bases_of_increments(ordered, kept)
    return [Decision(one, one.id in kept, kept.get(one.id) or dropped.get(one.id, [])) for one in ordered]


def _by_rules(
    past: List[Candidate], good: List[Candidate], policy: Policy, now: datetime.datetime
) -> Tuple[Dict[str, List[str]], Dict[str, List[str]]]:
    """The reasons to keep and to drop, by id.

    Slots are given to the good ones first, as if no others existed. What is worse stays where it would have a slot if
    its kind counted as well, so it goes when its time has come, and never at the cost of a better one. And a good one
    that only seems to be damaged, as the disk could not be read for a moment, loses nothing to the other good ones.
    """
    kept: Dict[str, List[str]] = {}
    dropped: Dict[str, List[str]] = {}
    for standing in Standing:
        asked = [candidate for candidate in past if candidate.standing is standing]
        if not asked or not good:
            continue
        pool = [candidate for candidate in past if candidate.standing in (Standing.GOOD, standing)]
        rules = _rules(pool, good[0].time, policy, now)
        for candidate in asked:
            verdicts = [rule[candidate.id] for rule in rules]
            kept[candidate.id] = [verdict.reason for verdict in verdicts if verdict.keep]
            dropped[candidate.id] = [verdict.reason for verdict in verdicts if not verdict.keep]
    return {backup_id: reasons for backup_id, reasons in kept.items() if reasons}, dropped


def _rules(pool: List[Candidate], newest: datetime.datetime, policy: Policy, now: datetime.datetime) -> List[_Verdicts]:
    zone = zone_of(policy.timezone)
    rules = []
    if policy.keep_last:
        rules.append(_last(pool, policy.keep_last))
    for name, period in _PERIODS.items():
        slots, duration = getattr(policy, f"keep_{name}"), getattr(policy, f"keep_within_{name}")
        period_of = functools.partial(_period_of, period, zone)
        if slots:
            rules.append(_slots(pool, pool[-1], period_of, slots, name))
        if duration:
            since = Duration.parse(duration).before(local(newest, zone))
            rules.append(_slots_since(pool, period_of, since, f"{name} within {duration}"))
    if policy.keep_within:
        since = Duration.parse(policy.keep_within).before(local(newest, zone))
        rules.append(_since(pool, since, f"within {policy.keep_within} of the newest good backup"))
    if policy.keep_days:
        rules.append(_younger(pool, now, policy.keep_days))
    return rules


def _last(pool: List[Candidate], count: int) -> _Verdicts:
    verdicts = {}
    for number, candidate in enumerate(pool, 1):
        keep = count == ALL or number <= count
        told = "any number of the last" if count == ALL else f"last {number} of {count}"
        verdicts[candidate.id] = _Verdict(keep, told if keep else f"not one of the last {count}")
    return verdicts


def _slots(
    asked: List[Candidate], oldest: Candidate, period_of: Callable[[Candidate], str], slots: int, name: str
) -> _Verdicts:
    """The newest backup of each period takes a slot, and the oldest of all one that is left."""
    verdicts: _Verdicts = {}
    taken, holder, last_period = 0, "", ""
    for candidate in asked:
        own_period = period_of(candidate)
        is_newest = own_period != last_period
        if (is_newest or candidate is oldest) and (slots == ALL or taken < slots):
            taken, holder, last_period = taken + 1, candidate.id, own_period
            number = name if slots == ALL else f"{name} {taken} of {slots}"
            why = f"newest of {own_period}" if is_newest else "oldest of all"
            verdicts[candidate.id] = _Verdict(True, f"{number}: {why}")
        elif is_newest:
            verdicts[candidate.id] = _Verdict(False, f"newer ones have all {slots} {name} slots")
        else:
            verdicts[candidate.id] = _Verdict(False, f"{holder} is newer in {own_period}")
    return verdicts


def _slots_since(
    pool: List[Candidate], period_of: Callable[[Candidate], str], since: datetime.datetime, name: str
) -> _Verdicts:
    """As many slots as there are periods since then."""
    verdicts = {candidate.id: _Verdict(False, f"not {name}") for candidate in pool}
    inside = [candidate for candidate in pool if candidate.time > since]
    verdicts.update(_slots(inside, pool[-1], period_of, ALL, name))
    return verdicts


def _since(pool: List[Candidate], since: datetime.datetime, name: str) -> _Verdicts:
    return {
        candidate.id: _Verdict(candidate.time > since, name if candidate.time > since else f"not {name}")
        for candidate in pool
    }


def _younger(pool: List[Candidate], now: datetime.datetime, days: float) -> _Verdicts:
    verdicts = {}
    for candidate in pool:
        keep = (now - candidate.time).total_seconds() < days * 86400
        verdicts[candidate.id] = _Verdict(keep, f"{'younger' if keep else 'not younger'} than {days:g} days")
    return verdicts


def _floor(past: List[Candidate], count: int, kept: Dict[str, List[str]]) -> None:
    """Keep the newest good ones, and what is worse where it would be one of them if it were good."""
    told = f"one of the newest {count} good backups (keep_min_good)"
    for standing in Standing:
        reason = told if standing is Standing.GOOD else f"else {told}"
        pool = [candidate for candidate in past if candidate.standing in (Standing.GOOD, standing)]
        for candidate in pool[:count]:
            kept.setdefault(candidate.id, [reason])


def _whatever_the_rules(
    ordered: List[Candidate], has_good: bool, now: datetime.datetime, kept: Dict[str, List[str]]
) -> None:
    """Add the reasons that do not depend on rules."""
    for candidate in ordered:
        reasons = kept.get(candidate.id, [])
        if candidate.is_protected:
            reasons = [*reasons, "protected"]
        if candidate.time > now:
            reasons = [*reasons, "its time lies in the future"]
        elif not has_good:
            reasons = [*reasons, "there is no good backup yet"]
        if reasons:
            kept[candidate.id] = reasons


def _bases_of_increments(ordered: List[Candidate], kept: Dict[str, List[str]]) -> None:
    """Keep what kept increments build on, also where a clock that was wrong made the base the newer one."""
    by_id = {candidate.id: candidate for candidate in ordered}
    waiting = [candidate for candidate in ordered if candidate.id in kept]
    for candidate in waiting:
        for base in candidate.references:
            if base not in kept and base in by_id:
                waiting.append(by_id[base])
            kept.setdefault(base, []).append(f"{candidate.id} builds on it")


def _period_of(period: _Period, zone: datetime.tzinfo, candidate: Candidate) -> str:
    return f"{period.noun} {period.name_of(local(candidate.time, zone))}"


def local(moment: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """The moment on the clocks of the zone, but for the first and the last day of all calendars."""
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment


def zone_of(name: str) -> datetime.tzinfo:
    """The timezone of this name, as Europe/Berlin.

    Raises UsageError for an unknown one, and before Python 3.9 for any but UTC.
    """
    if name == "UTC":
        return datetime.timezone.utc
    zones: Any = optional_module("zoneinfo")
    if zones is None:
        raise UsageError(f"timezone: {name!r} needs Python 3.9 or newer on this host; with this one only UTC is known")
    try:
        zone: datetime.tzinfo = zones.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(f"timezone: {name!r} is not known on this host; names look like Europe/Berlin") from None
    return zone
