# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of exports: Clojure code, what a server may tell, how records are counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import (
    CorruptError,
    SourceError,
    UsageError,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.deadline import Deadline
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.processes import Report
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.manifest import Origin, Position
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources import edn
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.base import Tools
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl import quoting, told
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.forms import fill
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.options import NreplOptions
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.pull import pull
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.source import (
    NreplSource,
    runtime_of,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.value import take_value

SHA256 = "ab" * 32
JVM = {"clojure": "1.11.1", "java": "17", "nrepl": "1.0.0"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("plain", '"plain"'),
        ('a "quote" and \\', '"a \\"quote\\" and \\\\"'),
        ("lines\nand\r\ttabs", '"lines\\nand\\r\\ttabs"'),
        ("\0\x1b\x7f\u2028", '"\\u0000\\u001b\\u007f\\u2028"'),
        ("ü😀", '"ü😀"'),
        ("\U000e0001", '"\\udb40\\udc01"'),
    ],
)
def test_text_as_code(text: str, code: str) -> None:
    assert quoting.string(text) == code


@pytest.mark.parametrize("name", ["my.app/export!", "a/b", "hive-mcp.kg/export-to-file!", "x/*conn*", "user/a'"])
def test_qualified_names(name: str) -> None:
    assert quoting.is_qualified(name)


@pytest.mark.parametrize(
    "name",
    [
        "export",
        "a/b\n",
        "\na/b",
        "a/b/c",
        "/b",
        "a/",
        "a b/c",
        "a/b)",
        "a/(b",
        "ä/b",
        "a/b;",
        "1/2",
        "-1/2",
        "a/1",
        "#a/b",
        "",
    ],
)
def test_what_is_no_qualified_name(name: str) -> None:
    assert not quoting.is_qualified(name)


def test_what_is_put_into_code_is_not_looked_into() -> None:
    assert fill("(<one> <two>)", one="<two>", two="x") == "(<two> x)"


def test_what_a_server_tells() -> None:
    assert told.parse(f"{SHA256} ") == told.Told(SHA256)
    position = Position("basis", 7, 8, "1795253692282.599--564930519")
    assert told.parse(f"{SHA256} 12 7 8 {position.fingerprint}") == told.Told(SHA256, 12, position)
    assert told.parse_inspected("") is None
    assert told.parse_inspected("7 1-2") == Position("basis", 7, 7, "1-2")
    assert told.unquoted('"abc"') == "abc"


@pytest.mark.parametrize(
    "text", ["", " ", SHA256, f"{SHA256} 1", f"{SHA256} 1 2 3 x", f"{SHA256}  ", "x" * 5000, "nil"]
)
def test_what_makes_no_sense(text: str) -> None:
    with pytest.raises(SourceError, match="nothing that it was asked for") as caught:
        told.parse(text)
    assert len(str(caught.value)) < 200
    with pytest.raises(SourceError):
        told.parse_inspected(text or " ")


@pytest.mark.parametrize("value", ["", '"', "nil", '"a\\n"', '"a"b"', "[1]"])
def test_a_value_that_is_no_plain_text(value: str) -> None:
    with pytest.raises(SourceError):
        told.unquoted(value)


class Answering:
    """Stands in for a client whose server is hostile: it answers whatever it is asked with the next of these."""

    def __init__(self, *values: str) -> None:
        self.values = list(values)

    def evaluate(self, _code: str) -> Any:
        value = self.values.pop(0) if self.values else '""'
        return SimpleNamespace(only_value=lambda: value)


@pytest.mark.parametrize(
    "values",
    [
        ['""', '"AAAA"'],
        ['""', '"eJxLTAQAAkoBKA=="', f'"x {SHA256}"'],
        ['""', f'"{SHA256} "'],
        ['""', "nil"],
        ['""', '"A"'],
        ['""', '"eJxLTA=="', f'"{SHA256} "'],
    ],
)
def test_a_pull_from_a_hostile_server(values: list[str]) -> None:
    client: Any = Answering(*values)
    with pytest.raises(SourceError):
        pull(client, Deadline(3), "nil", len)


@pytest.mark.parametrize("value", ['"x"', f'"{SHA256}  A"', f'"{SHA256}  ä"', "nil"])
def test_a_value_of_a_hostile_server(value: str) -> None:
    client: Any = Answering(value)
    with pytest.raises(SourceError):
        take_value(client, "nil", len)


def test_kinds_of_servers() -> None:
    options = NreplOptions(port=1, expression="1")
    assert (runtime_of(options, JVM).name, runtime_of(options, JVM).way) == ("jvm", "pull")
    assert runtime_of(options, {"nbb-nrepl": "TODO", "node": "v20"}).way == "value"
    assert runtime_of(NreplOptions(port=1, function="a/b"), {"basilisp": "0.5.1"}).way == "file"
    with pytest.raises(SourceError, match="babashka"):
        runtime_of(options, {"babashka": "1.3"})
    with pytest.raises(UsageError, match="JVM"):
        _unused = runtime_of(NreplOptions(port=1, expression="1", way="pull"), {"basilisp": "0.5.1"}).way


def test_the_place_names_what_stays() -> None:
    assert NreplOptions(port=7888, function="a/b").place == "nrepl://127.0.0.1:7888/a/b"
    assert NreplOptions(port_file="/srv/.nrepl-port", function="a/b").place == "nrepl:///srv/.nrepl-port/a/b"
    place = NreplOptions(socket="/run/x", expression="a secret").place
    assert place.startswith("nrepl:///run/x/expression-")
    assert "secret" not in place


@pytest.fixture
def scan(tmp_path: Path) -> Callable[[str], edn.Counted]:
    """Count what is in a text."""

    def counted(text: str) -> edn.Counted:
        path = tmp_path / "text.edn"
        path.write_text(text)
        with open(os.devnull, "wb") as nowhere:
            return edn.scan(Report(nowhere.fileno(), nowhere.fileno()), path)

    return counted


@pytest.mark.parametrize(
    ("text", "records", "listed"),
    [
        ("[]", 1, 0),
        ("{:a 1}", 1, 0),
        ("[{:a 1} {:b 2} {:c 3}]", 3, 0),
        ("[1] [2] [3] [4]", 4, 0),
        ("{:schema {:a {} :b {} :c {}}, :datoms [[1] [2]], :count 2}", 3, 2),
        ("{:schema {:a {}}, :datoms [], :count 0}", 2, 0),
        ('[{:a [[1] [2] [3] [4] [5]] :b "[[[["} {:a \\[}]', 2, 0),
        ("[[[1] [2]] [[3] [4] [5]]]", 3, 3),
        ("#my/tag [[[1] [2] [3]]] ; [[[[", 3, 3),
    ],
)
def test_records_are_counted(scan: Callable[[str], edn.Counted], text: str, records: int, listed: int) -> None:
    assert scan(text) == (records, listed)


def details(**changed: Any) -> dict[str, Any]:
    return {"way": "pull", "content": "snapshot", "versions": {}, "min_records": 1, **changed}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"records": 2}, "3 records, and there should be 2"),
        ({"min_records": 4}, "3 records, fewer than min_records, 4"),
        ({"database": "datascript"}, "0 records, fewer"),
        ({"records": "3"}, "records"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_check_compares_with_the_manifest(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    path = tmp_path / "export.edn"
    path.write_text("[{:a 1} {:b 2} {:c 3}]")
    path.chmod(0o600)
    files = {"export.edn": path}
    completed = NreplSource.check(files, Origin("nrepl://x", 1, details=details()), Tools(timeout=30))
    assert completed.details["records"] == 3
    assert NreplSource.check(files, completed, Tools(timeout=30)) == completed
    with pytest.raises(CorruptError, match=words):
        NreplSource.check(files, Origin("nrepl://x", 1, details=details(**changed)), Tools(timeout=30))
    with pytest.raises(CorruptError, match="files"):
        NreplSource.check({"../x": path}, completed, Tools(timeout=30))
