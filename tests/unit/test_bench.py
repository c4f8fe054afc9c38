# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark tells by its exit code whether its limits held."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark without its work."""
    description = importlib.util.spec_from_file_location("bench_of_lmdb", CHECKOUT / "bench/lmdb.py")
    assert description
    assert description.loader
    module = importlib.util.module_from_spec(description)
    monkeypatch.setitem(sys.modules, "bench_of_lmdb", module)
    # As for a script, whose own directory is searched first.
    monkeypatch.syspath_prepend(CHECKOUT / "bench")
    description.loader.exec_module(module)
    for name in ("prepare", "compete", "report", "remove", "application"):
        monkeypatch.setattr(module, name, lambda *_arguments: None)
    monkeypatch.setattr(module, "size_of", lambda _path: 0)
    monkeypatch.setattr(sys, "argv", ["bench"])
    return module


@pytest.mark.parametrize("found", [0.05, 1.08, 2.0])
def test_a_missed_limit_ends_with_1(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: float
) -> None:
    monkeypatch.setattr(bench, "ratio", lambda _ours, _peer: found)
    code = bench.main()
    missed = capsys.readouterr().out.count("MISSED")
    assert (code, missed) == ((0, 0) if found == 0.05 else (1, 2) if found == 1.08 else (1, 3))
