# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of transactions, which may come from a stranger: each line begins as one, and follows the one before."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import CorruptError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.manifest import Position
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl import transactions
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.log import (
    INSTALLED,
    READY,
    RESET,
    Prepared,
)

TIME = "2026-11-21T01:30:00.120Z"


class Report:
    """Nobody waits for signs of life here."""

    def alive(self) -> None:
        pass


def line(position: int, time: str = TIME, datoms: str = '[7 :name "a\\nb" 8 true] ') -> str:
    return f'{{:tx {position}, :time #inst "{time}", :max-eid 7, :datoms [{datoms}]}}\n'


def check(path: Path, text: str, start: int = 7) -> Any:
    path.write_text(text)
    report: Any = Report()
    return transactions.check(report, path, start)


def test_all_are_counted(tmp_path: Path) -> None:
    long = line(9, datoms="[7 :n 1 9 true] " * 10_000)
    assert check(tmp_path / "log", line(8) + long + line(10, datoms="")) == (3, 10)
    assert check(tmp_path / "log", "") == (0, 7)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (line(7), "transaction 7 comes after 7"),
        (line(8) + line(8), "transaction 8 comes after 8"),
        (line(9) + line(8), "transaction 8 comes after 9"),
        (line(8)[:-1], "its last line has no end"),
        (line(8)[:-3], "open brackets"),
        (line(8).replace("\\n", "\n"), "does not begin as one does"),
        (line(8) + "\n" + line(9), "does not begin as one does"),
        (line(8, time="2026-13-21T01:30:00.120Z"), "does not tell of a transaction"),
        (line(8, time="2026-11-21T01:30:00.12 Z"), "does not begin as one does"),
        (line(8) + "[1 2]\n", "does not begin as one does"),
        (line(8, datoms="#object[x]"), "nothing can read back"),
        (line(8) + line(9)[:40], "ends"),
    ],
)
def test_what_is_not_one_after_the_other_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(CorruptError, match=told):
        check(tmp_path / "log", text)


def test_a_moment_is_told_by_the_beginning_of_a_line() -> None:
    moment = transactions.moment_of(line(8).encode()[:70])
    assert moment.position == 8
    assert moment.time == datetime.datetime(2026, 11, 21, 1, 30, 0, 120000, datetime.UTC)


def test_names_are_in_the_order_of_backups() -> None:
    names = list(map(transactions.name_of, ["20261121T013000Z", "20261121T013001Z", "20270101T000000Z"]))
    assert names == sorted(names)
    assert all(map(transactions.is_name, names))
    for name in ("transactions-1.edn", "x/" + names[0], names[0] + "\n", "export.edn", names[0] + ".zst"):
        assert not transactions.is_name(name)


class TestGap:
    LOG = Prepared(READY, "123-45", 100, 200)

    @pytest.mark.parametrize("stop", [100, 150, 200])
    def test_none(self, stop: int) -> None:
        assert self.LOG.gap(Position("basis", stop, stop, "123-45")) is None
        assert self.LOG.gap(None) is None

    @pytest.mark.parametrize(
        ("found", "stop", "fingerprint", "told"),
        [
            (READY, 99, "123-45", "has dropped"),
            (READY, 201, "123-45", "has dropped"),
            (READY, 150, "123--45", "the schema is another one"),
            (READY, 150, "124-45", "the history is another one"),
            (READY, 150, None, "the history is another one"),
            (INSTALLED, 150, "123-45", "installed just now"),
            (RESET, 150, "123-45", "reset to another database"),
        ],
    )
    def test_each(self, found: str, stop: int, fingerprint: str | None, told: str) -> None:
        log = Prepared(found, "123-45", 100, 200)
        assert told in str(log.gap(Position("basis", stop, stop, fingerprint)))
