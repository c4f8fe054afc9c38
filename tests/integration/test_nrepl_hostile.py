# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that lie, drip, flood or fall silent: one sentence by the deadline, and little memory."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import Interrupted, NoConnectionError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.interrupts import end_work_on_signals
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.address import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.bencode import encode
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.client import Client
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.connection import Connection
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.deadline import Deadline
from ansible_collections.embedded.db_backup.tests.nrepl_fakes import SESSION, Conversation, Play, fake_server
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT, eventually

MEBIBYTE = 1 << 20
MOST_MEMORY = 64 * MEBIBYTE
# What leaving may take beyond the deadline.
FAREWELL = 2
# For those whose fault is seen at once; a busy machine is no fault.
PATIENCE = 60
CODE = "(my.app/secret-of-the-code)"
# Evaluates and tells how that went, how long it took, and by how much its memory grew.
CLIENT = """
import json, sys, time
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.address import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.client import Client
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.deadline import Deadline
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
port, seconds, code = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
before, begin, told = peak(), time.monotonic(), {}
try:
    with Client(Address(port=port), Deadline(seconds)) as client:
        if code == "describe":
            told["value"] = sorted(client.describe().operations)
        told["value"] = client.evaluate(code * int(sys.argv[4])).only_value()
except BackupError as error:
    told["error"], told["kind"] = str(error), type(error).__name__
print(json.dumps({**told, "seconds": time.monotonic() - begin, "memory": peak() - before}))
"""


def outcome(play: Play, seconds: float, code: str = CODE, repeat: int = 1) -> tuple[dict[str, Any], list[Conversation]]:
    """How a client of its own process fares with this server."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / ".ansible/collections")}
    with fake_server(play) as (port, conversations):
        command = [sys.executable, "-c", CLIENT, str(port), str(seconds), code, str(repeat)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run
    told: dict[str, Any] = json.loads(run.stdout)
    assert told["memory"] < MOST_MEMORY, told
    assert told["seconds"] < seconds + FAREWELL + 5, told
    return told, conversations


def evaluate_at(port: int) -> None:
    """The same in this process, for half a second."""
    with Client(Address(port=port), Deadline(0.5)) as client:
        client.evaluate(CODE)


def says(data: bytes, after: Play | None = None) -> Play:
    """Answers to the first request with these bytes, then closes or does something else."""

    def play(conversation: Conversation) -> None:
        conversation.hear()
        conversation.send(data)
        if after:
            after(conversation)

    return play


def answers(*messages: dict[str, Any], after: Play | None = Conversation.hang) -> Play:
    """Gives a session, answers to the code with these messages, then hangs, closes, or does something else."""

    def play(conversation: Conversation) -> None:
        conversation.give_session()
        for message in messages:
            conversation.tell(**message)
        if after:
            after(conversation)

    return play


def floods(**fields: Any) -> Play:
    """Gives a session and answers to the code with the same message for ever."""

    def play(conversation: Conversation) -> None:
        conversation.give_session()
        conversation.flood(encode({"id": conversation.heard[-1]["id"], **fields}))

    return play


def resets(conversation: Conversation) -> None:
    conversation.hear()
    conversation.reset()


def greets(data: bytes, after: Play | None = Conversation.hang) -> Play:
    """Speaks first."""

    def play(conversation: Conversation) -> None:
        conversation.send(data)
        if after:
            after(conversation)

    return play


def numbered(template: bytes, count: int) -> bytes:
    return b"".join(template % number for number in range(count))


def long_field(name: str) -> bytes:
    return encode({"id": "2", name: "\U0001f600" + "x" * 4_000_000})


FIELDS = ("value", "out", "err", "ex", "root-ex")
VALUE, DONE = {"value": "42"}, {"status": ["done"]}
SESSION_GIVEN = encode({"id": "1", "new-session": SESSION, "status": ["done"]})
NOT_NREPL = "what the server sends is not nREPL: "
OVER = "the 1 seconds for it are over"

NO_SESSION = {
    "HTTP": (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), NOT_NREPL + "a value begins with 'HTTP/1.1 400 Bad Request"),
    "HTTP that stays": (says(b"HTTP/1.1 408\r\n", Conversation.hang), "begins with 'HTTP/1.1 408"),
    "SSH banner": (greets(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "begins with 'SSH-2.0-OpenSSH_9.2p1"),
    "SMTP greeting": (greets(b"220 example.com ESMTP\r\n"), "in a number there is ' example.com ESMTP"),
    "closes at once": (greets(b"", after=None), ("the server closed the connection", "reset by peer")),
    "closes on clone": (says(b""), "the server closed the connection"),
    "RST on clone": (resets, ("Connection reset by peer", "the server closed the connection")),
    "half a message, then closes": (says(SESSION_GIVEN[:-9]), "the server closed the connection"),
    "half a number, then closes": (says(b"d12"), "the server closed the connection"),
    "length 99999999999": (says(b"99999999999:", Conversation.hang), "a message of 99,999,999,999 bytes"),
    "that length and a flood": (
        says(b"d2:id99999999999:", lambda conversation: conversation.flood(b"x")),
        "a message of 100,000,000,001 bytes",
    ),
    "a session of 5 MB": (
        says(b"d11:new-session5000000:", lambda conversation: conversation.flood(b"x")),
        "a message of 5,000,011 bytes, where at most 4,194,304 are taken",
    ),
    "negative length": (says(b"-5:abcde", Conversation.hang), "a value begins with '-5:abcde'"),
    "leading zero": (says(b"d02:id1:1e", Conversation.hang), "'02' is no number"),
    "i-0e": (says(b"i-0e", Conversation.hang), "'-0' is no number"),
    "a million digits": (says(b"i" + b"7" * 1_000_000 + b"e", Conversation.hang), "more than 24 digits"),
    "digits for ever": (says(b"", lambda conversation: conversation.flood(b"7")), "more than 24 digits"),
    "a list": (says(b"l4:donee", Conversation.hang), NOT_NREPL + "a message is not a dictionary"),
    "a number": (says(b"i7e", Conversation.hang), "a message is not a dictionary"),
    "a text": (says(b"4:done", Conversation.hang), "a message is not a dictionary"),
    "100,000 lists": (says(b"l" * 100_000, Conversation.hang), "nested more than 32 deep"),
    "100,000 dictionaries": (says(b"d1:a" * 100_000, Conversation.hang), "nested more than 32 deep"),
    "a list without end": (
        says(b"l", lambda conversation: conversation.flood(b"le")),
        "a message has more than 20,000 parts",
    ),
    "a dictionary without end": (
        says(b"d" + numbered(b"8:%08di1e", 100_000), Conversation.hang),
        "a message has more than 20,000 parts",
    ),
    "keys that are no texts": (says(b"di1e1:ae", Conversation.hang), "the key of a dictionary is not a text"),
    "a key twice": (says(b"d2:id1:12:id1:1e", Conversation.hang), "a dictionary has a key twice"),
    "a key without value": (says(b"d2:ide", Conversation.hang), "a dictionary has a key without a value"),
    "TLS alert": (says(b"\x15\x03\x03\x00\x02\x02\x46", Conversation.hang), "it wants TLS, for which tls_keys"),
    "TLS garbage": (says(b"\x16\x03\x03\x00\x7a\x02\x00", Conversation.hang), r"begins with '\x16\x03\x03\x00z"),
    "no session": (says(encode({"id": "1", "status": ["done"]}), Conversation.hang), "it gives no session"),
    "empty session": (
        says(encode({"id": "1", "new-session": "", "status": ["done"]}), Conversation.hang),
        "it gives no session",
    ),
    "session of another type": (
        says(encode({"id": "1", "new-session": 7, "status": ["done"]}), Conversation.hang),
        "the field new-session is not a text",
    ),
    "session that is not UTF-8": (
        says(encode({"id": "1", "new-session": b"\xff", "status": ["done"]}), Conversation.hang),
        "the field new-session is not UTF-8",
    ),
    "clone is unknown": (
        says(encode({"id": "1", "status": ["error", "unknown-op", "done"]}), Conversation.hang),
        "it gives no session",
    ),
    "id of another type": (says(encode({"id": 1, **DONE}), Conversation.hang), "the field id is not a text"),
    "empty dictionaries for ever": (says(b"", lambda conversation: conversation.flood(b"de")), OVER),
    "silence": (Conversation.hang, OVER),
    "half a message, then silence": (says(SESSION_GIVEN[:-9], Conversation.hang), OVER),
    "a byte each 0.2 s": (lambda conversation: conversation.drip(SESSION_GIVEN), OVER),
    "answers to others for ever": (
        says(b"", lambda conversation: conversation.flood(encode({"id": "other", "status": ["done"]}))),
        OVER,
    ),
}


@pytest.mark.parametrize("name", NO_SESSION)
def test_without_a_session_nothing_was_evaluated(name: str) -> None:
    play, words = NO_SESSION[name]
    told, conversations = outcome(play, 1 if words == OVER else PATIENCE)
    assert told.get("kind") == "NoConnectionError", told
    assert told["error"].startswith("no nREPL server answers at 127.0.0.1:"), told
    assert any(word in told["error"] for word in ([words] if isinstance(words, str) else words)), told
    assert_one_sentence(told["error"])
    assert all(request["op"] != "eval" for conversation in conversations for request in conversation.heard)


FAILED = {
    "value, then closes": (answers(VALUE, after=None), "the server closed the connection"),
    "value, then RST": (answers(VALUE, after=Conversation.reset), ("reset by peer", "closed the connection")),
    "half a value, then closes": (
        answers(after=lambda conversation: conversation.send(b"d2:id1:25:value9:(+ ")),
        "the server closed the connection",
    ),
    "value, then silence": (answers(VALUE), OVER),
    "value of another request": (answers({**VALUE, "id": "other"}, DONE), "the code gave no value"),
    "done of another request": (answers(VALUE, {**DONE, "id": "other"}), OVER),
    "done without an id": (answers(VALUE, {**DONE, "id": None}), OVER),
    "value after done": (answers(DONE, VALUE), "the code gave no value"),
    "two values": (answers(VALUE, VALUE, DONE), "the code gave 2 values"),
    "value and eval-error": (answers(VALUE, {"status": ["eval-error"]}, DONE), "the evaluation failed (eval-error)"),
    "value and exception": (answers(VALUE, {"ex": "class Boom"}, DONE), "the evaluation failed: class Boom"),
    "value that was cut off": (
        answers({**VALUE, "status": ["nrepl.middleware.print/truncated"]}, DONE),
        "the evaluation failed (nrepl.middleware.print/truncated)",
    ),
    "needs input": (answers({"status": ["need-input"]}), "waits for input, and there is none"),
    "bare text as status": (answers(VALUE, {"status": "done"}), "the field status is not a list of texts"),
    "numbers as status": (answers(VALUE, {"status": [1, 2]}), "the field status is not a list of texts"),
    "dictionary as status": (answers({"status": {"done": 1}}), "the field status is not a list of texts"),
    **{
        f"{field} of another type": (
            answers({field: {"a": ["b"]}}, DONE),
            f"the field {field} is not a text",
        )
        for field in (*FIELDS, "id")
    },
    "value that is not UTF-8": (answers({"value": b"caf\xe9"}, DONE), "the field value is not UTF-8"),
    "value of 5 MB": (
        answers(after=lambda conversation: conversation.send(encode({"id": "2", "value": "x" * 5_000_000}))),
        "where at most 4,194,304 are taken",
    ),
    "garbage after the value": (
        answers(VALUE, after=lambda conversation: conversation.send(b"\r\nbye")),
        r"a value begins with '\r\nbye'",
    ),
    "words that a terminal obeys": (
        answers({"err": "\x1b]0;x\x07\nfailed\u202e", "status": ["eval-error", "a\x1b[2J"]}, DONE),
        "the evaluation failed (eval-error): ?]0;x? failed?",
    ),
    "out for ever": (floods(out="out of the server\n"), OVER),
    "err for ever": (floods(err="\U0001f600"), OVER),
    "values for ever": (floods(value="v" * 1000), OVER),
    "long values for ever": (floods(value="\U0001f600" + "v" * 4_000_000), OVER),
    "statuses for ever": (floods(status=[f"unknown-{number:05}" for number in range(9999)]), OVER),
    "exceptions for ever": (floods(ex="x" * 4_000_000), OVER),
    "all of it at once for ever": (floods(**dict.fromkeys(FIELDS, "\U0001f600" + "x" * 800_000)), OVER),
    "one after the other for ever": (
        answers(after=lambda conversation: conversation.flood(*map(long_field, FIELDS))),
        OVER,
    ),
    "a byte each 0.2 s": (answers(after=lambda conversation: conversation.drip(encode({"id": "2", **VALUE}))), OVER),
}


@pytest.mark.parametrize("name", FAILED)
def test_an_answer_that_does_not_count(name: str) -> None:
    play, words = FAILED[name]
    told, conversations = outcome(play, 1 if words == OVER else PATIENCE)
    assert told.get("kind") == "EvaluationError", told
    assert any(word in told["error"] for word in ([words] if isinstance(words, str) else words)), told
    assert_one_sentence(told["error"])
    if words == OVER:
        assert "the server may still be working on it" in told["error"]
    assert conversations[0].heard[1] == {"op": "eval", "code": CODE, "id": "2", "session": SESSION}


def test_done_twice_is_done() -> None:
    told, _conversations = outcome(answers(VALUE, DONE, DONE, DONE), PATIENCE)
    assert told["value"] == "42"


def test_a_piece_of_a_value_that_looks_like_tls() -> None:
    def play(conversation: Conversation) -> None:
        conversation.give_session()
        data = encode({"id": "2", "value": "a\x15\x03b", **DONE})
        cut = data.index(b"\x15")
        conversation.send(data[:cut])
        time.sleep(0.3)
        conversation.send(data[cut:])
        conversation.hang()

    assert outcome(play, PATIENCE)[0]["value"] == "a\x15\x03b"


@pytest.mark.parametrize("field", ["ops", "versions"])
def test_descriptions_for_ever(field: str) -> None:
    def play(conversation: Conversation) -> None:
        conversation.give_session()
        for number in itertools.count():
            names = (f"{number}-{at}" for at in range(4000))
            entries = {name: {"version-string": "1" * 100} if field == "versions" else {} for name in names}
            conversation.tell(**{field: entries})

    told, _conversations = outcome(play, 5, code="describe")
    assert told["error"].startswith("the description at 127.0.0.1:")
    assert "the 5 seconds for it are over" in told["error"]


def test_output_without_an_end_does_not_hide_a_value() -> None:
    def play(conversation: Conversation) -> None:
        conversation.give_session()
        for _number in range(100):
            conversation.tell(out="\U0001f600" * 100_000)
        conversation.tell(**VALUE, **DONE)
        conversation.hang()

    assert outcome(play, PATIENCE)[0]["value"] == "42"


@pytest.mark.parametrize(
    "after",
    [Conversation.hang, lambda conversation: conversation.flood(b"d3:out3:abce"), None],
    ids=["silence", "flood", "close"],
)
def test_a_server_that_does_not_close_the_session_is_left(after: Play | None) -> None:
    told, (conversation,) = outcome(answers(VALUE, DONE, after=after), PATIENCE)
    assert told["value"] == "42"
    assert told["seconds"] < FAREWELL + 5
    if after is Conversation.hang:
        assert [request["op"] for request in conversation.heard] == ["clone", "eval", "close"]
        assert conversation.heard[2]["session"] == SESSION


def test_what_runs_is_interrupted_and_the_session_closed() -> None:
    _told, (conversation,) = outcome(answers(), 1)
    _clone, _evaluation, interrupt, close = conversation.heard
    assert interrupt == {"op": "interrupt", "interrupt-id": "2", "id": "3", "session": SESSION}
    assert close == {"op": "close", "id": "4", "session": SESSION}


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of signals are as before afterwards."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    end_work_on_signals()
    yield
    for number in numbers:
        signal.signal(number, before[number])


@pytest.mark.usefixtures("handlers")
def test_a_signal_does_not_keep_the_session_open(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Connection.send

    def interrupted_send(connection: Connection, data: bytes, deadline: Deadline) -> None:
        if b"interrupt" in data:
            os.kill(os.getpid(), signal.SIGTERM)
        send(connection, data, deadline)

    monkeypatch.setattr(Connection, "send", interrupted_send)
    with fake_server(answers()) as (port, conversations), pytest.raises(Interrupted):
        evaluate_at(port)
    assert [request["op"] for request in conversations[0].heard] == ["clone", "eval", "interrupt", "close"]


def test_a_session_that_comes_too_late_is_closed() -> None:
    def play(conversation: Conversation) -> None:
        conversation.hear()
        time.sleep(1.2)
        conversation.tell(new_session=SESSION, status=["done"])
        conversation.hang()

    told, (conversation,) = outcome(play, 1)
    assert told["kind"] == "NoConnectionError"
    assert [request["op"] for request in conversation.heard] == ["clone", "close"]


@pytest.mark.parametrize("breaks", ["garbage", "end", "reset"])
def test_a_session_is_closed_over_another_connection_when_this_one_is_broken(breaks: str) -> None:
    def play(conversation: Conversation) -> None:
        if conversation.hear()["op"] == "clone":
            conversation.tell(new_session=SESSION, status=["done"])
            conversation.hear()
            # More than the buffers of both sides take, so that it is in the way of what the client says.
            conversation.send(b"x" * 20_000_000 if breaks == "garbage" else b"")
            if breaks == "reset":
                conversation.reset()
            return
        conversation.tell(status=["done"])
        conversation.hear()
        conversation.tell(status=["done", "session-closed"])

    _told, conversations = outcome(play, PATIENCE)
    first, second = ([request["op"] for request in conversation.heard] for conversation in conversations)
    assert (first, second) == (["clone", "eval"], ["interrupt", "close"])
    assert {request["session"] for request in conversations[1].heard} == {SESSION}


def test_half_of_the_code_is_never_made_whole_by_other_words() -> None:
    rest = []

    def play(conversation: Conversation) -> None:
        if conversation.hear()["op"] == "clone":
            conversation.tell(new_session=SESSION, status=["done"])
            # Only what the buffers take is sent now.
            time.sleep(1.5)
            rest.append(conversation.all_bytes())
        else:
            conversation.hang()

    told, conversations = outcome(play, 1, repeat=300_000)
    assert OVER in told["error"]
    eventually(lambda: rest, "the end of the first connection")
    assert rest[0].startswith(b"d4:code8100000:(my.app")
    assert len(rest[0]) < 8_000_000
    assert b"close" not in rest[0]
    assert [request["op"] for request in conversations[1].heard] == ["interrupt", "close"]


def test_names_that_are_looked_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def look_up(*_arguments: Any, **_options: Any) -> None:
        is_over.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    begin = time.monotonic()
    with pytest.raises(NoConnectionError, match=r"the 0\.5 seconds for it are over"):
        Client(Address(host="slow.example.com", port=1), Deadline(0.5)).__enter__()
    assert time.monotonic() - begin < 30
    is_over.set()


def test_every_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(_host: str, port: int, **_options: Any) -> list[tuple[Any, ...]]:
        # Nobody listens at the first, and at the second nobody can.
        return [(socket.AF_INET, 0, 0, "", (host, port)) for host in ("127.0.0.2", "255.255.255.255", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with fake_server(answers(VALUE, DONE)) as (port, _conversations):
        with Client(Address(host="app.example.com", port=port), Deadline(PATIENCE)) as client:
            assert client.evaluate(CODE).only_value() == "42"
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: [])
        with pytest.raises(NoConnectionError, match=r"the host app\.example\.com has no address"):
            Client(Address(host="app.example.com", port=port), Deadline(PATIENCE)).__enter__()


def test_a_port_that_nobody_answers_on() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        # The kernel takes one connection; it does not answer to the next ones.
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _number in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / ".ansible/collections")}
        command = [sys.executable, "-c", CLIENT, str(port), "1", CODE, "1"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        told = json.loads(run.stdout)
        for one in waiting:
            one.close()
    assert told["kind"] == "NoConnectionError"
    assert OVER in told["error"]
    assert told["seconds"] < 1 + FAREWELL + 5


def assert_one_sentence(message: str) -> None:
    assert message.isprintable()
    assert len(message) < 900
    assert "secret-of-the-code" not in message
