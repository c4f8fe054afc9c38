# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: UP006, UP035, UP045 - types are written as in the engine, which runs on Python 3.8
"""JSON into data classes: every fault has its place."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Optional

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.decoding import (
    DecodingError,
    decode,
    did_you_mean,
    encode,
)


@dataclasses.dataclass
class Leaf:
    name: str
    size: int = 0
    share: float = 0.5


@dataclasses.dataclass
class Plant:
    name: str
    tall: bool
    leaves: List[Leaf]
    roots: Dict[str, Leaf] = dataclasses.field(default_factory=dict)
    best: Optional[Leaf] = None
    note: Optional[str] = None
    anything: Any = None


PLANT: Dict[str, Any] = {
    "name": "fern",
    "tall": True,
    "leaves": [{"name": "a"}, {"name": "b", "size": 3, "share": 1}],
    "roots": {"deep": {"name": "r"}},
    "best": {"name": "b"},
    "note": None,
    "anything": [1, "x"],
}


def test_nested_value_and_back() -> None:
    plant = decode(Plant, PLANT)
    assert plant.leaves[1] == Leaf("b", 3, 1)
    assert plant.roots["deep"] == Leaf("r")
    assert plant.best == Leaf("b")
    assert decode(Plant, encode(plant)) == plant


def change(value: Dict[str, Any], **changes: Any) -> Dict[str, Any]:
    return {key: entry for key, entry in {**value, **changes}.items() if entry is not ...}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be an object, is a list"),
        (None, "must be an object, is null"),
        (change(PLANT, name=...), "name: is missing"),
        (change(PLANT, name=3), "name: must be a text, is a whole number"),
        (change(PLANT, name=None), "name: must be a text, is null"),
        (change(PLANT, tall=1), "tall: must be true or false, is a whole number"),
        (change(PLANT, tall="yes"), "tall: must be true or false, is a text"),
        (change(PLANT, leaves={}), "leaves: must be a list, is an object"),
        (change(PLANT, leaves=[{"name": "a"}, 7]), "leaves[1]: must be an object, is a whole number"),
        (change(PLANT, leaves=[{"name": "a", "size": "3"}]), "leaves[0].size: must be a whole number, is a text"),
        (change(PLANT, leaves=[{"name": "a", "size": 3.5}]), "leaves[0].size: must be a whole number, is a number"),
        (
            change(PLANT, leaves=[{"name": "a", "size": True}]),
            "leaves[0].size: must be a whole number, is true or false",
        ),
        (change(PLANT, leaves=[{"name": "a", "share": False}]), "leaves[0].share: must be a number, is true or false"),
        (change(PLANT, roots=[]), "roots: must be an object, is a list"),
        (change(PLANT, roots={"deep": {}}), "roots.deep.name: is missing"),
        (change(PLANT, best={"name": 1}), "best.name: must be a text, is a whole number"),
        (change(PLANT, note=[]), "note: must be a text, is a list"),
        (change(PLANT, leafs=[]), "leafs: is not known; did you mean leaves?"),
        (change(PLANT, zzz=1), "zzz: is not known"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fault_has_its_place(value: Any, message: str) -> None:
    with pytest.raises(DecodingError) as caught:
        decode(Plant, value)
    assert str(caught.value) == message


def test_place_of_the_whole_is_put_before() -> None:
    with pytest.raises(DecodingError, match=r"^plants\[2\]\.leaves\[0\]\.name: is missing$"):
        decode(Plant, change(PLANT, leaves=[{}]), "plants[2]")


def test_did_you_mean() -> None:
    assert did_you_mean("compres", ["compression", "name"]) == "; did you mean compression?"
    assert did_you_mean("qqq", ["compression", "name"]) == ""
