# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON from outside becomes typed data classes, or one sentence that names the place of the fault."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from typing import Any, Dict, List, NamedTuple, Tuple, Type, TypeVar, Union

T = TypeVar("T")

_JSON_NAMES = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    float: "a number",
    dict: "an object",
    list: "a list",
}


class DecodingError(ValueError):
    """The JSON value does not have the wanted form."""


def decode(wanted: Type[T], value: Any, place: str = "") -> T:
    """Turn parsed JSON into an instance of the data class, checking every type on the way.

    Unknown keys are faults. place is the path of the value for messages, as files[2].size.
    Raises DecodingError.
    """
    if not isinstance(value, dict):
        raise DecodingError(_fault(place, f"must be an object, is {_json_name(value)}"))
    fields = _fields(typing.cast(Any, wanted))
    for key in value:
        if key not in fields:
            raise DecodingError(_fault(_join(place, str(key)), f"is not known{did_you_mean(str(key), list(fields))}"))
    arguments = {}
    for name, field in fields.items():
        if name in value:
            entry = value[name]
            is_plain = entry.__class__ in field.plain
            arguments[name] = entry if is_plain else _decode_value(field.wanted, entry, _join(place, name))
        elif field.is_required:
            raise DecodingError(_fault(_join(place, name), "is missing"))
    return wanted(**arguments)


class _Field(NamedTuple):
    """What a field may hold. A value that is exactly of one of the plain types needs no closer look."""

    wanted: Any
    plain: Tuple[Any, ...]
    is_required: bool


@functools.lru_cache(maxsize=None)
def _fields(wanted: Any) -> Dict[str, _Field]:
    """Finding them out takes longer than all the rest, and is the same for each of thousands of values."""
    hints = typing.get_type_hints(wanted)
    fields = {}
    for field in dataclasses.fields(wanted):
        hint = hints[field.name]
        choices = typing.get_args(hint) if typing.get_origin(hint) is Union else (hint,)
        plain = tuple(choice for choice in choices if choice in (str, int, bool, float, type(None)))
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        fields[field.name] = _Field(hint, plain, is_required)
    return fields


def encode(value: Any) -> Any:
    """The JSON form of a data class, the reverse of decode. Like dataclasses.asdict, but copies no single values."""
    if dataclasses.is_dataclass(value):
        return {name: encode(getattr(value, name)) for name in _fields(typing.cast(Any, type(value)))}
    if isinstance(value, dict):
        return {key: encode(entry) for key, entry in value.items()}
    return [encode(entry) for entry in value] if isinstance(value, list) else value


def did_you_mean(word: str, known: List[str]) -> str:
    """A hint to append to a message about an unknown word; empty when nothing is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _decode_value(wanted: Any, value: Any, place: str) -> Any:
    if wanted is Any or value.__class__ is wanted:
        return value
    origin = typing.get_origin(wanted)
    if origin is Union:
        return _decode_union(wanted, value, place)
    if origin is list:
        _require(list, value, place)
        item = typing.get_args(wanted)[0]
        return [_decode_value(item, entry, f"{place}[{index}]") for index, entry in enumerate(value)]
    if origin is dict:
        _require(dict, value, place)
        return _decode_mapping(typing.get_args(wanted)[1], value, place)
    if dataclasses.is_dataclass(wanted):
        return decode(typing.cast(Type[Any], wanted), value, place)
    _require(wanted, value, place)
    return value


def _decode_union(wanted: Any, value: Any, place: str) -> Any:
    choices = [choice for choice in typing.get_args(wanted) if choice is not type(None)]
    if value is None and len(choices) < len(typing.get_args(wanted)):
        return None
    for choice in choices[:-1]:
        if isinstance(choice, type) and isinstance(value, choice):
            return _decode_value(choice, value, place)
    return _decode_value(choices[-1], value, place)


def _decode_mapping(item: Any, value: Dict[Any, Any], place: str) -> Dict[str, Any]:
    return {key: _decode_value(item, entry, _join(place, key)) for key, entry in value.items()}


def _require(wanted: type, value: Any, place: str) -> None:
    accepted = (int, float) if wanted is float else wanted
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise DecodingError(_fault(place, f"must be {_JSON_NAMES[wanted]}, is {_json_name(value)}"))


def _json_name(value: Any) -> str:
    return "null" if value is None else _JSON_NAMES.get(type(value), type(value).__name__)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _fault(place: str, problem: str) -> str:
    return f"{place}: {problem}" if place else problem
