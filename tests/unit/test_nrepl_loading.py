# SPDX-License-Identifier: GPL-3.0-or-later
"""Forms that load exports back, as they are sent; what they do is tested with real databases."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import EvaluationError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.answer import Answer
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.processes import Report
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources import edn
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl import loading
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.loading import State
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.options import NreplOptions
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.presets import PRESETS
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.runtime import Runtime
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.source import runtime_of

EXPECTED = State(3, 536870915)


def runtime(database: str) -> Runtime:
    options = NreplOptions(port=7888, database=database, connection="my.app/conn")
    return runtime_of(options, {"clojure": "1.11.1", "java": "17", "nrepl": "1.0.0"})


def told(value: str) -> Answer:
    return Answer(value=f'"{value}"', values=1, out="", err="", ex=None, root_ex=None, faults=[], dropped=0)


@pytest.mark.parametrize("database", PRESETS)
def test_forms_are_whole(database: str, tmp_path: Path) -> None:
    """Every kind of database can be loaded into, and each form is one, with all of its parts in place."""
    for code in (
        loading.looked(runtime(database)),
        loading.compared(runtime(database), "sent", EXPECTED),
        loading.loaded(runtime(database), "sent", EXPECTED, force=False),
    ):
        # A regular expression is no EDN, but a text without its hash sign is.
        file = tmp_path / "form.edn"
        file.write_text(code.replace('#"', '"').replace("#'", "'"))
        with open(os.devnull, "wb") as nowhere:
            edn.scan(Report(nowhere.fileno(), nowhere.fileno()), file)
        assert re.findall(r"<[a-z][a-z0-9_]*>", code) == []


@pytest.mark.parametrize("database", PRESETS)
def test_what_a_database_keeps_is_compared(database: str) -> None:
    code = loading.compared(runtime(database), "sent", EXPECTED)
    assert ("(juxt :e :a :v :tx)" in code) == loading.LOADINGS[database].keeps_basis


def test_a_transaction_that_was_not_stored_is_no_success() -> None:
    loading.check_committed(told("3 536870915"))
    with pytest.raises(EvaluationError, match="it could not be stored: no room; the application has to connect anew"):
        loading.check_committed(told("uncommitted: no room"))


def test_of_datahike_the_data_is_made_by_a_function() -> None:
    """What its log would quote of a transaction that fails is then nothing but that."""
    code = loading.loaded(runtime("datahike"), "sent", EXPECTED, force=True)
    assert "{:tx-data [[:db.fn/call guarded]]}" in code
    assert "(:max-tx sent)" in code
