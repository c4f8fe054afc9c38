# SPDX-License-Identifier: GPL-3.0-or-later
"""When the answers of a server are a success."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import EvaluationError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.answer import Answer, Gathering
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.bencode import (
    Decoder,
    ProtocolError,
    encode,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.message import Message

VALUE, DONE = {"value": "42"}, {"status": ["done"]}


def answer_of(*messages: dict[str, Any]) -> Answer:
    gathering = Gathering()
    for message in messages:
        (received,) = Decoder().feed(encode(message))
        gathering.add(Message(received))
    return gathering.answer()


@pytest.mark.parametrize(
    "messages",
    [
        [VALUE, DONE],
        [{"out": "log"}, VALUE, {"out": "more"}, DONE],
        [{"value": "42", "status": ["done"]}],
        [{"err": "WARNING: update already refers to ..."}, VALUE, DONE],
        [VALUE, {"status": ["done", "session-idle", "state"]}, {"changed-namespaces": {}}],
    ],
)
def test_a_success(messages: list[dict[str, Any]]) -> None:
    answer = answer_of(*messages)
    assert answer.problem() is None
    assert answer.only_value() == "42"


@pytest.mark.parametrize(
    "status",
    [
        "eval-error",
        "error",
        "interrupted",
        "need-input",
        "unknown-op",
        "unknown-session",
        "namespace-not-found",
        "nrepl.middleware.print/truncated",
        "nrepl.middleware.print/error",
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_status_that_speaks_against_it(status: str, is_first: bool) -> None:
    messages = [{"status": [status]}, VALUE, DONE]
    answer = answer_of(*messages if is_first else reversed(messages))
    with pytest.raises(EvaluationError, match=f"the evaluation failed .{status}.: the server does not say why"):
        answer.only_value()


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([DONE], "the code gave no value; it may be a comment, or was stopped"),
        ([VALUE, VALUE, DONE], "the code gave 2 values; send one form"),
        ([VALUE, {"ex": "class X"}, DONE], "the evaluation failed: class X"),
        ([VALUE, {"root-ex": "class X"}, DONE], "the evaluation failed: class X"),
        ([VALUE, {"ex": ""}, DONE], "the evaluation failed: the server does not say why"),
        ([{"err": "Divide\n by\tzero"}, {"ex": "class X"}, DONE], "the evaluation failed: Divide by zero"),
        ([{"err": "a\x1b[31mb\u202ec", "status": ["error"]}], "the evaluation failed (error): a?[31mb?c"),
        ([{"status": ["unknown-\x1b\n" + "x" * 500]}], "(unknown-? " + "x" * 50 + ")"),
    ],
)
def test_a_failure_in_the_words_of_the_server(messages: list[dict[str, Any]], words: str) -> None:
    problem = answer_of(*messages).problem()
    assert problem is not None
    assert words in problem
    assert problem.isprintable()


def test_the_end_of_a_long_message_is_told() -> None:
    problem = answer_of({"err": "logged " * 10_000}, {"err": "what went wrong"}, {"status": ["eval-error"]}).problem()
    assert problem is not None
    assert problem.startswith("the evaluation failed (eval-error): ...")
    assert problem.endswith("logged what went wrong")
    assert len(problem) < 600


def test_output_is_kept_up_to_a_bound() -> None:
    answer = answer_of(*[{"out": "o" * 300_000, "err": "e"}] * 5, VALUE, DONE)
    assert (answer.out, answer.err) == ("o" * (1 << 20), "eeeee")
    assert answer.dropped == 1_500_000 - (1 << 20)
    assert answer.only_value() == "42"


def test_statuses_without_end_are_not_all_kept() -> None:
    answer = answer_of(*({"status": [f"unknown-{number}"]} for number in range(1000)))
    assert len(answer.faults) == 5


@pytest.mark.parametrize("field", ["value", "out", "err", "ex", "root-ex", "status"])
@pytest.mark.parametrize("content", [7, ["a", 7], {"a": "b"}], ids=str)
def test_fields_of_another_type(field: str, content: Any) -> None:
    with pytest.raises(ProtocolError, match=f"the field {field} is not "):
        answer_of({field: content})
    with pytest.raises(ProtocolError, match="the field status is not a list of texts"):
        answer_of({"status": "done"})


def test_text_that_is_not_utf_8() -> None:
    with pytest.raises(ProtocolError, match="the field value is not UTF-8"):
        answer_of({"value": b"\xff"})
    with pytest.raises(ProtocolError, match="the field value is not UTF-8"):
        answer_of({"value": b"\xed\xa0\x80"})
    answer = answer_of({"out": b"a\xffb", "err": b"\xe2\x82"}, VALUE, DONE)
    assert (answer.out, answer.err, answer.only_value()) == ("a\ufffdb", "\ufffd", "42")


def test_a_character_that_is_cut_in_two() -> None:
    answer = answer_of({"out": b"\xf0\x9f"}, VALUE, {"out": b"\x98\x80"}, DONE)
    assert answer.out == "\U0001f600"


@pytest.mark.parametrize("received", [7, b"text", [], [b"a"]], ids=str)
def test_what_is_no_message(received: Any) -> None:
    with pytest.raises(ProtocolError, match="not a dictionary"):
        Message(received)
