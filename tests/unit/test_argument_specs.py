# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that the role documents are those that the engine knows: with the same types, defaults and choices."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
import yaml
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.jobs import Settings, parse
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.retention import Policy
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.routine import Application, Routine, Unit
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources import registry
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT

SPECS = yaml.safe_load((CHECKOUT / "roles/backup/meta/argument_specs.yml").read_text())["argument_specs"]
JOB = SPECS["job"]["options"]
DEFAULTS = yaml.safe_load((CHECKOUT / "roles/backup/defaults/main.yml").read_text())
TYPES = list(registry._JOB_TYPES)
TYPE_NAMES = {str: {"str", "path"}, int: {"int"}, float: {"float"}, bool: {"bool"}}


def fields_of(*classes: type[Any]) -> dict[str, tuple[Any, Any]]:
    """The type and the default of each field; a default that is missing is None."""
    found = {}
    for one in classes:
        hints = typing.get_type_hints(one)
        for field in dataclasses.fields(one):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            found[field.name] = (hints[field.name], None if default is dataclasses.MISSING else default)
    return found


def type_names(hint: Any) -> set[str]:
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    if typing.get_origin(hint) is typing.Union:
        (hint,) = choices
    if typing.get_origin(hint) is list:
        return {"list"}
    return {"dict"} if dataclasses.is_dataclass(hint) else TYPE_NAMES[hint]


def all_fields() -> dict[str, tuple[Any, Any]]:
    """Where the types of jobs differ in a default, there is none to tell."""
    found: dict[str, tuple[Any, Any]] = {}
    for options in [*(registry.job_type(kind)[1] for kind in TYPES), Settings, Policy, Routine]:
        for name, (hint, default) in fields_of(options).items():
            same = name not in found or found[name][1] == default
            found[name] = hint, default if same else None
    return found


def compare(told: dict[str, Any], fields: dict[str, tuple[Any, Any]]) -> None:
    assert told.keys() == fields.keys()
    for name, (hint, default) in fields.items():
        assert told[name]["type"] in type_names(hint), name
        if not dataclasses.is_dataclass(default):
            assert told[name].get("default") == default, name
        assert any(line.startswith("Example C(") for line in told[name]["description"]), name


def test_jobs() -> None:
    assert JOB["name"]["required"]
    compare({name: told for name, told in JOB.items() if name != "state"}, all_fields())
    compare(JOB["restore"]["options"], fields_of(Application))
    compare(JOB["unit"]["options"], fields_of(Unit))
    assert JOB["type"]["choices"] == sorted(TYPES)


def test_variables_of_the_role() -> None:
    told = SPECS["main"]["options"]
    assert {name: entry["default"] for name, entry in told.items() if "default" in entry} == DEFAULTS
    for name, entry in told.items():
        assert any("Example C(" in line for line in entry["description"]), name


@pytest.mark.parametrize("kind", TYPES)
def test_a_source_tells_what_its_service_needs(kind: str) -> None:
    """Where it makes files, or that it does so elsewhere."""
    source = parse({"name": "kg", "type": kind, **EXAMPLES.get(kind, {"path": "/srv/kg"})}).source
    assert source.places or source.container or source.uses_network


EXAMPLES: dict[str, dict[str, Any]] = {"nrepl": {"port": 7888, "function": "my.app/export!"}}
