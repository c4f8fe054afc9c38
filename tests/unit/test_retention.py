# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy keeps: laws that hold for any backups, and the days on which calendars are difficult."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import random
import sys
from collections.abc import Callable
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.durations import Duration
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import (
    Candidate,
    Decision,
    Policy,
    Standing,
    decide,
    zone_of,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

UTC = datetime.UTC
NOW = datetime.datetime(2026, 11, 21, 12, tzinfo=UTC)
DURATIONS = ["1h", "36h", "1d", "7d", "1m", "6m", "1y", "1y6m7d12h", "400d", "9999y"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"]
COUNTED = ["hourly", "daily", "weekly", "monthly", "yearly"]

# Close together and far apart, with ties, and some in the future.
AGES = st.one_of(
    st.integers(-3, 30).map(lambda hours: hours * 3600),
    st.integers(-1000, 100_000),
    st.integers(0, 900).map(lambda days: days * 86400),
)
COUNTS = st.one_of(st.just(0), st.integers(-1, 5))
WITHIN = st.one_of(st.none(), st.sampled_from(DURATIONS))
POLICIES = st.builds(
    Policy,
    keep_last=COUNTS,
    **{f"keep_{name}": COUNTS for name in COUNTED},
    keep_within=WITHIN,
    **{f"keep_within_{name}": WITHIN for name in COUNTED},
    keep_days=st.one_of(st.just(0), st.floats(0.001, 500)),
    keep_min_good=st.integers(1, 4),
    timezone=st.sampled_from(ZONES),
).filter(lambda policy: not policy.is_empty())


STANDINGS = st.sampled_from(Standing)


@st.composite
def backups(draw: st.DrawFn, standings: Any = STANDINGS, plain: bool = False) -> list[Candidate]:
    """Backups with any times; plain ones are not protected and do not build on each other."""
    ages = draw(st.lists(AGES, max_size=25))
    made: list[Candidate] = []
    for number, age in enumerate(ages):
        references = (
            () if plain or not made else tuple(draw(st.sets(st.sampled_from([*made]).map(name_of), max_size=2)))
        )
        made.append(
            Candidate(
                id=f"{number:03}",
                time=NOW - datetime.timedelta(seconds=age),
                standing=draw(standings),
                is_protected=not plain and draw(st.integers(0, 9)) == 0,
                references=references,
            )
        )
    return made


def name_of(candidate: Candidate) -> str:
    return candidate.id


def kept(decisions: list[Decision]) -> set[str]:
    return {decision.id for decision in decisions if decision.keep}


def good_past(candidates: list[Candidate]) -> list[Candidate]:
    """The good ones that are not of the future, newest first."""
    found = [one for one in candidates if one.standing is Standing.GOOD and one.time <= NOW]
    return sorted(found, key=lambda one: (one.time, one.id), reverse=True)


@given(backups(), POLICIES)
def test_each_backup_has_one_decision_with_reasons(candidates: list[Candidate], policy: Policy) -> None:
    decisions = decide(candidates, policy, NOW)
    assert sorted(one.id for one in decisions) == sorted(one.id for one in candidates)
    assert all(one.reasons and all(one.reasons) for one in decisions)
    moments = [(one.time, one.id) for one in decisions]
    assert moments == sorted(moments, reverse=True)


@given(backups(), POLICIES)
def test_the_newest_good_ones_stay(candidates: list[Candidate], policy: Policy) -> None:
    assert {one.id for one in good_past(candidates)[: policy.keep_min_good]} <= kept(decide(candidates, policy, NOW))


@given(backups(), POLICIES)
def test_without_a_good_one_all_stay(candidates: list[Candidate], policy: Policy) -> None:
    candidates = [one for one in candidates if one.standing is not Standing.GOOD or one.time > NOW]
    assert all(one.keep for one in decide(candidates, policy, NOW))


@given(backups(), POLICIES)
def test_protected_ones_and_those_of_the_future_stay(candidates: list[Candidate], policy: Policy) -> None:
    stay = {one.id for one in candidates if one.is_protected or one.time > NOW}
    assert stay <= kept(decide(candidates, policy, NOW))


@given(backups(), POLICIES)
def test_what_a_kept_one_builds_on_stays(candidates: list[Candidate], policy: Policy) -> None:
    """Whatever their times are: a clock that was wrong may have made the base the newer one."""
    decisions = decide(candidates, policy, NOW)
    for decision in decisions:
        if decision.keep:
            assert set(decision.candidate.references) <= kept(decisions)


@given(backups(), POLICIES, st.randoms(use_true_random=False))
def test_the_order_of_input_does_not_matter(candidates: list[Candidate], policy: Policy, chance: random.Random) -> None:
    shuffled = candidates[:]
    chance.shuffle(shuffled)
    assert decide(shuffled, policy, NOW) == decide(candidates, policy, NOW)


@settings(max_examples=300)
@given(backups(), POLICIES)
def test_deciding_again_over_what_stays_keeps_all_of_it(candidates: list[Candidate], policy: Policy) -> None:
    """At the same moment. Later, keep_days alone counts from then on; the other rules look at no clock."""
    stay = [decision.candidate for decision in decide(candidates, policy, NOW) if decision.keep]
    assert all(decision.keep for decision in decide(stay, policy, NOW))


@given(backups(standings=st.just(Standing.GOOD), plain=True), POLICIES, st.integers(0, 10**8))
def test_time_that_passes_removes_nothing_but_by_keep_days(
    candidates: list[Candidate], policy: Policy, seconds: int
) -> None:
    policy, candidates = dataclasses.replace(policy, keep_days=0), good_past(candidates)
    assume(not policy.is_empty())
    later = NOW + datetime.timedelta(seconds=seconds)
    assert kept(decide(candidates, policy, later)) == kept(decide(candidates, policy, NOW))


@given(backups(plain=True), POLICIES)
def test_worse_ones_never_change_what_becomes_of_better_ones(candidates: list[Candidate], policy: Policy) -> None:
    everything = decide(candidates, policy, NOW)
    for worst in (Standing.GOOD, Standing.UNVERIFIED):
        better = [one for one in candidates if one.standing <= worst]
        if good_past(better):
            assert [one for one in everything if one.candidate.standing <= worst] == decide(better, policy, NOW)


@given(backups(plain=True), POLICIES)
def test_a_worse_one_does_not_outlive_what_a_good_one_would(candidates: list[Candidate], policy: Policy) -> None:
    """It goes when its time has come: were its kind as good, it would stay no shorter, so nothing piles up."""
    assume(good_past(candidates))
    newest = good_past(candidates)[0]
    for standing in (Standing.UNVERIFIED, Standing.DAMAGED):
        # The newest good one is where keep_within begins to count.
        pool = [one for one in candidates if one.standing in (Standing.GOOD, standing) and one.time <= newest.time]
        as_good = [dataclasses.replace(one, standing=Standing.GOOD) for one in pool]
        worse = {one.id for one in pool if one.standing is standing}
        assert kept(decide(candidates, policy, NOW)) & worse <= kept(decide(as_good, policy, NOW))


@given(backups(standings=st.sampled_from([Standing.GOOD, Standing.UNVERIFIED]), plain=True), POLICIES, st.data())
def test_to_seem_damaged_for_a_moment_costs_nothing(
    candidates: list[Candidate], policy: Policy, data: st.DataObject
) -> None:
    """As when a disk cannot be read: the good ones that stay otherwise stay then as well, damaged or not."""
    damaged = {one.id for one in candidates if one.standing is Standing.GOOD and data.draw(st.booleans())}
    seen = [dataclasses.replace(one, standing=Standing.DAMAGED) if one.id in damaged else one for one in candidates]
    good = {one.id for one in candidates if one.standing is Standing.GOOD}
    assert kept(decide(candidates, policy, NOW)) & good <= kept(decide(seen, policy, NOW))


@given(backups(standings=st.just(Standing.GOOD), plain=True), POLICIES, POLICIES)
def test_rules_are_joined_by_or(candidates: list[Candidate], one: Policy, other: Policy) -> None:
    other = dataclasses.replace(other, timezone=one.timezone)
    names = [field.name for field in dataclasses.fields(Policy) if field.name.startswith("keep_")]
    of_both = {name: getattr(one, name) or getattr(other, name) for name in names}
    both = Policy(**{**of_both, "keep_min_good": max(one.keep_min_good, other.keep_min_good)}, timezone=one.timezone)
    assert kept(decide(candidates, one, NOW)) <= kept(decide(candidates, both, NOW))


class TestOracle:
    """The rules of restic told a second time, by what they mean for a whole set rather than step by step."""

    PERIOD: ClassVar[dict[str, Callable[[datetime.datetime], tuple[int, ...]]]] = {
        "hourly": lambda moment: (*moment.timetuple()[:4],),
        "daily": lambda moment: (*moment.timetuple()[:3],),
        "weekly": lambda moment: (*moment.isocalendar()[:2],),
        "monthly": lambda moment: (*moment.timetuple()[:2],),
        "yearly": lambda moment: (moment.year,),
    }

    @settings(max_examples=300)
    @given(backups(standings=st.just(Standing.GOOD), plain=True), POLICIES)
    def test_agrees(self, candidates: list[Candidate], policy: Policy) -> None:
        candidates, policy = good_past(candidates), dataclasses.replace(policy, timezone="UTC")
        assert kept(decide(candidates, policy, NOW)) == {one.id for one in self.kept(candidates, policy)}

    def kept(self, newest_first: list[Candidate], policy: Policy) -> set[Candidate]:
        if not newest_first:
            return set()
        stay = set(newest_first[: policy.keep_min_good])
        stay |= set(newest_first if policy.keep_last == -1 else newest_first[: policy.keep_last])
        for name, period in self.PERIOD.items():
            stay |= self.counted(newest_first, period, getattr(policy, f"keep_{name}"))
            recent = self.since(newest_first, getattr(policy, f"keep_within_{name}"))
            stay |= self.newest_of_each(recent, period) | ({newest_first[-1]} & set(recent))
        stay |= set(self.since(newest_first, policy.keep_within))
        return stay | {one for one in newest_first if (NOW - one.time) < datetime.timedelta(days=policy.keep_days)}

    def counted(self, newest_first: list[Candidate], period: Callable[..., Any], slots: int) -> set[Candidate]:
        if not slots:
            return set()
        ordered = sorted(self.newest_of_each(newest_first, period), key=lambda one: (one.time, one.id), reverse=True)
        taken = ordered if slots == -1 else ordered[:slots]
        is_left = slots == -1 or len(taken) < slots
        return {*taken, newest_first[-1]} if is_left else set(taken)

    def newest_of_each(self, candidates: list[Candidate], period: Callable[..., Any]) -> set[Candidate]:
        groups: dict[Any, list[Candidate]] = {}
        for one in candidates:
            groups.setdefault(period(one.time), []).append(one)
        return {max(group, key=lambda one: (one.time, one.id)) for group in groups.values()}

    def since(self, newest_first: list[Candidate], duration: str | None) -> list[Candidate]:
        if duration is None:
            return []
        begin = Duration.parse(duration).before(newest_first[0].time)
        return [one for one in newest_first if one.time > begin]


def at(*texts: str) -> list[Candidate]:
    """Good backups of these times, with their times as ids."""
    return [Candidate(text, datetime.datetime.fromisoformat(text)) for text in texts]


class TestCalendar:
    def stay(self, candidates: list[Candidate], **policy: Any) -> set[str]:
        return kept(decide(candidates, Policy(**policy), max(one.time for one in candidates)))

    def test_the_night_without_an_hour(self) -> None:
        """In Berlin 02:00 to 03:00 is missing on 2026-03-29: 00:59 UTC is 01:59, and 01:00 UTC is 03:00."""
        nights = at("2026-03-29T00:00+00:00", "2026-03-29T00:59+00:00", "2026-03-29T01:00+00:00")
        assert self.stay(nights, keep_hourly=2, timezone="Europe/Berlin") == {nights[1].id, nights[2].id}

    def test_the_night_with_an_hour_twice(self) -> None:
        """Both are the hour 02, as in restic: of 00:30 and 01:30 UTC the newer one stays."""
        nights = at("2026-10-24T23:30+00:00", "2026-10-25T00:30+00:00", "2026-10-25T01:30+00:00")
        assert self.stay(nights, keep_hourly=2, timezone="Europe/Berlin") == {nights[0].id, nights[2].id}
        assert self.stay(nights, keep_hourly=2) == {nights[1].id, nights[2].id}

    def test_a_day_begins_at_midnight_of_the_zone(self) -> None:
        """Five hours earlier than in UTC in winter, four in summer."""
        days = at(
            "2026-11-01T03:59+00:00", "2026-11-01T04:00+00:00", "2026-11-02T04:59+00:00", "2026-11-02T05:00+00:00"
        )
        assert self.stay(days, keep_daily=3, timezone="America/New_York") == {days[0].id, days[2].id, days[3].id}
        assert self.stay(days, keep_daily=2) == {days[1].id, days[3].id}

    def test_within_a_day_of_25_hours(self) -> None:
        days = at("2026-10-24T10:00+00:00", "2026-10-24T10:01+00:00", "2026-10-25T11:00+00:00")
        assert self.stay(days, keep_within="1d", timezone="Europe/Berlin") == {days[1].id, days[2].id}
        assert self.stay(days, keep_within="1d") == {days[2].id}

    def test_a_week_at_the_end_of_a_year_is_one(self) -> None:
        """2026-12-28 to 2027-01-03 is week 53 of 2026; 2025-12-29 already belongs to 2026."""
        days = at(
            "2026-12-27T12:00+00:00", "2026-12-28T12:00+00:00", "2027-01-03T12:00+00:00", "2027-01-04T12:00+00:00"
        )
        assert self.stay(days, keep_weekly=3) == {days[0].id, days[2].id, days[3].id}
        (told,) = [one for one in decide(days, Policy(keep_weekly=3), days[3].time) if one.id == days[2].id]
        assert told.reasons == ["weekly 2 of 3: newest of week 2026-W53"]
        turn = at("2025-12-28T12:00+00:00", "2025-12-29T12:00+00:00", "2026-01-01T12:00+00:00")
        assert self.stay(turn, keep_weekly=2) == {turn[0].id, turn[2].id}

    def test_leap_days(self) -> None:
        days = at("2024-02-28T12:00+00:00", "2024-02-29T12:00+00:00", "2024-03-01T12:00+00:00")
        assert self.stay(days, keep_daily=3) == {one.id for one in days}
        assert self.stay(days, keep_monthly=2) == {days[1].id, days[2].id}
        years = at(
            "2023-02-28T12:00+00:00", "2023-03-01T12:00+00:00", "2023-03-01T12:01+00:00", "2024-02-29T12:00+00:00"
        )
        assert self.stay(years, keep_within="1y") == {years[2].id, years[3].id}

    def test_of_the_same_second_the_larger_id_is_the_newer(self) -> None:
        moment = datetime.datetime(2026, 11, 20, tzinfo=UTC)
        twins = [Candidate(name, moment) for name in ("b", "a", "c")]
        assert kept(decide(twins, Policy(keep_last=1), NOW)) == {"c"}
        assert [one.id for one in decide(twins, Policy(keep_last=1), NOW)] == ["c", "b", "a"]

    def test_a_backup_of_this_very_moment_is_not_of_the_future(self) -> None:
        now, later = Candidate("a", NOW), Candidate("b", NOW + datetime.timedelta(microseconds=1))
        decisions = decide([now, later], Policy(keep_last=1), NOW)
        assert [one.reasons for one in decisions] == [["its time lies in the future"], ["last 1 of 1"]]

    @pytest.mark.parametrize("zone", ZONES)
    def test_the_ends_of_all_calendars(self, zone: str) -> None:
        ends = [
            Candidate("first", datetime.datetime.min.replace(hour=1, tzinfo=UTC)),
            Candidate("now", NOW),
            Candidate("last", datetime.datetime.max.replace(tzinfo=UTC)),
        ]
        policy = Policy(
            keep_hourly=1, keep_weekly=1, keep_within="1y", keep_within_weekly="9" * 30 + "y", timezone=zone
        )
        assert kept(decide(ends, policy, NOW)) == {"first", "now", "last"}


class TestSenseless:
    @pytest.mark.parametrize("keep_min_good", [1, 3])
    def test_an_empty_policy(self, keep_min_good: int) -> None:
        with pytest.raises(UsageError, match="no rule tells what to keep"):
            decide([], Policy(keep_min_good=keep_min_good, timezone="Europe/Berlin"), NOW)

    @pytest.mark.parametrize(
        "policy",
        [
            {"keep_last": -2},
            {"keep_yearly": -(10**30)},
            {"keep_days": -1},
            {"keep_days": float("nan")},
            {"keep_days": float("inf")},
            {"keep_min_good": 0},
            {"keep_min_good": -1},
            {"keep_within": ""},
            {"keep_within": "0d"},
            {"keep_within_daily": "one day"},
            {"keep_within_yearly": "9" * 5000 + "y!"},
        ],
        ids=str,
    )
    def test_numbers_and_durations(self, policy: dict[str, Any]) -> None:
        (name,) = policy
        with pytest.raises(UsageError, match=f"^{name}: ") as raised:
            decide([], Policy(**{"keep_last": 1, **policy}), NOW)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("name", "number", "least"), [("keep_last", -2, -1), ("keep_days", -1, 0), ("keep_min_good", -1, 1)]
    )
    def test_the_least_is_told(self, name: str, number: int, least: int) -> None:
        with pytest.raises(UsageError, match=f"^{name}: {number} is out of range; the least is {least}$"):
            Policy(**{name: number}).check()

    @pytest.mark.parametrize(
        "policy",
        [{"keep_last": 10**30}, {"keep_hourly": 10**30}, {"keep_days": 1e308}, {"keep_within": "9" * 99 + "y"}],
    )
    def test_large_numbers_keep_all(self, policy: dict[str, Any]) -> None:
        candidates = [Candidate(str(hours), NOW - datetime.timedelta(hours=hours)) for hours in range(5)]
        assert all(one.keep for one in decide(candidates, Policy(**policy), NOW))

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            "../../etc/passwd",
            "/etc/passwd",
            "/usr/share/zoneinfo/UTC",
            "UTC/..",
            "UTC/../UTC",
            "Europe",
            "Europe/",
            "Europe/Atlantis",
            "zone.tab",
            "tzdata.zi",
            "UTC\0",
            "UTC\n",
            "\ud800",
            "é" * 300,
            "a" * 5000,
            "a/" * 3000,
        ],
        ids=lambda name: ascii(name[:30]),
    )
    def test_timezones(self, name: str) -> None:
        with pytest.raises(UsageError, match=r"^timezone: ") as raised:
            zone_of(name)
        assert "\n" not in str(raised.value)

    def test_a_host_without_timezones_knows_utc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As Python 3.8 is."""
        monkeypatch.setitem(sys.modules, "zoneinfo", None)
        with pytest.raises(UsageError, match=r"'Europe/Berlin' needs Python 3\.9 or newer on this host"):
            decide(at("2026-11-21T00:00+00:00"), Policy(keep_last=1, timezone="Europe/Berlin"), NOW)
        assert zone_of("UTC") is datetime.UTC
        assert isinstance(ZoneInfo("UTC"), datetime.tzinfo)


class TestReasons:
    """What a person reads."""

    def reasons(self, candidates: list[Candidate], **policy: Any) -> dict[str, list[str]]:
        return {one.id: one.reasons for one in decide(candidates, Policy(**policy), NOW)}

    def test_of_good_ones(self) -> None:
        moments = [
            datetime.datetime(2026, 11, day, hour, tzinfo=UTC) for day, hour in ((21, 2), (21, 1), (20, 1), (1, 1))
        ]
        told = self.reasons([Candidate(f"{moment:%d-%H}", moment) for moment in moments], keep_daily=2, keep_days=1)
        assert told == {
            "21-02": ["daily 1 of 2: newest of day 2026-11-21", "younger than 1 days"],
            "21-01": ["younger than 1 days"],
            "20-01": ["daily 2 of 2: newest of day 2026-11-20"],
            "01-01": ["newer ones have all 2 daily slots", "not younger than 1 days"],
        }

    def test_of_others(self) -> None:
        hours = (datetime.timedelta(hours=number) for number in itertools.count())
        candidates = [
            Candidate("future", NOW + datetime.timedelta(hours=1)),
            Candidate("damaged", NOW - next(hours), Standing.DAMAGED),
            Candidate("increment", NOW - next(hours), references=("base",)),
            Candidate("unverified", NOW - next(hours), Standing.UNVERIFIED),
            Candidate("pinned", NOW - next(hours), is_protected=True),
            Candidate("base", NOW - next(hours)),
        ]
        assert self.reasons(candidates, keep_last=1) == {
            "future": ["its time lies in the future"],
            "damaged": ["last 1 of 1"],
            "increment": ["last 1 of 1"],
            "unverified": ["not one of the last 1"],
            "pinned": ["protected"],
            "base": ["increment builds on it"],
        }

    def test_of_the_floor(self) -> None:
        old = [Candidate(str(day), NOW - datetime.timedelta(days=day)) for day in (30, 31, 32)]
        floor = ["one of the newest 2 good backups (keep_min_good)"]
        told = self.reasons(old, keep_days=7, keep_min_good=2)
        assert told == {"30": floor, "31": floor, "32": ["not younger than 7 days"]}

    def test_without_a_good_one(self) -> None:
        told = self.reasons([Candidate("a", NOW, Standing.UNVERIFIED)], keep_last=1)
        assert told == {"a": ["there is no good backup yet"]}


def test_an_ancient_good_one_does_not_cost_newer_unverified_ones() -> None:
    newer = [Candidate(f"u{age}", NOW - datetime.timedelta(days=age), Standing.UNVERIFIED) for age in (20, 21)]
    ancient = Candidate("good", NOW - datetime.timedelta(days=400))
    decisions = decide([*newer, ancient], Policy(keep_days=14), NOW)
    assert kept(decisions) == {"u20", "good"}
